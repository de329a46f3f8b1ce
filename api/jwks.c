/* The keys that tokens are checked with: built once at boot from a shared secret and a JWK Set, and
 * found by name afterwards. What a single key must be is jwk.c's. Called by the boot of the API
 * (keys) and by jwt.c (look-up). */
#include <malloc.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "jwt.h"
#include "jwt_internal.h"
#include "mem.h"

#define PEM_MARK "-----BEGIN "

const struct jwt_key *jwt_keys_find(const struct jwt_keys *k, const char *kid)
{
    for (size_t i = 0; i < k->n; i++) {
        const bool shared = k->keys[i].kid[0] == '\0'; /* the last one, so names win */
        if (shared || (kid != NULL && strcmp(k->keys[i].kid, kid) == 0)) {
            return &k->keys[i];
        }
    }
    return NULL;
}

static bool add_set(struct jwt_keys *k, const json_t *set, struct err *err)
{
    const json_t *list = json_object_get(set, "keys");
    const size_t n = json_array_size(list);
    if (n < 1 || n > LIMIT_JWT_KEYS) {
        return err_set(err, ERR_INVALID, "JWK Set: 'keys' is not an array of 1 to %d keys",
                       LIMIT_JWT_KEYS);
    }
    for (size_t i = 0; i < n; i++) {
        struct jwt_key key = {.kid = ""};
        bool ok = jwk_read(json_array_get(list, i), &key, err);
        if (ok && jwt_keys_find(k, key.kid) != NULL) {
            ok = err_set(err, ERR_INVALID, "an earlier key has the same 'kid'");
        }
        k->keys[k->n++] = key; /* freed with the others, whatever it has come to */
        if (!ok) {
            return err_prefix(err, "JWK Set, key %zu", i + 1);
        }
    }
    return true;
}

static void cleansing_free(void *p)
{
    if (p != NULL) {
        OPENSSL_cleanse(p, malloc_usable_size(p));
        free(p);
    }
}

/* jansson copies what it reads more than once: while that is keys, everything it frees is cleansed.
 * Its messages quote the text: only the place is told. */
static bool read_set(struct jwt_keys *k, const char *text, struct err *err)
{
    json_malloc_t usual_malloc = NULL;
    json_free_t usual_free = NULL;
    json_error_t e;
    json_get_alloc_funcs(&usual_malloc, &usual_free);
    json_set_alloc_funcs(usual_malloc, cleansing_free);
    json_t *set = json_loads(text, JSON_REJECT_DUPLICATES, &e);
    bool ok = set != NULL ? add_set(k, set, err)
                          : err_set(err, ERR_INVALID,
                                    "JWK Set: not JSON, or a member twice, at line %d column %d",
                                    e.line, e.column);
    json_decref(set);
    json_set_alloc_funcs(usual_malloc, usual_free);
    return ok;
}

static bool add_shared(struct jwt_keys *k, const char *secret, struct err *err)
{
    const size_t len = strlen(secret);
    if (len < JWT_SECRET_MIN) {
        return err_set(err, ERR_INVALID, "the shared secret has %zu bytes, not %d or more", len,
                       JWT_SECRET_MIN);
    }
    if (strstr(secret, PEM_MARK) != NULL) { /* everybody may know it, and could sign with it */
        return err_set(err, ERR_INVALID,
                       "the shared secret is a key in PEM: public keys belong in the JWK Set");
    }
    struct jwt_key *key = &k->keys[k->n++];
    key->alg = JWT_HS256;
    key->secret = (unsigned char *)mem_dup(secret);
    key->secret_len = len;
    return true;
}

struct jwt_keys *jwt_keys_new(const char *hs256_secret, const char *jwks_json, struct err *err)
{
    struct jwt_keys *k = mem_zero(1, sizeof(*k));
    bool ok = *jwks_json == '\0' || read_set(k, jwks_json, err);
    ok = ok && (*hs256_secret == '\0' || add_shared(k, hs256_secret, err));
    if (!ok) {
        jwt_keys_free(k);
        return NULL;
    }
    return k;
}

void jwt_keys_free(struct jwt_keys *k)
{
    for (size_t i = 0; k != NULL && i < k->n; i++) {
        if (k->keys[i].secret != NULL) {
            OPENSSL_cleanse(k->keys[i].secret, k->keys[i].secret_len);
        }
        free(k->keys[i].secret);
        EVP_PKEY_free(k->keys[i].public);
    }
    free(k);
}
