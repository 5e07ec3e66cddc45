# SPDX-License-Identifier: MIT
# The test package_consumer: install to a fresh prefix, then configure, build and run one consumer
# that finds the package there and one that adds the source tree.
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

set(work "${BUILD_DIR}/package_consumer")
file(REMOVE_RECURSE "${work}")
run("${CMAKE_COMMAND}" --install "${BUILD_DIR}" --prefix "${work}/prefix")

foreach(way find_package add_subdirectory)
  run("${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/${way}" -B "${work}/${way}" -G "${GENERATOR}"
    -D "CMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}" -D "CMAKE_CXX_COMPILER=${COMPILER}"
    -D "CMAKE_PREFIX_PATH=${work}/prefix" -D "UNIT_SCALING_SOURCE_DIR=${SOURCE_DIR}"
    --no-warn-unused-cli)
  run("${CMAKE_COMMAND}" --build "${work}/${way}")
  run("${work}/${way}/consumer")
endforeach()
