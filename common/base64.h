/* Base64 (RFC 4648) in its two alphabets. Standard, section 4: keys and secrets, as people paste
 * them. URL-safe, section 5, never padded: JSON Web Tokens and the API's cursors. */
#ifndef NRW_BASE64_H
#define NRW_BASE64_H

#include <stdbool.h>
#include <stddef.h>

/* Strict alphabet, padding either right or absent; stray bits in the last character are ignored, as
 * the libraries of other languages do. False: not base64, or more than room bytes; out may then
 * hold a part: cleanse it. */
bool base64_decode(const char *text, size_t len, unsigned char *out, size_t room, size_t *ret_len);

/* Takes one text for each sequence of bytes, the one that base64url_encode() writes: padding and
 * stray bits are refused. False and out as above. */
bool base64url_decode(const char *text, size_t len, unsigned char *out, size_t room,
                      size_t *ret_len);

#define BASE64_SIZE(len) (((len) + 2) / 3 * 4 + 1) /* of a text with its NUL, padded or not */

/* Write len bytes as text with a NUL into an array of BASE64_SIZE(len); return strlen(out). */
size_t base64_encode(const void *data, size_t len, char *out); /* padded */
size_t base64url_encode(const void *data, size_t len, char *out);

#endif
