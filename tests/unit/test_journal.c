/* The journal against a real PostgreSQL with the real schema: what is written, what happens when
 * the server refuses, goes away, or answers into the void. */
#include "journal.h"

#include "pg_fixture.h"
#include "worker_fixture.h"

#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <sys/un.h>

#include "mem.h"

#define ITEMS_MAX 800
#define STARTED   INT64_C(1773570601250000) /* 2026-03-15T10:30:01.25Z */
#define SECOND    INT64_C(1000000)

struct item {
    struct journal_entry e;
    int ends;
    enum journal_end end;
};

static struct {
    struct config cfg;
    struct event_base *base;
    struct event *ticker;
    struct journal *journal;
    struct event_account account;
    struct tracker *tracker;
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
    if (world.journal != NULL) {
        journal_after_turn(world.journal);
    }
}

static void open_journal(void)
{
    world.journal = journal_new(world.base, &world.cfg);
    AWAIT_TURNS(journal_up(world.journal));
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
        "DELETE FROM consumer_progress");
    pg_server_url(url, sizeof(url), "postgres");
    settings_defaults(&world.cfg);
    settings_set(&world.cfg.database_url, url);
    world.base = event_base_new();
    world.ticker = event_new(world.base, -1, EV_PERSIST, on_tick, NULL);
    event_add(world.ticker, &tick);
    world.tracker = tracker_new(7, 1);
    return 0;
}

static int end(void **state)
{
    (void)state;
    if (pg_server.postmaster == 0) {
        return 0;
    }
    journal_free(world.journal);
    for (size_t i = 0; i < world.n; i++) {
        nrw_event_unref(world.items[i].e.ev);
    }
    tracker_retire(world.tracker);
    event_free(world.ticker);
    event_base_free(world.base);
    config_free(&world.cfg);
    return world.account.events == 0 ? 0 : -1;
}

static void on_done(struct journal_entry *e, enum journal_end how)
{
    struct item *item = (struct item *)((char *)e - offsetof(struct item, e));
    item->ends++;
    item->end = how;
    world.ended++;
}

/* A first attempt that was delivered, for webhook n; takes the reference on ev. */
static struct item *make_item(struct nrw_event *ev, unsigned webhook)
{
    assert_true(world.n < ITEMS_MAX);
    struct item *item = &world.items[world.n++];
    const struct uuid wh = id_of(0x3b, webhook);
    item->e = (struct journal_entry){
        .done = on_done,
        .ev = ev,
        .delivery_id = uuid_of_delivery(&ev->id, &wh),
        .webhook_id = wh,
        .attempt = 1,
        .outcome = "delivered",
        .started_at_us = STARTED,
        .response_time_us = 12499,
        .status_code = 204,
    };
    return item;
}

/* The attempt failed, the next one is due so long after the commit. */
static void will_retry(struct item *item, enum journal_pending pending, int64_t delay_us)
{
    item->e.outcome = "failed";
    item->e.pending = pending;
    item->e.pending_reason = "retry";
    item->e.pending_attempt = item->e.attempt + 1;
    item->e.pending_delay_us = delay_us;
}

static struct item *add_new(unsigned n)
{
    struct item *item = make_item(event_make(&world.account, world.tracker, n, n), 1);
    journal_add(world.journal, &item->e);
    return item;
}

static void await_all(void)
{
    AWAIT_TURNS(world.ended == world.n);
    for (size_t i = 0; i < world.n; i++) {
        assert_int_equal(1, world.items[i].ends);
    }
    assert_int_equal(0, journal_waiting(world.journal));
}

/* --- rows --- */

