/* What an outcome means for the pending row and for the webhook, against a real PostgreSQL with the
 * real schema, and written by two journals at the same time. */
#include "journal.h"

#include "pg_fixture.h"
#include "worker_fixture.h"

#define ITEMS_MAX 1100
#define STARTED   INT64_C(1773570601250000)
#define SECOND    INT64_C(1000000)
#define HOUR      (3600 * SECOND)

struct item {
    struct journal_entry e;
    int ends;
};

static struct {
    struct config cfg;
    struct event_base *base;
    struct event *ticker;
    struct journal *journals[2];
    struct event_account account;
    size_t n;
    size_t ended;
    struct item items[ITEMS_MAX];
} world;

/* --- the world --- */

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void turn(void)
{
    assert_int_equal(0, event_base_loop(world.base, EVLOOP_ONCE));
    journal_after_turn(world.journals[0]);
    journal_after_turn(world.journals[1]);
}

/* `kept` tells the rows of a test apart whatever becomes of them. */
static int start(void **state)
{
    const int result = start_server_with_schema(state);
    if (result == 0 && pg_server.postmaster != 0) {
        sql("ALTER TABLE pending_deliveries ADD kept integer");
    }
    return result;
}

/* Webhooks 0 … 4 of one tenant. */
static void make_webhooks(void)
{
    sql("DROP TABLE IF EXISTS before, began; DELETE FROM attempts; DELETE FROM events; DELETE FROM "
        "pending_deliveries;"
        "DELETE FROM notifications; DELETE FROM replay_jobs; DELETE FROM webhooks; DELETE FROM "
        "tenants;"
        "INSERT INTO tenants (id, name) VALUES ('70000000-0000-4000-8000-000000000000', 't');"
        "INSERT INTO webhooks (id, tenant_id, url, secret, events) SELECT"
        " ('3b000000-0000-4000-8000-00000000000' || n)::uuid,"
        " '70000000-0000-4000-8000-000000000000', 'https://a.example/', 'x', '{*}'"
        " FROM generate_series(0, 4) n");
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
    make_webhooks();
    pg_server_url(url, sizeof(url), "postgres");
    settings_defaults(&world.cfg);
    settings_set(&world.cfg.database_url, url);
    world.base = event_base_new();
    world.ticker = event_new(world.base, -1, EV_PERSIST, on_tick, NULL);
    event_add(world.ticker, &tick);
    world.journals[0] = journal_new(world.base, &world.cfg);
    world.journals[1] = journal_new(world.base, &world.cfg);
    AWAIT_TURNS(journal_up(world.journals[0]) && journal_up(world.journals[1]));
    return 0;
}

static int end(void **state)
{
    (void)state;
    if (pg_server.postmaster == 0) {
        return 0;
    }
    journal_free(world.journals[0]);
    journal_free(world.journals[1]);
    for (size_t i = 0; i < world.n; i++) {
        nrw_event_unref(world.items[i].e.ev);
    }
    event_free(world.ticker);
    event_base_free(world.base);
    config_free(&world.cfg);
    return world.account.events == 0 ? 0 : -1;
}

static void on_done(struct journal_entry *e, enum journal_end how)
{
    struct item *item = (struct item *)((char *)e - offsetof(struct item, e));
    assert_int_equal(JOURNAL_COMMITTED, how);
    item->ends++;
    world.ended++;
}

/* The outcome of attempt `attempt` of event n for a webhook. */
static struct item *make_item(unsigned n, unsigned webhook, unsigned attempt)
{
    assert_true(world.n < ITEMS_MAX);
    struct item *item = &world.items[world.n++];
    const struct uuid wh = id_of(0x3b, webhook);
    struct nrw_event *ev = event_make(&world.account, NULL, n, n);
    ev->row_committed = attempt > 1;
    item->e = (struct journal_entry){
        .done = on_done,
        .ev = ev,
        .delivery_id = uuid_of_delivery(&ev->id, &wh),
        .webhook_id = wh,
        .attempt = attempt,
        .outcome = "failed",
        .started_at_us = STARTED,
        .status_code = 500,
    };
    return item;
}

