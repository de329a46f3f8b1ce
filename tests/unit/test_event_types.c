/* The product page's event types: the table, subscriptions against it, and what is an event name at
 * all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "bounds.h"
#include "event_types.h"

#define ALL_KNOWN (((uint32_t)1 << EVENT_TYPES_N) - 1)

static uint32_t bit(const char *name)
{
    return event_type_bit(name, strlen(name));
}

static void each_type_of_the_page_has_its_own_bit(void **state)
{
    (void)state;
    static const char *const page[EVENT_TYPES_N] = {
        "alert.created", "alert.resolved",    "scan.started",   "scan.completed",
        "scan.failed",   "device.discovered", "device.offline", "ids.alert",
        "honeypot.hit",  "rogue.detected",    "cve.matched",    "backup.completed",
        "backup.failed", "anomaly.detected",
    };
    uint32_t all = 0;
    for (size_t i = 0; i < EVENT_TYPES_N; i++) {
        uint32_t one = bit(page[i]);
        assert_true(one != EVENT_MASK_ANY);
        assert_int_equal(all & one, 0);
        all |= one;
        assert_true(event_name_valid(page[i], strlen(page[i])));
        assert_true(strlen(event_types[i].description) > 0);
    }
    assert_int_equal(all, ALL_KNOWN);
}

static void an_unknown_type_has_the_bit_that_only_the_star_matches(void **state)
{
    (void)state;
    static const char *const unknown[] = {"alert.updated",  "alert", "alert.create",
                                          "alert.created2", "",      "*"};
    for (size_t i = 0; i < sizeof(unknown) / sizeof(*unknown); i++) {
        assert_int_equal(bit(unknown[i]), EVENT_MASK_ANY);
    }
    assert_true(event_type_bit("scan.failedxyz", 11) == bit("scan.failed")); /* length, not NUL */
}

static void patterns_match_what_they_say_and_nothing_else(void **state)
{
    (void)state;
    const struct {
        const char *pattern;
        uint32_t mask; /* 0: refused */
    } rows[] = {
        {"*", ALL_KNOWN | EVENT_MASK_ANY},
        {"alert.created", bit("alert.created")},
        {"alert.*", bit("alert.created") | bit("alert.resolved")},
        {"scan.*", bit("scan.started") | bit("scan.completed") | bit("scan.failed")},
        {"backup.*", bit("backup.completed") | bit("backup.failed")},
        {"ids.*", bit("ids.alert")},
        {"", 0},
        {"**", 0},
        {".*", 0},
        {"*.*", 0},
        {"a.*", 0},
        {"aler.*", 0},
        {"alert*", 0},
        {"alert.", 0},
        {"alert.c*", 0},
        {"*.created", 0},
        {"alert.created.*", 0},
        {"alert.updated", 0},
        {"ALERT.*", 0},
        {" *", 0},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        uint32_t mask = 42;
        bool ok = event_pattern_mask(rows[i].pattern, strlen(rows[i].pattern), &mask);
        if (ok != (rows[i].mask != 0) || mask != (ok ? rows[i].mask : 42)) {
            fail_msg("'%s': %d, %08x", rows[i].pattern, ok, mask);
        }
    }
}

static void event_names_follow_the_contract(void **state)
{
    (void)state;
    static const char *const good[] = {"a.b", "alert.created", "a_1.b_2.c_3",
                                       "0.0", "_._",           "a.b.c.d.e.f"};
    static const char *const bad[] = {"",    "a",     ".",     "a.",    ".a",  "a..b",       "a.b.",
                                      "A.b", "a.b-c", "a b.c", "a.b\n", "a.*", "a.\xc3\xa9", "a,b"};
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        assert_true(event_name_valid(good[i], strlen(good[i])));
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        if (event_name_valid(bad[i], strlen(bad[i]))) {
            fail_msg("accepted: %s", bad[i]);
        }
    }
    assert_false(event_name_valid("a.b\0c", 5));
    char name[LIMIT_EVENT_TYPE + 1];
    memset(name, 'a', sizeof(name));
    name[5] = '.';
    assert_true(event_name_valid(name, LIMIT_EVENT_TYPE));
    assert_false(event_name_valid(name, LIMIT_EVENT_TYPE + 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_type_of_the_page_has_its_own_bit),
        cmocka_unit_test(an_unknown_type_has_the_bit_that_only_the_star_matches),
        cmocka_unit_test(patterns_match_what_they_say_and_nothing_else),
        cmocka_unit_test(event_names_follow_the_contract),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
