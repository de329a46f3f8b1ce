/* Leasing and loading against a real PostgreSQL with the real schema, by two workers at once. */
#include "retries.h"

#include "bounds.h"
#include "pg_fixture.h"
#include "worker_fixture.h"

#define SECOND   INT64_C(1000000)
#define SEEN_MAX 1200

/* What one worker was told. */
struct told {
    size_t loaded, later, ended;
    struct nrw_event *events[SEEN_MAX];
    struct uuid later_ids[SEEN_MAX];
    int64_t delays_us[SEEN_MAX];
    struct uuid ended_ids[SEEN_MAX];
    size_t crowded;
    struct uuid crowded_ids[SEEN_MAX];
    struct uuid crowded_webhooks[SEEN_MAX];
};

static struct {
    struct config cfg;
    struct event_base *base;
    struct event *ticker;
    struct event_account account;
    struct retries *workers[2];
    struct told told[2];
    bool sweep;
    size_t want;
    size_t room; /* of each webhook's lane */
} world;

/* --- the world --- */

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void turn(void)
{
    assert_int_equal(0, event_base_loop(world.base, EVLOOP_ONCE));
    for (int i = 0; i < 2; i++) {
        retries_after_turn(world.workers[i], world.want, world.sweep);
    }
}

static void on_loaded(void *ctx, struct nrw_event *ev)
{
    struct told *told = ctx;
    assert_true(told->loaded < SEEN_MAX);
    told->events[told->loaded++] = ev;
}

static void on_later(void *ctx, const struct uuid *id, int64_t delay_us)
{
    struct told *told = ctx;
    assert_true(told->later < SEEN_MAX);
    told->later_ids[told->later] = *id;
    told->delays_us[told->later++] = delay_us;
}

static void on_ended(void *ctx, const struct uuid *id)
{
    struct told *told = ctx;
    assert_true(told->ended < SEEN_MAX);
    told->ended_ids[told->ended++] = *id;
}

static bool on_crowded(void *ctx, const struct uuid *id, const struct uuid *webhook_id,
                       size_t ahead)
{
    struct told *told = ctx;
    if (ahead < world.room) {
        return false;
    }
    assert_true(told->crowded < SEEN_MAX);
    told->crowded_ids[told->crowded] = *id;
    told->crowded_webhooks[told->crowded++] = *webhook_id;
    return true;
}

static int begin(void **state)
{
    (void)state;
    memset(&world, 0, sizeof(world));
    world.room = RETRIES_BATCH;
    if (pg_server.postmaster == 0) {
        return 0;
    }
    char url[160];
    const struct timeval tick = {.tv_usec = 2000};
    sql("DELETE FROM events; DELETE FROM pending_deliveries");
    pg_server_url(url, sizeof(url), "postgres");
    settings_defaults(&world.cfg);
    settings_set(&world.cfg.database_url, url);
    world.base = event_base_new();
    world.ticker = event_new(world.base, -1, EV_PERSIST, on_tick, NULL);
    event_add(world.ticker, &tick);
    for (int i = 0; i < 2; i++) {
        const struct retries_handlers on = {.loaded = on_loaded,
                                            .later = on_later,
                                            .ended = on_ended,
                                            .crowded = on_crowded,
                                            .ctx = &world.told[i]};
        world.workers[i] = retries_new(world.base, &world.cfg, &world.account, &on);
    }
    AWAIT_TURNS(retries_up(world.workers[0]) && retries_up(world.workers[1]));
    return 0;
}

static int end(void **state)
{
    (void)state;
    if (pg_server.postmaster == 0) {
        return 0;
    }
    for (int i = 0; i < 2; i++) {
        retries_free(world.workers[i]);
        for (size_t k = 0; k < world.told[i].loaded; k++) {
            if (world.told[i].events[k] != NULL) {
                nrw_event_unref(world.told[i].events[k]);
            }
        }
    }
    event_free(world.ticker);
    event_base_free(world.base);
    config_free(&world.cfg);
    return world.account.events == 0 && world.account.payload_bytes == 0 ? 0 : -1;
}

