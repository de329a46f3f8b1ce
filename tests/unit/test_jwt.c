/* Tokens: what is taken, and everything that is not (RFC 8725 and what strangers try). Almost every
 * wrong token here is signed by a key that is known, so that only what its name says is wrong. */
#include "jwt_fixture.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "jwt_internal.h"
#include "mem.h"
#include "scopes.h"

#define N_OF(a) (sizeof(a) / sizeof(*(a)))
#define NOW_S   INT64_C(1773570600) /* 2026-03-15T10:30:00Z */
#define TENANT  "7c9e6679-7425-40de-944b-e07fc1f90ae7"
#define GOOD    "\"exp\":1773574200,\"tenant_id\":\"" TENANT "\""

static const struct jwt_policy usual = {
    .issuer = "", .audience = "", .tenant_claim = "tenant_id", .leeway_us = 60000000};
static const struct jwt_policy strict = {
    .issuer = "https://id.example", .audience = "netrecon", .tenant_claim = "org", .leeway_us = 0};

/* An exact copy on the heap: the sanitizer sees a read past it. NULL: taken; else why not. */
static const char *judge(const struct jwt_keys *keys, const struct jwt_policy *policy,
                         const char *token, size_t len, struct jwt_claims *ret)
{
    static struct err err;
    char *exact = mem_alloc(len > 0 ? len : 1);
    struct jwt_claims untouched;
    memcpy(exact, token, len);
    memset(&untouched, 0x5a, sizeof(untouched));
    memset(ret, 0x5a, sizeof(*ret));
    err = (struct err){0};
    const bool ok = jwt_verify(keys, policy, exact, len, NOW_S * 1000000, ret, &err);
    free(exact);
    assert_int_equal(0, ERR_peek_error());
    if (ok) {
        assert_int_equal(ERR_NONE, err.code);
        return NULL;
    }
    assert_int_equal(ERR_DENIED, err.code);
    assert_memory_equal(&untouched, ret, sizeof(untouched));
    for (const char *c = err.text; *c != '\0';
         c++) { /* what strangers wrote must not spoil a log */
        assert_true(*c >= 0x20 && *c < 0x7f);
    }
    return err.text;
}

/* why NULL: it must be taken. */
static void check(const struct jwt_keys *keys, const struct jwt_policy *policy, const char *name,
                  const char *token, const char *why)
{
    struct jwt_claims claims;
    const char *said = judge(keys, policy, token, strlen(token), &claims);
    if (said == NULL ? why != NULL : why == NULL || strstr(said, why) == NULL) {
        fail_msg("%s: %s, not: %s", name, said == NULL ? "taken" : said,
                 why == NULL ? "taken" : why);
    }
}

static void check_usual(const char *name, const char *token, const char *why)
{
    check(jwt_fixture.keys, &usual, name, token, why);
}

static void the_vectors_of_rfc_7515_verify(void **state)
{
    (void)state;
#define RFC_CLAIMS                                                                                 \
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"                             \
    "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    static const char set[] =
        "{\"keys\":[{\"kid\":\"A.1\",\"kty\":\"oct\",\"alg\":\"HS256\",\"k\":\"AyM1SysPpbyDfgZld3um"
        "j1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow\"},"
        "{\"kid\":\"A.2\",\"kty\":\"RSA\",\"alg\":\"RS256\",\"e\":\"AQAB\",\"n\":\""
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-"
        "4qPCJrcS2mJPMEzP1Pt0Bm"
        "4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-"
        "bSf63kpaSHSXndS5z5"
        "rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_"
        "I5IhlJH7aGh"
        "yxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ\"},"
        "{\"kid\":\"A.3\",\"kty\":\"EC\",\"alg\":\"ES256\",\"crv\":\"P-256\","
        "\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
        "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";
    static const struct {
        const char *kid;
        const char *text;
        const char *signature;
    } rows[] = {
        {"A.1", "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." RFC_CLAIMS,
         "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"},
        {"A.2", "eyJhbGciOiJSUzI1NiJ9." RFC_CLAIMS,
         "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_"
         "O8W2F"
         "p5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_"
         "nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQB"
         "MHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-"
         "eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeY"
         "I2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"},
        {"A.3", "eyJhbGciOiJFUzI1NiJ9." RFC_CLAIMS,
         "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"},
    };
    struct err err = {0};
    struct jwt_keys *keys = jwt_keys_new("", set, &err);
    assert_string_equal("", err.text);
    for (size_t i = 0; i < N_OF(rows); i++) {
        const struct jwt_key *key = jwt_keys_find(keys, rows[i].kid);
        const size_t text_len = strlen(rows[i].text);
        unsigned char signature[1024];
        size_t len = 0;
        assert_non_null(key);
        assert_true(base64url_decode(rows[i].signature, strlen(rows[i].signature), signature,
                                     sizeof(signature), &len));
        if (!jwt_signature_check(key, rows[i].text, text_len, signature, len, &err)) {
            fail_msg("%s: %s", rows[i].kid, err.text);
        }
        assert_false(jwt_signature_check(key, rows[i].text, text_len - 1, signature, len, &err));
        assert_int_equal(ERR_DENIED, err.code);
        signature[len - 1] ^= 1;
        assert_false(jwt_signature_check(key, rows[i].text, text_len, signature, len, &err));
        assert_int_equal(0, ERR_peek_error());
    }
    jwt_keys_free(keys);
}

