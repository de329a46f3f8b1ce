/* common/pg.c against a real PostgreSQL that this program starts for itself in a folder of its own
 * (unix socket only), and against two false servers on loopback. Skips, saying so, only where
 * initdb is not installed. */
#include "pg.h"

#include <arpa/inet.h>
#include <endian.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "mem.h"
#include "metrics_page.h"
#include "no_lookups.h"
#include "pg_server.h"

#define PATIENCE_US (20 * INT64_C(1000000))
#define REPLIES_MAX 1200
#define OID_INT4    23
#define OID_INT8    20
#define OID_BYTEA   17
#define OID_TEXT    25
#define LEN(a)      (int)(sizeof(a) / sizeof(*(a)))
#define STMT(s)     ((struct pg_stmt){.sql = (s)})
#define CLIENTS_MAX 16
#define NONE_YET    (-2)

#define COUNT_OF_SECONDS "nrw_pg_seconds_count{connection=\"unit-test\"}"
#define LOST             "nrw_pg_connections_lost_total{connection=\"unit-test\"}"

/* --- one connection under test
 * -------------------------------------------------------------------------- */

struct world;
struct reply {
    struct world *w;
    int calls;
    bool ok;
    int failed;
    int order; /* among all replies of this world */
    struct err err;
    long value;          /* first column of the last result, as text */
    int submit_on_reply; /* so many further ones, one after the other */
};

struct world {
    struct event_base *base;
    struct event *ticker;
    struct pg *pg;
    int ups;
    int downs;
    int replies;
    int replies_at_down;
    struct err why;
    int notifies;
    char channel[64];
    char payload[64];
    bool inside_submit;
    struct reply r[REPLIES_MAX];
};