static struct uuid delivery_of(unsigned n)
{
    const struct uuid ev = id_of(0xe0, n);
    const struct uuid wh = id_of(0x3b, n);
    return uuid_of_delivery(&ev, &wh);
}

/* Event n and its pending row: due in due_ms, leased for lease_ms more (0: not leased). */
static void put_row(unsigned n, long due_ms, long lease_ms)
{
    char text[2048];
    char ids[3][UUID_TEXT + 1];
    const struct uuid raw[] = {id_of(0xe0, n), id_of(0x3b, n), delivery_of(n)};
    for (int i = 0; i < 3; i++) {
        uuid_format(&raw[i], ids[i]);
    }
    pg_server_format(
        text, sizeof(text),
        "INSERT INTO events (id, received_at, tenant_id, event_type, payload) VALUES ('%s',"
        " '2026-03-15 10:30:00.000001Z', '70000000-0000-4000-8000-000000000000', 'scan.completed',"
        " '{\"n\": %u}');"
        "INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id,"
        " event_type, next_attempt, next_attempt_at, reason, leased_until) VALUES ('%s',"
        " '2026-03-15 10:30:00.000001Z', '%s', '%s', '70000000-0000-4000-8000-000000000000',"
        " 'scan.completed', 2, now() + %ld * interval '1 ms', 'retry',"
        " now() + nullif(%ld, 0) * interval '1 ms')",
        ids[0], n, ids[2], ids[0], ids[1], due_ms, lease_ms);
    sql(text);
}

static void claim(int worker, unsigned first, unsigned n)
{
    struct uuid ids[RETRIES_BATCH];
    for (unsigned i = 0; i < n; i++) {
        ids[i] = delivery_of(first + i);
    }
    retries_claimed(world.workers[worker], ids, n);
}

static void await_answers(void)
{
    AWAIT_TURNS(retries_loading(world.workers[0]) == 0 && retries_loading(world.workers[1]) == 0);
}

/* --- loading --- */

static void a_due_delivery_comes_back_as_it_was_written(void **state)
{
    (void)state;
    pg_server_needed();
    static const char trace[] = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
    put_row(1, -1000, 0);
    put_row(2, -1000, 0);
    sql("UPDATE pending_deliveries SET next_attempt = 3, final_attempt = 7, reason = 'redeliver' "
        "WHERE event_id::text"
        " LIKE '%1';"
        "UPDATE events SET traceparent ="
        " '00-0123456789abcdef0123456789abcdef-0123456789abcdef-01', payload = (SELECT"
        " string_agg(set_byte('\\x00', 0, n % 256), '') FROM generate_series(0, 99999) n) WHERE"
        " id::text LIKE '%1'");
    const int64_t before = clock_mono_us();
    claim(0, 1, 2);
    assert_int_equal(2, retries_loading(world.workers[0]));
    await_answers();
    assert_int_equal(2, world.told[0].loaded);
    assert_int_equal(0, world.told[0].later + world.told[0].ended);
    const bool swapped = world.told[0].events[0]->retry.attempt == 2;
    const struct nrw_event *ev = world.told[0].events[swapped];
    const struct nrw_event *plain = world.told[0].events[!swapped];
    const struct uuid ids[] = {id_of(0xe0, 1), id_of(0x70, 0), id_of(0x3b, 1)};
    assert_true(uuid_equal(&ids[0], &ev->id));
    assert_true(uuid_equal(&ids[1], &ev->tenant_id));
    assert_true(uuid_equal(&ids[2], &ev->retry.webhook_id));
    assert_int_equal(INT64_C(1773570600000001), ev->received_at_us);
    assert_string_equal("scan.completed", ev->type);
    assert_string_equal(trace, ev->traceparent);
    assert_string_equal("", plain->traceparent);
    assert_int_equal(100000, ev->payload_len);
    for (size_t i = 0; i < ev->payload_len; i++) {
        assert_int_equal(i % 256, (unsigned char)ev->payload[i]);
    }
    assert_memory_equal("{\"n\": 2}", plain->payload, plain->payload_len);
    assert_true(ev->is_retry && ev->row_committed && ev->tracker == NULL && ev->refs == 1);
    assert_int_equal(3, ev->retry.attempt);
    assert_int_equal(7, ev->retry.final_attempt);
    assert_int_equal(EVENT_REDELIVER, ev->retry.reason);
    assert_int_equal(EVENT_RETRY, plain->retry.reason);
    assert_int_equal(5, plain->retry.final_attempt);
    assert_in_range(ev->taken_mono_us, before, clock_mono_us());
    assert_int_equal(100000 + plain->payload_len, world.account.payload_bytes);
}

