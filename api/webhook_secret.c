/* Owns where a secret lies in this program: in this struct, in a request, in an answer, and nowhere
 * after them (see cleanse_what_is_freed() of service.c). Knows no route. */
#include "webhook_secret.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>

#include "base64.h"
#include "check.h"
#include "log.h"
#include "seal.h"

#define PREFIX    "whsec_"
#define KEY_BYTES 32

void webhook_secret_set(struct webhook_secret *s, const char *text, size_t len)
{
    CHECK(len >= 1 && len <= LIMIT_SECRET);
    memcpy(s->text, text, len);
    s->text[len] = '\0';
    s->len = len;
}

static void set_generated(struct webhook_secret *s, unsigned char bytes[KEY_BYTES])
{
    _Static_assert(sizeof(PREFIX) + BASE64_SIZE(KEY_BYTES) <= sizeof(s->text), "it fits");
    memcpy(s->text, PREFIX, sizeof(PREFIX) - 1);
    s->len = sizeof(PREFIX) - 1 + base64_encode(bytes, KEY_BYTES, s->text + sizeof(PREFIX) - 1);
    OPENSSL_cleanse(bytes, KEY_BYTES);
}

void webhook_secret_make(struct webhook_secret *s)
{
    unsigned char random[KEY_BYTES];
    CHECK(RAND_bytes(random, sizeof(random)) == 1);
    set_generated(s, random);
}

void webhook_secret_derive(struct call *c, const char *key, struct webhook_secret *ret)
{
    static const char purpose[] = "secret of a webhook"; /* with its NUL */
    unsigned char mac[KEYRING_MAC_LEN];
    struct buf data;
    _Static_assert(KEYRING_MAC_LEN == KEY_BYTES, "it is used whole");
    buf_init(&data, sizeof(purpose) + sizeof(c->who.tenant_id.b) + LIMIT_IDEMPOTENCY_KEY);
    buf_add(&data, purpose, sizeof(purpose));
    buf_add(&data, c->who.tenant_id.b, sizeof(c->who.tenant_id.b));
    buf_add_str(&data, key);
    CHECK(buf_ok(&data));
    keyring_mac(c->api->keys, data.data, data.len, mac);
    buf_done(&data);
    set_generated(ret, mac);
}

bool webhook_secret_equal(const struct webhook_secret *a, const struct webhook_secret *b)
{
    return a->len == b->len && CRYPTO_memcmp(a->text, b->text, a->len) == 0;
}

void webhook_secret_cleanse(struct webhook_secret *s)
{
    OPENSSL_cleanse(s, sizeof(*s));
}

static struct seal_aad aad_of(const struct call *c, const struct uuid *webhook_id,
                              const char *column)
{
    return (struct seal_aad){.column = column, .row = *webhook_id, .tenant = c->who.tenant_id};
}

static bool failed(struct call *c, const struct uuid *webhook_id, const struct err *err)
{
    log_error("api.secret_failed", F_STR("request_id", c->request_id),
              F_UUID("webhook", webhook_id), F_ERR(err));
    call_problem(c, PROBLEM_INTERNAL, "the secret could not be sealed or opened");
    return false;
}

bool webhook_secret_seal(struct call *c, const struct uuid *webhook_id, const char *column,
                         const struct webhook_secret *s, struct buf *ret_blob)
{
    const struct seal_aad aad = aad_of(c, webhook_id, column);
    struct err err = {0};
    return seal(c->api->keys, &aad, s->text, s->len, ret_blob, &err) || failed(c, webhook_id, &err);
}

bool webhook_secret_open(struct call *c, const struct uuid *webhook_id, const void *blob,
                         size_t len, struct webhook_secret *ret)
{
    const struct seal_aad aad = aad_of(c, webhook_id, "webhooks.secret");
    struct err err = {0};
    if (!seal_open(c->api->keys, &aad, blob, len, ret->text, &ret->len, &err)) {
        return failed(c, webhook_id, &err);
    }
    ret->text[ret->len] = '\0';
    return true;
}

json_t *webhook_secret_json(const struct webhook_secret *s)
{
    json_t *text = json_stringn(s->text, s->len);
    CHECK(text != NULL);
    return text;
}
