/* Replay jobs against a real PostgreSQL with the real schema, by two workers at once. What the
 * tests look at are the rows, because rows are all that a replay makes. */
#include "replays.h"

#include "pg_fixture.h"
#include "worker_fixture.h"

#define PAGE      10
#define PENDING   20
#define POLL_MS   20
#define SETTLE_MS 60000
#define TENANT    "70000000-0000-4000-8000-000000000001"
#define HOOK      "3b000000-0000-4000-8000-000000000001"
#define OTHER     "70000000-0000-4000-8000-000000000002"
#define AT        "timestamptz '2026-03-15 10:00Z'"

struct worker {
    struct pg *pg;
    struct replays *replays;
    size_t due; /* deliveries that the schedule was told of */
};

static struct {
    struct event_base *base;
    struct event *ticker;
    struct worker workers[2];
} world;

/* --- the world --- */

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void turn(void)
{
    assert_int_equal(0, event_base_loop(world.base, EVLOOP_ONCE));
}

static void on_due(void *ctx, const struct uuid *id, int64_t delay_us)
{
    struct worker *w = ctx;
    assert_int_equal(0, delay_us);
    assert_non_null(id);
    w->due++;
}

static void open_worker(struct worker *w)
{
    static const struct replays_config cfg = {.poll_ms = POLL_MS,
                                              .lease_ms = 60000,
                                              .settle_ms = SETTLE_MS,
                                              .page_max = PAGE,
                                              .pending_max = PENDING};
    const struct pg_handlers none = {.ctx = NULL};
    const struct replays_handlers on = {.due = on_due, .ctx = w};
    char url[160];
    pg_server_url(url, sizeof(url), "postgres");
    w->pg = pg_new(world.base, url, "replays", 10000, &none);
    w->replays = replays_new(world.base, &cfg, w->pg, &on);
}

static size_t open_workers(void)
{
    return (world.workers[0].pg != NULL ? 1u : 0u) + (world.workers[1].pg != NULL ? 1u : 0u);
}

/* As kill -9 would: no last word to the database, which may still be at the last unit. */
static void close_worker(struct worker *w)
{
    pg_free(w->pg);
    replays_free(w->replays);
    w->pg = NULL;
    w->replays = NULL;
    AWAIT_TURNS((size_t)sql("SELECT count(*) FROM pg_stat_activity WHERE application_name ="
                            " 'replays'") <= open_workers());
}

static int begin(void **state)
{
    (void)state;
    memset(&world, 0, sizeof(world));
    if (pg_server.postmaster == 0) {
        return 0;
    }
    const struct timeval tick = {.tv_usec = 2000};
    sql("DROP TRIGGER IF EXISTS at_page ON replay_jobs;"
        "DELETE FROM replay_jobs; DELETE FROM pending_deliveries; DELETE FROM attempts;"
        "DELETE FROM events; DELETE FROM webhooks; DELETE FROM tenants;"
        "INSERT INTO tenants VALUES ('" TENANT "', 'T'), ('" OTHER "', 'O');"
        "INSERT INTO webhooks (id, tenant_id, url, secret, events) VALUES ('" HOOK "', '" TENANT
        "', 'https://hooks.example.com/', 'x', '{*}')");
    world.base = event_base_new();
    world.ticker = event_new(world.base, -1, EV_PERSIST, on_tick, NULL);
    event_add(world.ticker, &tick);
    for (int i = 0; i < 2; i++) {
        open_worker(&world.workers[i]);
    }
    return 0;
}

static int end(void **state)
{
    (void)state;
    if (pg_server.postmaster == 0) {
        return 0;
    }
    for (int i = 0; i < 2; i++) {
        if (world.workers[i].pg != NULL) {
            close_worker(&world.workers[i]);
        }
    }
    event_free(world.ticker);
    event_base_free(world.base);
    return 0;
}

/* Events 1 … n of the tenant, a second after another; `kafka` is the partition or "NULL". */
static void put_events(unsigned n, const char *tenant, const char *type, const char *kafka)
{
    char text[1024];
    pg_server_format(text, sizeof(text),
                     "INSERT INTO events (id, received_at, tenant_id, event_type, payload,"
                     " kafka_partition, kafka_offset) SELECT gen_random_uuid(), " AT
                     " + n * interval '1 s', '%s', '%s', '{}', %s, n FROM generate_series(1, %u) n",
                     tenant, type, kafka, n);
    sql(text);
}

