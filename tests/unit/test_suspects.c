/* The suspect window and its look-ups against a real PostgreSQL with the real schema. Deliveries
 * are bare structs: this program defines delivery_drop(), the only call that suspects.c makes on
 * them. */
#include "suspects.h"

#include "pg_fixture.h"
#include "worker_fixture.h"

#include "mem.h"

#define SUSPECTS_MAX 1500

static struct {
    struct config cfg;
    struct event_base *base;
    struct event *ticker;
    struct pg *pg;
    struct suspects *suspects;
    struct event_account account;
    size_t cleared_n;
    unsigned cleared[SUSPECTS_MAX]; /* offsets, in order */
    size_t known_n;
    unsigned known[SUSPECTS_MAX];
    size_t dropped;
} world;

static void free_delivery(struct delivery *d)
{
    assert_null(d->next);
    nrw_event_unref(d->ev);
    free(d);
}

void delivery_drop(struct delivery *d, bool settled)
{
    assert_false(settled);
    nrw_event_abandon(d->ev);
    world.dropped++;
    d->next = NULL;
    free_delivery(d);
}

static void on_cleared(void *ctx, struct delivery *d)
{
    assert_ptr_equal(&world, ctx);
    world.cleared[world.cleared_n++] = (unsigned)d->ev->offset;
    free_delivery(d);
}

