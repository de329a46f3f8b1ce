/* Allocation that does not come back without memory: it says so on stderr and aborts. Freed with
 * free(). Owns nothing. Not for what a stranger can size: that is capped (struct buf) before it
 * gets here. */
#include "mem.h"

#include <malloc.h>
#include <openssl/crypto.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

#define LAST_WORDS_US 1000000

/* Not a CHECK: no bug, so the line must not read like one. */
static _Noreturn void out_of_memory(size_t n, size_t size)
{
    log_flush_blocking(LAST_WORDS_US);
    char line[160];
    int len = snprintf(line, sizeof(line),
                       "{\"level\":\"error\",\"event\":\"out_of_memory\",\"wanted\":\"%zu*%zu\"}\n",
                       n, size);
    if (len > 0) {
        ssize_t ignored = write(STDERR_FILENO, line, (size_t)len);
        (void)ignored;
    }
    abort();
}

/* malloc(0) may be NULL, which would look like failure: never ask for nothing. */
void *mem_alloc(size_t size)
{
    void *p = malloc(size > 0 ? size : 1);
    if (p == NULL) {
        out_of_memory(1, size);
    }
    return p;
}

void *mem_zero(size_t n, size_t size)
{
    void *p = calloc(n > 0 ? n : 1, size > 0 ? size : 1);
    if (p == NULL) {
        out_of_memory(n, size);
    }
    return p;
}

void *mem_grow(void *p, size_t n, size_t size)
{
    void *grown = reallocarray(p, n > 0 ? n : 1, size > 0 ? size : 1);
    if (grown == NULL) {
        out_of_memory(n, size);
    }
    return grown;
}

void *mem_grow_cleansed(void *p, size_t size)
{
    void *grown = mem_alloc(size);
    if (p != NULL) {
        const size_t had = malloc_usable_size(p);
        memcpy(grown, p, had < size ? had : size);
        mem_free_cleansed(p);
    }
    return grown;
}

void mem_free_cleansed(void *p)
{
    if (p != NULL) {
        OPENSSL_cleanse(p, malloc_usable_size(p));
        free(p);
    }
}

char *mem_dup(const char *s)
{
    return mem_dupn(s, strlen(s));
}

char *mem_dupn(const char *s, size_t len)
{
    if (len == SIZE_MAX) {
        out_of_memory(len, 1);
    }
    char *copy = mem_alloc(len + 1);
    if (len > 0) {
        memcpy(copy, s, len);
    }
    copy[len] = '\0';
    return copy;
}