/* A job over everything that put_events() made, unless the SQL says otherwise. */
static void put_job(const char *selection, const char *since, const char *until, const char *events)
{
    char text[1024];
    pg_server_format(text, sizeof(text),
                     "INSERT INTO replay_jobs (tenant_id, webhook_id, since, until, selection,"
                     " events) VALUES ('" TENANT "', '" HOOK "', %s, %s, '%s', %s)",
                     since, until, selection, events);
    sql(text);
}

static void put_simple_job(const char *selection)
{
    put_job(selection, AT, AT " + interval '1 day'", "NULL");
}

static long jobs_in(const char *state)
{
    char text[128];
    pg_server_format(text, sizeof(text), "SELECT count(*) FROM replay_jobs WHERE state = '%s'",
                     state);
    return sql(text);
}

static void await_done(void)
{
    AWAIT_TURNS(jobs_in("done") == 1);
    AWAIT_TURNS(replays_is_idle(world.workers[0].replays) &&
                replays_is_idle(world.workers[1].replays));
}

static long pending(void)
{
    return sql("SELECT count(*) FROM pending_deliveries");
}

static size_t due(void)
{
    return world.workers[0].due + world.workers[1].due;
}

/* Turns until all is enqueued, while what is pending ends as soon as it is there. */
static void consume_until(const char *state)
{
    sql("CREATE TABLE IF NOT EXISTS sent (LIKE pending_deliveries)");
    for (int64_t until = clock_mono_us() + 20000000;; turn()) {
        const bool over = jobs_in(state) == 1;
        assert_true(pending() <= PENDING);
        sql("WITH gone AS (DELETE FROM pending_deliveries RETURNING *)"
            " INSERT INTO sent SELECT * FROM gone");
        if (over) {
            return;
        }
        assert_true(clock_mono_us() < until);
    }
}

/* --- what a job selects --- */

/* event n: its history, and which selections take it with which attempts. */
static const struct {
    const char *name;
    const char *outcomes; /* of attempts 1, 2, … */
    const char *taken_by;
    int next;
    bool pending;
} histories[] = {
    {"delivered", "delivered", "all", 2, false},
    {"delivered at last", "failed,failed,delivered", "all", 4, false},
    {"given up", "failed,failed,failed,failed,exhausted", "all failed", 6, false},
    {"given up twice",
     "failed,failed,failed,failed,exhausted,failed,failed,failed,failed,exhausted", "all failed",
     11, false},
    {"gone", "gone", "all failed", 2, false},
    {"cancelled after a failure", "failed", "all failed", 2, false},
    {"delivered, redelivered in vain", "delivered,failed,failed,failed,failed,exhausted", "all", 7,
     false},
    {"never tried", "", "all missed", 1, false},
    {"waits for its first attempt", "", "", 0, true},
    {"waits for its second attempt", "failed", "", 0, true},
};

static void put_history(size_t n)
{
    char text[2048];
    pg_server_format(
        text, sizeof(text),
        "INSERT INTO attempts (received_at, delivery_id, attempt, event_id, webhook_id,"
        " tenant_id, event_type, started_at, outcome) SELECT e.received_at, d.id, a.n,"
        " e.id, '" HOOK "', e.tenant_id, e.event_type, now(), a.outcome FROM events e,"
        " LATERAL (SELECT delivery_id_of(e.id) AS id) d,"
        " regexp_split_to_table(nullif('%s', ''), ',') WITH ORDINALITY a (outcome, n)"
        " WHERE e.kafka_offset = %zu",
        histories[n].outcomes, n + 1);
    sql(text);
    if (histories[n].pending) {
        pg_server_format(
            text, sizeof(text),
            "INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id,"
            " tenant_id, event_type, next_attempt, next_attempt_at, reason) SELECT"
            " delivery_id_of(id), received_at, id, '" HOOK "', tenant_id, event_type, 2,"
            " now() + interval '1 h', 'retry' FROM events WHERE kafka_offset = %zu",
            n + 1);
        sql(text);
    }
}