static void every_column_is_as_it_happened(void **state)
{
    (void)state;
    pg_server_needed();
    open_journal();
    struct nrw_event *ev = event_make(&world.account, world.tracker, 4711, 1);
    static const char trace[] = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
    memcpy(ev->traceparent, trace, sizeof(trace));
    struct item *item = make_item(ev, 1);
    item->e.attempt = 2;
    item->e.outcome = "failed";
    item->e.status_code = 503;
    item->e.error = "the endpoint answered 503";
    item->e.headers = "Server: \xff\0x\r\n";
    item->e.headers_len = 13;
    item->e.body = "\0\x01'\\\"\xc3\x28;DROP";
    item->e.body_len = 12;
    item->e.pending = JOURNAL_PENDING_PUT;
    item->e.pending_reason = "retry";
    item->e.pending_attempt = 3;
    item->e.pending_delay_us = 120 * SECOND;
    journal_add(world.journal, &item->e);
    await_all();
    assert_int_equal(JOURNAL_COMMITTED, item->end);
    sql("SET TimeZone = 'UTC'");
    sql_is("e0000000-0000-4000-8000-000000000001|2026-03-15 10:30:00.000001+00|"
           "70000000-0000-4000-8000-000000000000|alert.created|7b226964223a20317d|"
           "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01|7|4711",
           "SELECT concat_ws('|', id, received_at, tenant_id, event_type, encode(payload, 'hex'),"
           " traceparent, kafka_partition, kafka_offset) FROM events");
    sql_is("2026-03-15 10:30:00.000001+00|2|e0000000-0000-4000-8000-000000000001|"
           "3b000000-0000-4000-8000-000000000001|70000000-0000-4000-8000-000000000000|"
           "alert.created|2026-03-15 10:30:01.25+00|12|failed|503|the endpoint answered 503|"
           "5365727665723a20ff00780d0a|0001275c22c3283b44524f50",
           "SELECT concat_ws('|', received_at, attempt, event_id, webhook_id, tenant_id,"
           " event_type, started_at, response_time_ms, outcome, status_code, error,"
           " encode(response_headers, 'hex'), encode(response_body, 'hex'))"
           " FROM attempts");
    sql_is("2026-03-15 10:30:00.000001+00|e0000000-0000-4000-8000-000000000001|"
           "3b000000-0000-4000-8000-000000000001|70000000-0000-4000-8000-000000000000|"
           "alert.created|3|5|retry",
           "SELECT concat_ws('|', received_at, event_id, webhook_id, tenant_id, event_type,"
           " next_attempt, final_attempt, reason, leased_until) FROM pending_deliveries");
    assert_int_equal(1, sql("SELECT count(*) FROM attempts JOIN pending_deliveries USING "
                            "(delivery_id, next_attempt_at)"));
    sql_is("netrecon-webhooks|netrecon.events|7|4711",
           "SELECT concat_ws('|', consumer_group, topic, partition, journaled_offset)"
           " FROM consumer_progress");
}

static void what_is_not_there_is_null(void **state)
{
    (void)state;
    pg_server_needed();
    open_journal();
    struct item *item = make_item(event_make(&world.account, NULL, 0, 1), 1); /* not from Kafka */
    item->e.status_code = 0;
    item->e.error = "";
    journal_add(world.journal, &item->e);
    await_all();
    assert_int_equal(1, sql("SELECT count(*) FROM events WHERE traceparent IS NULL"));
    assert_int_equal(1, sql("SELECT count(*) FROM attempts WHERE status_code IS NULL AND error IS "
                            "NULL AND next_attempt_at IS NULL AND response_headers IS NULL AND "
                            "response_body IS NULL"));
    assert_int_equal(0, sql("SELECT count(*) FROM pending_deliveries"));
    assert_int_equal(0, sql("SELECT count(*) FROM consumer_progress"));
}

static void a_fault_of_ours_writes_no_attempt(void **state)
{
    (void)state;
    pg_server_needed();
    open_journal();
    struct item *item = make_item(event_make(&world.account, world.tracker, 3, 1), 1);
    item->e.outcome = NULL;
    item->e.pending = JOURNAL_PENDING_PUT;
    item->e.pending_reason = "spill";
    item->e.pending_attempt = 1;
    journal_add(world.journal, &item->e);
    await_all();
    assert_int_equal(1, sql("SELECT count(*) FROM events"));
    assert_int_equal(0, sql("SELECT count(*) FROM attempts"));
    assert_int_equal(1, sql("SELECT next_attempt FROM pending_deliveries WHERE reason = 'spill'"));
}

