/* A byte buffer that grows up to a maximum given at birth. Overflow and lack of memory are sticky:
 * append at will, ask buf_ok() once at the end. */
#ifndef NRW_BUF_H
#define NRW_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

struct buf {
    char *data; /* len bytes; not NUL-terminated unless buf_cstr() was called */
    size_t len;
    size_t cap;
    size_t max;
    bool overflow;
};

void buf_init(struct buf *b, size_t max);
void buf_done(struct buf *b);  /* frees; the struct may be initialised again */
void buf_reset(struct buf *b); /* length 0, overflow off, memory kept        */
bool buf_ok(const struct buf *b);
void buf_add(struct buf *b, const void *data, size_t len);
void buf_add_str(struct buf *b, const char *s);
void buf_add_fmt(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Big-endian integers: the order of PostgreSQL's binary formats. */
void buf_add_be16(struct buf *b, uint16_t v);
void buf_add_be32(struct buf *b, uint32_t v);
void buf_add_be64(struct buf *b, uint64_t v);
void buf_add_json_string(struct buf *b, const char *s,
                         size_t len); /* quoted; invalid UTF-8 -> U+FFFD */
/* Reserves len bytes and returns where to write them, or NULL on overflow. Valid until the next
 * add. */
void *buf_extend(struct buf *b, size_t len);
/* NUL-terminates without counting the NUL; "" when the buffer is empty or has overflowed. */
const char *buf_cstr(struct buf *b);

#endif