static void each_selection_takes_what_its_name_says_with_a_round_of_its_own(void **state)
{
    (void)state;
    pg_server_needed();
    static const char *const selections[] = {"all", "failed", "missed"};
    put_events(COUNT(histories), TENANT, "alert.created", "0");
    for (size_t n = 0; n < COUNT(histories); n++) {
        put_history(n);
    }
    for (size_t s = 0; s < COUNT(selections); s++) {
        sql("DELETE FROM pending_deliveries WHERE replay_job_id IS NOT NULL;"
            "DELETE FROM replay_jobs");
        put_simple_job(selections[s]);
        await_done();
        long enqueued = 0;
        for (size_t n = 0; n < COUNT(histories); n++) {
            char text[512];
            pg_server_format(text, sizeof(text),
                             "SELECT coalesce(max(next_attempt), 0) FROM pending_deliveries p JOIN"
                             " events e ON e.id = p.event_id WHERE e.kafka_offset = %zu AND"
                             " p.delivery_id = delivery_id_of(e.id) AND final_attempt ="
                             " next_attempt + 4 AND reason = 'replay' AND p.received_at ="
                             " e.received_at AND p.webhook_id = '" HOOK "' AND p.tenant_id ="
                             " e.tenant_id AND p.event_type = e.event_type AND next_attempt_at <="
                             " now() AND replay_job_id = (SELECT id FROM replay_jobs)",
                             n + 1);
            const bool taken = strstr(histories[n].taken_by, selections[s]) != NULL;
            const long next = sql(text);
            if (next != (taken ? histories[n].next : 0)) {
                fail_msg("%s, replay of %s: attempt %ld", histories[n].name, selections[s], next);
            }
            enqueued += taken;
        }
        assert_int_equal(enqueued, sql("SELECT enqueued FROM replay_jobs"));
        assert_int_equal(COUNT(histories), sql("SELECT scanned FROM replay_jobs"));
        assert_int_equal(1, sql("SELECT count(*) FROM replay_jobs WHERE finished_at IS NOT NULL AND"
                                " error IS NULL AND leased_until IS NULL"));
    }
}

static void since_counts_and_until_does_not(void **state)
{
    (void)state;
    pg_server_needed();
    put_events(9, TENANT, "alert.created", "0");
    put_job("missed", AT " + interval '3 s'", AT " + interval '7 s'", "NULL");
    await_done();
    sql_is("3 4 5 6", "SELECT string_agg(kafka_offset::text, ' ' ORDER BY kafka_offset) FROM"
                      " pending_deliveries p JOIN events e ON e.id = p.event_id");
    assert_int_equal(4, sql("SELECT scanned FROM replay_jobs"));
    assert_int_equal(4, due());
}

static void other_tenants_and_tests_are_not_replayed(void **state)
{
    (void)state;
    pg_server_needed();
    put_events(5, OTHER, "alert.created", "0");
    put_events(5, TENANT, "alert.created", "NULL"); /* the events of tests */
    put_events(2, TENANT, "alert.created", "3");
    put_simple_job("all");
    await_done();
    assert_int_equal(2, pending());
    assert_int_equal(2, sql("SELECT count(*) FROM pending_deliveries p JOIN events e ON e.id ="
                            " p.event_id WHERE kafka_partition = 3"));
}

static const struct {
    const char *subscribed;
    const char *asked; /* SQL */
    const char *expected;
} filters[] = {
    {"{*}", "NULL", "alert.created alert.resolved of.tomorrow scan.failed"},
    {"{alert.*}", "NULL", "alert.created alert.resolved"},
    {"{scan.failed,alert.created}", "NULL", "alert.created scan.failed"},
    {"{alert.created}", "'{scan.failed}'", "scan.failed"}, /* what is asked for wins */
    {"{alert.created}", "'{alert.*,scan.failed}'", "alert.created alert.resolved scan.failed"},
};