/* What starts at the last moment is over, and has time to be written, before the lease ends. */
static void the_lease_covers_an_attempt_that_starts_at_the_last_moment(void **state)
{
    (void)state;
    pg_server_needed();
    put_row(1, -1000, 0);
    const int64_t before = clock_mono_us();
    claim(0, 1, 1);
    await_answers();
    const int64_t after = clock_mono_us();
    const int64_t until = world.told[0].events[0]->retry.lease_until_mono_us;
    const int64_t lease_us = retries_lease_ms(&world.cfg) * 1000;
    assert_true(lease_us > (world.cfg.spill_after + world.cfg.send_timeout) * 1000);
    assert_true(until > before + world.cfg.spill_after * 1000);
    assert_true(until + world.cfg.send_timeout * 1000 + 5 * SECOND < after + lease_us);
    assert_int_equal(retries_lease_ms(&world.cfg),
                     sql("SELECT 1000 * extract(epoch FROM leased_until - updated_at) FROM"
                         " pending_deliveries"));
    assert_int_equal(1, sql("SELECT count(*) FROM pending_deliveries WHERE next_attempt = 2 AND"
                            " next_attempt_at < now()")); /* a lease is no attempt */
    assert_int_equal(world.told[0].events[0]->retry.lease_us,
                     sql("SELECT (1000000 * extract(epoch FROM leased_until))::bigint FROM"
                         " pending_deliveries"));
}

static void of_two_workers_that_claim_the_same_each_row_has_one_owner(void **state)
{
    (void)state;
    pg_server_needed();
    enum { ROWS = 400 };
    for (unsigned n = 0; n < ROWS; n++) {
        put_row(n, -1000, 0);
    }
    static struct uuid ids[2][ROWS];
    uint64_t seed = 9;
    for (unsigned n = 0; n < ROWS; n++) { /* in different orders */
        const size_t at = random_below(&seed, n + 1);
        ids[0][n] = delivery_of(n);
        ids[1][n] = ids[1][at];
        ids[1][at] = delivery_of(n);
    }
    retries_claimed(world.workers[0], ids[0], ROWS);
    retries_claimed(world.workers[1], ids[1], ROWS);
    await_answers();
    bool seen[ROWS] = {false};
    for (int w = 0; w < 2; w++) {
        assert_int_equal(ROWS, world.told[w].loaded + world.told[w].later);
        assert_int_equal(0, world.told[w].ended);
        for (size_t i = 0; i < world.told[w].loaded; i++) {
            const struct uuid *id = &world.told[w].events[i]->id;
            const unsigned n = (unsigned)id->b[14] << 8 | id->b[15];
            assert_false(seen[n]);
            seen[n] = true;
        }
        for (size_t i = 0; i < world.told[w].later; i++) {
            assert_in_range(world.told[w].delays_us[i], 25 * SECOND, 37 * SECOND);
        }
    }
    assert_int_equal(ROWS, world.told[0].loaded + world.told[1].loaded);
    assert_int_equal(ROWS, sql("SELECT count(*) FROM pending_deliveries WHERE leased_until > "
                               "now()"));
}