static struct item *make_standing(unsigned n, unsigned webhook, enum journal_standing standing)
{
    struct item *item = make_item(n, webhook, 5);
    item->e.standing = standing;
    item->e.url = "https://a.example/";
    switch (standing) {
    case JOURNAL_STANDING_EXHAUSTED:
        item->e.outcome = "exhausted";
        item->e.error = "the endpoint answered 500";
        break;
    case JOURNAL_STANDING_GONE:
        item->e.outcome = "gone";
        item->e.status_code = 410;
        break;
    case JOURNAL_STANDING_KEEP:
    case JOURNAL_STANDING_SUCCEEDED:
    case JOURNAL_STANDING_SUCCEEDED_NOTED:
        item->e.outcome = "delivered";
        item->e.status_code = 200;
        break;
    }
    return item;
}

static void write_to(int journal, struct item *item)
{
    journal_add(world.journals[journal], &item->e);
}

static void await_all(void)
{
    AWAIT_TURNS(world.ended == world.n);
    for (size_t i = 0; i < world.n; i++) {
        assert_int_equal(1, world.items[i].ends);
    }
}

static void standing(unsigned n, unsigned webhook, enum journal_standing what)
{
    write_to(0, make_standing(n, webhook, what));
    await_all();
}

/* --- the pending row --- */

/* The row of event n for webhook 1 stands at this attempt, leased to somebody. */
static void put_row(unsigned n, unsigned stands_at)
{
    char text[1024];
    char id[UUID_TEXT + 1];
    const struct uuid ev = id_of(0xe0, n);
    const struct uuid wh = id_of(0x3b, 1);
    const struct uuid delivery = uuid_of_delivery(&ev, &wh);
    uuid_format(&delivery, id);
    pg_server_format(text, sizeof(text),
                     "INSERT INTO pending_deliveries (delivery_id, received_at, event_id,"
                     " webhook_id, tenant_id, event_type, next_attempt, final_attempt,"
                     " replay_job_id, next_attempt_at, reason, leased_until, kept) VALUES ('%s', "
                     "now(), gen_random_uuid(),"
                     " '3b000000-0000-4000-8000-000000000001',"
                     " '70000000-0000-4000-8000-000000000000', 'a.b', %u, 9,"
                     " '4a000000-0000-4000-8000-00000000000%u', now() - interval '1 s',"
                     " 'retry', now() + interval '1 minute', %u)",
                     id, stands_at, n % 2, n);
    sql(text);
}

/* Each pair of (the row stands at, the attempt that was made) is event 10 * at + made. */
static void put_all_pairs(enum journal_pending pending)
{
    for (unsigned at = 1; at <= 5; at++) {
        for (unsigned made = 1; made <= 5; made++) {
            put_row(10 * at + made, at);
            struct item *item = make_item(10 * at + made, 1, made);
            item->e.ev->row_committed = true;
            item->e.pending = pending;
            item->e.pending_reason = "retry";
            item->e.pending_attempt = made + 1;
            item->e.pending_delay_us = 30 * SECOND;
        }
    }
    sql("CREATE TABLE before AS SELECT kept, xmin::text AS x FROM pending_deliveries");
    for (size_t i = 0; i < world.n; i++) {
        write_to((int)i % 2, &world.items[i]);
    }
    await_all();
}

static struct item *make_put(unsigned n, unsigned next, const char *reason)
{
    struct item *item = make_item(n, 1, 1);
    item->e.outcome = strcmp(reason, "spill") == 0 ? NULL : "failed";
    item->e.pending = JOURNAL_PENDING_PUT;
    item->e.pending_reason = reason;
    item->e.pending_attempt = next;
    return item;
}

