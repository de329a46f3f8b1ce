/* Judges a token: form, header, signature, claims, in this order, and stops at the first thing that
 * is wrong. Pure: no clock, no state, nothing kept of a token. Does not know where the token stood
 * in the request or what a scope allows (auth.c, which calls it). */
#include "jwt.h"

#include <jansson.h>
#include <string.h>
#include <strings.h>

#include "base64.h"
#include "check.h"
#include "jwt_internal.h"
#include "scopes.h"

#define DECODED_MAX   (LIMIT_JWT / 4 * 3)
#define SIGNATURE_MAX 1024 /* RSA of 8192 bits */
#define US_PER_S      1000000
#define TIME_END_S    INT64_C(253402300800) /* the year 10000 */
#define SHOWN_MAX     40

struct part {
    const char *text;
    size_t len;
};

struct parts {
    struct part header;
    struct part claims;
    struct part signature;
    struct part signed_text; /* header "." claims */
};

static bool denied(struct err *err, const char *why)
{
    return err_set(err, ERR_DENIED, "token: %s", why);
}

/* What a stranger wrote, fit for a log line. */
static const char *shown(const json_t *v, char out[SHOWN_MAX + 1])
{
    const char *text = json_is_string(v) ? json_string_value(v) : "(not a string)";
    size_t n = 0;
    for (; text[n] != '\0' && n < SHOWN_MAX; n++) {
        const bool plain = text[n] >= 0x20 && text[n] < 0x7f;
        out[n] = (char)(plain ? text[n] : '?');
    }
    out[n] = '\0';
    return out;
}

static bool denied_value(struct err *err, const char *why, const json_t *v)
{
    char text[SHOWN_MAX + 1];
    return err_set(err, ERR_DENIED, "token: %s: '%s'", why, shown(v, text));
}

static bool is_text(const json_t *v, const char *text)
{
    return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

static bool split(const char *token, size_t len, struct parts *ret, struct err *err)
{
    if (len > LIMIT_JWT) {
        return err_set(err, ERR_DENIED, "token: %zu bytes, more than %u", len, LIMIT_JWT);
    }
    const char *end = token + len;
    const char *first = memchr(token, '.', len);
    const char *second = first == NULL ? NULL : memchr(first + 1, '.', (size_t)(end - first) - 1);
    if (second == NULL || memchr(second + 1, '.', (size_t)(end - second) - 1) != NULL) {
        return denied(err, "not three parts with two dots between them");
    }
    ret->header = (struct part){token, (size_t)(first - token)};
    ret->claims = (struct part){first + 1, (size_t)(second - first) - 1};
    ret->signature = (struct part){second + 1, (size_t)(end - second) - 1};
    ret->signed_text = (struct part){token, (size_t)(second - token)};
    return true;
}

static json_t *decode_object(const struct part *p, const char *what, struct err *err)
{
    unsigned char bytes[DECODED_MAX];
    size_t len = 0;
    if (!base64url_decode(p->text, p->len, bytes, sizeof(bytes), &len)) {
        (void)err_set(err, ERR_DENIED, "token: the %s is not unpadded base64url", what);
        return NULL;
    }
    json_error_t e;
    json_t *v = json_loadb((const char *)bytes, len, JSON_REJECT_DUPLICATES, &e);
    if (!json_is_object(v)) {
        (void)err_set(err, ERR_DENIED,
                      "token: the %s is not one JSON object in UTF-8 with each member once", what);
        json_decref(v);
        return NULL;
    }
    return v;
}

/* RFC 8725 section 3.11: a token that was made for something else is none of ours. */
static bool is_access_token(const json_t *header)
{
    static const char media[] = "application/";
    const json_t *typ = json_object_get(header, "typ");
    if (typ == NULL) {
        return true;
    }
    const char *text = json_is_string(typ) ? json_string_value(typ) : "";
    if (strncasecmp(text, media, sizeof(media) - 1) == 0) {
        text += sizeof(media) - 1;
    }
    return strcasecmp(text, "JWT") == 0 || strcasecmp(text, "at+jwt") == 0;
}

static const struct jwt_key *choose_key(const struct jwt_keys *keys, const json_t *header,
                                        struct err *err)
{
    /* Extensions that must be understood, and keys that the token brings along. */
    static const char *const refused[] = {"crit", "jku", "jwk", "x5u", "x5c", "b64"};
    for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
        if (json_object_get(header, refused[i]) != NULL) {
            (void)err_set(err, ERR_DENIED, "token: the header has '%s'", refused[i]);
            return NULL;
        }
    }
    if (!is_access_token(header)) {
        (void)denied_value(err, "typ is not JWT or at+jwt", json_object_get(header, "typ"));
        return NULL;
    }
    const json_t *alg = json_object_get(header, "alg");
    enum jwt_alg known = JWT_HS256;
    if (!json_is_string(alg) || !jwt_alg_parse(json_string_value(alg), &known)) {
        (void)denied_value(err, "alg is not " JWT_ALG_NAMES, alg);
        return NULL;
    }
    const json_t *kid = json_object_get(header, "kid");
    if (kid != NULL && !json_is_string(kid)) {
        (void)denied(err, "kid is not a string");
        return NULL;
    }
    const struct jwt_key *key = jwt_keys_find(keys, json_string_value(kid)); /* NULL if NULL */
    if (key == NULL) {
        (void)(kid == NULL ? denied(err, "no kid, and there is no shared secret")
                           : denied_value(err, "no key has the kid", kid));
        return NULL;
    }
    if (key->alg != known) {
        (void)err_set(err, ERR_DENIED, "token: alg is %s, but the key is for %s only",
                      jwt_alg_name(known), jwt_alg_name(key->alg));
        return NULL;
    }
    return key;
}

