/* The two signatures of a webhook request, spec/platform.md section 3.
 *   X-NetRecon-Signature: sha256=<hex>      HMAC-SHA256(body), key = the secret's bytes as typed
 *   webhook-signature:    v1,<base64>       HMAC-SHA256(id "." timestamp "." body), Standard
 * Webhooks 1.0.0; key = decoded remainder of "whsec_…", else the secret's bytes A signer holds both
 * keys ready (two keyed contexts that are only duplicated per signature). */
#ifndef NRW_SIGN_H
#define NRW_SIGN_H

#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "ids.h"

struct signer;

/* secret: 1..LIMIT_SECRET bytes, borrowed for the call. A "whsec_" secret whose remainder is not
 * padded or unpadded standard base64 of at least one byte is taken as plain bytes. NULL: err is set
 * (ERR_CRYPTO, ours, or ERR_INVALID). */
struct signer *signer_new(const char *secret, size_t len, struct err *err) MUST_CHECK;
void signer_free(struct signer *s);

#define SIGN_NETRECON_SIZE (sizeof("sha256=") + 64)
#define SIGN_STANDARD_SIZE (sizeof("v1,") + 44)

/* NUL-terminated header values. body: any bytes, may be empty. Never blocks, never logs. False:
 * ERR_CRYPTO (ours). */
bool signer_netrecon(const struct signer *s, const void *body, size_t len,
                     char out[SIGN_NETRECON_SIZE], struct err *err) MUST_CHECK;
bool signer_standard(const struct signer *s, const char *webhook_id, int64_t timestamp_s,
                     const void *body, size_t len, char out[SIGN_STANDARD_SIZE],
                     struct err *err) MUST_CHECK;

#endif
