/* The schedule and its Lua scripts against a real Redis and a real PostgreSQL that this
 * program starts for itself (redis_server.h, pg_server.h), with the schema as schema/apply makes
 * it. A "worker" is one schedule on the loop that all of them share. */
#include "schedule.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "metrics.h"
#include "pg_fixture.h"
#include "redis_server.h"

#define PATIENCE_US (25 * INT64_C(1000000))
#define WORKERS_MAX 3
#define ITEMS_MAX   100001
#define PG_STALL_MS 10000
#define LEASE_MS    60000
#define MS          INT64_C(1000)

/* --- this process's wall clock, which must not matter ------------------------------------ */

static time_t wall_offset_s;

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): glibc names begin with __
int clock_gettime(clockid_t id, struct timespec *ts)
{
    long rc = syscall(SYS_clock_gettime, id, ts);
    if (id == CLOCK_REALTIME) {
        ts->tv_sec += wall_offset_s;
    }
    return (int)rc;
}

/* --- workers ---------------------------------------------------------------------------- */

struct world;
struct worker {
    struct world *w;
    struct schedule *s;
    size_t want;    /* told again after each claim; the claims are held against it */
    bool keep;      /* keeps the leases; else says done at once, row included        */
    bool only_once; /* want is not told again */
    size_t claimed;
    size_t claims;
};

struct world {
    struct event_base *base;
    struct event *ticker;
    struct pg *pg;
    struct worker worker[WORKERS_MAX];
    size_t claimed;
    uint16_t times[ITEMS_MAX]; /* that an id was claimed */
    int64_t at_us[ITEMS_MAX];  /* when it was claimed last, monotonic */
};

static struct uuid id_of(size_t n)
{
    struct uuid id = {{0, 0, 0, 0, 0, 0, 0x40, 0, 0x80}};
    for (int i = 0; i < 4; i++) {
        id.b[15 - i] = (uint8_t)(n >> (8 * i));
    }
    return id;
}

