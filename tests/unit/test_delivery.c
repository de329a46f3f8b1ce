/* What is recorded of a delivery however it ends, and what the schedule is told. Look-up, signing,
 * sending and the journal are fakes: this program defines what delivery.c calls of them, so that
 * every end can be made, and a commit comes when the test says so. */
#include "delivery.h"

#include "worker_fixture.h"

#include "mem.h"
#include "metrics_page.h"
#include "request.h"

#define SECOND INT64_C(1000000)

static struct config settings;
static struct event_account account;
static struct netguard *guard;

static struct {
    struct deliveries *all;
    struct tracker *tracker;
    int64_t offset;
    /* the fakes */
    bool lookups_fail;
    size_t sent;
    transport_fn *answer;
    void *answer_ctx;
    struct journal_entry *entry; /* given to the journal, not committed */
    /* what the owner was told */
    size_t left, due, ended, rejected;
    struct delivery *rejected_one;
    int64_t due_delay_us;
    struct uuid id;
} world;

/* --- the fakes --- */

struct resolver_query *resolver_lookup(struct resolver *r, const char *host, resolver_fn *fn,
                                       void *ctx)
{
    const struct err err = {.ours = true, .text = "no resolver answers"};
    (void)r, (void)host;
    assert_true(world.lookups_fail); /* an address needs no look-up */
    fn(ctx, NULL, 0, &err);
    return NULL;
}

bool request_build(struct request *ret, const struct nrw_event *ev, const struct webhook *wh,
                   const struct uuid *delivery_id, unsigned attempt, int64_t now_wall_us,
                   struct err *err)
{
    (void)ev, (void)delivery_id, (void)attempt, (void)now_wall_us, (void)err;
    ret->http = (struct transport_request){.endpoint = &wh->endpoint};
    return true;
}

struct transfer *transport_send(struct transport *t, const struct transport_request *req,
                                transport_fn *fn, void *ctx)
{
    (void)t, (void)req;
    world.sent++;
    world.answer = fn;
    world.answer_ctx = ctx;
    return NULL;
}

void journal_add(struct journal *j, struct journal_entry *e)
{
    (void)j;
    assert_null(world.entry);
    world.entry = e;
}

static void on_left(void *ctx, const struct delivery *d)
{
    (void)ctx;
    assert_int_equal(DELIVERY_MAGIC, d->magic);
    world.left++;
}

static void on_due(void *ctx, const struct uuid *id, int64_t delay_us)
{
    (void)ctx;
    world.due++;
    world.id = *id;
    world.due_delay_us = delay_us;
}

static void on_ended(void *ctx, const struct uuid *id)
{
    (void)ctx;
    world.ended++;
    world.id = *id;
}

static void on_rejected(void *ctx, struct delivery *d)
{
    (void)ctx;
    world.rejected++;
    world.rejected_one = d;
}

/* --- the world --- */

static int begin(void **state)
{
    (void)state;
    struct err err = {0};
    memset(&world, 0, sizeof(world));
    account = (struct event_account){0};
    settings_defaults(&settings);
    guard = netguard_new("", "", &err);
    const struct deliveries_handlers on = {
        .left_lane = on_left, .due = on_due, .ended = on_ended, .rejected = on_rejected};
    world.all = deliveries_new(&settings, guard, NULL, NULL, NULL, &on);
    world.tracker = tracker_new(0, 1);
    return guard != NULL ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    assert_int_equal(0, deliveries_open(world.all));
    assert_int_equal(0, deliveries_retries(world.all));
    assert_int_equal(0, account.events);
    assert_int_equal(0, tracker_busy(world.tracker));
    tracker_retire(world.tracker);
    deliveries_free(world.all);
    netguard_free(guard);
    config_free(&settings);
    return 0;
}

static struct webhook *make_webhook(bool failing)
{
    struct webhook *wh = mem_zero(1, sizeof(*wh));
    wh->magic = WEBHOOK_MAGIC;
    wh->refs = 1;
    wh->id = id_of(0x3b, 1);
    wh->failing = failing;
    wh->endpoint.is_address = true;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x5db8d822)};
    memcpy(&wh->endpoint.address, &at, sizeof(at));
    return wh;
}