static void the_types_are_the_jobs_or_else_the_subscriptions(void **state)
{
    (void)state;
    pg_server_needed();
    static const char *const types[] = {"alert.created", "alert.resolved", "scan.failed",
                                        "of.tomorrow"};
    for (size_t i = 0; i < COUNT(types); i++) {
        put_events(1, TENANT, types[i], "0");
    }
    for (size_t i = 0; i < COUNT(filters); i++) {
        char text[256];
        pg_server_format(text, sizeof(text),
                         "DELETE FROM pending_deliveries; DELETE FROM replay_jobs; UPDATE webhooks"
                         " SET events = '%s'",
                         filters[i].subscribed);
        sql(text);
        put_job("all", AT, AT " + interval '1 day'", filters[i].asked);
        await_done();
        sql_is(filters[i].expected, "SELECT string_agg(event_type, ' ' ORDER BY event_type) FROM"
                                    " pending_deliveries");
        assert_int_equal(4, sql("SELECT scanned FROM replay_jobs"));
    }
}

/* Its first attempt may be under way: it is not missed yet. What has failed has failed. */
static void what_is_younger_than_a_first_attempt_is_waited_for(void **state)
{
    (void)state;
    pg_server_needed();
    put_events(2, TENANT, "alert.created", "0");
    sql("UPDATE events SET received_at = now() - (CASE kafka_offset WHEN 1 THEN 90 ELSE 10 END) *"
        " interval '1 s'");
    put_job("missed", "now() - interval '1 h'", "now()", "NULL");
    AWAIT_TURNS(pending() == 1);
    for (int i = 0; i < 100; i++) {
        turn();
    }
    assert_int_equal(1, pending());
    assert_int_equal(1, jobs_in("running"));
    sql("UPDATE replay_jobs SET until = now() - interval '61 s'"); /* as if a minute had passed */
    await_done();
    assert_int_equal(1, sql("SELECT enqueued FROM replay_jobs"));
    sql("DELETE FROM replay_jobs; DELETE FROM pending_deliveries;"
        "INSERT INTO attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id,"
        " event_type, started_at, outcome) SELECT received_at, delivery_id_of(id), 1, id,"
        " '" HOOK "', tenant_id, event_type, now(), 'gone' FROM events");
    put_job("failed", "now() - interval '1 h'", "now()", "NULL");
    await_done();
    assert_int_equal(2, pending());
}

/* --- pages --- */

static void a_long_job_goes_page_by_page_and_keeps_to_its_bound(void **state)
{
    (void)state;
    pg_server_needed();
    put_events(153, TENANT, "alert.created", "0");
    sql("UPDATE events SET received_at = " AT " + interval '5 s' WHERE kafka_offset % 3 > 0");
    sql("DROP TABLE IF EXISTS sent");
    put_simple_job("missed");
    AWAIT_TURNS(pending() == PENDING); /* nothing ends: it stops there */
    for (int i = 0; i < 100; i++) {
        turn();
    }
    assert_int_equal(PENDING, pending());
    assert_int_equal(1, jobs_in("running"));
    consume_until("done");
    AWAIT_TURNS(due() == 153);
    assert_int_equal(153, sql("SELECT count(DISTINCT event_id) FROM sent"));
    assert_int_equal(153, sql("SELECT count(*) FROM sent"));
    sql_is("153 153", "SELECT scanned || ' ' || enqueued FROM replay_jobs");
}

static void jobs_take_turns(void **state)
{
    (void)state;
    pg_server_needed();
    close_worker(&world.workers[1]);
    put_events(200, TENANT, "alert.created", "0");
    put_simple_job("missed"); /* is full after two pages, and nothing ends */
    AWAIT_TURNS(pending() == PENDING);
    put_events(5, OTHER, "alert.created", "0");
    sql("INSERT INTO webhooks (id, tenant_id, url, secret, events) VALUES"
        " ('3b000000-0000-4000-8000-000000000002', '" OTHER
        "', 'https://other.example.com/', 'x', '{*}');"
        "INSERT INTO replay_jobs (tenant_id, webhook_id, since, until, selection) VALUES ('" OTHER
        "', '3b000000-0000-4000-8000-000000000002', " AT ", " AT " + interval '1 h', 'missed')");
    AWAIT_TURNS(jobs_in("done") == 1);
    assert_int_equal(5, sql("SELECT enqueued FROM replay_jobs WHERE state = 'done'"));
    assert_int_equal(1, jobs_in("running"));
}

