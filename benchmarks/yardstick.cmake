# llama.cpp's own programs, linked against the libllama that the installed llama-cpp-python brings: no difference is the build's doing.
#
#   SOURCE     llama.cpp's source, of the same release
#   LIBRARIES  the folder of libllama and libggml
cmake_minimum_required(VERSION 3.18)
project(yardstick C CXX)
find_package(Threads REQUIRED)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(BUILD_SHARED_LIBS OFF)
set(LLAMA_BUILD_COMMON ON)
set(LLAMA_BUILD_NUMBER 0)
set(LLAMA_SUBPROCESS ON)
set(LLAMA_OPENSSL OFF)
set(LLAMA_USE_PREBUILT_UI OFF)

set(PROJECT_SOURCE_DIR ${SOURCE})
include_directories(${SOURCE})
include(${SOURCE}/cmake/license.cmake)
function(llama_add_compile_flags)  # its warnings are not ours to read
endfunction()

foreach(library ggml-base ggml llama)
  add_library(${library} SHARED IMPORTED GLOBAL)
  set_target_properties(${library} PROPERTIES IMPORTED_LOCATION ${LIBRARIES}/lib${library}.so
    INTERFACE_INCLUDE_DIRECTORIES "${SOURCE}/include;${SOURCE}/ggml/include")
endforeach()
target_link_libraries(ggml INTERFACE ggml-base)
target_link_libraries(llama INTERFACE ggml)
link_libraries(-Wl,-rpath-link,${LIBRARIES})

foreach(part vendor common tools/batched-bench tools/mtmd tools/ui tools/server)
  add_subdirectory(${SOURCE}/${part} ${part})
endforeach()