/* A queued one; attempt 0: new, else a retry for this reason. */
static struct delivery *make_for(struct webhook *wh, unsigned attempt, unsigned final,
                                 enum event_reason reason)
{
    struct nrw_event *ev =
        event_make(&account, attempt == 0 ? world.tracker : NULL, world.offset++, 1 + attempt);
    ev->is_retry = attempt > 0;
    ev->retry = (struct event_retry){.webhook_id = wh->id,
                                     .reason = reason,
                                     .attempt = attempt,
                                     .final_attempt = final,
                                     .lease_until_mono_us = clock_mono_us() + 60 * SECOND,
                                     .lease_us = 4711};
    struct delivery *d = delivery_new(world.all, ev, wh);
    nrw_event_unref(ev);
    return d;
}

static struct delivery *make(struct webhook *wh, unsigned attempt)
{
    return make_for(wh, attempt, LIMIT_ATTEMPTS, EVENT_RETRY);
}

static void answer(enum transport_fault fault, long status)
{
    const struct transport_result result = {.fault = fault, .status = status, .retry_after_s = -1};
    world.answer(world.answer_ctx, &result);
}

static void journal_ends(enum journal_end how)
{
    struct journal_entry *e = world.entry;
    world.entry = NULL;
    assert_non_null(e);
    e->done(e, how);
}

/* --- what is recorded --- */

#define PUT    JOURNAL_PENDING_PUT
#define MOVE   JOURNAL_PENDING_MOVE
#define DELETE JOURNAL_PENDING_DELETE
#define KEEP   JOURNAL_PENDING_KEEP

static const struct {
    const char *name;
    const char *outcome;
    const char *reason;
    long status;
    int64_t delay_s;
    enum transport_fault fault;
    enum journal_pending pending;
    enum journal_standing standing;
    unsigned attempt; /* 0: new */
    unsigned next;
    bool failing;
} ends[] = {
    {"new, delivered", "delivered", NULL, 200, 0, TRANSPORT_OK, KEEP,
     JOURNAL_STANDING_SUCCEEDED_NOTED, 0, 0, false},
    {"new, delivered by a failing one", "delivered", NULL, 204, 0, TRANSPORT_OK, KEEP,
     JOURNAL_STANDING_SUCCEEDED_NOTED, 0, 0, true},
    {"new, refused", "failed", "retry", 500, 30, TRANSPORT_OK, PUT, JOURNAL_STANDING_KEEP, 0, 2,
     false},
    {"new, timed out", "failed", "retry", 0, 30, TRANSPORT_TIMEOUT, PUT, JOURNAL_STANDING_KEEP, 0,
     2, true},
    {"new, gone", "gone", NULL, 410, 0, TRANSPORT_OK, KEEP, JOURNAL_STANDING_GONE, 0, 0, false},
    {"new, our fault", NULL, "spill", 0, 10, TRANSPORT_OURS, PUT, JOURNAL_STANDING_KEEP, 0, 1,
     false},
    {"retry, delivered", "delivered", NULL, 200, 0, TRANSPORT_OK, DELETE,
     JOURNAL_STANDING_SUCCEEDED_NOTED, 2, 0, false},
    {"retry, delivered by a failing one", "delivered", NULL, 200, 0, TRANSPORT_OK, DELETE,
     JOURNAL_STANDING_SUCCEEDED_NOTED, 5, 0, true},
    {"spilled first attempt, refused", "failed", "retry", 0, 30, TRANSPORT_CONNECT, MOVE,
     JOURNAL_STANDING_KEEP, 1, 2, false},
    {"retry 2, refused", "failed", "retry", 503, 120, TRANSPORT_OK, MOVE, JOURNAL_STANDING_KEEP, 2,
     3, false},
    {"retry 4, refused", "failed", "retry", 302, 3600, TRANSPORT_OK, MOVE, JOURNAL_STANDING_KEEP, 4,
     5, false},
    {"retry 5, refused", "exhausted", NULL, 500, 0, TRANSPORT_OK, DELETE,
     JOURNAL_STANDING_EXHAUSTED, 5, 0, false},
    {"retry 5, our fault", NULL, "spill", 0, 10, TRANSPORT_OURS, MOVE, JOURNAL_STANDING_KEEP, 5, 5,
     false},
    {"retry, gone", "gone", NULL, 410, 0, TRANSPORT_OK, DELETE, JOURNAL_STANDING_GONE, 3, 0, true},
};

