/* api/store.c against a real PostgreSQL: whose unit is next, how many may wait, and that each is
 * answered once. The hand that holds things up has an advisory lock. */
#include "store.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "pg_server.h"

#define PATIENCE_US (20 * INT64_C(1000000))
#define CONNECTIONS 4
#define SHARE       3 /* of one tenant */
#define REPLIES_MAX 2048

static struct {
    struct event_base *base;
    struct event *ticker;
    struct store *store;
    int ok, failed;
    int unsent;
    char order[REPLIES_MAX]; /* the tenants' letters as their units were answered */
    int answered;
} w;

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

/* One turn of the loop; false once the condition is true. */
static bool turn_unless(bool cond, const char *text, int64_t end)
{
    if (!cond) {
        if (clock_mono_us() > end) {
            fail_msg("never came true: %s", text);
        }
        assert_int_equal(0, event_base_loop(w.base, EVLOOP_ONCE));
    }
    return !cond;
}
#define AWAIT(cond)                                                                                \
    for (int64_t end_ = clock_mono_us() + PATIENCE_US; turn_unless(cond, #cond, end_);) {          \
    }

static int start(void **state)
{
    char url[160];
    const struct timeval tick = {.tv_usec = 5000};
    if (pg_server_start(state) != 0 || pg_server.postmaster == 0) {
        return 0;
    }
    pg_server_url(url, sizeof(url), "postgres");
    w.base = event_base_new();
    w.ticker = event_new(w.base, -1, EV_PERSIST, on_tick, NULL);
    event_add(w.ticker, &tick);
    w.store = store_new(w.base, url, CONNECTIONS);
    /* all of them, so that a test knows how many there are */
    AWAIT(pg_server_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'nrw-api'"
                        " AND query LIKE 'SET statement_timeout%' AND state = 'idle'") ==
          CONNECTIONS);
    AWAIT(store_is_up(w.store));
    return 0;
}

static int stop(void **state)
{
    if (w.store != NULL) {
        store_free(w.store);
        event_free(w.ticker);
        event_base_free(w.base);
    }
    return pg_server_stop(state);
}

static void on_reply(void *ctx, const struct pg_reply *reply)
{
    w.ok += reply->ok ? 1 : 0;
    w.failed += reply->ok ? 0 : 1;
    w.unsent += !reply->ok && reply->failed == 0 ? 1 : 0;
    assert_true(w.answered < REPLIES_MAX);
    w.order[w.answered++] = *(const char *)ctx;
}

/* n: statements, all the same. tenant: a letter; '-' is nobody. */
static bool submit_n(const char *tenant, const char *sql, int n)
{
    struct uuid id = {.b = {(uint8_t)*tenant}};
    char text[] = "borrowed only for the call";
    const struct pg_param params[] = {{.type = 25, .data = text},
                                      {.type = 17, .data = "\0\1", .len = 2, .binary = true},
                                      {.type = 25}};
    struct pg_stmt stmts[STORE_STATEMENTS_MAX];
    for (int i = 0; i < n; i++) {
        stmts[i] = (struct pg_stmt){.sql = sql, .params = params, .n_params = 3};
    }
    if (*tenant == '-') {
        id = (struct uuid){.b = {0}};
    }
    const bool taken = store_submit(w.store, &id, stmts, n, on_reply, (void *)(uintptr_t)tenant);
    memset(text, 'x', sizeof(text) - 1);
    return taken;
}

static bool submit(const char *tenant, const char *sql)
{
    return submit_n(tenant, sql, 1);
}

#define PARAMS                                                                                     \
    " WHERE $1::text = 'borrowed only for the call' AND $2 = '\\x0001'::bytea AND $3::text IS "    \
    "NULL"
#define BACKENDS "SELECT sum(pid) FROM pg_stat_activity WHERE application_name = 'nrw-api'"
#define QUICK    "SELECT 1 / (SELECT count(*)" PARAMS ")"
#define SLOW     "SELECT pg_advisory_xact_lock_shared(1)" PARAMS