static void a_good_token_tells_tenant_subject_and_scopes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum jwt_signer by;
        const char *header;
        const char *claims;
        const char *subject;
        bool has_permissions;
        unsigned scopes;
    } rows[] = {
        {"shared secret", BY_SHARED, "{\"alg\":\"HS256\"}", "{" GOOD "}", "", false, 0},
        {"a kid that no key has is the shared secret's", BY_SHARED,
         "{\"alg\":\"HS256\",\"kid\":\"2026-01\"}", "{" GOOD "}", "", false, 0},
        {"an empty kid too", BY_SHARED, "{\"alg\":\"HS256\",\"kid\":\"\"}", "{" GOOD "}", "", false,
         0},
        {"HS256 of the set", BY_HS, "{\"alg\":\"HS256\",\"kid\":\"hs\"}", "{" GOOD "}", "", false,
         0},
        {"RS256", BY_RS, "{\"alg\":\"RS256\",\"kid\":\"rs\"}", "{" GOOD "}", "", false, 0},
        {"ES256", BY_ES, "{\"alg\":\"ES256\",\"kid\":\"es\"}", "{" GOOD "}", "", false, 0},
        {"typ", BY_HS, "{\"typ\":\"JWT\",\"alg\":\"HS256\",\"kid\":\"hs\"}", "{" GOOD "}", "",
         false, 0},
        {"typ of RFC 9068", BY_HS,
         "{\"typ\":\"application/at+jwt\",\"alg\":\"HS256\",\"kid\":\"hs\"}", "{" GOOD "}", "",
         false, 0},
        {"header members that mean nothing to us", BY_HS,
         " {\"alg\" : \"HS256\", \"kid\":\"\\u0068s\", \"x5t\":\"abc\", \"cty\":\"\"}\r\n",
         "{" GOOD "}", "", false, 0},
        {"claims that mean nothing to us", BY_HS, "{\"alg\":\"HS256\",\"kid\":\"hs\"}",
         "{\"iat\":1,\"iss\":7,\"aud\":[],\"jti\":null,\"a\":{\"b\":[1,2]}," GOOD "}", "", false,
         0},
        {"subject", BY_HS, "{\"alg\":\"HS256\",\"kid\":\"hs\"}",
         "{\"sub\":\"J\xc3\xb6rg\"," GOOD "}", "J\xc3\xb6rg", false, 0},
        {"no permissions", BY_HS, "{\"alg\":\"HS256\",\"kid\":\"hs\"}",
         "{\"permissions\":[]," GOOD "}", "", true, 0},
        {"one of ours among others", BY_HS, "{\"alg\":\"HS256\",\"kid\":\"hs\"}",
         "{\"permissions\":[\"scans_read\",\"webhooks_write\"]," GOOD "}", "", true,
         SCOPE_WEBHOOKS_WRITE},
        {"all of ours, twice", BY_HS, "{\"alg\":\"HS256\",\"kid\":\"hs\"}",
         "{\"permissions\":[\"webhooks_read\",\"webhooks_write\",\"webhooks_read\"]," GOOD "}", "",
         true, SCOPES_ALL},
        {"the tenant in capitals", BY_HS, "{\"alg\":\"HS256\",\"kid\":\"hs\"}",
         "{\"exp\":1773574200,\"tenant_id\":\"7C9E6679-7425-40DE-944B-E07FC1F90AE7\"}", "", false,
         0},
    };
    struct uuid tenant;
    assert_true(uuid_parse(TENANT, UUID_TEXT, &tenant));
    for (size_t i = 0; i < N_OF(rows); i++) {
        char token[JWT_ROOM];
        struct jwt_claims claims;
        jwt_token(rows[i].by, rows[i].header, rows[i].claims, token);
        const char *why = judge(jwt_fixture.keys, &usual, token, strlen(token), &claims);
        if (why != NULL) {
            fail_msg("%s: %s", rows[i].name, why);
        }
        assert_true(uuid_equal(&tenant, &claims.tenant_id));
        assert_string_equal(rows[i].subject, claims.subject);
        assert_int_equal(rows[i].has_permissions, claims.has_permissions);
        assert_int_equal(rows[i].scopes, claims.scopes);
    }
}

