/* The retry promise, row by row: what an attempt means and when the next one is due. */
#include "outcome.h"

#include "worker_fixture.h"

#define SECOND  INT64_C(1000000)
#define HOUR    (3600 * SECOND)
#define NO_WISH (-1)

static struct config settings;

static int load_settings(void **state)
{
    (void)state;
    settings_defaults(&settings);
    return 0;
}

static int free_settings(void **state)
{
    (void)state;
    config_free(&settings);
    return 0;
}

static struct outcome judge(enum transport_fault fault, long status, unsigned attempt,
                            int64_t retry_after_s, uint32_t random)
{
    const struct attempt_result r = {
        .fault = fault, .status = status, .retry_after_s = retry_after_s};
    return outcome_judge(&settings, &r, attempt, LIMIT_ATTEMPTS, random);
}

/* --- kinds --- */

/* What platform.md says of an answer; the last attempt turns RETRY into EXHAUSTED. */
static const struct {
    enum transport_fault fault;
    enum outcome_kind kind;
    long first, last; /* statuses */
} kinds[] = {
    {TRANSPORT_OK, OUTCOME_RETRY, 100, 199},
    {TRANSPORT_OK, OUTCOME_DELIVERED, 200, 299},
    {TRANSPORT_OK, OUTCOME_RETRY, 300, 399}, /* redirects are not followed */
    {TRANSPORT_OK, OUTCOME_RETRY, 400, 409},
    {TRANSPORT_OK, OUTCOME_GONE, 410, 410},
    {TRANSPORT_OK, OUTCOME_RETRY, 411, 599},
    {TRANSPORT_OK, OUTCOME_RETRY, 600, 999},
    {TRANSPORT_OK, OUTCOME_RETRY, 0, 0},
    {TRANSPORT_TIMEOUT, OUTCOME_RETRY, 0, 0},
    {TRANSPORT_TIMEOUT, OUTCOME_RETRY, 200, 299}, /* the status came, the attempt did not end */
    {TRANSPORT_TIMEOUT, OUTCOME_RETRY, 410, 410},
    {TRANSPORT_CONNECT, OUTCOME_RETRY, 0, 0},
    {TRANSPORT_TLS, OUTCOME_RETRY, 0, 0},
    {TRANSPORT_BROKEN, OUTCOME_RETRY, 0, 0},
    {TRANSPORT_BROKEN, OUTCOME_RETRY, 200, 200},
    {TRANSPORT_TOO_LARGE, OUTCOME_RETRY, 0, 0},
    {TRANSPORT_TOO_LARGE, OUTCOME_RETRY, 200, 200},
    {TRANSPORT_DENIED, OUTCOME_RETRY, 0, 0},
    {TRANSPORT_OURS, OUTCOME_OURS, 0, 0},
    {TRANSPORT_OURS, OUTCOME_OURS, 200, 200},
    {TRANSPORT_OURS, OUTCOME_OURS, 410, 410},
};

static void check_kind(size_t row, long status, unsigned attempt)
{
    enum outcome_kind expected = kinds[row].kind;
    if (expected == OUTCOME_RETRY && attempt == LIMIT_ATTEMPTS) {
        expected = OUTCOME_EXHAUSTED;
    }
    const struct outcome o = judge(kinds[row].fault, status, attempt, NO_WISH, 0);
    if (o.kind != expected) {
        fail_msg("%s, status %ld, attempt %u: %s", transport_fault_name(kinds[row].fault), status,
                 attempt, outcome_name(o.kind));
    }
    const bool again = expected == OUTCOME_RETRY || expected == OUTCOME_OURS;
    assert_int_equal(again, o.delay_us != 0);
}

static void every_fault_status_and_attempt_has_its_outcome(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        for (long status = kinds[i].first; status <= kinds[i].last; status++) {
            for (unsigned attempt = 1; attempt <= LIMIT_ATTEMPTS; attempt++) {
                check_kind(i, status, attempt);
            }
        }
    }
}

/* --- times --- */

static const int64_t schedule_s[] = {0, 30, 120, 600, 3600}; /* before attempt 1 … 5 */

static void the_next_attempt_comes_on_schedule_and_at_most_a_tenth_later(void **state)
{
    (void)state;
    for (unsigned attempt = 1; attempt < LIMIT_ATTEMPTS; attempt++) {
        const int64_t due = schedule_s[attempt] * SECOND;
        const int64_t tenth = schedule_s[attempt] * SECOND / 10;
        assert_int_equal(due, judge(TRANSPORT_OK, 500, attempt, NO_WISH, 0).delay_us);
        const int64_t latest = judge(TRANSPORT_OK, 500, attempt, NO_WISH, UINT32_MAX).delay_us;
        assert_in_range(latest, due + tenth - 1, due + tenth);
    }
}

