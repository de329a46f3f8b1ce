/* Both signatures, against vectors: RFC 4231, the Standard Webhooks specification, and Python's
 * hmac for the rest (hmac.new(key, message, hashlib.sha256), base64.b64encode). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <openssl/err.h>
#include <string.h>

#include "bounds.h"
#include "sign.h"

#define PAGE_BODY "{\"id\":\"x\",\"event\":\"alert.created\"}"

static struct signer *signer_of(const char *secret)
{
    struct err err = {0};
    struct signer *s = signer_new(secret, strlen(secret), &err);
    if (s == NULL) {
        fail_msg("%s", err.text);
    }
    return s;
}

static void check_netrecon(const char *secret, const char *body, const char *hex)
{
    char out[SIGN_NETRECON_SIZE];
    struct err err = {0};
    struct signer *s = signer_of(secret);
    assert_true(signer_netrecon(s, body, strlen(body), out, &err));
    assert_memory_equal(out, "sha256=", 7);
    assert_string_equal(out + 7, hex);
    signer_free(s);
}

static void check_standard(const char *secret, const char *id, int64_t at, const char *body,
                           const char *base64)
{
    char out[SIGN_STANDARD_SIZE];
    struct err err = {0};
    struct signer *s = signer_of(secret);
    assert_true(signer_standard(s, id, at, body, strlen(body), out, &err));
    assert_memory_equal(out, "v1,", 3);
    assert_string_equal(out + 3, base64);
    signer_free(s);
}

static void the_vendor_header_agrees_with_rfc4231_and_python(void **state)
{
    (void)state;
    static const char long_key[] = "\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa"
                                   "\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa"
                                   "\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa"
                                   "\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa"
                                   "\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa"
                                   "\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa"
                                   "\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa"
                                   "\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa"
                                   "\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa"
                                   "\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa"
                                   "\xaa";
    assert_int_equal(strlen(long_key), 131);
    check_netrecon(
        "\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b",
        "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    check_netrecon("Jefe", "what do ya want for nothing?",
                   "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    check_netrecon(long_key, "Test Using Larger Than Block-Size Key - Hash Key First",
                   "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    check_netrecon("your-hmac-secret", PAGE_BODY,
                   "229133772f843d13c64d75b0d5cb2ed610554e4876ec20cc321f6d363d4440a9");
    check_netrecon("\xc3\xa9\xf0\x9f\x94\x91 cl\xc3\xa9", "b",
                   "ce61036095b6604eaf7493f57d5e4896efddeebecd7592d4802bd05e86f03212");
}

static void an_empty_body_has_a_signature_too(void **state)
{
    (void)state;
    char out[SIGN_NETRECON_SIZE];
    char standard[SIGN_STANDARD_SIZE];
    struct err err = {0};
    struct signer *s = signer_of("your-hmac-secret");
    assert_true(signer_netrecon(s, NULL, 0, out, &err));
    assert_string_equal(out,
                        "sha256=fd83eb3bdcae35b6bd0f570e1dcdae9ebebde8d64dc18fbd7de9bd4d439e5bec");
    assert_true(signer_standard(s, "msg_1", 0, NULL, 0, standard, &err));
    assert_string_equal(standard, "v1,V3GwlxfaEvYQYuruEu7YmzPxe4sv+7PhsGHGP15KaPI=");
    signer_free(s);
}

static void standard_webhooks_own_vector_holds(void **state)
{
    (void)state;
    check_standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek",
                   1614265330, "{\"test\": 2432232314}",
                   "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

static void a_whsec_secret_is_typed_for_one_header_and_decoded_for_the_other(void **state)
{
    (void)state;
    check_netrecon("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "{\"test\": 2432232314}",
                   "80ec8a89ce3cd22133a1066caecb4d04fea7467657c8514d717ec42c38a5c94c");
    check_standard("whsec_c2l4dGVlbiBieXRlcyAhIQ==", "a", 1, "b",
                   "Wtq6XZv3mouRoumja7t/CNe0XISHg0of+8bExilO624=");
    check_standard("whsec_c2l4dGVlbiBieXRlcyAhIQ", "a", 1, "b",
                   "Wtq6XZv3mouRoumja7t/CNe0XISHg0of+8bExilO624=");
}

static void a_secret_of_another_form_is_plain_bytes_for_both(void **state)
{
    (void)state;
    check_standard("your-hmac-secret", "msg_1", 1700000000, PAGE_BODY,
                   "eYrEXc7OKaYegrc+W0XdZ5i6Fm8/FYpcTC3qXZhkV9I=");
    check_standard("whsec_not base64!", "a", 1, "b",
                   "wXYvV13xNdKXC0mRVQwdrNKfD+bPoH57mFRVbEa36Do=");
    check_standard("whsec_", "a", 1, "b", "c0Wd3FkZNg6xjW05c2EQAJMXZJz4u86Dc4sYxvhL0b8=");
    check_standard("whsec_AAAAA", "a", 1, "b", "ISw9bUnms4JjRoNCSGRPCW16k6BRbOQ5NrhVjAwrn5o=");
}

static void secrets_of_1_to_256_bytes_sign_and_others_are_refused(void **state)
{
    (void)state;
    char secret[LIMIT_SECRET + 1];
    memset(secret, 'k', sizeof(secret));
    struct err err = {0};
    char netrecon[SIGN_NETRECON_SIZE];
    char standard[SIGN_STANDARD_SIZE];
    struct signer *s = signer_new(secret, LIMIT_SECRET, &err);
    assert_non_null(s);
    assert_true(signer_netrecon(s, "b", 1, netrecon, &err));
    assert_string_equal(netrecon,
                        "sha256=069d3ba55d70971e813811868c3f46a08bcb64f4f6f1ef0c8766c06df80434c1");
    assert_true(signer_standard(s, "a", -1, "b", 1, standard, &err));
    assert_string_equal(standard, "v1,YPPmd5T8HLDYw0//gyNeoZ3DVLDW3RPBJz8cgaLaxWc=");
    signer_free(s);
    s = signer_new("k", 1, &err);
    assert_non_null(s);
    signer_free(s);

    assert_null(signer_new(secret, LIMIT_SECRET + 1, &err));
    assert_int_equal(err.code, ERR_INVALID);
    assert_null(signer_new(secret, 0, &err));
    assert_int_equal(err.code, ERR_INVALID);
    signer_free(NULL);
}

/* The keyed context is only ever duplicated: the thousandth signature is the first one. */
static void signing_again_and_in_turns_gives_the_same(void **state)
{
    (void)state;
    static unsigned char body[256 * 1024];
    for (size_t i = 0; i < sizeof(body); i++) {
        body[i] = (unsigned char)i;
    }
    struct signer *s = signer_of("your-hmac-secret");
    for (int i = 0; i < 20; i++) {
        char netrecon[SIGN_NETRECON_SIZE];
        char standard[SIGN_STANDARD_SIZE];
        struct err err = {0};
        assert_true(signer_netrecon(s, body, sizeof(body), netrecon, &err));
        assert_string_equal(
            netrecon, "sha256=21bc4715119fe709e137f33a3e2286e4cb270883d7ff5b9e4deacff48efb56cb");
        assert_true(
            signer_standard(s, "msg_1", 1700000000, PAGE_BODY, strlen(PAGE_BODY), standard, &err));
        assert_string_equal(standard, "v1,eYrEXc7OKaYegrc+W0XdZ5i6Fm8/FYpcTC3qXZhkV9I=");
    }
    signer_free(s);
}

