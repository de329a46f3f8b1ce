/* Who may start, who must wait, and who must not wait any longer. The deliveries are fakes: this
 * program defines what lanes.c calls of delivery.h, so that a started one stays in flight until the
 * test ends it. */
#include "lanes.h"

#include "worker_fixture.h"

#include <stdio.h>

#include "mem.h"
#include "metrics_page.h"

#define STARTED_MAX 20000
#define SECOND      INT64_C(1000000)

static struct config settings;
static struct event_account account;

static struct {
    struct event_base *base;
    struct lanes *lanes;
    size_t n; /* started, in order */
    struct delivery *started[STARTED_MAX];
    const struct webhook *newest[STARTED_MAX]; /* what each was started with */
    bool ends_at_once; /* a start that fails at once reports back from inside */
    size_t dropped_open;
    size_t cancelled[2]; /* by class */
    size_t spilled[2];   /* by class */
    int64_t spilled_offset[STARTED_MAX];
    int64_t spilled_delay_us[STARTED_MAX];
    int64_t clock_us; /* where the clock stands; 0: it goes */
    int64_t cpu_us;
} world;

/* --- the fakes --- */

/* NOLINTBEGIN(bugprone-reserved-identifier): the linker's names */
int64_t __real_clock_mono_us(void);
int64_t __wrap_clock_mono_us(void);

int64_t __wrap_clock_mono_us(void)
{
    return world.clock_us != 0 ? world.clock_us : __real_clock_mono_us();
}

int64_t __wrap_clock_cpu_us(void);

int64_t __wrap_clock_cpu_us(void)
{
    return world.cpu_us;
}
/* NOLINTEND(bugprone-reserved-identifier) */

static struct delivery *make_delivery(struct webhook *wh, struct tracker *t, int64_t offset)
{
    struct delivery *d = mem_zero(1, sizeof(*d));
    d->magic = DELIVERY_MAGIC;
    d->ev = event_make(&account, t, offset, (unsigned)offset);
    d->wh = webhook_ref(wh);
    d->attempt = 1;
    return d;
}

static struct delivery *make_retry(struct webhook *wh, int64_t offset)
{
    struct delivery *d = make_delivery(wh, NULL, offset);
    d->class = DELIVERY_RETRY;
    d->attempt = 2;
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
    d->started_mono_us = clock_mono_us();
    world.newest[world.n] = newest;
    world.started[world.n++] = d;
    if (world.ends_at_once) {
        lanes_left(world.lanes, d);
    }
}

void delivery_drop(struct delivery *d, bool settled)
{
    assert_null(d->next);
    assert_false(settled); /* that is what suspects do */
    nrw_event_abandon(d->ev);
    world.dropped_open++;
    free_delivery(d);
}

void delivery_cancel(struct delivery *d)
{
    assert_null(d->next);
    world.cancelled[d->class]++;
    free_delivery(d);
}

static size_t spilled(void)
{
    return world.spilled[DELIVERY_NEW] + world.spilled[DELIVERY_RETRY];
}

void delivery_spill(struct delivery *d, int64_t delay_us)
{
    assert_null(d->next);
    assert_true(spilled() < STARTED_MAX);
    world.spilled_offset[spilled()] = d->ev->offset;
    world.spilled_delay_us[spilled()] = delay_us;
    world.spilled[d->class]++;
    free_delivery(d);
}

/* --- the world --- */

static int begin(void **state)
{
    (void)state;
    memset(&world, 0, sizeof(world));
    account = (struct event_account){0};
    settings_defaults(&settings);
    settings.lane_concurrency = 4;
    settings.lane_queue_max = 50;
    settings.requests_max = 1000;
    settings.spill_after = 60000; /* however slow this machine is */
    world.base = event_base_new();
    world.lanes = lanes_new(world.base, &settings);
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
    event_base_free(world.base);
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
    wh->endpoint.port = 443;
    return wh;
}

/* Of a tenant, on a host. */
static struct webhook *make_webhook_at(unsigned n, unsigned tenant, unsigned host)
{
    struct webhook *wh = make_webhook(n, 1);
    wh->tenant_id = id_of(0x70, tenant);
    (void)snprintf(wh->endpoint.host, sizeof(wh->endpoint.host), "host%u.example", host);
    return wh;
}

static void add(struct webhook *wh, int64_t first, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        lanes_add(world.lanes, make_delivery(wh, NULL, first + (int64_t)i));
    }
}

static void add_retries(struct webhook *wh, int64_t first, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        lanes_add(world.lanes, make_retry(wh, first + (int64_t)i));
    }
}

/* One turn of the loop; what it allows at once is bounded, so more turns may follow. */
static void start_all(void)
{
    while (lanes_after_turn(world.lanes)) {
    }
}

static void turn(void)
{
    assert_int_equal(0, event_base_loop(world.base, EVLOOP_ONCE));
    start_all();
}

/* The request is over, like this; the delivery itself goes, too. */
static void finish_with(size_t i, enum transport_fault fault, long status)
{
    struct delivery *d = world.started[i];
    assert_non_null(d);
    d->result.fault = fault;
    d->result.status = status;
    d->outcome.kind = fault == TRANSPORT_OK && status == 200 ? OUTCOME_DELIVERED : OUTCOME_RETRY;
    lanes_left(world.lanes, d);
    free_delivery(d);
    world.started[i] = NULL;
}

static void finish(size_t i)
{
    finish_with(i, TRANSPORT_OK, 200);
}

static void finish_all(void)
{
    for (size_t i = 0; i < world.n; i++) {
        if (world.started[i] != NULL) {
            finish(i);
        }
    }
}

static size_t in_flight(void)
{
    size_t n = 0;
    for (size_t i = 0; i < world.n; i++) {
        n += world.started[i] != NULL;
    }
    return n;
}

static size_t in_flight_of(const struct webhook *wh)
{
    size_t n = 0;
    for (size_t i = 0; i < world.n; i++) {
        n += world.started[i] != NULL && uuid_equal(&world.started[i]->wh->id, &wh->id);
    }
    return n;
}

static size_t in_flight_of_class(enum delivery_class class)
{
    size_t n = 0;
    for (size_t i = 0; i < world.n; i++) {
        n += world.started[i] != NULL && world.started[i]->class == class;
    }
    return n;
}