/* One turn of the loop; false once the condition is true. */
static bool turn_unless(struct world *w, bool cond, const char *text, int64_t end)
{
    if (cond) {
        return false;
    }
    if (clock_mono_us() > end) {
        fail_msg("never came true: %s", text);
    }
    assert_int_equal(0, event_base_loop(w->base, EVLOOP_ONCE));
    return true;
}
#define AWAIT(w, cond)                                                                             \
    for (int64_t end_ = clock_mono_us() + PATIENCE_US; turn_unless(w, cond, #cond, end_);) {       \
    }

static void on_up(void *ctx)
{
    struct world *w = ctx;
    w->ups++;
}

static void on_down(void *ctx, const struct err *why)
{
    struct world *w = ctx;
    assert_false(pg_is_up(w->pg));
    w->downs++;
    w->why = *why;
    w->replies_at_down = w->replies;
}

static void on_notify(void *ctx, const char *channel, const char *payload)
{
    struct world *w = ctx;
    w->notifies++;
    pg_server_format(w->channel, sizeof(w->channel), "%s", channel);
    pg_server_format(w->payload, sizeof(w->payload), "%s", payload);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static struct world *world_new(const char *url, int stall_ms)
{
    struct world *w = mem_zero(1, sizeof(*w));
    const struct pg_handlers handlers = {
        .up = on_up, .down = on_down, .notify = on_notify, .ctx = w};
    const struct timeval tick = {.tv_usec = 5000};
    w->base = event_base_new();
    w->ticker = event_new(w->base, -1, EV_PERSIST, on_tick, NULL);
    event_add(w->ticker, &tick);
    w->pg = pg_new(w->base, url, "unit-test", stall_ms, &handlers);
    return w;
}

static void world_free(struct world *w)
{
    pg_free(w->pg);
    event_free(w->ticker);
    event_base_free(w->base);
    free(w);
}

static struct world *world_up(int stall_ms)
{
    char url[160];
    pg_server_url(url, sizeof(url), "postgres");
    struct world *w = world_new(url, stall_ms);
    AWAIT(w, w->ups == 1);
    assert_true(pg_is_up(w->pg));
    return w;
}

static bool submit(struct world *w, struct reply *r, const struct pg_stmt *stmts, int n);

static void on_reply(void *ctx, const struct pg_reply *reply)
{
    struct reply *r = ctx;
    struct world *w = r->w;
    assert_false(w->inside_submit);
    r->calls++;
    r->ok = reply->ok;
    r->failed = reply->failed;
    r->err = *reply->err;
    r->order = w->replies++;
    assert_int_equal(reply->ok, reply->err->code == ERR_NONE);
    if (reply->ok) {
        const PGresult *last = reply->results[reply->n_results - 1];
        r->value = PQntuples(last) > 0 && !PQfformat(last, 0)
                       ? strtol(PQgetvalue(last, 0, 0), NULL, 10)
                       : 0;
    }
    if (r->submit_on_reply > 0) {
        struct reply *next = r + 1;
        next->submit_on_reply = r->submit_on_reply - 1;
        (void)submit(w, next, &STMT("SELECT 7"), 1);
    }
}

static bool submit(struct world *w, struct reply *r, const struct pg_stmt *stmts, int n)
{
    r->w = w;
    r->failed = NONE_YET;
    w->inside_submit = true;
    bool sent = pg_submit(w->pg, stmts, n, on_reply, r);
    w->inside_submit = false;
    return sent;
}

/* Sends and awaits one unit of texts. */
static struct reply *run(struct world *w, int at, int n, const char *const *texts)
{
    struct pg_stmt stmts[PG_UNIT_MAX];
    for (int i = 0; i < n; i++) {
        stmts[i] = STMT(texts[i]);
    }
    struct reply *r = &w->r[at];
    assert_true(submit(w, r, stmts, n));
    AWAIT(w, r->calls > 0);
    assert_int_equal(1, r->calls);
    return r;
}
#define RUN(w, at, ...)                                                                            \
    run(w, at, LEN(((const char *const[]){__VA_ARGS__})), (const char *const[]){__VA_ARGS__})

static double cpu_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* --- promises
 * ------------------------------------------------------------------------------------------- */

static void test_a_unit_commits_together_or_not_at_all(void **state)
{
    (void)state;
    pg_server_needed();
    pg_server_sql("CREATE TABLE together (id int PRIMARY KEY)");
    struct world *w = world_up(5000);
    assert_true(
        RUN(w, 0, "INSERT INTO together VALUES (1)", "INSERT INTO together VALUES (2)")->ok);
    const struct reply *r =
        RUN(w, 1, "INSERT INTO together VALUES (3)", "INSERT INTO together VALUES (1)",
            "INSERT INTO together VALUES (4)");
    assert_false(r->ok);
    assert_int_equal(1, r->failed);
    assert_string_equal("23505", r->err.sqlstate);
    assert_int_equal(ERR_DB, r->err.code);
    assert_true(r->err.ours);
    assert_false(r->err.retriable);
    assert_non_null(strstr(r->err.text, "together_pkey"));
    assert_null(strstr(r->err.text, "(id)=(1)")); /* the detail quotes rows */
    assert_int_equal(2, pg_server_sql("SELECT count(*) FROM together"));
    world_free(w);
}

static void test_a_refusal_names_its_statement_and_the_next_unit_works(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(5000);
    for (size_t bad = 0; bad < 4; bad++) {
        struct pg_stmt stmts[4] = {STMT("SELECT 1"), STMT("SELECT 1"), STMT("SELECT 1"),
                                   STMT("SELECT 1")};
        stmts[bad].sql = "SELECT 1/0";
        assert_true(submit(w, &w->r[2 * bad], stmts, 4));
        assert_true(
            submit(w, &w->r[2 * bad + 1], &STMT("SELECT 42"), 1)); /* in the same pipeline */
    }
    AWAIT(w, w->replies == 8);
    for (size_t bad = 0; bad < 4; bad++) {
        assert_false(w->r[2 * bad].ok);
        assert_int_equal(bad, w->r[2 * bad].failed);
        assert_string_equal("22012", w->r[2 * bad].err.sqlstate);
        assert_true(w->r[2 * bad + 1].ok);
        assert_int_equal(42, w->r[2 * bad + 1].value);
    }
    assert_int_equal(0, w->downs);
    world_free(w);
}

static void test_a_refused_commit_is_told_and_the_next_unit_works(void **state)
{
    (void)state;
    pg_server_needed();
    pg_server_sql("CREATE TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)");
    struct world *w = world_up(5000);
    const struct reply *r =
        RUN(w, 0, "INSERT INTO late VALUES (1)", "INSERT INTO late VALUES (1)", "SELECT 1");
    assert_false(r->ok);
    assert_int_equal(2, r->failed);
    assert_string_equal("23505", r->err.sqlstate);
    assert_true(RUN(w, 1, "INSERT INTO late VALUES (1)", "SELECT 5")->ok);
    assert_int_equal(5, w->r[1].value);
    assert_int_equal(1, pg_server_sql("SELECT count(*) FROM late"));
    world_free(w);
}

static void test_replies_come_in_the_order_of_units(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(5000);
    for (int i = 0; i < 200; i++) {
        char text[16];
        pg_server_format(text, sizeof(text), "%d", i);
        const struct pg_param param = {.type = OID_INT4, .data = text};
        const struct pg_stmt stmts[2] = {STMT("SELECT 0"),
                                         {.sql = "SELECT $1", .params = &param, .n_params = 1}};
        assert_true(submit(w, &w->r[i], stmts, 2));
    }
    assert_int_equal(200, pg_outstanding(w->pg));
    const double measured = metrics_page_value(COUNT_OF_SECONDS);
    AWAIT(w, w->replies == 200);
    assert_int_equal(200, (int)(metrics_page_value(COUNT_OF_SECONDS) - measured));
    for (int i = 0; i < 200; i++) {
        assert_int_equal(1, w->r[i].calls);
        assert_int_equal(i, w->r[i].order);
        assert_int_equal(i, w->r[i].value);
    }
    assert_int_equal(0, pg_outstanding(w->pg));
    world_free(w);
}

static void test_outstanding_units_are_bounded(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(5000);
    int n = 0;
    while (n < REPLIES_MAX && submit(w, &w->r[n], &STMT("SELECT 1"), 1)) {
        n++;
    }
    assert_int_equal(PG_OUTSTANDING_MAX, n);
    assert_true(pg_is_up(w->pg));
    AWAIT(w, w->replies == n);
    assert_int_equal(0, w->r[n].calls);
    world_free(w);
}

static void test_a_reply_may_submit_the_next_unit(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(5000);
    w->r[0].submit_on_reply = 999;
    assert_true(submit(w, &w->r[0], &STMT("SELECT 7"), 1));
    AWAIT(w, w->replies == 1000);
    for (int i = 0; i < 1000; i++) {
        assert_true(w->r[i].ok);
        assert_int_equal(i, w->r[i].order);
    }
    world_free(w);
}

static void keep_binary(void *ctx, const struct pg_reply *reply)
{
    struct reply *r = ctx;
    assert_true(reply->ok);
    const PGresult *res = reply->results[0];
    int64_t number;
    assert_int_equal(1, PQfformat(res, 0));
    memcpy(&number, PQgetvalue(res, 0, 0), sizeof(number));
    assert_true((int64_t)be64toh((uint64_t)number) == INT64_C(-1234567890123));
    assert_int_equal(5, PQgetlength(res, 0, 1));
    assert_memory_equal("a\0b\377c", PQgetvalue(res, 0, 1), 5);
    assert_int_equal(1, PQgetisnull(res, 0, 2));
    assert_string_equal("text", PQgetvalue(res, 0, 3));
    r->calls++;
}

static void test_binary_values_and_null_pass_unchanged(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(5000);
    int64_t number = (int64_t)htobe64((uint64_t)INT64_C(-1234567890123));
    const struct pg_param params[] = {
        {.type = OID_INT8, .data = &number, .len = 8, .binary = true},
        {.type = OID_BYTEA, .data = "a\0b\377c", .len = 5, .binary = true},
        {.type = OID_BYTEA, .data = NULL, .binary = true},
        {.type = OID_TEXT, .data = "text"},
    };
    const struct pg_stmt stmt = {.sql = "SELECT $1, $2, $3, $4",
                                 .params = params,
                                 .n_params = LEN(params),
                                 .binary_result = true};
    assert_true(pg_submit(w->pg, &stmt, 1, keep_binary, &w->r[0]));
    AWAIT(w, w->r[0].calls == 1);
    world_free(w);
}

static void test_megabytes_in_both_directions_do_not_stick(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(10000);
    enum { SIZE = 1000000, UNITS = 30 };
    char *body = mem_alloc(SIZE);
    memset(body, 'x', SIZE);
    const struct pg_param param = {.type = OID_BYTEA, .data = body, .len = SIZE, .binary = true};
    const struct pg_stmt stmts[2] = {
        {.sql = "SELECT $1", .params = &param, .n_params = 1, .binary_result = true},
        {.sql = "SELECT length($1)", .params = &param, .n_params = 1}};
    for (int i = 0; i < UNITS; i++) {
        assert_true(submit(w, &w->r[i], stmts, 2));
    }
    AWAIT(w, w->replies == UNITS);
    for (int i = 0; i < UNITS; i++) {
        assert_true(w->r[i].ok);
        assert_int_equal(SIZE, w->r[i].value);
    }
    free(body);
    world_free(w);
}

static void test_a_notification_arrives_idle_and_busy(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(5000);
    assert_true(RUN(w, 0, "LISTEN webhooks")->ok);
    pg_server_sql("NOTIFY webhooks, 'id 7'");
    AWAIT(w, w->notifies == 1);
    assert_string_equal("webhooks", w->channel);
    assert_string_equal("id 7", w->payload);
    assert_true(submit(w, &w->r[1], &STMT("SELECT pg_sleep(0.05)"), 1));
    pg_server_sql("SELECT pg_notify('webhooks', 'n' || i) FROM generate_series(1, 600) i");
    AWAIT(w, w->notifies == 601 && w->r[1].calls == 1);
    assert_string_equal("n600", w->payload);
    world_free(w);
}

/* After a loss: one reply each, in order, then down, then up again without help. */
static void check_lost(struct world *w, int first, int n, enum err_code code)
{
    AWAIT(w, w->downs == 1);
    for (int i = first; i < first + n; i++) {
        assert_int_equal(1, w->r[i].calls);
        assert_false(w->r[i].ok);
        assert_int_equal(-1, w->r[i].failed);
        assert_int_equal(code, w->r[i].err.code);
        assert_true(w->r[i].err.ours);
        assert_true(w->r[i].err.retriable);
        assert_int_equal(i, w->r[i].order);
    }
    assert_int_equal(first + n, w->replies_at_down);
    assert_int_equal(0, pg_outstanding(w->pg));
    assert_false(submit(w, &w->r[first + n], &STMT("SELECT 1"), 1));
    AWAIT(w, w->ups == 2);
    assert_int_equal(9, RUN(w, first + n + 1, "SELECT 9")->value);
    for (int i = first; i < first + n; i++) {
        assert_int_equal(1, w->r[i].calls);
    }
}

static void test_a_lost_backend_answers_every_unit_once_and_comes_back(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(20000);
    for (int i = 0; i < 6; i++) {
        w->r[i].submit_on_reply = i == 3 ? 1 : 0; /* refused: the connection is down by then */
        assert_true(submit(w, &w->r[i], &STMT(i == 0 ? "SELECT pg_sleep(60)" : "SELECT 1"), 1));
    }
    AWAIT(w, pg_server_sql(
                 "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'unit-test' AND "
                 "wait_event = 'PgSleep'") == 1);
    pg_server_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
                  "'unit-test'");
    check_lost(w, 0, 6, ERR_IO);
    assert_non_null(strstr(w->why.text, "terminating connection"));
    world_free(w);
}

static void test_an_idle_connection_that_is_cut_comes_back(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(20000);
    const double lost = metrics_page_value(LOST);
    pg_server_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
                  "'unit-test'");
    check_lost(w, 0, 0, ERR_IO);
    assert_int_equal(1, (int)(metrics_page_value(LOST) - lost));
    world_free(w);
}