static void check_entry(const struct journal_entry *e, size_t row)
{
    if (e->pending != ends[row].pending || e->standing != ends[row].standing) {
        fail_msg("%s: pending %d, standing %d", ends[row].name, e->pending, e->standing);
    }
    assert_true((e->outcome == NULL) == (ends[row].outcome == NULL));
    assert_string_equal(ends[row].outcome != NULL ? ends[row].outcome : "",
                        e->outcome != NULL ? e->outcome : "");
    assert_int_equal(ends[row].attempt == 0 ? 1 : ends[row].attempt, e->attempt);
    if (ends[row].reason != NULL) {
        assert_string_equal(ends[row].reason, e->pending_reason);
        assert_int_equal(ends[row].next, e->pending_attempt);
        assert_in_range(e->pending_delay_us, ends[row].delay_s * SECOND,
                        ends[row].delay_s * SECOND * 11 / 10);
    }
}

static void every_end_is_recorded_and_the_schedule_told_after_the_commit(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(ends); i++) {
        struct webhook *wh = make_webhook(ends[i].failing);
        struct delivery *d = make(wh, ends[i].attempt);
        const struct uuid id = d->id;
        const size_t left = world.left;
        const size_t due = world.due;
        const size_t ended = world.ended;
        assert_int_equal(ends[i].attempt > 0, deliveries_retries(world.all));
        delivery_start(d, wh);
        assert_int_equal(i + 1, world.sent);
        assert_int_equal(left, world.left);
        answer(ends[i].fault, ends[i].status);
        assert_int_equal(left + 1, world.left); /* before the row is durable */
        check_entry(world.entry, i);
        assert_true(uuid_equal(&id, &world.entry->delivery_id));
        assert_int_equal(ends[i].attempt > 0 ? 4711 : 0, world.entry->lease_us);
        assert_int_equal(due + ended, world.due + world.ended);
        const int64_t delay_us = world.entry->pending_delay_us;
        journal_ends(JOURNAL_COMMITTED);
        assert_int_equal(due + (ends[i].reason != NULL), world.due);
        assert_int_equal(ended + (ends[i].pending == JOURNAL_PENDING_DELETE), world.ended);
        assert_true(ends[i].pending == JOURNAL_PENDING_KEEP || uuid_equal(&id, &world.id));
        assert_true(ends[i].reason == NULL || world.due_delay_us == delay_us);
        assert_int_equal(left + 1, world.left);
        assert_int_equal(0, deliveries_open(world.all));
        webhook_unref(wh);
    }
}

static void a_success_is_noted_once_a_minute(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(false);
    for (int i = 0; i < 3; i++) {
        if (i == 2) {
            wh->success_noted_mono_us -= 60 * SECOND;
        }
        delivery_start(make(wh, 0), wh);
        answer(TRANSPORT_OK, 200);
        assert_int_equal(i == 1 ? JOURNAL_STANDING_SUCCEEDED : JOURNAL_STANDING_SUCCEEDED_NOTED,
                         world.entry->standing);
        journal_ends(JOURNAL_COMMITTED);
    }
    webhook_unref(wh);
}

static uint64_t own_faults(const char *labels)
{
    return metrics_counter("nrw_own_faults_total", labels, "")->value;
}

static void a_fault_of_ours_is_counted_at_its_step(void **state)
{
    (void)state;
    static const char *const steps[] = {"step=\"resolve\"", "step=\"sign\"", "step=\"send\""};
    world.lookups_fail = true;
    for (size_t i = 0; i < COUNT(steps); i++) {
        const uint64_t before = own_faults(steps[i]);
        const uint64_t all = own_faults(steps[0]) + own_faults(steps[1]) + own_faults(steps[2]);
        struct webhook *wh = make_webhook(false);
        wh->endpoint.is_address = i == 2;
        wh->fault = i == 1 ? WEBHOOK_NO_SECRET : WEBHOOK_USABLE;
        delivery_start(make(wh, 0), wh);
        if (i == 2) {
            answer(TRANSPORT_OURS, 0);
        }
        assert_int_equal(i == 2, world.sent); /* nothing was sent, or looked up, in vain */
        assert_null(world.entry->outcome);
        assert_int_equal(JOURNAL_PENDING_PUT, world.entry->pending);
        journal_ends(JOURNAL_COMMITTED);
        assert_int_equal(before + 1, own_faults(steps[i]));
        assert_int_equal(all + 1,
                         own_faults(steps[0]) + own_faults(steps[1]) + own_faults(steps[2]));
        webhook_unref(wh);
    }
}