/* What an endpoint can make libcurl say; every text must get in, as valid UTF-8. */
static void hostile_error_texts_are_cleaned_and_written(void **state)
{
    (void)state;
    pg_server_needed();
    static const char *const texts[] = {
        "\xff\xfe",
        "a\x80z",
        "\xed\xa0\x80",
        "line\nline\r\x01",
        "'; DROP TABLE attempts; --",
        "\xf0\x9f\x98",
        "\\x00",
        "{NULL}",
        "\"",
    };
    open_journal();
    for (unsigned i = 0; i < COUNT(texts); i++) {
        struct item *item = make_item(event_make(&world.account, world.tracker, i, i), 1);
        item->e.error = texts[i];
        journal_add(world.journal, &item->e);
    }
    await_all();
    assert_int_equal(COUNT(texts), sql("SELECT count(*) FROM attempts WHERE error IS NOT NULL"));
    assert_int_equal(0, sql("SELECT count(*) FROM attempts WHERE error ~ '[\\x01-\\x1f]'"));
    assert_int_equal(1, sql("SELECT count(*) FROM attempts WHERE error = "
                            "'''; DROP TABLE attempts; --'"));
}

/* BEFORE triggers run for proposed rows, also for those that are there already. */
static void an_event_of_many_webhooks_is_sent_once(void **state)
{
    (void)state;
    pg_server_needed();
    sql("CREATE TABLE proposed (id uuid);"
        "CREATE FUNCTION propose() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN INSERT INTO proposed VALUES (new.id); RETURN new; END $$;"
        "CREATE TRIGGER propose BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION propose()");
    open_journal();
    for (unsigned n = 0; n < 3; n++) {
        struct nrw_event *ev = event_make(&world.account, world.tracker, n, n);
        for (unsigned webhook = 0; webhook < 20; webhook++) {
            journal_add(world.journal, &make_item(nrw_event_ref(ev), webhook)->e);
        }
        nrw_event_unref(ev);
    }
    await_all();
    assert_int_equal(3, sql("SELECT count(*) FROM proposed"));
    assert_int_equal(60, sql("SELECT count(*) FROM attempts"));
    /* and not at all once it is durable */
    journal_add(world.journal, &make_item(nrw_event_ref(world.items[0].e.ev), 99)->e);
    await_all();
    assert_int_equal(3, sql("SELECT count(*) FROM proposed"));
    sql("DROP TRIGGER propose ON events; DROP FUNCTION propose; DROP TABLE proposed");
}

static void a_pending_row_only_moves_to_a_later_attempt(void **state)
{
    (void)state;
    pg_server_needed();
    static const struct {
        unsigned attempt;
        long stored;
    } rows[] = {{3, 3}, {2, 3}, {3, 3}, {4, 4}, {1, 4}};
    open_journal();
    for (unsigned i = 0; i < COUNT(rows); i++) {
        struct item *item = make_item(event_make(&world.account, world.tracker, i, 1), 1);
        item->e.pending = JOURNAL_PENDING_PUT;
        item->e.pending_reason = "retry";
        item->e.pending_attempt = rows[i].attempt;
        item->e.pending_delay_us = i;
        journal_add(world.journal, &item->e);
        await_all();
        assert_int_equal(rows[i].stored, sql("SELECT next_attempt FROM pending_deliveries"));
        if (i == 0) {
            sql("UPDATE pending_deliveries SET leased_until = now() + interval '1 hour'");
        }
        assert_int_equal(i < 3, sql("SELECT count(leased_until) FROM pending_deliveries"));
    }
    assert_int_equal(1, sql("SELECT count(*) FROM pending_deliveries"));
}

static void progress_is_the_highest_offset_and_never_goes_back(void **state)
{
    (void)state;
    pg_server_needed();
    open_journal();
    static const unsigned offsets[] = {5, 90, 17};
    for (unsigned i = 0; i < COUNT(offsets); i++) { /* one batch, not in order */
        struct nrw_event *ev = event_make(&world.account, NULL, offsets[i], offsets[i]);
        ev->tracker = world.tracker;
        ev->slot = tracker_open(world.tracker, i, 1);
        ev->partition = (int32_t)(i % 2);
        journal_add(world.journal, &make_item(ev, 1)->e);
    }
    await_all();
    sql_is("0=17 1=90", "SELECT string_agg(partition || '=' || journaled_offset, ' ' ORDER BY "
                        "partition) FROM consumer_progress");
    struct nrw_event *late = event_make(&world.account, world.tracker, 40, 40);
    late->partition = 1;
    journal_add(world.journal, &make_item(late, 1)->e);
    await_all();
    sql_is("0=17 1=90", "SELECT string_agg(partition || '=' || journaled_offset, ' ' ORDER BY "
                        "partition) FROM consumer_progress");
}

