/* Whose turn it is. The deliveries are fakes: this program defines what lanes.c calls of
 * delivery.h, so that a started one stays in flight until the test ends it. */
#include "lanes.h"

#include "worker_fixture.h"

#include "mem.h"

#define STARTED_MAX 4096

static struct config settings;
static struct event_account account;

static struct {
    struct lanes *lanes;
    size_t n; /* started, in order */
    struct delivery *started[STARTED_MAX];
    const struct webhook *newest[STARTED_MAX]; /* what each was started with */
    bool ends_at_once; /* a start that fails at once reports back from inside */
    size_t dropped_settled;
    size_t dropped_open;
} world;

/* --- the fakes --- */

static struct delivery *make_delivery(struct webhook *wh, struct tracker *t, int64_t offset)
{
    struct delivery *d = mem_zero(1, sizeof(*d));
    d->magic = DELIVERY_MAGIC;
    d->ev = event_make(&account, t, offset, (unsigned)offset);
    d->wh = webhook_ref(wh);
    d->attempt = 1;
    return d;
}

static void free_delivery(struct delivery *d)
{
    webhook_unref(d->wh);
    nrw_event_unref(d->ev);
    free(d);
}

void delivery_start(struct delivery *d, struct webhook *newest)
{
    assert_true(world.n < STARTED_MAX);
    assert_null(d->next);
    struct webhook *old = d->wh;
    d->wh = webhook_ref(newest);
    webhook_unref(old);
    world.newest[world.n] = newest;
    world.started[world.n++] = d;
    if (world.ends_at_once) {
        lanes_left(world.lanes, d);
    }
}

void delivery_drop(struct delivery *d, bool settled)
{
    assert_null(d->next);
    if (!settled) {
        nrw_event_abandon(d->ev);
    }
    world.dropped_settled += settled;
    world.dropped_open += !settled;
    free_delivery(d);
}

/* --- the world --- */

static int begin(void **state)
{
    (void)state;
    memset(&world, 0, sizeof(world));
    settings_defaults(&settings);
    settings.lane_concurrency = 4;
    settings.lane_queue_max = 50;
    settings.requests_max = 1000;
    world.lanes = lanes_new(&settings);
    return 0;
}

static int end(void **state)
{
    (void)state;
    for (size_t i = 0; i < world.n; i++) {
        if (world.started[i] != NULL) {
            free_delivery(world.started[i]);
        }
    }
    lanes_free(world.lanes);
    config_free(&settings);
    assert_int_equal(0, account.events);
    assert_int_equal(0, account.payload_bytes);
    return 0;
}

static struct webhook *make_webhook(unsigned n, int64_t version)
{
    struct webhook *wh = mem_zero(1, sizeof(*wh));
    wh->magic = WEBHOOK_MAGIC;
    wh->refs = 1;
    wh->id = id_of(0x3b, n);
    wh->version = version;
    return wh;
}

static void add(struct webhook *wh, int64_t first, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        lanes_add(world.lanes, make_delivery(wh, NULL, first + (int64_t)i));
    }
}

/* The request is over; the delivery itself goes, too. */
static void finish(size_t i)
{
    struct delivery *d = world.started[i];
    assert_non_null(d);
    lanes_left(world.lanes, d);
    free_delivery(d);
    world.started[i] = NULL;
}

static size_t in_flight_of(const struct webhook *wh)
{
    size_t n = 0;
    for (size_t i = 0; i < world.n; i++) {
        n += world.started[i] != NULL && uuid_equal(&world.started[i]->wh->id, &wh->id);
    }
    return n;
}

/* --- promises --- */

static void one_lane_is_first_in_first_out(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(1, 1);
    add(wh, 0, 30);
    for (size_t done = 0; done < 30; done++) {
        lanes_after_turn(world.lanes);
        assert_true(world.n > done);
        assert_int_equal(done, world.started[done]->ev->offset);
        finish(done);
    }
    assert_int_equal(0, lanes_in_flight(world.lanes));
    webhook_unref(wh);
}

static void a_webhook_has_at_most_its_cap_in_flight(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(1, 1);
    uint64_t seed = 3;
    size_t ended = 0;
    for (int64_t next = 0; ended < 2000;) {
        if (next < 2000 && random_below(&seed, 2) == 0) {
            add(wh, next++, 1);
        }
        lanes_after_turn(world.lanes);
        assert_true(in_flight_of(wh) <= 4);
        assert_int_equal(world.n - ended, lanes_in_flight(world.lanes));
        while (ended < world.n && random_below(&seed, 3) == 0) {
            finish(ended++);
        }
    }
    webhook_unref(wh);
}