static long waiters(void)
{
    return pg_server_sql(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
}

static void hold(void)
{
    w.ok = w.failed = w.unsent = w.answered = 0;
    (void)pg_server_sql("SELECT pg_advisory_lock(1)");
}

static void let_go(int answers)
{
    (void)pg_server_sql("SELECT pg_advisory_unlock(1)");
    AWAIT(w.answered == answers);
    assert_int_equal(0, w.failed);
}

static void a_tenants_slow_units_leave_a_connection_to_others(void **state)
{
    (void)state;
    pg_server_needed();
    hold();
    for (int i = 0; i < 10; i++) {
        assert_true(submit("a", SLOW));
    }
    AWAIT(waiters() == SHARE);
    for (int i = 1; i <= 5; i++) {
        assert_true(submit(i % 2 == 0 ? "b" : "-", QUICK));
        AWAIT(w.ok == i);
    }
    assert_int_equal(SHARE, waiters());
    let_go(15);
}

static void the_tenant_with_the_fewest_units_under_way_is_next(void **state)
{
    (void)state;
    pg_server_needed();
    hold();
    (void)pg_server_sql("SELECT pg_advisory_lock(2)");
    assert_true(submit("x", "SELECT pg_advisory_xact_lock_shared(2)" PARAMS));
    for (const char *t = "aab"; *t != '\0'; t++) {
        assert_true(submit(t, SLOW));
    }
    for (const char *t = "abc"; *t != '\0'; t++) {
        assert_true(submit(t, QUICK));
    }
    AWAIT(waiters() == CONNECTIONS);
    (void)pg_server_sql("SELECT pg_advisory_unlock(2)"); /* one connection for all three */
    AWAIT(w.answered == 4);
    assert_memory_equal("xcba", w.order, 4);
    let_go(7);
}

static void one_unit_more_than_may_wait_is_refused_and_another_tenants_is_not(void **state)
{
    (void)state;
    pg_server_needed();
    hold();
    for (int i = 0; i < SHARE + STORE_TENANT_WAITING_MAX; i++) {
        assert_true(submit("a", SLOW));
    }
    assert_false(submit("a", SLOW));
    int taken = SHARE + STORE_TENANT_WAITING_MAX;
    for (const char *t = "bcd"; *t != '\0'; t++) {
        for (int i = 0; i < STORE_TENANT_WAITING_MAX; i++) {
            assert_true(submit(t, SLOW));
            taken++;
        }
    }
    assert_true(submit("e", SLOW)); /* b's first has the last connection */
    assert_false(submit("f", SLOW));
    let_go(taken + 1);
}

/* Nearly as long as it may take, statement for statement: too long for whoever asked, and the
 * connection is still good. */
static void a_unit_that_takes_as_long_as_its_statements_may_costs_no_connection(void **state)
{
    (void)state;
    pg_server_needed();
    char sql[128];
    const long pids = pg_server_sql(BACKENDS);
    pg_server_format(sql, sizeof(sql), "SELECT pg_sleep(%d)" PARAMS, STORE_STATEMENT_MS / 1000 - 1);
    hold();
    let_go(0);
    const int64_t began = clock_mono_us();
    assert_true(submit_n("a", sql, STORE_STATEMENTS_MAX));
    AWAIT(w.answered == 1);
    assert_in_range(clock_mono_us() - began, (STORE_DEADLINE_MS - 500) * 1000,
                    (STORE_DEADLINE_MS + 1000) * 1000);
    assert_int_equal(1, w.failed);
    assert_int_equal(0, w.unsent); /* it may have been carried out */
    AWAIT(pg_server_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'nrw-api'"
                        " AND state = 'active'") == 0);
    assert_int_equal(pids, pg_server_sql(BACKENDS));
}

static void what_waits_when_the_connections_go_is_told_that_it_was_not_sent(void **state)
{
    (void)state;
    pg_server_needed();
    hold();
    for (int i = 0; i < 10; i++) {
        assert_true(submit("a", SLOW));
    }
    AWAIT(waiters() == SHARE);
    pg_server_kill();
    AWAIT(w.answered == 10);
    assert_int_equal(10, w.failed);
    /* the connection that was free may have got one more before its own end was seen */
    assert_in_range(w.unsent, 10 - CONNECTIONS, 10 - SHARE);
    assert_false(store_is_up(w.store));
    assert_false(submit("a", QUICK));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tenants_slow_units_leave_a_connection_to_others),
        cmocka_unit_test(the_tenant_with_the_fewest_units_under_way_is_next),
        cmocka_unit_test(one_unit_more_than_may_wait_is_refused_and_another_tenants_is_not),
        cmocka_unit_test(a_unit_that_takes_as_long_as_its_statements_may_costs_no_connection),
        cmocka_unit_test(what_waits_when_the_connections_go_is_told_that_it_was_not_sent),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