/* --- batches --- */

static void a_batch_has_at_most_journal_batch_max_entries(void **state)
{
    (void)state;
    pg_server_needed();
    world.cfg.journal_batch_max = 40;
    open_journal();
    for (unsigned i = 0; i < 333; i++) {
        (void)add_new(i);
    }
    await_all();
    assert_int_equal(333, sql("SELECT count(*) FROM attempts"));
    assert_int_equal(40, sql("SELECT max(n) FROM (SELECT count(*) AS n FROM attempts"
                             " GROUP BY xmin::text) AS batches"));
    assert_int_equal(9, sql("SELECT count(DISTINCT xmin::text) FROM attempts"));
}

static void a_batch_has_at_most_eight_mib(void **state)
{
    (void)state;
    pg_server_needed();
    char *payload = mem_zero(1, LIMIT_EVENT_BYTES);
    open_journal();
    for (unsigned i = 0; i < 70; i++) {
        struct nrw_event *ev =
            nrw_event_new(&world.account, "a.b", 3, payload, LIMIT_EVENT_BYTES - i % 2);
        ev->id = id_of(0xe0, i);
        journal_add(world.journal, &make_item(ev, 1)->e);
    }
    free(payload);
    await_all();
    assert_int_equal(70, sql("SELECT count(*) FROM events"));
    const long most = sql("SELECT max(bytes) FROM (SELECT sum(octet_length(payload)) AS bytes FROM "
                          "events GROUP BY xmin::text) AS batches");
    assert_in_range(most, 7 * 1024 * 1024, 8 * 1024 * 1024);
}

static void a_small_batch_waits_for_company_and_a_quarter_goes_at_once(void **state)
{
    (void)state;
    pg_server_needed();
    world.cfg.journal_batch_max = 100;
    world.cfg.journal_linger = 3600000;
    open_journal();
    for (unsigned i = 0; i < 24; i++) {
        (void)add_new(i);
    }
    for (int i = 0; i < 20; i++) {
        turn();
    }
    assert_int_equal(0, world.ended);
    assert_int_equal(24, journal_waiting(world.journal));
    (void)add_new(24);
    await_all();
}

static void a_lonely_entry_goes_when_it_has_lingered(void **state)
{
    (void)state;
    pg_server_needed();
    world.cfg.journal_linger = 50;
    open_journal();
    event_del(world.ticker); /* the journal wakes the loop by itself */
    const int64_t since = clock_mono_us();
    (void)add_new(1);
    journal_after_turn(world.journal);
    await_all();
    assert_true(clock_mono_us() - since >= 50000);
}

/* --- refused data --- */

/* One sequence value for each try: sequences do not roll back. */
static void refuse_attempts(const char *when)
{
    char text[1024];
    pg_server_format(
        text, sizeof(text),
        "CREATE SEQUENCE full_tries; CREATE SEQUENCE bare_tries;"
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN IF %s THEN"
        "  IF new.error IS NULL AND new.response_headers IS NULL AND new.response_body IS NULL"
        "  THEN PERFORM nextval('bare_tries'); ELSE PERFORM nextval('full_tries'); END IF;"
        "  RAISE 'not this one'; END IF;"
        " RETURN new; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION "
        "refuse()",
        when);
    sql(text);
}

static void accept_attempts(void)
{
    sql("DROP TRIGGER refuse ON attempts; DROP FUNCTION refuse; DROP SEQUENCE full_tries;"
        "DROP SEQUENCE bare_tries");
}

static struct item *add_answered(unsigned n, const char *error)
{
    struct item *item = make_item(event_make(&world.account, world.tracker, n, n), 1);
    item->e.error = error;
    item->e.headers = "Server: x\r\n";
    item->e.headers_len = 11;
    item->e.body = "no";
    item->e.body_len = 2;
    journal_add(world.journal, &item->e);
    return item;
}

