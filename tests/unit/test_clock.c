/* RFC 3339 both ways, against values computed with Python's datetime. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"

static const struct {
    const char *text;
    int64_t us;
} good[] = {
    {"1970-01-01T00:00:00Z", 0},
    {"2026-03-15T10:30:00Z", 1773570600000000},
    {"2026-03-15t10:30:00z", 1773570600000000},
    {"2026-03-15 10:30:00Z", 1773570600000000},
    {"2026-03-15T10:30:00+00:00", 1773570600000000},
    {"2026-03-15T10:30:00-00:00", 1773570600000000},
    {"2026-03-15T10:30:00+05:45", 1773549900000000},
    {"2026-03-15T10:30:00-23:59", 1773656940000000},
    {"2026-03-15T10:30:00.5Z", 1773570600500000},
    {"2026-03-15T10:30:00.000001Z", 1773570600000001},
    {"2026-03-15T10:30:00.123456789012345678901234567890Z", 1773570600123456},
    {"2026-03-15T10:30:00.9999999+00:00", 1773570600999999},
    {"2000-02-29T23:59:59.123456Z", 951868799123456},
    {"2024-02-29T00:00:00Z", 1709164800000000},
    {"1900-01-01T00:00:00Z", -2208988800000000},
    {"0001-01-01T00:00:00Z", -62135596800000000},
    {"0000-02-29T00:00:00Z", -62162121600000000},
    {"1969-12-31T23:59:59.9Z", -100000},
    {"9999-12-31T23:59:59.999999Z", 253402300799999999},
    {"1990-12-31T23:59:60Z", 662688000000000},
    {"1990-12-31T15:59:60-08:00", 662688000000000},
    {"1985-07-01T05:44:60.25+05:45", 489024000250000},
};

static const char *const bad[] = {
    "",
    "2026",
    "2026-03-15",
    "2026-03-15T10:30:00",
    "2026-03-15T10:30Z",
    "2026-03-15T10:30:00Zx",
    "2026-03-15T10:30:00 Z",
    " 2026-03-15T10:30:00Z",
    "2026-03-15_10:30:00Z",
    "2026-03-15T10:30:00.Z",
    "2026-03-15T10:30:00,5Z",
    "2026-03-15T10:30:00.5",
    "2026-03-15T10:30:00.5.5Z",
    "2026-03-15T10:30:00+0545",
    "2026-03-15T10:30:00+05",
    "2026-03-15T10:30:00+5:45",
    "2026-03-15T10:30:00+24:00",
    "2026-03-15T10:30:00+23:60",
    "2026-03-15T10:30:00+-1:00",
    "2026-3-15T10:30:00Z",
    "20260315T103000Z",
    "+2026-03-15T10:30:00Z",
    "-026-03-15T10:30:00Z",
    "12026-03-15T10:30:00Z",
    "2026-00-15T10:30:00Z",
    "2026-13-15T10:30:00Z",
    "2026-03-00T10:30:00Z",
    "2026-03-32T10:30:00Z",
    "2026-04-31T10:30:00Z",
    "2026-02-29T10:30:00Z",
    "1900-02-29T10:30:00Z",
    "2100-02-29T10:30:00Z",
    "2024-02-30T10:30:00Z",
    "2026-03-15T24:00:00Z",
    "2026-03-15T10:60:00Z",
    "2026-03-15T10:30:61Z",
    "2026-03-15T10:30:60Z", /* not the last second of a UTC month */
    "2026-03-31T10:59:60Z",
    "1990-12-30T23:59:60Z",
    "1990-12-31T23:59:60-08:00",
    "2026-03-15T1a:30:00Z",
    "2026-03-15T10:30:00\xc2\xb5",
};

/* an exact copy on the heap: the sanitizer then sees a read past the end */
static _Bool parse(const char *text, size_t len, int64_t *us)
{
    char *exact = malloc(len > 0 ? len : 1);
    assert_non_null(exact);
    memcpy(exact, text, len);
    _Bool ok = clock_parse_rfc3339(exact, len, us);
    free(exact);
    return ok;
}

