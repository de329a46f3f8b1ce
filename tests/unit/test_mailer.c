/* worker/mailer.c on a real PostgreSQL with the real schema, against a mail server on the same
 * loop. */
#include "pg_fixture.h"
#include "smtp_server.h"

#include "mailer.h"
#include "metrics.h"

#define PATIENCE_US (20 * INT64_C(1000000))
#define MAILERS_MAX 3
#define TENANT      "a1a1a1a1-1111-4111-8111-111111111111"
#define WEBHOOK     "b2b2b2b2-2222-4222-8222-222222222222"

struct world {
    struct event_base *base;
    struct event *ticker;
    struct smtp_server server;
    struct mailer_config cfg;
    char url[100];
    struct {
        struct pg *pg;
        struct mailer *mailer;
    } worker[MAILERS_MAX];
    uint64_t sent, failed, dropped; /* before this test */
};

/* --- the world -------------------------------------------------------------------------- */

static uint64_t mails(const char *result)
{
    return metrics_counter("nrw_mails_total", result,
                           "E-mails to account owners: sent; failed tries; dropped for good.")
        ->value;
}
#define SENT(w)    ((int)(mails("result=\"sent\"") - (w)->sent))
#define FAILED(w)  ((int)(mails("result=\"failed\"") - (w)->failed))
#define DROPPED(w) ((int)(mails("result=\"dropped\"") - (w)->dropped))

static double gauge(const char *name, const char *help)
{
    return metrics_gauge(name, NULL, help)->value;
}

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

/* For what must not happen: so long that it would have, at these pauses. */
static void watch(struct world *w, int64_t us)
{
    const int64_t end = clock_mono_us() + us;
    AWAIT(w, clock_mono_us() > end);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static int setup(void **state)
{
    struct world *w = mem_zero(1, sizeof(*w));
    *state = w;
    if (pg_server.postmaster == 0) {
        return 0;
    }
    pg_server_sql(
        "TRUNCATE notifications, webhooks, tenants, attempts, pending_deliveries CASCADE");
    pg_server_sql("INSERT INTO tenants VALUES ('" TENANT "', 'Example GmbH', 'owner@example.com')");
    pg_server_sql("INSERT INTO webhooks (id, tenant_id, url, secret, events, status, "
                  "failing_since) VALUES ('" WEBHOOK "', '" TENANT
                  "', 'https://hooks.example.com/netrecon?token=hunter2', 'x', '{*}', 'failing',"
                  " '2026-03-15 10:30:00Z')");
    const struct timeval tick = {.tv_usec = 5000};
    w->base = event_base_new();
    w->ticker = event_new(w->base, -1, EV_PERSIST, on_tick, NULL);
    event_add(w->ticker, &tick);
    smtp_server_start(&w->server, w->base);
    pg_server_format(w->url, sizeof(w->url), "smtp://127.0.0.1:%u", (unsigned)w->server.port);
    w->cfg = (struct mailer_config){.smtp_url = w->url,
                                    .mail_from = "NetRecon <noreply@netrecon.example>",
                                    .console_url = "https://console.example.com/",
                                    .ca_file = "",
                                    .poll_ms = 20,
                                    .retry_ms = 30,
                                    .pause_ms = 20,
                                    .connect_timeout_ms = 5000,
                                    .timeout_ms = 5000};
    w->sent = mails("result=\"sent\"");
    w->failed = mails("result=\"failed\"");
    w->dropped = mails("result=\"dropped\"");
    return 0;
}

static void stop_worker(struct world *w, int i)
{
    pg_free(w->worker[i].pg), w->worker[i].pg = NULL;
    mailer_free(w->worker[i].mailer), w->worker[i].mailer = NULL;
}

static int teardown(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < MAILERS_MAX; i++) {
        stop_worker(w, i);
    }
    if (w->base != NULL) {
        /* a claim that was on its way would take a row of the next test */
        while (pg_server_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = "
                             "'mailer'") > 0) {
            pg_server_pause_ms(5);
        }
        smtp_server_done(&w->server);
        event_free(w->ticker);
        event_base_free(w->base);
    }
    free(w);
    return 0;
}

