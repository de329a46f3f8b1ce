/* Base64 as secrets and key rings carry it, and base64url as tokens and cursors do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base64.h"

static void padded_and_unpadded_texts_decode(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *bytes;
    } rows[] = {/* RFC 4648 section 10, then both special letters, then stray bits */
                {"", ""},
                {"Zg==", "f"},
                {"Zm8=", "fo"},
                {"Zm9v", "foo"},
                {"Zm9vYg==", "foob"},
                {"Zm9vYmE=", "fooba"},
                {"Zg", "f"},
                {"Zm8", "fo"},
                {"Zm9vYg", "foob"},
                {"Zm9vYmE", "fooba"},
                {"+/+/", "\xfb\xff\xbf"},
                {"Zh==", "f"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        unsigned char out[8];
        size_t n = 99;
        assert_true(
            base64_decode(rows[i].text, strlen(rows[i].text), out, strlen(rows[i].bytes), &n));
        assert_int_equal(n, strlen(rows[i].bytes));
        assert_memory_equal(out, rows[i].bytes, n);
        if (n > 0) { /* one byte less room */
            assert_false(base64_decode(rows[i].text, strlen(rows[i].text), out, n - 1, &n));
        }
    }
}

static void everything_else_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "Z",    "Zm9vY", "=",        "==",   "===",    "====", "Zg=",  "Zg===",   "Zm9v=",   "Z===",
        "Z=g=", "=Zg=",  "Zg==Zg==", "Zm 9", "Zm9v\n", " Zg=", "Zm-_", "Zm9\xc3", "Zm9v===="};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        unsigned char out[16];
        size_t n = 99;
        if (base64_decode(bad[i], strlen(bad[i]), out, sizeof(out), &n)) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_int_equal(n, 99);
    }
}

static void url_safe_texts_decode_and_are_written(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        const char *url_safe;
        const char *standard;
    } rows[] = {{"", "", ""},
                {"f", "Zg", "Zg=="},
                {"fo", "Zm8", "Zm8="},
                {"foo", "Zm9v", "Zm9v"},
                {"foob", "Zm9vYg", "Zm9vYg=="},
                {"fooba", "Zm9vYmE", "Zm9vYmE="},
                {"foobar", "Zm9vYmFy", "Zm9vYmFy"},
                {"\xfb\xff\xbf", "-_-_", "+/+/"},
                {"\xff\xff", "__8", "//8="}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        const size_t len = strlen(rows[i].bytes);
        char text[16];
        unsigned char out[8];
        size_t n = 99;
        assert_true(strlen(rows[i].standard) < BASE64_SIZE(len));
        assert_int_equal(base64url_encode(rows[i].bytes, len, text), strlen(rows[i].url_safe));
        assert_string_equal(text, rows[i].url_safe);
        assert_true(base64url_decode(text, strlen(text), out, len, &n));
        assert_int_equal(n, len);
        assert_memory_equal(out, rows[i].bytes, n);
        assert_int_equal(base64_encode(rows[i].bytes, len, text), strlen(rows[i].standard));
        assert_string_equal(text, rows[i].standard);
        if (len > 0) { /* one byte less room */
            assert_false(
                base64url_decode(rows[i].url_safe, strlen(rows[i].url_safe), out, len - 1, &n));
        }
    }
}

static void bytes_have_exactly_one_url_safe_text(void **state)
{
    (void)state;
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=. \n";
    const size_t n_letters = sizeof(letters); /* the NUL too */
    size_t taken[4] = {0};
    for (size_t i = 0; i < n_letters * n_letters * n_letters; i++) {
        const char text[3] = {letters[i % n_letters], letters[i / n_letters % n_letters],
                              letters[i / n_letters / n_letters]};
        for (size_t len = 1; len <= 3; len++) {
            unsigned char out[3];
            char again[BASE64_SIZE(3)];
            size_t n = 99;
            if (!base64url_decode(text, len, out, sizeof(out), &n)) {
                assert_int_equal(n, 99);
                continue;
            }
            assert_int_equal(base64url_encode(out, n, again), len);
            assert_memory_equal(again, text, len);
            taken[len]++;
        }
    }
    assert_int_equal(taken[1], 0);
    assert_int_equal(taken[2], 256 * n_letters); /* whatever the third letter was */
    assert_int_equal(taken[3], 65536);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(padded_and_unpadded_texts_decode),
        cmocka_unit_test(everything_else_is_refused),
        cmocka_unit_test(url_safe_texts_decode_and_are_written),
        cmocka_unit_test(bytes_have_exactly_one_url_safe_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
