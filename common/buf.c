/* Bytes in a growing array, and the JSON string writer that the log shares. Once something did not
 * fit, nothing is added any more: a buffer that is not buf_ok() holds a clean beginning, never a
 * text with a hole. A buffer whose cap is its max never calls the allocator: log.c and check.c lend
 * it their own memory. Uses realloc itself, because its promise is to survive a failed one. */
#include "buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "utf8.h"

#define FIRST_CAP 256

void buf_init(struct buf *b, size_t max)
{
    CHECK(max < SIZE_MAX / 2); /* so that doubling and the spare byte cannot wrap */
    *b = (struct buf){.max = max};
}

void buf_done(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.max = b->max};
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->overflow = false;
}

bool buf_ok(const struct buf *b)
{
    return !b->overflow;
}

/* One byte more than cap is always allocated: buf_cstr's and vsnprintf's NUL. */
static bool make_room(struct buf *b, size_t len)
{
    if (b->overflow) {
        return false;
    }
    if (b->data != NULL && len <= b->cap - b->len) {
        return true;
    }
    if (len > b->max - b->len) {
        b->overflow = true;
        return false;
    }
    size_t cap = b->cap < FIRST_CAP ? FIRST_CAP : 2 * b->cap;
    if (cap < b->len + len) {
        cap = b->len + len;
    }
    if (cap > b->max) {
        cap = b->max;
    }
    char *grown = realloc(b->data, cap + 1);
    if (grown == NULL) {
        b->overflow = true;
        return false;
    }
    b->data = grown;
    b->cap = cap;
    return true;
}

void *buf_extend(struct buf *b, size_t len)
{
    if (!make_room(b, len)) {
        return NULL;
    }
    void *at = b->data + b->len;
    b->len += len;
    return at;
}

void buf_add(struct buf *b, const void *data, size_t len)
{
    if (len > 0 && make_room(b, len)) {
        memcpy(b->data + b->len, data, len);
        b->len += len;
    }
}

void buf_add_str(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_add_fmt(struct buf *b, const char *fmt, ...)
{
    if (!make_room(b, 0)) {
        return;
    }
    for (int pass = 0; pass < 2; pass++) { /* the first one may only learn the length */
        size_t room = b->cap - b->len + 1;
        va_list args;
        va_start(args, fmt);
        int n = vsnprintf(b->data + b->len, room, fmt, args);
        va_end(args);
        if (n < 0) {
            b->overflow = true;
            return;
        }
        if ((size_t)n < room) {
            b->len += (size_t)n;
            return;
        }
        if (!make_room(b, (size_t)n)) {
            return;
        }
    }
}

void buf_add_be16(struct buf *b, uint16_t v)
{
    const uint8_t bytes[] = {(uint8_t)(v >> 8), (uint8_t)v};
    buf_add(b, bytes, sizeof(bytes));
}

void buf_add_be32(struct buf *b, uint32_t v)
{
    const uint8_t bytes[] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    buf_add(b, bytes, sizeof(bytes));
}

void buf_add_be64(struct buf *b, uint64_t v)
{
    buf_add_be32(b, (uint32_t)(v >> 32));
    buf_add_be32(b, (uint32_t)v);
}

const char *buf_cstr(struct buf *b)
{
    if (b->overflow || b->len == 0) {
        return "";
    }
    b->data[b->len] = '\0';
    return b->data;
}

/* What a byte needs inside a JSON string: 0 nothing, 'u' \u00XX, '8' a look at UTF-8, else the
 * letter after \. */
// clang-format off
static const char json_ascii[128] = {
    'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'b', 't', 'n', 'u', 'f', 'r', 'u', 'u',
    'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u',
    ['"'] = '"', ['\\'] = '\\',
};
// clang-format on

static inline int json_class(uint8_t c)
{
    return c < sizeof(json_ascii) ? json_ascii[c] : '8';
}

static size_t add_escaped(struct buf *b, const uint8_t *s, size_t left, int class)
{
    static const char hex[] = "0123456789abcdef";
    if (class == '8') {
        bool valid = false;
        size_t n = utf8_sequence((const char *)s, left, &valid);
        if (valid) {
            buf_add(b, s, n);
        } else {
            buf_add(b, "\xef\xbf\xbd", 3);
        }
        return n;
    }
    if (class == 'u') {
        const char text[] = {'\\', 'u', '0', '0', hex[*s >> 4], hex[*s & 15]};
        buf_add(b, text, sizeof(text));
    } else {
        const char text[] = {'\\', (char)class};
        buf_add(b, text, sizeof(text));
    }
    return 1;
}

void buf_add_json_string(struct buf *b, const char *s, size_t len)
{
    const uint8_t *bytes = (const uint8_t *)s;
    buf_add(b, "\"", 1);
    size_t i = 0;
    while (i < len && !b->overflow) {
        size_t plain = i;
        while (plain < len && json_class(bytes[plain]) == 0) {
            plain++;
        }
        buf_add(b, bytes + i, plain - i);
        i = plain;
        if (i < len) {
            i += add_escaped(b, bytes + i, len - i, json_class(bytes[i]));
        }
    }
    buf_add(b, "\"", 1);
}
