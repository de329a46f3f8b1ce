/* Key sets: which keys an operator may give, and that a refusal says which one and quotes none. */
#include "jwt_fixture.h"

#include <openssl/err.h>

#include "jwt_internal.h"

#define N_OF(a) (sizeof(a) / sizeof(*(a)))
/* 32 and 31 bytes; RFC 7515 A.2 and A.3 */
#define K32 "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY"
#define K31 "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZQ"
#define OCT "\"kty\":\"oct\",\"alg\":\"HS256\",\"k\":\"" K32 "\""
#define N                                                                                          \
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4" \
    "d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5re" \
    "xMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxX" \
    "FvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
#define RSA_ "\"kty\":\"RSA\",\"alg\":\"RS256\",\"n\":\"" N "\""
#define X    "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
#define Y    "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
#define EC   "\"kty\":\"EC\",\"alg\":\"ES256\",\"crv\":\"P-256\""

/* "" when it is a key set, else why not. */
static const char *said_of(const char *secret, const char *set)
{
    static struct err err;
    err = (struct err){0};
    struct jwt_keys *keys = jwt_keys_new(secret, set, &err);
    assert_true((keys == NULL) == (err.code == ERR_INVALID));
    assert_int_equal(0, ERR_peek_error());
    jwt_keys_free(keys);
    return err.text;
}

static void check(const char *name, const char *secret, const char *set, const char *why)
{
    const char *said = said_of(secret, set);
    if (*why == '\0' ? *said != '\0' : strstr(said, why) == NULL) {
        fail_msg("%s: '%s' is not '%s'", name, said, why);
    }
}

static const struct {
    const char *name;
    const char *members; /* after "kid":"k", */
    const char *why;     /* "": it is taken */
} odd_keys[] = {
    {"HS256", OCT, ""},
    {"RS256", RSA_ ",\"e\":\"AQAB\"", ""},
    {"RS256 with e = 3", RSA_ ",\"e\":\"Aw\"", ""},
    {"ES256", EC ",\"x\":\"" X "\",\"y\":\"" Y "\"", ""},
    {"what others add", OCT ",\"use\":\"sig\",\"key_ops\":[\"sign\",\"verify\"],\"x5t\":\"a\"", ""},
    {"no kty", "\"alg\":\"HS256\",\"k\":\"" K32 "\"", "'kty' is missing"},
    {"no alg", "\"kty\":\"oct\",\"k\":\"" K32 "\"", "'alg' is missing"},
    {"no k", "\"kty\":\"oct\",\"alg\":\"HS256\"", "'k' is missing"},
    {"k of 31 bytes", "\"kty\":\"oct\",\"alg\":\"HS256\",\"k\":\"" K31 "\"",
     "'k' has 31 bytes, not 32"},
    {"k empty", "\"kty\":\"oct\",\"alg\":\"HS256\",\"k\":\"\"", "'k' has 0 bytes"},
    {"k padded", "\"kty\":\"oct\",\"alg\":\"HS256\",\"k\":\"" K32 "=\"",
     "'k' is not unpadded base64url"},
    {"k a number", "\"kty\":\"oct\",\"alg\":\"HS256\",\"k\":7", "'k' is not a string"},
    {"alg none", "\"kty\":\"oct\",\"alg\":\"none\",\"k\":\"" K32 "\"", "'alg' is not HS256"},
    {"alg PS256", "\"kty\":\"RSA\",\"alg\":\"PS256\",\"n\":\"" N "\",\"e\":\"AQAB\"",
     "'alg' is not HS256"},
    {"an encryption key", "\"kty\":\"RSA\",\"alg\":\"RSA-OAEP\"", "'alg' is not HS256"},
    {"HS256 with kty RSA", "\"kty\":\"RSA\",\"alg\":\"HS256\",\"k\":\"" K32 "\"",
     "'alg' is HS256 but 'kty' is not oct"},
    {"RS256 with kty oct", "\"kty\":\"oct\",\"alg\":\"RS256\",\"k\":\"" K32 "\"",
     "'kty' is not RSA"},
    {"ES256 with kty OKP", "\"kty\":\"OKP\",\"alg\":\"ES256\"", "'kty' is not EC"},
    {"use enc", OCT ",\"use\":\"enc\"", "verifies no signatures"},
    {"use null", OCT ",\"use\":null", "verifies no signatures"},
    {"key_ops without verify", OCT ",\"key_ops\":[\"sign\"]", "verifies no signatures"},
    {"key_ops a string", OCT ",\"key_ops\":\"verify\"", "verifies no signatures"},
    {"no e", RSA_, "'e' is missing"},
    {"e = 1", RSA_ ",\"e\":\"AQ\"", "'e' is not an odd number from 3"},
    {"e = 0", RSA_ ",\"e\":\"\"", "'e' is not an odd number from 3"},
    {"e even", RSA_ ",\"e\":\"AQAC\"", "'e' is not an odd number from 3"},
    {"e of 65 bits", RSA_ ",\"e\":\"AQAAAAAAAAAB\"", "'e' is not an odd number"},
    {"e of 10 bytes", RSA_ ",\"e\":\"AQAAAAAAAAAAAQ\"", "'e' is not unpadded base64url of at"},
    {"n even", "\"kty\":\"RSA\",\"alg\":\"RS256\",\"e\":\"AQAB\",\"n\":\"A" N "A\"", "no RSA key"},
    {"n empty", "\"kty\":\"RSA\",\"alg\":\"RS256\",\"e\":\"AQAB\",\"n\":\"\"", "0 bits"},
    {"a private RSA key", RSA_ ",\"e\":\"AQAB\",\"d\":\"AQAB\"", "private key"},
    {"a private EC key", EC ",\"x\":\"" X "\",\"y\":\"" Y "\",\"d\":\"" X "\"", "private key"},
    {"another curve",
     "\"kty\":\"EC\",\"alg\":\"ES256\",\"crv\":\"P-384\",\"x\":\"" X "\",\"y\":\"" Y "\"",
     "'crv' is not P-256"},
    {"no crv", "\"kty\":\"EC\",\"alg\":\"ES256\",\"x\":\"" X "\",\"y\":\"" Y "\"",
     "'crv' is missing"},
    {"no y", EC ",\"x\":\"" X "\"", "'y' is missing"},
    {"x too short", EC ",\"x\":\"AQAB\",\"y\":\"" Y "\"", "has not 32 bytes"},
    {"x too long", EC ",\"x\":\"" X "AAAA\",\"y\":\"" Y "\"", "not unpadded base64url"},
    {"a point off the curve", EC ",\"x\":\"" Y "\",\"y\":\"" X "\"", "no EC key"},
};

