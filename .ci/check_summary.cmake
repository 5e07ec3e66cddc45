# SPDX-License-Identifier: MIT
# Fails unless the summary of a training has what its readers rely on. In CMake, since that is all
# that a fresh machine is sure to have.
file(READ "${SUMMARY}" json)

function(require_number key)  # in `run`, the object of one run; a second argument is a lower bound
  string(JSON value ERROR_VARIABLE error GET "${run}" ${key})
  string(JSON type ERROR_VARIABLE error TYPE "${run}" ${key})
  if(NOT type STREQUAL "NUMBER")  # JSON writes NaN and infinity as null
    message(FATAL_ERROR "${SUMMARY}: runs[${i}].${key} is no number but '${value}'")
  endif()
  if(ARGC GREATER 1 AND NOT value GREATER ARGV1)
    message(FATAL_ERROR "${SUMMARY}: runs[${i}].${key} = ${value} is not above ${ARGV1}")
  endif()
endfunction()

foreach(key command machine runs)
  string(JSON type TYPE "${json}" ${key})  # fails if there is no such key
endforeach()
string(JSON count LENGTH "${json}" runs)
if(count LESS 5)
  message(FATAL_ERROR "${SUMMARY}: ${count} runs, expected at least 5")
endif()
math(EXPR last "${count} - 1")
foreach(i RANGE ${last})
  string(JSON run GET "${json}" runs ${i})
  require_number(valid_bpc 0)
  require_number(tokens_per_s 0)
  require_number(parameter_bytes 0)
  require_number(optimiser_bytes 0)
  require_number(saved_bytes 0)
  require_number(workspace_bytes 0)
  require_number(peak_rss_bytes 0)
  require_number(sgemm_share)
endforeach()
message(STATUS "${SUMMARY}: ${count} runs, all complete")
