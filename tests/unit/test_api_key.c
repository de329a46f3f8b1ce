/* API keys as they are made and recognised, and the scopes that go with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "api_key.h"
#include "scopes.h"

#define GOOD "nr_live_0123456789abcdef0123456789abcdef0123456789abcdef"

static void a_key_is_known_by_its_sha256(void **state)
{
    (void)state;
    /* printf nr_live_0123… | sha256sum */
    static const char expected[] =
        "959d35844dcd211fc419e676118b8b76c5955fbc2044f8b9e1e6b378d6d8623f";
    unsigned char sum[API_KEY_SHA256];
    char hex[2 * API_KEY_SHA256 + 1];
    assert_true(api_key_hash(GOOD "0", API_KEY_TEXT, sum)); /* needs no NUL */
    for (size_t i = 0; i < sizeof(sum); i++) {
        assert_int_equal(2, snprintf(hex + 2 * i, 3, "%02x", sum[i]));
    }
    assert_string_equal(expected, hex);
}

static void what_does_not_look_like_a_key_has_no_hash(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        const char *text;
    } rows[] = {
        {"empty", ""},
        {"prefix alone", "nr_live_"},
        {"one digit short", "nr_live_0123456789abcdef0123456789abcdef0123456789abcde"},
        {"one digit more", GOOD "0"},
        {"upper case", "nr_live_0123456789ABCDEF0123456789abcdef0123456789abcdef"},
        {"upper-case prefix", "NR_live_0123456789abcdef0123456789abcdef0123456789abcdef"},
        {"another prefix", "nr_test_0123456789abcdef0123456789abcdef0123456789abcdef"},
        {"not hex", "nr_live_0123456789abcdef0123456789abcdef0123456789abcdeg"},
        {"just below '0'", "nr_live_/123456789abcdef0123456789abcdef0123456789abcdef"},
        {"just above '9'", "nr_live_:123456789abcdef0123456789abcdef0123456789abcdef"},
        {"just below 'a'", "nr_live_`123456789abcdef0123456789abcdef0123456789abcdef"},
        {"blank in front", " nr_live_0123456789abcdef0123456789abcdef0123456789abcde"},
        {"newline behind", "nr_live_0123456789abcdef0123456789abcdef0123456789abcde\n"},
        {"UTF-8", "nr_live_0123456789abcdef0123456789abcdef0123456789abcd\xc3\xa9"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        unsigned char sum[API_KEY_SHA256] = {0x5a};
        if (api_key_hash(rows[i].text, strlen(rows[i].text), sum)) {
            fail_msg("accepted: %s", rows[i].what);
        }
        assert_int_equal(0x5a, sum[0]);
    }
    unsigned char sum[API_KEY_SHA256];
    char text[] = GOOD;
    text[20] = '\0'; /* in the middle */
    assert_false(api_key_hash(text, API_KEY_TEXT, sum));
}

static void every_new_key_is_another_one_and_well_formed(void **state)
{
    (void)state;
    char keys[64][API_KEY_TEXT + 1];
    for (size_t i = 0; i < 64; i++) {
        unsigned char sum[API_KEY_SHA256];
        api_key_make(keys[i]);
        assert_true(api_key_hash(keys[i], strlen(keys[i]), sum));
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(keys[i], keys[j]);
        }
    }
    for (size_t at = sizeof(API_KEY_PREFIX) - 1; at < API_KEY_TEXT; at++) { /* no digit is fixed */
        size_t same = 0;
        for (size_t i = 1; i < 64; i++) {
            same += keys[i][at] == keys[0][at];
        }
        assert_true(same < 63);
    }
}

static void scopes_are_read_and_written(void **state)
{
    (void)state;
    static const struct {
        const char *list;
        unsigned scopes;
        const char *written;
    } rows[] = {
        {"webhooks_read", SCOPE_WEBHOOKS_READ, "webhooks_read"},
        {"webhooks_write", SCOPE_WEBHOOKS_WRITE, "webhooks_write"},
        {"webhooks_read,webhooks_write", SCOPES_ALL, "webhooks_read,webhooks_write"},
        {"webhooks_write,webhooks_read", SCOPES_ALL, "webhooks_read,webhooks_write"},
        {"webhooks_read,webhooks_read", SCOPE_WEBHOOKS_READ, "webhooks_read"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct err err = {0};
        unsigned scopes = 0;
        char written[SCOPES_SIZE];
        assert_true(scopes_parse(rows[i].list, &scopes, &err));
        assert_int_equal(rows[i].scopes, scopes);
        scopes_format(scopes, written);
        assert_string_equal(rows[i].written, written);
    }
    char none[SCOPES_SIZE];
    scopes_format(0, none);
    assert_string_equal("", none);
    assert_string_equal("webhooks_write", scope_name(SCOPE_WEBHOOKS_WRITE));
}

static void other_scopes_are_refused_in_a_list_and_nothing_in_a_token(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      ",",
                                      "webhooks_read,",
                                      ",webhooks_read",
                                      "webhooks_read,,webhooks_write",
                                      "webhooks_read, webhooks_write",
                                      "webhooks",
                                      "webhooks_read_",
                                      "Webhooks_read",
                                      "scans_read",
                                      "*"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct err err = {0};
        unsigned scopes = 77;
        if (scopes_parse(bad[i], &scopes, &err)) {
            fail_msg("accepted: '%s'", bad[i]);
        }
        assert_int_equal(77, scopes);
        assert_non_null(strstr(err.text, "webhooks_read, webhooks_write"));
    }
    assert_int_equal(0, scope_parse("scans_read", strlen("scans_read")));
    assert_int_equal(0, scope_parse("webhooks_read", strlen("webhooks_read") - 1));
    assert_int_equal(0, scope_parse("", 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_is_known_by_its_sha256),
        cmocka_unit_test(what_does_not_look_like_a_key_has_no_hash),
        cmocka_unit_test(every_new_key_is_another_one_and_well_formed),
        cmocka_unit_test(scopes_are_read_and_written),
        cmocka_unit_test(other_scopes_are_refused_in_a_list_and_nothing_in_a_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