static struct mailer *start_worker(struct world *w, int i)
{
    char url[160];
    pg_server_url(url, sizeof(url), "postgres");
    const struct pg_handlers none = {.up = NULL};
    struct err err = {.code = ERR_NONE};
    w->worker[i].pg = pg_new(w->base, url, "mailer", 5000, &none);
    w->worker[i].mailer = mailer_new(w->base, &w->cfg, w->worker[i].pg, &err);
    if (w->worker[i].mailer == NULL) {
        fail_msg("%s", err.text);
    }
    return w->worker[i].mailer;
}

/* n rows, each of a transition of its own. */
static void add_rows(int n)
{
    char sql[400];
    pg_server_format(
        sql, sizeof(sql),
        "INSERT INTO notifications (kind, tenant_id, webhook_id, transition_at, status_code) SELECT"
        " 'webhook_failing', '" TENANT "', '" WEBHOOK
        "', '2026-03-15 10:30:00Z'::timestamptz + i * interval"
        " '1 second', 503 FROM generate_series(1, %d) i",
        n);
    pg_server_sql(sql);
}

static long rows(const char *where)
{
    char sql[400];
    pg_server_format(sql, sizeof(sql), "SELECT count(*) FROM notifications WHERE %s", where);
    return pg_server_sql(sql);
}

static bool all_different(const struct smtp_server *s)
{
    for (int i = 0; i < s->mails; i++) {
        for (int k = 0; k < i; k++) {
            if (strcmp(s->mail[i].message_id, s->mail[k].message_id) == 0) {
                return false;
            }
        }
    }
    return true;
}

/* Whether the plain text has it; quoted-printable does not touch short lines of ASCII. */
static bool says(const struct smtp_server *s, int mail, const char *text)
{
    return strstr(s->mail[mail].text, text) != NULL;
}

/* --- promises --------------------------------------------------------------------------- */

static void test_each_row_becomes_exactly_one_mail_with_two_mailers(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    add_rows(40);
    start_worker(w, 0);
    start_worker(w, 1);
    AWAIT(w, SENT(w) == 40 && mailer_is_idle(w->worker[0].mailer) &&
                 mailer_is_idle(w->worker[1].mailer));
    watch(w, 100000);
    assert_int_equal(40, w->server.mails);
    assert_true(all_different(&w->server));
    assert_false(w->server.foreign_mail);
    assert_int_equal(
        40,
        rows("state = 'sent' AND tries = 1 AND finished_at IS NOT NULL AND claimed_until IS NULL"));
    assert_in_range(w->server.connections, 1, 10); /* kept while mails follow each other */
    AWAIT(w, smtp_server_sessions(&w->server) == 0);
    assert_int_equal(w->server.connections, w->server.quits);
    assert_true(gauge("nrw_outbox_waiting",
                      "E-mails in the outbox that are neither sent nor dropped, at most 10000.") ==
                0);
}

