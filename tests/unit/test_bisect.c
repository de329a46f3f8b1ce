/* Bad elements of a batch are found by halves: every good one gets through, every bad one stands
 * alone. */
#include "bisect.h"

#include "worker_fixture.h"

#define N_MAX 1200

struct run {
    size_t n;
    size_t bad_n;
    bool bad[N_MAX];
    unsigned good_in[N_MAX]; /* how many ranges that ended well had it */
    unsigned given_up[N_MAX];
    size_t sends;
};

static bool any_bad(const struct run *r, size_t first, size_t end)
{
    for (size_t i = first; i < end; i++) {
        if (r->bad[i]) {
            return true;
        }
    }
    return false;
}

/* Plays the server: a range fails when it holds a bad element. */
static void play(struct run *r)
{
    struct bisect b;
    size_t first = 0;
    size_t end = 0;
    size_t expected = 0; /* ranges come in order, without a gap */
    bisect_begin(&b, r->n);
    while (bisect_current(&b, &first, &end)) {
        assert_true(first == expected && first < end && end <= r->n);
        r->sends++;
        if (!any_bad(r, first, end)) {
            bisect_good(&b);
            for (size_t i = first; i < end; i++) {
                r->good_in[i]++;
            }
            expected = end;
        } else if (bisect_bad(&b)) {
            assert_int_equal(1, end - first);
            r->given_up[first]++;
            expected = end;
        }
    }
    assert_int_equal(r->n, expected);
}

static unsigned log2_up(size_t n)
{
    unsigned bits = 0;
    while (((size_t)1 << bits) < n) {
        bits++;
    }
    return bits;
}

static void check_run(const struct run *r)
{
    for (size_t i = 0; i < r->n; i++) {
        assert_int_equal(r->bad[i] ? 0 : 1, r->good_in[i]);
        assert_int_equal(r->bad[i] ? 1 : 0, r->given_up[i]);
    }
    /* Each failed range holds a bad element, log2(n)+1 of them at most for each; each good one is
     * the sister of a failed one, or all there is. */
    assert_true(r->sends <= 1 + 2 * r->bad_n * (log2_up(r->n) + 1));
    assert_true(r->sends <= 2 * r->n + 1);
}

static void every_good_element_gets_through_and_every_bad_one_stands_alone(void **state)
{
    (void)state;
    static struct run r;
    uint64_t seed = 42;
    for (int round = 0; round < 4000; round++) {
        memset(&r, 0, sizeof(r));
        r.n = 1 + random_below(&seed, round % 10 == 0 ? N_MAX : 40);
        const size_t percent = random_below(&seed, 101);
        const size_t of = round % 3 == 0 ? 2000 : 100; /* few bad ones, too */
        for (size_t i = 0; i < r.n; i++) {
            r.bad[i] = percent == 100 || random_below(&seed, of) < percent;
            r.bad_n += r.bad[i];
        }
        play(&r);
        check_run(&r);
    }
}

static void a_good_batch_is_one_send(void **state)
{
    (void)state;
    static struct run r;
    memset(&r, 0, sizeof(r));
    r.n = 1000;
    play(&r);
    assert_int_equal(1, r.sends);
}

static void an_empty_batch_is_done(void **state)
{
    (void)state;
    struct bisect b;
    size_t first = 0;
    size_t end = 0;
    bisect_begin(&b, 0);
    assert_false(bisect_current(&b, &first, &end));
}

static void the_largest_batch_fits_the_stack(void **state)
{
    (void)state;
    struct bisect b;
    size_t first = 0;
    size_t end = 0;
    bisect_begin(&b, (size_t)1 << 30);
    for (unsigned splits = 0;; splits++) {
        assert_true(bisect_current(&b, &first, &end));
        if (bisect_bad(&b)) {
            assert_int_equal(30, splits);
            break;
        }
    }
    assert_int_equal(0, first);
    assert_true(bisect_current(&b, &first, &end));
    assert_true(first == 1 && end == 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_good_element_gets_through_and_every_bad_one_stands_alone),
        cmocka_unit_test(a_good_batch_is_one_send),
        cmocka_unit_test(an_empty_batch_is_done),
        cmocka_unit_test(the_largest_batch_fits_the_stack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