static void test_a_stalled_server_is_given_up_after_stall_ms(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(300);
    pid_t backend = (pid_t)RUN(w, 0, "SELECT pg_backend_pid()")->value;
    assert_int_equal(0, kill(backend, SIGSTOP));
    int64_t start = clock_mono_us();
    assert_true(submit(w, &w->r[1], &STMT("SELECT 1"), 1));
    assert_true(submit(w, &w->r[2], &STMT("SELECT 2"), 1));
    AWAIT(w, w->downs == 1);
    int64_t took = clock_mono_us() - start;
    check_lost(w, 1, 2, ERR_TIMEOUT);
    assert_int_equal(0, kill(backend, SIGCONT));
    assert_in_range(took, 295000, 2000000);
    world_free(w);
}

static void test_idle_and_slow_but_moving_is_not_stalled(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(300);
    double cpu = cpu_s();
    int64_t end = clock_mono_us() + 500000;
    AWAIT(w, clock_mono_us() > end);
    assert_true(cpu_s() - cpu < 0.25); /* and an idle connection does not spin */
    for (int i = 0; i < 5; i++) {
        assert_true(submit(w, &w->r[i], &STMT("SELECT pg_sleep(0.12)"), 1));
    }
    AWAIT(w, w->replies == 5);
    for (int i = 0; i < 5; i++) {
        assert_true(w->r[i].ok);
    }
    assert_int_equal(0, w->downs);
    world_free(w);
}