static const struct {
    const char *name;
    enum jwt_signer by;
    const char *header;
    const char *why;
} wrong_headers[] = {
    {"none, unsigned", BY_NOBODY, "{\"alg\":\"none\"}", "alg is not HS256"},
    {"none, unsigned, of a known key", BY_NOBODY, "{\"alg\":\"none\",\"kid\":\"rs\"}",
     "alg is not HS256"},
    {"None", BY_NOBODY, "{\"alg\":\"None\",\"kid\":\"hs\"}", "alg is not HS256"},
    {"nOnE", BY_NOBODY, "{\"alg\":\"nOnE\",\"kid\":\"hs\"}", "alg is not HS256"},
    {"none, signed", BY_SHARED, "{\"alg\":\"none\"}", "alg is not HS256"},
    {"unsigned", BY_NOBODY, "{\"alg\":\"HS256\"}", "signature is wrong"},
    {"unsigned RS256", BY_NOBODY, "{\"alg\":\"RS256\",\"kid\":\"rs\"}", "signature is wrong"},
    {"unsigned ES256", BY_NOBODY, "{\"alg\":\"ES256\",\"kid\":\"es\"}", "0 bytes, not 64"},
    {"no alg", BY_SHARED, "{\"typ\":\"JWT\"}", "alg is not HS256"},
    {"empty alg", BY_SHARED, "{\"alg\":\"\"}", "alg is not HS256"},
    {"alg null", BY_SHARED, "{\"alg\":null}", "alg is not HS256"},
    {"alg in an array", BY_SHARED, "{\"alg\":[\"HS256\"]}", "alg is not HS256"},
    {"alg in lower case", BY_SHARED, "{\"alg\":\"hs256\"}", "alg is not HS256"},
    {"alg with a blank", BY_SHARED, "{\"alg\":\"HS256 \"}", "alg is not HS256"},
    {"alg HS512", BY_SHARED, "{\"alg\":\"HS512\"}", "alg is not HS256"},
    {"alg PS256", BY_RS, "{\"alg\":\"PS256\",\"kid\":\"rs\"}", "alg is not HS256"},
    {"alg with a newline", BY_RS, "{\"alg\":\"a\\nb\\u001b\xc3\xa9\",\"kid\":\"rs\"}", "'a?b?"},
    {"a long alg is cut", BY_SHARED,
     "{\"alg\":\"AAAAAAAAAABBBBBBBBBBCCCCCCCCCCDDDDDDDDDDEEEEEEEEEE\"}", "DDDDDDDDDD'"},
    {"HS256 by the key of an RS256 kid", BY_SHARED, "{\"alg\":\"HS256\",\"kid\":\"rs\"}",
     "alg is HS256, but the key is for RS256 only"},
    {"HS256 by the key of an ES256 kid", BY_SHARED, "{\"alg\":\"HS256\",\"kid\":\"es\"}",
     "for ES256 only"},
    {"RS256 with the shared secret", BY_RS, "{\"alg\":\"RS256\"}", "for HS256 only"},
    {"RS256 with a kid of ES256", BY_RS, "{\"alg\":\"RS256\",\"kid\":\"es\"}", "for ES256 only"},
    {"ES256 with a kid of HS256", BY_ES, "{\"alg\":\"ES256\",\"kid\":\"hs\"}", "for HS256 only"},
    {"another HS256 key's kid", BY_SHARED, "{\"alg\":\"HS256\",\"kid\":\"hs\"}",
     "signature is wrong"},
    {"the shared secret's place", BY_HS, "{\"alg\":\"HS256\"}", "signature is wrong"},
    {"a stranger's RSA key", BY_STRANGER_RS, "{\"alg\":\"RS256\",\"kid\":\"rs\"}",
     "signature is wrong"},
    {"a stranger's EC key", BY_STRANGER_ES, "{\"alg\":\"ES256\",\"kid\":\"es\"}",
     "signature is wrong"},
    {"a stranger who says where his key is", BY_STRANGER_RS,
     "{\"alg\":\"RS256\",\"kid\":\"rs\",\"jku\":\"https://evil.example/jwks\"}", "has 'jku'"},
    {"jku", BY_RS, "{\"alg\":\"RS256\",\"kid\":\"rs\",\"jku\":\"https://id.example/\"}",
     "has 'jku'"},
    {"jwk", BY_RS, "{\"alg\":\"RS256\",\"kid\":\"rs\",\"jwk\":{}}", "has 'jwk'"},
    {"x5u", BY_RS, "{\"alg\":\"RS256\",\"kid\":\"rs\",\"x5u\":\"\"}", "has 'x5u'"},
    {"x5c", BY_RS, "{\"alg\":\"RS256\",\"kid\":\"rs\",\"x5c\":[]}", "has 'x5c'"},
    {"crit", BY_SHARED, "{\"alg\":\"HS256\",\"crit\":[\"exp\"]}", "has 'crit'"},
    {"empty crit", BY_SHARED, "{\"alg\":\"HS256\",\"crit\":[]}", "has 'crit'"},
    {"crit null", BY_SHARED, "{\"alg\":\"HS256\",\"crit\":null}", "has 'crit'"},
    {"b64", BY_SHARED, "{\"alg\":\"HS256\",\"b64\":false}", "has 'b64'"},
    {"typ of something else", BY_SHARED, "{\"alg\":\"HS256\",\"typ\":\"logout+jwt\"}",
     "typ is not"},
    {"typ that is no string", BY_SHARED, "{\"alg\":\"HS256\",\"typ\":1}", "typ is not"},
    {"kid that is no string", BY_SHARED, "{\"alg\":\"HS256\",\"kid\":7}", "kid is not"},
    {"kid null", BY_SHARED, "{\"alg\":\"HS256\",\"kid\":null}", "kid is not"},
    {"kid in capitals", BY_RS, "{\"alg\":\"RS256\",\"kid\":\"RS\"}", "for HS256 only"},
    {"alg twice", BY_SHARED, "{\"alg\":\"none\",\"alg\":\"HS256\"}", "each member once"},
    {"alg twice, spelled differently", BY_SHARED, "{\"alg\":\"HS256\",\"\\u0061lg\":\"HS256\"}",
     "each member once"},
    {"an inner member twice", BY_SHARED, "{\"alg\":\"HS256\",\"a\":{\"b\":1,\"b\":1}}",
     "each member once"},
    {"array", BY_SHARED, "[\"HS256\"]", "header is not one JSON object"},
    {"string", BY_SHARED, "\"HS256\"", "header is not one JSON object"},
    {"empty", BY_SHARED, "", "header is not one JSON object"},
    {"not closed", BY_SHARED, "{\"alg\":\"HS256\"", "header is not one JSON object"},
    {"trailing data", BY_SHARED, "{\"alg\":\"HS256\"} {}", "header is not one JSON object"},
    {"comment", BY_SHARED, "{\"alg\":\"HS256\"/**/}", "header is not one JSON object"},
    {"not UTF-8", BY_SHARED, "{\"alg\":\"HS256\",\"a\":\"\xff\"}", "header is not one JSON object"},
    {"NUL in a name", BY_SHARED, "{\"alg\":\"HS256\",\"kid\\u0000\":\"\"}",
     "header is not one JSON object"},
    {"NUL in a value", BY_SHARED, "{\"alg\":\"HS256\\u0000\"}", "header is not one JSON object"},
};