static size_t gauge(const char *series)
{
    return (size_t)metrics_page_value(series);
}

static void the_clock_is_past(int64_t mono_us)
{
    while (clock_mono_us() <= mono_us) {
        const struct timespec pause = {.tv_nsec = 1000000};
        nanosleep(&pause, NULL);
    }
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
    assert_int_equal(0, in_flight());
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
        assert_int_equal(world.n - ended, in_flight());
        assert_true(ended % 100 != 0 || gauge("nrw_in_flight") == in_flight());
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
    settings.lane_concurrency = settings.lane_concurrency_start = 1000;
    settings.host_concurrency = 1000;
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
        assert_int_equal(ended + 3 > 20 ? 20 - ended : 3, in_flight());
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

static void a_busy_lane_at_its_queue_limit_is_full_until_it_has_room(void **state)
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
    assert_int_equal(50, world.cancelled[DELIVERY_NEW]);
    assert_int_equal(50, world.dropped_open);
    assert_int_equal(0, spilled());
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
    assert_int_equal(6, world.cancelled[DELIVERY_NEW]);
    assert_int_equal(0, world.dropped_open);
    assert_int_equal(4, tracker_busy(t));
    assert_int_equal(5, in_flight());
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

static void a_webhook_that_is_paused_cancels_what_waits_and_what_comes_late(void **state)
{
    (void)state;
    struct webhook *active = make_webhook(1, 1);
    struct webhook *paused = make_webhook(1, 2);
    struct webhook *again = make_webhook(1, 3);
    paused->inactive = true;
    add(active, 0, 10);
    add_retries(active, 100, 2);
    lanes_after_turn(world.lanes);
    const size_t flies = world.n;
    lanes_changed(world.lanes, &active->id, paused);
    assert_int_equal(12 - flies, world.cancelled[DELIVERY_NEW] + world.cancelled[DELIVERY_RETRY]);
    const size_t before = world.cancelled[DELIVERY_NEW];
    add(active, 200, 1); /* matched before the pause, looked up meanwhile */
    assert_int_equal(before + 1, world.cancelled[DELIVERY_NEW]);
    finish_all();
    add(active, 201, 1);
    assert_int_equal(before + 2, world.cancelled[DELIVERY_NEW]);
    lanes_changed(world.lanes, &active->id, again);
    add(active, 202, 1);
    lanes_after_turn(world.lanes);
    assert_int_equal(flies + 1, world.n);
    assert_ptr_equal(again, world.newest[flies]);
    webhook_unref(active);
    webhook_unref(paused);
    webhook_unref(again);
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
    assert_int_equal(0, gauge("nrw_in_flight"));
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

/* --- tenants, classes, hosts --- */

static void a_tenant_with_fifty_lanes_gets_no_more_turns_than_one_with_one(void **state)
{
    (void)state;
    enum { MANY = 50, REQUESTS = 4 };
    struct webhook *many[MANY];
    struct webhook *one = make_webhook_at(1000, 1, 1000);
    settings.requests_max = REQUESTS;
    for (unsigned i = 0; i < MANY; i++) {
        many[i] = make_webhook_at(i, 0, i);
        add(many[i], (int64_t)i * 100, 4);
    }
    add(one, 100000, 40);
    size_t ones = 0;
    for (size_t ended = 0; ended < 80; ended++) {
        start_all();
        assert_int_equal(REQUESTS, in_flight());
        ones += uuid_equal(&world.started[ended]->wh->id, &one->id);
        assert_in_range(2 * ones, ended, ended + 2); /* every other start, from the first on */
        finish(ended);
    }
    webhook_unref(one);
    for (unsigned i = 0; i < MANY; i++) {
        webhook_unref(many[i]);
    }
}

enum { CROWD = 150 };
static struct webhook *crowd[CROWD];

/* More lanes than requests, a tenant and a host each. */
static void crowd_begin(size_t new_each, size_t retries_each)
{
    settings.requests_max = 100;
    settings.retry_share = 30;
    for (unsigned i = 0; i < CROWD; i++) {
        crowd[i] = make_webhook_at(i, i, i);
        add(crowd[i], (int64_t)i * 100, new_each);
        add_retries(crowd[i], (int64_t)i * 100 + 50, retries_each);
    }
    start_all();
}

static void crowd_end(void)
{
    for (unsigned i = 0; i < CROWD; i++) {
        webhook_unref(crowd[i]);
    }
}

static void check_shares(size_t retries)
{
    start_all();
    assert_int_equal(100, in_flight());
    const size_t r = in_flight_of_class(DELIVERY_RETRY);
    if (r + 1 < retries || r > retries + 1) {
        fail_msg("%zu retries in flight, not %zu", r, retries);
    }
}

static void new_and_retried_work_have_their_shares(void **state)
{
    (void)state;
    crowd_begin(20, 20);
    uint64_t seed = 5;
    check_shares(30);
    for (int i = 0; i < 1000; i++) { /* whichever ends */
        size_t pick = random_below(&seed, world.n);
        while (world.started[pick] == NULL) {
            pick = (pick + 1) % world.n;
        }
        finish(pick);
        start_all();
        const size_t r = in_flight_of_class(DELIVERY_RETRY);
        assert_int_equal(100, in_flight());
        assert_in_range(r, 15, 45); /* random ends move it, the turns bring it back */
    }
    crowd_end();
}

static void finish_first_of(enum delivery_class class)
{
    for (size_t i = 0; i < world.n; i++) {
        if (world.started[i] != NULL && world.started[i]->class == class) {
            finish(i);
            return;
        }
    }
    fail_msg("none in flight");
}

static void retries_borrow_what_new_work_leaves_and_give_it_back(void **state)
{
    (void)state;
    crowd_begin(0, 5);
    check_shares(100);
    for (unsigned i = 0; i < CROWD; i++) {
        add(crowd[i], (int64_t)i * 100, 2);
    }
    for (size_t retries = 99; retries > 29; retries--) {
        finish_first_of(DELIVERY_RETRY);
        check_shares(retries);
    }
    finish_first_of(DELIVERY_RETRY);
    check_shares(30);
    crowd_end();
}

static void new_work_borrows_what_retries_leave_and_gives_it_back(void **state)
{
    (void)state;
    crowd_begin(5, 0);
    check_shares(0);
    for (unsigned i = 0; i < CROWD; i++) {
        add_retries(crowd[i], (int64_t)i * 100 + 50, 2);
    }
    for (size_t retries = 1; retries <= 30; retries++) {
        finish_first_of(DELIVERY_NEW);
        check_shares(retries);
    }
    for (int i = 0; i < 10; i++) {
        finish_first_of(DELIVERY_NEW);
        check_shares(30);
    }
    crowd_end();
}

static void the_webhooks_of_one_host_share_its_cap(void **state)
{
    (void)state;
    settings.host_concurrency = 3;
    struct webhook *a = make_webhook_at(1, 1, 7);
    struct webhook *b = make_webhook_at(2, 2, 7);
    struct webhook *elsewhere = make_webhook_at(3, 3, 8);
    struct webhook *other_port = make_webhook_at(4, 4, 7);
    other_port->endpoint.port = 8443;
    add(a, 0, 20);
    add(b, 100, 20);
    add(elsewhere, 200, 3);
    add(other_port, 300, 3);
    start_all();
    assert_int_equal(3, in_flight_of(elsewhere));
    assert_int_equal(3, in_flight_of(other_port));
    size_t ended_of_both = 0;
    for (size_t i = 0; ended_of_both < 40; i++) {
        const size_t left = 40 - ended_of_both;
        assert_int_equal(left < 3 ? left : 3, in_flight_of(a) + in_flight_of(b));
        ended_of_both += uuid_equal(&world.started[i]->wh->id, &a->id) ||
                         uuid_equal(&world.started[i]->wh->id, &b->id);
        finish(i);
        start_all();
    }
    webhook_unref(a);
    webhook_unref(b);
    webhook_unref(elsewhere);
    webhook_unref(other_port);
}

/* Whoever waits for the host's room and has nothing to send any more passes the room on. */
static void a_lane_that_was_emptied_while_it_waited_for_its_host_holds_up_nobody(void **state)
{
    (void)state;
    settings.host_concurrency = 1;
    struct tracker *t = tracker_new(0, 1);
    struct webhook *a = make_webhook_at(1, 1, 7);
    struct webhook *emptied = make_webhook_at(2, 2, 7);
    struct webhook *b = make_webhook_at(3, 3, 7);
    add(a, 0, 1);
    start_all();
    lanes_add(world.lanes, make_delivery(emptied, t, 1));
    add(b, 2, 1);
    start_all();
    lanes_abandon(world.lanes, t);
    finish(0);
    start_all();
    assert_int_equal(1, in_flight_of(b));
    assert_int_equal(1, gauge("nrw_lanes"));
    tracker_retire(t);
    webhook_unref(a);
    webhook_unref(emptied);
    webhook_unref(b);
}

static void a_lane_that_was_emptied_in_its_turn_passes_the_hosts_room_on(void **state)
{
    (void)state;
    settings.host_concurrency = 1;
    struct webhook *a = make_webhook_at(1, 1, 7);
    struct webhook *b = make_webhook_at(2, 2, 7);
    struct webhook *c = make_webhook_at(3, 3, 7);
    add(a, 0, 1);
    start_all();
    add(b, 1, 1);
    add(c, 2, 1);
    finish(0); /* b has the room now */
    lanes_changed(world.lanes, &b->id, NULL);
    start_all();
    assert_int_equal(1, in_flight_of(c));
    webhook_unref(a);
    webhook_unref(b);
    webhook_unref(c);
}

static void a_webhook_that_moves_to_another_host_counts_there(void **state)
{
    (void)state;
    settings.host_concurrency = 2;
    struct webhook *a = make_webhook_at(1, 1, 7);
    struct webhook *b = make_webhook_at(2, 2, 7);
    struct webhook *moved = make_webhook_at(1, 1, 8);
    moved->version = 2;
    add(a, 0, 10);
    start_all();
    add(b, 100, 2);
    lanes_changed(world.lanes, &a->id, moved);
    finish(0);
    finish(1); /* the last requests to the old host */
    start_all();
    assert_int_equal(2, in_flight_of(b));
    assert_int_equal(2, in_flight_of(a));
    webhook_unref(a);
    webhook_unref(b);
    webhook_unref(moved);
}

static void a_waiting_webhook_that_moves_is_served_at_once(void **state)
{
    (void)state;
    settings.host_concurrency = 1;
    struct webhook *a = make_webhook_at(1, 1, 7);
    struct webhook *b = make_webhook_at(2, 2, 7);
    struct webhook *moved = make_webhook_at(2, 2, 8);
    moved->version = 2;
    add(a, 0, 1);
    start_all();
    add(b, 100, 1);
    start_all();
    assert_int_equal(1, world.n);
    lanes_changed(world.lanes, &b->id, moved);
    start_all();
    assert_ptr_equal(moved, world.newest[1]);
    webhook_unref(a);
    webhook_unref(b);
    webhook_unref(moved);
}

/* --- the reserve --- */

static void the_last_fifth_is_for_endpoints_without_a_request(void **state)
{
    (void)state;
    settings.requests_max = 10;
    settings.lane_concurrency = settings.lane_concurrency_start = 64;
    struct webhook *slow = make_webhook_at(0, 0, 0);
    struct webhook *others[3];
    add(slow, 0, 30);
    start_all();
    assert_int_equal(8, world.n);
    for (unsigned i = 0; i < 3; i++) {
        others[i] = make_webhook_at(i + 1, i + 1, i + 1);
        add(others[i], (int64_t)100 * (i + 1), 2);
    }
    start_all();
    assert_int_equal(8, in_flight_of(slow));
    assert_int_equal(1, in_flight_of(others[0]));
    assert_int_equal(1, in_flight_of(others[1]));
    assert_int_equal(0, in_flight_of(others[2])); /* ten are ten */
    finish(0);
    start_all();
    assert_int_equal(7, in_flight_of(slow));
    assert_int_equal(1, in_flight_of(others[2]));
    for (size_t i = 8; i < 11; i++) { /* each serves its second one, alone */
        finish(i);
        start_all();
    }
    assert_int_equal(7, in_flight_of(slow));
    assert_int_equal(10, in_flight());
    for (size_t i = 11; i < 14; i++) {
        finish(i);
        start_all();
    }
    assert_int_equal(8, in_flight_of(slow)); /* woken when there was room below the reserve */
    for (unsigned i = 0; i < 3; i++) {
        webhook_unref(others[i]);
    }
    webhook_unref(slow);
}

/* It waited for the reserve first and for its host then: the host's room must find it. */
static void a_starved_lane_that_its_host_holds_up_is_woken_by_the_host(void **state)
{
    (void)state;
    settings.requests_max = 10;
    settings.host_concurrency = 2;
    struct webhook *a = make_webhook_at(1, 1, 7);
    struct webhook *b = make_webhook_at(2, 2, 7);
    struct webhook *fill[8];
    add(a, 0, 1);
    start_all();
    for (unsigned i = 0; i < 7; i++) {
        fill[i] = make_webhook_at(10 + i, 10 + i, 10 + i);
        add(fill[i], 100 + i, 1);
    }
    start_all(); /* 8: the reserve begins */
    add(a, 1, 2);
    start_all(); /* starved */
    add(b, 50, 1);
    start_all(); /* its host is full now */
    fill[7] = make_webhook_at(17, 17, 17);
    add(fill[7], 107, 1);
    start_all();
    assert_int_equal(10, in_flight());
    struct webhook *c = make_webhook_at(3, 3, 7);
    add(c, 60, 1);
    finish(0); /* a's: c takes the host's room */
    start_all();
    assert_int_equal(1, in_flight_of(c));
    assert_int_equal(0, in_flight_of(a));
    finish(8); /* b's: room for a, and nine others are still there */
    start_all();
    assert_int_equal(1, in_flight_of(a));
    for (unsigned i = 0; i < 8; i++) {
        webhook_unref(fill[i]);
    }
    webhook_unref(a);
    webhook_unref(b);
    webhook_unref(c);
}

/* --- tests --- */

static bool start_test(struct webhook *wh)
{
    struct delivery *d = make_retry(wh, 1000);
    if (lanes_start_now(world.lanes, d)) {
        return true;
    }
    free_delivery(d);
    return false;
}

static void a_test_waits_behind_nobody_and_takes_one_place_more(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(1, 1);
    wh->failing = true;
    add(wh, 0, 30);
    add_retries(wh, 100, 10);
    start_all();
    assert_int_equal(1, world.n);
    assert_true(start_test(wh));
    assert_int_equal(2, world.n); /* at once */
    assert_false(start_test(wh)); /* one at a time */
    finish(0);
    start_all();
    assert_int_equal(2, world.n); /* its place counts */
    assert_true(start_test(wh));
    finish(1);
    finish(2);
    start_all();
    assert_int_equal(4, world.n); /* and is given back */
    assert_int_equal(0, spilled());
    webhook_unref(wh);
}

static void a_test_reaches_a_paused_webhook_and_leaves_its_lane_to_rest(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(1, 1);
    wh->inactive = true;
    assert_true(start_test(wh));
    finish(0);
    world.ends_at_once = true; /* the lane is told from inside the start */
    assert_true(start_test(wh));
    assert_int_equal(0, gauge("nrw_lanes"));
    webhook_unref(wh);
}

static void a_test_keeps_to_the_caps_of_its_host_and_of_the_worker(void **state)
{
    (void)state;
    settings.host_concurrency = 2;
    settings.requests_max = 3;
    struct webhook *a = make_webhook_at(1, 1, 1);
    struct webhook *b = make_webhook_at(2, 1, 1);
    struct webhook *c = make_webhook_at(3, 1, 2);
    struct webhook *d = make_webhook_at(4, 1, 3);
    assert_true(start_test(a));
    assert_true(start_test(b));
    assert_false(start_test(a));
    assert_true(start_test(c));
    assert_false(start_test(d));
    finish(0);
    assert_true(start_test(d));
    webhook_unref(a);
    webhook_unref(b);
    webhook_unref(c);
    webhook_unref(d);
}

/* --- what a lane learns --- */

static size_t limit_of(struct webhook *wh)
{
    finish_all();
    add(wh, 5000, 40);
    start_all();
    const size_t limit = in_flight_of(wh);
    lanes_changed(world.lanes, &wh->id, NULL);
    finish_all();
    return limit;
}

static void a_lane_that_is_answered_gets_more_and_one_in_trouble_half(void **state)
{
    (void)state;
    static const struct {
        long status;
        enum transport_fault fault;
        bool halves;
    } ends[] = {
        {0, TRANSPORT_TIMEOUT, true}, {0, TRANSPORT_CONNECT, true}, {429, TRANSPORT_OK, true},
        {503, TRANSPORT_OK, true},    {500, TRANSPORT_OK, false},   {404, TRANSPORT_OK, false},
        {0, TRANSPORT_TLS, false},    {0, TRANSPORT_OURS, false},   {503, TRANSPORT_OURS, false},
    };
    settings.lane_concurrency = 64;
    for (unsigned i = 0; i < COUNT(ends); i++) {
        struct webhook *wh = make_webhook_at(i, i, i);
        add(wh, 0, 8);
        start_all();
        for (size_t k = world.n - 8; k < world.n; k++) {
            finish_with(k, ends[i].fault, ends[i].status);
        }
        assert_int_equal(ends[i].halves ? 4 : 8, limit_of(wh)); /* once for the whole burst */
        webhook_unref(wh);
    }
    struct webhook *well = make_webhook_at(100, 100, 100);
    add(well, 0, 8);
    start_all();
    assert_int_equal(8, in_flight_of(well));
    finish_all();
    assert_int_equal(9, limit_of(well));
    webhook_unref(well);
}

static void an_idle_lane_keeps_its_limit_and_ten_thousand_are_kept(void **state)
{
    (void)state;
    enum { LANES = 10100 };
    struct webhook *bad = make_webhook_at(1000000, 1, 1);
    add(bad, 0, 1);
    start_all();
    finish_with(0, TRANSPORT_TIMEOUT, 0);
    for (unsigned i = 0; i < LANES; i++) {
        struct webhook *wh = make_webhook_at(i, i, i);
        add(wh, 0, 1);
        start_all();
        finish(world.n - 1);
        webhook_unref(wh);
        if (i == 5000) {
            add(bad, 0, 4);
            start_all();
            assert_int_equal(2, in_flight_of(bad)); /* half of four */
            lanes_changed(world.lanes, &bad->id, NULL);
            finish_with(world.n - 1, TRANSPORT_OK, 500);
            finish_with(world.n - 2, TRANSPORT_OK, 500);
        }
    }
    assert_int_equal(0, gauge("nrw_lanes"));
    assert_int_equal(10000, gauge("nrw_lanes_by_limit{limit=\"one\"}") +
                                gauge("nrw_lanes_by_limit{limit=\"reduced\"}") +
                                gauge("nrw_lanes_by_limit{limit=\"full\"}"));
    webhook_unref(bad);
}

/* --- spilling --- */

static void what_waits_too_long_is_spilled_oldest_first(void **state)
{
    (void)state;
    settings.spill_after = 50;
    struct webhook *dead = make_webhook_at(1, 1, 1);
    struct webhook *well = make_webhook_at(2, 2, 2);
    const int64_t since = clock_mono_us();
    add(dead, 0, 6);
    add_retries(dead, 10, 2);
    add(well, 100, 4);
    start_all();
    assert_int_equal(0, spilled());
    AWAIT_TURNS(spilled() == 4);
    assert_true(clock_mono_us() - since >= 50000);
    assert_int_equal(8, in_flight());
    assert_int_equal(0, gauge("nrw_lanes_waiting"));
    for (size_t i = 1; i < 4; i++) {
        assert_true(world.spilled_delay_us[i] > world.spilled_delay_us[i - 1] - SECOND / 100);
    }
    add(dead, 20, 1); /* and what comes later has its own wait */
    assert_int_equal(4, spilled());
    AWAIT_TURNS(spilled() == 5);
    finish_all();
    webhook_unref(dead);
    webhook_unref(well);
}

/* Late by the endpoint's doing, or by this worker's: only the second breaks a promise to operators.
 */
static void a_first_attempt_is_deferred_when_its_endpoint_had_room(void **state)
{
    (void)state;
    settings.spill_after = 50;
    const size_t before = gauge("nrw_first_attempts_deferred_total");
    struct webhook *dead = make_webhook_at(1, 1, 1);
    add(dead, 0, 8);
    start_all();
    AWAIT_TURNS(spilled() == 4); /* it has its four */
    assert_int_equal(before, gauge("nrw_first_attempts_deferred_total"));
    settings.requests_max = 4; /* no more for anybody */
    struct webhook *well = make_webhook_at(2, 2, 2);
    add(well, 100, 3);
    add_retries(well, 110, 2);
    start_all();
    AWAIT_TURNS(spilled() == 9);
    assert_int_equal(before + 3, gauge("nrw_first_attempts_deferred_total"));
    finish_all();
    webhook_unref(dead);
    webhook_unref(well);
}

static void an_overflow_slows_intake_while_the_endpoint_keeps_up(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook_at(1, 1, 1);
    add(wh, 0, 60);
    assert_true(lanes_full(world.lanes));
    assert_int_equal(0, spilled());
    for (size_t i = 0; i < 40; i++) { /* it answers */
        start_all();
        finish(i);
    }
    start_all();
    assert_false(lanes_full(world.lanes));
    add(wh, 60, 50);
    assert_true(lanes_full(world.lanes));
    assert_int_equal(0, spilled());
    webhook_unref(wh);
}

static void an_overflow_of_a_dead_endpoint_is_spilled_at_once_and_stops_nobody(void **state)
{
    (void)state;
    struct webhook *dead = make_webhook_at(1, 1, 1);
    add(dead, 0, 4);
    start_all();
    add(dead, 4, 50);
    assert_true(lanes_full(world.lanes)); /* it might still answer */
    settings.spill_after = 50;
    const int64_t now = clock_mono_us();
    the_clock_is_past(now + 51000);
    assert_false(lanes_full(world.lanes));
    add(dead, 100, 20);
    assert_int_equal(20, spilled());
    for (size_t i = 0; i < 20; i++) {
        assert_int_equal(100 + i, world.spilled_offset[i]);
        assert_in_range(world.spilled_delay_us[i], SECOND, 60 * SECOND);
    }
    assert_true(world.spilled_delay_us[19] > world.spilled_delay_us[0]);
    webhook_unref(dead);
}

/* A hundred a second more than its endpoint takes, which is quick: what is in the lane will be sent
 * in time, but there is always more. */
static void
a_lane_that_stays_full_holds_intake_up_for_no_longer_than_a_delivery_may_wait(void **state)
{
    (void)state;
    const int64_t step_us = 5000;
    settings.spill_after = 1000;
    world.clock_us = clock_mono_us();
    const int64_t begin_us = world.clock_us;
    struct webhook *loud = make_webhook_at(1, 1, 1);
    add(loud, 0, 60);
    start_all();
    size_t held_up = 0;
    const size_t deferred = gauge("nrw_first_attempts_deferred_total");
    for (size_t i = 0; i < 800; i++) {
        world.clock_us += step_us;
        finish(i);
        settings.requests_max = i % 10 == 0 ? 0 : 1000; /* a turn too full for this lane */
        start_all();
        held_up += lanes_full(world.lanes);
        if (!lanes_full(world.lanes)) {
            add(loud, 60, 20);
        }
        settings.requests_max = 1000;
        start_all();
        assert_true(spilled() == 0 || world.clock_us - begin_us >= SECOND);
    }
    assert_int_equal(deferred, gauge("nrw_first_attempts_deferred_total"));
    assert_in_range(held_up, 100, 300); /* of four seconds one, or a little more */
    assert_true(spilled() > 9000);
    assert_int_equal(50, gauge("nrw_lanes_waiting"));
    for (size_t i = 800; i < 825; i++) {
        assert_false(lanes_full(world.lanes));
        finish(i);
        start_all();
    }
    world.clock_us += SECOND / 2;
    add(loud, 60, 25);
    assert_true(lanes_full(world.lanes)); /* it has caught up once: trusted again, but half */
    for (size_t i = 0; i < 60; i++) {
        world.clock_us += 10000;
        lanes_after_turn(world.lanes);
    }
    assert_false(lanes_full(world.lanes));
    webhook_unref(loud);
}

/* Sending is all that a saturated worker does: to write things aside would only be more to do. */
static void a_lane_that_stays_full_because_this_worker_is_slow_is_not_spilled(void **state)
{
    (void)state;
    settings.spill_after = 1000;
    settings.lane_concurrency = settings.lane_concurrency_start = 100;
    settings.lane_queue_max = 256;
    world.clock_us = clock_mono_us();
    struct webhook *quick = make_webhook_at(1, 1, 1);
    for (int i = 0; i < 200; i++) {
        if (!lanes_full(world.lanes)) {
            add(quick, 0, 256);
        }
        assert_true(lanes_after_turn(world.lanes)); /* a burst, and there is more */
        world.clock_us += 20000;
        finish_all();
        world.n = 0;
    }
    assert_int_equal(0, spilled());
    webhook_unref(quick);
}

/* The only lane, always at its cap: whether it is stuck is a matter of what this worker does then.
 */
static size_t spilled_when_busy_for(int64_t busy_percent)
{
    settings.spill_after = 1000;
    world.clock_us = clock_mono_us();
    struct webhook *wh = make_webhook_at(1, 1, 1);
    add(wh, 0, 50);
    start_all();
    for (int i = 0; i < 1000; i++) {
        world.clock_us += 5000;
        world.cpu_us += 50 * busy_percent;
        finish_all();
        world.n = 0;
        if (!lanes_full(world.lanes)) {
            add(wh, 0, 10);
        }
        start_all();
        assert_int_equal(4, in_flight());
    }
    webhook_unref(wh);
    return spilled();
}

static void a_lane_at_its_cap_is_not_spilled_while_this_worker_computes(void **state)
{
    (void)state;
    assert_int_equal(0, spilled_when_busy_for(80));
}

static void a_lane_at_its_cap_is_spilled_while_this_worker_has_nothing_to_do(void **state)
{
    (void)state;
    assert_true(spilled_when_busy_for(20) > 1000);
}

/* What it did before says nothing of a lane that had nothing to do since. */
static void a_burst_after_a_long_pause_is_not_spilled_at_once(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook_at(1, 1, 1);
    add(wh, 0, 40);
    for (size_t i = 0; i < 40; i++) {
        start_all();
        finish(i);
    }
    settings.spill_after = 500;
    const int64_t now = clock_mono_us();
    the_clock_is_past(now + 501000);
    add(wh, 100, 60);
    assert_int_equal(0, spilled());
    assert_true(lanes_full(world.lanes));
    webhook_unref(wh);
}

static void too_many_retries_of_an_endpoint_come_back_one_after_the_other(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook_at(1, 1, 1);
    int64_t back_in_us = 0;
    world.clock_us = clock_mono_us();
    assert_false(lanes_crowded(world.lanes, &wh->id, 0, &back_in_us));
    for (int64_t i = 0; i < 8; i++) { /* twice what may be in flight */
        assert_false(lanes_crowded(world.lanes, &wh->id, 0, &back_in_us));
        assert_int_equal(i > 0, lanes_crowded(world.lanes, &wh->id, 8, &back_in_us));
        add_retries(wh, i, 1);
    }
    int64_t before = back_in_us;
    for (int i = 0; i < 1799000; i++) { /* at 2 ms each nearly an hour */
        assert_true(lanes_crowded(world.lanes, &wh->id, 0, &back_in_us));
        assert_int_equal(before + 2000, back_in_us);
        before = back_in_us;
    }
    size_t quarters[4] = {0}; /* what is beyond comes at any time of half an hour */
    for (int i = 0; i < 20000; i++) {
        assert_true(lanes_crowded(world.lanes, &wh->id, 0, &back_in_us));
        assert_in_range(back_in_us, 1800 * SECOND, 3600 * SECOND);
        quarters[back_in_us >= 3600 * SECOND ? 3 : (back_in_us - 1800 * SECOND) / (450 * SECOND)]++;
    }
    for (int i = 0; i < 4; i++) {
        assert_true(quarters[i] > 1000);
    }
    start_all();
    assert_false(lanes_crowded(world.lanes, &wh->id, 0, &back_in_us));
    webhook_unref(wh);
}

/* One request of the webhook that ends like this; how many rows it could have then. */
static size_t hunger_after(struct webhook *wh, bool spilled_before, long status)
{
    struct delivery *d = make_retry(wh, 0);
    d->ev->retry.reason = spilled_before ? EVENT_SPILL : EVENT_RETRY;
    lanes_add(world.lanes, d);
    start_all();
    size_t i = world.n - 1;
    while (world.started[i] == NULL) {
        i--;
    }
    d = world.started[i]; /* or an earlier one, when the lane is busy */
    world.started[i] = NULL;
    d->result.status = status;
    d->outcome.kind = status == 200 ? OUTCOME_DELIVERED : OUTCOME_RETRY;
    lanes_left(world.lanes, d);
    const size_t more = lanes_hungry(world.lanes, d);
    free_delivery(d);
    return more;
}

static void an_endpoint_that_answers_again_gets_what_was_put_off(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook_at(1, 1, 1);
    int64_t back_in_us = 0;
    world.clock_us = clock_mono_us();
    assert_int_equal(0, hunger_after(wh, false, 200)); /* nothing was put off */
    for (int i = 0; i < 29000; i++) {
        (void)lanes_crowded(world.lanes, &wh->id, 8, &back_in_us);
    }
    assert_int_equal(0, hunger_after(wh, false, 200)); /* all that comes within a minute */
    for (int i = 0; i < 10000; i++) {
        (void)lanes_crowded(world.lanes, &wh->id, 8, &back_in_us);
    }
    assert_true(back_in_us > 60 * SECOND);
    assert_int_equal(0, hunger_after(wh, false, 500));
    assert_int_equal(8, hunger_after(wh, false, 200)); /* what it takes soon */
    assert_int_equal(8, hunger_after(wh, false, 200)); /* it has nothing at all to do again */
    add(wh, 100, 3);
    start_all();
    assert_int_equal(0,
                     hunger_after(wh, false, 200)); /* while it has, not before that may be here */
    world.clock_us += SECOND / 4;
    assert_int_equal(8, hunger_after(wh, false, 200));
    world.clock_us += SECOND;
    add(wh, 200, 8);
    start_all();
    assert_int_equal(0, hunger_after(wh, false, 200)); /* it has enough */
    while (in_flight() > 0) {
        finish_all();
        start_all();
    }
    lanes_none_put_off(world.lanes, &wh->id);
    assert_true(lanes_crowded(world.lanes, &wh->id, 8, &back_in_us));
    assert_in_range(back_in_us, SECOND, 2 * SECOND); /* the far moments are free again */
    assert_true(lanes_crowded(world.lanes, &wh->id, 8, &back_in_us));
    lanes_none_put_off(world.lanes, &wh->id);
    world.clock_us += 59 * SECOND;
    assert_int_equal(0, hunger_after(wh, true, 200));
    world.clock_us += 2 * SECOND;
    assert_int_equal(0, hunger_after(wh, false, 200));
    assert_int_equal(8, hunger_after(wh, true, 200)); /* another worker may have put off more */
    webhook_unref(wh);
}

static void a_failing_webhook_is_crowded_by_two_retries(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook_at(1, 1, 1);
    int64_t back_in_us = 0;
    wh->failing = true;
    add_retries(wh, 0, 1);
    assert_false(lanes_crowded(world.lanes, &wh->id, 0, &back_in_us));
    add_retries(wh, 1, 1);
    assert_true(lanes_crowded(world.lanes, &wh->id, 0, &back_in_us));
    webhook_unref(wh);
}

/* --- retries among the others --- */

static void a_webhook_that_goes_cancels_its_retries_too(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook_at(1, 1, 1);
    add(wh, 0, 3);
    add_retries(wh, 10, 5);
    lanes_changed(world.lanes, &wh->id, NULL);
    assert_int_equal(3, world.cancelled[DELIVERY_NEW]);
    assert_int_equal(5, world.cancelled[DELIVERY_RETRY]);
    start_all();
    assert_int_equal(0, world.n);
    webhook_unref(wh);
}

static void abandoning_leaves_retries_where_they_are(void **state)
{
    (void)state;
    struct tracker *t = tracker_new(0, 1);
    struct webhook *wh = make_webhook_at(1, 1, 1);
    for (int64_t i = 0; i < 5; i++) {
        lanes_add(world.lanes, make_delivery(wh, t, i));
        lanes_add(world.lanes, make_retry(wh, 100 + i));
    }
    lanes_abandon(world.lanes, t);
    assert_int_equal(5, world.dropped_open);
    lanes_abandon(world.lanes, NULL);
    assert_int_equal(5, world.dropped_open);
    for (size_t i = 0; i < 5; i++) {
        start_all();
        assert_int_equal(100 + i, world.started[i]->ev->offset);
        finish(i);
    }
    tracker_retire(t);
    webhook_unref(wh);
}

static void giving_back_takes_the_waiting_retries_and_nothing_else(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook_at(1, 1, 1);
    add_retries(wh, 0, 8);
    start_all();
    add(wh, 100, 3);
    lanes_give_back_retries(world.lanes);
    assert_int_equal(4, world.spilled[DELIVERY_RETRY]);
    assert_int_equal(0, world.spilled[DELIVERY_NEW]);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(4 + i, world.spilled_offset[i]);
        assert_int_equal(0, world.spilled_delay_us[i]);
    }
    finish_all();
    start_all();
    assert_int_equal(7, world.n);
    webhook_unref(wh);
}

/* --- everything at once --- */

enum { MIX_WEBHOOKS = 12, MIX_STEPS = 15000, MIX_REQUESTS = 11, MIX_HOST = 5 };

struct mix {
    uint64_t seed;
    struct webhook *wh[MIX_WEBHOOKS];
    struct tracker *trackers[3];
    size_t added;
};

static void mix_finish(struct mix *m)
{
    static const long statuses[] = {200, 200, 200, 500, 503};
    const size_t i = random_below(&m->seed, world.n);
    if (world.started[i] != NULL) {
        const bool timed_out = random_below(&m->seed, 10) == 0;
        finish_with(i, timed_out ? TRANSPORT_TIMEOUT : TRANSPORT_OK,
                    timed_out ? 0 : statuses[random_below(&m->seed, COUNT(statuses))]);
    }
}

/* A newer version: failing or not, perhaps somewhere else. */
static void mix_change(struct mix *m, size_t i)
{
    struct webhook *old = m->wh[i];
    struct webhook *wh =
        make_webhook_at((unsigned)i, (unsigned)i % 5, (unsigned)random_below(&m->seed, 4));
    wh->version = old->version + 1;
    wh->failing = random_below(&m->seed, 4) == 0;
    lanes_changed(world.lanes, &wh->id, wh);
    m->wh[i] = wh;
    webhook_unref(old);
}

static void mix_step(struct mix *m)
{
    const size_t pick = random_below(&m->seed, 1000);
    const size_t which = random_below(&m->seed, MIX_WEBHOOKS);
    struct webhook *wh = m->wh[which];
    struct tracker *t = m->trackers[random_below(&m->seed, 3)];
    if (pick < 300) {
        lanes_add(world.lanes, make_delivery(wh, t, (int64_t)m->added++));
    } else if (pick < 450) {
        lanes_add(world.lanes, make_retry(wh, (int64_t)m->added++));
    } else if (pick < 920 && world.n > 0) {
        mix_finish(m);
    } else if (pick < 960) {
        mix_change(m, which);
    } else if (pick < 970) {
        lanes_changed(world.lanes, &wh->id, NULL);
    } else if (pick < 975) {
        lanes_abandon(world.lanes, t);
    } else if (pick < 978) {
        lanes_give_back_retries(world.lanes);
    } else if (pick < 985) {
        assert_int_equal(0, event_base_loop(world.base, EVLOOP_NONBLOCK));
    }
}

static size_t settled(void)
{
    return world.n + spilled() + world.dropped_open + world.cancelled[0] + world.cancelled[1];
}

static void mix_check(const struct mix *m)
{
    assert_true(in_flight() <= MIX_REQUESTS);
    assert_int_equal(in_flight(), gauge("nrw_in_flight"));
    assert_int_equal(m->added - settled(), gauge("nrw_lanes_waiting"));
}

/* Nothing is lost, started twice, above a limit, or forgotten while there is room. */
static void any_order_of_calls_loses_and_forgets_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct mix m = {.seed = seed};
        settings.requests_max = MIX_REQUESTS;
        settings.host_concurrency = MIX_HOST;
        for (unsigned i = 0; i < MIX_WEBHOOKS; i++) {
            m.wh[i] = make_webhook_at(i, i % 5, i % 4);
        }
        for (int i = 0; i < 3; i++) {
            m.trackers[i] = tracker_new(i, 1);
        }
        for (int step = 0; step < MIX_STEPS / 6; step++) {
            mix_step(&m);
            lanes_after_turn(world.lanes);
            mix_check(&m);
        }
        /* Every end makes room for somebody as long as there is somebody: all are served. */
        while (in_flight() > 0) {
            finish_all();
            start_all();
        }
        assert_int_equal(m.added, settled());
        assert_int_equal(0, gauge("nrw_lanes_waiting"));
        assert_int_equal(0, gauge("nrw_lanes"));
        for (int i = 0; i < 3; i++) {
            assert_int_equal(0, tracker_busy(m.trackers[i]));
            tracker_retire(m.trackers[i]);
        }
        for (unsigned i = 0; i < MIX_WEBHOOKS; i++) {
            webhook_unref(m.wh[i]);
        }
        lanes_free(world.lanes);
        event_base_free(world.base);
        config_free(&settings);
        (void)begin(NULL);
    }
}