/* --- crashes, and two workers --- */

/* Each page of the job takes a moment, so that there is something to interrupt. */
static void slow_pages(void)
{
    sql("CREATE OR REPLACE FUNCTION slow_page() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF new.scanned <> old.scanned THEN PERFORM pg_sleep(0.05); END IF; RETURN new; END $$;"
        "CREATE TRIGGER at_page BEFORE UPDATE ON replay_jobs FOR EACH ROW EXECUTE FUNCTION"
        " slow_page()");
}

static void a_worker_that_dies_in_any_page_neither_skips_nor_repeats(void **state)
{
    (void)state;
    pg_server_needed();
    put_events(90, TENANT, "alert.created", "0");
    sql("DROP TABLE IF EXISTS sent; CREATE TABLE sent (LIKE pending_deliveries)");
    slow_pages();
    put_simple_job("missed");
    uint64_t seed = 4;
    for (int deaths = 0; jobs_in("done") == 0; deaths++) {
        assert_true(deaths < 200);
        const int64_t until = clock_mono_us() + 1000 + (int64_t)random_below(&seed, 150000);
        while (clock_mono_us() < until) {
            turn();
            sql("WITH gone AS (DELETE FROM pending_deliveries RETURNING *)"
                " INSERT INTO sent SELECT * FROM gone");
        }
        close_worker(&world.workers[deaths % 2]);
        sql("UPDATE replay_jobs SET leased_until = NULL WHERE leased_until > now()"); /* ran out */
        open_worker(&world.workers[deaths % 2]);
    }
    sql("INSERT INTO sent SELECT * FROM pending_deliveries");
    assert_int_equal(90, sql("SELECT count(*) FROM sent"));
    assert_int_equal(90, sql("SELECT count(DISTINCT delivery_id) FROM sent"));
    sql_is("90 90", "SELECT scanned || ' ' || enqueued FROM replay_jobs");
}

static void a_page_whose_lease_was_lost_changes_nothing(void **state)
{
    (void)state;
    pg_server_needed();
    put_events(5, TENANT, "alert.created", "0");
    close_worker(&world.workers[1]);
    AWAIT_TURNS(pg_is_up(world.workers[0].pg));
    PGconn *holder = pg_lock("events"); /* what a page reads */
    put_simple_job("missed");
    AWAIT_TURNS(pg_lock_waiters() == 1);
    sql("UPDATE replay_jobs SET leased_until = leased_until + interval '1 h'"); /* taken over */
    PQfinish(holder);
    AWAIT_TURNS(replays_is_idle(world.workers[0].replays));
    assert_int_equal(0, pending());
    assert_int_equal(0, due());
    sql_is("0 0 running",
           "SELECT scanned || ' ' || enqueued || ' ' || state FROM replay_jobs WHERE cursor_at IS"
           " NULL AND leased_until > now() + interval '30 min'");
}

static void two_workers_share_the_jobs_and_make_each_delivery_once(void **state)
{
    (void)state;
    pg_server_needed();
    put_events(15, TENANT, "alert.created", "0");
    sql("INSERT INTO webhooks (id, tenant_id, url, secret, events) SELECT"
        " ('3c000000-0000-4000-8000-00000000000' || n)::uuid, '" TENANT
        "', 'https://hooks.example.com/', 'x', '{*}' FROM generate_series(0, 9) n;"
        "INSERT INTO replay_jobs (tenant_id, webhook_id, since, until, selection) SELECT tenant_id,"
        " id, " AT ", " AT " + interval '1 h', 'all' FROM webhooks WHERE id::text LIKE '3c%'");
    AWAIT_TURNS(jobs_in("done") == 10);
    AWAIT_TURNS(due() == 150);
    assert_int_equal(150, pending());
    assert_int_equal(150, sql("SELECT sum(enqueued) FROM replay_jobs"));
    assert_true(world.workers[0].due > 0 && world.workers[1].due > 0);
}

