# SPDX-License-Identifier: MIT
# The tests target.names_*: processors that differ in a feature that the compiler may use by itself
# have namespaces of different names. The features are what the compiler predefines, less those that
# only intrinsics reach.
cmake_minimum_required(VERSION 3.25)

set(processors x86-64 x86-64-v2 x86-64-v3 x86-64-v4 k8 k8-sse3 amdfam10 core2 nehalem westmere
    sandybridge ivybridge haswell broadwell skylake skylake-avx512 cascadelake cannonlake
    icelake-client icelake-server cooperlake tigerlake rocketlake alderlake sapphirerapids knl
    bonnell silvermont goldmont goldmont-plus tremont btver1 btver2 bdver1 bdver2 bdver3 bdver4
    znver1 znver2 znver3 znver4 native)
# Cryptography, transactions, state, caches, random numbers, system registers, matrices of AMX, and
# a few that no compiler makes of plain code. __ABM__ is LZCNT and POPCNT in one; __3dNOW_A__ is of
# the processors of __3dNOW__.
string(JOIN "|" only_by_intrinsics AES VAES SHA VPCLMULQDQ KL WIDEKL RTM HLE TSXLDTRK XSAVE XSAVEC
       XSAVEOPT XSAVES FSGSBASE RDRND RDSEED RDPID INVPCID CLFLUSHOPT CLWB CLZERO CLDEMOTE WBNOINVD
       ENQCMD MOVDIR64B MOVDIRI HRESET MWAITX WAITPKG UINTR SERIALIZE PCONFIG PKU PTWRITE SGX SHSTK
       LWP ABM 3dNOW_A AMX_BF16 AMX_INT8 AMXBF16 AMXINT8 AVX5124FMAPS AVX5124VNNIW AVX512PF
       AVX512VP2INTERSECT)

file(WRITE "${FOLDER}/name.cpp" "#include \"unit_scaling/core/target.hpp\"
UNIT_SCALING_JOIN(UNIT_SCALING_TARGET, UNIT_SCALING_ARITHMETIC, , , , , , , )\n")
set(names)
set(compared 0)
foreach(processor IN LISTS processors)
  execute_process(COMMAND "${COMPILER}" -march=${processor} -std=c++20 -dM -E -x c++ /dev/null
                  RESULT_VARIABLE result OUTPUT_VARIABLE macros ERROR_QUIET)
  if(NOT result EQUAL 0)
    continue()  # newer than the compiler
  endif()
  math(EXPR compared "${compared} + 1")
  string(REGEX MATCHALL
    "#define (__[A-Z0-9][A-Z0-9_]*__|__3dNOW__|__3dNOW_A__|__GCC_HAVE_SYNC_COMPARE_AND_SWAP_16) 1\n"
    macros "${macros}")
  list(FILTER macros EXCLUDE REGEX " __(${only_by_intrinsics})__ ")
  list(SORT macros)
  execute_process(COMMAND "${COMPILER}" -march=${processor} -std=c++20 -E -P "-I${INCLUDE}"
                          "${FOLDER}/name.cpp"
                  OUTPUT_VARIABLE name COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCH "x86_[0-9a-z_]+" name "${name}")
  if(name STREQUAL "")
    message(FATAL_ERROR "${processor} has no name")
  endif()
  if(name IN_LIST names)
    set(missing ${macros})
    list(REMOVE_ITEM missing ${macros_of_${name}})
    list(REMOVE_ITEM macros_of_${name} ${macros})
    if(missing OR macros_of_${name})
      string(REPLACE "#define " "" missing "${missing}${macros_of_${name}}")
      message(FATAL_ERROR "${processor} and ${processor_of_${name}} are both ${name}, and differ in:\n"
                          "${missing}")
    endif()
  else()
    list(APPEND names ${name})
    set(processor_of_${name} ${processor})
  endif()
  set(macros_of_${name} ${macros})
endforeach()
if(compared LESS 20)
  message(FATAL_ERROR "the compiler knows only ${compared} of the processors")
endif()

# Arithmetic elsewhere, or under other rules, is another target too.
execute_process(COMMAND "${COMPILER}" -std=c++20 -E -P "-I${INCLUDE}" "${FOLDER}/name.cpp"
                OUTPUT_VARIABLE plain COMMAND_ERROR_IS_FATAL ANY)
set(flags -ffast-math -ffinite-math-only)
if(NOT COMPILER MATCHES "clang")
  list(APPEND flags -mfpmath=387 -frounding-math -freciprocal-math -fno-signed-zeros)
endif()
foreach(flag IN LISTS flags)
  execute_process(COMMAND "${COMPILER}" ${flag} -std=c++20 -E -P "-I${INCLUDE}" "${FOLDER}/name.cpp"
                  OUTPUT_VARIABLE name COMMAND_ERROR_IS_FATAL ANY)
  if(name STREQUAL plain)
    message(FATAL_ERROR "${flag} changes no name")
  endif()
endforeach()