static void on_known(void *ctx, struct delivery *d)
{
    assert_ptr_equal(&world, ctx);
    world.known[world.known_n++] = (unsigned)d->ev->offset;
    free_delivery(d);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void turn(void)
{
    assert_int_equal(0, event_base_loop(world.base, EVLOOP_ONCE));
    suspects_after_turn(world.suspects);
}

static int begin(void **state)
{
    (void)state;
    memset(&world, 0, sizeof(world));
    if (pg_server.postmaster == 0) {
        return 0;
    }
    char url[160];
    const struct timeval tick = {.tv_usec = 2000};
    const struct pg_handlers none = {0};
    const struct suspects_handlers on = {.cleared = on_cleared, .known = on_known, .ctx = &world};
    sql("DELETE FROM attempts; DELETE FROM pending_deliveries; DELETE FROM consumer_progress");
    pg_server_url(url, sizeof(url), "postgres");
    settings_defaults(&world.cfg);
    world.base = event_base_new();
    world.ticker = event_new(world.base, -1, EV_PERSIST, on_tick, NULL);
    event_add(world.ticker, &tick);
    world.pg = pg_new(world.base, url, "test-suspects", 10000, &none);
    world.suspects = suspects_new(&world.cfg, world.pg, &on);
    return 0;
}

/* As the worker does it: the connection first, because its open look-ups are answered then. */
static void close_world(void)
{
    pg_free(world.pg);
    world.pg = NULL;
    suspects_free(world.suspects);
    world.suspects = NULL;
}

static int end(void **state)
{
    (void)state;
    if (pg_server.postmaster == 0) {
        return 0;
    }
    close_world();
    event_free(world.ticker);
    event_base_free(world.base);
    config_free(&world.cfg);
    return world.account.events == 0 ? 0 : -1;
}

static struct delivery *add(struct tracker *t, unsigned n)
{
    struct delivery *d = mem_zero(1, sizeof(*d));
    const struct uuid wh = id_of(0x3b, 1);
    d->magic = DELIVERY_MAGIC;
    d->ev = event_make(&world.account, t, n, n);
    d->id = uuid_of_delivery(&d->ev->id, &wh);
    suspects_add(world.suspects, d);
    return d;
}

static void progress_row(const char *group, const char *topic, int partition, int offset)
{
    char text[300];
    pg_server_format(text, sizeof(text),
                     "INSERT INTO consumer_progress VALUES ('%s', '%s', %d, %d)", group, topic,
                     partition, offset);
    sql(text);
}

static void assign(struct tracker *t)
{
    suspects_assigned(world.suspects, &t, 1);
}

static bool covers(const struct tracker *t, int64_t offset)
{
    return suspects_covers(world.suspects, t, offset);
}

/* --- the window --- */

static void the_window_ends_at_the_journaled_offset(void **state)
{
    (void)state;
    pg_server_needed();
    progress_row("netrecon-webhooks", "netrecon.events", 3, 1000);
    struct tracker *t = tracker_new(3, 1);
    assign(t);
    assert_true(covers(t, 0));
    assert_true(covers(t, INT64_MAX)); /* unknown yet: all of it */
    AWAIT_TURNS(!covers(t, INT64_MAX));
    assert_true(covers(t, 0));
    assert_true(covers(t, 1000));
    assert_false(covers(t, 1001));
    tracker_retire(t);
}

static void a_partition_without_progress_has_no_window(void **state)
{
    (void)state;
    pg_server_needed();
    progress_row("another-group", "netrecon.events", 0, 1000);
    progress_row("netrecon-webhooks", "another.topic", 0, 1000);
    progress_row("netrecon-webhooks", "netrecon.events", 1, 1000);
    struct tracker *t = tracker_new(0, 1);
    assign(t);
    AWAIT_TURNS(!covers(t, INT64_MAX));
    assert_false(covers(t, 0));
    tracker_retire(t);
}

static void an_assignment_after_the_question_waits_for_the_next_one(void **state)
{
    (void)state;
    pg_server_needed();
    progress_row("netrecon-webhooks", "netrecon.events", 0, 10);
    progress_row("netrecon-webhooks", "netrecon.events", 1, 20);
    struct tracker *first = tracker_new(0, 1);
    struct tracker *second = tracker_new(1, 2);
    AWAIT_TURNS(pg_is_up(world.pg));
    assign(first);
    suspects_after_turn(world.suspects); /* the question is out */
    sql("UPDATE consumer_progress SET journaled_offset = 30 WHERE partition = 1");
    assign(second);
    AWAIT_TURNS(!covers(first, 11));
    assert_true(covers(second, INT64_MAX));
    AWAIT_TURNS(!covers(second, INT64_MAX));
    assert_true(covers(second, 30));
    assert_false(covers(second, 31));
    tracker_retire(first);
    tracker_retire(second);
}

static void a_partition_that_comes_back_is_asked_for_again(void **state)
{
    (void)state;
    pg_server_needed();
    progress_row("netrecon-webhooks", "netrecon.events", 0, 10);
    struct tracker *t = tracker_new(0, 1);
    assign(t);
    AWAIT_TURNS(!covers(t, 11));
    tracker_retire(t);
    sql("UPDATE consumer_progress SET journaled_offset = 50"); /* by its owner in between */
    t = tracker_new(0, 2);
    assign(t);
    assert_true(covers(t, INT64_MAX));
    AWAIT_TURNS(!covers(t, INT64_MAX));
    assert_true(covers(t, 50));
    tracker_retire(t);
}

/* An incremental rebalance may assign nothing before the first question could be asked. */
static void an_empty_assignment_forgets_no_question(void **state)
{
    (void)state;
    pg_server_needed();
    struct tracker *t = tracker_new(0, 1);
    assign(t);
    suspects_assigned(world.suspects, NULL, 0);
    AWAIT_TURNS(!covers(t, INT64_MAX));
    tracker_retire(t);
}

static void a_lost_connection_asks_again(void **state)
{
    (void)state;
    pg_server_needed();
    progress_row("netrecon-webhooks", "netrecon.events", 0, 10);
    struct tracker *t = tracker_new(0, 1);
    AWAIT_TURNS(pg_is_up(world.pg));
    sql("BEGIN; LOCK consumer_progress"); /* the question stays without an answer */
    assign(t);
    suspects_after_turn(world.suspects);
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
        "'test-suspects'");
    AWAIT_TURNS(!pg_is_up(world.pg));
    assert_true(covers(t, INT64_MAX));
    sql("COMMIT");
    AWAIT_TURNS(!covers(t, 11));
    tracker_retire(t);
}