static void a_bad_row_fails_alone_after_a_bare_try(void **state)
{
    (void)state;
    pg_server_needed();
    refuse_attempts("new.event_id = 'e0000000-0000-4000-8000-00000000001f'");
    open_journal();
    for (unsigned i = 0; i < 100; i++) {
        (void)add_answered(i, "text");
    }
    await_all();
    for (size_t i = 0; i < 100; i++) {
        assert_int_equal(i == 0x1f ? JOURNAL_REJECTED : JOURNAL_COMMITTED, world.items[i].end);
    }
    assert_int_equal(99, sql("SELECT count(*) FROM attempts WHERE error = 'text' AND "
                             "response_body = 'no'"));
    assert_int_equal(99, sql("SELECT count(*) FROM events"));
    assert_int_equal(1, sql("SELECT last_value FROM bare_tries WHERE is_called"));
    accept_attempts();
}

static void a_constraint_is_the_datas_fault_too(void **state)
{
    (void)state;
    pg_server_needed();
    sql("ALTER TABLE events ADD CONSTRAINT short CHECK (octet_length(event_type) < 20)");
    open_journal();
    for (unsigned i = 0; i < 20; i++) {
        static const char type[] = "much.too.long_for_that_constraint";
        struct nrw_event *ev =
            nrw_event_new(&world.account, type, i == 3 ? sizeof(type) - 1 : 8, "{}", 2);
        ev->id = id_of(0xe0, i);
        journal_add(world.journal, &make_item(ev, 1)->e);
    }
    await_all();
    for (size_t i = 0; i < 20; i++) {
        assert_int_equal(i == 3 ? JOURNAL_REJECTED : JOURNAL_COMMITTED, world.items[i].end);
    }
    assert_int_equal(19, sql("SELECT count(*) FROM events"));
    assert_int_equal(19, sql("SELECT count(*) FROM attempts")); /* no attempt without its event */
    sql("ALTER TABLE events DROP CONSTRAINT short");
}

static void what_only_the_outsiders_bytes_spoil_is_written_without_them(void **state)
{
    (void)state;
    pg_server_needed();
    refuse_attempts("new.error LIKE '%poison%'");
    open_journal();
    for (unsigned i = 0; i < 30; i++) {
        (void)add_answered(i, i % 10 == 4 ? "some poison" : "some text");
    }
    await_all();
    for (size_t i = 0; i < 30; i++) {
        assert_int_equal(JOURNAL_COMMITTED, world.items[i].end);
    }
    assert_int_equal(27, sql("SELECT count(*) FROM attempts WHERE error = 'some text' AND "
                             "response_headers IS NOT NULL AND response_body IS NOT NULL"));
    assert_int_equal(3, sql("SELECT count(*) FROM attempts WHERE error IS NULL AND status_code = "
                            "204 AND response_headers IS NULL AND response_body IS NULL"));
    accept_attempts();
}

static void any_set_of_bad_rows_is_told_from_the_good_ones(void **state)
{
    (void)state;
    pg_server_needed();
    uint64_t seed = 77;
    long bad_n = 0;
    static bool bad[ITEMS_MAX];
    world.cfg.journal_batch_max = 64;
    refuse_attempts("new.response_time_ms = 666");
    open_journal();
    for (unsigned i = 0; i < 500; i++) {
        struct nrw_event *ev = event_make(&world.account, world.tracker, i, i);
        struct item *item = make_item(ev, 1);
        bad[i] = random_below(&seed, i < 250 ? 40 : 4) == 0;
        bad_n += bad[i];
        item->e.response_time_us = bad[i] ? 666000 : 1000;
        will_retry(item, JOURNAL_PENDING_PUT, 30 * SECOND);
        journal_add(world.journal, &item->e);
    }
    await_all();
    for (size_t i = 0; i < 500; i++) {
        assert_int_equal(bad[i] ? JOURNAL_REJECTED : JOURNAL_COMMITTED, world.items[i].end);
    }
    assert_int_equal(500 - bad_n, sql("SELECT count(*) FROM attempts"));
    assert_int_equal(500 - bad_n, sql("SELECT count(*) FROM events"));
    assert_int_equal(500 - bad_n, sql("SELECT count(*) FROM pending_deliveries"));
    accept_attempts();
}

/* A producer that sends an event twice, and an endpoint that fails: two pending rows of one
 * delivery in one statement, which PostgreSQL refuses (21000). */
