/* The chores against a real PostgreSQL with the real schema, by two workers at once. */
#include "upkeep.h"

#include "pg_fixture.h"
#include "worker_fixture.h"

#include "metrics.h"

#define NOT_YET (-99.0)

static struct {
    struct config cfg;
    struct event_base *base;
    struct event *ticker;
    struct upkeep *workers[2];
} world;

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void turn(void)
{
    assert_int_equal(0, event_base_loop(world.base, EVLOOP_ONCE));
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
    sql("DELETE FROM events; DELETE FROM attempts; DELETE FROM pending_deliveries;"
        "DELETE FROM notifications; DELETE FROM replay_jobs; DELETE FROM webhooks; DELETE FROM "
        "tenants;"
        "INSERT INTO tenants (id, name) VALUES ('70000000-0000-4000-8000-000000000000', 't');"
        "INSERT INTO webhooks (id, tenant_id, url, secret, events) SELECT"
        " ('3b000000-0000-4000-8000-00000000000' || n)::uuid,"
        " '70000000-0000-4000-8000-000000000000', 'https://a.example/', 'x', '{*}'"
        " FROM generate_series(0, 6) n");
    pg_server_url(url, sizeof(url), "postgres");
    settings_defaults(&world.cfg);
    settings_set(&world.cfg.database_url, url);
    world.base = event_base_new();
    world.ticker = event_new(world.base, -1, EV_PERSIST, on_tick, NULL);
    event_add(world.ticker, &tick);
    return 0;
}

static int end(void **state)
{
    (void)state;
    if (pg_server.postmaster == 0) {
        return 0;
    }
    upkeep_free(world.workers[0]);
    upkeep_free(world.workers[1]);
    event_free(world.ticker);
    event_base_free(world.base);
    config_free(&world.cfg);
    return 0;
}

static bool idle(const struct upkeep *u)
{
    return pg_is_up(upkeep_pg(u)) && pg_outstanding(upkeep_pg(u)) == 0;
}

static double *ahead_s(void)
{
    return &metrics_gauge("nrw_partitions_ahead_seconds", NULL, "")->value;
}

static void stop(void)
{
    for (int i = 0; i < 2; i++) {
        upkeep_free(world.workers[i]);
        world.workers[i] = NULL;
    }
}

/* Boot n workers at once and let them do what is to be done at boot: each chore, gauges last. */
static void all_chores(int n)
{
    stop();
    *ahead_s() = NOT_YET;
    for (int i = 0; i < n; i++) {
        world.workers[i] = upkeep_new(world.base, &world.cfg);
    }
    for (int i = 0; i < n; i++) {
        AWAIT_TURNS(pg_is_up(upkeep_pg(world.workers[i])));
    }
    turn();
    turn();
    for (int i = 0; i < n; i++) {
        AWAIT_TURNS(idle(world.workers[i]) && *ahead_s() > NOT_YET);
    }
}

static uint64_t counted(const char *name)
{
    return metrics_counter(name, NULL, "")->value;
}

/* --- partitions --- */

static void partitions_exist_eight_days_ahead_whoever_comes_first(void **state)
{
    (void)state;
    pg_server_needed();
    sql("DO $$ DECLARE p record; BEGIN FOR p IN SELECT partition FROM nrw_partitions WHERE day >"
        " current_date + 2 LOOP EXECUTE format('DROP TABLE %s', p.partition); END LOOP; END $$");
    assert_true(sql("SELECT nrw_partition_days_ahead()") < 5);
    all_chores(2);
    assert_int_equal(8, sql("SELECT nrw_partition_days_ahead()"));
    all_chores(1); /* and again, with nothing to do */
    assert_int_equal(8 * 86400, (int)*ahead_s());
    assert_int_equal(0, counted("nrw_upkeep_failures_total"));
}

static void what_is_older_than_the_retention_goes_to_the_last_piece(void **state)
{
    (void)state;
    pg_server_needed();
    world.cfg.retention = INT64_C(10) * 86400000;
    sql("SELECT nrw_create_partition('events', (current_date - 40));"
        "SELECT nrw_create_partition('attempts', (current_date - 41));"
        "SELECT nrw_create_partition('events', (current_date - 8));"
        "INSERT INTO events (id, received_at, tenant_id, event_type, payload) SELECT"
        " gen_random_uuid(), now() - d * interval '1 day', gen_random_uuid(), 'a.b', '{}' FROM"
        " unnest(array[12, 40, 60, 9, 8, 0]) d;"
        "INSERT INTO events (id, received_at, tenant_id, event_type, payload) SELECT"
        " gen_random_uuid(), now() - interval '100 days', gen_random_uuid(), 'a.b', '{}' FROM"
        " generate_series(1, 6000)");
    all_chores(2);
    AWAIT_TURNS(sql("SELECT count(*) FROM events") == 3);
    assert_int_equal(0, sql("SELECT count(*) FROM nrw_partitions WHERE day < current_date - 30"));
    assert_int_equal(1, sql("SELECT count(*) FROM nrw_partitions WHERE day = current_date - 8"));
    AWAIT_TURNS(idle(world.workers[0]) && idle(world.workers[1]));
    sql("DELETE FROM events");
}

