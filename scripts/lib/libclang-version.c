/* Prints what the libclang in the file argv[1] says of itself, such as "Debian clang version 14.0.6". The header of
   libclang is not needed: these two functions have been the same since LLVM 2.9. */
#include <dlfcn.h>
#include <stdio.h>

typedef struct {
    const void *data;
    unsigned flags;
} CXString;

int main(int argc, char **argv) {
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) {
        fprintf(stderr, "%s\n", argc == 2 ? dlerror() : "usage: libclang-version FILE");
        return 1;
    }
    CXString (*version)(void) = (CXString(*)(void))dlsym(library, "clang_getClangVersion");
    const char *(*text)(CXString) = (const char *(*)(CXString))dlsym(library, "clang_getCString");
    if (!version || !text) {
        fprintf(stderr, "this is no libclang\n");
        return 1;
    }
    puts(text(version()));
    return 0;
}