static void the_whole_cap_is_used(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(1, 1);
    add(wh, 0, 10);
    lanes_after_turn(world.lanes);
    assert_int_equal(4, world.n);
    finish(2);
    finish(0);
    lanes_after_turn(world.lanes);
    assert_int_equal(6, world.n);
    webhook_unref(wh);
}

static void a_failing_webhook_gets_one_request_at_a_time(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(1, 1);
    wh->failing = true;
    add(wh, 0, 5);
    for (size_t i = 0; i < 5; i++) {
        lanes_after_turn(world.lanes);
        lanes_after_turn(world.lanes);
        assert_int_equal(i + 1, world.n);
        finish(i);
    }
    webhook_unref(wh);
}

static void a_webhook_that_begins_to_fail_falls_to_one_and_recovers(void **state)
{
    (void)state;
    struct webhook *well = make_webhook(1, 1);
    struct webhook *failing = make_webhook(1, 2);
    struct webhook *again = make_webhook(1, 3);
    failing->failing = true;
    add(well, 0, 20);
    lanes_after_turn(world.lanes);
    assert_int_equal(4, world.n);
    lanes_changed(world.lanes, &well->id, failing);
    for (size_t i = 0; i < 3; i++) {
        finish(i);
        lanes_after_turn(world.lanes);
        assert_int_equal(4, world.n); /* three must end before there is room */
    }
    finish(3);
    lanes_after_turn(world.lanes);
    assert_int_equal(5, world.n);
    assert_ptr_equal(failing, world.newest[4]);
    lanes_changed(world.lanes, &well->id, again);
    lanes_after_turn(world.lanes);
    assert_int_equal(8, world.n);
    webhook_unref(well);
    webhook_unref(failing);
    webhook_unref(again);
}

static void lanes_take_turns_one_delivery_each(void **state)
{
    (void)state;
    struct webhook *a = make_webhook(1, 1);
    struct webhook *b = make_webhook(2, 1);
    struct webhook *c = make_webhook(3, 1);
    add(a, 0, 40); /* a long queue that was there first */
    add(b, 100, 3);
    add(c, 200, 2);
    lanes_after_turn(world.lanes);
    static const int64_t expected[] = {0, 100, 200, 1, 101, 201, 2, 102, 3};
    assert_int_equal(COUNT(expected), world.n);
    for (size_t i = 0; i < COUNT(expected); i++) {
        assert_int_equal(expected[i], world.started[i]->ev->offset);
    }
    webhook_unref(a);
    webhook_unref(b);
    webhook_unref(c);
}

/* A backlog must not hold the loop: the rest is for the turns that follow at once. */
static void a_turn_starts_a_burst_and_asks_for_the_next_turn(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(1, 1);
    settings.lane_concurrency = 1000;
    settings.lane_queue_max = 1000;
    add(wh, 0, 300);
    size_t before = 0;
    size_t largest = 0;
    while (lanes_after_turn(world.lanes)) {
        assert_true(world.n > before && world.n < 300);
        largest = world.n - before > largest ? world.n - before : largest;
        before = world.n;
    }
    assert_int_equal(300, world.n);
    assert_in_range(largest, 1, 150);
    assert_false(lanes_after_turn(world.lanes));
    webhook_unref(wh);
}

static void the_workers_own_limit_is_over_all_lanes_and_keeps_the_turns(void **state)
{
    (void)state;
    settings.requests_max = 3;
    struct webhook *wh[5];
    for (unsigned i = 0; i < 5; i++) {
        wh[i] = make_webhook(i, 1);
        add(wh[i], (int64_t)i * 100, 4);
    }
    size_t per_lane[5] = {0};
    for (size_t ended = 0; ended < 20; ended++) {
        lanes_after_turn(world.lanes);
        assert_int_equal(ended + 3 > 20 ? 20 - ended : 3, lanes_in_flight(world.lanes));
        per_lane[world.started[ended]->ev->offset / 100]++;
        finish(ended);
        if ((ended + 1) % 5 == 0) { /* whoever waits has had as many turns as everybody */
            for (size_t i = 0; i < 5; i++) {
                assert_int_equal((ended + 1) / 5, per_lane[i]);
            }
        }
    }
    for (size_t i = 0; i < 5; i++) {
        webhook_unref(wh[i]);
    }
}