static void test_free_answers_outstanding_units_without_down(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(5000);
    for (int i = 0; i < 10; i++) {
        w->r[i].submit_on_reply = i == 9 ? 1 : 0;
        assert_true(submit(w, &w->r[i], &STMT("SELECT pg_sleep(0.2)"), 1));
    }
    pg_free(w->pg), w->pg = NULL;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(1, w->r[i].calls);
        assert_int_equal(-1, w->r[i].failed);
        assert_int_equal(i, w->r[i].order);
    }
    assert_int_equal(10, w->replies);
    assert_int_equal(0, w->downs);
    world_free(w);
}

static void test_free_is_safe_in_every_state(void **state)
{
    (void)state;
    pg_server_needed();
    char url[160];
    pg_server_url(url, sizeof(url), "postgres");
    for (int turns = 0; turns < 12; turns++) {
        struct world *w = world_new(url, 1000);
        for (int i = 0; i < turns; i++) {
            assert_int_equal(0, event_base_loop(w->base, EVLOOP_ONCE));
        }
        world_free(w);
    }
    pg_free(NULL);
}

static void test_asynchronous_commit_is_refused_until_it_is_repaired(void **state)
{
    (void)state;
    pg_server_needed();
    pg_server_sql("CREATE ROLE lax LOGIN");
    pg_server_sql("ALTER ROLE lax SET synchronous_commit = off");
    pg_server_sql("CREATE TABLE seen (n int)");
    char url[160];
    pg_server_url(url, sizeof(url), "lax");
    struct world *w = world_new(url, 1000);
    int64_t end = clock_mono_us() + 700000;
    AWAIT(w, clock_mono_us() > end);
    assert_int_equal(0, w->ups);
    assert_false(pg_is_up(w->pg));
    assert_int_equal(0, pg_outstanding(w->pg));
    assert_false(submit(w, &w->r[0], &STMT("SELECT 1"), 1));
    pg_server_sql("ALTER ROLE lax SET synchronous_commit = local");
    AWAIT(w, w->ups == 1);
    assert_int_equal(0, w->downs);
    world_free(w);
}

