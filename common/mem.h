/* Small allocations abort when memory is gone: a stateless at-least-once worker is restarted and
 * replays. Whatever input can size is capped before it gets here. */
#ifndef NRW_MEM_H
#define NRW_MEM_H

#include <stddef.h>

void *mem_alloc(size_t size);          /* not cleared            */
void *mem_zero(size_t n, size_t size); /* cleared, n*size checked */
void *mem_grow(void *p, size_t n, size_t size);
/* Copies and cleanses the old place, as realloc() would not. */
void *mem_grow_cleansed(void *p, size_t size);
void mem_free_cleansed(void *p); /* anything that free() takes; nothing of it stays readable */
char *mem_dup(const char *s);
char *mem_dupn(const char *s, size_t len); /* NUL-terminated copy  */

#endif
