# SPDX-License-Identifier: MIT
# What a user of the library gets that depends on the user's machine. Read by this project, and by
# the installed package.

# Gives `target`, the library, the flags that depend on the processor.
function(unit_scaling_flags target)
  # For a CPU without AVX-512, GCC notes that the ABI of wide vectors depends on the target. This
  # concerns no call of the library: vectors are passed only to functions that are inlined.
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64|i[3-6]86)$")
    target_compile_options(${target} INTERFACE
      "$<BUILD_INTERFACE:$<$<CXX_COMPILER_ID:GNU>:-Wno-psabi>>")
  endif()
endfunction()

# Makes the target unit_scaling::eigen, which the two headers that include Eigen need, if there is an
# Eigen that is new enough. Otherwise sets unit_scaling_no_eigen to the reason.
macro(unit_scaling_find_eigen)
  if(NOT TARGET unit_scaling::eigen)
    # No version in the call: Eigen's version file refuses a range over two major versions (3.4, 5).
    find_package(Eigen3 QUIET NO_MODULE)
    if(NOT Eigen3_FOUND)
      set(unit_scaling_no_eigen "Eigen 3.4 or newer was not found")
    elseif(Eigen3_VERSION VERSION_LESS 3.4)
      set(unit_scaling_no_eigen "Eigen ${Eigen3_VERSION} was found, 3.4 or newer is needed")
    else()
      add_library(unit_scaling::eigen INTERFACE IMPORTED GLOBAL)
      target_link_libraries(unit_scaling::eigen INTERFACE
        unit_scaling::unit_scaling Eigen3::Eigen)
    endif()
  endif()
endmacro()

# GCC spends a tenth to a sixth of its time on collecting garbage unless it may leave that for a
# gibibyte. A target, or if `scope` is INTERFACE those that link it, is let where the machine has memory
# for it.
function(unit_scaling_leave_garbage target scope)
  cmake_host_system_information(RESULT memory QUERY TOTAL_PHYSICAL_MEMORY)  # in MiB
  if(memory GREATER 7500)
    target_compile_options(${target} ${scope}
      $<$<CXX_COMPILER_ID:GNU>:--param=ggc-min-heapsize=1048576>)
  endif()
endfunction()

# Makes the target unit_scaling::compiled: the instantiations that unit_scaling/compiled.hpp lists, one
# source for what all precisions use and one for each of UNIT_SCALING_COMPILED_PRECISIONS, compiled in the
# build of the program that links it, with its flags and for its processor. A program that does not link
# it does not build it.
function(unit_scaling_add_compiled)
  if(TARGET unit_scaling_compiled)
    return()
  endif()
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/unit_scaling_compiled")
  set(precisions fp64 fp32 fp16 bf16 fp8)
  set(UNIT_SCALING_COMPILED_PRECISIONS "${precisions}" CACHE STRING
      "What unit_scaling::compiled has, of ${precisions}")
  foreach(precision IN LISTS UNIT_SCALING_COMPILED_PRECISIONS)
    if(NOT precision IN_LIST precisions)
      message(FATAL_ERROR
              "UNIT_SCALING_COMPILED_PRECISIONS: expected some of ${precisions}, got ${precision}")
    endif()
  endforeach()
  set(sources)
  foreach(part IN ITEMS ${UNIT_SCALING_COMPILED_PRECISIONS} shared)  # the longest first
    set(definitions "UNIT_SCALING_COMPILED_${part}();")
    if(NOT part STREQUAL "shared")
      string(PREPEND definitions "UNIT_SCALING_COMPILED_shared(extern);\n")
    endif()
    file(CONFIGURE OUTPUT "${folder}/compiled_${part}.cpp" CONTENT
         "// SPDX-License-Identifier: MIT\n\
// A part of what unit_scaling/compiled.hpp lists. Written by CMake.\n\
#include \"unit_scaling/compiled.hpp\"\n\n\
namespace UNIT_SCALING_NAMESPACE {\n\
${definitions}\n\
}  // namespace UNIT_SCALING_NAMESPACE\n")
    list(APPEND sources "${folder}/compiled_${part}.cpp")
  endforeach()
  add_library(unit_scaling_compiled STATIC EXCLUDE_FROM_ALL ${sources})
  add_library(unit_scaling::compiled ALIAS unit_scaling_compiled)
  target_link_libraries(unit_scaling_compiled PUBLIC unit_scaling::unit_scaling)
  list(TRANSFORM UNIT_SCALING_COMPILED_PRECISIONS PREPEND UNIT_SCALING_COMPILED_HAS_
       OUTPUT_VARIABLE those_it_has)
  target_compile_definitions(unit_scaling_compiled INTERFACE
    UNIT_SCALING_COMPILED ${those_it_has})
  # A program for another processor than the library's does not link; see core/target.hpp.
  target_compile_options(unit_scaling_compiled PUBLIC
    $<$<BOOL:${UNIT_SCALING_NATIVE}>:-march=native>)
  # Each source takes long, and each is to be compiled on a processor of its own.
  set_target_properties(unit_scaling_compiled PROPERTIES UNITY_BUILD OFF)
  unit_scaling_leave_garbage(unit_scaling_compiled PRIVATE)
endfunction()