static void a_lane_at_its_queue_limit_is_full_until_it_has_room(void **state)
{
    (void)state;
    struct webhook *a = make_webhook(1, 1);
    struct webhook *b = make_webhook(2, 1);
    add(a, 0, 49);
    add(b, 100, 49);
    assert_false(lanes_full(world.lanes));
    add(a, 49, 3); /* beyond: what was in hand when intake stopped */
    assert_true(lanes_full(world.lanes));
    add(b, 149, 1);
    lanes_after_turn(world.lanes); /* a: 48 wait, b: 46 */
    assert_false(lanes_full(world.lanes));
    add(a, 52, 2);
    assert_true(lanes_full(world.lanes));
    lanes_changed(world.lanes, &a->id, NULL);
    assert_false(lanes_full(world.lanes));
    add(b, 150, 4);
    assert_true(lanes_full(world.lanes));
    lanes_abandon(world.lanes, NULL);
    assert_false(lanes_full(world.lanes));
    assert_int_equal(50, world.dropped_settled);
    assert_int_equal(50, world.dropped_open);
    webhook_unref(a);
    webhook_unref(b);
}

static void a_newer_version_serves_what_waits(void **state)
{
    (void)state;
    struct webhook *first = make_webhook(1, 1);
    struct webhook *second = make_webhook(1, 2);
    struct webhook *third = make_webhook(1, 3);
    add(first, 0, 2);
    lanes_changed(world.lanes, &first->id, second);
    lanes_after_turn(world.lanes);
    assert_ptr_equal(second, world.newest[0]);
    assert_ptr_equal(second, world.newest[1]);
    add(third, 2, 1); /* also when the newer one comes with a delivery */
    add(first, 3, 1); /* and an old one that comes late does not bring the old version back */
    lanes_after_turn(world.lanes);
    assert_ptr_equal(third, world.newest[2]);
    assert_ptr_equal(third, world.newest[3]);
    webhook_unref(first);
    webhook_unref(second);
    webhook_unref(third);
}

static void a_webhook_that_goes_settles_what_waits_and_not_what_flies(void **state)
{
    (void)state;
    struct tracker *t = tracker_new(0, 1);
    struct webhook *gone = make_webhook(1, 1);
    struct webhook *other = make_webhook(2, 1);
    for (int64_t i = 0; i < 10; i++) {
        lanes_add(world.lanes, make_delivery(gone, t, i));
    }
    add(other, 100, 1);
    lanes_after_turn(world.lanes);
    assert_int_equal(5, world.n);
    lanes_changed(world.lanes, &gone->id, NULL);
    assert_int_equal(6, world.dropped_settled);
    assert_int_equal(0, world.dropped_open);
    assert_int_equal(4, tracker_busy(t));
    assert_int_equal(5, lanes_in_flight(world.lanes));
    for (size_t i = 0; i < 5; i++) {
        finish(i);
    }
    int64_t offset = 0;
    assert_true(tracker_take_offset(t, &offset));
    assert_int_equal(10, offset); /* all ten are settled */
    add(gone, 200, 1);            /* the lane is gone, too; a new one is made when it comes back */
    lanes_after_turn(world.lanes);
    assert_int_equal(6, world.n);
    tracker_retire(t);
    webhook_unref(gone);
    webhook_unref(other);
}

static void what_is_abandoned_leaves_its_slot_open(void **state)
{
    (void)state;
    struct tracker *mine = tracker_new(0, 1);
    struct tracker *other = tracker_new(1, 1);
    struct webhook *wh = make_webhook(1, 1);
    int64_t offset = 0;
    for (int64_t i = 0; i < 10; i++) {
        lanes_add(world.lanes, make_delivery(wh, mine, i));
        lanes_add(world.lanes, make_delivery(wh, other, i));
    }
    lanes_after_turn(world.lanes); /* two of each */
    lanes_abandon(world.lanes, mine);
    assert_int_equal(8, world.dropped_open);
    assert_int_equal(0, world.dropped_settled);
    assert_int_equal(2, tracker_busy(mine));
    assert_int_equal(10, tracker_busy(other));
    for (size_t i = 0; i < 12; i++) { /* the other tracker's go on, in order */
        lanes_after_turn(world.lanes);
        finish(i);
    }
    assert_true(tracker_take_offset(mine, &offset));
    assert_int_equal(2, offset);
    assert_true(tracker_take_offset(other, &offset));
    assert_int_equal(10, offset);
    tracker_retire(mine);
    tracker_retire(other);
    webhook_unref(wh);
}

static void adding_after_an_abandon_keeps_the_order(void **state)
{
    (void)state;
    struct tracker *mine = tracker_new(0, 1);
    struct webhook *wh = make_webhook(1, 1);
    lanes_add(world.lanes, make_delivery(wh, NULL, 0));
    lanes_add(world.lanes, make_delivery(wh, mine, 1)); /* the last of the queue goes */
    lanes_abandon(world.lanes, mine);
    lanes_add(world.lanes, make_delivery(wh, NULL, 2));
    lanes_after_turn(world.lanes);
    assert_int_equal(2, world.n);
    assert_int_equal(0, world.started[0]->ev->offset);
    assert_int_equal(2, world.started[1]->ev->offset);
    tracker_retire(mine);
    webhook_unref(wh);
}