static void test_the_mail_tells_what_the_database_knows(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    pg_server_sql("INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id, "
                  "tenant_id, event_type,"
                  " next_attempt, next_attempt_at, reason) SELECT gen_random_uuid(), now(), "
                  "gen_random_uuid(), '" WEBHOOK "', '" TENANT
                  "', 'alert.created', 2, now(), 'retry' FROM generate_series(1, 1204)");
    pg_server_sql(
        "INSERT INTO attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id, "
        "event_type,"
        " started_at, outcome) SELECT now(), gen_random_uuid(), 5, gen_random_uuid(), '" WEBHOOK
        "', '" TENANT "', 'alert.created', now() - i * interval '4 hours', CASE WHEN i = 2 THEN "
        "'failed' ELSE 'exhausted' END"
        " FROM generate_series(1, 10) i");
    add_rows(1);
    start_worker(w, 0);
    AWAIT(w, SENT(w) == 1);
    assert_string_equal("TO:<owner@example.com>", w->server.mail[0].to);
    assert_true(says(&w->server, 0, "From: NetRecon <noreply@netrecon.example>\r\n"));
    assert_true(says(&w->server, 0, "Account        Example GmbH\r\n"));
    assert_true(says(&w->server, 0, "Webhook        https://hooks.example.com/netrecon\r\n"));
    assert_true(says(&w->server, 0, "Failing since  15 March 2026, 10:30 UTC\r\n"));
    assert_true(says(&w->server, 0, "Last answer    503 Service Unavailable\r\n"));
    assert_true(
        says(&w->server, 0, "Waiting        more than 1,000 deliveries, to be tried again\r\n"));
    assert_true(says(&w->server, 0, "Given up       4 deliveries in the last 24 hours\r\n"));
    assert_true(
        says(&w->server, 0,
             "https://console.example.com/settings/integrations/webhooks/b2b2b2b2-2222-42=\r\n"));
    assert_false(says(&w->server, 0, "hunter2"));
    char id[SMTP_SERVER_TEXT];
    pg_server_format(id, sizeof(id), "'<' || id || '@netrecon.example>' = '%s'",
                     w->server.mail[0].message_id);
    assert_int_equal(1, rows(id));
}

static void test_a_disabled_webhook_has_words_of_its_own(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    pg_server_sql("INSERT INTO notifications (kind, tenant_id, webhook_id, transition_at, error, "
                  "next_try_at) VALUES"
                  " ('webhook_disabled', '" TENANT "', '" WEBHOOK
                  "', '2026-03-20 10:31:00Z', 'connection refused', now() -"
                  " interval '2 s')");
    pg_server_sql(
        "INSERT INTO notifications (kind, tenant_id, webhook_id, transition_at, status_code) VALUES"
        " ('webhook_disabled', '" TENANT "', '" WEBHOOK "', '2026-03-21 10:31:00Z', 410)");
    start_worker(w, 0);
    AWAIT(w, SENT(w) == 2);
    assert_true(says(&w->server, 0, "Subject: Webhook to hooks.example.com has been disabled\r\n"));
    assert_true(says(&w->server, 0, "for 5 days"));
    assert_true(says(&w->server, 0, "Failing since  15 March 2026, 10:30 UTC\r\n"));
    assert_true(says(&w->server, 0, "Disabled       20 March 2026, 10:31 UTC\r\n"));
    assert_true(says(&w->server, 0, "Last answer    none: connection refused\r\n"));
    assert_true(says(&w->server, 1, "410 Gone"));
    assert_false(says(&w->server, 1, "for 5 days"));
}

static void test_a_webhook_that_recovered_before_the_mail_left_is_told_so(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    pg_server_sql("UPDATE webhooks SET status = 'active', failing_since = NULL");
    add_rows(1);
    start_worker(w, 0);
    AWAIT(w, SENT(w) == 1);
    assert_true(says(&w->server, 0, "Meanwhile the webhook is active again."));
}

static void test_a_server_that_is_down_loses_no_mail_and_is_not_hammered(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    smtp_server_stop(&w->server);
    add_rows(10);
    start_worker(w, 0);
    start_worker(w, 1);
    AWAIT(w, FAILED(w) >= 4);
    const int64_t down_since = clock_mono_us();
    const int before = FAILED(w);
    watch(w, 500000);
    assert_in_range(FAILED(w) - before, 1, 14); /* growing pauses: without them it were hundreds */
    assert_int_equal(10, rows("state = 'pending'"));
    assert_int_equal(rows("last_error IS NOT NULL"),
                     rows("tries > 0 AND (claimed_until IS NULL OR last_error IS NOT NULL)"));
    assert_true(gauge("nrw_outbox_waiting",
                      "E-mails in the outbox that are neither sent nor dropped, at most 10000.") ==
                10);
    smtp_server_start(&w->server, w->base);
    AWAIT(w, SENT(w) == 10);
    print_message("[  NOTE  ] down for %lld ms: %d failed tries\n",
                  (long long)(clock_mono_us() - down_since) / 1000, FAILED(w));
    assert_int_equal(10, w->server.mails);
    assert_true(all_different(&w->server));
    assert_int_equal(0, DROPPED(w));
}