static void each_key_must_be_what_it_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_OF(odd_keys); i++) {
        char set[4096];
        jwt_format(set, sizeof(set), "{\"keys\":[{\"kid\":\"k\",%s}]}", odd_keys[i].members);
        check(odd_keys[i].name, "", set, odd_keys[i].why);
        assert_null(strstr(said_of("", set), "QUJDREVG")); /* the start of k */
        assert_null(strstr(said_of("", set), "ofgWCu"));
        if (*odd_keys[i].why != '\0') { /* and it is the second of two that is named */
            jwt_format(set, sizeof(set), "{\"keys\":[{\"kid\":\"a\"," OCT "},{\"kid\":\"k\",%s}]}",
                       odd_keys[i].members);
            check(odd_keys[i].name, "", set, "JWK Set, key 2: ");
        }
    }
}

static void the_set_must_be_strict_json_with_named_keys(void **state)
{
    (void)state;
#define KID_32  "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"
#define KID_128 KID_32 KID_32 KID_32 KID_32
    static const struct {
        const char *name;
        const char *set;
        const char *why;
    } rows[] = {
        {"members beside the keys", "{\"a\":[1],\"keys\":[{\"kid\":\"k\"," OCT "}]}\n", ""},
        {"not JSON", "k", "not JSON"},
        {"a secret alone", K32 K32, "line 1 column"},
        {"array", "[{\"kid\":\"k\"," OCT "}]", "'keys' is not an array"},
        {"no keys", "{}", "'keys' is not an array of 1 to 16"},
        {"empty keys", "{\"keys\":[]}", "'keys' is not an array of 1 to 16"},
        {"keys an object", "{\"keys\":{\"kid\":\"k\"," OCT "}}", "'keys' is not an array"},
        {"a key alone", "{\"kid\":\"k\"," OCT "}", "'keys' is not an array"},
        {"a key that is a string", "{\"keys\":[\"" K32 "\"]}", "key 1: 'kid' is missing"},
        {"no kid", "{\"keys\":[{" OCT "}]}", "key 1: 'kid' is missing"},
        {"kid a number", "{\"keys\":[{\"kid\":1," OCT "}]}", "'kid' is not a string"},
        {"kid empty", "{\"keys\":[{\"kid\":\"\"," OCT "}]}", "'kid' has 0 bytes, not 1 to 128"},
        {"kid of 128 bytes", "{\"keys\":[{\"kid\":\"" KID_128 "\"," OCT "}]}", ""},
        {"kid of 129 bytes", "{\"keys\":[{\"kid\":\"" KID_128 "k\"," OCT "}]}", "has 129 bytes"},
        {"the same kid", "{\"keys\":[{\"kid\":\"k\"," OCT "},{\"kid\":\"k\"," OCT "}]}",
         "key 2: an earlier key has the same 'kid'"},
        {"a member twice", "{\"keys\":[{\"kid\":\"k\",\"kid\":\"k\"," OCT "}]}", "twice"},
        {"trailing data", "{\"keys\":[{\"kid\":\"k\"," OCT "}]} {}", "not JSON"},
        {"not UTF-8", "{\"keys\":[{\"kid\":\"\xff\"," OCT "}]}", "not JSON"},
        {"NUL", "{\"keys\":[{\"kid\":\"k\\u0000\"," OCT "}]}", "not JSON"},
    };
    for (size_t i = 0; i < N_OF(rows); i++) {
        check(rows[i].name, "", rows[i].set, rows[i].why);
        assert_null(strstr(said_of("", rows[i].set), "QUJDREVG"));
    }
}