static void no_random_number_makes_an_attempt_early_or_more_than_a_tenth_late(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (int i = 0; i < 20000; i++) {
        const unsigned attempt = 1 + (unsigned)random_below(&seed, LIMIT_ATTEMPTS - 1);
        const int64_t due = schedule_s[attempt] * SECOND;
        const struct outcome o =
            judge(TRANSPORT_CONNECT, 0, attempt, NO_WISH, (uint32_t)random_next(&seed));
        assert_true(o.delay_us >= due);
        assert_true(o.delay_us <= due + schedule_s[attempt] * SECOND / 10);
    }
}

static const struct {
    const char *name;
    long status;
    unsigned attempt;
    int64_t wish_s;
    int64_t delay_s;
} wishes[] = {
    {"429 asks for longer", 429, 1, 45, 45},
    {"503 asks for longer", 503, 1, 45, 45},
    {"none", 503, 1, NO_WISH, 30},
    {"zero is not earlier", 503, 1, 0, 30},
    {"shorter is not earlier", 429, 2, 5, 120},
    {"the schedule itself", 429, 3, 600, 600},
    {"one second more", 429, 3, 601, 601},
    {"an hour", 503, 1, 3600, 3600},
    {"a second above an hour", 503, 1, 3601, 3600},
    {"a year", 429, 2, INT64_C(31536000), 3600},
    {"the largest number", 429, 2, INT64_MAX, 3600},
    {"before the last attempt", 503, 4, 10, 3600},
    {"500 has no say", 500, 1, 45, 30},
    {"a redirect has no say", 302, 1, 45, 30},
    {"another answer has no say", 418, 1, 45, 30},
};

static void retry_after_counts_between_the_schedule_and_one_hour(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(wishes); i++) {
        const struct outcome o =
            judge(TRANSPORT_OK, wishes[i].status, wishes[i].attempt, wishes[i].wish_s, 0);
        if (o.delay_us != wishes[i].delay_s * SECOND) {
            fail_msg("%s: after %lld s", wishes[i].name, (long long)(o.delay_us / SECOND));
        }
        const int64_t latest =
            judge(TRANSPORT_OK, wishes[i].status, wishes[i].attempt, wishes[i].wish_s, UINT32_MAX)
                .delay_us;
        assert_true(latest <= wishes[i].delay_s * SECOND * 11 / 10);
    }
}

static void a_longer_schedule_of_the_operator_wins_over_the_hour(void **state)
{
    (void)state;
    const config_delays before = settings.retry_delays;
    settings.retry_delays.ms[1] = 7200000;
    assert_int_equal(2 * HOUR, judge(TRANSPORT_OK, 503, 1, 10, 0).delay_us);
    assert_int_equal(2 * HOUR, judge(TRANSPORT_OK, 503, 1, 7200, 0).delay_us);
    settings.retry_delays = before;
}

static void a_fault_of_ours_uses_no_attempt_and_is_due_soon(void **state)
{
    (void)state;
    for (unsigned attempt = 1; attempt <= LIMIT_ATTEMPTS; attempt++) {
        const struct outcome o = judge(TRANSPORT_OURS, 503, attempt, 1800, 0);
        assert_int_equal(OUTCOME_OURS, o.kind);
        assert_int_equal(settings.own_fault_delay * 1000, o.delay_us);
    }
    assert_int_equal(settings.own_fault_delay * 1100,
                     judge(TRANSPORT_OURS, 0, 1, NO_WISH, UINT32_MAX).delay_us);
}

/* Attempts 6 to 10 of a redelivered one have the times of 1 to 5; so does any later round. */
static void a_redelivered_one_follows_the_same_schedule_again(void **state)
{
    (void)state;
    const struct attempt_result r = {.status = 500, .retry_after_s = NO_WISH};
    for (unsigned first = 1; first <= 101; first += 4) { /* a round need not begin after five */
        const unsigned final = first + LIMIT_ATTEMPTS - 1;
        for (unsigned n = 1; n < LIMIT_ATTEMPTS; n++) {
            const struct outcome o = outcome_judge(&settings, &r, first + n - 1, final, 0);
            assert_int_equal(OUTCOME_RETRY, o.kind);
            assert_int_equal(schedule_s[n] * SECOND, o.delay_us);
        }
        assert_int_equal(OUTCOME_EXHAUSTED, outcome_judge(&settings, &r, final, final, 0).kind);
    }
}

