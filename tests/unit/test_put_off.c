/* Moving pending rows to later and back against a real PostgreSQL with the real schema. */
#include "put_off.h"

#include "pg_fixture.h"
#include "worker_fixture.h"

#define SECOND INT64_C(1000000)
#define ROWS   1200

static struct {
    struct event_base *base;
    struct event *ticker;
    struct pg *pg;
    struct put_off *p;
    size_t later, due, none_left;
    struct uuid ids[ROWS];
    int64_t delays_us[ROWS];
} world;

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void turn(void)
{
    assert_int_equal(0, event_base_loop(world.base, EVLOOP_ONCE));
    put_off_after_turn(world.p);
}

static void on_later(void *ctx, const struct uuid *id, int64_t delay_us)
{
    (void)ctx;
    assert_true(world.later < ROWS);
    world.ids[world.later] = *id;
    world.delays_us[world.later++] = delay_us;
}

static void on_due(void *ctx, const struct uuid *id, int64_t delay_us)
{
    (void)ctx;
    assert_int_equal(0, delay_us);
    assert_true(world.due < ROWS);
    world.ids[world.due++] = *id;
}

static void on_none_left(void *ctx, const struct uuid *webhook_id)
{
    (void)ctx, (void)webhook_id;
    world.none_left++;
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
    const struct put_off_handlers on = {
        .later = on_later, .due = on_due, .none_left = on_none_left};
    sql("DELETE FROM pending_deliveries");
    pg_server_url(url, sizeof(url), "postgres");
    world.base = event_base_new();
    world.ticker = event_new(world.base, -1, EV_PERSIST, on_tick, NULL);
    event_add(world.ticker, &tick);
    world.pg = pg_new(world.base, url, "test-put-off", 15000, &(struct pg_handlers){.ctx = NULL});
    world.p = put_off_new(world.pg, &on);
    AWAIT_TURNS(pg_is_up(world.pg));
    return 0;
}

static int end(void **state)
{
    (void)state;
    if (pg_server.postmaster != 0) {
        pg_free(world.pg);
        put_off_free(world.p);
        event_free(world.ticker);
        event_base_free(world.base);
    }
    return 0;
}

/* Rows first … first + n - 1 of webhook 1, due in due_s. */
static void put_rows(unsigned first, unsigned n, const char *reason, long due_s, long lease_s)
{
    char text[768];
    pg_server_format(
        text, sizeof(text),
        "INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id,"
        " event_type, next_attempt, next_attempt_at, reason, leased_until) SELECT"
        " ('d0000000-0000-4000-8000-0000' || lpad(to_hex(n), 8, '0'))::uuid, now(),"
        " gen_random_uuid(), '3b000000-0000-4000-8000-000000000001', gen_random_uuid(), 'a.b', 2,"
        " now() + %ld * interval '1 s', '%s', now() + nullif(%ld, 0) * interval '1 s'"
        " FROM generate_series(%u, %u) n",
        due_s, reason, lease_s, first, first + n - 1);
    sql(text);
}

static void what_is_put_off_is_due_later_and_told_apart(void **state)
{
    (void)state;
    pg_server_needed();
    put_rows(0, 2, "retry", -5, -1);
    put_rows(2, 1, "replay", -5, 0);
    put_rows(3, 1, "retry", 60, 0);  /* it got another time meanwhile */
    put_rows(4, 1, "retry", -5, 30); /* or another owner              */
    for (unsigned n = 0; n < 5; n++) {
        const struct uuid id = id_of(0xd0, n);
        put_off_add(world.p, &id, (100 + n) * SECOND);
    }
    assert_int_equal(0, pg_outstanding(world.pg));
    put_off_after_turn(world.p);
    assert_int_equal(1, pg_outstanding(world.pg)); /* together */
    assert_int_equal(0, world.later);              /* not before they are durable */
    AWAIT_TURNS(world.later == 5);
    assert_int_equal(101 * SECOND, world.delays_us[1]);
    assert_int_equal(2, sql("SELECT count(*) FROM pending_deliveries WHERE reason = 'spill' AND"
                            " leased_until IS NULL AND next_attempt_at BETWEEN"
                            " now() + interval '90 s' AND now() + interval '101 s'"));
    assert_int_equal(1, sql("SELECT count(*) FROM pending_deliveries WHERE reason = 'replay' AND"
                            " next_attempt_at > now() + interval '90 s'"));
    assert_int_equal(2, sql("SELECT count(*) FROM pending_deliveries WHERE reason = 'retry' AND"
                            " next_attempt_at < now() + interval '61 s'"));
}

static void more_than_a_batch_can_be_put_off_in_a_turn(void **state)
{
    (void)state;
    pg_server_needed();
    put_rows(0, 1100, "spill", -5, 0);
    for (unsigned n = 0; n < 1100; n++) {
        const struct uuid id = id_of(0xd0, n);
        put_off_add(world.p, &id, 3600 * SECOND);
    }
    AWAIT_TURNS(world.later == 1100);
    assert_int_equal(0, sql("SELECT count(*) FROM pending_deliveries WHERE next_attempt_at < now() "
                            "+ interval '1 h' - interval '1 min'"));
}

/* A retry that waits for its time is never early. */
static void what_was_put_off_comes_forward_and_what_is_on_its_schedule_does_not(void **state)
{
    (void)state;
    pg_server_needed();
    const struct uuid webhook_id = id_of(0x3b, 1);
    const struct uuid other = id_of(0x3b, 2);
    put_rows(0, 10, "retry", 3600, 0);
    put_rows(10, 20, "spill", 3600, 0);
    put_rows(30, 5, "replay", 3600, 0);
    put_rows(35, 3, "spill", 3600, 30); /* somebody has it */
    put_off_bring_forward(world.p, &other, 10);
    AWAIT_TURNS(world.none_left == 1);
    assert_int_equal(0, world.due);
    put_off_bring_forward(world.p, &webhook_id, 15);
    AWAIT_TURNS(world.due == 15);
    assert_int_equal(1, world.none_left);
    put_off_bring_forward(world.p, &webhook_id, 15);
    AWAIT_TURNS(world.none_left == 2);
    assert_int_equal(25, world.due);
    assert_int_equal(25, sql("SELECT count(*) FROM pending_deliveries WHERE next_attempt_at <= "
                             "now()"));
    assert_int_equal(10, sql("SELECT count(*) FROM pending_deliveries WHERE reason = 'retry' AND "
                             "next_attempt_at > now() + interval '59 min'"));
}

int main(void)
{
#define PUT_OFF_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        PUT_OFF_TEST(what_is_put_off_is_due_later_and_told_apart),
        PUT_OFF_TEST(more_than_a_batch_can_be_put_off_in_a_turn),
        PUT_OFF_TEST(what_was_put_off_comes_forward_and_what_is_on_its_schedule_does_not),
    };
    log_init(LOG_LEVEL_ERROR, STDERR_FILENO);
    return cmocka_run_group_tests(tests, start_server_with_schema, pg_server_stop);
}