static void what_is_not_due_or_leased_comes_back_when_it_may_be(void **state)
{
    (void)state;
    pg_server_needed();
    put_row(1, 100000, 0);     /* not due                                */
    put_row(2, -1000, 50000);  /* leased to somebody                     */
    put_row(3, 200000, 10000); /* both: the later one counts             */
    put_row(4, -1000, -1);     /* its lease is over: it is ours          */
    put_row(5, -3600000, 0);   /* long overdue                           */
    sql("CREATE TABLE before AS SELECT delivery_id, xmin::text AS x FROM pending_deliveries");
    claim(0, 1, 5);
    await_answers();
    assert_int_equal(2, world.told[0].loaded);
    assert_int_equal(3, world.told[0].later);
    static const int64_t expected_s[] = {100, 50, 200};
    for (size_t i = 0; i < 3; i++) {
        const struct uuid id = delivery_of((unsigned)i + 1);
        size_t k = 0;
        while (!uuid_equal(&id, &world.told[0].later_ids[k])) {
            assert_true(++k < 3);
        }
        assert_in_range(world.told[0].delays_us[k], (expected_s[i] - 20) * SECOND,
                        expected_s[i] * SECOND);
    }
    assert_int_equal(3, sql("SELECT count(*) FROM pending_deliveries p JOIN before USING"
                            " (delivery_id) WHERE p.xmin::text = x"));
    sql("DROP TABLE before");
}

static void a_row_that_vanished_has_ended(void **state)
{
    (void)state;
    pg_server_needed();
    put_row(2, -1000, 0);
    claim(0, 1, 3);
    await_answers();
    assert_int_equal(1, world.told[0].loaded);
    assert_int_equal(2, world.told[0].ended);
    for (unsigned i = 0; i < 2; i++) {
        const struct uuid id = delivery_of(2 * i + 1);
        assert_true(uuid_equal(&id, &world.told[0].ended_ids[i]));
    }
}

static void a_row_without_its_payload_is_deleted_and_has_ended(void **state)
{
    (void)state;
    pg_server_needed();
    put_row(1, -1000, 0);
    put_row(2, -1000, 0);
    sql("DELETE FROM events WHERE id::text LIKE '%1'");
    claim(0, 1, 2);
    AWAIT_TURNS(world.told[0].loaded == 1 && world.told[0].ended == 1);
    const struct uuid id = delivery_of(1);
    assert_true(uuid_equal(&id, &world.told[0].ended_ids[0]));
    AWAIT_TURNS(sql("SELECT count(*) FROM pending_deliveries") == 1);
    assert_int_equal(0, world.told[0].later);
}

/* --- endpoints that have enough to do --- */

static void what_its_lane_has_no_room_for_is_neither_leased_nor_loaded(void **state)
{
    (void)state;
    pg_server_needed();
    for (unsigned n = 0; n < 10; n++) {
        put_row(n, -1000, 0);
    }
    put_row(10, 60000, 0);
    sql("UPDATE pending_deliveries SET webhook_id = '3b000000-0000-4000-8000-0000000000ff'"
        " WHERE event_id::text NOT LIKE '%1';"
        "UPDATE pending_deliveries SET reason = 'test' WHERE event_id::text LIKE '%9'");
    world.room = 3;
    claim(0, 0, 11);
    await_answers();
    assert_int_equal(3 + 1 + 1, world.told[0].loaded); /* a test, and another webhook's */
    assert_int_equal(5, world.told[0].crowded);
    assert_int_equal(1, world.told[0].later);
    assert_int_equal(0, world.told[0].ended);
    assert_int_equal(5, sql("SELECT count(*) FROM pending_deliveries WHERE leased_until > now()"));
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(0xff, world.told[0].crowded_webhooks[i].b[15]);
        for (size_t k = 0; k < 5; k++) {
            const struct nrw_event *ev = world.told[0].events[k];
            const struct uuid id = uuid_of_delivery(&ev->id, &ev->retry.webhook_id);
            assert_false(uuid_equal(&id, &world.told[0].crowded_ids[i]));
        }
    }
}