static void an_absurd_id_is_refused_not_cut(void **state)
{
    (void)state;
    char id[300];
    memset(id, 'a', sizeof(id) - 1);
    id[sizeof(id) - 1] = '\0';
    char out[SIGN_STANDARD_SIZE];
    struct err err = {0};
    struct signer *s = signer_of("k");
    assert_false(signer_standard(s, id, 1, "b", 1, out, &err));
    assert_int_equal(err.code, ERR_INVALID);
    signer_free(s);
}

/* libcurl reads the same queue after each TLS call */
static int openssl_error_queue_is_empty(void **state)
{
    (void)state;
    return ERR_peek_error() == 0 ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vendor_header_agrees_with_rfc4231_and_python),
        cmocka_unit_test(an_empty_body_has_a_signature_too),
        cmocka_unit_test(standard_webhooks_own_vector_holds),
        cmocka_unit_test(a_whsec_secret_is_typed_for_one_header_and_decoded_for_the_other),
        cmocka_unit_test(a_secret_of_another_form_is_plain_bytes_for_both),
        cmocka_unit_test(secrets_of_1_to_256_bytes_sign_and_others_are_refused),
        cmocka_unit_test(signing_again_and_in_turns_gives_the_same),
        cmocka_unit_test(an_absurd_id_is_refused_not_cut),
    };
    return cmocka_run_group_tests(tests, NULL, openssl_error_queue_is_empty);
}
