/* Tokens for tests: keys of every kind, made once per program, and whoever holds them. Signs with
 * OpenSSL directly and anything that it is given: making wrong tokens is what it is for. */
#ifndef NRW_TEST_JWT_FIXTURE_H
#define NRW_TEST_JWT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rsa.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base64.h"
#include "jwt.h"

#define JWT_MAYBE  __attribute__((unused))
#define JWT_SHARED "a shared secret of 36 bytes or more!" /* NRW_JWT_SECRET */
#define JWT_OCT    "the 32 bytes of the key named hs"     /* in the set, as its members are */
#define JWT_ROOM   16384                                  /* of a token or a piece of one   */

/* Who signs. The first four are known to jwt_fixture.keys, as kid "" (none), hs, rs and es. */
enum jwt_signer { BY_SHARED, BY_HS, BY_RS, BY_ES, BY_STRANGER_RS, BY_STRANGER_ES, BY_NOBODY };

JWT_MAYBE static struct {
    EVP_PKEY *rs;
    EVP_PKEY *es;
    EVP_PKEY *stranger_rs;
    EVP_PKEY *stranger_es;
    char set[4096]; /* hs, rs, es */
    struct jwt_keys *keys;
} jwt_fixture;

/* snprintf that must fit. */
JWT_MAYBE static void jwt_format(char *out, size_t size, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void jwt_format(char *out, size_t size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(out, size, fmt, args);
    va_end(args);
    assert_true(n >= 0 && (size_t)n < size);
}

/* A number of a key as base64url; width: leading zeros up to so many bytes (0: none). */
JWT_MAYBE static void jwt_number(const EVP_PKEY *key, const char *param, size_t width, char *out)
{
    BIGNUM *v = NULL;
    unsigned char bytes[1024];
    assert_int_equal(1, EVP_PKEY_get_bn_param(key, param, &v));
    const size_t len = width != 0 ? width : (size_t)BN_num_bytes(v);
    assert_true(len <= sizeof(bytes) && BN_bn2binpad(v, bytes, (int)len) == (int)len);
    base64url_encode(bytes, len, out);
    BN_free(v);
}

/* Members of a JWK after `kid`. */
JWT_MAYBE static void jwt_rsa_members(const EVP_PKEY *key, char *out, size_t size)
{
    char n[BASE64_SIZE(1024)];
    char e[BASE64_SIZE(1024)];
    jwt_number(key, OSSL_PKEY_PARAM_RSA_N, 0, n);
    jwt_number(key, OSSL_PKEY_PARAM_RSA_E, 0, e);
    jwt_format(out, size, "\"kty\":\"RSA\",\"alg\":\"RS256\",\"n\":\"%s\",\"e\":\"%s\"", n, e);
}

JWT_MAYBE static void jwt_ec_members(const EVP_PKEY *key, char *out, size_t size)
{
    char x[BASE64_SIZE(32)];
    char y[BASE64_SIZE(32)];
    jwt_number(key, OSSL_PKEY_PARAM_EC_PUB_X, 32, x);
    jwt_number(key, OSSL_PKEY_PARAM_EC_PUB_Y, 32, y);
    jwt_format(out, size,
               "\"kty\":\"EC\",\"alg\":\"ES256\",\"crv\":\"P-256\",\"x\":\"%s\",\"y\":\"%s\"", x,
               y);
}

/* As cmocka's group setup and teardown. */
JWT_MAYBE static int jwt_fixture_start(void **state)
{
    (void)state;
    jwt_fixture.rs = EVP_RSA_gen(2048);
    jwt_fixture.es = EVP_EC_gen("P-256");
    jwt_fixture.stranger_rs = EVP_RSA_gen(2048);
    jwt_fixture.stranger_es = EVP_EC_gen("P-256");
    assert_true(jwt_fixture.rs != NULL && jwt_fixture.es != NULL);
    assert_true(jwt_fixture.stranger_rs != NULL && jwt_fixture.stranger_es != NULL);
    char oct[BASE64_SIZE(sizeof(JWT_OCT) - 1)];
    char rsa[1024];
    char ec[512];
    base64url_encode(JWT_OCT, sizeof(JWT_OCT) - 1, oct);
    jwt_rsa_members(jwt_fixture.rs, rsa, sizeof(rsa));
    jwt_ec_members(jwt_fixture.es, ec, sizeof(ec));
    jwt_format(jwt_fixture.set, sizeof(jwt_fixture.set),
               "{\"keys\":[{\"kid\":\"hs\",\"kty\":\"oct\",\"alg\":\"HS256\",\"k\":\"%s\"},"
               "{\"kid\":\"rs\",%s},{\"kid\":\"es\",\"use\":\"sig\",%s}]}",
               oct, rsa, ec);
    struct err err = {0};
    jwt_fixture.keys = jwt_keys_new(JWT_SHARED, jwt_fixture.set, &err);
    assert_string_equal("", err.text);
    return jwt_fixture.keys == NULL ? -1 : 0;
}

JWT_MAYBE static int jwt_fixture_stop(void **state)
{
    (void)state;
    jwt_keys_free(jwt_fixture.keys);
    EVP_PKEY_free(jwt_fixture.rs);
    EVP_PKEY_free(jwt_fixture.es);
    EVP_PKEY_free(jwt_fixture.stranger_rs);
    EVP_PKEY_free(jwt_fixture.stranger_es);
    return 0;
}

JWT_MAYBE static size_t jwt_hmac(const void *key, size_t key_len, const char *text,
                                 unsigned char *out)
{
    unsigned n = 0;
    assert_non_null(
        HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)text, strlen(text), out, &n));
    return n;
}

