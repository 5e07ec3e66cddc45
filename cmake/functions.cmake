# SPDX-License-Identifier: MIT

# Leaves an unchanged file alone, so that nothing that includes it is built again.
function(write_if_changed path content)
  set(old "")
  if(EXISTS "${path}")
    file(READ "${path}" old)
  endif()
  if(NOT old STREQUAL content)
    file(WRITE "${path}" "${content}")
  endif()
endfunction()

# A library of what an MPI's own compiler adds to the compiler beneath it: folders of headers, and what
# to link. Both MPIs print the whole command for -show.
function(unit_scaling_add_mpi target compiler)
  execute_process(COMMAND "${compiler}" -show OUTPUT_VARIABLE command COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(words UNIX_COMMAND "${command}")
  add_library(${target} INTERFACE)
  foreach(word IN LISTS words)
    if(word MATCHES "^-I(.+)")
      target_include_directories(${target} SYSTEM INTERFACE "${CMAKE_MATCH_1}")
    elseif(word MATCHES "^-L(.+)")
      target_link_directories(${target} INTERFACE "${CMAKE_MATCH_1}")
    elseif(word MATCHES "^-l(.+)")
      target_link_libraries(${target} INTERFACE "${CMAKE_MATCH_1}")
    endif()
  endforeach()
endfunction()
