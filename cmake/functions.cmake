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
