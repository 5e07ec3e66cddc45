# SPDX-License-Identifier: MIT
# The test package_consumer: install to a fresh prefix, then configure, build and run a consumer that
# finds the package there and one that adds the source tree, each with Eigen and on a machine that has
# none; and one that links the compiled companion. Warnings are errors: what GCC says of itself about
# wide vectors must not stop a user.
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

set(work "${BUILD_DIR}/package_consumer")
set(options -G "${GENERATOR}"
  -D "CMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}" -D "CMAKE_CXX_COMPILER=${COMPILER}"
  -D "CMAKE_CXX_FLAGS=-O2 -Werror" -D "CMAKE_PREFIX_PATH=${work}/prefix"
  -D "UNIT_SCALING_SOURCE_DIR=${SOURCE_DIR}" --no-warn-unused-cli)
set(without_eigen -D CMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON)
set(with_eigen -D WITH_EIGEN=ON)

function(configure way build)
  run("${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/${way}" -B "${work}/${build}" ${options}
      ${ARGN})
endfunction()

# Stops unless the library is in the prefix if `expected`, and nothing of it if not.
function(expect_library prefix expected)
  file(GLOB_RECURSE files RELATIVE "${prefix}" "${prefix}/*")
  if(NOT expected AND NOT files STREQUAL "bin/consumer")
    message(FATAL_ERROR "expected the parent's own program alone in its prefix: ${files}")
  endif()
  if(expected)
    foreach(file share/licenses/unit_scaling/LICENSE include/unit_scaling/unit_scaling.hpp
                 include/unit_scaling/core/eigen.hpp include/unit_scaling/core/version.hpp
                 share/cmake/unit_scaling/unit_scaling-config.cmake)
      if(NOT file IN_LIST files)
        message(FATAL_ERROR "${file} is not installed")
      endif()
    endforeach()
  endif()
endfunction()

file(REMOVE_RECURSE "${work}")
run("${CMAKE_COMMAND}" --install "${BUILD_DIR}" --prefix "${work}/prefix")
expect_library("${work}/prefix" ON)

foreach(way find_package add_subdirectory)
  foreach(eigen with_eigen without_eigen)
    configure(${way} ${way}_${eigen} ${${eigen}})
    run("${CMAKE_COMMAND}" --build "${work}/${way}_${eigen}")
    run("${work}/${way}_${eigen}/consumer")
  endforeach()
endforeach()

# The companion is compiled in the build of the program that links it: here not optimised, and for one
# precision, for it takes long. Both are for this processor: unless both are told so, they do not link.
set(build "${work}/find_package_with_compiled")
configure(find_package find_package_with_compiled ${without_eigen} -D WITH_COMPILED=ON
          -D "CMAKE_CXX_FLAGS=-O0 -Werror" -D UNIT_SCALING_COMPILED_PRECISIONS=fp8
          -D UNIT_SCALING_NATIVE=ON)
run("${CMAKE_COMMAND}" --build "${build}")
run("${build}/consumer")

# A program that asks for Eigen where there is none is told so.
execute_process(COMMAND "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/find_package"
                        -B "${work}/refused" ${options} ${with_eigen} ${without_eigen}
                RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE error)
if(result EQUAL 0 OR NOT error MATCHES "component eigen: Eigen 3\\.4 or newer was not found")
  message(FATAL_ERROR "COMPONENTS eigen without Eigen: ${result} ${error}")
endif()

# A parent project installs itself alone, unless it asks for the library too.
set(build "${work}/add_subdirectory_without_eigen")
run("${CMAKE_COMMAND}" --install "${build}" --prefix "${work}/parent")
expect_library("${work}/parent" OFF)
run("${CMAKE_COMMAND}" -D UNIT_SCALING_INSTALL=ON "${build}")
run("${CMAKE_COMMAND}" --build "${build}")
run("${CMAKE_COMMAND}" --install "${build}" --prefix "${work}/parent_and_library")
expect_library("${work}/parent_and_library" ON)