static void a_header_that_does_not_fit_its_key_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_OF(wrong_headers); i++) {
        char token[JWT_ROOM];
        jwt_token(wrong_headers[i].by, wrong_headers[i].header, "{" GOOD "}", token);
        check_usual(wrong_headers[i].name, token, wrong_headers[i].why);
    }
}

#define T ",\"tenant_id\":\"" TENANT "\"}"
#define E "{\"exp\":1773574200,"
static const struct {
    const char *name;
    const char *claims;
    const char *why; /* NULL: it is taken */
} odd_claims[] = {
    {"no exp", "{\"a\":1" T, "no exp"},
    {"exp null", "{\"exp\":null" T, "exp is not a number"},
    {"exp text", "{\"exp\":\"1773574200\"" T, "exp is not a number"},
    {"exp true", "{\"exp\":true" T, "exp is not a number"},
    {"exp array", "{\"exp\":[1773574200]" T, "exp is not a number"},
    {"exp 59 s ago", "{\"exp\":1773570541" T, NULL},
    {"exp 60 s ago", "{\"exp\":1773570540" T, "expired 60 s ago"},
    {"exp 59.5 s ago", "{\"exp\":1773570540.5" T, NULL},
    {"exp with an exponent", "{\"exp\":1.7735742e9" T, NULL},
    {"exp long ago", "{\"exp\":1300819380" T, "expired"},
    {"exp 0", "{\"exp\":0" T, "expired"},
    {"exp -1", "{\"exp\":-1" T, "1970 to 9999"},
    {"exp -0.5", "{\"exp\":-0.5" T, "1970 to 9999"},
    {"exp the last second", "{\"exp\":253402300799" T, NULL},
    {"exp the year 10000", "{\"exp\":253402300800" T, "1970 to 9999"},
    {"exp in milliseconds", "{\"exp\":1773574200000" T, "1970 to 9999"},
    {"exp INT64_MAX", "{\"exp\":9223372036854775807" T, "1970 to 9999"},
    {"exp INT64_MIN", "{\"exp\":-9223372036854775808" T, "1970 to 9999"},
    {"exp 2^63", "{\"exp\":9223372036854775808" T, "payload is not one JSON object"},
    {"exp 1e300", "{\"exp\":1e300" T, "1970 to 9999"},
    {"exp 1e400", "{\"exp\":1e400" T, "payload is not one JSON object"},
    {"exp NaN", "{\"exp\":NaN" T, "payload is not one JSON object"},
    {"exp twice", "{\"exp\":1300819380,\"exp\":1773574200" T, "each member once"},
    {"nbf now", E "\"nbf\":1773570600" T, NULL},
    {"nbf in 60 s", E "\"nbf\":1773570660" T, NULL},
    {"nbf in 61 s", E "\"nbf\":1773570661" T, "nbf is 61 s away"},
    {"nbf in 60.5 s", E "\"nbf\":1773570660.5" T, "nbf is 60 s away"},
    {"nbf text", E "\"nbf\":\"0\"" T, "nbf is not a number"},
    {"nbf null", E "\"nbf\":null" T, "nbf is not a number"},
    {"nbf INT64_MAX", E "\"nbf\":9223372036854775807" T, "1970 to 9999"},
    {"no tenant", "{\"exp\":1773574200}", "tenant_id is missing"},
    {"tenant null", E "\"tenant_id\":null}", "tenant_id is not a string"},
    {"tenant number", E "\"tenant_id\":1}", "tenant_id is not a string"},
    {"tenant array", E "\"tenant_id\":[\"" TENANT "\"]}", "tenant_id is not a string"},
    {"tenant empty", E "\"tenant_id\":\"\"}", "not a UUID"},
    {"tenant with a brace", E "\"tenant_id\":\"{" TENANT "}\"}", "not a UUID"},
    {"tenant too long", E "\"tenant_id\":\"" TENANT " \"}", "not a UUID"},
    {"tenant that would inject", E "\"tenant_id\":\"' or 1=1 --\\n\"}",
     "not a UUID: '' or 1=1 --?'"},
    {"two tenants", E "\"tenant_id\":\"" TENANT "\"" T, "each member once"},
    {"sub null", E "\"sub\":null" T, "sub is not a string"},
    {"sub number", E "\"sub\":1" T, "sub is not a string"},
    {"permissions null", E "\"permissions\":null" T, "permissions is not an array"},
    {"permissions text", E "\"permissions\":\"webhooks_read\"" T, "permissions is not an array"},
    {"permissions object", E "\"permissions\":{\"webhooks_read\":true}" T,
     "permissions is not an array"},
    {"permissions with a number", E "\"permissions\":[\"webhooks_read\",1]" T, "not a string"},
    {"permissions in an array", E "\"permissions\":[[\"webhooks_read\"]]" T, "not a string"},
    {"array", "[1]", "payload is not one JSON object"},
    {"number", "1", "payload is not one JSON object"},
    {"empty", "", "payload is not one JSON object"},
    {"trailing data", "{" GOOD "}x", "payload is not one JSON object"},
    {"not UTF-8", E "\"a\":\"\xc0\xaf\"" T, "payload is not one JSON object"},
    {"a lone surrogate", E "\"a\":\"\\ud800\"" T, "payload is not one JSON object"},
};

