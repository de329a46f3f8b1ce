/* JSON Web Tokens as credentials: RFC 7519 in the compact form of RFC 7515, judged as RFC 8725
 * wants it. The keys decide, the token does not: each key has one algorithm, and what a token says
 * about algorithm, key or where to fetch one is only compared or refused. */
#ifndef NRW_JWT_H
#define NRW_JWT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bounds.h"
#include "err.h"
#include "ids.h"

struct jwt_keys; /* immutable */

/* hs256_secret: the shared secret's bytes as typed, at least 32, or "" for none. jwks_json: a JWK
 * Set (RFC 7517) of 1 to LIMIT_JWT_KEYS keys, or "" for none; each key has a `kid` of its own and
 * an `alg`: HS256 with kty oct of at least 32 bytes, RS256 with kty RSA of 2048 to 8192 bits, ES256
 * with kty EC on P-256. Members that are not for us are ignored; a private RSA or EC key, and a key
 * meant for encryption, is an error. Both texts are borrowed for the call. Without any key every
 * token is refused. NULL: err tells which key and why (ERR_INVALID), and quotes no key. */
struct jwt_keys *jwt_keys_new(const char *hs256_secret, const char *jwks_json,
                              struct err *err) MUST_CHECK;
void jwt_keys_free(struct jwt_keys *k); /* cleanses */

struct jwt_policy {
    const char *issuer;       /* `iss` must be this; "": not looked at                          */
    const char *audience;     /* `aud` must be this or an array with it; "": not looked at      */
    const char *tenant_claim; /* the member of the claims that holds the tenant's UUID; not ""  */
    int64_t leeway_us;        /* how far the issuer's clock and ours may differ; 0 … one day    */
};

struct jwt_claims {
    struct uuid tenant_id;
    char subject[LIMIT_JWT_SUBJECT + 1]; /* `sub`, UTF-8; "" when the token has none */
    bool has_permissions;                /* the token has `permissions`: scopes are all it may do */
    unsigned scopes; /* bits of enum scope; names that are not ours are ignored */
};

/* Takes a token when its signature is right by the key that its `kid` names (without `kid`, or with
 * one that no key of the set has: by the shared secret), when now_wall_us lies between its `nbf`
 * and its `exp`, which it must have, and when the policy agrees. Nothing of the claims is read
 * before the signature was right. token: any bytes, need not be NUL-terminated. False: ret is
 * untouched, err says why (ERR_DENIED; ERR_CRYPTO and ours when OpenSSL fails), for the log only:
 * printable ASCII that may quote `alg`, `kid`, `iss` and the like, never a signature. Does not
 * block; costs one check of a signature, and that only when the header fits a key. */
bool jwt_verify(const struct jwt_keys *keys, const struct jwt_policy *policy, const char *token,
                size_t len, int64_t now_wall_us, struct jwt_claims *ret,
                struct err *err) MUST_CHECK;

#endif
