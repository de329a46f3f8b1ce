/* Secrets at rest: AES-256-GCM with a key ring.
 * Blob = 0x01 | key id (1 byte length n, n bytes) | 12-byte random nonce | ciphertext | 16-byte
 * tag. The additional data binds a blob to its row: struct seal_aad. A blob moved to another row
 * does not open (R53). */
#ifndef NRW_SEAL_H
#define NRW_SEAL_H

#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "err.h"
#include "ids.h"

struct keyring;

/* text: NRW_KEYRING as config.def describes it: "id:base64[,id:base64…]", a newline separates like
 * a comma, blanks around entries and empty entries are ignored; ids 1-32 of [A-Za-z0-9_-], unique,
 * keys exactly 32 bytes, 1-16 entries; the first entry seals, all open. Errors never quote key
 * material. */
struct keyring *keyring_new(const char *text, struct err *err) MUST_CHECK;
void keyring_free(struct keyring *k);                  /* cleanses */
const char *keyring_first_id(const struct keyring *k); /* of the key that seals */

/* "webhooks.secret" or "webhooks.previous_secret", row and tenant. The additional data of GCM is
 * 0x01 | n | key id (the blob's own first bytes) | column | 0x00 | row (16 bytes) | tenant (16
 * bytes). */
struct seal_aad {
    const char *column;
    struct uuid row;
    struct uuid tenant;
};

bool seal(const struct keyring *k, const struct seal_aad *aad, const void *plain, size_t len,
          struct buf *ret_blob, struct err *err) MUST_CHECK;
/* ret_plain: caller's array of LIMIT_SECRET bytes, filled only after the tag verified. */
bool seal_open(const struct keyring *k, const struct seal_aad *aad, const void *blob, size_t len,
               char *ret_plain, size_t *ret_len, struct err *err) MUST_CHECK;

/* HMAC-SHA256 with the key that seals: what nobody without this key ring can foresee, and whoever
 * has it makes again. data begins with what it is for, so that no two uses meet. */
#define KEYRING_MAC_LEN 32
void keyring_mac(const struct keyring *k, const void *data, size_t len,
                 unsigned char ret[KEYRING_MAC_LEN]);

#endif
