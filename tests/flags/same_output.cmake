# SPDX-License-Identifier: MIT
# Compiles SOURCE with COMPILER and BASE_FLAGS once, and once more with each set of flags in VARIANTS
# (separated by |). All programs must print the same.
# cmake -D COMPILER=… -D SOURCE=… -D INCLUDE=… -D FOLDER=… -D BASE_FLAGS=… -D VARIANTS=… -P …
file(MAKE_DIRECTORY "${FOLDER}")

set(quickly)
if(NOT COMPILER MATCHES "clang")
  # Collecting garbage takes GCC time. From 1 GB on, it collects.
  set(quickly --param ggc-min-heapsize=1000000)
endif()

function(output_of flags number result)
  separate_arguments(options UNIX_COMMAND "${flags}")
  set(program "${FOLDER}/program.${number}")
  execute_process(COMMAND "${COMPILER}" -std=c++20 -w -Wno-psabi ${quickly} ${options} -I "${INCLUDE}"
                          "${SOURCE}" -o "${program}" -pthread
                  RESULT_VARIABLE status ERROR_VARIABLE error)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${COMPILER} ${flags}: does not compile\n${error}")
  endif()
  execute_process(COMMAND "${program}" OUTPUT_VARIABLE text RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${COMPILER} ${flags}: ends with ${status}")
  endif()
  file(REMOVE "${program}")
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

output_of("${BASE_FLAGS}" 0 expected)
string(REPLACE "\n" ";" expected_lines "${expected}")
string(REPLACE "|" ";" VARIANTS "${VARIANTS}")
set(number 0)
set(failed OFF)
foreach(flags IN LISTS VARIANTS)
  math(EXPR number "${number} + 1")
  output_of("${flags}" ${number} text)
  if(text STREQUAL expected)
    continue()
  endif()
  set(failed ON)
  string(REPLACE "\n" ";" lines "${text}")
  foreach(line other IN ZIP_LISTS expected_lines lines)
    if(NOT line STREQUAL other)
      message("${flags}: ${other}, but ${BASE_FLAGS}: ${line}")
    endif()
  endforeach()
endforeach()
if(failed)
  message(FATAL_ERROR "${COMPILER}: not the same with all flags")
endif()