/* The signature as OpenSSL has it: for ECDSA that is DER. pss: RSA's other padding. */
JWT_MAYBE static size_t jwt_sign_native(EVP_PKEY *key, bool pss, const char *text,
                                        unsigned char *out)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_PKEY_CTX *pkey_ctx = NULL;
    size_t len = 1024;
    assert_int_equal(1, EVP_DigestSignInit(ctx, &pkey_ctx, EVP_sha256(), NULL, key));
    if (pss) {
        assert_int_equal(1, EVP_PKEY_CTX_set_rsa_padding(pkey_ctx, RSA_PKCS1_PSS_PADDING));
    }
    assert_int_equal(1, EVP_DigestSign(ctx, out, &len, (const unsigned char *)text, strlen(text)));
    EVP_MD_CTX_free(ctx);
    return len;
}

JWT_MAYBE static size_t jwt_sign_es(EVP_PKEY *key, const char *text, unsigned char *out)
{
    unsigned char der[1024];
    const unsigned char *at = der;
    const size_t len = jwt_sign_native(key, false, text, der);
    ECDSA_SIG *pair = d2i_ECDSA_SIG(NULL, &at, (long)len);
    assert_non_null(pair);
    assert_int_equal(32, BN_bn2binpad(ECDSA_SIG_get0_r(pair), out, 32));
    assert_int_equal(32, BN_bn2binpad(ECDSA_SIG_get0_s(pair), out + 32, 32));
    ECDSA_SIG_free(pair);
    return 64;
}

JWT_MAYBE static size_t jwt_sign(enum jwt_signer by, const char *text, unsigned char *out)
{
    switch (by) {
    case BY_SHARED:
        return jwt_hmac(JWT_SHARED, sizeof(JWT_SHARED) - 1, text, out);
    case BY_HS:
        return jwt_hmac(JWT_OCT, sizeof(JWT_OCT) - 1, text, out);
    case BY_RS:
        return jwt_sign_native(jwt_fixture.rs, false, text, out);
    case BY_ES:
        return jwt_sign_es(jwt_fixture.es, text, out);
    case BY_STRANGER_RS:
        return jwt_sign_native(jwt_fixture.stranger_rs, false, text, out);
    case BY_STRANGER_ES:
        return jwt_sign_es(jwt_fixture.stranger_es, text, out);
    case BY_NOBODY:
        break;
    }
    return 0;
}

/* token: signed_text "." signature. */
JWT_MAYBE static void jwt_join(const char *signed_text, const unsigned char *signature, size_t len,
                               char token[JWT_ROOM])
{
    char text[BASE64_SIZE(1024)];
    assert_true(len <= 1024);
    base64url_encode(signature, len, text);
    jwt_format(token, JWT_ROOM, "%s.%s", signed_text, text);
}

/* Both texts become base64url. */
JWT_MAYBE static void jwt_signed_text(const char *header, const char *claims, char out[JWT_ROOM])
{
    assert_true(BASE64_SIZE(strlen(header)) + BASE64_SIZE(strlen(claims)) < JWT_ROOM);
    const size_t n = base64url_encode(header, strlen(header), out);
    out[n] = '.';
    base64url_encode(claims, strlen(claims), out + n + 1);
}

JWT_MAYBE static void jwt_token(enum jwt_signer by, const char *header, const char *claims,
                                char token[JWT_ROOM])
{
    char text[JWT_ROOM];
    unsigned char signature[1024];
    jwt_signed_text(header, claims, text);
    jwt_join(text, signature, jwt_sign(by, text, signature), token);
}

#endif
