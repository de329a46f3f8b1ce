/* Base64 to bytes and back, for keys, secrets, tokens and cursors. Why not OpenSSL's
 * EVP_DecodeBlock: it skips blanks, wants padding and counts it into the result; and neither
 * direction of it knows the URL-safe alphabet. Called by sign.c, seal.c and the API. */
#include "base64.h"

#include <stdint.h>

struct alphabet {
    char c62;
    char c63;
};
static const struct alphabet standard = {'+', '/'};
static const struct alphabet url_safe = {'-', '_'};

static int value_of(const struct alphabet *a, char c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    if (c == a->c62) {
        return 62;
    }
    return c == a->c63 ? 63 : -1;
}

/* Without padding. *ret_stray: the bits of the last character that belong to no byte. */
static bool decode(const struct alphabet *a, const char *text, size_t len, unsigned char *out,
                   size_t room, size_t *ret_len, uint32_t *ret_stray)
{
    if (len % 4 == 1 || len / 4 * 3 + (len % 4) * 3 / 4 > room) {
        return false;
    }
    uint32_t bits = 0;
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int v = value_of(a, text[i]);
        if (v < 0) {
            return false;
        }
        bits = bits << 6 | (uint32_t)v;
        if (i % 4 != 0) { /* the first of four characters completes no byte, each other one does */
            out[n++] = (unsigned char)(bits >> (6 - 2 * (i % 4)));
        }
    }
    *ret_len = n;
    *ret_stray = len % 4 == 0 ? 0 : bits & (len % 4 == 2 ? 0xfU : 3U);
    return true;
}

bool base64_decode(const char *text, size_t len, unsigned char *out, size_t room, size_t *ret_len)
{
    uint32_t stray = 0;
    if (len % 4 == 0 && len > 0 && text[len - 1] == '=') {
        len -= text[len - 2] == '=' ? 2 : 1;
    }
    return decode(&standard, text, len, out, room, ret_len, &stray);
}

bool base64url_decode(const char *text, size_t len, unsigned char *out, size_t room,
                      size_t *ret_len)
{
    uint32_t stray = 0;
    size_t n = 0;
    if (!decode(&url_safe, text, len, out, room, &n, &stray) || stray != 0) {
        return false;
    }
    *ret_len = n;
    return true;
}

static char letter_of(const struct alphabet *a, uint32_t v)
{
    static const char first[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    if (v < 62) {
        return first[v];
    }
    return (char)(v == 62 ? a->c62 : a->c63);
}

static size_t encode(const struct alphabet *a, const unsigned char *data, size_t len, char *out)
{
    char *at = out;
    for (size_t i = 0; i < len; i += 3) {
        const size_t n = len - i < 3 ? len - i : 3; /* bytes become n + 1 characters */
        uint32_t bits = (uint32_t)data[i] << 16;
        bits |= n > 1 ? (uint32_t)data[i + 1] << 8 : 0;
        bits |= n > 2 ? data[i + 2] : 0;
        for (size_t j = 0; j <= n; j++) {
            *at++ = letter_of(a, bits >> (18 - 6 * j) & 63);
        }
    }
    *at = '\0';
    return (size_t)(at - out);
}

size_t base64_encode(const void *data, size_t len, char *out)
{
    size_t n = encode(&standard, data, len, out);
    while (n % 4 != 0) {
        out[n++] = '=';
    }
    out[n] = '\0';
    return n;
}

size_t base64url_encode(const void *data, size_t len, char *out)
{
    return encode(&url_safe, data, len, out);
}