static bool check_signature(const struct jwt_key *key, const struct parts *p, struct err *err)
{
    unsigned char signature[SIGNATURE_MAX];
    size_t len = 0;
    if (!base64url_decode(p->signature.text, p->signature.len, signature, sizeof(signature),
                          &len)) {
        return denied(err, "the signature is not unpadded base64url");
    }
    return jwt_signature_check(key, p->signed_text.text, p->signed_text.len, signature, len, err);
}

/* A NumericDate, which may have a fraction. */
static bool time_of(const json_t *v, const char *name, int64_t *ret_us, struct err *err)
{
    if (!json_is_number(v)) {
        return err_set(err, ERR_DENIED, "token: %s is not a number", name);
    }
    if (!(json_number_value(v) >= 0 && json_number_value(v) < (double)TIME_END_S)) {
        return err_set(err, ERR_DENIED, "token: %s is not a time from 1970 to 9999", name);
    }
    *ret_us = json_is_integer(v) ? json_integer_value(v) * US_PER_S
                                 : (int64_t)(json_real_value(v) * US_PER_S);
    return true;
}

static bool check_times(const json_t *claims, const struct jwt_policy *policy, int64_t now_us,
                        struct err *err)
{
    const json_t *exp = json_object_get(claims, "exp");
    const json_t *nbf = json_object_get(claims, "nbf");
    int64_t exp_us = 0;
    int64_t nbf_us = 0;
    if (exp == NULL) {
        return denied(err, "no exp: it would be good for ever");
    }
    if (!time_of(exp, "exp", &exp_us, err) || (nbf != NULL && !time_of(nbf, "nbf", &nbf_us, err))) {
        return false;
    }
    if (now_us >= exp_us + policy->leeway_us) {
        return err_set(err, ERR_DENIED, "token: it expired %lld s ago",
                       (long long)((now_us - exp_us) / US_PER_S));
    }
    if (now_us < nbf_us - policy->leeway_us) {
        return err_set(err, ERR_DENIED, "token: nbf is %lld s away",
                       (long long)((nbf_us - now_us) / US_PER_S));
    }
    return true;
}

static bool audience_has(const json_t *aud, const char *audience)
{
    bool found = is_text(aud, audience);
    size_t i = 0;
    const json_t *one = NULL;
    json_array_foreach(aud, i, one)
    {
        if (!json_is_string(one)) {
            return false;
        }
        found = found || is_text(one, audience);
    }
    return found;
}

static bool check_parties(const json_t *claims, const struct jwt_policy *policy, struct err *err)
{
    const json_t *iss = json_object_get(claims, "iss");
    const json_t *aud = json_object_get(claims, "aud");
    if (*policy->issuer != '\0' && !is_text(iss, policy->issuer)) {
        return iss == NULL ? denied(err, "no iss") : denied_value(err, "iss is another one", iss);
    }
    if (*policy->audience != '\0' && !audience_has(aud, policy->audience)) {
        return aud == NULL ? denied(err, "no aud") : denied_value(err, "aud is not us", aud);
    }
    return true;
}

static bool read_subject(const json_t *claims, const char *tenant_claim, struct jwt_claims *ret,
                         struct err *err)
{
    const json_t *tenant = json_object_get(claims, tenant_claim);
    const json_t *sub = json_object_get(claims, "sub");
    if (!json_is_string(tenant)) {
        return err_set(err, ERR_DENIED, "token: %.64s is %s", tenant_claim,
                       tenant == NULL ? "missing" : "not a string");
    }
    if (!uuid_parse(json_string_value(tenant), json_string_length(tenant), &ret->tenant_id)) {
        return denied_value(err, "the tenant is not a UUID", tenant);
    }
    if (sub == NULL) {
        return true;
    }
    if (!json_is_string(sub) || json_string_length(sub) > LIMIT_JWT_SUBJECT) {
        return err_set(err, ERR_DENIED, "token: sub is not a string of at most %d bytes",
                       LIMIT_JWT_SUBJECT);
    }
    memcpy(ret->subject, json_string_value(sub), json_string_length(sub));
    return true;
}

static bool read_permissions(const json_t *claims, struct jwt_claims *ret, struct err *err)
{
    const json_t *list = json_object_get(claims, "permissions");
    ret->has_permissions = list != NULL;
    if (list != NULL && !json_is_array(list)) {
        return denied(err, "permissions is not an array");
    }
    size_t i = 0;
    const json_t *name = NULL;
    json_array_foreach(list, i, name)
    {
        if (!json_is_string(name)) {
            return denied(err, "permissions holds something that is not a string");
        }
        ret->scopes |= scope_parse(json_string_value(name), json_string_length(name));
    }
    return true;
}

bool jwt_verify(const struct jwt_keys *keys, const struct jwt_policy *policy, const char *token,
                size_t len, int64_t now_wall_us, struct jwt_claims *ret, struct err *err)
{
    CHECK(*policy->tenant_claim != '\0' && policy->leeway_us >= 0);
    struct parts p = {.header = {NULL, 0}};
    if (!split(token, len, &p, err)) {
        return false;
    }
    json_t *header = decode_object(&p.header, "header", err);
    const struct jwt_key *key = header == NULL ? NULL : choose_key(keys, header, err);
    json_decref(header);
    if (key == NULL || !check_signature(key, &p, err)) {
        return false;
    }
    json_t *claims = decode_object(&p.claims, "payload", err);
    struct jwt_claims got = {.subject = ""};
    const bool ok = claims != NULL && check_times(claims, policy, now_wall_us, err) &&
                    check_parties(claims, policy, err) &&
                    read_subject(claims, policy->tenant_claim, &got, err) &&
                    read_permissions(claims, &got, err);
    json_decref(claims);
    if (ok) {
        *ret = got;
    }
    return ok;
}
