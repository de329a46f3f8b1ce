/* One key of a JWK Set becomes a key of OpenSSL, bound to its algorithm. A key that cannot be what
 * it claims is refused here, so that jwt.c never asks. Messages quote nothing of a key. Called by
 * jwks.c at boot. */
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/param_build.h>
#include <string.h>

#include "base64.h"
#include "jwt_internal.h"
#include "mem.h"

#define RSA_BITS_MIN     2048
#define RSA_BITS_MAX     8192 /* a check costs 0.5 ms there */
#define RSA_EXPONENT_MAX 64   /* bits, as OpenSSL has it for large keys */
#define P256_LEN         32   /* of a coordinate */
#define UNCOMPRESSED     4    /* the first byte of a point that has both coordinates */

static const struct {
    const char *name;
    const char *kty;
} algs[] = {
    [JWT_HS256] = {"HS256", "oct"}, [JWT_RS256] = {"RS256", "RSA"}, [JWT_ES256] = {"ES256", "EC"}};

bool jwt_alg_parse(const char *name, enum jwt_alg *ret)
{
    for (size_t i = 0; i < sizeof(algs) / sizeof(*algs); i++) {
        if (strcmp(algs[i].name, name) == 0) {
            *ret = (enum jwt_alg)i;
            return true;
        }
    }
    return false;
}

const char *jwt_alg_name(enum jwt_alg alg)
{
    return algs[alg].name;
}

/* A text member, or NULL with an error. */
static const char *need_text(const json_t *jwk, const char *name, struct err *err)
{
    const json_t *v = json_object_get(jwk, name);
    if (!json_is_string(v)) {
        (void)err_set(err, ERR_INVALID, v == NULL ? "'%s' is missing" : "'%s' is not a string",
                      name);
        return NULL;
    }
    return json_string_value(v);
}

/* A member that is base64url of at most room bytes. */
static bool need_bytes(const json_t *jwk, const char *name, unsigned char *out, size_t room,
                       size_t *ret_len, struct err *err)
{
    const char *text = need_text(jwk, name, err);
    if (text == NULL) {
        return false;
    }
    if (!base64url_decode(text, strlen(text), out, room, ret_len)) {
        return err_set(err, ERR_INVALID,
                       "'%s' is not unpadded base64url of at most %zu bytes (not shown)", name,
                       room);
    }
    return true;
}

/* RFC 7517 sections 4.2 and 4.3: what a key is for, where it says so. */
static bool is_for_signatures(const json_t *jwk)
{
    const json_t *use = json_object_get(jwk, "use");
    const json_t *ops = json_object_get(jwk, "key_ops");
    if (use != NULL && (!json_is_string(use) || strcmp(json_string_value(use), "sig") != 0)) {
        return false;
    }
    bool verify = ops == NULL;
    size_t i = 0;
    const json_t *op = NULL;
    json_array_foreach(ops, i, op)
    {
        verify = verify || (json_is_string(op) && strcmp(json_string_value(op), "verify") == 0);
    }
    return verify;
}

static bool build_hmac(const json_t *jwk, struct jwt_key *key, struct err *err)
{
    const char *text = need_text(jwk, "k", err);
    if (text == NULL) {
        return false;
    }
    const size_t room = strlen(text);
    key->secret = mem_zero(1, room + 1);
    key->secret_len = room; /* cleansed as a whole when the next line fails */
    if (!need_bytes(jwk, "k", key->secret, room, &key->secret_len, err)) {
        return false;
    }
    return key->secret_len >= JWT_SECRET_MIN ||
           err_set(err, ERR_INVALID, "'k' has %zu bytes, not %d or more", key->secret_len,
                   JWT_SECRET_MIN);
}

/* The key of these parameters, if it is one: points off the curve and the like are found here. */
static bool build_public(const char *type, OSSL_PARAM *params, struct jwt_key *key, struct err *err)
{
    EVP_PKEY_CTX *make = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    EVP_PKEY_CTX *check = NULL;
    bool ok = make != NULL && EVP_PKEY_fromdata_init(make) == 1 &&
              EVP_PKEY_fromdata(make, &key->public, EVP_PKEY_PUBLIC_KEY, params) == 1;
    if (ok) {
        check = EVP_PKEY_CTX_new_from_pkey(NULL, key->public, NULL);
        ok = check != NULL && EVP_PKEY_public_check(check) == 1;
    }
    EVP_PKEY_CTX_free(check);
    EVP_PKEY_CTX_free(make);
    if (!ok) {
        const char *reason = ERR_reason_error_string(ERR_peek_last_error());
        (void)err_set(err, ERR_INVALID, "OpenSSL takes it for no %s key (%s)", type,
                      reason != NULL ? reason : "no reason given");
        ERR_clear_error();
    }
    return ok;
}

