/* What jwk.c and jwks.c build, jwt.c and jwt_signature.c check with. Private to these four. */
#ifndef NRW_JWT_INTERNAL_H
#define NRW_JWT_INTERNAL_H

#include <jansson.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>

#include "bounds.h"
#include "err.h"

enum jwt_alg { JWT_HS256, JWT_RS256, JWT_ES256 };

#define JWT_ALG_NAMES  "HS256, RS256 or ES256"
#define JWT_SECRET_MIN 32 /* RFC 7518 section 3.2: as long as the hash */

/* An algorithm and a key of its type, or it would not have been built. */
struct jwt_key {
    char kid[LIMIT_JWT_KID + 1]; /* "": the shared secret of the settings; not a name */
    enum jwt_alg alg;
    unsigned char *secret; /* HS256 */
    size_t secret_len;
    EVP_PKEY *public; /* RS256, ES256 */
};

struct jwt_keys {
    size_t n;
    struct jwt_key keys[LIMIT_JWT_KEYS + 1]; /* the set's, then the shared secret */
};

bool jwt_alg_parse(const char *name, enum jwt_alg *ret); /* as JOSE spells it, exactly */
const char *jwt_alg_name(enum jwt_alg alg);

/* One member of `keys`. ret: zeroed by the caller, who frees what is in it, after false too. */
bool jwk_read(const json_t *jwk, struct jwt_key *ret, struct err *err) MUST_CHECK;

/* kid NULL: the token has none. NULL: no key for it. */
const struct jwt_key *jwt_keys_find(const struct jwt_keys *k, const char *kid);

/* False: ERR_DENIED, it is not; or ERR_CRYPTO and ours. */
bool jwt_signature_check(const struct jwt_key *key, const char *text, size_t text_len,
                         const unsigned char *signature, size_t len, struct err *err) MUST_CHECK;

#endif