/* --- memory --- */

/* n rows whose payloads have this many bytes. */
static void put_large(unsigned n, size_t bytes)
{
    char text[128];
    for (unsigned i = 0; i < n; i++) {
        put_row(i, -1000, 0);
    }
    pg_server_format(text, sizeof(text),
                     "UPDATE events SET payload = decode(repeat('78', %zu), 'hex')", bytes);
    sql(text);
}

static void payloads_are_loaded_as_far_as_there_is_room_for_them(void **state)
{
    (void)state;
    pg_server_needed();
    world.cfg.event_bytes_max = 1048576;
    put_large(10, 200000);
    assert_int_equal(4, retries_room(world.workers[0])); /* each may be as large as any */
    claim(0, 0, 10);
    assert_int_equal(0, retries_room(world.workers[0]));
    await_answers();
    assert_int_equal(5, world.told[0].loaded);
    assert_int_equal(1000000, world.account.payload_bytes);
    assert_int_equal(5, world.told[0].later);
    assert_int_equal(5, sql("SELECT count(*) FROM pending_deliveries WHERE leased_until IS NULL"));
    assert_in_range(world.told[0].delays_us[0], 1, SECOND);
    assert_int_equal(0, retries_room(world.workers[0]));
    for (size_t i = 0; i < 4; i++) {
        nrw_event_unref(world.told[0].events[i]);
        world.told[0].events[i] = NULL;
    }
    assert_int_equal(4, retries_room(world.workers[0])); /* 848 576 bytes */
    retries_claimed(world.workers[0], world.told[0].later_ids, 5);
    await_answers();
    assert_int_equal(9, world.told[0].loaded);
    assert_int_equal(6, world.told[0].later);
}

static void large_payloads_come_in_parts(void **state)
{
    (void)state;
    pg_server_needed();
    put_large(50, LIMIT_EVENT_BYTES);
    claim(0, 0, 50);
    await_answers();
    assert_int_equal(50, world.told[0].loaded);
    assert_int_equal(4, sql("SELECT count(DISTINCT leased_until) FROM pending_deliveries"));
}

static void the_room_is_counted_in_rows_like_those_that_were_seen_last(void **state)
{
    (void)state;
    pg_server_needed();
    put_large(2, 1000);
    const size_t before = retries_room(world.workers[0]);
    assert_int_equal(world.cfg.event_bytes_max / LIMIT_EVENT_BYTES, before);
    claim(0, 0, 2);
    await_answers();
    assert_in_range(retries_room(world.workers[0]), before * 250, before * 263);
}

/* --- sweeping --- */

static void the_sweep_finds_what_is_due_when_it_is_told_to(void **state)
{
    (void)state;
    pg_server_needed();
    for (unsigned n = 0; n < 10; n++) {
        put_row(n, -1000 * (long)(n + 1), 0);
    }
    put_row(100, 3600000, 0);
    put_row(101, -1000, 3600000);
    world.want = 3;
    for (int i = 0; i < 50; i++) {
        turn();
    }
    assert_int_equal(0, world.told[0].loaded + world.told[1].loaded);
    world.sweep = true;
    world.want = 0;
    for (int i = 0; i < 50; i++) {
        turn();
    }
    assert_int_equal(0, world.told[0].loaded + world.told[1].loaded);
    retries_after_turn(world.workers[0], 3, true);
    AWAIT_TURNS(world.told[0].loaded > 0);
    assert_int_equal(3, world.told[0].loaded); /* not one more than it could take */
    for (size_t i = 0; i < 3; i++) {           /* the longest overdue first */
        assert_in_range(world.told[0].events[i]->id.b[15], 7, 9);
    }
    world.want = 1000;
    AWAIT_TURNS(world.told[0].loaded + world.told[1].loaded == 10);
    assert_int_equal(1, sql("SELECT count(*) FROM pending_deliveries WHERE leased_until IS NULL"));
}

