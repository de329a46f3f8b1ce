/* Base64 to bytes, for keys and secrets. Why not OpenSSL's EVP_DecodeBlock: it skips blanks, wants
 * padding and counts it into the result. (Writing base64 is EVP_EncodeBlock's job.) Called by
 * sign.c and seal.c. */
#include "base64.h"

#include <stdint.h>

static int value_of(char c)
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
    if (c == '+') {
        return 62;
    }
    return c == '/' ? 63 : -1;
}

bool base64_decode(const char *text, size_t len, unsigned char *out, size_t room, size_t *ret_len)
{
    if (len % 4 == 0 && len > 0 && text[len - 1] == '=') {
        len -= text[len - 2] == '=' ? 2 : 1;
    }
    if (len % 4 == 1 || len / 4 * 3 + (len % 4) * 3 / 4 > room) {
        return false;
    }
    uint32_t bits = 0;
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int v = value_of(text[i]);
        if (v < 0) {
            return false;
        }
        bits = bits << 6 | (uint32_t)v;
        if (i % 4 != 0) { /* the first of four characters completes no byte, each other one does */
            out[n++] = (unsigned char)(bits >> (6 - 2 * (i % 4)));
        }
    }
    *ret_len = n;
    return true;
}
