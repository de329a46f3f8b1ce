/* HMAC-SHA256 signatures of one secret. Both keys are hashed into a context at birth; a signature
 * duplicates that context (about 1 us) instead of fetching and keying a new one. Knows nothing of
 * rotation: two secrets are two signers. Called by the delivery's sign step; the secret comes out
 * of seal.c. */
#include "sign.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base64.h"
#include "bounds.h"
#include "mem.h"

#define SHA256_LEN 32
#define WHSEC      "whsec_"

struct signer {
    EVP_MAC_CTX *typed;    /* the bytes as the customer typed them */
    EVP_MAC_CTX *standard; /* what Standard Webhooks makes of them */
};

/* The error queue is shared with libcurl's TLS: what is left in it would be read there as a broken
 * connection. */
static bool crypto_failed(struct err *err, const char *what)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    (void)err_set(err, ERR_CRYPTO, "HMAC-SHA256: %s failed (%s)", what,
                  reason != NULL ? reason : "no reason given");
    ERR_clear_error();
    if (err != NULL) {
        err->ours = true;
    }
    return false;
}

static EVP_MAC_CTX *keyed_context(const unsigned char *key, size_t len, struct err *err)
{
    static EVP_MAC *hmac; /* fetched once per process, kept */
    if (hmac == NULL) {
        hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    }
    EVP_MAC_CTX *ctx = hmac == NULL ? NULL : EVP_MAC_CTX_new(hmac);
    if (ctx == NULL) {
        (void)crypto_failed(err, "a new context");
        return NULL;
    }
    char digest[] = "SHA256";
    const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                                 OSSL_PARAM_construct_end()};
    if (EVP_MAC_init(ctx, key, len, params) != 1) {
        EVP_MAC_CTX_free(ctx);
        (void)crypto_failed(err, "setting the key");
        return NULL;
    }
    return ctx;
}

struct signer *signer_new(const char *secret, size_t len, struct err *err)
{
    if (len < 1 || len > LIMIT_SECRET) {
        (void)err_set(err, ERR_INVALID, "the secret has %zu bytes, not 1 to %d", len, LIMIT_SECRET);
        return NULL;
    }
    const size_t prefix = sizeof(WHSEC) - 1;
    unsigned char decoded[LIMIT_SECRET];
    size_t decoded_len = 0;
    const unsigned char *typed = (const unsigned char *)secret;
    bool whsec =
        len > prefix && memcmp(secret, WHSEC, prefix) == 0 &&
        base64_decode(secret + prefix, len - prefix, decoded, sizeof(decoded), &decoded_len) &&
        decoded_len > 0;
    struct signer *s = mem_zero(1, sizeof(*s));
    s->typed = keyed_context(typed, len, err);
    s->standard = s->typed == NULL
                      ? NULL
                      : keyed_context(whsec ? decoded : typed, whsec ? decoded_len : len, err);
    OPENSSL_cleanse(decoded, sizeof(decoded));
    if (s->standard == NULL) {
        signer_free(s);
        return NULL;
    }
    return s;
}

void signer_free(struct signer *s)
{
    if (s == NULL) {
        return;
    }
    EVP_MAC_CTX_free(s->typed); /* cleanses the key */
    EVP_MAC_CTX_free(s->standard);
    free(s);
}

/* HMAC over head, then body. */
static bool mac(const EVP_MAC_CTX *keyed, const char *head, size_t head_len, const void *body,
                size_t len, unsigned char out[SHA256_LEN], struct err *err)
{
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_dup(keyed);
    size_t out_len = 0;
    bool ok = ctx != NULL && EVP_MAC_update(ctx, (const unsigned char *)head, head_len) == 1 &&
              (len == 0 || EVP_MAC_update(ctx, body, len) == 1) &&
              EVP_MAC_final(ctx, out, &out_len, SHA256_LEN) == 1 && out_len == SHA256_LEN;
    EVP_MAC_CTX_free(ctx);
    return ok || crypto_failed(err, "a signature");
}

bool signer_netrecon(const struct signer *s, const void *body, size_t len,
                     char out[SIGN_NETRECON_SIZE], struct err *err)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char sum[SHA256_LEN];
    if (!mac(s->typed, "", 0, body, len, sum, err)) {
        return false;
    }
    char *at = mempcpy(out, "sha256=", sizeof("sha256=") - 1);
    for (size_t i = 0; i < sizeof(sum); i++) {
        *at++ = hex[sum[i] >> 4];
        *at++ = hex[sum[i] & 15];
    }
    *at = '\0';
    return true;
}

bool signer_standard(const struct signer *s, const char *webhook_id, int64_t timestamp_s,
                     const void *body, size_t len, char out[SIGN_STANDARD_SIZE], struct err *err)
{
    char head[256];
    int head_len = snprintf(head, sizeof(head), "%s.%lld.", webhook_id, (long long)timestamp_s);
    if (head_len < 0 || (size_t)head_len >= sizeof(head)) {
        return err_set(err, ERR_INVALID, "webhook-id of %zu bytes is too long to sign",
                       strlen(webhook_id));
    }
    unsigned char sum[SHA256_LEN];
    if (!mac(s->standard, head, (size_t)head_len, body, len, sum, err)) {
        return false;
    }
    char *at = mempcpy(out, "v1,", sizeof("v1,") - 1);
    (void)EVP_EncodeBlock((unsigned char *)at, sum, sizeof(sum)); /* adds the NUL */
    return true;
}