/* A batch whose answer was lost is written again, and another worker was faster meanwhile. */
static void what_another_worker_has_delivered_since_is_not_put_again(void **state)
{
    (void)state;
    pg_server_needed();
    static const unsigned made[][2] = {{1, 1}, {1, 2}, {2, 1}};
    for (size_t i = 0; i < COUNT(made); i++) {
        write_to(0, make_item(made[i][0], 1, made[i][1]));
    }
    await_all();
    write_to(0, make_put(1, 2, "retry"));
    write_to(0, make_put(2, 1, "spill"));
    write_to(0, make_put(3, 2, "retry")); /* nobody has */
    write_to(0, make_put(4, 1, "spill"));
    await_all();
    sql_is("1 2", "SELECT string_agg(next_attempt::text, ' ' ORDER BY next_attempt) FROM"
                  " pending_deliveries");
    assert_int_equal(4, sql("SELECT count(*) FROM attempts"));
}

static void a_row_moves_only_from_the_attempt_that_was_made(void **state)
{
    (void)state;
    pg_server_needed();
    put_all_pairs(JOURNAL_PENDING_MOVE);
    sql_is("11=2 22=3 33=4 44=5 55=6",
           "SELECT string_agg(kept || '=' || next_attempt, ' ' ORDER BY kept) FROM"
           " pending_deliveries WHERE leased_until IS NULL AND next_attempt_at > now() + interval"
           " '20 s' AND reason = 'retry'");
    assert_int_equal(20, sql("SELECT count(*) FROM pending_deliveries p JOIN before USING (kept)"
                             " WHERE p.xmin::text = x")); /* overtaken: nothing was touched */
    assert_int_equal(25, sql("SELECT count(*) FROM pending_deliveries WHERE final_attempt = 9 AND"
                             " replay_job_id IS NOT NULL")); /* what a replay needs stays */
}

static void a_row_is_deleted_only_at_the_attempt_that_was_made(void **state)
{
    (void)state;
    pg_server_needed();
    put_all_pairs(JOURNAL_PENDING_DELETE);
    assert_int_equal(20, sql("SELECT count(*) FROM pending_deliveries p JOIN before USING (kept)"
                             " WHERE p.xmin::text = x AND kept / 10 <> kept % 10"));
    assert_int_equal(20, sql("SELECT count(*) FROM pending_deliveries"));
}

/* Rows of even events belong to job 0, of odd ones to job 1. */
static void what_a_replay_made_counts_for_its_job_once_when_it_ends(void **state)
{
    (void)state;
    pg_server_needed();
    static const char *const outcomes[] = {"delivered", "delivered", "exhausted", "gone",     NULL,
                                           "delivered", "failed",    "delivered", "delivered"};
    sql("INSERT INTO replay_jobs (id, tenant_id, webhook_id, since, until, selection, state) SELECT"
        " ('4a000000-0000-4000-8000-00000000000' || n)::uuid,"
        " '70000000-0000-4000-8000-000000000000', ('3b000000-0000-4000-8000-00000000000' ||"
        " n)::uuid, now() - interval '1 h', now(), 'all', 'running' FROM generate_series(0, 1) n");
    for (unsigned n = 0; n < COUNT(outcomes); n++) {
        put_row(n, n == 7 ? 3 : 2); /* 7 was overtaken */
        struct item *item = make_item(n, 1, 2);
        item->e.outcome = outcomes[n];
        item->e.pending = JOURNAL_PENDING_DELETE;
    }
    sql("UPDATE pending_deliveries SET replay_job_id = NULL WHERE kept = 8");
    for (int times = 0; times < 2; times++) { /* as after a lost answer */
        world.ended = 0;
        for (size_t i = 0; i < world.n; i++) {
            world.items[i].ends = 0;
            write_to(0, &world.items[i]);
        }
        await_all();
        sql_is("1 1, 2 1", /* of 0, 2, 4, 6 and of 1, 3, 5 */
               "SELECT string_agg(delivered || ' ' || failed, ', ' ORDER BY id) FROM replay_jobs");
    }
}