static void test_patience_ends_after_a_week_and_not_before(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    smtp_server_answers(&w->server, "RCPT", "554 5.7.1 relay access denied");
    add_rows(2);
    pg_server_sql("UPDATE notifications SET created_at = now() - interval '6 days 23 hours', tries "
                  "= 200 WHERE transition_at ="
                  " (SELECT min(transition_at) FROM notifications)");
    pg_server_sql(
        "UPDATE notifications SET created_at = now() - interval '7 days 1 hour' WHERE tries = 0");
    w->cfg.retry_ms = 60000;
    start_worker(w, 0);
    AWAIT(w, FAILED(w) == 2 && DROPPED(w) == 1 && mailer_is_idle(w->worker[0].mailer));
    assert_int_equal(1, rows("state = 'dropped' AND finished_at IS NOT NULL AND last_error LIKE "
                             "'%relay access denied%'"));
    /* the other one: an hour, and at most a quarter more */
    assert_int_equal(1, rows("state = 'pending' AND finished_at IS NULL AND tries = 201 AND "
                             "claimed_until IS NULL AND "
                             "next_try_at BETWEEN now() +"
                             " interval '59 minutes' AND now() + interval '75 minutes'"));
}

static void test_the_first_pauses_double(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    smtp_server_answers(&w->server, "RCPT", "450 4.2.0 greylisted");
    add_rows(1);
    w->cfg.retry_ms = 30000;
    start_worker(w, 0);
    for (int tries = 1; tries <= 3; tries++) {
        AWAIT(w, FAILED(w) == tries && mailer_is_idle(w->worker[0].mailer));
        char where[200];
        const int pause = 30 << (tries - 1);
        pg_server_format(where, sizeof(where),
                         "tries = %d AND next_try_at BETWEEN now() + interval '%d s' AND now() + "
                         "interval '%d s'",
                         tries, pause - 10, pause + pause / 4 + 1);
        assert_int_equal(1, rows(where));
        pg_server_sql("UPDATE notifications SET next_try_at = now()");
    }
}

static void test_an_unknown_recipient_is_dropped_after_three_tries(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    smtp_server_answers(&w->server, "RCPT", "550 5.1.1 user unknown");
    add_rows(1);
    start_worker(w, 0);
    AWAIT(w, DROPPED(w) == 1);
    assert_int_equal(3, FAILED(w));
    assert_int_equal(
        1, rows("state = 'dropped' AND tries = 3 AND last_error LIKE '%5.1.1 user unknown%'"));
}

static void test_a_refusal_of_one_mail_does_not_stop_the_others(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    smtp_server_answers(&w->server, ".", "554 5.6.0 looks like spam");
    w->cfg.retry_ms = 60000;
    add_rows(1);
    start_worker(w, 0);
    AWAIT(w, FAILED(w) == 1);
    smtp_server_answers(&w->server, ".", NULL);
    pg_server_sql("UPDATE notifications SET transition_at = transition_at - interval '1 day'");
    add_rows(4);
    AWAIT(w, SENT(w) == 4);
    assert_int_equal(1, rows("state = 'pending' AND tries = 1"));
}

