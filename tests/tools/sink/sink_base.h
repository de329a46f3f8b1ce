/* Slices of bytes that belong to somebody else, and the text of URLs. */
#ifndef NRW_SINK_BASE_H
#define NRW_SINK_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct slice {
    const char *p; /* NULL: absent, which is not the same as empty */
    size_t len;
};

#define SLICE_INIT(literal)                                                                        \
    {                                                                                              \
        (literal), sizeof(literal) - 1                                                             \
    }
#define SLICE(literal) ((struct slice)SLICE_INIT(literal))

bool slice_is(struct slice s, const char *text);
bool slice_is_nocase(struct slice s, const char *text);
bool slice_number(struct slice s, uint64_t max, uint64_t *ret);
/* "100ms", "2s", "250us", "40" (milliseconds) -> microseconds */
bool slice_duration(struct slice s, int64_t max_us, int64_t *ret_us);
uint64_t slice_hash(struct slice s, uint64_t seed);

/* Cuts the next key[=value] off a query; value.p is NULL without '='. */
bool query_next(struct slice *rest, struct slice *ret_key, struct slice *ret_value);
/* The raw value of a key, or an absent slice. */
struct slice query_get(struct slice query, const char *key);
/* %XX and '+' decoded, NUL-terminated; false when it does not fit or contains a NUL. */
bool percent_decode(struct slice s, char *out, size_t size, size_t *ret_len);

#endif