static void claims_that_are_not_right_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_OF(odd_claims); i++) {
        char token[JWT_ROOM];
        jwt_token(BY_SHARED, "{\"alg\":\"HS256\"}", odd_claims[i].claims, token);
        check_usual(odd_claims[i].name, token, odd_claims[i].why);
    }
}

static void issuer_audience_and_tenant_claim_are_the_policys(void **state)
{
    (void)state;
#define P "{\"exp\":1773570601,\"org\":\"" TENANT "\","
#define I "\"iss\":\"https://id.example\","
    static const struct {
        const char *name;
        const char *claims;
        const char *why;
    } rows[] = {
        {"right", P I "\"aud\":\"netrecon\"}", NULL},
        {"one of several", P I "\"aud\":[\"other\",\"netrecon\"]}", NULL},
        {"no iss", P "\"aud\":\"netrecon\"}", "no iss"},
        {"another iss", P "\"iss\":\"https://id.example/\",\"aud\":\"netrecon\"}",
         "iss is another one: 'https://id.example/'"},
        {"iss in capitals", P "\"iss\":\"HTTPS://id.example\",\"aud\":\"netrecon\"}",
         "iss is another"},
        {"iss array", P "\"iss\":[\"https://id.example\"],\"aud\":\"netrecon\"}", "iss is another"},
        {"iss null", P "\"iss\":null,\"aud\":\"netrecon\"}", "iss is another"},
        {"no aud", P I "\"sub\":\"x\"}", "no aud"},
        {"another aud", P I "\"aud\":\"netrecon2\"}", "aud is not us"},
        {"a part of aud", P I "\"aud\":\"net\"}", "aud is not us"},
        {"aud of others", P I "\"aud\":[\"a\",\"b\"]}", "aud is not us"},
        {"empty aud", P I "\"aud\":[]}", "aud is not us"},
        {"aud with a number", P I "\"aud\":[\"netrecon\",1]}", "aud is not us"},
        {"aud in an array of arrays", P I "\"aud\":[[\"netrecon\"]]}", "aud is not us"},
        {"aud object", P I "\"aud\":{\"netrecon\":\"netrecon\"}}", "aud is not us"},
        {"aud null", P I "\"aud\":null}", "aud is not us"},
        {"the tenant where it usually is",
         "{" GOOD ",\"iss\":\"https://id.example\",\"aud\":\"netrecon\"}", "org is missing"},
        {"no leeway", "{\"exp\":1773570600,\"org\":\"" TENANT "\"," I "\"aud\":\"netrecon\"}",
         "expired 0 s"},
    };
    for (size_t i = 0; i < N_OF(rows); i++) {
        char token[JWT_ROOM];
        jwt_token(BY_ES, "{\"alg\":\"ES256\",\"kid\":\"es\"}", rows[i].claims, token);
        check(jwt_fixture.keys, &strict, rows[i].name, token, rows[i].why);
    }
}