static void postgresql_that_goes_away_only_costs_time(void **state)
{
    (void)state;
    pg_server_needed();
    put_events(40, TENANT, "alert.created", "0");
    put_simple_job("missed");
    AWAIT_TURNS(pending() > 0);
    pg_server_kill();
    AWAIT_TURNS(!pg_is_up(world.workers[0].pg) && !pg_is_up(world.workers[1].pg));
    AWAIT_TURNS(replays_is_idle(world.workers[0].replays) &&
                replays_is_idle(world.workers[1].replays));
    pg_server_launch();
    sql("SET client_min_messages = warning; DROP TABLE IF EXISTS sent");
    sql("UPDATE replay_jobs SET leased_until = NULL WHERE leased_until > now()");
    consume_until("done");
    assert_int_equal(40, sql("SELECT count(*) FROM sent"));
    assert_int_equal(40, sql("SELECT enqueued FROM replay_jobs"));
}

/* --- the end of a job --- */

static void a_cancelled_job_makes_nothing_more(void **state)
{
    (void)state;
    pg_server_needed();
    put_events(200, TENANT, "alert.created", "0");
    slow_pages();
    put_simple_job("missed");
    AWAIT_TURNS(pending() > 0);
    /* As the API does it: whatever page is on its way, its rows are seen by the delete. */
    sql("BEGIN; UPDATE replay_jobs SET state = 'cancelled', finished_at = now() WHERE state IN"
        " ('queued', 'running')");
    sql("DELETE FROM pending_deliveries WHERE leased_until IS NULL; COMMIT");
    for (int i = 0; i < 100; i++) {
        turn();
    }
    assert_int_equal(0, pending());
    assert_int_equal(1, jobs_in("cancelled"));
}

static const char *const ends[] = {"active = false", "status = 'disabled'", "deleted_at = now()"};

static void the_job_of_a_webhook_that_gets_nothing_is_cancelled(void **state)
{
    (void)state;
    pg_server_needed();
    put_events(50, TENANT, "alert.created", "0");
    for (size_t i = 0; i < COUNT(ends); i++) {
        sql("DELETE FROM replay_jobs; DELETE FROM pending_deliveries; UPDATE webhooks SET active ="
            " true, status = 'active', deleted_at = NULL");
        put_simple_job("missed");
        AWAIT_TURNS(pending() == PENDING);
        char text[128];
        pg_server_format(text, sizeof(text), "UPDATE webhooks SET %s", ends[i]);
        sql(text);
        AWAIT_TURNS(jobs_in("cancelled") == 1);
        sql_is("the webhook was paused, disabled or deleted",
               "SELECT error FROM replay_jobs WHERE finished_at IS NOT NULL AND leased_until IS"
               " NULL");
        assert_int_equal(PENDING, pending()); /* whoever changed the webhook cancels those */
    }
}

static void a_job_that_the_database_refuses_fails_and_says_so(void **state)
{
    (void)state;
    pg_server_needed();
    put_events(3, TENANT, "alert.created", "0");
    sql("INSERT INTO attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id,"
        " event_type, started_at, outcome) SELECT received_at, delivery_id_of(id), 32767, id,"
        " '" HOOK "', tenant_id, event_type, now(), 'exhausted' FROM events");
    put_simple_job("failed");
    AWAIT_TURNS(jobs_in("failed") == 1);
    sql_is("the database refused a delivery (SQLSTATE 22003)", "SELECT error FROM replay_jobs");
    assert_int_equal(0, pending());
}

static void a_worker_that_stops_finishes_its_page_and_takes_no_other(void **state)
{
    (void)state;
    pg_server_needed();
    close_worker(&world.workers[1]);
    put_events(100, TENANT, "alert.created", "0");
    slow_pages();
    put_simple_job("missed");
    AWAIT_TURNS(!replays_is_idle(world.workers[0].replays));
    replays_stop(world.workers[0].replays);
    AWAIT_TURNS(replays_is_idle(world.workers[0].replays));
    const long made = pending();
    assert_true(made <= PAGE);
    assert_int_equal(0, sql("SELECT count(*) FROM replay_jobs WHERE leased_until > now()"));
    for (int i = 0; i < 50; i++) {
        turn();
    }
    assert_int_equal(made, pending());
    assert_int_equal(made, due());
}

/* --- cost --- */

