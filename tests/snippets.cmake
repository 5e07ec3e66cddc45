# SPDX-License-Identifier: MIT
# Every ```cpp fence in the documents is compiled as it stands; one with a main also runs, as a test.
file(GLOB_RECURSE documents CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/docs/*.md")
foreach(name README CONTRIBUTING)
  if(EXISTS "${PROJECT_SOURCE_DIR}/${name}.md")
    list(APPEND documents "${PROJECT_SOURCE_DIR}/${name}.md")
  endif()
endforeach()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${documents})

# All of training, precompiled. Who includes it finds it read; others do not, for a snippet must include
# what it uses.
add_library(snippet_headers OBJECT "${CMAKE_CURRENT_BINARY_DIR}/precompiled.cpp")
target_link_libraries(snippet_headers PRIVATE unit_scaling_own_flags unit_scaling::compiled)
target_compile_options(snippet_headers PRIVATE -UNDEBUG $<$<CONFIG:Release>:-O0>)
target_precompile_headers(snippet_headers PRIVATE <unit_scaling/unit_scaling.hpp>)

# Where they run, and small models of Hugging Face to read there. Programs go on from what they saved,
# which is another training's once their text has changed.
file(REMOVE_RECURSE "${PROJECT_BINARY_DIR}/snippets/run")
file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/snippets/run")
foreach(model IN ITEMS gpt2 llama)
  file(CREATE_LINK "${CMAKE_CURRENT_SOURCE_DIR}/data/hugging_face/${model}"
       "${PROJECT_BINARY_DIR}/snippets/run/${model}" SYMBOLIC)
endforeach()

set(fence_open "(^|\n)[ \t]*(```+|~~~+)[ \t]*(cpp|c\\+\\+|C\\+\\+|cxx|cc)([^\n]*)\n")
set(snippet_objects)

foreach(document IN LISTS documents)
  file(RELATIVE_PATH name "${PROJECT_SOURCE_DIR}" "${document}")
  string(MAKE_C_IDENTIFIER "${name}" id)
  file(READ "${document}" rest)
  set(line 1)
  set(count 0)
  while(rest MATCHES "${fence_open}")
    set(opening "${CMAKE_MATCH_0}")
    set(extra "${CMAKE_MATCH_4}")
    math(EXPR count "${count} + 1")

    # Split the rest into what stands before the code, the code, and what follows it.
    string(FIND "${rest}" "${opening}" start)
    string(LENGTH "${opening}" length)
    math(EXPR start "${start} + ${length}")
    string(SUBSTRING "${rest}" 0 ${start} before)
    string(SUBSTRING "${rest}" ${start} -1 rest)
    string(REGEX REPLACE "[^\n]" "" newlines "${before}")
    string(LENGTH "${newlines}" newlines)
    math(EXPR line "${line} + ${newlines}")
    if(NOT extra MATCHES "^[ \t]*$")
      message(FATAL_ERROR "${name}:${line}: a cpp fence takes no options: all of them are compiled")
    endif()
    if(NOT rest MATCHES "\n[ \t]*(```|~~~)")
      message(FATAL_ERROR "${name}:${line}: the cpp fence above is not closed")
    endif()
    string(FIND "${rest}" "${CMAKE_MATCH_0}" end)
    string(SUBSTRING "${rest}" 0 ${end} code)
    math(EXPR end "${end} + 1")  # leaves the closing fence, which can open nothing: it names no language
    string(SUBSTRING "${rest}" ${end} -1 rest)

    string(REGEX REPLACE "[^\n]" "" newlines "${code}\n")
    string(LENGTH "${newlines}" newlines)
    math(EXPR next_line "${line} + ${newlines}")
    set(needs_sentence_piece FALSE)
    if(code MATCHES "train/(sentence_piece|subword_corpus)\\.hpp")
      set(needs_sentence_piece TRUE)
    endif()
    set(needs_mpi FALSE)
    if(code MATCHES "distributed/mpi\\.hpp")
      set(needs_mpi TRUE)
    endif()
    if((needs_sentence_piece AND NOT TARGET unit_scaling_sentence_piece)
       OR (needs_mpi AND NOT mpi_engines))
      set(line ${next_line})
      continue()
    endif()

    # Errors are reported at the document's own line.
    set(file "${PROJECT_BINARY_DIR}/snippets/${id}_${count}.cpp")
    write_if_changed("${file}" "#line ${line} \"${document}\"\n${code}\n")
    if(code MATCHES "int main")
      set(target snippet_${id}_${count})
      add_executable(${target} "${file}")
      target_link_libraries(${target} PRIVATE
        unit_scaling_own_flags unit_scaling::compiled nlohmann_json::nlohmann_json)
      if(needs_sentence_piece)
        target_link_libraries(${target} PRIVATE unit_scaling_sentence_piece)
      endif()
      # Their assertions are to hold, also in Release, and what computes in them is in the companion.
      target_compile_options(${target} PRIVATE -UNDEBUG $<$<CONFIG:Release>:-O0>)
      if(code MATCHES "(^|\n)#include [<\"]unit_scaling/unit_scaling\\.hpp[>\"]")
        target_precompile_headers(${target} REUSE_FROM snippet_headers)
      endif()
      if(needs_mpi)
        list(GET mpi_engines 0 engine)
        target_link_libraries(${target} PRIVATE unit_scaling_${engine})
        add_test(NAME snippet.${name}.${count} COMMAND ${CMAKE_COMMAND}
          -D "LAUNCH=${mpi_launch_${engine}};-n;2" -D "PROGRAM=$<TARGET_FILE:${target}>"
          -P "${CMAKE_CURRENT_SOURCE_DIR}/distributed/mpi.cmake"
          WORKING_DIRECTORY "${PROJECT_BINARY_DIR}/snippets/run")
      else()
        add_test(NAME snippet.${name}.${count} COMMAND ${target}
                 WORKING_DIRECTORY "${PROJECT_BINARY_DIR}/snippets/run")
      endif()
    else()
      list(APPEND snippet_objects "${file}")
    endif()
    set(line ${next_line})
  endwhile()
endforeach()

if(snippet_objects)
  add_library(snippets OBJECT ${snippet_objects})
  target_link_libraries(snippets PRIVATE
    unit_scaling_own_flags unit_scaling::compiled nlohmann_json::nlohmann_json)
  target_compile_options(snippets PRIVATE $<$<CONFIG:Release>:-O0>)  # nothing of them runs
endif()