/* Two workers made the same attempt, because one was stopped for longer than its lease. */
static void only_the_owner_of_the_lease_moves_or_deletes_a_row(void **state)
{
    (void)state;
    pg_server_needed();
    for (unsigned n = 0; n < 8; n++) {
        put_row(n, 2);
        struct item *item = make_item(n, 1, 2);
        item->e.pending = n < 4 ? JOURNAL_PENDING_MOVE : JOURNAL_PENDING_DELETE;
        item->e.pending_reason = "retry";
        item->e.pending_attempt = 3;
    }
    sql("UPDATE pending_deliveries SET leased_until = NULL WHERE kept % 4 = 3");
    const int64_t lease_us = sql("SELECT DISTINCT (1000000 * extract(epoch FROM"
                                 " leased_until))::bigint FROM pending_deliveries WHERE kept = 1");
    sql("UPDATE pending_deliveries p SET leased_until = o.leased_until FROM pending_deliveries o"
        " WHERE o.kept = 1 AND p.kept % 4 < 3");
    for (unsigned n = 0; n < 8; n++) {
        static const int64_t off_us[] = {0, 0, -1, 0};
        if (n % 4 > 0) { /* none, mine, one that ran out, one that somebody gave back */
            world.items[n].e.lease_us = lease_us + off_us[n % 4];
        }
        write_to((int)n % 2, &world.items[n]);
    }
    await_all();
    sql_is("0=3 1=3 2=2 3=2 6=2 7=2",
           "SELECT string_agg(kept || '=' || next_attempt, ' ' ORDER BY kept) FROM"
           " pending_deliveries");
}

static void what_is_given_back_is_free_and_no_attempt(void **state)
{
    (void)state;
    pg_server_needed();
    put_row(1, 3);
    struct item *item = make_item(1, 1, 3);
    item->e.outcome = NULL;
    item->e.pending = JOURNAL_PENDING_MOVE;
    item->e.pending_reason = "spill";
    item->e.pending_attempt = 3;
    write_to(0, item);
    await_all();
    assert_int_equal(1, sql("SELECT count(*) FROM pending_deliveries WHERE next_attempt = 3 AND"
                            " leased_until IS NULL AND next_attempt_at <= now() AND reason ="
                            " 'spill'"));
    assert_int_equal(0, sql("SELECT count(*) FROM attempts"));
}

static void a_kept_row_stays_as_it_is(void **state)
{
    (void)state;
    pg_server_needed();
    put_row(1, 1);
    sql("CREATE TABLE before AS SELECT xmin::text AS x FROM pending_deliveries");
    struct item *item = make_item(1, 1, 1);
    item->e.outcome = "delivered";
    write_to(0, item);
    await_all();
    assert_int_equal(1, sql("SELECT count(*) FROM pending_deliveries p, before WHERE"
                            " p.xmin::text = x"));
}

/* The worker's wall clock is in started_at and nowhere else: an hour off changes no due time. */
static void a_delay_counts_from_the_commit_by_the_servers_clock(void **state)
{
    (void)state;
    pg_server_needed();
    static const int64_t off[] = {-HOUR, 0, HOUR};
    sql("CREATE TABLE began AS SELECT clock_timestamp() AS at");
    for (unsigned i = 0; i < COUNT(off); i++) {
        struct item *put = make_item(i, 1, 1);
        put->e.pending = JOURNAL_PENDING_PUT;
        put_row(10 + i, 2);
        struct item *move = make_item(10 + i, 1, 2);
        move->e.pending = JOURNAL_PENDING_MOVE;
        struct item *const both[] = {put, move};
        for (int k = 0; k < 2; k++) {
            both[k]->e.started_at_us = clock_wall_us() + off[i];
            both[k]->e.pending_reason = "retry";
            both[k]->e.pending_attempt = both[k]->e.attempt + 1;
            both[k]->e.pending_delay_us = 30 * SECOND + 123456;
            write_to(k, both[k]);
        }
    }
    await_all();
    assert_int_equal(6, sql("SELECT count(*) FROM pending_deliveries JOIN attempts USING"
                            " (delivery_id, next_attempt_at), began WHERE next_attempt_at -"
                            " updated_at = interval '30.123456 s' AND updated_at BETWEEN began.at"
                            " AND clock_timestamp()"));
    assert_int_equal(4, sql("SELECT count(*) FROM attempts WHERE abs(extract(epoch FROM"
                            " next_attempt_at - started_at)) > 3000"));
}