/* --- look-ups --- */

static void note_attempt(const struct delivery *d)
{
    char id[UUID_TEXT + 1];
    char text[600];
    uuid_format(&d->id, id);
    pg_server_format(
        text, sizeof(text),
        "INSERT INTO attempts (received_at, delivery_id, attempt, event_id, webhook_id, "
        "tenant_id, event_type, started_at, outcome) VALUES (timestamptz 'epoch' + interval "
        "'%lld microseconds', '%s', 1, '%s', '%s', '%s', 'a.b', now(), 'failed')",
        (long long)d->ev->received_at_us, id, id, id, id);
    sql(text);
}

static void note_pending(const struct delivery *d)
{
    char id[UUID_TEXT + 1];
    char text[600];
    uuid_format(&d->id, id);
    pg_server_format(
        text, sizeof(text),
        "INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id, "
        "tenant_id, event_type, next_attempt, next_attempt_at, reason) VALUES ('%s', now(), "
        "'%s', '%s', '%s', 'a.b', 1, now(), 'spill')",
        id, id, id, id);
    sql(text);
}

static void what_has_an_attempt_or_a_pending_row_is_known(void **state)
{
    (void)state;
    pg_server_needed();
    struct tracker *t = tracker_new(0, 1);
    (void)add(t, 1);
    note_attempt(add(t, 2));
    (void)add(t, 3);
    note_pending(add(t, 4));
    const struct delivery *both = add(t, 5);
    note_attempt(both);
    note_pending(both);
    (void)add(t, 6);
    AWAIT_TURNS(world.cleared_n + world.known_n == 6);
    assert_memory_equal(((unsigned[]){1, 3, 6}), world.cleared, 3 * sizeof(unsigned));
    assert_memory_equal(((unsigned[]){2, 4, 5}), world.known, 3 * sizeof(unsigned));
    tracker_retire(t);
}

static void many_suspects_come_back_once_each_and_in_order(void **state)
{
    (void)state;
    pg_server_needed();
    struct tracker *t = tracker_new(0, 1);
    for (unsigned i = 0; i < SUSPECTS_MAX - 3; i++) { /* three look-ups, the last one smaller */
        const struct delivery *d = add(t, i);
        if (i % 100 == 99) {
            note_attempt(d);
        }
    }
    AWAIT_TURNS(tracker_busy(t) == 0);
    assert_int_equal(SUSPECTS_MAX - 3, world.cleared_n + world.known_n);
    assert_int_equal(14, world.known_n);
    for (size_t i = 0; i < world.known_n; i++) {
        assert_int_equal(i * 100 + 99, world.known[i]);
    }
    for (size_t i = 1; i < world.cleared_n; i++) {
        assert_true(world.cleared[i - 1] < world.cleared[i]);
    }
    tracker_retire(t);
}

static void nothing_is_asked_while_there_is_nothing_to_ask(void **state)
{
    (void)state;
    pg_server_needed();
    AWAIT_TURNS(pg_is_up(world.pg));
    for (int i = 0; i < 5; i++) {
        turn();
        assert_int_equal(0, pg_outstanding(world.pg));
    }
}

/* --- abandon, loss, end --- */

