/* The form of an API key and its hash. Does not know where hashes are kept, who a key belongs to or
 * whether it still counts. Called by auth.c for each request that shows a key, and by keys.c. */
#include "api_key.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

#include "check.h"

#define PREFIX_LEN (sizeof(API_KEY_PREFIX) - 1)
#define RANDOM_LEN ((API_KEY_TEXT - PREFIX_LEN) / 2)

void api_key_make(char out[API_KEY_TEXT + 1])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char random[RANDOM_LEN];
    CHECK(RAND_bytes(random, sizeof(random)) == 1);
    char *at = mempcpy(out, API_KEY_PREFIX, PREFIX_LEN);
    for (size_t i = 0; i < sizeof(random); i++) {
        *at++ = hex[random[i] >> 4];
        *at++ = hex[random[i] & 15];
    }
    *at = '\0';
    OPENSSL_cleanse(random, sizeof(random));
}

static bool is_lower_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

bool api_key_hash(const char *text, size_t len, unsigned char out[API_KEY_SHA256])
{
    static EVP_MD *sha256; /* fetched once: a fetch per call costs more than the hash */
    if (len != API_KEY_TEXT || memcmp(text, API_KEY_PREFIX, PREFIX_LEN) != 0) {
        return false;
    }
    for (size_t i = PREFIX_LEN; i < len; i++) {
        if (!is_lower_hex(text[i])) {
            return false;
        }
    }
    if (sha256 == NULL) {
        sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
        CHECK(sha256 != NULL);
    }
    CHECK(EVP_Digest(text, len, out, NULL, sha256, NULL) == 1);
    return true;
}