/* --- webhooks that fail for too long --- */

static void a_webhook_that_failed_for_too_long_is_disabled_with_one_mail(void **state)
{
    (void)state;
    pg_server_needed();
    sql("UPDATE webhooks SET status = 'failing', failing_since = now() - interval '5 days 1 min'"
        " WHERE id::text LIKE '%1' OR id::text LIKE '%2';"
        "UPDATE webhooks SET status = 'failing', failing_since = now() - interval '4 days 23 h'"
        " WHERE id::text LIKE '%3';"
        "UPDATE webhooks SET status = 'failing', failing_since = now() - interval '9 days',"
        " deleted_at = now() WHERE id::text LIKE '%4';"
        "UPDATE webhooks SET status = 'disabled', failing_since = now() - interval '9 days',"
        " disabled_at = now() - interval '4 days', disabled_reason = 'earlier' WHERE id::text LIKE"
        " '%5';"
        "UPDATE webhooks SET status = 'failing', failing_since = now() - interval '9 days',"
        " active = false WHERE id::text LIKE '%6';" /* paused: nothing was tried */
        "CREATE TABLE before AS SELECT id, version, xmin::text AS x FROM webhooks");
    const uint64_t before = counted("nrw_webhooks_disabled_total");
    all_chores(2);
    assert_int_equal(2, sql("SELECT count(*) FROM webhooks w JOIN before b USING (id) WHERE status"
                            " = 'disabled' AND disabled_at > now() - interval '1 min' AND"
                            " disabled_reason <> '' AND w.version > b.version"));
    assert_int_equal(5, sql("SELECT count(*) FROM webhooks w JOIN before USING (id) WHERE"
                            " w.xmin::text = x"));
    assert_int_equal(2, sql("SELECT count(*) FROM notifications n JOIN webhooks w ON w.id ="
                            " n.webhook_id AND w.disabled_at = n.transition_at AND"
                            " w.disabled_reason = n.reason AND w.tenant_id = n.tenant_id WHERE"
                            " kind = 'webhook_disabled' AND state = 'pending'"));
    assert_int_equal(2, sql("SELECT count(*) FROM notifications"));
    assert_int_equal(before + 2, counted("nrw_webhooks_disabled_total"));
    all_chores(2);
    assert_int_equal(2, sql("SELECT count(*) FROM notifications"));
    assert_int_equal(before + 2, counted("nrw_webhooks_disabled_total"));
    sql("DROP TABLE before");
}

static void how_long_is_too_long_is_a_setting(void **state)
{
    (void)state;
    pg_server_needed();
    world.cfg.disable_after = 1000;
    sql("UPDATE webhooks SET status = 'failing', failing_since = now() - interval '2 s' WHERE"
        " id::text LIKE '%1';"
        "UPDATE webhooks SET status = 'failing', failing_since = now() + interval '1 h' WHERE"
        " id::text LIKE '%2'");
    all_chores(1);
    sql_is("disabled failing", "SELECT string_agg(status, ' ' ORDER BY id) FROM webhooks WHERE"
                               " status <> 'active'");
}

/* --- replays --- */