static void what_is_abandoned_while_its_lookup_is_out_does_not_come_back(void **state)
{
    (void)state;
    pg_server_needed();
    struct tracker *gone = tracker_new(0, 1);
    struct tracker *stays = tracker_new(1, 1);
    AWAIT_TURNS(pg_is_up(world.pg));
    sql("BEGIN; LOCK attempts");
    for (unsigned i = 0; i < 10; i++) {
        (void)add(gone, i);
        (void)add(stays, 100 + i);
    }
    suspects_after_turn(world.suspects); /* out */
    for (unsigned i = 10; i < 15; i++) {
        (void)add(stays, 100 + i); /* waiting */
        (void)add(gone, i);
    }
    suspects_abandon(world.suspects, gone);
    assert_int_equal(15, world.dropped);
    assert_int_equal(0, tracker_busy(gone));
    tracker_retire(gone);  /* freed here: nothing may touch it any more */
    (void)add(stays, 115); /* the queue's end is right after an abandon */
    sql("COMMIT");
    AWAIT_TURNS(tracker_busy(stays) == 0);
    assert_int_equal(16, world.cleared_n);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(100 + i, world.cleared[i]);
    }
    tracker_retire(stays);
}

static void an_abandoned_suspect_leaves_its_slot_open(void **state)
{
    (void)state;
    pg_server_needed();
    int64_t offset = 0;
    struct tracker *t = tracker_new(0, 1);
    (void)add(t, 1);
    suspects_abandon(world.suspects, NULL);
    assert_int_equal(1, world.dropped);
    assert_false(tracker_take_offset(t, &offset));
    tracker_retire(t);
}

static void a_lookup_that_was_lost_is_repeated(void **state)
{
    (void)state;
    pg_server_needed();
    struct tracker *t = tracker_new(0, 1);
    AWAIT_TURNS(pg_is_up(world.pg));
    sql("BEGIN; LOCK attempts");
    for (unsigned i = 0; i < 20; i++) {
        (void)add(t, i);
    }
    suspects_after_turn(world.suspects);
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
        "'test-suspects'");
    AWAIT_TURNS(!pg_is_up(world.pg));
    assert_int_equal(20, tracker_busy(t));
    assert_int_equal(0, world.cleared_n);
    sql("COMMIT");
    AWAIT_TURNS(tracker_busy(t) == 0);
    assert_int_equal(20, world.cleared_n);
    tracker_retire(t);
}

static void the_end_abandons_what_waits_and_what_is_out(void **state)
{
    (void)state;
    pg_server_needed();
    struct tracker *t = tracker_new(0, 1);
    AWAIT_TURNS(pg_is_up(world.pg));
    sql("BEGIN; LOCK attempts; LOCK consumer_progress");
    assign(t);
    for (unsigned i = 0; i < 600; i++) {
        (void)add(t, i);
    }
    suspects_after_turn(world.suspects);
    close_world();
    assert_int_equal(600, world.dropped);
    assert_int_equal(0, tracker_busy(t));
    sql("COMMIT");
    tracker_retire(t);
}

int main(void)
{
#define SUSPECTS_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        SUSPECTS_TEST(the_window_ends_at_the_journaled_offset),
        SUSPECTS_TEST(a_partition_without_progress_has_no_window),
        SUSPECTS_TEST(an_assignment_after_the_question_waits_for_the_next_one),
        SUSPECTS_TEST(a_partition_that_comes_back_is_asked_for_again),
        SUSPECTS_TEST(an_empty_assignment_forgets_no_question),
        SUSPECTS_TEST(a_lost_connection_asks_again),
        SUSPECTS_TEST(what_has_an_attempt_or_a_pending_row_is_known),
        SUSPECTS_TEST(many_suspects_come_back_once_each_and_in_order),
        SUSPECTS_TEST(nothing_is_asked_while_there_is_nothing_to_ask),
        SUSPECTS_TEST(what_is_abandoned_while_its_lookup_is_out_does_not_come_back),
        SUSPECTS_TEST(an_abandoned_suspect_leaves_its_slot_open),
        SUSPECTS_TEST(a_lookup_that_was_lost_is_repeated),
        SUSPECTS_TEST(the_end_abandons_what_waits_and_what_is_out),
    };
    log_init(LOG_LEVEL_ERROR, STDERR_FILENO);
    return cmocka_run_group_tests(tests, start_server_with_schema, pg_server_stop);
}