/* A failover can lead to a standby a moment before its promotion. */
static void test_a_read_only_session_is_refused_until_it_may_write(void **state)
{
    (void)state;
    pg_server_needed();
    pg_server_sql("CREATE ROLE reader LOGIN");
    pg_server_sql("ALTER ROLE reader SET default_transaction_read_only = on");
    char url[160];
    pg_server_url(url, sizeof(url), "reader");
    struct world *w = world_new(url, 1000);
    int64_t end = clock_mono_us() + 700000;
    AWAIT(w, clock_mono_us() > end);
    assert_int_equal(0, w->ups);
    assert_false(pg_is_up(w->pg));
    pg_server_sql("ALTER ROLE reader SET default_transaction_read_only = off");
    AWAIT(w, w->ups == 1);
    assert_int_equal(0, w->downs);
    world_free(w);
}

static void test_a_connection_that_is_given_up_comes_again(void **state)
{
    (void)state;
    pg_server_needed();
    char url[160];
    pg_server_url(url, sizeof(url), "postgres");
    struct world *w = world_new(url, 1000);
    const struct err why = {.code = ERR_DB, .text = "LISTEN was refused"};
    pg_break(w->pg, &why); /* not up yet: nothing */
    AWAIT(w, w->ups == 1);
    assert_true(submit(w, &w->r[0], &STMT("SELECT 1"), 1));
    pg_break(w->pg, &why);
    assert_true(w->downs == 0 && w->r[0].calls == 0); /* not from inside the call */
    assert_false(submit(w, &w->r[1], &STMT("SELECT 1"), 1));
    AWAIT(w, w->downs == 1);
    assert_int_equal(1, w->r[0].calls);
    AWAIT(w, w->ups == 2);
    assert_true(submit(w, &w->r[2], &STMT("SELECT 1"), 1));
    AWAIT(w, w->r[2].calls == 1 && w->r[2].ok);
    world_free(w);
}

