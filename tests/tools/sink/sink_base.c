/* Slices, numbers and percent-encoding for the test receiver. Owns no memory and no state.
 * It does not know HTTP; sink_http.c, sink_behave.c and sink_control.c call it. */
#include "sink_base.h"

#include <string.h>
#include <strings.h>

bool slice_is(struct slice s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
}

bool slice_is_nocase(struct slice s, const char *text)
{
    return s.len == strlen(text) && strncasecmp(s.p, text, s.len) == 0;
}

bool slice_number(struct slice s, uint64_t max, uint64_t *ret)
{
    uint64_t n = 0;
    if (s.p == NULL || s.len == 0 || s.len > 19)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        n = n * 10 + (uint64_t)(s.p[i] - '0');
    }
    if (n > max)
        return false;
    *ret = n;
    return true;
}

bool slice_duration(struct slice s, int64_t max_us, int64_t *ret_us)
{
    size_t digits = 0;
    while (digits < s.len && s.p[digits] >= '0' && s.p[digits] <= '9')
        digits++;
    struct slice unit = {s.p + digits, s.len - digits};
    uint64_t scale;
    if (unit.len == 0 || slice_is(unit, "ms")) {
        scale = 1000;
    } else if (slice_is(unit, "s")) {
        scale = 1000000;
    } else if (slice_is(unit, "us")) {
        scale = 1;
    } else {
        return false;
    }
    uint64_t n;
    if (!slice_number((struct slice){s.p, digits}, (uint64_t)max_us / scale, &n))
        return false;
    *ret_us = (int64_t)(n * scale);
    return true;
}

uint64_t slice_hash(struct slice s, uint64_t seed)
{
    uint64_t h = 0xcbf29ce484222325u ^ seed; /* FNV-1a: short keys, no adversary in a test */
    for (size_t i = 0; i < s.len; i++)
        h = (h ^ (uint8_t)s.p[i]) * 0x100000001b3u;
    return h ^ (h >> 32);
}

bool query_next(struct slice *rest, struct slice *ret_key, struct slice *ret_value)
{
    while (rest->len > 0 && *rest->p == '&') {
        rest->p++;
        rest->len--;
    }
    if (rest->p == NULL || rest->len == 0)
        return false;
    const char *end = memchr(rest->p, '&', rest->len);
    size_t len = end == NULL ? rest->len : (size_t)(end - rest->p);
    const char *equals = memchr(rest->p, '=', len);
    *ret_key = (struct slice){rest->p, equals == NULL ? len : (size_t)(equals - rest->p)};
    *ret_value = (struct slice){NULL, 0};
    if (equals != NULL)
        *ret_value = (struct slice){equals + 1, len - ret_key->len - 1};
    rest->p += len;
    rest->len -= len;
    return true;
}

struct slice query_get(struct slice query, const char *key)
{
    struct slice k;
    struct slice v;
    while (query_next(&query, &k, &v)) {
        if (slice_is(k, key) && v.p != NULL)
            return v;
    }
    return (struct slice){NULL, 0};
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool percent_decode(struct slice s, char *out, size_t size, size_t *ret_len)
{
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.p[i];
        if (c == '+')
            c = ' ';
        if (c == '%' && i + 2 < s.len && hex_digit(s.p[i + 1]) >= 0 && hex_digit(s.p[i + 2]) >= 0) {
            c = (char)(hex_digit(s.p[i + 1]) * 16 + hex_digit(s.p[i + 2]));
            i += 2;
        }
        if (c == '\0' || n + 1 >= size)
            return false;
        out[n++] = c;
    }
    if (n >= size)
        return false;
    out[n] = '\0';
    *ret_len = n;
    return true;
}
