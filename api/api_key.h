/* API keys: what a caller shows in `X-API-Key`. "nr_live_" and 48 lower-case hex digits, 192 random
 * bits. Nobody keeps a key, only its SHA-256 (api_keys.key_sha256): so much randomness needs no
 * slow hash, and a look-up by hash tells nothing through its timing. */
#ifndef NRW_API_KEY_H
#define NRW_API_KEY_H

#include <stdbool.h>
#include <stddef.h>

#define API_KEY_PREFIX "nr_live_"
#define API_KEY_TEXT   (sizeof(API_KEY_PREFIX) - 1 + 48)
#define API_KEY_SHA256 32

/* A new key with its NUL, from RAND_bytes; CHECKs that it worked. The caller cleanses it. */
void api_key_make(char out[API_KEY_TEXT + 1]);

/* SHA-256 of the text as it was shown; text need not be NUL-terminated. False, and out untouched:
 * no key of ours looks like that, there is nothing to look up. */
bool api_key_hash(const char *text, size_t len, unsigned char out[API_KEY_SHA256]);

#endif
