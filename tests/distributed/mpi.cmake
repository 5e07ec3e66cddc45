# SPDX-License-Identifier: MIT
# Runs a program, such as mpi_ranks, as a job: cmake -D "LAUNCH=mpirun;-n;2" -D PROGRAM=…
# [-D WHAT=argument] [-D EXPECTED=regular expression] -P mpi.cmake. With EXPECTED the job must fail,
# soon, and say so.
set(ENV{OMPI_ALLOW_RUN_AS_ROOT} 1)  # containers run as root
set(ENV{OMPI_ALLOW_RUN_AS_ROOT_CONFIRM} 1)
set(ENV{OMPI_MCA_btl_vader_single_copy_mechanism} none)  # which containers forbid
execute_process(COMMAND ${LAUNCH} "${PROGRAM}" ${WHAT} TIMEOUT 60
                RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
message("${output}")
if(NOT EXPECTED)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "expected exit code 0, got ${result}")
  endif()
elseif(result MATCHES "timeout")
  message(FATAL_ERROR "the job did not end within a minute")
elseif(result EQUAL 0)
  message(FATAL_ERROR "expected another exit code than 0")
elseif(NOT output MATCHES "${EXPECTED}")
  message(FATAL_ERROR "expected '${EXPECTED}' in what the job says")
endif()