static void test_without_a_usable_owner_a_mail_is_dropped_and_counted(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    static const struct {
        const char *change, *why;
    } cases[] = {
        {"UPDATE tenants SET owner_email = NULL", "no owner address"},
        {"UPDATE tenants SET owner_email = ''", "no owner address"},
        {"UPDATE tenants SET owner_email = E'a@b.c\\r\\nRCPT TO:<x@y.z>'",
         "not one that mail can be sent to"},
        {"UPDATE tenants SET owner_email = 'a@b.c>,<x@y.z'", "not one that mail can be sent to"},
        {"UPDATE tenants SET owner_email = 'a@b.c'; UPDATE webhooks SET deleted_at = now()",
         "deleted"},
    };
    const int n = (int)(sizeof(cases) / sizeof(*cases));
    start_worker(w, 0);
    for (int i = 0; i < n; i++) {
        char where[160];
        pg_server_sql(cases[i].change);
        pg_server_sql("DELETE FROM notifications");
        add_rows(1);
        AWAIT(w, DROPPED(w) == i + 1);
        pg_server_format(where, sizeof(where),
                         "state = 'dropped' AND tries = 1 AND last_error LIKE '%%%s%%'",
                         cases[i].why);
        assert_int_equal(1, rows(where));
    }
    pg_server_sql("DELETE FROM webhooks");
    pg_server_sql("DELETE FROM tenants");
    pg_server_sql("DELETE FROM notifications");
    add_rows(1);
    AWAIT(w, DROPPED(w) == n + 1);
    assert_int_equal(0, w->server.connections + SENT(w) + FAILED(w));
}

static void test_a_server_that_hangs_is_given_up_and_tried_again(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    smtp_server_answers(&w->server, "RCPT", "");
    w->cfg.timeout_ms = 400;
    add_rows(2);
    start_worker(w, 0);
    AWAIT(w, rows("last_error LIKE '%timed out%RCPT%'") == 1);
    smtp_server_answers(&w->server, "RCPT", NULL);
    AWAIT(w, SENT(w) == 2);
    assert_int_equal(2, w->server.mails);
}

static void test_a_repeat_after_a_lost_acceptance_has_the_same_message_id(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    smtp_server_answers(&w->server, ".", "!"); /* accepts, and dies before it says so */
    add_rows(1);
    start_worker(w, 0);
    AWAIT(w, FAILED(w) == 1);
    smtp_server_answers(&w->server, ".", NULL);
    AWAIT(w, SENT(w) == 1);
    assert_int_equal(2, w->server.mails);
    assert_string_equal(w->server.mail[0].message_id, w->server.mail[1].message_id);
}

static void test_a_worker_that_dies_after_the_acceptance_causes_one_repeat_with_the_same_message_id(
    void **state)
{
    pg_server_needed();
    struct world *w = *state;
    smtp_server_answers(&w->server, ".", "");
    w->cfg.claim_ms = 600;
    add_rows(1);
    start_worker(w, 0);
    AWAIT(w, w->server.mails == 1);
    stop_worker(w, 0); /* before the mark */
    assert_int_equal(1, rows("state = 'pending' AND claimed_until > now()"));
    smtp_server_answers(&w->server, ".", NULL);
    start_worker(w, 1);
    watch(w, 200000);
    assert_int_equal(1, w->server.mails); /* the claim holds */
    AWAIT(w, SENT(w) == 1);
    watch(w, 100000);
    assert_int_equal(2, w->server.mails);
    assert_string_equal(w->server.mail[0].message_id, w->server.mail[1].message_id);
    assert_int_equal(1, rows("state = 'sent' AND tries = 2"));
}

static void cut_postgresql(void)
{
    pg_server_sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mailer'");
}

static void test_postgresql_that_goes_away_before_the_mark_causes_no_repeat(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    smtp_server_answers(&w->server, ".", "");
    w->cfg.timeout_ms = 10000;
    add_rows(1);
    start_worker(w, 0);
    AWAIT(w, w->server.mails == 1);
    cut_postgresql();
    AWAIT(w, !pg_is_up(w->worker[0].pg));
    for (int i = 0; i < SMTP_SERVER_SESSIONS; i++) {
        if (w->server.sessions[i].bev != NULL) {
            smtp_session_say(&w->server.sessions[i], "250 2.0.0 queued at last");
        }
    }
    AWAIT(w, SENT(w) == 1);
    assert_int_equal(1, rows("state = 'sent' AND tries = 1"));
    watch(w, 100000);
    assert_int_equal(1, w->server.mails);
}