/* Lanes in turns, idle ones, starved ones, and ones that wait for their host. */
static void freeing_in_any_state_leaves_nothing_behind(void **state)
{
    (void)state;
    for (uint64_t seed = 100; seed < 160; seed++) {
        struct mix m = {.seed = seed};
        settings.requests_max = MIX_REQUESTS;
        settings.host_concurrency = MIX_HOST;
        for (unsigned i = 0; i < MIX_WEBHOOKS; i++) {
            m.wh[i] = make_webhook_at(i, i % 5, i % 4);
        }
        for (int i = 0; i < 3; i++) {
            m.trackers[i] = tracker_new(i, 1);
        }
        const size_t steps = random_below(&m.seed, 300);
        for (size_t step = 0; step < steps; step++) {
            mix_step(&m);
            lanes_after_turn(world.lanes);
        }
        assert_int_equal(0, end(NULL));
        for (int i = 0; i < 3; i++) {
            assert_int_equal(0, tracker_busy(m.trackers[i]));
            tracker_retire(m.trackers[i]);
        }
        for (unsigned i = 0; i < MIX_WEBHOOKS; i++) {
            webhook_unref(m.wh[i]);
        }
        (void)begin(NULL);
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
        LANES_TEST(a_busy_lane_at_its_queue_limit_is_full_until_it_has_room),
        LANES_TEST(a_newer_version_serves_what_waits),
        LANES_TEST(a_webhook_that_goes_settles_what_waits_and_not_what_flies),
        LANES_TEST(a_webhook_that_is_paused_cancels_what_waits_and_what_comes_late),
        LANES_TEST(what_is_abandoned_leaves_its_slot_open),
        LANES_TEST(adding_after_an_abandon_keeps_the_order),
        LANES_TEST(a_delivery_that_ends_inside_its_start_gives_its_room_back),
        LANES_TEST(what_waits_at_the_end_is_abandoned),
        LANES_TEST(a_tenant_with_fifty_lanes_gets_no_more_turns_than_one_with_one),
        LANES_TEST(new_and_retried_work_have_their_shares),
        LANES_TEST(retries_borrow_what_new_work_leaves_and_give_it_back),
        LANES_TEST(new_work_borrows_what_retries_leave_and_gives_it_back),
        LANES_TEST(the_webhooks_of_one_host_share_its_cap),
        LANES_TEST(a_lane_that_was_emptied_while_it_waited_for_its_host_holds_up_nobody),
        LANES_TEST(a_lane_that_was_emptied_in_its_turn_passes_the_hosts_room_on),
        LANES_TEST(a_webhook_that_moves_to_another_host_counts_there),
        LANES_TEST(a_waiting_webhook_that_moves_is_served_at_once),
        LANES_TEST(the_last_fifth_is_for_endpoints_without_a_request),
        LANES_TEST(a_starved_lane_that_its_host_holds_up_is_woken_by_the_host),
        LANES_TEST(a_test_waits_behind_nobody_and_takes_one_place_more),
        LANES_TEST(a_test_reaches_a_paused_webhook_and_leaves_its_lane_to_rest),
        LANES_TEST(a_test_keeps_to_the_caps_of_its_host_and_of_the_worker),
        LANES_TEST(a_lane_that_is_answered_gets_more_and_one_in_trouble_half),
        LANES_TEST(an_idle_lane_keeps_its_limit_and_ten_thousand_are_kept),
        LANES_TEST(what_waits_too_long_is_spilled_oldest_first),
        LANES_TEST(a_first_attempt_is_deferred_when_its_endpoint_had_room),
        LANES_TEST(an_overflow_slows_intake_while_the_endpoint_keeps_up),
        LANES_TEST(an_overflow_of_a_dead_endpoint_is_spilled_at_once_and_stops_nobody),
        LANES_TEST(a_lane_that_stays_full_holds_intake_up_for_no_longer_than_a_delivery_may_wait),
        LANES_TEST(a_lane_that_stays_full_because_this_worker_is_slow_is_not_spilled),
        LANES_TEST(a_lane_at_its_cap_is_not_spilled_while_this_worker_computes),
        LANES_TEST(a_lane_at_its_cap_is_spilled_while_this_worker_has_nothing_to_do),
        LANES_TEST(a_burst_after_a_long_pause_is_not_spilled_at_once),
        LANES_TEST(too_many_retries_of_an_endpoint_come_back_one_after_the_other),
        LANES_TEST(an_endpoint_that_answers_again_gets_what_was_put_off),
        LANES_TEST(a_failing_webhook_is_crowded_by_two_retries),
        LANES_TEST(a_webhook_that_goes_cancels_its_retries_too),
        LANES_TEST(abandoning_leaves_retries_where_they_are),
        LANES_TEST(giving_back_takes_the_waiting_retries_and_nothing_else),
        LANES_TEST(any_order_of_calls_loses_and_forgets_nothing),
        LANES_TEST(freeing_in_any_state_leaves_nothing_behind),
    };
    log_init(LOG_LEVEL_ERROR, STDERR_FILENO);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