static void every_form_of_rfc3339_is_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        int64_t us = -1;
        if (!parse(good[i].text, strlen(good[i].text), &us)) {
            fail_msg("refused: %s", good[i].text);
        }
        if (us != good[i].us) {
            fail_msg("%s: %lld", good[i].text, (long long)us);
        }
        assert_true(clock_parse_rfc3339(good[i].text, strlen(good[i].text), NULL));
    }
}

static void everything_else_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        int64_t us = 42;
        if (parse(bad[i], strlen(bad[i]), &us)) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_int_equal(us, 42);
    }
    assert_false(clock_parse_rfc3339("2026-03-15T10:30:00\0", 20, NULL));
    assert_false(clock_parse_rfc3339("2026-03-15\0"
                                     "10:30:00Z",
                                     20, NULL));
}

static void every_cut_of_a_good_text_is_refused(void **state)
{
    (void)state;
    static const char text[] = "2026-03-15T10:30:00.123+05:45";
    for (size_t len = 0; len < sizeof(text) - 1; len++) {
        assert_false(parse(text, len, NULL));
    }
    assert_true(parse(text, sizeof(text) - 1, NULL));
}

static void formatted_times_are_exact_and_clamped(void **state)
{
    (void)state;
    static const struct {
        int64_t us;
        const char *text;
    } rows[] = {
        {0, "1970-01-01T00:00:00.000000Z"},
        {1773570600123456, "2026-03-15T10:30:00.123456Z"},
        {951868799000001, "2000-02-29T23:59:59.000001Z"},
        {253402300799999999, "9999-12-31T23:59:59.999999Z"},
        {253402300800000000, "9999-12-31T23:59:59.999999Z"},
        {INT64_MAX, "9999-12-31T23:59:59.999999Z"},
        {-1, "1970-01-01T00:00:00.000000Z"},
        {INT64_MIN, "1970-01-01T00:00:00.000000Z"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char text[CLOCK_RFC3339_SIZE];
        clock_format_rfc3339(rows[i].us, text);
        assert_string_equal(text, rows[i].text);
    }
}

/* gmtime_r is the judge here: banned in the product, welcome in its tests */
static void every_day_of_eight_thousand_years_round_trips(void **state)
{
    (void)state;
    for (int64_t day = 0; day < 2932897; day += 1) {
        int64_t us = day * 86400000000 + (day * 7919) % 86400 * 1000000 + day % 1000000;
        char text[CLOCK_RFC3339_SIZE];
        clock_format_rfc3339(us, text);
        int64_t back = -1;
        assert_true(clock_parse_rfc3339(text, sizeof(text) - 1, &back));
        assert_true(back == us);
        if (day % 97 == 0) {
            time_t s = us / 1000000;
            struct tm tm;
            char libc[sizeof("2026-03-15T10:30:00")];
            assert_non_null(gmtime_r(&s, &tm));
            assert_int_equal(strftime(libc, sizeof(libc), "%Y-%m-%dT%H:%M:%S", &tm),
                             sizeof(libc) - 1);
            assert_memory_equal(text, libc, sizeof(libc) - 1);
        }
    }
}

static void mono_never_goes_back_and_wall_is_now(void **state)
{
    (void)state;
    int64_t before = clock_mono_us();
    for (int i = 0; i < 1000; i++) {
        int64_t now = clock_mono_us();
        assert_true(now >= before);
        before = now;
    }
    int64_t seconds = clock_wall_us() / 1000000;
    assert_in_range(seconds, time(NULL) - 1, time(NULL) + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_of_rfc3339_is_read),
        cmocka_unit_test(everything_else_is_refused_and_changes_nothing),
        cmocka_unit_test(every_cut_of_a_good_text_is_refused),
        cmocka_unit_test(formatted_times_are_exact_and_clamped),
        cmocka_unit_test(every_day_of_eight_thousand_years_round_trips),
        cmocka_unit_test(mono_never_goes_back_and_wall_is_now),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