static void what_a_cancelled_replay_had_in_flight_goes_when_its_lease_is_over(void **state)
{
    (void)state;
    pg_server_needed();
    sql("INSERT INTO replay_jobs (id, tenant_id, webhook_id, since, until, selection, state) SELECT"
        " ('4a000000-0000-4000-8000-00000000000' || n)::uuid, tenant_id, id, now() - interval '1 "
        "h',"
        " now(), 'all', (array['cancelled', 'running', 'done'])[n] FROM webhooks,"
        " generate_series(1, 3) n WHERE webhooks.id::text LIKE '%' || n;"
        "INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id,"
        " event_type, next_attempt, next_attempt_at, reason, replay_job_id, leased_until) SELECT"
        " gen_random_uuid(), now(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'a.b',"
        " 2, now(), 'retry', j.id, now() + s * interval '1 min' FROM (SELECT id FROM replay_jobs"
        " UNION ALL SELECT NULL) j, unnest(array[NULL, -1, 1]) s");
    all_chores(2);
    sql_is("1 3 3 3", /* of the cancelled job: what is being sent */
           "SELECT string_agg(n::text, ' ') FROM (SELECT count(*) AS n FROM pending_deliveries"
           " GROUP BY replay_job_id ORDER BY replay_job_id) s");
    assert_int_equal(1, sql("SELECT count(*) FROM pending_deliveries p JOIN replay_jobs j ON j.id ="
                            " replay_job_id WHERE state = 'cancelled' AND p.leased_until > now()"));
}

/* --- gauges, faults --- */

static void the_gauges_tell_what_waits(void **state)
{
    (void)state;
    pg_server_needed();
    const double *pending = &metrics_gauge("nrw_pending_deliveries", "reason=\"retry\"", "")->value;
    const double *spilled = &metrics_gauge("nrw_pending_deliveries", "reason=\"spill\"", "")->value;
    const double *oldest = &metrics_gauge("nrw_oldest_due_seconds", NULL, "")->value;
    all_chores(1);
    assert_int_equal(0, (int)*pending);
    assert_int_equal(0, (int)*oldest);
    sql("INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id,"
        " event_type, next_attempt, next_attempt_at, reason) SELECT gen_random_uuid(), now(),"
        " gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'a.b', 2, now() - (500 - n) *"
        " interval '1 s', 'retry' FROM generate_series(0, 699) n");
    all_chores(1);
    assert_int_equal(700, (int)*pending);
    assert_in_range((int)*oldest, 500, 600);
    sql("UPDATE pending_deliveries SET next_attempt_at = now() + interval '1 h', reason ="
        " CASE WHEN ctid = (SELECT min(ctid) FROM pending_deliveries) THEN 'spill' ELSE reason "
        "END");
    all_chores(1);
    assert_int_equal(699, (int)*pending);
    assert_int_equal(1, (int)*spilled);
    assert_int_equal(0, (int)*oldest);
}

static void a_chore_that_fails_is_counted_and_keeps_none_from_the_others(void **state)
{
    (void)state;
    pg_server_needed();
    const uint64_t before = counted("nrw_upkeep_failures_total");
    sql("ALTER TABLE notifications RENAME TO elsewhere;"
        "UPDATE webhooks SET status = 'failing', failing_since = now() - interval '9 days' WHERE"
        " id::text LIKE '%1'");
    all_chores(1);
    assert_int_equal(before + 1, counted("nrw_upkeep_failures_total"));
    assert_int_equal(8 * 86400, (int)*ahead_s());
    sql_is("failing", "SELECT status FROM webhooks WHERE id::text LIKE '%1'"); /* both or none */
    sql("ALTER TABLE elsewhere RENAME TO notifications");
    all_chores(1);
    sql_is("disabled", "SELECT status FROM webhooks WHERE id::text LIKE '%1'");
    assert_int_equal(1, sql("SELECT count(*) FROM notifications"));
}

static void the_chores_are_done_when_the_database_is_back(void **state)
{
    (void)state;
    pg_server_needed();
    all_chores(1);
    pg_server_kill();
    AWAIT_TURNS(!pg_is_up(upkeep_pg(world.workers[0])));
    *ahead_s() = NOT_YET;
    pg_server_launch();
    AWAIT_TURNS(*ahead_s() > NOT_YET);
}

int main(void)
{
#define UPKEEP_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        UPKEEP_TEST(partitions_exist_eight_days_ahead_whoever_comes_first),
        UPKEEP_TEST(what_is_older_than_the_retention_goes_to_the_last_piece),
        UPKEEP_TEST(a_webhook_that_failed_for_too_long_is_disabled_with_one_mail),
        UPKEEP_TEST(how_long_is_too_long_is_a_setting),
        UPKEEP_TEST(what_a_cancelled_replay_had_in_flight_goes_when_its_lease_is_over),
        UPKEEP_TEST(the_gauges_tell_what_waits),
        UPKEEP_TEST(a_chore_that_fails_is_counted_and_keeps_none_from_the_others),
        UPKEEP_TEST(the_chores_are_done_when_the_database_is_back),
    };
    log_init(LOG_LEVEL_ERROR, STDERR_FILENO);
    return cmocka_run_group_tests(tests, start_server_with_schema, pg_server_stop);
}