static void test_a_server_that_starts_later_is_found(void **state)
{
    (void)state;
    pg_server_needed();
    char dir[96];
    char from[128];
    char to[128];
    char url[160];
    pg_server_format(dir, sizeof(dir), "%s/later", pg_server.dir);
    pg_server_format(from, sizeof(from), "%s/" PG_SERVER_SOCKET, pg_server.dir);
    pg_server_format(to, sizeof(to), "%s/" PG_SERVER_SOCKET, dir);
    pg_server_format(url, sizeof(url), "postgresql://postgres@/postgres?host=%s", dir);
    assert_int_equal(0, mkdir(dir, 0755));
    struct world *w = world_new(url, 1000);
    double cpu = cpu_s();
    int64_t end = clock_mono_us() + 700000;
    AWAIT(w, clock_mono_us() > end);
    assert_int_equal(0, w->ups + w->downs);
    assert_true(cpu_s() - cpu < 0.35);
    assert_int_equal(0, symlink(from, to));
    AWAIT(w, w->ups == 1);
    world_free(w);
}

static void test_a_killed_backend_takes_the_server_down_and_both_come_back(void **state)
{
    (void)state;
    pg_server_needed();
    struct world *w = world_up(20000);
    pid_t backend = (pid_t)RUN(w, 0, "SELECT pg_backend_pid()")->value;
    assert_int_equal(0, kill(backend, SIGSTOP)); /* so that it cannot answer before it dies */
    assert_true(submit(w, &w->r[1], &STMT("SELECT 1"), 1));
    assert_int_equal(0, kill(backend, SIGKILL));
    check_lost(w, 1, 1, ERR_IO);
    pg_server_connect_admin();
    world_free(w);
}

/* --- false servers
 * -------------------------------------------------------------------------------------- */

struct impostor {
    struct evconnlistener *listener;
    int accepted;
    const char *greeting; /* NULL: closes at once; empty: stays silent */
    size_t greeting_len;
    struct bufferevent *clients[CLIENTS_MAX];
};

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *addr,
                      int len, void *ctx)
{
    (void)addr, (void)len;
    struct impostor *s = ctx;
    int i = s->accepted++;
    if (s->greeting == NULL || i >= CLIENTS_MAX) {
        close(fd);
        return;
    }
    s->clients[i] =
        bufferevent_socket_new(evconnlistener_get_base(listener), fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_enable(s->clients[i], EV_READ);
    bufferevent_write(s->clients[i], s->greeting, s->greeting_len);
}

static void impostor_start(struct impostor *s, struct world *w, uint16_t port)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    s->listener =
        evconnlistener_new_bind(w->base, on_accept, s, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE,
                                16, (struct sockaddr *)&addr, sizeof(addr));
    assert_non_null(s->listener);
}