static void test_postgresql_that_goes_away_during_the_mark_causes_no_repeat(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    w->cfg.claim_ms = 3000;
    smtp_server_answers(&w->server, "RCPT", "");
    w->cfg.timeout_ms = 10000;
    add_rows(1);
    start_worker(w, 0);
    AWAIT(w, w->server.hung == 1);
    pg_server_sql("BEGIN");
    pg_server_sql("SELECT count(*) FROM (SELECT FROM notifications FOR UPDATE) n");
    smtp_server_answers(&w->server, "RCPT", NULL);
    for (int i = 0; i < SMTP_SERVER_SESSIONS; i++) {
        if (w->server.sessions[i].bev != NULL) {
            smtp_session_rcpt(&w->server.sessions[i], "TO:<owner@example.com>");
        }
    }
    AWAIT(w, pg_server_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = "
                           "'mailer' AND wait_event_type = 'Lock'") == 1);
    cut_postgresql();
    AWAIT(w, !pg_is_up(w->worker[0].pg));
    pg_server_sql("COMMIT");
    AWAIT(w, SENT(w) == 1);
    assert_int_equal(1, rows("state = 'sent' AND tries = 1"));
    assert_int_equal(1, w->server.mails);
}

static void test_postgresql_that_comes_and_goes_stops_nothing_for_long(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    w->cfg.claim_ms = 300;
    start_worker(w, 0);
    add_rows(20);
    for (int i = 1; i <= 4; i++) {
        AWAIT(w, SENT(w) >= i);
        cut_postgresql();
    }
    AWAIT(w, SENT(w) >= 20 || rows("state = 'sent'") == 20);
    assert_int_equal(20, rows("state = 'sent'"));
}

static void test_another_workers_claim_and_a_later_due_time_are_respected(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    add_rows(3);
    pg_server_sql("UPDATE notifications SET claimed_until = now() + interval '1 minute' WHERE "
                  "transition_at = '2026-03-15"
                  " 10:30:01Z'");
    pg_server_sql("UPDATE notifications SET next_try_at = now() + interval '1 minute' WHERE "
                  "transition_at = '2026-03-15"
                  " 10:30:02Z'");
    pg_server_sql("UPDATE notifications SET claimed_until = now() - interval '1 second' WHERE "
                  "transition_at = '2026-03-15"
                  " 10:30:03Z'");
    start_worker(w, 0);
    AWAIT(w, SENT(w) == 1);
    watch(w, 200000);
    assert_int_equal(1, w->server.mails);
    assert_int_equal(1, rows("state = 'sent' AND transition_at = '2026-03-15 10:30:03Z'"));
}

static void test_a_hint_needs_no_poll(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    w->cfg.poll_ms = 3600000;
    struct mailer *m = start_worker(w, 0);
    AWAIT(w, pg_is_up(w->worker[0].pg) && mailer_is_idle(m));
    PGconn *holder = pg_lock("notifications");
    mailer_hint(m);
    AWAIT(w, pg_lock_waiters() == 1);
    PQfinish(holder);
    /* It has looked and does not know yet that there was nothing: the next hint must not get lost.
     */
    while (pg_server_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mailer' "
                         "AND state = 'idle' AND query LIKE '%SKIP LOCKED%'") == 0) {
        pg_server_pause_ms(5);
    }
    add_rows(1);
    mailer_hint(m);
    AWAIT(w, SENT(w) == 1);
}

static void test_without_a_server_mails_stay_and_the_gauges_say_so(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    w->cfg.smtp_url = "";
    w->cfg.mail_from = "";
    add_rows(3);
    pg_server_sql("UPDATE notifications SET created_at = now() - interval '90 days'");
    start_worker(w, 0);
    AWAIT(w, gauge("nrw_outbox_waiting",
                   "E-mails in the outbox that are neither sent nor dropped, at most 10000.") == 3);
    assert_true(gauge("nrw_outbox_oldest_seconds",
                      "Age of the oldest e-mail in the outbox; 0 when it is empty.") >=
                90 * 86400.0);
    watch(w, 100000);
    assert_int_equal(3, rows("state = 'pending' AND tries = 0"));
}