/* No operation makes such a row; whoever does gets the shortest delay. */
static void a_round_longer_than_the_schedule_begins_with_its_first_delay(void **state)
{
    (void)state;
    const struct attempt_result r = {.status = 500, .retry_after_s = NO_WISH};
    assert_int_equal(30 * SECOND, outcome_judge(&settings, &r, 1, 9, 0).delay_us);
    assert_int_equal(30 * SECOND, outcome_judge(&settings, &r, 5, 9, 0).delay_us);
    assert_int_equal(120 * SECOND, outcome_judge(&settings, &r, 6, 9, 0).delay_us);
}

static void what_ends_has_no_next_time(void **state)
{
    (void)state;
    assert_int_equal(0, judge(TRANSPORT_OK, 200, 1, 60, UINT32_MAX).delay_us);
    assert_int_equal(0, judge(TRANSPORT_OK, 410, 1, 60, UINT32_MAX).delay_us);
    assert_int_equal(0, judge(TRANSPORT_OK, 503, 5, 60, UINT32_MAX).delay_us);
}

/* --- tests --- */

/* Nobody waits for a second try of a test, and it neither disables nor gives up anything. */
static void a_test_is_delivered_or_failed_or_ours_and_nothing_else(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        for (long status = kinds[i].first; status <= kinds[i].last; status++) {
            const struct attempt_result r = {
                .fault = kinds[i].fault, .status = status, .retry_after_s = 60};
            const struct outcome o = outcome_of_test(&settings, &r, 0);
            const bool same = kinds[i].kind == OUTCOME_DELIVERED || kinds[i].kind == OUTCOME_OURS;
            assert_int_equal(same ? kinds[i].kind : OUTCOME_TEST_FAILED, o.kind);
            assert_int_equal(o.kind == OUTCOME_OURS ? settings.own_fault_delay * 1000 : 0,
                             o.delay_us);
        }
    }
}

/* --- names --- */

static void only_a_fault_of_ours_writes_no_attempt_row(void **state)
{
    (void)state;
    assert_string_equal("delivered", outcome_row(OUTCOME_DELIVERED));
    assert_string_equal("failed", outcome_row(OUTCOME_RETRY));
    assert_string_equal("exhausted", outcome_row(OUTCOME_EXHAUSTED));
    assert_string_equal("gone", outcome_row(OUTCOME_GONE));
    assert_string_equal("test_failed", outcome_row(OUTCOME_TEST_FAILED));
    assert_null(outcome_row(OUTCOME_OURS));
    for (int kind = OUTCOME_DELIVERED; kind <= OUTCOME_TEST_FAILED; kind++) {
        assert_non_null(outcome_name((enum outcome_kind)kind));
    }
    for (int fault = TRANSPORT_OK; fault <= TRANSPORT_OURS; fault++) {
        assert_non_null(transport_fault_name((enum transport_fault)fault));
    }
}

static void attempt_zero(void)
{
    (void)judge(TRANSPORT_OK, 500, 0, NO_WISH, 0);
}

static void attempt_six(void)
{
    (void)judge(TRANSPORT_OK, 500, LIMIT_ATTEMPTS + 1, NO_WISH, 0);
}

static void an_attempt_outside_one_to_the_final_one_is_a_bug(void **state)
{
    (void)state;
    assert_aborts(attempt_zero);
    assert_aborts(attempt_six);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault_status_and_attempt_has_its_outcome),
        cmocka_unit_test(the_next_attempt_comes_on_schedule_and_at_most_a_tenth_later),
        cmocka_unit_test(no_random_number_makes_an_attempt_early_or_more_than_a_tenth_late),
        cmocka_unit_test(retry_after_counts_between_the_schedule_and_one_hour),
        cmocka_unit_test(a_longer_schedule_of_the_operator_wins_over_the_hour),
        cmocka_unit_test(a_fault_of_ours_uses_no_attempt_and_is_due_soon),
        cmocka_unit_test(a_redelivered_one_follows_the_same_schedule_again),
        cmocka_unit_test(a_round_longer_than_the_schedule_begins_with_its_first_delay),
        cmocka_unit_test(what_ends_has_no_next_time),
        cmocka_unit_test(a_test_is_delivered_or_failed_or_ours_and_nothing_else),
        cmocka_unit_test(only_a_fault_of_ours_writes_no_attempt_row),
        cmocka_unit_test(an_attempt_outside_one_to_the_final_one_is_a_bug),
    };
    return cmocka_run_group_tests(tests, load_settings, free_settings);
}
