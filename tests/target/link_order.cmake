# SPDX-License-Identifier: MIT
# The tests target.link_order_*: a program of two files that are compiled for different targets and
# call the same functions. Whatever the order of linking, each has the results that it has alone.
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY OUTPUT_VARIABLE output)
  set(output "${output}" PARENT_SCOPE)
endfunction()

set(main "${CMAKE_CURRENT_LIST_DIR}/main.cpp")
set(flags_of_baseline -march=x86-64)
set(flags_of_native -march=native)
file(MAKE_DIRECTORY "${FOLDER}")
# -O0 leaves every function that is called to the linker; -O2 is what users have.
foreach(level -O0 -O2)
  foreach(part baseline native)
    set(object "${FOLDER}/${part}${level}.o")
    string(TOUPPER ${part} upper)
    run("${COMPILER}" -std=c++20 ${level} ${flags_of_${part}} -Wno-psabi "-I${INCLUDE}" -DPART=${part}
        -c "${CMAKE_CURRENT_LIST_DIR}/part.cpp" -o "${object}")
    run("${COMPILER}" -std=c++20 -DWITH_${upper} "${main}" "${object}" -pthread -o "${FOLDER}/${part}")
    run("${FOLDER}/${part}")
    set(alone_${part} "${output}")
    # Functions (W) and data (V, u; thread-local W) that the linker makes one of. The data of
    # every_target is to be one: its names end after E, where those of functions have parameters.
    run("${NM}" --defined-only "${object}")
    string(REGEX MATCHALL "[WVu] [^\n]*12unit_scaling[^\n]*" symbols_${part} "${output}")
    if(symbols_${part} STREQUAL "")
      message(FATAL_ERROR "${object} has no symbol of the library")
    endif()
  endforeach()

  set(shared)
  foreach(symbol IN LISTS symbols_baseline)
    if(symbol IN_LIST symbols_native
       AND NOT symbol MATCHES " _ZN12unit_scaling12every_target[0-9]+[a-zA-Z_]+E$")
      list(APPEND shared "${symbol}")
    endif()
  endforeach()
  if(shared)
    list(JOIN shared "\n" shared)
    message(FATAL_ERROR "${level}: defined by files of both targets:\n${shared}")
  endif()

  string(REPLACE baseline native same "${alone_baseline}")
  if(alone_native STREQUAL same)
    message(FATAL_ERROR "both targets have the same results, so nothing is tested")
  endif()
  foreach(order "baseline native" "native baseline")
    separate_arguments(order UNIX_COMMAND "${order}")
    list(TRANSFORM order REPLACE "(.+)" "${FOLDER}/\\1${level}.o" OUTPUT_VARIABLE objects)
    run("${COMPILER}" -std=c++20 -DWITH_BASELINE -DWITH_NATIVE "${main}" ${objects} -pthread
        -o "${FOLDER}/both")
    run("${FOLDER}/both")
    if(NOT output STREQUAL "${alone_baseline}${alone_native}")
      message(FATAL_ERROR "${level}, linked in the order ${order}:\n${output}"
                          "alone:\n${alone_baseline}${alone_native}")
    endif()
  endforeach()
endforeach()