static void two_sweeping_workers_share_a_backlog_without_a_double(void **state)
{
    (void)state;
    pg_server_needed();
    enum { ROWS = 1100 };
    sql("INSERT INTO events (id, received_at, tenant_id, event_type, payload) SELECT"
        " ('e0000000-0000-4000-8000-00000000' || lpad(to_hex(n), 4, '0'))::uuid,"
        " '2026-03-15 10:30Z', gen_random_uuid(), 'a.b', '{}' FROM generate_series(0, 1099) n;"
        "INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id,"
        " event_type, next_attempt, next_attempt_at, reason) SELECT gen_random_uuid(), received_at,"
        " id, gen_random_uuid(), tenant_id, 'a.b', 2, now() - interval '1 s', 'retry' FROM events");
    world.want = 1000;
    world.sweep = true;
    AWAIT_TURNS(world.told[0].loaded + world.told[1].loaded >= ROWS);
    bool seen[ROWS] = {false};
    for (int w = 0; w < 2; w++) {
        for (size_t i = 0; i < world.told[w].loaded; i++) {
            const struct uuid *id = &world.told[w].events[i]->id;
            const unsigned n = (unsigned)id->b[14] << 8 | id->b[15];
            assert_true(n < ROWS && !seen[n]);
            seen[n] = true;
        }
    }
}

/* --- the end of a row --- */

static void cancel(size_t which)
{
    struct nrw_event *ev = world.told[0].events[which];
    world.told[0].events[which] = NULL;
    retries_cancel(world.workers[0], ev);
}

static void what_is_cancelled_in_a_turn_is_deleted_together_and_has_ended(void **state)
{
    (void)state;
    pg_server_needed();
    enum { ROWS = 30, KEPT = 1 };
    for (unsigned n = 0; n < ROWS; n++) {
        put_row(n, -1000, 0);
    }
    claim(0, 0, ROWS);
    await_answers();
    AWAIT_TURNS(pg_outstanding(retries_pg(world.workers[0])) == 0);
    for (size_t i = KEPT; i < ROWS; i++) {
        cancel(i);
    }
    assert_int_equal(KEPT, world.account.events);
    assert_int_equal(0, pg_outstanding(retries_pg(world.workers[0])));
    assert_int_equal(0, world.told[0].ended); /* not before the rows are gone */
    retries_after_turn(world.workers[0], 0, false);
    assert_int_equal(1, pg_outstanding(retries_pg(world.workers[0])));
    AWAIT_TURNS(world.told[0].ended == ROWS - KEPT);
    assert_int_equal(KEPT, sql("SELECT count(*) FROM pending_deliveries"));
}

static void more_than_a_batch_can_be_cancelled_in_a_turn(void **state)
{
    (void)state;
    pg_server_needed();
    enum { ROWS = RETRIES_BATCH + 1 };
    for (unsigned n = 0; n < ROWS; n++) {
        put_row(n, -1000, 0);
    }
    claim(0, 0, RETRIES_BATCH);
    claim(0, RETRIES_BATCH, 1);
    await_answers();
    for (size_t i = 0; i < ROWS; i++) {
        cancel(i);
    }
    AWAIT_TURNS(world.told[0].ended == ROWS);
    assert_int_equal(0, sql("SELECT count(*) FROM pending_deliveries"));
}

/* It has got another owner, or the API has given it another errand. */
static void a_row_whose_lease_is_not_ours_any_more_is_not_deleted(void **state)
{
    (void)state;
    pg_server_needed();
    put_row(1, -1000, 0);
    put_row(2, -1000, 0);
    claim(0, 1, 2);
    await_answers();
    sql("UPDATE pending_deliveries SET leased_until = leased_until + interval '1 us'"
        " WHERE event_id::text LIKE '%1'");
    cancel(0);
    cancel(1);
    AWAIT_TURNS(world.told[0].ended > 0);
    assert_int_equal(1, world.told[0].ended); /* the other one stays in the schedule, too */
    assert_int_equal(1, sql("SELECT count(*) FROM pending_deliveries"));
    assert_int_equal(1, sql("SELECT count(*) FROM pending_deliveries WHERE event_id::text LIKE "
                            "'%1'"));
}

