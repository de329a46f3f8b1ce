/* How many requests an endpoint can take: up by one per window, down by half per burst. */
#include "lane_limit.h"

#include "worker_fixture.h"

#define SECOND INT64_C(1000000)

static void succeed(struct lane_limit *l, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        lane_limit_success(l);
    }
}

static void it_starts_where_it_is_told_but_not_above_the_ceiling(void **state)
{
    (void)state;
    struct lane_limit l;
    lane_limit_init(&l, 8, 64);
    assert_int_equal(8, l.limit);
    lane_limit_init(&l, 8, 3);
    assert_int_equal(3, l.limit);
    lane_limit_init(&l, 1, 1);
    assert_int_equal(1, l.limit);
}

static void a_whole_window_of_successes_raises_it_by_one(void **state)
{
    (void)state;
    struct lane_limit l;
    lane_limit_init(&l, 1, 64);
    for (unsigned limit = 1; limit < 64; limit++) {
        succeed(&l, limit - 1);
        assert_int_equal(limit, l.limit);
        succeed(&l, 1);
        assert_int_equal(limit + 1, l.limit);
    }
}

static void the_ceiling_holds(void **state)
{
    (void)state;
    struct lane_limit l;
    lane_limit_init(&l, 5, 6);
    succeed(&l, 1000);
    assert_int_equal(6, l.limit);
}

static void trouble_halves_it_down_to_one_and_never_below(void **state)
{
    (void)state;
    static const unsigned limits[] = {32, 16, 8, 4, 2, 1, 1, 1};
    struct lane_limit l;
    lane_limit_init(&l, 64, 64);
    for (unsigned i = 0; i < COUNT(limits); i++) {
        lane_limit_overload(&l, i * SECOND + 1, (i + 1) * SECOND);
        assert_int_equal(limits[i], l.limit);
    }
    lane_limit_init(&l, 7, 64);
    lane_limit_overload(&l, 1, 2);
    assert_int_equal(3, l.limit);
}

static void what_was_in_flight_together_halves_it_once(void **state)
{
    (void)state;
    struct lane_limit l;
    lane_limit_init(&l, 64, 64);
    for (int64_t i = 0; i < 64; i++) { /* started in the first second, they end one by one */
        lane_limit_overload(&l, SECOND + i, 16 * SECOND + i);
    }
    assert_int_equal(32, l.limit);
    lane_limit_overload(&l, 16 * SECOND, 31 * SECOND); /* at the very moment of the cut */
    assert_int_equal(32, l.limit);
    lane_limit_overload(&l, 16 * SECOND + 1, 32 * SECOND); /* and one that began after it */
    assert_int_equal(16, l.limit);
}

static void trouble_begins_a_new_window(void **state)
{
    (void)state;
    struct lane_limit l;
    lane_limit_init(&l, 8, 64);
    succeed(&l, 7);
    lane_limit_overload(&l, 1, 2);
    assert_int_equal(4, l.limit);
    succeed(&l, 3);
    assert_int_equal(4, l.limit);
    succeed(&l, 1);
    assert_int_equal(5, l.limit);
}

static void trouble_that_was_judged_already_keeps_the_window(void **state)
{
    (void)state;
    struct lane_limit l;
    lane_limit_init(&l, 8, 64);
    lane_limit_overload(&l, 5, 10);
    succeed(&l, 3);
    lane_limit_overload(&l, 6, 11);
    succeed(&l, 1);
    assert_int_equal(5, l.limit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_starts_where_it_is_told_but_not_above_the_ceiling),
        cmocka_unit_test(a_whole_window_of_successes_raises_it_by_one),
        cmocka_unit_test(the_ceiling_holds),
        cmocka_unit_test(trouble_halves_it_down_to_one_and_never_below),
        cmocka_unit_test(what_was_in_flight_together_halves_it_once),
        cmocka_unit_test(trouble_begins_a_new_window),
        cmocka_unit_test(trouble_that_was_judged_already_keeps_the_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
