/* A webhook's secret on its way from the request, or from the random generator, into its sealed
 * column and once into an answer. */
#ifndef NRW_WEBHOOK_SECRET_H
#define NRW_WEBHOOK_SECRET_H

#include <jansson.h>
#include <stddef.h>

#include "bounds.h"
#include "buf.h"
#include "call.h"
#include "ids.h"

struct webhook_secret {
    size_t len; /* 0: none */
    char text[LIMIT_SECRET + 1];
};

#define WEBHOOK_BLOB_MAX 1024 /* the table's own bound */

/* Set them up with {0}; cleanse them when they are done with. */
void webhook_secret_set(struct webhook_secret *s, const char *text, size_t len);
/* "whsec_" and the base64 of 32 random bytes. CHECKs that there are any. */
void webhook_secret_make(struct webhook_secret *s);
/* The same, but for this key of this tenant it is always the same one, which nobody else can make.
 */
void webhook_secret_derive(struct call *c, const char *key, struct webhook_secret *ret);
bool webhook_secret_equal(const struct webhook_secret *a, const struct webhook_secret *b);
void webhook_secret_cleanse(struct webhook_secret *s);

/* Sealed for this column ("webhooks.secret" or "webhooks.previous_secret") of the caller's webhook.
 * ret_blob is set up by the caller. False: answered with 500, logged. */
bool webhook_secret_seal(struct call *c, const struct uuid *webhook_id, const char *column,
                         const struct webhook_secret *s, struct buf *ret_blob) MUST_CHECK;

/* The reverse, for webhooks.secret. False: as above. */
bool webhook_secret_open(struct call *c, const struct uuid *webhook_id, const void *blob,
                         size_t len, struct webhook_secret *ret) MUST_CHECK;

/* The member `secret` of an answer. */
json_t *webhook_secret_json(const struct webhook_secret *s);

#endif
