/* The committed offset of a partition: by table, and against a model that cannot be wrong. */
#include "tracker.h"

#include "worker_fixture.h"

#define MODEL_MAX 4096

/* --- by table --- */

/* "o7" opens offset 7, "d0" closes slot 0, "l" leaves, "=8" the stored offset is now 8, "-" nothing
 * is to be stored. */
static const struct {
    const char *name;
    const char *steps;
} rows[] = {
    {"nothing opened", "-"},
    {"one open event", "o7 -"},
    {"one settled event", "o7 d0 =8 -"},
    {"offset zero", "o0 d0 =1"},
    {"in order", "o1 o2 o3 d0 =2 d1 =3 d2 =4"},
    {"in reverse order nothing moves before the first", "o1 o2 o3 d2 - d1 - d0 =4"},
    {"the middle waits for the first", "o1 o2 o3 d1 - d0 =3 d2 =4"},
    {"gaps are never filled in", "o5 o9 o1000 d0 =6 d1 =10 d2 =1001"},
    {"several moves are one store", "o5 o9 o12 d0 d1 d2 =13 -"},
    {"opened after the prefix moved", "o5 d0 =6 o6 - d1 =7"},
    {"a gap before the next event is not passed", "o5 d0 =6 o900 -"},
    {"left event holds the prefix", "o1 o2 o3 l d1 d2 -"},
    {"left in the middle", "o1 o2 o3 d0 =2 l d2 -"},
};

static void run_steps(const char *name, const char *steps)
{
    struct tracker *t = tracker_new(3, 9);
    const char *at = steps;
    while (*at != '\0') {
        char *end = NULL;
        const char what = *at;
        const int64_t n = strtoll(at + 1, &end, 10);
        int64_t offset = -1;
        if (what == 'o') {
            (void)tracker_open(t, n, 100);
        } else if (what == 'd') {
            tracker_done(t, (uint64_t)n);
        } else if (what == 'l') {
            tracker_leave(t);
        } else if (what == '=' && (!tracker_take_offset(t, &offset) || offset != n)) {
            fail_msg("%s: %s: offset %lld", name, at, (long long)offset);
        } else if (what == '-' && tracker_take_offset(t, &offset)) {
            fail_msg("%s: %s: offset %lld", name, at, (long long)offset);
        }
        at = end;
        at += strspn(at, " ");
    }
    while (tracker_busy(t) > 0) {
        tracker_leave(t);
    }
    tracker_retire(t);
}

static void the_stored_offset_is_one_past_the_settled_prefix(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        run_steps(rows[i].name, rows[i].steps);
    }
}

/* --- against the model --- */

struct model {
    struct tracker *t;
    size_t n;
    size_t open_n; /* those that can still be settled */
    int64_t offset[MODEL_MAX];
    int64_t opened_at[MODEL_MAX];
    bool done[MODEL_MAX];
    size_t open[MODEL_MAX];
    int64_t stored;
};

static void model_open(struct model *m, uint64_t *seed)
{
    static const int64_t gaps[] = {1, 1, 1, 2, 3, 1000, INT64_C(1) << 40};
    const int64_t last = m->n == 0 ? -1 : m->offset[m->n - 1];
    m->offset[m->n] = last + gaps[random_below(seed, COUNT(gaps))];
    m->opened_at[m->n] = (int64_t)m->n + 1;
    assert_int_equal(m->n, tracker_open(m->t, m->offset[m->n], m->opened_at[m->n]));
    m->open[m->open_n++] = m->n++;
}

static size_t model_pick(struct model *m, uint64_t *seed)
{
    const size_t at = random_below(seed, m->open_n);
    const size_t slot = m->open[at];
    m->open[at] = m->open[--m->open_n];
    return slot;
}

/* The definition, word for word: walk from the first event on until one is not settled. */
static size_t model_prefix(const struct model *m)
{
    size_t i = 0;
    while (i < m->n && m->done[i]) {
        i++;
    }
    return i;
}

static void model_compare(struct model *m, unsigned seed)
{
    const size_t prefix = model_prefix(m);
    const int64_t expected = prefix == 0 ? -1 : m->offset[prefix - 1] + 1;
    int64_t offset = -2;
    const bool moved = tracker_take_offset(m->t, &offset);
    if (moved != (expected != m->stored) || (moved && offset != expected)) {
        fail_msg("seed %u, %zu events: stored %lld, the model says %lld", seed, m->n,
                 (long long)(moved ? offset : m->stored), (long long)expected);
    }
    m->stored = expected;
    assert_int_equal(m->open_n, tracker_busy(m->t));
    assert_int_equal(prefix < m->n ? m->opened_at[prefix] : 0, tracker_oldest_mono_us(m->t));
}

static void model_step(struct model *m, uint64_t *seed, size_t open_max, bool leaves)
{
    if (m->n < MODEL_MAX &&
        (m->open_n == 0 || (m->open_n < open_max && random_below(seed, 100) < 55))) {
        model_open(m, seed);
    } else if (leaves && random_below(seed, 200) == 0) {
        (void)model_pick(m, seed);
        tracker_leave(m->t);
    } else {
        const size_t slot = model_pick(m, seed);
        tracker_done(m->t, slot);
        m->done[slot] = true;
    }
}

