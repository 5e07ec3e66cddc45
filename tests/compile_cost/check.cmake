# SPDX-License-Identifier: MIT
# Fails if what a program costs to compile has grown by more than a fifth over what is written here.
#
# Times would depend on what else the machine does. GCC also tells how much memory it has allocated,
# which is the same in each run: for reading, that is parsing and instantiating templates, and for
# generating code. benchmarks/compile_cost.sh measures the seconds. The figures are MiB of GCC 12 at
# -O2 for x86-64-v3, for which all machines compile alike: reading, then generating.
set(train_decoder 705 613)
set(train_decoder_with_companion 503 82)
set(readme 377 265)
set(only_gelu 195 22)

file(READ "${SOURCE_DIR}/README.md" text)
if(NOT text MATCHES "\n```cpp\n(.*)")
  message(FATAL_ERROR "README.md has no program")
endif()
set(text "${CMAKE_MATCH_1}")
string(FIND "${text}" "\n```" end)
string(SUBSTRING "${text}" 0 ${end} text)
file(WRITE "${FOLDER}/readme.cpp" "${text}\n")

# To assemble and to collect garbage take time, and allocate nothing that is counted.
set(only_what_counts --param=ggc-min-heapsize=1048576 -S -o /dev/null)

set(grown "")
function(check name source)
  execute_process(
    COMMAND "${COMPILER}" -std=c++20 -O2 -march=x86-64-v3 -Wno-psabi -ftime-report
            "-I${SOURCE_DIR}/include" "-I${BUILD_DIR}/include" ${ARGN} "${source}" ${only_what_counts}
    ERROR_VARIABLE report COMMAND_ERROR_IS_FATAL ANY)
  # Rows of "NAME : seconds (share) seconds (share) seconds (share) memory unit (share)".
  foreach(row "phase opt and generate" TOTAL)
    if(NOT report MATCHES "\n ${row} +:[^\n]*[ )] *([0-9]+)([kM]) *(\\([ 0-9]+%\\))?\n")
      message(FATAL_ERROR "no row '${row}' of memory in what the compiler reports:\n${report}")
    endif()
    set(value ${CMAKE_MATCH_1})
    if(CMAKE_MATCH_2 STREQUAL "k")
      math(EXPR value "${value} / 1024")
    endif()
    list(APPEND measured ${value})
  endforeach()
  list(GET measured 0 generating)
  list(GET measured 1 all)
  math(EXPR reading "${all} - ${generating}")
  list(GET ${name} 0 expected_reading)
  list(GET ${name} 1 expected_generating)
  message("${name}: reading ${reading} MiB (${expected_reading}), "
          "generating ${generating} MiB (${expected_generating})")
  foreach(part reading generating)
    math(EXPR limit "${expected_${part}} * 12 / 10")
    if(${part} GREATER limit)
      string(APPEND grown "${name}: ${part} takes ${${part}} MiB, expected at most ${limit}\n")
    endif()
  endforeach()
  set(grown "${grown}" PARENT_SCOPE)
endfunction()

check(only_gelu "${SOURCE_DIR}/benchmarks/compile_cost/only_gelu.cpp")
check(readme "${FOLDER}/readme.cpp")
check(train_decoder_with_companion "${SOURCE_DIR}/benchmarks/compile_cost/train_decoder.cpp"
      -DUNIT_SCALING_COMPILED -DUNIT_SCALING_COMPILED_HAS_fp8 -DUNIT_SCALING_COMPILED_HAS_fp32)
check(train_decoder "${SOURCE_DIR}/benchmarks/compile_cost/train_decoder.cpp")
if(grown)
  message(FATAL_ERROR "Compiling costs more than it did:\n${grown}"
                      "docs/installing.md says what it costs. Who means it to cost more writes the "
                      "new figures into tests/compile_cost/check.cmake.")
endif()