/* --- standing --- */

static void a_thousand_exhausted_deliveries_in_two_journals_write_one_mail(void **state)
{
    (void)state;
    pg_server_needed();
    world.cfg.journal_batch_max = 50;
    const long version = sql("SELECT version FROM webhooks WHERE id::text LIKE '%1'");
    for (unsigned i = 0; i < 1000; i++) {
        write_to((int)i % 2, make_standing(i, 1, JOURNAL_STANDING_EXHAUSTED));
    }
    await_all();
    assert_int_equal(1000, sql("SELECT count(*) FROM attempts WHERE outcome = 'exhausted'"));
    sql_is("failing", "SELECT status FROM webhooks WHERE id::text LIKE '%1'");
    sql_is("webhook_failing|70000000-0000-4000-8000-000000000000|"
           "3b000000-0000-4000-8000-000000000001|500|the endpoint answered 500|pending|0",
           "SELECT concat_ws('|', kind, tenant_id, webhook_id, status_code, error, state, tries)"
           " FROM notifications");
    assert_int_equal(1, sql("SELECT count(*) FROM notifications n JOIN webhooks w ON"
                            " w.id = n.webhook_id AND n.transition_at = w.failing_since"));
    assert_int_equal(1, sql("SELECT count(DISTINCT version) FROM webhooks WHERE status ="
                            " 'failing'"));
    assert_true(sql("SELECT version FROM webhooks WHERE status = 'failing'") > version);
    assert_int_equal(4, sql("SELECT count(*) FROM webhooks WHERE status = 'active'"));
}

static void many_webhooks_that_fail_in_two_journals_get_one_mail_each(void **state)
{
    (void)state;
    pg_server_needed();
    for (unsigned i = 0; i < 200; i++) {
        write_to((int)(i / 5) % 2, make_standing(i, i % 5, JOURNAL_STANDING_EXHAUSTED));
    }
    await_all();
    assert_int_equal(5, sql("SELECT count(*) FROM webhooks WHERE status = 'failing'"));
    assert_int_equal(5, sql("SELECT count(DISTINCT webhook_id) FROM notifications"));
    assert_int_equal(5, sql("SELECT count(*) FROM notifications"));
}

static void only_an_active_webhook_becomes_failing(void **state)
{
    (void)state;
    pg_server_needed();
    sql("UPDATE webhooks SET status = 'failing', failing_since = now() - interval '1 day' WHERE"
        " id::text LIKE '%1';"
        "UPDATE webhooks SET status = 'disabled' WHERE id::text LIKE '%2';"
        "UPDATE webhooks SET deleted_at = now() WHERE id::text LIKE '%3';"
        "CREATE TABLE before AS SELECT id, xmin::text AS x FROM webhooks");
    for (unsigned i = 1; i <= 3; i++) {
        standing(i, i, JOURNAL_STANDING_EXHAUSTED);
    }
    standing(9, 9, JOURNAL_STANDING_EXHAUSTED); /* there is no such webhook */
    assert_int_equal(5, sql("SELECT count(*) FROM webhooks w JOIN before USING (id) WHERE"
                            " w.xmin::text = x"));
    assert_int_equal(0, sql("SELECT count(*) FROM notifications"));
}