static void impostor_stop(struct impostor *s)
{
    evconnlistener_free(s->listener);
    for (int i = 0; i < CLIENTS_MAX; i++) {
        if (s->clients[i] != NULL) {
            bufferevent_free(s->clients[i]);
        }
    }
}

/* A port that nobody listens on (just now). */
static uint16_t free_port(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(0, bind(fd, (struct sockaddr *)&addr, sizeof(addr)));
    assert_int_equal(0, getsockname(fd, (struct sockaddr *)&addr, &len));
    close(fd);
    return ntohs(addr.sin_port);
}

static struct world *world_tcp(uint16_t port)
{
    char url[160];
    pg_server_format(url, sizeof(url),
                     "postgresql://u@127.0.0.1:%u/d?sslmode=disable&connect_timeout=1",
                     (unsigned)port);
    return world_new(url, 1000);
}

static void test_a_refused_connect_is_repeated_with_growing_pauses(void **state)
{
    (void)state;
    uint16_t port = free_port();
    struct world *w = world_tcp(port);
    struct impostor s = {.greeting = NULL};
    double cpu = cpu_s();
    int64_t end = clock_mono_us() + 400000;
    AWAIT(w, clock_mono_us() > end); /* refused by the kernel */
    impostor_start(&s, w, port);
    end = clock_mono_us() + 3200000;
    AWAIT(w, clock_mono_us() > end); /* accepted and dropped */
    assert_in_range(s.accepted, 1, 4);
    assert_true(cpu_s() - cpu < 0.8);
    assert_int_equal(0, w->ups + w->downs);
    assert_false(submit(w, &w->r[0], &STMT("SELECT 1"), 1));
    impostor_stop(&s);
    world_free(w);
}

static void test_a_server_that_accepts_and_says_nothing_is_given_up(void **state)
{
    (void)state;
    uint16_t port = free_port();
    struct world *w = world_tcp(port);
    struct impostor s = {.greeting = ""};
    impostor_start(&s, w, port);
    int64_t start = clock_mono_us();
    AWAIT(w, s.accepted == 2);
    assert_in_range(clock_mono_us() - start, 1000000, 3000000);
    impostor_stop(&s);
    world_free(w);
}

/* libpq asks the hosts in their order each time, and would ask the silent ones for ever. */
static void test_silent_hosts_do_not_hide_the_one_that_answers(void **state)
{
    (void)state;
    pg_server_needed();
    uint16_t refusing = free_port();
    uint16_t silent = free_port();
    char url[300];
    pg_server_format(url, sizeof(url),
                     "postgresql://postgres@/postgres?host=127.0.0.1,127.0.0.1,%s&port=%u,%u,5432"
                     "&connect_timeout=1",
                     pg_server.dir, (unsigned)refusing, (unsigned)silent);
    struct world *w = world_new(url, 1000);
    struct impostor s = {.greeting = ""};
    impostor_start(&s, w, silent);
    int64_t start = clock_mono_us();
    AWAIT(w, w->ups == 1);
    assert_in_range(clock_mono_us() - start, 2000000, 4500000); /* asked twice, in two tries */
    assert_int_equal(2, s.accepted);
    /* The next connection begins where this one was found. */
    start = clock_mono_us();
    pg_server_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
                  "'unit-test'");
    AWAIT(w, w->ups == 2);
    assert_true(clock_mono_us() - start < 900000);
    assert_int_equal(2, s.accepted);
    impostor_stop(&s);
    world_free(w);
}

static void test_libpq_never_resolves_a_name(void **state)
{
    (void)state;
    uint16_t closed = free_port();
    uint16_t port = free_port();
    char url[160];
    pg_server_format(url, sizeof(url),
                     "postgresql://u@no..name,localhost:%u,localhost:%u/d?sslmode=disable",
                     (unsigned)closed, (unsigned)port);
    struct world *w = world_new(url, 1000);
    struct impostor s = {.greeting = NULL};
    impostor_start(&s, w, port);
    AWAIT(w, s.accepted == 2); /* behind one without an address and one that refuses */
    assert_int_equal(0, names_asked);
    impostor_stop(&s);
    world_free(w);
}