static size_t number_of(const struct uuid *id)
{
    size_t n = 0;
    for (int i = 12; i < 16; i++) {
        n = n << 8 | id->b[i];
    }
    struct uuid back = id_of(n);
    assert_true(uuid_equal(id, &back) && n < ITEMS_MAX);
    return n;
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void end_turn(struct world *w)
{
    for (int i = 0; i < WORKERS_MAX; i++) {
        if (w->worker[i].s != NULL) {
            schedule_after_turn(w->worker[i].s);
        }
    }
}

static bool turn_unless(struct world *w, bool cond, const char *text, int64_t end)
{
    if (cond) {
        return false;
    }
    if (clock_mono_us() > end) {
        fail_msg("never came true: %s", text);
    }
    end_turn(w);
    assert_int_equal(0, event_base_loop(w->base, EVLOOP_ONCE));
    end_turn(w);
    return true;
}
#define AWAIT(w, cond)                                                                             \
    for (int64_t end_ = clock_mono_us() + PATIENCE_US; turn_unless(w, cond, #cond, end_);) {       \
    }
#define PASS_MS(w, ms)                                                                             \
    for (int64_t until_ = clock_mono_us() + (ms)*MS;                                               \
         turn_unless(w, clock_mono_us() >= until_, "time passes", until_ + PATIENCE_US);) {        \
    }

/* Deletes the rows of what was claimed as the journal would, before the schedule hears of it. */
static void delete_rows(const struct uuid *ids, size_t n)
{
    size_t size = n * (UUID_TEXT + 4) + 100;
    char *sql = mem_alloc(size);
    size_t len =
        (size_t)snprintf(sql, size, "DELETE FROM pending_deliveries WHERE delivery_id IN (");
    for (size_t i = 0; i < n; i++) {
        char text[UUID_TEXT + 1];
        uuid_format(&ids[i], text);
        len += (size_t)snprintf(sql + len, size - len, "%s'%s'", i == 0 ? "" : ",", text);
    }
    (void)snprintf(sql + len, size - len, ")");
    (void)pg_server_sql(sql);
    free(sql);
}

static void on_claimed(void *ctx, const struct uuid *ids, size_t n)
{
    struct worker *k = ctx;
    struct world *w = k->w;
    assert_in_range(n, 1, SCHEDULE_CLAIM_MAX);
    assert_true(n <= k->want);
    k->claims++;
    k->claimed += n;
    w->claimed += n;
    for (size_t i = 0; i < n; i++) {
        size_t at = number_of(&ids[i]);
        w->times[at]++;
        w->at_us[at] = clock_mono_us();
        if (!k->keep) {
            schedule_done(k->s, &ids[i]);
        }
    }
    if (!k->keep) {
        delete_rows(ids, n);
    }
    k->want = k->only_once ? k->want - n : k->want;
    schedule_want(k->s, k->want);
}

static void worker_start(struct world *w, int at, const char *login, struct schedule_config cfg)
{
    char url[200];
    struct worker *k = &w->worker[at];
    struct err err = {.code = ERR_NONE};
    const struct schedule_handlers handlers = {.claimed = on_claimed, .ctx = k};
    assert_true(snprintf(url, sizeof(url), "unix://%s%s", redis_server.socket, login) > 0);
    *k = (struct worker){.w = w};
    cfg.redis_url = url;
    k->s = schedule_new(w->base, &cfg, w->pg, &handlers, &err);
    if (k->s == NULL) {
        fail_msg("%s", err.text);
    }
}

static const struct schedule_config usual = {.lease_ms = LEASE_MS, .reconcile_ms = 60000};

static void want(struct world *w, int at, size_t n)
{
    w->worker[at].want = n;
    schedule_want(w->worker[at].s, n);
}

static void worker_stop(struct world *w, int at)
{
    schedule_free(w->worker[at].s), w->worker[at].s = NULL;
}

static struct world *world_new(void)
{
    char url[160];
    struct world *w = mem_zero(1, sizeof(*w));
    const struct timeval tick = {.tv_usec = 2000};
    const struct pg_handlers none = {.ctx = NULL};
    w->base = event_base_new();
    w->ticker = event_new(w->base, -1, EV_PERSIST, on_tick, NULL);
    event_add(w->ticker, &tick);
    pg_server_url(url, sizeof(url), "postgres");
    w->pg = pg_new(w->base, url, "unit-test", PG_STALL_MS, &none);
    AWAIT(w, pg_is_up(w->pg));
    return w;
}

static unsigned long long total(const char *name)
{
    return metrics_counter(name, NULL, "")->value;
}

static bool index_is_whole(void)
{
    return REDIS_SERVER_DO("EXISTS {nrw}:epoch") == 1;
}

/* n workers that are up and have seen the index rebuilt. */
static struct world *world_up(int n, struct schedule_config cfg)
{
    pg_server_needed();
    (void)pg_server_sql("TRUNCATE pending_deliveries");
    redis_server_start();
    unsigned long long rebuilds = total("nrw_schedule_rebuilds_total");
    struct world *w = world_new();
    for (int i = 0; i < n; i++) {
        worker_start(w, i, "", cfg);
    }
    for (int i = 0; i < n; i++) {
        AWAIT(w, schedule_up(w->worker[i].s));
    }
    AWAIT(w, total("nrw_schedule_rebuilds_total") == rebuilds + 1);
    return w;
}

static void world_free(struct world *w)
{
    for (int i = 0; i < WORKERS_MAX; i++) {
        worker_stop(w, i);
    }
    pg_free(w->pg);
    event_free(w->ticker);
    event_base_free(w->base);
    free(w);
}

/* Rows first … first+n-1, due in delay_ms and step_ms more for each. */
static void insert_rows(size_t first, size_t n, long delay_ms, double step_ms)
{
    char sql[700];
    assert_true(
        snprintf(sql, sizeof(sql),
                 "INSERT INTO pending_deliveries (delivery_id, received_at, event_id, "
                 "webhook_id, tenant_id, event_type, next_attempt, next_attempt_at, reason) "
                 "SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, "
                 "now(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), "
                 "'scan.failed', 2, clock_timestamp() + (%ld + (n - %zu) * %f) "
                 "* interval '1 millisecond', 'retry' FROM generate_series(%zu, %zu) n",
                 delay_ms, first, step_ms, first, first + n - 1) > 0);
    (void)pg_server_sql(sql);
}

static void add(struct world *w, int at, size_t n, int64_t delay_ms)
{
    struct uuid id = id_of(n);
    schedule_add(w->worker[at].s, &id, delay_ms);
}

static void assert_each_once(const struct world *w, size_t first, size_t n)
{
    for (size_t i = first; i < first + n; i++) {
        if (w->times[i] != 1) {
            fail_msg("number %zu was claimed %d times", i, w->times[i]);
        }
    }
}

static long long redis_stat(const char *section, const char *name)
{
    return REDIS_SERVER_DO("EVAL %s 0 %s %s",
                           "return tonumber(string.match(redis.call('INFO', ARGV[1]), "
                           "ARGV[2] .. '(%d+)') or 0)",
                           section, name);
}

/* --- claims ----------------------------------------------------------------------------- */

static void test_two_claimers_never_get_the_same_delivery(void **state)
{
    (void)state;
    struct world *w = world_up(3, usual);
    for (size_t i = 0; i < 9000; i++) {
        add(w, (int)(i % 3), i, (int64_t)(i % 400));
    }
    for (int i = 0; i < 3; i++) {
        w->worker[i].keep = true;
        want(w, i, 40 + 13 * (size_t)i);
    }
    AWAIT(w, w->claimed >= 9000);
    PASS_MS(w, 300);
    assert_each_once(w, 0, 9000);
    assert_int_equal(9000, REDIS_SERVER_DO("ZCARD {nrw}:leased"));
    assert_int_equal(0, REDIS_SERVER_DO("ZCARD {nrw}:due"));
    for (int i = 0; i < 3; i++) {
        assert_true(w->worker[i].claimed > 0);
    }
    world_free(w);
}

static void test_nothing_is_claimed_before_it_is_due_and_little_after(void **state)
{
    (void)state;
    struct world *w = world_up(2, usual);
    const size_t n = 400;
    static int64_t due_us[400];
    want(w, 1, 500);
    for (size_t i = 0; i < n; i++) {
        int64_t delay_ms = (int64_t)(i * 7919 % 1600);
        due_us[i] = clock_mono_us() + delay_ms * MS;
        add(w, 0, i, delay_ms);
    }
    AWAIT(w, w->claimed == n);
    int64_t latest = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t late = w->at_us[i] - due_us[i];
        if (late < 0) {
            fail_msg("number %zu came %lld us early", i, (long long)-late);
        }
        latest = late > latest ? late : latest;
    }
    print_message("             latest: %.1f ms\n", (double)latest / 1000);
    assert_true(latest < 500 * MS);
    world_free(w);
}

static void test_the_clock_of_a_worker_does_not_matter(void **state)
{
    (void)state;
    static const time_t offsets_s[] = {0, 3600, -3600};
    struct world *w = world_up(2, usual);
    want(w, 1, 10);
    for (size_t i = 0; i < 3; i++) {
        int64_t before = clock_wall_us();
        wall_offset_s = offsets_s[i];
        assert_true(i == 0 || llabs(clock_wall_us() - before) > 3000000000);
        int64_t start = clock_mono_us();
        add(w, 0, i, 400);
        AWAIT(w, w->times[i] == 1);
        wall_offset_s = 0;
        assert_in_range(w->at_us[i] - start, 400 * MS, 900 * MS);
    }
    world_free(w);
}

static void test_want_zero_claims_nothing(void **state)
{
    (void)state;
    struct world *w = world_up(1, usual);
    for (size_t i = 0; i < 100; i++) {
        add(w, 0, i, 0);
    }
    long long pulse = REDIS_SERVER_DO("GET {nrw}:pulse");
    AWAIT(w, REDIS_SERVER_DO("GET {nrw}:pulse") > pulse + 1500);
    assert_int_equal(0, w->claimed);
    assert_int_equal(100, REDIS_SERVER_DO("ZCARD {nrw}:due"));
    w->worker[0].only_once = true;
    want(w, 0, 7);
    AWAIT(w, w->claimed == 7);
    PASS_MS(w, 1200);
    assert_int_equal(7, w->claimed);
    world_free(w);
}

static void test_an_idle_worker_asks_about_twice_a_second(void **state)
{
    (void)state;
    struct world *w = world_up(1, usual);
    add(w, 0, 0, 3600000);
    want(w, 0, 100);
    PASS_MS(w, 1200);
    long long before = redis_stat("commandstats", "cmdstat_evalsha:calls=");
    PASS_MS(w, 3000);
    long long calls = redis_stat("commandstats", "cmdstat_evalsha:calls=") - before;
    print_message("             %lld scripts in 3 s\n", calls);
    assert_in_range(calls, 4, 9); /* a claim and a reap a second */
    world_free(w);
}

static void test_a_new_item_wakes_a_sleeping_worker(void **state)
{
    (void)state;
    struct world *w = world_up(2, usual);
    want(w, 1, 10);
    add(w, 0, 999, 3600000);
    for (size_t i = 0; i < 8; i++) {
        PASS_MS(w, 130 * (long)i % 500);
        int64_t start = clock_mono_us();
        add(w, 0, i, 0);
        AWAIT(w, w->times[i] == 1);
        assert_true(w->at_us[i] - start < 100 * MS);
    }
    world_free(w);
}

static void test_a_lost_hint_costs_a_second_at_most(void **state)
{
    (void)state;
    struct world *w = world_up(1, usual);
    want(w, 0, 10);
    for (size_t i = 0; i < 4; i++) {
        PASS_MS(w, 170 * (long)i);
        char text[UUID_TEXT + 1];
        struct uuid id = id_of(i);
        uuid_format(&id, text);
        int64_t start = clock_mono_us();
        REDIS_SERVER_DO("ZADD {nrw}:due 1 %s", text);
        AWAIT(w, w->times[i] == 1);
        assert_true(w->at_us[i] - start < 1100 * MS);
    }
    world_free(w);
}

static void test_a_hint_of_a_stranger_does_no_harm(void **state)
{
    (void)state;
    static const char *const hints[] = {"", "0", "-5", "99999999999999999999999", "now", "7x"};
    struct world *w = world_up(1, usual);
    want(w, 0, 10);
    for (size_t i = 0; i < sizeof(hints) / sizeof(*hints); i++) {
        REDIS_SERVER_DO("PUBLISH {nrw}:wake %s", hints[i]);
    }
    REDIS_SERVER_DO("ZADD {nrw}:due 1 not-a-delivery");
    PASS_MS(w, 1200);
    add(w, 0, 1, 0);
    AWAIT(w, w->times[1] == 1);
    world_free(w);
}

/* --- leases ----------------------------------------------------------------------------- */

static void test_a_lease_of_a_dead_worker_expires_and_another_one_gets_it(void **state)
{
    (void)state;
    struct world *w = world_up(2, (struct schedule_config){.lease_ms = 700, .reconcile_ms = 60000});
    unsigned long long reaped = total("nrw_schedule_reaped_total");
    for (size_t i = 0; i < 1200; i++) {
        add(w, 0, i, 0);
    }
    w->worker[0].keep = true;
    want(w, 0, 2000);
    AWAIT(w, w->claimed == 1200);
    int64_t last = clock_mono_us();
    int64_t first = last;
    for (size_t i = 0; i < 1200; i++) {
        first = w->at_us[i] < first ? w->at_us[i] : first;
    }
    worker_stop(w, 0);
    want(w, 1, 2000);
    AWAIT(w, w->worker[1].claimed == 1200);
    for (size_t i = 0; i < 1200; i++) {
        assert_int_equal(2, w->times[i]);
        assert_true(w->at_us[i] - first >= 600 * MS); /* the answer of a claim takes its time */
        assert_true(w->at_us[i] - last < (700 + 1500) * MS);
    }
    assert_int_equal(1200, total("nrw_schedule_reaped_total") - reaped);
    world_free(w);
}

static void test_done_ends_the_lease_and_an_early_add_moves_it(void **state)
{
    (void)state;
    struct world *w = world_up(1, usual);
    w->worker[0].keep = true;
    for (size_t i = 0; i < 4; i++) {
        add(w, 0, i, 0);
    }
    want(w, 0, 4);
    AWAIT(w, w->claimed == 4);
    want(w, 0, 0);
    struct uuid id[4] = {id_of(0), id_of(1), id_of(2), id_of(3)};
    schedule_done(w->worker[0].s, &id[0]);
    schedule_add(w->worker[0].s, &id[1], 3600000);       /* its next attempt */
    schedule_give_back(w->worker[0].s, &id[2], 3600000); /* not started      */
    AWAIT(w, REDIS_SERVER_DO("ZCARD {nrw}:leased") == 1);
    AWAIT(w, REDIS_SERVER_DO("ZCARD {nrw}:due") == 2);
    schedule_add(w->worker[0].s, &id[1], 1800000); /* a plain add says when, whatever was known */
    AWAIT(w, REDIS_SERVER_DO("EVAL %s 1 {nrw}:due",
                             "local z = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES') "
                             "return z[4] - z[2]") >= 1795000);
    schedule_done(w->worker[0].s, &id[1]);
    schedule_done(w->worker[0].s, &id[2]);
    schedule_done(w->worker[0].s, &id[3]);
    schedule_done(w->worker[0].s, &id[3]);
    AWAIT(w, REDIS_SERVER_DO("EXISTS {nrw}:leased") == 0);
    assert_int_equal(2,
                     REDIS_SERVER_DO("ZCARD {nrw}:due")); /* who asked for them again, gets them */
    world_free(w);
}

static void test_what_is_given_back_comes_again_after_its_delay(void **state)
{
    (void)state;
    struct world *w = world_up(1, usual);
    w->worker[0].keep = true;
    struct uuid id = id_of(5);
    add(w, 0, 5, 0);
    want(w, 0, 1);
    for (int i = 1; i <= 3; i++) {
        AWAIT(w, w->times[5] == i);
        int64_t given = clock_mono_us();
        schedule_give_back(w->worker[0].s, &id, 300);
        AWAIT(w, w->times[5] == i + 1);
        assert_in_range(w->at_us[5] - given, 300 * MS, 700 * MS);
    }
    world_free(w);
}

/* --- Redis forgets ---------------------------------------------------------------------- */

static void load(struct world *w, int workers, size_t n, long spread_ms)
{
    double step = (double)spread_ms / (double)n;
    insert_rows(0, n, 0, step);
    for (size_t i = 0; i < n; i++) {
        add(w, (int)(i % (size_t)workers), i, (int64_t)((double)i * step));
    }
}

static void test_a_wiped_redis_is_rebuilt_and_nothing_is_lost(void **state)
{
    (void)state;
    struct world *w = world_up(2, usual);
    unsigned long long rebuilds = total("nrw_schedule_rebuilds_total");
    load(w, 2, 4000, 3000);
    want(w, 0, 100);
    want(w, 1, 100);
    for (size_t i = 1; i <= 3; i++) {
        AWAIT(w, w->claimed >= 1000 * i);
        REDIS_SERVER_DO("FLUSHALL");
    }
    AWAIT(w, pg_server_sql("SELECT count(*) FROM pending_deliveries") == 0);
    assert_each_once(w, 0, 4000);
    AWAIT(w, index_is_whole());
    AWAIT(w, total("nrw_schedule_rebuilds_total") > rebuilds);
    assert_in_range(total("nrw_schedule_rebuilds_total") - rebuilds, 1, 3);
    world_free(w);
}

static void test_a_killed_redis_is_rebuilt_and_nothing_is_lost(void **state)
{
    (void)state;
    struct world *w = world_up(2, usual);
    load(w, 2, 3000, 2000);
    want(w, 0, 100);
    want(w, 1, 100);
    AWAIT(w, w->claimed >= 1000);
    int64_t killed = clock_mono_us();
    redis_server_kill();
    AWAIT(w, !schedule_up(w->worker[0].s) && !schedule_up(w->worker[1].s));
    for (size_t i = 3000; i < 3100; i++) { /* forgotten by Redis, not by PostgreSQL */
        add(w, 0, i, 0);
    }
    insert_rows(3000, 100, 0, 0);
    PASS_MS(w, 100);
    redis_server_run();
    AWAIT(w, pg_server_sql("SELECT count(*) FROM pending_deliveries") == 0);
    print_message("             all claimed %.1f s after the kill\n",
                  (double)(clock_mono_us() - killed) / 1e6);
    for (size_t i = 0; i < 3100; i++) {
        assert_true(w->times[i] >= 1 && w->times[i] <= 2); /* 2: claimed, and its `done` was lost */
    }
    world_free(w);
}

/* Its epoch is there, its last additions are not. */
static void test_a_redis_that_restarts_with_an_old_snapshot_is_rebuilt(void **state)
{
    (void)state;
    struct world *w = world_up(2, usual);
    REDIS_SERVER_DO("SAVE");
    load(w, 2, 1500, 0);
    AWAIT(w, REDIS_SERVER_DO("ZCARD {nrw}:due") == 1500);
    redis_server_kill();
    AWAIT(w, !schedule_up(w->worker[0].s) && !schedule_up(w->worker[1].s));
    redis_server_run();
    assert_true(index_is_whole()); /* it says */
    AWAIT(w, REDIS_SERVER_DO("ZCARD {nrw}:due") == 1500);
    want(w, 0, 500);
    AWAIT(w, w->claimed == 1500);
    assert_each_once(w, 0, 1500);
    world_free(w);
}

static void test_a_rebuild_that_dies_in_the_middle_is_taken_over(void **state)
{
    (void)state;
    struct world *w = world_up(2, usual);
    unsigned long long rebuilds = total("nrw_schedule_rebuilds_total");
    insert_rows(0, 30000, 3600000, 1);
    worker_stop(w, 1);
    REDIS_SERVER_DO("FLUSHALL");
    AWAIT(w, REDIS_SERVER_DO("ZCARD {nrw}:due") >= 3000);
    worker_stop(w, 0); /* with a page on its way */
    assert_false(index_is_whole());
    assert_true(REDIS_SERVER_DO("PTTL {nrw}:rebuild") > 5000);
    assert_true(REDIS_SERVER_DO("ZCARD {nrw}:due") < 30000);
    worker_start(w, 1, "", usual);
    AWAIT(w, schedule_up(w->worker[1].s));
    PASS_MS(w, 1500);
    assert_false(index_is_whole()); /* the lock of the dead one is respected */
    REDIS_SERVER_DO("PEXPIRE {nrw}:rebuild 100");
    AWAIT(w, total("nrw_schedule_rebuilds_total") == rebuilds + 1);
    assert_int_equal(30000, REDIS_SERVER_DO("ZCARD {nrw}:due"));
    world_free(w);
}

static void test_a_wipe_during_a_rebuild_starts_it_anew(void **state)
{
    (void)state;
    struct world *w = world_up(1, usual);
    insert_rows(0, 20000, 3600000, 1);
    REDIS_SERVER_DO("FLUSHALL");
    AWAIT(w, REDIS_SERVER_DO("ZCARD {nrw}:due") >= 5000);
    REDIS_SERVER_DO("FLUSHALL");
    AWAIT(w, index_is_whole());
    assert_int_equal(20000, REDIS_SERVER_DO("ZCARD {nrw}:due"));
    world_free(w);
}

static void test_what_a_worker_holds_in_postgresql_comes_after_its_lease_there(void **state)
{
    (void)state;
    struct world *w = world_up(1, usual);
    insert_rows(0, 2, -1000, 0);
    insert_rows(2, 1, -1000, 0);
    (void)pg_server_sql("UPDATE pending_deliveries SET leased_until = clock_timestamp() "
                        "+ interval '6 seconds' WHERE delivery_id::text LIKE '%1'");
    want(w, 0, 10);
    int64_t start = clock_mono_us();
    REDIS_SERVER_DO("FLUSHALL");
    AWAIT(w, w->claimed == 3);
    assert_true(w->at_us[0] - start < 5500 * MS);
    assert_true(w->at_us[1] - start >= 5900 * MS);
    world_free(w);
}

static void test_overdue_rows_that_redis_forgot_are_found(void **state)
{
    (void)state;
    struct world *w =
        world_up(2, (struct schedule_config){.lease_ms = LEASE_MS, .reconcile_ms = 1000});
    unsigned long long before = total("nrw_schedule_reconciled_total");
    insert_rows(0, 2500, -100, 0); /* nobody told Redis */
    insert_rows(2500, 1, -100, 0);
    insert_rows(2501, 1, 3600000, 0);
    (void)pg_server_sql("UPDATE pending_deliveries SET leased_until = now() + interval '1 hour' "
                        "WHERE delivery_id = '00000000-0000-4000-8000-0000000009c4'");
    want(w, 0, 300);
    want(w, 1, 300);
    AWAIT(w, w->claimed == 2500);
    PASS_MS(w, 1500);
    assert_each_once(w, 0, 2500);
    assert_int_equal(0, w->times[2500]); /* somebody is at it */
    assert_int_equal(0, w->times[2501]); /* not due           */
    assert_int_equal(2500, total("nrw_schedule_reconciled_total") - before);
    assert_int_equal(1, REDIS_SERVER_DO("EXISTS {nrw}:epoch"));
    world_free(w);
}

/* A redelivery of what waits for its fifth attempt, whose hint was lost. */
static void test_a_row_that_became_due_earlier_than_redis_knows_is_found(void **state)
{
    (void)state;
    struct world *w =
        world_up(1, (struct schedule_config){.lease_ms = LEASE_MS, .reconcile_ms = 1000});
    insert_rows(0, 2, 3600000, 0);
    add(w, 0, 0, 3600000);
    add(w, 0, 1, 3600000);
    AWAIT(w, REDIS_SERVER_DO("ZCARD {nrw}:due") == 2);
    (void)pg_server_sql("UPDATE pending_deliveries SET next_attempt_at = now() WHERE delivery_id = "
                        "'00000000-0000-4000-8000-000000000000'");
    want(w, 0, 2);
    AWAIT(w, w->times[0] == 1);
    PASS_MS(w, 1500);
    assert_int_equal(0, w->times[1]);
    world_free(w);
}

static void test_forgotten_scripts_are_sent_again(void **state)
{
    (void)state;
    struct world *w = world_up(2, usual);
    load(w, 2, 2000, 1500);
    want(w, 0, 50);
    want(w, 1, 50);
    for (size_t i = 1; i <= 8; i++) {
        AWAIT(w, w->claimed >= 200 * i);
        REDIS_SERVER_DO("SCRIPT FLUSH");
    }
    AWAIT(w, w->claimed >= 2000);
    assert_each_once(w, 0, 2000);
    world_free(w);
}

/* --- Redis refuses ---------------------------------------------------------------------- */

/* Down while it refuses, and up to date right after it. */
static void live_through_a_refusal(const char *begin, const char *end)
{
    struct world *w = world_up(2, usual);
    unsigned long long errors = total("nrw_schedule_errors_total");
    want(w, 1, 100);
    insert_rows(0, 50, 3600000, 0);
    for (size_t i = 0; i < 50; i++) {
        add(w, 0, i, 3600000);
    }
    AWAIT(w, REDIS_SERVER_DO("ZCARD {nrw}:due") == 50);
    freeReplyObject(redisCommand(redis_server.admin, begin));
    AWAIT(w, !schedule_up(w->worker[0].s) && !schedule_up(w->worker[1].s));
    assert_true(metrics_gauge("nrw_redis_up", NULL, "")->value < 0.5);
    insert_rows(100, 50, 0, 0);
    for (size_t i = 100; i < 150; i++) {
        add(w, 0, i, 0);
    }
    PASS_MS(w, 2500);
    assert_int_equal(0, w->claimed);
    assert_true(total("nrw_schedule_errors_total") > errors);
    freeReplyObject(redisCommand(redis_server.admin, end));
    int64_t repaired = clock_mono_us();
    AWAIT(w, w->claimed == 50);
    assert_true(clock_mono_us() - repaired < 8000 * MS); /* by a rebuild: no reconcile is due */
    assert_each_once(w, 100, 50);
    assert_true(metrics_gauge("nrw_redis_up", NULL, "")->value > 0.5);
    world_free(w);
}

static void test_a_read_only_redis_is_down_until_it_takes_writes(void **state)
{
    (void)state;
    live_through_a_refusal("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE");
}

static void test_a_full_redis_is_down_until_it_takes_writes(void **state)
{
    (void)state;
    live_through_a_refusal("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0");
}

static void test_a_stalled_redis_is_given_up_and_nothing_is_claimed_twice(void **state)
{
    (void)state;
    struct world *w = world_up(2, usual);
    load(w, 2, 600, 1000);
    want(w, 0, 20);
    want(w, 1, 20);
    AWAIT(w, w->claimed >= 100);
    kill(redis_server.pid, SIGSTOP);
    int64_t start = clock_mono_us();
    AWAIT(w, !schedule_up(w->worker[0].s) && !schedule_up(w->worker[1].s));
    assert_true(clock_mono_us() - start < 5000 * MS);
    kill(redis_server.pid, SIGCONT);
    AWAIT(w, schedule_up(w->worker[0].s) && schedule_up(w->worker[1].s));
    /* A claim whose answer was lost is leased to nobody until its lease ends: at most one a worker.
     */
    AWAIT(w, w->claimed >= 600 - 40);
    PASS_MS(w, 1500);
    for (size_t i = 0; i < 600; i++) {
        assert_true(w->times[i] <= 1);
    }
    assert_int_equal(600 - w->claimed, pg_server_sql("SELECT count(*) FROM pending_deliveries"));
    world_free(w);
}

static void test_a_redis_that_comes_late_is_filled(void **state)
{
    (void)state;
    pg_server_needed();
    (void)pg_server_sql("TRUNCATE pending_deliveries");
    redis_server_start();
    redis_server_kill();
    struct world *w = world_new();
    worker_start(w, 0, "", usual);
    want(w, 0, 10);
    insert_rows(0, 20, 0, 0);
    for (size_t i = 0; i < 20; i++) {
        add(w, 0, i, 0);
    }
    PASS_MS(w, 300);
    assert_false(schedule_up(w->worker[0].s));
    redis_server_run();
    AWAIT(w, w->claimed == 20);
    assert_each_once(w, 0, 20);
    world_free(w);
}

/* What an operator has to grant, and what still works without INFO and PUBLISH. */
static void test_the_rights_that_the_readme_names_are_enough(void **state)
{
    (void)state;
    pg_server_needed();
    (void)pg_server_sql("TRUNCATE pending_deliveries");
    redis_server_start();
    REDIS_SERVER_DO("ACL SETUSER nrw on >pw ~{nrw}:* &{nrw}:wake +ping +info +subscribe +publish "
                    "+eval +evalsha +script|load +client|setname +time +get +set +del +pexpire "
                    "+getrange +zadd +zrem +zrange +zrangebyscore +zscore");
    REDIS_SERVER_DO("ACL SETUSER less on >pw ~{nrw}:* resetchannels +eval +evalsha +time +get +set "
                    "+del +pexpire +getrange +zadd +zrem +zrange +zrangebyscore +zscore");
    struct world *w = world_new();
    unsigned long long errors = total("nrw_schedule_errors_total");
    worker_start(w, 0, "?user=nrw&password=pw", usual);
    worker_start(w, 1, "?user=less&password=pw", usual);
    AWAIT(w, schedule_up(w->worker[0].s) && schedule_up(w->worker[1].s));
    AWAIT(w, index_is_whole());
    for (int i = 0; i < 2; i++) {
        for (size_t n = 0; n < 10; n++) {
            add(w, 1 - i, 10 * (size_t)i + n, 0);
        }
        want(w, i, 10);
        AWAIT(w, w->claimed == 10 * (size_t)(i + 1));
        want(w, i, 0);
    }
    assert_each_once(w, 0, 20);
    assert_int_equal(0, total("nrw_schedule_errors_total") - errors);
    world_free(w);
}

/* --- crowds and ends -------------------------------------------------------------------- */

static void test_a_hundred_thousand_overdue_are_claimed_as_wanted(void **state)
{
    (void)state;
    const size_t n = 100000;
    struct world *w = world_up(1, usual);
    insert_rows(0, n, -3600000, 30);
    int64_t start = clock_mono_us();
    REDIS_SERVER_DO("FLUSHALL");
    AWAIT(w, index_is_whole());
    int64_t rebuilt = clock_mono_us();
    assert_int_equal(n, REDIS_SERVER_DO("ZCARD {nrw}:due"));
    REDIS_SERVER_DO("CONFIG RESETSTAT");
    w->worker[0].keep = true;
    want(w, 0, 1); /* on_claimed() holds each claim against the want of the moment */
    for (size_t seen = 0; w->claimed < n;) {
        AWAIT(w, w->claimed > seen || w->claimed == n);
        seen = w->claimed;
        want(w, 0, 1 + seen * 7919 % 1200);
    }
    int64_t end = clock_mono_us();
    assert_each_once(w, 0, n);
    size_t claims = w->worker[0].claims;
    print_message("             rebuild %.0f rows/s; claims of %zu on average: %.0f us each, "
                  "%.0f us of them in Redis, %.0f ids/s\n",
                  (double)n / (double)(rebuilt - start) * 1e6, n / claims,
                  (double)(end - rebuilt) / (double)claims,
                  (double)redis_stat("commandstats", "cmdstat_evalsha:calls=%d+,usec=") /
                      (double)claims,
                  (double)n / (double)(end - rebuilt) * 1e6);
    world_free(w);
}

static void test_free_with_everything_outstanding(void **state)
{
    (void)state;
    struct world *w = world_up(2, usual);
    insert_rows(0, 20000, 0, 0);
    for (int round = 0; round < 12; round++) {
        REDIS_SERVER_DO("FLUSHALL");
        want(w, 0, 500);
        w->worker[0].keep = true;
        for (size_t i = 0; i < 700; i++) {
            add(w, 0, i, 0);
        }
        for (int turns = 0; turns < 3 * round; turns++) {
            end_turn(w);
            event_base_loop(w->base, EVLOOP_NONBLOCK);
        }
        schedule_after_turn(w->worker[0].s);
        worker_stop(w, 0);
        worker_start(w, 0, "", usual);
        AWAIT(w, schedule_up(w->worker[0].s));
    }
    worker_stop(w, 0);
    worker_stop(w, 1);
    AWAIT(w, pg_outstanding(w->pg) == 0); /* a page that nobody waits for */
    world_free(w);
}

static void test_a_bad_url_is_told(void **state)
{
    (void)state;
    struct err err = {.code = ERR_NONE};
    const struct schedule_config cfg = {
        .redis_url = "rediss://:secret@h", .lease_ms = 1, .reconcile_ms = 1};
    const struct schedule_handlers none = {.claimed = on_claimed};
    struct event_base *base = event_base_new();
    assert_null(schedule_new(base, &cfg, NULL, &none, &err));
    assert_int_equal(ERR_INVALID, err.code);
    assert_null(strstr(err.text, "secret"));
    event_base_free(base);
}

#define TEST(name) cmocka_unit_test_teardown(name, redis_server_stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_two_claimers_never_get_the_same_delivery),
        TEST(test_nothing_is_claimed_before_it_is_due_and_little_after),
        TEST(test_the_clock_of_a_worker_does_not_matter),
        TEST(test_want_zero_claims_nothing),
        TEST(test_an_idle_worker_asks_about_twice_a_second),
        TEST(test_a_new_item_wakes_a_sleeping_worker),
        TEST(test_a_lost_hint_costs_a_second_at_most),
        TEST(test_a_hint_of_a_stranger_does_no_harm),
        TEST(test_a_lease_of_a_dead_worker_expires_and_another_one_gets_it),
        TEST(test_done_ends_the_lease_and_an_early_add_moves_it),
        TEST(test_what_is_given_back_comes_again_after_its_delay),
        TEST(test_a_wiped_redis_is_rebuilt_and_nothing_is_lost),
        TEST(test_a_killed_redis_is_rebuilt_and_nothing_is_lost),
        TEST(test_a_redis_that_restarts_with_an_old_snapshot_is_rebuilt),
        TEST(test_a_rebuild_that_dies_in_the_middle_is_taken_over),
        TEST(test_a_wipe_during_a_rebuild_starts_it_anew),
        TEST(test_what_a_worker_holds_in_postgresql_comes_after_its_lease_there),
        TEST(test_overdue_rows_that_redis_forgot_are_found),
        TEST(test_a_row_that_became_due_earlier_than_redis_knows_is_found),
        TEST(test_forgotten_scripts_are_sent_again),
        TEST(test_a_read_only_redis_is_down_until_it_takes_writes),
        TEST(test_a_full_redis_is_down_until_it_takes_writes),
        TEST(test_a_stalled_redis_is_given_up_and_nothing_is_claimed_twice),
        TEST(test_a_redis_that_comes_late_is_filled),
        TEST(test_the_rights_that_the_readme_names_are_enough),
        TEST(test_a_hundred_thousand_overdue_are_claimed_as_wanted),
        TEST(test_free_with_everything_outstanding),
        TEST(test_a_bad_url_is_told),
    };
    return cmocka_run_group_tests(tests, start_server_with_schema, pg_server_stop);
}