static void the_same_failed_delivery_twice_in_a_batch_is_written(void **state)
{
    (void)state;
    pg_server_needed();
    open_journal();
    for (unsigned i = 0; i < 10; i++) {
        struct nrw_event *ev = event_make(&world.account, world.tracker, i, i / 2);
        struct item *item = make_item(ev, 1);
        item->e.outcome = "failed";
        will_retry(item, JOURNAL_PENDING_PUT, 30 * SECOND);
        journal_add(world.journal, &item->e);
    }
    await_all();
    for (size_t i = 0; i < 10; i++) {
        assert_int_equal(JOURNAL_COMMITTED, world.items[i].end);
    }
    assert_int_equal(5, sql("SELECT count(*) FROM pending_deliveries"));
}

/* Consumed again after a crash: what is there stays, what is new is written, and only the first
 * batch has to go twice. */
static void rows_that_are_there_already_are_left_alone(void **state)
{
    (void)state;
    pg_server_needed();
    open_journal();
    for (unsigned i = 0; i < 20; i++) {
        (void)make_item(event_make(&world.account, world.tracker, i, i), 1);
        journal_add(world.journal, &world.items[i].e);
    }
    await_all();
    sql("CREATE TABLE before AS SELECT delivery_id, attempt, xmin::text AS x FROM attempts");
    for (unsigned i = 20; i < 60; i++) {
        (void)make_item(event_make(&world.account, world.tracker, i, i - 20), 1);
        journal_add(world.journal, &world.items[i].e);
    }
    await_all();
    for (size_t i = 0; i < 60; i++) {
        assert_int_equal(JOURNAL_COMMITTED, world.items[i].end);
        assert_false(world.items[i].e.bare);
    }
    assert_int_equal(40, sql("SELECT count(*) FROM events"));
    assert_int_equal(40, sql("SELECT count(*) FROM attempts"));
    assert_int_equal(20, sql("SELECT count(*) FROM attempts a JOIN before b USING (delivery_id, "
                             "attempt) WHERE a.xmin::text = b.x"));
    sql("DROP TABLE before");
}

/* The event's row is there, the delivery is new and alone in its batch: its answer must be kept. */
static void an_existing_event_costs_a_lone_delivery_nothing(void **state)
{
    (void)state;
    pg_server_needed();
    open_journal();
    (void)add_new(0);
    await_all();
    struct item *again = make_item(event_make(&world.account, world.tracker, 1, 0), 2);
    again->e.body = "seen";
    again->e.body_len = 4;
    journal_add(world.journal, &again->e);
    await_all();
    assert_int_equal(JOURNAL_COMMITTED, again->end);
    assert_false(again->e.bare);
    assert_int_equal(1, sql("SELECT count(*) FROM attempts WHERE response_body = 'seen'"));
}

static void a_bad_row_among_rows_that_are_there_fails_alone(void **state)
{
    (void)state;
    pg_server_needed();
    open_journal();
    for (unsigned i = 0; i < 10; i++) {
        (void)add_answered(i, "first");
    }
    await_all();
    refuse_attempts("new.event_id = 'e0000000-0000-4000-8000-00000000000b'");
    journal_free(world.journal);
    open_journal();
    for (unsigned i = 0; i < 20; i++) {
        struct item *item = make_item(event_make(&world.account, NULL, i, i), 1);
        journal_add(world.journal, &item->e);
    }
    await_all();
    for (size_t i = 10; i < world.n; i++) {
        assert_int_equal(i == 10 + 0xb ? JOURNAL_REJECTED : JOURNAL_COMMITTED, world.items[i].end);
    }
    assert_int_equal(19, sql("SELECT count(*) FROM attempts"));
    accept_attempts();
}

/* --- faults of ours --- */

static void a_fault_that_hits_every_row_rejects_none(void **state)
{
    (void)state;
    pg_server_needed();
    sql("ALTER TABLE attempts RENAME TO elsewhere");
    open_journal();
    for (unsigned i = 0; i < 30; i++) {
        (void)add_new(i);
    }
    for (int64_t until = clock_mono_us() + 200000; clock_mono_us() < until;) {
        turn();
    }
    assert_int_equal(0, world.ended);
    assert_int_equal(30, journal_waiting(world.journal));
    sql("ALTER TABLE elsewhere RENAME TO attempts");
    await_all();
    for (size_t i = 0; i < 30; i++) {
        assert_int_equal(JOURNAL_COMMITTED, world.items[i].end);
        assert_false(world.items[i].e.bare);
    }
    assert_int_equal(30, sql("SELECT count(*) FROM attempts"));
}

