/* Base64 as secrets and key rings carry it. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(padded_and_unpadded_texts_decode),
        cmocka_unit_test(everything_else_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