/* The ring has 256 slots at first: half of the seeds go beyond it, up to six times. */
static void any_order_of_completion_stores_what_the_model_says(void **state)
{
    (void)state;
    struct model *m = calloc(1, sizeof(*m));
    assert_non_null(m);
    for (unsigned seed = 1; seed <= 60; seed++) {
        uint64_t random = seed;
        memset(m, 0, sizeof(*m));
        m->t = tracker_new(0, seed);
        m->stored = -1;
        const size_t open_max = seed % 2 == 0 ? 40 : 1600;
        for (int step = 0; step < 3000; step++) {
            model_step(m, &random, open_max, seed % 3 == 0);
            model_compare(m, seed);
        }
        tracker_retire(m->t);
        while (m->open_n > 0) { /* frees the tracker: AddressSanitizer sees it otherwise */
            tracker_done(m->t, model_pick(m, &random));
        }
    }
    free(m);
}

/* --- size --- */

static void a_tracker_is_full_at_its_maximum_and_has_room_again(void **state)
{
    (void)state;
    struct tracker *t = tracker_new(0, 1);
    for (int64_t i = 0; i < TRACKER_SLOTS_MAX; i++) {
        assert_false(tracker_full(t));
        (void)tracker_open(t, i * 2, i + 1);
    }
    assert_true(tracker_full(t));
    tracker_done(t, 1); /* not the oldest: the span is as long as before */
    assert_true(tracker_full(t));
    tracker_done(t, 0);
    assert_false(tracker_full(t));
    int64_t offset = 0;
    assert_true(tracker_take_offset(t, &offset));
    assert_int_equal(3, offset);
    for (uint64_t i = 2; i < TRACKER_SLOTS_MAX; i++) {
        tracker_done(t, i);
    }
    assert_int_equal(0, tracker_busy(t));
    tracker_retire(t);
}

/* --- epochs --- */

static void a_retired_tracker_lives_until_its_last_event_lets_go(void **state)
{
    (void)state;
    struct tracker *t = tracker_new(4, 1);
    const uint64_t a = tracker_open(t, 10, 1);
    const uint64_t b = tracker_open(t, 11, 1);
    (void)tracker_open(t, 12, 1);
    tracker_retire(t);
    assert_true(tracker_retired(t));
    tracker_done(t, b);
    assert_int_equal(2, tracker_busy(t));
    tracker_leave(t);
    assert_int_equal(1, tracker_busy(t));
    tracker_done(t, a); /* frees it: a leak or a use after free is AddressSanitizer's to report */
}

static void a_completion_of_an_old_epoch_leaves_the_new_tracker_alone(void **state)
{
    (void)state;
    struct tracker *old = tracker_new(4, 1);
    const uint64_t slot = tracker_open(old, 10, 1);
    tracker_retire(old);
    struct tracker *new = tracker_new(4, 2);
    const uint64_t again = tracker_open(new, 10, 1); /* the same message, consumed again */
    assert_int_equal(slot, again);
    assert_int_equal(4, tracker_partition(new));
    assert_int_equal(2, tracker_epoch(new));

    tracker_done(old, slot);
    int64_t offset = 0;
    assert_int_equal(1, tracker_busy(new));
    assert_false(tracker_take_offset(new, &offset));
    tracker_done(new, again);
    assert_true(tracker_take_offset(new, &offset));
    assert_int_equal(11, offset);
    tracker_retire(new);
}

static void a_left_event_never_moves_the_prefix(void **state)
{
    (void)state;
    struct tracker *t = tracker_new(0, 1);
    int64_t offset = 0;
    (void)tracker_open(t, 5, 1);
    tracker_leave(t);
    for (int64_t i = 6; i < 1000; i++) {
        tracker_done(t, tracker_open(t, i, 2));
        assert_false(tracker_take_offset(t, &offset));
    }
    assert_int_equal(0, tracker_busy(t));
    assert_int_equal(1, tracker_oldest_mono_us(t));
    tracker_retire(t);
}

/* --- broken rules --- */

static void close_twice(void)
{
    struct tracker *t = tracker_new(0, 1);
    (void)tracker_open(t, 0, 1);
    const uint64_t slot = tracker_open(t, 1, 1);
    tracker_done(t, slot);
    tracker_done(t, slot);
}

static void close_unopened(void)
{
    struct tracker *t = tracker_new(0, 1);
    (void)tracker_open(t, 0, 1);
    tracker_done(t, 1);
}

static void open_backwards(void)
{
    struct tracker *t = tracker_new(0, 1);
    (void)tracker_open(t, 7, 1);
    (void)tracker_open(t, 7, 1);
}

static void open_retired(void)
{
    struct tracker *t = tracker_new(0, 1);
    (void)tracker_open(t, 7, 1);
    tracker_retire(t);
    (void)tracker_open(t, 8, 1);
}

static void leave_nothing(void)
{
    tracker_leave(tracker_new(0, 1));
}

static void broken_rules_end_the_process(void **state)
{
    (void)state;
    assert_aborts(close_twice);
    assert_aborts(close_unopened);
    assert_aborts(open_backwards);
    assert_aborts(open_retired);
    assert_aborts(leave_nothing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_stored_offset_is_one_past_the_settled_prefix),
        cmocka_unit_test(any_order_of_completion_stores_what_the_model_says),
        cmocka_unit_test(a_tracker_is_full_at_its_maximum_and_has_room_again),
        cmocka_unit_test(a_retired_tracker_lives_until_its_last_event_lets_go),
        cmocka_unit_test(a_completion_of_an_old_epoch_leaves_the_new_tracker_alone),
        cmocka_unit_test(a_left_event_never_moves_the_prefix),
        cmocka_unit_test(broken_rules_end_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
