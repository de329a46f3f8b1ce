# Turns every .lua of this folder into a string of the program, comments and all, so that nothing is read at run time:
#   cmake -DOUT=FOLDER -P embed.cmake      writes FOLDER/scripts.h and FOLDER/scripts.c
# claim.lua becomes script_claim. A file must be plain ASCII.
cmake_minimum_required(VERSION 3.25)

file(GLOB files "${CMAKE_CURRENT_LIST_DIR}/*.lua")
list(SORT files)
set(notice "/* Made by schema/redis/embed.cmake from the .lua files beside it: change those. */\n")
set(header "${notice}#ifndef NRW_SCRIPTS_H\n#define NRW_SCRIPTS_H\n\n")
set(source "${notice}#include \"scripts.h\"\n")
foreach(file ${files})
  get_filename_component(name "${file}" NAME_WE)
  file(READ "${file}" hex HEX)
  # Two digits a byte. A string literal would have to be shorter than 4096 characters.
  string(REGEX REPLACE "(..)" "'\\\\x\\1'," bytes "${hex}")
  if(bytes MATCHES "'\\\\x[89a-f]")
    message(FATAL_ERROR "${file}: not plain ASCII")
  endif()
  string(REGEX REPLACE "('\\\\x0a',)" "\\1\n    " bytes "${bytes}")
  string(APPEND header "extern const char script_${name}[];\n")
  string(APPEND source "\nconst char script_${name}[] = {\n    ${bytes}0};\n")
endforeach()
string(APPEND header "\n#endif\n")
file(MAKE_DIRECTORY "${OUT}")
file(WRITE "${OUT}/scripts.h" "${header}")
file(WRITE "${OUT}/scripts.c" "${source}")
