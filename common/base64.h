/* Standard base64 (RFC 4648 section 4) as people paste it: padded or not. */
#ifndef NRW_BASE64_H
#define NRW_BASE64_H

#include <stdbool.h>
#include <stddef.h>

/* Strict alphabet, padding either right or absent; stray bits in the last character are ignored, as
 * the libraries of other languages do. False: not base64, or more than room bytes; out may then
 * hold a part: cleanse it. */
bool base64_decode(const char *text, size_t len, unsigned char *out, size_t room, size_t *ret_len);

#endif