static void a_set_has_at_most_16_keys(void **state)
{
    (void)state;
    for (int n = 16; n <= 17; n++) {
        char set[8192] = "{\"keys\":[";
        for (int i = 0; i < n; i++) {
            const size_t len = strlen(set);
            jwt_format(set + len, sizeof(set) - len, "%s{\"kid\":\"%d\"," OCT "}",
                       i == 0 ? "" : ",", i);
        }
        const size_t len = strlen(set);
        jwt_format(set + len, sizeof(set) - len, "]}");
        check("with a shared secret", JWT_SHARED, set, n == 16 ? "" : "1 to 16 keys");
    }
}

static void the_shared_secret_has_at_least_32_bytes(void **state)
{
    (void)state;
    check("none at all", "", "", "");
    check("32 bytes", "0123456789abcdef0123456789abcdef", "", "");
    check("31 bytes", "0123456789abcdef0123456789abcde", "", "has 31 bytes, not 32");
    check("one byte", "x", "", "has 1 bytes");
    check("PEM", "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQ", "", "PEM");
    check("PEM after a newline", "\n-----BEGIN RSA PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQ", "", "PEM");
    assert_null(strstr(said_of("0123456789abcdef0123456789abcde", ""), "0123"));
}

/* n: a modulus, or several multiplied. */
static void check_modulus(const BIGNUM *n, const char *why)
{
    unsigned char bytes[2048];
    char text[BASE64_SIZE(sizeof(bytes))];
    char set[4096];
    assert_true(BN_num_bytes(n) <= (int)sizeof(bytes));
    base64url_encode(bytes, (size_t)BN_bn2bin(n, bytes), text);
    jwt_format(set, sizeof(set),
               "{\"keys\":[{\"kid\":\"k\",\"kty\":\"RSA\",\"alg\":\"RS256\",\"e\":\"AQAB\","
               "\"n\":\"%s\"}]}",
               text);
    check("modulus", "", set, why);
}

static void rsa_has_2048_to_8192_bits(void **state)
{
    (void)state;
    BN_CTX *ctx = BN_CTX_new();
    BIGNUM *n = NULL;
    BIGNUM *product = BN_new();
    static const unsigned bits[] = {1024, 2047, 2048};
    for (size_t i = 0; i < N_OF(bits); i++) {
        EVP_PKEY *key = EVP_RSA_gen(bits[i]);
        assert_int_equal(1, EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &n));
        check_modulus(n, bits[i] == 2048 ? "" : "bits, not 2048 to 8192");
        EVP_PKEY_free(key);
    }
    assert_int_equal(1, BN_sqr(product, n, ctx));
    assert_int_equal(1, BN_sqr(product, product, ctx)); /* no small factor: nearly 8192 bits */
    check_modulus(product, "");
    assert_int_equal(1, BN_lshift(product, product, 8193 - BN_num_bits(product)));
    assert_int_equal(1, BN_set_bit(product, 0));
    check_modulus(product, "'n' has 8193 bits");
    BN_free(product);
    BN_free(n);
    BN_CTX_free(ctx);
}

static void a_leading_zero_is_part_of_no_number(void **state)
{
    (void)state;
    check("zero", "",
          "{\"keys\":[{\"kid\":\"k\",\"kty\":\"RSA\",\"alg\":\"RS256\",\"e\":\"AAEAAQ\",\"n\":\""
          "AKH4Fgri48m0Zc6NLWViYzYrkn2-KeHwJHf8FiXMkKE244vZNJfFtupj3XcR5nx0KflWsPuKjwia3EtpiTzB"
          "Mz9T7dAZuHeEJS_skU_khXdpWUvqQoDTLA9Vv2KUTxMDlrxum99uvdK9o2eO7KDGaPcBs42_-zjINCzi_m0n"
          "-t5KWkh0l53Uuc-a3sTHWwWFLCwPXvilwXUDkvlE6O1kwRDGtkdgmqR4OuucbJrXVTEwUGOLg2Zcb296gqOW"
          "cCofZBuC0-vyOSIZSR-2hocsVxb1Cvg1jZqLnRfDQHKPf4fYmhjY_KtnrYRZDC7PdZM5NjwHA01vYG-eIeBU"
          "Vsrl6aE\"}]}",
          "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_key_must_be_what_it_says),
        cmocka_unit_test(the_set_must_be_strict_json_with_named_keys),
        cmocka_unit_test(a_set_has_at_most_16_keys),
        cmocka_unit_test(the_shared_secret_has_at_least_32_bytes),
        cmocka_unit_test(rsa_has_2048_to_8192_bits),
        cmocka_unit_test(a_leading_zero_is_part_of_no_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