static bool check_rsa(const BIGNUM *n, const BIGNUM *e, struct err *err)
{
    const int bits = BN_num_bits(n);
    if (bits < RSA_BITS_MIN || bits > RSA_BITS_MAX) {
        return err_set(err, ERR_INVALID, "'n' has %d bits, not %d to %d", bits, RSA_BITS_MIN,
                       RSA_BITS_MAX);
    }
    if (!BN_is_odd(e) || BN_is_one(e) || BN_num_bits(e) > RSA_EXPONENT_MAX) {
        return err_set(err, ERR_INVALID, "'e' is not an odd number from 3, of up to %d bits",
                       RSA_EXPONENT_MAX);
    }
    return true;
}

static bool build_rsa(const json_t *jwk, struct jwt_key *key, struct err *err)
{
    unsigned char n_bytes[RSA_BITS_MAX / 8 + 1]; /* some write a zero in front */
    unsigned char e_bytes[RSA_EXPONENT_MAX / 8 + 1];
    size_t n_len = 0;
    size_t e_len = 0;
    if (!need_bytes(jwk, "n", n_bytes, sizeof(n_bytes), &n_len, err) ||
        !need_bytes(jwk, "e", e_bytes, sizeof(e_bytes), &e_len, err)) {
        return false;
    }
    BIGNUM *n = BN_bin2bn(n_bytes, (int)n_len, NULL);
    BIGNUM *e = BN_bin2bn(e_bytes, (int)e_len, NULL);
    OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
    OSSL_PARAM *params = NULL;
    bool ok = n != NULL && e != NULL && check_rsa(n, e, err);
    if (ok) {
        ok = bld != NULL && OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_N, n) == 1 &&
             OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_E, e) == 1 &&
             (params = OSSL_PARAM_BLD_to_param(bld)) != NULL;
        ok = ok && build_public("RSA", params, key, err);
    }
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(bld);
    BN_free(e);
    BN_free(n);
    return ok;
}

static bool build_ec(const json_t *jwk, struct jwt_key *key, struct err *err)
{
    const char *crv = need_text(jwk, "crv", err);
    unsigned char point[1 + 2 * P256_LEN] = {UNCOMPRESSED};
    size_t x_len = 0;
    size_t y_len = 0;
    if (crv == NULL || !need_bytes(jwk, "x", point + 1, P256_LEN, &x_len, err) ||
        !need_bytes(jwk, "y", point + 1 + P256_LEN, P256_LEN, &y_len, err)) {
        return false;
    }
    if (strcmp(crv, "P-256") != 0 || x_len != P256_LEN || y_len != P256_LEN) {
        return err_set(err, ERR_INVALID, "'crv' is not P-256, or 'x' or 'y' has not %d bytes",
                       P256_LEN);
    }
    char group[] = "prime256v1";
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point)),
        OSSL_PARAM_construct_end(),
    };
    return build_public("EC", params, key, err);
}

static bool build_material(const json_t *jwk, struct jwt_key *key, struct err *err)
{
    if (key->alg != JWT_HS256 && json_object_get(jwk, "d") != NULL) {
        return err_set(err, ERR_INVALID,
                       "'d' makes it a private key: only its public part "
                       "belongs here");
    }
    switch (key->alg) {
    case JWT_HS256:
        return build_hmac(jwk, key, err);
    case JWT_RS256:
        return build_rsa(jwk, key, err);
    case JWT_ES256:
        return build_ec(jwk, key, err);
    }
    return false;
}

bool jwk_read(const json_t *jwk, struct jwt_key *ret, struct err *err)
{
    const char *kid = need_text(jwk, "kid", err);
    const char *alg = kid == NULL ? NULL : need_text(jwk, "alg", err);
    const char *kty = alg == NULL ? NULL : need_text(jwk, "kty", err);
    if (kty == NULL) {
        return false;
    }
    const size_t kid_len = strlen(kid);
    if (kid_len < 1 || kid_len > LIMIT_JWT_KID) {
        return err_set(err, ERR_INVALID, "'kid' has %zu bytes, not 1 to %d", kid_len,
                       LIMIT_JWT_KID);
    }
    memcpy(ret->kid, kid, kid_len + 1);
    if (!jwt_alg_parse(alg, &ret->alg)) {
        return err_set(err, ERR_INVALID, "'alg' is not " JWT_ALG_NAMES);
    }
    if (strcmp(kty, algs[ret->alg].kty) != 0) {
        return err_set(err, ERR_INVALID, "'alg' is %s but 'kty' is not %s", algs[ret->alg].name,
                       algs[ret->alg].kty);
    }
    if (!is_for_signatures(jwk)) {
        return err_set(err, ERR_INVALID, "'use' or 'key_ops' says that it verifies no signatures");
    }
    return build_material(jwk, ret, err);
}