/* Each text is signed as it stands, so only its form can be wrong. */
#define H64 "eyJhbGciOiJIUzI1NiJ9"                 /* {"alg":"HS256"} */
#define H65 "eyJhbGciOiJIUzI1NiIsImEiOiIifQ"       /* {"alg":"HS256","a":""}; stray bits are 0 */
#define H62 "eyJhbGciOiJIUzI1NiIsImEiOiLDvz_DviJ9" /* {"alg":"HS256","a":"ÿ?þ"} */
static const struct {
    const char *name;
    const char *before;
    const char *header;
    const char *between;
    const char *after_claims;
    const char *after_signature;
    const char *why; /* NULL: it is taken */
} forms[] = {
    {"as it should be", "", H64, ".", "", "", NULL},
    {"as it should be, with two more bits", "", H65, ".", "", "", NULL},
    {"as it should be, URL-safe", "", H62, ".", "", "", NULL},
    {"stray bits", "", "eyJhbGciOiJIUzI1NiIsImEiOiIifR", ".", "", "",
     "header is not unpadded base64url"},
    {"padding", "", H65 "==", ".", "", "", "header is not unpadded base64url"},
    {"percent-encoded padding", "", H65 "%3D%3D", ".", "", "", "header is not unpadded"},
    {"standard alphabet", "", "eyJhbGciOiJIUzI1NiIsImEiOiLDvz/DviJ9", ".", "", "",
     "header is not unpadded base64url"},
    {"a blank in front", " ", H64, ".", "", "", "header is not unpadded base64url"},
    {"a newline in front", "\n", H64, ".", "", "", "header is not unpadded base64url"},
    {"'Bearer' left in front", "Bearer ", H64, ".", "", "", "header is not unpadded base64url"},
    {"a byte-order mark", "\xef\xbb\xbf", H64, ".", "", "", "header is not unpadded base64url"},
    {"one letter too many", "", H64 "A", ".", "", "", "header is not unpadded base64url"},
    {"a blank in the payload", "", H64, ".", " ", "", "payload is not unpadded base64url"},
    {"padding of the payload", "", H64, ".", "=", "", "payload is not unpadded base64url"},
    {"padding of the signature", "", H64, ".", "", "=", "signature is not unpadded base64url"},
    {"a newline behind", "", H64, ".", "", "\n", "signature is not unpadded base64url"},
    {"bytes behind the signature", "", H64, ".", "", "AAAA", "signature is wrong"},
    {"a comma behind", "", H64, ".", "", ",", "signature is not unpadded base64url"},
    {"a dot in front", ".", H64, ".", "", "", "three parts"},
    {"a dot behind", "", H64, ".", "", ".", "three parts"},
    {"two dots between", "", H64, "..", "", "", "three parts"},
    {"no dot between", "", H64, "", "", "", "three parts"},
    {"a fourth part", "", H64, ".", "", ".e30", "three parts"},
    {"five parts, as if it were encrypted", "", H64, ".", ".e30.e30", "", "three parts"},
};

static void a_form_that_is_not_exactly_ours_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_OF(forms); i++) {
        char claims[BASE64_SIZE(256)];
        char text[JWT_ROOM];
        char joined[JWT_ROOM];
        char token[JWT_ROOM + 8];
        unsigned char sum[EVP_MAX_MD_SIZE];
        base64url_encode("{" GOOD "}", sizeof("{" GOOD "}") - 1, claims);
        jwt_format(text, sizeof(text), "%s%s%s%s%s", forms[i].before, forms[i].header,
                   forms[i].between, claims, forms[i].after_claims);
        jwt_join(text, sum, jwt_sign(BY_SHARED, text, sum), joined);
        jwt_format(token, sizeof(token), "%s%s", joined, forms[i].after_signature);
        check_usual(forms[i].name, token, forms[i].why);
    }
    static const char *const literal[] = {"",    ".",     "..",   "...",      "a.b", "a.b.",
                                          "..a", "e30..", "=.=.", "e30.e30.", H64,   "{}.{}."};
    for (size_t i = 0; i < N_OF(literal); i++) {
        check_usual(literal[i], literal[i], "token: ");
    }
    struct jwt_claims ret;
    assert_non_null(judge(jwt_fixture.keys, &usual, "\0.\0.\0", 5, &ret));
}

static void an_altered_letter_anywhere_is_refused(void **state)
{
    (void)state;
    static const struct {
        enum jwt_signer by;
        const char *header;
    } rows[] = {{BY_SHARED, "{\"alg\":\"HS256\"}"},
                {BY_RS, "{\"alg\":\"RS256\",\"kid\":\"rs\"}"},
                {BY_ES, "{\"alg\":\"ES256\",\"kid\":\"es\"}"}};
    static const char letters[] = "AQgw-_/=.";
    for (size_t i = 0; i < N_OF(rows); i++) {
        char token[JWT_ROOM];
        jwt_token(rows[i].by, rows[i].header, "{" GOOD "}", token);
        const size_t len = strlen(token);
        for (size_t at = 0; at < len; at++) {
            const char kept = token[at];
            for (size_t j = 0; j < strlen(letters); j++) {
                token[at] = letters[j];
                if (letters[j] != kept) {
                    check_usual("altered", token, "token: ");
                }
            }
            token[at] = kept;
        }
        for (size_t shorter = len; shorter-- > 0;) {
            token[shorter] = '\0';
            check_usual("cut", token, "token: ");
        }
    }
}