static void test_a_server_older_than_15_is_refused(void **state)
{
    (void)state;
    static const char greeting[] = "R\0\0\0\10\0\0\0\0"
                                   "S\0\0\0\30server_version\0"
                                   "14.9\0"
                                   "Z\0\0\0\5I";
    uint16_t port = free_port();
    struct world *w = world_tcp(port);
    struct impostor s = {.greeting = greeting, .greeting_len = sizeof(greeting) - 1};
    impostor_start(&s, w, port);
    int64_t start = clock_mono_us();
    AWAIT(w, s.accepted == 3);
    assert_true(clock_mono_us() - start < 900000); /* refused at once, not after connect_timeout */
    assert_int_equal(0, w->ups + w->downs);
    impostor_stop(&s);
    world_free(w);
}

static void test_a_url_is_checked_and_never_shown(void **state)
{
    (void)state;
    static const struct {
        const char *url;
        bool ok;
    } rows[] = {
        {"postgresql://nrw:hunter2@127.0.0.1:5432/nrw", true},
        {"postgres:///nrw?host=/run/postgresql", true},
        {"postgresql://u@[::1]/d?sslmode=require&connect_timeout=3", true},
        {"", false},
        {"host=127.0.0.1 password=hunter2", false},
        {"nrw:hunter2@127.0.0.1/nrw", false},
        {"http://hunter2/", false},
        {"postgresql://u@h/d?hunter2=1", false},
        {"postgresql://u:hunter2%zz@h/d", false},
        {"postgresql://[::1/hunter2", false},
    };
    for (int i = 0; i < LEN(rows); i++) {
        struct err err = {.code = ERR_NONE};
        assert_int_equal(rows[i].ok, pg_check_url(rows[i].url, &err));
        assert_int_equal(rows[i].ok ? ERR_NONE : ERR_INVALID, err.code);
        assert_null(strstr(err.text, "hunter2"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_url_is_checked_and_never_shown),
        cmocka_unit_test(test_a_unit_commits_together_or_not_at_all),
        cmocka_unit_test(test_a_refusal_names_its_statement_and_the_next_unit_works),
        cmocka_unit_test(test_a_refused_commit_is_told_and_the_next_unit_works),
        cmocka_unit_test(test_replies_come_in_the_order_of_units),
        cmocka_unit_test(test_outstanding_units_are_bounded),
        cmocka_unit_test(test_a_reply_may_submit_the_next_unit),
        cmocka_unit_test(test_binary_values_and_null_pass_unchanged),
        cmocka_unit_test(test_megabytes_in_both_directions_do_not_stick),
        cmocka_unit_test(test_a_notification_arrives_idle_and_busy),
        cmocka_unit_test(test_free_answers_outstanding_units_without_down),
        cmocka_unit_test(test_free_is_safe_in_every_state),
        cmocka_unit_test(test_a_lost_backend_answers_every_unit_once_and_comes_back),
        cmocka_unit_test(test_an_idle_connection_that_is_cut_comes_back),
        cmocka_unit_test(test_a_stalled_server_is_given_up_after_stall_ms),
        cmocka_unit_test(test_idle_and_slow_but_moving_is_not_stalled),
        cmocka_unit_test(test_asynchronous_commit_is_refused_until_it_is_repaired),
        cmocka_unit_test(test_a_read_only_session_is_refused_until_it_may_write),
        cmocka_unit_test(test_a_connection_that_is_given_up_comes_again),
        cmocka_unit_test(test_a_server_that_starts_later_is_found),
        cmocka_unit_test(test_a_refused_connect_is_repeated_with_growing_pauses),
        cmocka_unit_test(test_a_server_that_accepts_and_says_nothing_is_given_up),
        cmocka_unit_test(test_silent_hosts_do_not_hide_the_one_that_answers),
        cmocka_unit_test(test_libpq_never_resolves_a_name),
        cmocka_unit_test(test_a_server_older_than_15_is_refused),
        cmocka_unit_test(test_a_killed_backend_takes_the_server_down_and_both_come_back),
    };
    return cmocka_run_group_tests(tests, pg_server_start, pg_server_stop);
}