static void test_stop_finishes_the_mail_in_hand_and_takes_no_other(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    add_rows(10);
    struct mailer *m = start_worker(w, 0);
    AWAIT(w, w->server.mails == 1);
    mailer_stop(m);
    mailer_hint(m);
    AWAIT(w, mailer_is_idle(m));
    const int n = w->server.mails;
    assert_int_equal(1, n);
    assert_int_equal(n, rows("state = 'sent'"));
    assert_int_equal(0, rows("claimed_until IS NOT NULL"));
    watch(w, 100000);
    assert_int_equal(n, w->server.mails);
}

static void test_free_is_safe_in_every_state(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    w->cfg.claim_ms = 1;
    add_rows(30);
    for (int turns = 0; turns < 40; turns += 2) {
        start_worker(w, 0);
        for (int i = 0; i < turns; i++) {
            assert_int_equal(0, event_base_loop(w->base, EVLOOP_ONCE));
        }
        stop_worker(w, 0);
    }
    mailer_free(NULL);
}

static void test_wrong_settings_are_told(void **state)
{
    pg_server_needed();
    struct world *w = *state;
    static const struct {
        const char *smtp_url, *from, *console;
    } wrong[] = {
        {"smtp://u:hunter2@h/a b", "a@b.c", ""},
        {"smtp://h", "", ""},
        {"smtp://h", "a@b.c, d@e.f", ""},
        {"smtp://h", "a@b.c\r\nBcc: x@y.z", ""},
        {"smtp://h", "a@b.c", "console.example.com"},
        {"smtp://h", "a@b.c", "https://x\"onclick=\"y"},
        {"smtp://h", "a@b.c", "javascript:alert(1)"},
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        struct err err = {.code = ERR_NONE};
        struct mailer_config cfg = w->cfg;
        cfg.smtp_url = wrong[i].smtp_url;
        cfg.mail_from = wrong[i].from;
        cfg.console_url = wrong[i].console;
        assert_null(mailer_new(w->base, &cfg, NULL, &err));
        assert_int_equal(ERR_INVALID, err.code);
        assert_null(strstr(err.text, "hunter2"));
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN); /* as worker.c does */
    const struct CMUnitTest tests[] = {
        TEST(test_each_row_becomes_exactly_one_mail_with_two_mailers),
        TEST(test_the_mail_tells_what_the_database_knows),
        TEST(test_a_disabled_webhook_has_words_of_its_own),
        TEST(test_a_webhook_that_recovered_before_the_mail_left_is_told_so),
        TEST(test_a_server_that_is_down_loses_no_mail_and_is_not_hammered),
        TEST(test_patience_ends_after_a_week_and_not_before),
        TEST(test_the_first_pauses_double),
        TEST(test_an_unknown_recipient_is_dropped_after_three_tries),
        TEST(test_a_refusal_of_one_mail_does_not_stop_the_others),
        TEST(test_without_a_usable_owner_a_mail_is_dropped_and_counted),
        TEST(test_a_server_that_hangs_is_given_up_and_tried_again),
        TEST(test_a_repeat_after_a_lost_acceptance_has_the_same_message_id),
        TEST(
            test_a_worker_that_dies_after_the_acceptance_causes_one_repeat_with_the_same_message_id),
        TEST(test_postgresql_that_goes_away_before_the_mark_causes_no_repeat),
        TEST(test_postgresql_that_goes_away_during_the_mark_causes_no_repeat),
        TEST(test_postgresql_that_comes_and_goes_stops_nothing_for_long),
        TEST(test_another_workers_claim_and_a_later_due_time_are_respected),
        TEST(test_a_hint_needs_no_poll),
        TEST(test_without_a_server_mails_stay_and_the_gauges_say_so),
        TEST(test_stop_finishes_the_mail_in_hand_and_takes_no_other),
        TEST(test_free_is_safe_in_every_state),
        TEST(test_wrong_settings_are_told),
    };
    return cmocka_run_group_tests(tests, start_server_with_schema, pg_server_stop);
}