static void a_failing_webhook_recovers_and_only_such_a_one(void **state)
{
    (void)state;
    pg_server_needed();
    sql("UPDATE webhooks SET status = 'failing', failing_since = now() WHERE id::text LIKE '%1';"
        "UPDATE webhooks SET status = 'disabled' WHERE id::text LIKE '%2';"
        "CREATE TABLE before AS SELECT id, version, xmin::text AS x FROM webhooks");
    for (unsigned i = 0; i < 100; i++) {
        write_to((int)i % 2, make_standing(i, i % 5, JOURNAL_STANDING_SUCCEEDED));
    }
    await_all();
    assert_int_equal(1, sql("SELECT count(*) FROM webhooks w JOIN before b USING (id) WHERE"
                            " id::text LIKE '%1' AND status = 'active' AND failing_since IS NULL"
                            " AND last_success_at IS NOT NULL AND w.version > b.version"));
    assert_int_equal(4, sql("SELECT count(*) FROM webhooks w JOIN before USING (id) WHERE"
                            " w.xmin::text = x"));
    assert_int_equal(0, sql("SELECT count(*) FROM notifications"));
}

/* The API shows it; no worker's cache needs to hear of it. */
static void a_success_is_noted_and_no_cache_is_told(void **state)
{
    (void)state;
    pg_server_needed();
    sql("CREATE TABLE seen AS SELECT id, version FROM webhooks");
    for (unsigned i = 0; i < 20; i++) {
        write_to((int)i % 2, make_standing(i, 1 + i % 2, JOURNAL_STANDING_SUCCEEDED_NOTED));
    }
    await_all();
    assert_int_equal(2, sql("SELECT count(*) FROM webhooks w JOIN seen s USING (id) WHERE"
                            " last_success_at IS NOT NULL AND w.version = s.version AND"
                            " (id::text LIKE '%1' OR id::text LIKE '%2')"));
}

static void each_time_it_begins_to_fail_there_is_one_mail(void **state)
{
    (void)state;
    pg_server_needed();
    for (unsigned i = 0; i < 6; i++) {
        standing(i, 1, i % 2 == 0 ? JOURNAL_STANDING_EXHAUSTED : JOURNAL_STANDING_SUCCEEDED);
    }
    assert_int_equal(3, sql("SELECT count(*) FROM notifications"));
    sql_is("active", "SELECT status FROM webhooks WHERE id::text LIKE '%1'");
}

static void gone_disables_once_and_says_why(void **state)
{
    (void)state;
    pg_server_needed();
    sql("UPDATE webhooks SET status = 'failing', failing_since = now() WHERE id::text LIKE '%2';"
        "UPDATE webhooks SET status = 'disabled', disabled_reason = 'earlier' WHERE id::text LIKE"
        " '%3'; UPDATE webhooks SET deleted_at = now() WHERE id::text LIKE '%4'");
    for (unsigned i = 0; i < 200; i++) {
        write_to((int)(i / 4) % 2, make_standing(i, 1 + i % 4, JOURNAL_STANDING_GONE));
    }
    await_all();
    assert_int_equal(2, sql("SELECT count(*) FROM webhooks WHERE status = 'disabled' AND"
                            " disabled_at IS NOT NULL AND disabled_reason LIKE '%410%'"));
    assert_int_equal(1, sql("SELECT count(*) FROM webhooks WHERE disabled_reason = 'earlier'"));
    assert_int_equal(2, sql("SELECT count(*) FROM notifications n JOIN webhooks w ON"
                            " w.id = n.webhook_id AND w.disabled_at = n.transition_at WHERE"
                            " kind = 'webhook_disabled' AND status_code = 410 AND n.reason ="
                            " w.disabled_reason"));
    assert_int_equal(2, sql("SELECT count(*) FROM notifications"));
    standing(1000, 1, JOURNAL_STANDING_SUCCEEDED); /* what was under way does not enable it */
    standing(1001, 1, JOURNAL_STANDING_EXHAUSTED);
    sql_is("disabled", "SELECT status FROM webhooks WHERE id::text LIKE '%1'");
}

