/* Fuzz target: a key ring text and a blob, as an operator and the database may hand them over.
 * Input = text, NUL, blob. Random bytes never carry a right tag, so for a ring that is accepted it
 * also seals a part of the input and opens it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "check.h"
#include "mem.h"
#include "seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void seal_and_open(const struct keyring *k, const struct seal_aad *aad, const uint8_t *plain,
                          size_t len)
{
    struct err err = {0};
    struct buf blob;
    char out[LIMIT_SECRET];
    size_t out_len = 0;
    buf_init(&blob, 1024);
    bool fits = len >= 1 && len <= LIMIT_SECRET;
    CHECK(seal(k, aad, plain, len, &blob, &err) == fits);
    if (fits) {
        CHECK(seal_open(k, aad, blob.data, blob.len, out, &out_len, &err));
        CHECK(out_len == len && memcmp(out, plain, len) == 0);
        blob.data[plain[0] % blob.len] ^= 1;
        CHECK(!seal_open(k, aad, blob.data, blob.len, out, &out_len, &err));
    }
    buf_done(&blob);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char usual[] = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const struct seal_aad aad = {.column = "webhooks.secret"};
    const uint8_t *nul = size > 0 ? memchr(data, '\0', size) : NULL;
    size_t text_len = nul != NULL ? (size_t)(nul - data) : size;
    char *text = mem_dupn((const char *)data, text_len);
    struct err err = {0};
    struct keyring *k = keyring_new(text, &err);
    if (k == NULL) { /* go on with a good ring: the blob is the other half */
        CHECK(err.code == ERR_INVALID && err.text[0] != '\0');
        k = keyring_new(usual, &err);
        CHECK(k != NULL);
    }
    size_t blob_len = nul != NULL ? size - text_len - 1 : 0;
    const uint8_t *blob = data + (size - blob_len);
    char plain[LIMIT_SECRET];
    size_t plain_len = 0;
    if (seal_open(k, &aad, blob, blob_len, plain, &plain_len, &err)) {
        CHECK(plain_len >= 1 && plain_len <= LIMIT_SECRET);
    } else {
        CHECK(err.code == ERR_CRYPTO && err.ours);
    }
    if (blob_len > 0) {
        seal_and_open(k, &aad, blob, blob_len);
    }
    keyring_free(k);
    free(text);
    return 0;
}