/* The promise is 1 s from Kafka's timestamp, so that 1 s is a bound; what was spilled is counted
 * elsewhere, and a producer's clock that is ahead is not a latency. */
static void the_latency_of_a_first_attempt_counts_from_kafkas_timestamp(void **state)
{
    (void)state;
#define LATENCY "nrw_first_attempt_latency_seconds"
    static const struct {
        int64_t age_us;
        unsigned attempt; /* 0: new */
        unsigned in_time, all;
    } cases[] = {{0, 0, 1, 1},      {900000, 0, 1, 1}, {1000001, 0, 0, 1}, {-60 * SECOND, 0, 1, 1},
                 {900000, 1, 0, 0}, {900000, 2, 0, 0}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        const double in_time = metrics_page_value(LATENCY "_bucket{le=\"1\"}");
        const double all = metrics_page_value(LATENCY "_count");
        const double answers = metrics_page_value("nrw_answers_total{status=\"2xx\"}");
        struct webhook *wh = make_webhook(false);
        struct delivery *d = make(wh, cases[i].attempt);
        delivery_start(d, wh);
        d->ev->received_at_us = d->started_wall_us - cases[i].age_us;
        answer(TRANSPORT_OK, 204);
        journal_ends(JOURNAL_COMMITTED);
        assert_int_equal(cases[i].in_time,
                         (int)(metrics_page_value(LATENCY "_bucket{le=\"1\"}") - in_time));
        assert_int_equal(cases[i].all, (int)(metrics_page_value(LATENCY "_count") - all));
        assert_int_equal(answers + 1, metrics_page_value("nrw_answers_total{status=\"2xx\"}"));
        webhook_unref(wh);
    }
}

/* --- what somebody asked for --- */

static const struct {
    enum transport_fault fault;
    long status;
    const char *outcome;
    enum journal_pending pending;
    enum journal_standing standing;
} tests_of[] = {
    {TRANSPORT_OK, 200, "delivered", DELETE, JOURNAL_STANDING_SUCCEEDED_NOTED},
    {TRANSPORT_OK, 500, "test_failed", DELETE, JOURNAL_STANDING_KEEP},
    {TRANSPORT_OK, 503, "test_failed", DELETE, JOURNAL_STANDING_KEEP},
    {TRANSPORT_OK, 410, "test_failed", DELETE, JOURNAL_STANDING_KEEP},
    {TRANSPORT_TIMEOUT, 0, "test_failed", DELETE, JOURNAL_STANDING_KEEP},
    {TRANSPORT_DENIED, 0, "test_failed", DELETE, JOURNAL_STANDING_KEEP},
    {TRANSPORT_OURS, 0, NULL, MOVE, JOURNAL_STANDING_KEEP},
};

static void a_test_is_one_attempt_and_changes_no_webhook_but_a_failing_one_to_active(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(tests_of); i++) {
        for (int failing = 0; failing < 2; failing++) {
            struct webhook *wh = make_webhook(failing);
            delivery_start(make_for(wh, 1, 1, EVENT_TEST), wh);
            answer(tests_of[i].fault, tests_of[i].status);
            const struct journal_entry *e = world.entry;
            assert_string_equal(tests_of[i].outcome != NULL ? tests_of[i].outcome : "",
                                e->outcome != NULL ? e->outcome : "");
            assert_int_equal(tests_of[i].pending, e->pending);
            assert_int_equal(tests_of[i].standing, e->standing);
            if (e->pending == JOURNAL_PENDING_MOVE) {
                assert_int_equal(1, e->pending_attempt);
                assert_string_equal("test", e->pending_reason);
            }
            journal_ends(JOURNAL_COMMITTED);
            webhook_unref(wh);
        }
    }
}

