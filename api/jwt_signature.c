/* Is this the signature of that text by this key? The three algorithms on OpenSSL; what the text
 * means is jwt.c's, its only caller. Leaves OpenSSL's error queue empty. */
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/hmac.h>

#include "jwt_internal.h"

#define SHA256_LEN   32
#define P256_LEN     ((size_t)32)
#define P256_DER_MAX 72 /* two integers of up to 33 bytes in a sequence */
#define WRONG        "token: the signature is wrong"

static bool crypto_failed(struct err *err, const char *what)
{
    ERR_clear_error();
    (void)err_set(err, ERR_CRYPTO, "token: OpenSSL failed at %s", what);
    if (err != NULL) {
        err->ours = true;
    }
    return false;
}

static bool check_hmac(const struct jwt_key *key, const char *text, size_t text_len,
                       const unsigned char *signature, size_t len, struct err *err)
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (HMAC(EVP_sha256(), key->secret, (int)key->secret_len, (const unsigned char *)text, text_len,
             sum, &n) == NULL) {
        return crypto_failed(err, "HMAC-SHA256");
    }
    const bool right = len == SHA256_LEN && n == len && CRYPTO_memcmp(sum, signature, len) == 0;
    OPENSSL_cleanse(sum, sizeof(sum)); /* it is what a forger wants */
    return right || err_set(err, ERR_DENIED, WRONG);
}

/* der: P256_DER_MAX bytes. */
static bool der_of_raw(const unsigned char *raw, unsigned char *der, size_t *ret_len)
{
    ECDSA_SIG *pair = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(raw, (int)P256_LEN, NULL);
    BIGNUM *s = BN_bin2bn(raw + P256_LEN, (int)P256_LEN, NULL);
    if (pair == NULL || r == NULL || s == NULL) {
        ECDSA_SIG_free(pair);
        BN_free(r);
        BN_free(s);
        return false;
    }
    (void)ECDSA_SIG_set0(pair, r, s); /* takes both; fails only on NULL */
    const int len = i2d_ECDSA_SIG(pair, NULL);
    const bool ok = len > 0 && len <= P256_DER_MAX && i2d_ECDSA_SIG(pair, &der) == len;
    ECDSA_SIG_free(pair);
    *ret_len = ok ? (size_t)len : 0;
    return ok;
}

static bool check_public(const struct jwt_key *key, const char *text, size_t text_len,
                         const unsigned char *signature, size_t len, struct err *err)
{
    unsigned char der[P256_DER_MAX];
    if (key->alg == JWT_ES256) {
        if (len != 2 * P256_LEN) {
            return err_set(err, ERR_DENIED, "token: an ES256 signature of %zu bytes, not 64", len);
        }
        if (!der_of_raw(signature, der, &len)) {
            return crypto_failed(err, "an ECDSA signature");
        }
        signature = der;
    }
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (ctx == NULL || EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key->public) != 1) {
        EVP_MD_CTX_free(ctx);
        return crypto_failed(err, "beginning to verify");
    }
    const bool right =
        EVP_DigestVerify(ctx, signature, len, (const unsigned char *)text, text_len) == 1;
    EVP_MD_CTX_free(ctx);
    ERR_clear_error(); /* OpenSSL notes what was wrong with a wrong signature */
    return right || err_set(err, ERR_DENIED, WRONG);
}

bool jwt_signature_check(const struct jwt_key *key, const char *text, size_t text_len,
                         const unsigned char *signature, size_t len, struct err *err)
{
    return key->alg == JWT_HS256 ? check_hmac(key, text, text_len, signature, len, err)
                                 : check_public(key, text, text_len, signature, len, err);
}