/* --- faults of ours --- */

static void what_cannot_be_loaded_is_forgotten_and_stays_due(void **state)
{
    (void)state;
    pg_server_needed();
    for (unsigned n = 0; n < 5; n++) {
        put_row(n, -1000, 0);
    }
    claim(0, 0, 5); /* on its way when the server goes */
    pg_server_kill();
    AWAIT_TURNS(!retries_up(world.workers[0]) && !retries_up(world.workers[1]));
    assert_int_equal(0, retries_loading(world.workers[0]));
    claim(1, 0, 5);
    assert_int_equal(0, retries_loading(world.workers[1]));
    world.sweep = true;
    world.want = 10;
    for (int i = 0; i < 20; i++) {
        turn();
    }
    assert_int_equal(0, world.told[0].later + world.told[0].ended);
    assert_int_equal(0, world.told[1].later + world.told[1].ended + world.told[1].loaded);
    pg_server_launch();
    sql("UPDATE pending_deliveries SET leased_until = now() - interval '1 s'"); /* it ran out */
    const size_t before = world.told[0].loaded; /* its answer may have come just in time */
    AWAIT_TURNS(world.told[0].loaded + world.told[1].loaded == before + 5);
    assert_int_equal(5, sql("SELECT count(*) FROM pending_deliveries"));
}

static void a_statement_that_fails_leaves_the_rows(void **state)
{
    (void)state;
    pg_server_needed();
    put_row(1, -1000, 0);
    sql("ALTER TABLE events RENAME TO elsewhere");
    claim(0, 1, 1);
    await_answers();
    sql("ALTER TABLE elsewhere RENAME TO events");
    assert_int_equal(0, world.told[0].loaded + world.told[0].later + world.told[0].ended);
    assert_int_equal(1, sql("SELECT count(*) FROM pending_deliveries WHERE leased_until IS NULL"));
    claim(0, 1, 1);
    await_answers();
    assert_int_equal(1, world.told[0].loaded);
}

int main(void)
{
#define RETRIES_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        RETRIES_TEST(a_due_delivery_comes_back_as_it_was_written),
        RETRIES_TEST(the_lease_covers_an_attempt_that_starts_at_the_last_moment),
        RETRIES_TEST(of_two_workers_that_claim_the_same_each_row_has_one_owner),
        RETRIES_TEST(what_is_not_due_or_leased_comes_back_when_it_may_be),
        RETRIES_TEST(a_row_that_vanished_has_ended),
        RETRIES_TEST(a_row_without_its_payload_is_deleted_and_has_ended),
        RETRIES_TEST(what_its_lane_has_no_room_for_is_neither_leased_nor_loaded),
        RETRIES_TEST(payloads_are_loaded_as_far_as_there_is_room_for_them),
        RETRIES_TEST(large_payloads_come_in_parts),
        RETRIES_TEST(the_room_is_counted_in_rows_like_those_that_were_seen_last),
        RETRIES_TEST(the_sweep_finds_what_is_due_when_it_is_told_to),
        RETRIES_TEST(two_sweeping_workers_share_a_backlog_without_a_double),
        RETRIES_TEST(what_is_cancelled_in_a_turn_is_deleted_together_and_has_ended),
        RETRIES_TEST(more_than_a_batch_can_be_cancelled_in_a_turn),
        RETRIES_TEST(a_row_whose_lease_is_not_ours_any_more_is_not_deleted),
        RETRIES_TEST(what_cannot_be_loaded_is_forgotten_and_stays_due),
        RETRIES_TEST(a_statement_that_fails_leaves_the_rows),
    };
    log_init(LOG_LEVEL_ERROR, STDERR_FILENO);
    return cmocka_run_group_tests(tests, start_server_with_schema, pg_server_stop);
}