/* Never a scan of a day: neither for the tenant's events nor for the log. */
static void a_page_reads_by_key_in_the_days_of_its_events(void **state)
{
    (void)state;
    pg_server_needed();
    sql("SELECT nrw_create_partition(t, d) FROM unnest('{events,attempts}'::regclass[]) t,"
        " unnest('{2026-03-14,2026-03-15}'::date[]) d WHERE NOT EXISTS (SELECT FROM nrw_partitions"
        " p WHERE p.parent = t AND p.day = d)");
    put_events(30, TENANT, "alert.created", "0");
    sql("INSERT INTO events (id, received_at, tenant_id, event_type, payload, kafka_partition)"
        " SELECT gen_random_uuid(), " AT " + n * interval '1 ms', md5((n % 50)::text)::uuid,"
        " 'alert.created', '{}', 0 FROM generate_series(1, 20000) n;"
        "INSERT INTO attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id,"
        " event_type, started_at, outcome) SELECT received_at, delivery_id_of(id), 1, id,"
        " '" HOOK "', tenant_id, event_type, now(), 'delivered' FROM events;"
        "ANALYZE events; ANALYZE attempts");
    sql("SELECT pg_stat_force_next_flush()"); /* what was counted so far does not count */
    sql("SELECT pg_stat_reset()");
    put_simple_job("failed");
    await_done();
    sql_is("30", "SELECT scanned::text FROM replay_jobs");
    close_worker(&world.workers[0]); /* their sessions hand in what they have counted */
    close_worker(&world.workers[1]);
    AWAIT_TURNS(sql("SELECT sum(idx_scan) FROM pg_stat_user_tables WHERE relname IN"
                    " ('events_20260315', 'attempts_20260315')") >= 31);
    assert_int_equal(0, sql("SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname IN"
                            " ('events_20260315', 'attempts_20260315')"));
    assert_int_equal(0, sql("SELECT count(*) FROM pg_stat_user_tables WHERE relname ~"
                            " '^(events|attempts)_' AND relname !~ '20260315$' AND relname !~"
                            " 'default$' AND idx_scan + seq_scan > 0"));
}

static int start(void **state)
{
    if (start_server_with_schema(state) != 0) {
        return -1;
    }
    if (pg_server.postmaster != 0) { /* RFC 9562, as uuid_of_delivery() */
        sql("CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\"");
        sql("CREATE FUNCTION delivery_id_of(event uuid) RETURNS uuid LANGUAGE sql AS $$ SELECT"
            " uuid_generate_v5(event, '" HOOK "') $$");
    }
    return 0;
}

int main(void)
{
#define REPLAYS_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        REPLAYS_TEST(each_selection_takes_what_its_name_says_with_a_round_of_its_own),
        REPLAYS_TEST(since_counts_and_until_does_not),
        REPLAYS_TEST(other_tenants_and_tests_are_not_replayed),
        REPLAYS_TEST(the_types_are_the_jobs_or_else_the_subscriptions),
        REPLAYS_TEST(what_is_younger_than_a_first_attempt_is_waited_for),
        REPLAYS_TEST(a_long_job_goes_page_by_page_and_keeps_to_its_bound),
        REPLAYS_TEST(jobs_take_turns),
        REPLAYS_TEST(a_worker_that_dies_in_any_page_neither_skips_nor_repeats),
        REPLAYS_TEST(a_page_whose_lease_was_lost_changes_nothing),
        REPLAYS_TEST(two_workers_share_the_jobs_and_make_each_delivery_once),
        REPLAYS_TEST(postgresql_that_goes_away_only_costs_time),
        REPLAYS_TEST(a_cancelled_job_makes_nothing_more),
        REPLAYS_TEST(the_job_of_a_webhook_that_gets_nothing_is_cancelled),
        REPLAYS_TEST(a_job_that_the_database_refuses_fails_and_says_so),
        REPLAYS_TEST(a_worker_that_stops_finishes_its_page_and_takes_no_other),
        REPLAYS_TEST(a_page_reads_by_key_in_the_days_of_its_events),
    };
    log_init(LOG_LEVEL_WARN, STDERR_FILENO);
    return cmocka_run_group_tests(tests, start, pg_server_stop);
}