static void what_the_former_url_answered_says_nothing_of_the_new_one(void **state)
{
    (void)state;
    pg_server_needed();
    make_standing(0, 1, JOURNAL_STANDING_GONE)->e.url = "https://former.example/";
    make_standing(1, 2, JOURNAL_STANDING_EXHAUSTED)->e.url = "https://former.example/";
    (void)make_standing(2, 3, JOURNAL_STANDING_GONE);
    (void)make_standing(3, 4, JOURNAL_STANDING_EXHAUSTED);
    make_standing(4, 4, JOURNAL_STANDING_EXHAUSTED)->e.url = "https://former.example/";
    world.items[4].e.error = "the former one";
    for (size_t i = 0; i < world.n; i++) {
        write_to(0, &world.items[i]);
    }
    await_all();
    assert_int_equal(5, sql("SELECT count(*) FROM attempts"));
    sql_is("active active active disabled failing",
           "SELECT string_agg(status, ' ' ORDER BY id) FROM webhooks");
    sql_is("the endpoint answered 500",
           "SELECT error FROM notifications WHERE kind = 'webhook_failing'");
    assert_int_equal(2, sql("SELECT count(*) FROM notifications"));
}

static void of_a_failure_and_a_success_in_one_batch_the_success_has_the_last_word(void **state)
{
    (void)state;
    pg_server_needed();
    static const enum journal_standing orders[2][2] = {
        {JOURNAL_STANDING_EXHAUSTED, JOURNAL_STANDING_SUCCEEDED},
        {JOURNAL_STANDING_SUCCEEDED, JOURNAL_STANDING_EXHAUSTED},
    };
    for (unsigned i = 0; i < 2; i++) {
        write_to(0, make_standing(2 * i, 1 + i, orders[i][0]));
        write_to(0, make_standing(2 * i + 1, 1 + i, orders[i][1]));
    }
    await_all();
    assert_int_equal(1, sql("SELECT count(DISTINCT xmin::text) FROM attempts"));
    assert_int_equal(5, sql("SELECT count(*) FROM webhooks WHERE status = 'active' AND"
                            " failing_since IS NULL"));
}

static void what_the_endpoint_said_cannot_keep_the_mail_from_being_written(void **state)
{
    (void)state;
    pg_server_needed();
    static const char *const texts[] = {"\xff\xfe\x80", "'; DROP TABLE notifications; --", "", NULL,
                                        "{\"a\",NULL}"};
    for (unsigned i = 0; i < COUNT(texts); i++) {
        struct item *item = make_standing(i, i, JOURNAL_STANDING_EXHAUSTED);
        item->e.error = texts[i];
        item->e.status_code = i % 2 == 0 ? 0 : 599;
        write_to(0, item);
    }
    await_all();
    assert_int_equal(5, sql("SELECT count(*) FROM notifications"));
    assert_int_equal(3, sql("SELECT count(*) FROM notifications WHERE status_code IS NULL"));
    assert_int_equal(2, sql("SELECT count(*) FROM notifications WHERE error IS NULL"));
}

static void an_ordinary_outcome_does_not_touch_the_webhook(void **state)
{
    (void)state;
    pg_server_needed();
    sql("CREATE TABLE before AS SELECT id, xmin::text AS x FROM webhooks");
    for (unsigned i = 0; i < 50; i++) {
        write_to((int)i % 2,
                 make_standing(i, i % 5,
                               i % 2 == 0 ? JOURNAL_STANDING_KEEP : JOURNAL_STANDING_SUCCEEDED));
    }
    await_all();
    assert_int_equal(5, sql("SELECT count(*) FROM webhooks w JOIN before USING (id) WHERE"
                            " w.xmin::text = x"));
}