/* HMAC with a public key's bytes as the secret, under each header that could let it through. */
static void check_confusion(const struct jwt_keys *public_only, const void *bytes, size_t len)
{
    static const char *const headers[] = {
        "{\"alg\":\"HS256\",\"kid\":\"rs\"}", "{\"alg\":\"HS256\",\"kid\":\"es\"}",
        "{\"alg\":\"HS256\"}", "{\"alg\":\"HS256\",\"kid\":\"hs\"}",
        "{\"alg\":\"RS256\",\"kid\":\"rs\"}"};
    for (size_t i = 0; i < N_OF(headers); i++) {
        char text[JWT_ROOM];
        char token[JWT_ROOM];
        unsigned char sum[EVP_MAX_MD_SIZE];
        jwt_signed_text(headers[i], "{" GOOD "}", text);
        jwt_join(text, sum, jwt_hmac(bytes, len, text, sum), token);
        check_usual(headers[i], token, "token: ");
        check(public_only, &usual, headers[i], token, "token: ");
    }
}

static void a_public_key_is_no_secret(void **state)
{
    (void)state;
    struct err err = {0};
    struct jwt_keys *public_only = jwt_keys_new("", jwt_fixture.set, &err);
    assert_non_null(public_only);
    for (int i = 0; i < 2; i++) {
        EVP_PKEY *key = i == 0 ? jwt_fixture.rs : jwt_fixture.es;
        unsigned char *der = NULL;
        char *pem = NULL;
        BIO *bio = BIO_new(BIO_s_mem());
        assert_int_equal(1, PEM_write_bio_PUBKEY(bio, key));
        const long pem_len = BIO_get_mem_data(bio, &pem);
        const int der_len = i2d_PUBKEY(key, &der);
        assert_true(pem_len > 0 && der_len > 0);
        check_confusion(public_only, pem, (size_t)pem_len);
        check_confusion(public_only, pem, (size_t)pem_len - 1); /* without the newline */
        check_confusion(public_only, der, (size_t)der_len);
        char *as_secret = mem_dupn(pem, (size_t)pem_len);
        assert_null(jwt_keys_new(as_secret, "", &err)); /* nor does the operator make it one */
        assert_non_null(strstr(err.text, "PEM"));
        free(as_secret);
        OPENSSL_free(der);
        BIO_free(bio);
    }
    jwt_keys_free(public_only);
}

static void signatures_in_another_form_are_refused(void **state)
{
    (void)state;
    /* the order of P-256 */
    static const unsigned char order[32] = {0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00,
                                            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                            0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84,
                                            0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51};
    char es[JWT_ROOM];
    char rs[JWT_ROOM];
    char token[JWT_ROOM];
    unsigned char s[1024] = {0};
    jwt_signed_text("{\"alg\":\"ES256\",\"kid\":\"es\"}", "{" GOOD "}", es);
    jwt_signed_text("{\"alg\":\"RS256\",\"kid\":\"rs\"}", "{" GOOD "}", rs);
#define REFUSED(name, text, len, why) (jwt_join(text, s, len, token), check_usual(name, token, why))
    REFUSED("zeros (CVE-2022-21449)", es, 64, "signature is wrong");
    memcpy(s, order, 32);
    memcpy(s + 32, order, 32);
    REFUSED("the order twice", es, 64, "signature is wrong");
    memset(s, 0xff, 64);
    REFUSED("ones", es, 64, "signature is wrong");
    memset(s, 0, 64);
    s[31] = s[63] = 1;
    REFUSED("one and one", es, 64, "signature is wrong");
    size_t len = jwt_sign_native(jwt_fixture.es, false, es, s);
    REFUSED("DER", es, len, "not 64");
    (void)jwt_sign_es(jwt_fixture.es, es, s);
    REFUSED("63 bytes", es, 63, "63 bytes, not 64");
    REFUSED("65 bytes", es, 65, "65 bytes, not 64");
    memset(s, 0, 32);
    REFUSED("r is zero", es, 64, "signature is wrong");
    memset(s, 0, sizeof(s));
    REFUSED("zeros for RSA", rs, 256, "signature is wrong");
    len = jwt_sign_native(jwt_fixture.rs, true, rs, s);
    REFUSED("PSS", rs, len, "signature is wrong");
    len = jwt_sign_native(jwt_fixture.rs, false, rs, s);
    REFUSED("a byte more", rs, len + 1, "signature is wrong");
    REFUSED("a byte less", rs, len - 1, "signature is wrong");
    REFUSED("the largest", rs, 1024, "signature is wrong");
    memmove(s + 1, s, len);
    s[0] = 0;
    REFUSED("a zero in front", rs, len + 1, "signature is wrong");
    char zeros[2049];
    memset(zeros, 'A', sizeof(zeros) - 1);
    zeros[sizeof(zeros) - 1] = '\0';
    jwt_format(token, sizeof(token), "%s.%s", rs, zeros);
    check_usual("more than the largest", token, "signature is not unpadded");
}