static void a_delivery_that_ends_inside_its_start_gives_its_room_back(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(1, 1);
    world.ends_at_once = true;
    add(wh, 0, 40);
    lanes_after_turn(world.lanes);
    assert_int_equal(40, world.n);
    assert_int_equal(0, lanes_in_flight(world.lanes));
    for (size_t i = 0; i < 40; i++) {
        assert_int_equal(i, world.started[i]->ev->offset);
    }
    webhook_unref(wh);
}

static void what_waits_at_the_end_is_abandoned(void **state)
{
    (void)state;
    struct tracker *t = tracker_new(0, 1);
    struct webhook *wh = make_webhook(1, 1);
    int64_t offset = 0;
    for (int64_t i = 0; i < 6; i++) {
        lanes_add(world.lanes, make_delivery(wh, t, i));
    }
    lanes_free(world.lanes);
    world.lanes = NULL;
    assert_int_equal(6, world.dropped_open);
    assert_int_equal(0, tracker_busy(t));
    assert_false(tracker_take_offset(t, &offset));
    tracker_retire(t);
    webhook_unref(wh);
}

/* Any mix of calls: nothing is lost, started twice, or above a limit. */
static void any_order_of_calls_loses_nothing(void **state)
{
    (void)state;
    struct webhook *wh[6];
    struct tracker *trackers[3];
    uint64_t seed = 11;
    size_t added = 0;
    settings.requests_max = 9;
    for (unsigned i = 0; i < 6; i++) {
        wh[i] = make_webhook(i, 1);
        wh[i]->failing = i == 5;
    }
    for (int i = 0; i < 3; i++) {
        trackers[i] = tracker_new(i, 1);
    }
    for (int step = 0; step < 12000 && world.n < STARTED_MAX; step++) {
        const size_t pick = random_below(&seed, 100);
        struct webhook *w = wh[random_below(&seed, 6)];
        if (pick < 45) {
            struct tracker *t = trackers[random_below(&seed, 3)];
            lanes_add(world.lanes, make_delivery(w, t, (int64_t)added++));
        } else if (pick < 90 && world.n > 0) {
            const size_t i = random_below(&seed, world.n);
            if (world.started[i] != NULL) {
                finish(i);
            }
        } else if (pick == 98) {
            lanes_changed(world.lanes, &w->id, NULL);
        } else if (pick == 99) {
            lanes_abandon(world.lanes, trackers[random_below(&seed, 3)]);
        }
        lanes_after_turn(world.lanes);
        assert_true(lanes_in_flight(world.lanes) <= 9);
        assert_true(in_flight_of(w) <= (w->failing ? 1u : 4u));
    }
    lanes_abandon(world.lanes, NULL);
    assert_int_equal(added, world.n + world.dropped_settled + world.dropped_open);
    for (size_t i = 0; i < world.n; i++) {
        if (world.started[i] != NULL) {
            finish(i);
        }
    }
    assert_int_equal(0, lanes_in_flight(world.lanes));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(0, tracker_busy(trackers[i]));
        tracker_retire(trackers[i]);
    }
    for (unsigned i = 0; i < 6; i++) {
        webhook_unref(wh[i]);
    }
}

int main(void)
{
#define LANES_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        LANES_TEST(one_lane_is_first_in_first_out),
        LANES_TEST(a_webhook_has_at_most_its_cap_in_flight),
        LANES_TEST(the_whole_cap_is_used),
        LANES_TEST(a_failing_webhook_gets_one_request_at_a_time),
        LANES_TEST(a_webhook_that_begins_to_fail_falls_to_one_and_recovers),
        LANES_TEST(lanes_take_turns_one_delivery_each),
        LANES_TEST(a_turn_starts_a_burst_and_asks_for_the_next_turn),
        LANES_TEST(the_workers_own_limit_is_over_all_lanes_and_keeps_the_turns),
        LANES_TEST(a_lane_at_its_queue_limit_is_full_until_it_has_room),
        LANES_TEST(a_newer_version_serves_what_waits),
        LANES_TEST(a_webhook_that_goes_settles_what_waits_and_not_what_flies),
        LANES_TEST(what_is_abandoned_leaves_its_slot_open),
        LANES_TEST(adding_after_an_abandon_keeps_the_order),
        LANES_TEST(a_delivery_that_ends_inside_its_start_gives_its_room_back),
        LANES_TEST(what_waits_at_the_end_is_abandoned),
        LANES_TEST(any_order_of_calls_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