static void a_redelivered_one_has_attempts_six_to_ten(void **state)
{
    (void)state;
    static const int64_t delays_s[] = {30, 120, 600, 3600};
    struct webhook *wh = make_webhook(true);
    for (unsigned attempt = 6; attempt <= 10; attempt++) {
        delivery_start(make_for(wh, attempt, 10, attempt == 6 ? EVENT_REDELIVER : EVENT_RETRY), wh);
        answer(TRANSPORT_OK, 500);
        const struct journal_entry *e = world.entry;
        assert_int_equal(attempt, e->attempt);
        assert_string_equal(attempt < 10 ? "failed" : "exhausted", e->outcome);
        assert_int_equal(attempt < 10 ? JOURNAL_PENDING_MOVE : JOURNAL_PENDING_DELETE, e->pending);
        assert_int_equal(attempt < 10 ? JOURNAL_STANDING_KEEP : JOURNAL_STANDING_EXHAUSTED,
                         e->standing);
        if (attempt < 10) {
            assert_int_equal(attempt + 1, e->pending_attempt);
            assert_string_equal("retry", e->pending_reason);
            assert_in_range(e->pending_delay_us, delays_s[attempt - 6] * SECOND,
                            delays_s[attempt - 6] * SECOND * 11 / 10);
        }
        journal_ends(JOURNAL_COMMITTED);
    }
    webhook_unref(wh);
}

static void what_was_asked_for_keeps_its_reason_until_it_was_tried(void **state)
{
    (void)state;
    static const char *const kept[] = {[EVENT_RETRY] = "spill",
                                       [EVENT_SPILL] = "spill",
                                       [EVENT_REDELIVER] = "redeliver",
                                       [EVENT_REPLAY] = "replay",
                                       [EVENT_TEST] = "test"};
    struct webhook *wh = make_webhook(false);
    for (int reason = EVENT_RETRY; reason <= EVENT_TEST; reason++) {
        const unsigned final = reason == EVENT_TEST ? 1 : 5;
        delivery_spill(make_for(wh, 1, final, (enum event_reason)reason), SECOND);
        assert_string_equal(kept[reason], world.entry->pending_reason);
        assert_int_equal(reason, event_reason_of(event_reason_name((enum event_reason)reason)));
        journal_ends(JOURNAL_COMMITTED);
    }
    assert_int_equal(EVENT_RETRY, event_reason_of("of a later version"));
    webhook_unref(wh);
}

/* --- without an attempt --- */

static void a_spilled_one_is_pending_with_the_same_attempt(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(false);
    static const unsigned attempts[] = {0, 1, 4};
    for (size_t i = 0; i < COUNT(attempts); i++) {
        delivery_spill(make(wh, attempts[i]), 7 * SECOND);
        const struct journal_entry *e = world.entry;
        assert_null(e->outcome);
        assert_int_equal(attempts[i] == 0 ? JOURNAL_PENDING_PUT : JOURNAL_PENDING_MOVE, e->pending);
        assert_int_equal(attempts[i] == 0 ? 1 : attempts[i], e->attempt);
        assert_int_equal(e->attempt, e->pending_attempt);
        assert_string_equal("spill", e->pending_reason);
        assert_int_equal(7 * SECOND, e->pending_delay_us);
        assert_int_equal(JOURNAL_STANDING_KEEP, e->standing);
        journal_ends(JOURNAL_COMMITTED);
        assert_int_equal(i + 1, world.due);
        assert_int_equal(7 * SECOND, world.due_delay_us);
    }
    assert_int_equal(0, world.left + world.sent + world.ended);
    webhook_unref(wh);
}

static void a_cancelled_retry_loses_its_row(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(false);
    delivery_cancel(make(wh, 3));
    assert_null(world.entry->outcome);
    assert_int_equal(JOURNAL_PENDING_DELETE, world.entry->pending);
    assert_int_equal(3, world.entry->attempt);
    assert_int_equal(0, world.ended);
    journal_ends(JOURNAL_COMMITTED);
    assert_int_equal(1, world.ended);
    assert_int_equal(0, world.left + world.sent + world.due);
    webhook_unref(wh);
}