static void nothing_is_lost_or_told_twice_when_postgresql_goes_away(void **state)
{
    (void)state;
    pg_server_needed();
    world.cfg.journal_batch_max = 50;
    open_journal();
    for (unsigned i = 0; i < 300; i++) {
        (void)add_new(i);
    }
    AWAIT_TURNS(world.ended > 0);
    journal_after_turn(world.journal); /* a batch is out now */
    pg_server_kill();
    AWAIT_TURNS(!journal_up(world.journal));
    const size_t before = world.ended;
    assert_in_range(before, 50, 299);
    for (unsigned i = 300; i < 400; i++) {
        (void)add_new(i);
    }
    for (int i = 0; i < 30; i++) {
        turn();
    }
    assert_int_equal(before, world.ended);
    assert_int_equal(400 - before, journal_waiting(world.journal));
    pg_server_launch();
    await_all();
    for (size_t i = 0; i < world.n; i++) {
        assert_int_equal(JOURNAL_COMMITTED, world.items[i].end);
    }
    assert_int_equal(400, sql("SELECT count(*) FROM attempts"));
    assert_int_equal(400, sql("SELECT count(*) FROM events"));
}

/* --- the answer that was lost --- */

/* Passes bytes between the journal and the server, and can keep the server's to itself. */
static struct {
    struct evconnlistener *listener;
    struct bufferevent *client;
    struct bufferevent *backend;
    bool deaf; /* what the server says is thrown away */
    bool shut; /* new connections are closed at once */
} relay;

static void relay_cut(void)
{
    if (relay.client != NULL) {
        bufferevent_free(relay.client);
        bufferevent_free(relay.backend);
        relay.client = relay.backend = NULL;
    }
}

static void relay_read(struct bufferevent *from, void *ctx)
{
    (void)ctx;
    struct evbuffer *in = bufferevent_get_input(from);
    if (from == relay.client) {
        bufferevent_write_buffer(relay.backend, in);
    } else if (relay.deaf) {
        evbuffer_drain(in, evbuffer_get_length(in));
    } else {
        bufferevent_write_buffer(relay.client, in);
    }
}

static void relay_event(struct bufferevent *from, short what, void *ctx)
{
    (void)from, (void)ctx;
    if ((what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) != 0) {
        relay_cut();
    }
}

