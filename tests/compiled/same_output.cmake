# SPDX-License-Identifier: MIT
# Fails unless both programs print the same, and something.
foreach(program HEADERS COMPILED)
  execute_process(COMMAND "${${program}}" OUTPUT_VARIABLE output_${program}
                  COMMAND_ERROR_IS_FATAL ANY)
endforeach()
if(NOT output_HEADERS MATCHES "\n9 loss")
  message(FATAL_ERROR "expected ten losses, got:\n${output_HEADERS}")
endif()
if(NOT output_HEADERS STREQUAL output_COMPILED)
  message(FATAL_ERROR "with headers alone:\n${output_HEADERS}\n"
                      "with unit_scaling::compiled:\n${output_COMPILED}")
endif()
message("${output_COMPILED}")