/* What a pause cancels can be replayed. */
static void a_cancelled_new_one_settles_when_its_event_is_durable(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(false);
    int64_t offset = 0;
    delivery_cancel(make(wh, 0));
    assert_false(tracker_take_offset(world.tracker, &offset));
    assert_null(world.entry->outcome);
    assert_int_equal(JOURNAL_PENDING_KEEP, world.entry->pending);
    assert_int_equal(JOURNAL_STANDING_KEEP, world.entry->standing);
    journal_ends(JOURNAL_COMMITTED);
    assert_true(tracker_take_offset(world.tracker, &offset));
    struct delivery *d = make(wh, 0);
    d->ev->row_committed = true; /* by another delivery of it */
    delivery_cancel(d);
    assert_null(world.entry);
    assert_true(tracker_take_offset(world.tracker, &offset));
    delivery_cancel(make(wh, 0));
    journal_ends(JOURNAL_REJECTED);
    assert_int_equal(1, world.rejected);
    assert_false(tracker_take_offset(world.tracker, &offset));
    delivery_parked(world.rejected_one);
    assert_true(tracker_take_offset(world.tracker, &offset));
    assert_int_equal(0, world.left + world.sent + world.due + world.ended);
    webhook_unref(wh);
}

static void a_dropped_one_writes_nothing(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(false);
    int64_t offset = 0;
    delivery_drop(make(wh, 2), false);
    delivery_drop(make(wh, 0), false);
    assert_false(tracker_take_offset(world.tracker, &offset)); /* its next owner gets it again */
    assert_null(world.entry);
    assert_int_equal(0, world.left + world.sent + world.due + world.ended);
    webhook_unref(wh);
}

/* --- leases --- */

static struct delivery *make_late(struct webhook *wh)
{
    struct delivery *d = make(wh, 2);
    d->ev->retry.lease_until_mono_us = clock_mono_us();
    return d;
}

static void nothing_is_sent_or_written_when_the_lease_is_over(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(false);
    delivery_start(make_late(wh), wh);
    assert_int_equal(0, world.sent);
    assert_int_equal(1, world.left);
    assert_null(world.entry);
    assert_int_equal(0, deliveries_open(world.all));
    webhook_unref(wh);
}

/* Giving it back would free the row while its new owner is sending. */
static void what_outlived_its_lease_is_not_given_back(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(false);
    delivery_spill(make_late(wh), 0);
    assert_null(world.entry);
    assert_int_equal(0, world.due + world.left);
    assert_int_equal(0, deliveries_open(world.all));
    webhook_unref(wh);
}

/* --- refused by PostgreSQL --- */

static void a_rejected_new_one_is_parked_and_a_rejected_retry_keeps_its_row(void **state)
{
    (void)state;
    struct webhook *wh = make_webhook(false);
    delivery_start(make(wh, 0), wh);
    answer(TRANSPORT_OK, 500);
    journal_ends(JOURNAL_REJECTED);
    assert_int_equal(1, world.rejected);
    assert_int_equal(1, deliveries_open(world.all));
    delivery_parked(world.rejected_one);
    delivery_start(make(wh, 2), wh);
    answer(TRANSPORT_OK, 500);
    journal_ends(JOURNAL_REJECTED);
    assert_int_equal(1, world.rejected);
    assert_int_equal(0, world.due + world.ended);
    assert_int_equal(0, deliveries_open(world.all));
    webhook_unref(wh);
}

int main(void)
{
#define DELIVERY_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        DELIVERY_TEST(every_end_is_recorded_and_the_schedule_told_after_the_commit),
        DELIVERY_TEST(a_success_is_noted_once_a_minute),
        DELIVERY_TEST(a_fault_of_ours_is_counted_at_its_step),
        DELIVERY_TEST(the_latency_of_a_first_attempt_counts_from_kafkas_timestamp),
        DELIVERY_TEST(a_spilled_one_is_pending_with_the_same_attempt),
        DELIVERY_TEST(a_test_is_one_attempt_and_changes_no_webhook_but_a_failing_one_to_active),
        DELIVERY_TEST(a_redelivered_one_has_attempts_six_to_ten),
        DELIVERY_TEST(what_was_asked_for_keeps_its_reason_until_it_was_tried),
        DELIVERY_TEST(a_cancelled_retry_loses_its_row),
        DELIVERY_TEST(a_cancelled_new_one_settles_when_its_event_is_durable),
        DELIVERY_TEST(a_dropped_one_writes_nothing),
        DELIVERY_TEST(nothing_is_sent_or_written_when_the_lease_is_over),
        DELIVERY_TEST(what_outlived_its_lease_is_not_given_back),
        DELIVERY_TEST(a_rejected_new_one_is_parked_and_a_rejected_retry_keeps_its_row),
    };
    log_init(LOG_LEVEL_ERROR, STDERR_FILENO);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