/* A token of exactly `len` bytes that is right in all else. */
static void token_of_length(size_t len, char token[JWT_ROOM])
{
    static char filler[JWT_ROOM];
    memset(filler, 'x', sizeof(filler) - 1);
    for (size_t extra = 0; extra < 3; extra++) { /* base64 has no length of 4n + 1 */
        char header[64];
        jwt_format(header, sizeof(header), "{\"alg\":\"HS256\",\"a\":\"%.*s\"}", (int)extra, "xx");
        for (size_t fill = len / 4 * 3 - 300; fill < len / 4 * 3; fill++) {
            char claims[JWT_ROOM];
            jwt_format(claims, sizeof(claims), "{" GOOD ",\"a\":\"%.*s\"}", (int)fill, filler);
            jwt_token(BY_SHARED, header, claims, token);
            if (strlen(token) == len) {
                return;
            }
        }
    }
    fail_msg("no token of %zu bytes", len);
}

static void a_token_has_at_most_8_kib(void **state)
{
    (void)state;
    char token[JWT_ROOM];
    token_of_length(LIMIT_JWT, token);
    check_usual("8 KiB", token, NULL);
    token_of_length(LIMIT_JWT + 1, token);
    check_usual("a byte more", token, "8193 bytes, more than 8192");
    static char huge[1024 * 1024];
    memset(huge, '.', sizeof(huge) - 1);
    check_usual("huge", huge, "more than 8192");
}

static void depth_and_long_members_are_bounded(void **state)
{
    (void)state;
    char inner[5000];
    char claims[JWT_ROOM];
    char token[JWT_ROOM];
    memset(inner, '[', sizeof(inner) - 1);
    inner[sizeof(inner) - 1] = '\0';
    jwt_format(claims, sizeof(claims), "{\"alg\":%s", inner);
    jwt_token(BY_NOBODY, claims, "{" GOOD "}", token);
    check_usual("deep header", token, "header is not one JSON object");
    jwt_token(BY_SHARED, "{\"alg\":\"HS256\"}", claims, token);
    check_usual("deep payload", token, "payload is not one JSON object");
    memset(inner, 's', LIMIT_JWT_SUBJECT + 1);
    for (int len = LIMIT_JWT_SUBJECT; len <= LIMIT_JWT_SUBJECT + 1; len++) {
        jwt_format(claims, sizeof(claims), "{\"sub\":\"%.*s\"," GOOD "}", len, inner);
        jwt_token(BY_SHARED, "{\"alg\":\"HS256\"}", claims, token);
        check_usual("sub", token, len == LIMIT_JWT_SUBJECT ? NULL : "at most 255 bytes");
    }
}

static void without_a_shared_secret_the_kid_decides_alone(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum jwt_signer by;
        const char *header;
        const char *why;
    } rows[] = {
        {"known", BY_ES, "{\"alg\":\"ES256\",\"kid\":\"es\"}", NULL},
        {"no kid", BY_ES, "{\"alg\":\"ES256\"}", "no kid"},
        {"empty kid", BY_ES, "{\"alg\":\"ES256\",\"kid\":\"\"}", "no key has the kid: ''"},
        {"unknown kid", BY_ES, "{\"alg\":\"ES256\",\"kid\":\"es2\"}", "no key has the kid: 'es2'"},
        {"a kid as others' look-ups would have it", BY_HS,
         "{\"alg\":\"HS256\",\"kid\":\"../../dev/null\"}", "no key has the kid"},
        {"signed with nothing", BY_NOBODY, "{\"alg\":\"HS256\"}", "no kid"},
    };
    struct err err = {0};
    struct jwt_keys *set_only = jwt_keys_new("", jwt_fixture.set, &err);
    struct jwt_keys *none = jwt_keys_new("", "", &err);
    assert_true(set_only != NULL && none != NULL);
    for (size_t i = 0; i < N_OF(rows); i++) {
        char token[JWT_ROOM];
        jwt_token(rows[i].by, rows[i].header, "{" GOOD "}", token);
        check(set_only, &usual, rows[i].name, token, rows[i].why);
        check(none, &usual, rows[i].name, token, "token: no ");
    }
    jwt_keys_free(set_only);
    jwt_keys_free(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vectors_of_rfc_7515_verify),
        cmocka_unit_test(a_good_token_tells_tenant_subject_and_scopes),
        cmocka_unit_test(a_header_that_does_not_fit_its_key_is_refused),
        cmocka_unit_test(claims_that_are_not_right_are_refused),
        cmocka_unit_test(issuer_audience_and_tenant_claim_are_the_policys),
        cmocka_unit_test(a_form_that_is_not_exactly_ours_is_refused),
        cmocka_unit_test(an_altered_letter_anywhere_is_refused),
        cmocka_unit_test(a_public_key_is_no_secret),
        cmocka_unit_test(signatures_in_another_form_are_refused),
        cmocka_unit_test(a_token_has_at_most_8_kib),
        cmocka_unit_test(depth_and_long_members_are_bounded),
        cmocka_unit_test(without_a_shared_secret_the_kid_decides_alone),
    };
    return cmocka_run_group_tests(tests, jwt_fixture_start, jwt_fixture_stop);
}