/* Everything that a batch can hold: each statement once. */
static void one_batch_takes_every_kind_of_row(void **state)
{
    (void)state;
    pg_server_needed();
    sql("UPDATE webhooks SET status = 'failing', failing_since = now() WHERE id::text LIKE '%2'");
    struct tracker *t = tracker_new(3, 1);
    struct item *put = make_item(1, 1, 1);
    put->e.ev->tracker = t; /* it came from Kafka, the others did not */
    put->e.ev->slot = tracker_open(t, 1, 1);
    put->e.pending = JOURNAL_PENDING_PUT;
    put->e.pending_reason = "retry";
    put->e.pending_attempt = 2;
    put_row(2, 2);
    struct item *move = make_item(2, 1, 2);
    move->e.pending = JOURNAL_PENDING_MOVE;
    move->e.pending_reason = "retry";
    move->e.pending_attempt = 3;
    put_row(3, 5);
    struct item *drop = make_standing(3, 1, JOURNAL_STANDING_EXHAUSTED);
    drop->e.pending = JOURNAL_PENDING_DELETE;
    (void)make_standing(4, 2, JOURNAL_STANDING_SUCCEEDED);
    (void)make_standing(5, 3, JOURNAL_STANDING_GONE);
    for (size_t i = 0; i < world.n; i++) {
        write_to(0, &world.items[i]);
    }
    await_all();
    assert_int_equal(1, sql("SELECT count(DISTINCT xmin::text) FROM attempts"));
    sql_is("2 3", "SELECT string_agg(next_attempt::text, ' ' ORDER BY next_attempt) FROM"
                  " pending_deliveries");
    sql_is("active failing active disabled active",
           "SELECT string_agg(status, ' ' ORDER BY id) FROM webhooks");
    assert_int_equal(1, sql("SELECT count(*) FROM consumer_progress WHERE partition = 0"));
    for (size_t i = 0; i < world.n; i++) {
        nrw_event_unref(world.items[i].e.ev);
    }
    world.n = 0;
    tracker_retire(t);
}

int main(void)
{
#define ROWS_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        ROWS_TEST(what_another_worker_has_delivered_since_is_not_put_again),
        ROWS_TEST(a_row_moves_only_from_the_attempt_that_was_made),
        ROWS_TEST(a_row_is_deleted_only_at_the_attempt_that_was_made),
        ROWS_TEST(what_a_replay_made_counts_for_its_job_once_when_it_ends),
        ROWS_TEST(only_the_owner_of_the_lease_moves_or_deletes_a_row),
        ROWS_TEST(what_is_given_back_is_free_and_no_attempt),
        ROWS_TEST(a_kept_row_stays_as_it_is),
        ROWS_TEST(a_delay_counts_from_the_commit_by_the_servers_clock),
        ROWS_TEST(a_thousand_exhausted_deliveries_in_two_journals_write_one_mail),
        ROWS_TEST(many_webhooks_that_fail_in_two_journals_get_one_mail_each),
        ROWS_TEST(only_an_active_webhook_becomes_failing),
        ROWS_TEST(a_failing_webhook_recovers_and_only_such_a_one),
        ROWS_TEST(a_success_is_noted_and_no_cache_is_told),
        ROWS_TEST(each_time_it_begins_to_fail_there_is_one_mail),
        ROWS_TEST(gone_disables_once_and_says_why),
        ROWS_TEST(what_the_former_url_answered_says_nothing_of_the_new_one),
        ROWS_TEST(of_a_failure_and_a_success_in_one_batch_the_success_has_the_last_word),
        ROWS_TEST(what_the_endpoint_said_cannot_keep_the_mail_from_being_written),
        ROWS_TEST(an_ordinary_outcome_does_not_touch_the_webhook),
        ROWS_TEST(one_batch_takes_every_kind_of_row),
    };
    log_init(LOG_LEVEL_ERROR, STDERR_FILENO);
    return cmocka_run_group_tests(tests, start, pg_server_stop);
}
