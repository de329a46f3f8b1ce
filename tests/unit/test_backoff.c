/* The pauses between tries, and how often a failure is told. The clock is played (link seam). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backoff.h"
#include "clock.h"

static int64_t now_us = 1;

int64_t clock_mono_us(void)
{
    return now_us;
}

static void test_pauses_double_up_to_five_seconds(void **state)
{
    static const int64_t shortest_ms[] = {100, 200, 400, 800, 1600, 3200, 4000, 4000, 4000};

    (void)state;
    for (int round = 0; round < 200; round++) {
        struct backoff b = {.ms = 0};
        for (size_t i = 0; i < sizeof(shortest_ms) / sizeof(*shortest_ms); i++) {
            const int64_t least = shortest_ms[i] * 1000;
            assert_in_range(backoff_next_us(&b), least, least * 5 / 4);
        }
        b.ms = 0;
        assert_in_range(backoff_next_us(&b), 100000, 125000);
    }
}

static void test_pauses_have_jitter(void **state)
{
    struct backoff b = {.ms = 4000};
    const int64_t first = backoff_next_us(&b);
    int others = 0;

    (void)state;
    for (int i = 0; i < 100; i++) {
        others += backoff_next_us(&b) != first;
    }
    assert_true(others > 0);
}

static void test_a_failure_is_told_once_and_then_every_half_minute(void **state)
{
    struct backoff b = {.ms = 0};

    (void)state;
    assert_true(backoff_failed(&b));
    now_us += 29999999;
    assert_false(backoff_failed(&b));
    now_us += 1;
    assert_true(backoff_failed(&b));
    assert_int_equal(3, b.tries);
    assert_false(backoff_failed(&b));
    b.tries = 0; /* it was up */
    assert_true(backoff_failed(&b));
    assert_int_equal(1, b.tries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pauses_double_up_to_five_seconds),
        cmocka_unit_test(test_pauses_have_jitter),
        cmocka_unit_test(test_a_failure_is_told_once_and_then_every_half_minute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