static void relay_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *sa,
                         int len, void *ctx)
{
    (void)listener, (void)sa, (void)len, (void)ctx;
    if (relay.shut || relay.client != NULL) {
        evutil_closesocket(fd);
        return;
    }
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    pg_server_format(to.sun_path, sizeof(to.sun_path), "%s/" PG_SERVER_SOCKET, pg_server.dir);
    relay.client = bufferevent_socket_new(world.base, fd, BEV_OPT_CLOSE_ON_FREE);
    relay.backend = bufferevent_socket_new(world.base, -1, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(relay.client, relay_read, NULL, relay_event, NULL);
    bufferevent_setcb(relay.backend, relay_read, NULL, relay_event, NULL);
    bufferevent_enable(relay.client, EV_READ | EV_WRITE);
    bufferevent_enable(relay.backend, EV_READ | EV_WRITE);
    assert_int_equal(0,
                     bufferevent_socket_connect(relay.backend, (struct sockaddr *)&to, sizeof(to)));
}

static void relay_start(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    char url[128];
    memset(&relay, 0, sizeof(relay));
    relay.listener = evconnlistener_new_bind(world.base, relay_accept, NULL,
                                             LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 16,
                                             (struct sockaddr *)&at, sizeof(at));
    assert_non_null(relay.listener);
    assert_int_equal(
        0, getsockname(evconnlistener_get_fd(relay.listener), (struct sockaddr *)&at, &len));
    pg_server_format(url, sizeof(url), "postgresql://postgres@127.0.0.1:%d/postgres",
                     ntohs(at.sin_port));
    settings_set(&world.cfg.database_url, url);
}

static void relay_stop(void)
{
    relay_cut();
    evconnlistener_free(relay.listener);
}

static void a_batch_whose_answer_was_lost_is_sent_again_and_written_once(void **state)
{
    (void)state;
    pg_server_needed();
    relay_start();
    open_journal();
    relay.deaf = true;
    for (unsigned i = 0; i < 60; i++) {
        struct item *item = make_item(event_make(&world.account, world.tracker, i, i), i % 2);
        if (i % 3 == 0) {
            will_retry(item, JOURNAL_PENDING_PUT, 30 * SECOND);
        }
        journal_add(world.journal, &item->e);
    }
    AWAIT_TURNS(sql("SELECT count(*) FROM attempts") == 60); /* committed */
    assert_int_equal(0, world.ended);                        /* and nobody knows */
    relay_cut();
    AWAIT_TURNS(!journal_up(world.journal));
    assert_int_equal(60, journal_waiting(world.journal));
    sql("CREATE TABLE before AS SELECT delivery_id, attempt, xmin::text AS x FROM attempts");
    relay.deaf = false;
    await_all();
    for (size_t i = 0; i < 60; i++) {
        assert_int_equal(JOURNAL_COMMITTED, world.items[i].end);
    }
    assert_int_equal(60, sql("SELECT count(*) FROM events"));
    assert_int_equal(60, sql("SELECT count(*) FROM attempts"));
    assert_int_equal(20, sql("SELECT count(*) FROM pending_deliveries"));
    assert_int_equal(60, sql("SELECT count(*) FROM attempts a JOIN before b USING (delivery_id, "
                             "attempt) WHERE a.xmin::text = b.x")); /* untouched */
    sql("DROP TABLE before");
    journal_free(world.journal);
    world.journal = NULL;
    relay_stop();
}

static void what_has_no_answer_at_the_end_is_forgotten(void **state)
{
    (void)state;
    pg_server_needed();
    relay_start();
    open_journal();
    relay.deaf = true;
    world.cfg.journal_batch_max = 50;
    for (unsigned i = 0; i < 120; i++) {
        (void)add_new(i);
    }
    AWAIT_TURNS(sql("SELECT count(*) FROM attempts") > 0);
    journal_free(world.journal); /* one batch out, entries behind it */
    world.journal = NULL;
    assert_int_equal(0, world.ended);
    relay_stop();
}

int main(void)
{
#define JOURNAL_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        JOURNAL_TEST(every_column_is_as_it_happened),
        JOURNAL_TEST(what_is_not_there_is_null),
        JOURNAL_TEST(a_fault_of_ours_writes_no_attempt),
        JOURNAL_TEST(hostile_error_texts_are_cleaned_and_written),
        JOURNAL_TEST(an_event_of_many_webhooks_is_sent_once),
        JOURNAL_TEST(a_pending_row_only_moves_to_a_later_attempt),
        JOURNAL_TEST(progress_is_the_highest_offset_and_never_goes_back),
        JOURNAL_TEST(a_batch_has_at_most_journal_batch_max_entries),
        JOURNAL_TEST(a_batch_has_at_most_eight_mib),
        JOURNAL_TEST(a_small_batch_waits_for_company_and_a_quarter_goes_at_once),
        JOURNAL_TEST(a_lonely_entry_goes_when_it_has_lingered),
        JOURNAL_TEST(a_bad_row_fails_alone_after_a_bare_try),
        JOURNAL_TEST(a_constraint_is_the_datas_fault_too),
        JOURNAL_TEST(what_only_the_outsiders_bytes_spoil_is_written_without_them),
        JOURNAL_TEST(any_set_of_bad_rows_is_told_from_the_good_ones),
        JOURNAL_TEST(the_same_failed_delivery_twice_in_a_batch_is_written),
        JOURNAL_TEST(rows_that_are_there_already_are_left_alone),
        JOURNAL_TEST(an_existing_event_costs_a_lone_delivery_nothing),
        JOURNAL_TEST(a_bad_row_among_rows_that_are_there_fails_alone),
        JOURNAL_TEST(a_fault_that_hits_every_row_rejects_none),
        JOURNAL_TEST(nothing_is_lost_or_told_twice_when_postgresql_goes_away),
        JOURNAL_TEST(a_batch_whose_answer_was_lost_is_sent_again_and_written_once),
        JOURNAL_TEST(what_has_no_answer_at_the_end_is_forgotten),
    };
    log_init(LOG_LEVEL_ERROR, STDERR_FILENO);
    return cmocka_run_group_tests(tests, start_server_with_schema, pg_server_stop);
}
