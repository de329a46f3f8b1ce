/* The outbox's rules: which row, when again, when never again. Borrows a PostgreSQL connection,
 * owns the mail server's (smtp.c); what the mail says is mail.c's. worker.c creates it; standing.c
 * writes the rows and hints. One row goes through these states; a mail is claimed only when it can
 * be sent at once, so that no claim runs out in a queue:
 *
 *   IDLE --timer, hint--> CLAIMING --row--> SENDING --outcome--> MARKING --> CLAIMING ...
 *                            |  `--row that cannot be sent---------^
 *                            `--no row, or a pause--> RESTING (QUIT) --> IDLE
 *
 * PostgreSQL away: the claim waits for the next poll, the mark is tried again every second.
 * Due times and claims are PostgreSQL's clock, pauses are this process'. */
#include "mailer.h"

#include <event2/util.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "ids.h"
#include "log.h"
#include "mail.h"
#include "mem.h"
#include "metrics.h"
#include "pgarray.h"
#include "smtp.h"

#define MAILER_MAGIC    0x6d61696cu
#define ROW_BACKOFF_MAX "3600000" /* ms */
#define PAUSE_MAX_MS    300000
#define MARK_AGAIN_MS   1000
#define ERROR_TEXT      512
#define LINK_PATH       "/settings/integrations/webhooks/"
#define LINK_MAX        (MAILER_CONSOLE_URL_MAX + sizeof(LINK_PATH) + UUID_TEXT)
#define OID_INT8        20
#define OID_TEXT        25
#define OID_UUID        2950
#define SQL_(x)         #x
#define SQL(x)          SQL_(x)

enum mailer_state { MAILER_IDLE, MAILER_CLAIMING, MAILER_SENDING, MAILER_MARKING, MAILER_RESTING };

enum verdict { VERDICT_SENT, VERDICT_FAILED, VERDICT_DROPPED };

struct mailer {
    unsigned magic;
    enum mailer_state state;
    struct event *timer; /* IDLE: next look; MARKING: next try of the mark */
    struct pg *pg;
    struct smtp *smtp; /* NULL: no server is configured */
    struct mime_mailbox from;
    char *console_url;
    int64_t poll_ms, retry_ms, pause_first_ms, claim_ms;
    bool hinted, stopped;
    int64_t pause_ms;       /* the next one; 0: the server was usable last time */
    int64_t pause_until_us; /* monotonic */

    struct uuid id; /* the row in hand */
    struct uuid webhook_id;
    int64_t tries;
    struct buf mail;
    enum verdict verdict;
    char why[ERROR_TEXT];

    struct counter *sent, *failed, *dropped;
    struct gauge *waiting, *oldest;
};

static void look(struct mailer *m);
static void mark(struct mailer *m);

static struct mailer *mailer_of(void *ctx)
{
    struct mailer *m = ctx;
    CHECK_MAGIC(m, MAILER_MAGIC);
    return m;
}

static void set_state(struct mailer *m, enum mailer_state state)
{
    static const char *const names[] = {"idle", "claiming", "sending", "marking", "resting"};
    log_debug("mailer.state", F_STR("from", names[m->state]), F_STR("to", names[state]));
    m->state = state;
}

static void arm(struct mailer *m, int64_t ms)
{
    const struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    CHECK(event_add(m->timer, &tv) == 0);
}

static bool paused(const struct mailer *m)
{
    return m->pause_ms > 0 && clock_mono_us() < m->pause_until_us;
}

/* The next look: at once for a hint, but not at a server that was unusable a moment ago. */
static void become_idle(struct mailer *m)
{
    set_state(m, MAILER_IDLE);
    const bool now = m->hinted && !paused(m);
    m->hinted = false;
    arm(m, now ? 0 : m->poll_ms);
}

/* --- the mark --------------------------------------------------------------------------- */

/* A mail that is sent is sent, whoever claims it meanwhile. A failure counts only for the claim
 * that it belongs to, and is the last one when patience is over. */
static const char sent_sql[] =
    "UPDATE notifications SET state = 'sent', finished_at = now(), claimed_until = NULL, "
    "last_error = NULL WHERE id = $1 AND state = 'pending' RETURNING state";
static const char dropped_sql[] =
    "UPDATE notifications SET state = 'dropped', finished_at = now(), claimed_until = NULL, "
    "last_error = $2 WHERE id = $1 AND state = 'pending' AND tries = $3 RETURNING state";
static const char failed_sql[] =
    "UPDATE notifications SET claimed_until = NULL, last_error = $2,"
    " state = CASE WHEN created_at < now() - interval '" MAILER_PATIENCE
    "' THEN 'dropped' ELSE 'pending' END,"
    " finished_at = CASE WHEN created_at < now() - interval '" MAILER_PATIENCE "' THEN now() END,"
    " next_try_at = now() + least($4 * 2.0 ^ least(tries - 1, 20), " ROW_BACKOFF_MAX ")"
    " * (1 + random() / 4) * interval '1 millisecond'"
    " WHERE id = $1 AND state = 'pending' AND tries = $3 RETURNING state";

static void tell(struct mailer *m, bool dropped)
{
    if (m->verdict == VERDICT_SENT) {
        m->sent->value++;
        log_info("mail.sent", F_UUID("notification", &m->id), F_UUID("webhook", &m->webhook_id),
                 F_INT("tries", m->tries));
        return;
    }
    if (dropped) {
        m->dropped->value++;
        log_warn("mail.dropped", F_UUID("notification", &m->id), F_UUID("webhook", &m->webhook_id),
                 F_INT("tries", m->tries), F_STR("why", m->why));
        return;
    }
    log_warn("mail.failed", F_UUID("notification", &m->id), F_UUID("webhook", &m->webhook_id),
             F_INT("tries", m->tries), F_STR("why", m->why));
}

static void on_marked(void *ctx, const struct pg_reply *reply)
{
    struct mailer *m = mailer_of(ctx);
    if (!reply->ok) {
        log_warn("mailer.mark_failed", F_UUID("notification", &m->id), F_ERR(reply->err));
        arm(m, MARK_AGAIN_MS); /* the fact must not be forgotten: it would be sent again */
        return;
    }
    const PGresult *r = reply->results[0];
    if (PQntuples(r) == 1) {
        tell(m, strcmp(PQgetvalue(r, 0, 0), "dropped") == 0);
    } else { /* marked by an earlier try whose answer was lost, or claimed by another worker */
        log_info("mailer.mark_late", F_UUID("notification", &m->id), F_INT("tries", m->tries));
    }
    look(m);
}

static void mark(struct mailer *m)
{
    char tries[24];
    char retry[24];
    char id[UUID_TEXT + 1];
    uuid_format(&m->id, id);
    (void)snprintf(tries, sizeof(tries), "%lld", (long long)m->tries);
    (void)snprintf(retry, sizeof(retry), "%lld", (long long)m->retry_ms);
    const struct pg_param params[] = {{.type = OID_UUID, .data = id},
                                      {.type = OID_TEXT, .data = m->why},
                                      {.type = OID_INT8, .data = tries},
                                      {.type = OID_INT8, .data = retry}};
    static const struct {
        const char *sql;
        int n_params;
    } by_verdict[] = {
        [VERDICT_SENT] = {sent_sql, 1},
        [VERDICT_FAILED] = {failed_sql, 4},
        [VERDICT_DROPPED] = {dropped_sql, 3},
    };
    const struct pg_stmt stmt = {.sql = by_verdict[m->verdict].sql,
                                 .params = params,
                                 .n_params = by_verdict[m->verdict].n_params};
    if (!pg_submit(m->pg, &stmt, 1, on_marked, m)) {
        arm(m, MARK_AGAIN_MS);
    }
}

static void end_row(struct mailer *m, enum verdict verdict, const char *why)
{
    m->verdict = verdict;
    (void)pgarray_clean_text(why, strlen(why), m->why, sizeof(m->why));
    buf_reset(&m->mail);
    set_state(m, MAILER_MARKING);
    mark(m);
}

/* --- the server's answer ---------------------------------------------------------------- */

/* One mail at a time asks whether the server is back; the others wait in the outbox, due, and go
 * out as soon as it is. */
static void pause_sending(struct mailer *m)
{
    uint16_t random;
    evutil_secure_rng_get_bytes(&random, sizeof(random));
    m->pause_ms = m->pause_ms == 0 ? m->pause_first_ms : m->pause_ms * 2;
    m->pause_ms = m->pause_ms < PAUSE_MAX_MS ? m->pause_ms : PAUSE_MAX_MS;
    m->pause_until_us = clock_mono_us() + (m->pause_ms + random % (m->pause_ms / 4 + 1)) * 1000;
}

static void on_sent(void *ctx, const struct smtp_result *result)
{
    struct mailer *m = mailer_of(ctx);
    CHECK(m->state == MAILER_SENDING);
    if (result->outcome == SMTP_UNAVAILABLE) {
        pause_sending(m);
    } else {
        m->pause_ms = 0;
    }
    if (result->outcome == SMTP_SENT) {
        end_row(m, VERDICT_SENT, "");
        return;
    }
    m->failed->value++;
    const bool unknown = result->outcome == SMTP_BAD_ADDRESS && m->tries >= MAILER_ADDRESS_TRIES;
    end_row(m, unknown ? VERDICT_DROPPED : VERDICT_FAILED, result->text);
}

/* --- the claim -------------------------------------------------------------------------- */

/* Counting stops early: a webhook that fails for days has millions of attempts, and the mail says
 * "more than". MATERIALIZED: the rows to lock are chosen once, whatever the plan. */
static const char claim_sql[] =
    "WITH due AS MATERIALIZED ("
    "SELECT id FROM notifications WHERE state = 'pending' AND next_try_at <= now()"
    " AND (claimed_until IS NULL OR claimed_until < now())"
    " ORDER BY next_try_at LIMIT 1 FOR UPDATE SKIP LOCKED"
    "), claimed AS ("
    "UPDATE notifications n SET claimed_until = now() + $1 * interval '1 millisecond', tries = "
    "n.tries + 1"
    " FROM due WHERE n.id = due.id RETURNING n.*"
    ") SELECT c.id, c.webhook_id, c.tries::int8, c.kind, c.transition_at, coalesce(c.status_code, "
    "0)::int8,"
    " coalesce(c.error, ''), t.owner_email, coalesce(t.name, ''), w.url, w.failing_since,"
    " coalesce(w.status = 'active', false),"
    " (SELECT count(*) FROM (SELECT FROM pending_deliveries p WHERE p.webhook_id = c.webhook_id"
    " LIMIT " SQL(
        MAIL_COUNT_MAX) " + 1) p), x.exhausted, x.scanned"
                        " FROM claimed c LEFT JOIN tenants t ON t.id = c.tenant_id"
                        " LEFT JOIN webhooks w ON w.id = c.webhook_id AND w.deleted_at IS NULL,"
                        " LATERAL (SELECT count(*) FILTER (WHERE a.outcome = 'exhausted') AS "
                        "exhausted, count(*) AS scanned FROM"
                        " (SELECT outcome FROM attempts WHERE webhook_id = c.webhook_id AND "
                        "started_at > now() - interval '1 day'"
                        " ORDER BY started_at DESC LIMIT " SQL(MAIL_COUNT_MAX) ") a) x";

enum claim_column {
    CLAIM_ID,
    CLAIM_WEBHOOK,
    CLAIM_TRIES,
    CLAIM_KIND,
    CLAIM_TRANSITION,
    CLAIM_STATUS_CODE,
    CLAIM_ERROR,
    CLAIM_OWNER,
    CLAIM_TENANT_NAME,
    CLAIM_URL,
    CLAIM_FAILING_SINCE,
    CLAIM_ACTIVE,
    CLAIM_WAITING,
    CLAIM_EXHAUSTED,
    CLAIM_SCANNED
};

static void read_facts(const PGresult *r, struct mail_facts *f)
{
    const int64_t transition_us = pgvalue_time_us(r, 0, CLAIM_TRANSITION);
    *f = (struct mail_facts){
        .kind = MAIL_FAILING,
        .url = PQgetvalue(r, 0, CLAIM_URL),
        .tenant_name = PQgetvalue(r, 0, CLAIM_TENANT_NAME),
        .failing_us = transition_us,
        .status_code = (int)pgvalue_int8(r, 0, CLAIM_STATUS_CODE),
        .error = PQgetvalue(r, 0, CLAIM_ERROR),
        .waiting = pgvalue_int8(r, 0, CLAIM_WAITING),
        .exhausted = pgvalue_int8(r, 0, CLAIM_EXHAUSTED),
        .exhausted_more = pgvalue_int8(r, 0, CLAIM_SCANNED) >= MAIL_COUNT_MAX,
        .recovered = pgvalue_bool(r, 0, CLAIM_ACTIVE),
    };
    if (strcmp(PQgetvalue(r, 0, CLAIM_KIND), "webhook_disabled") == 0) {
        f->kind = f->status_code == 410 ? MAIL_GONE : MAIL_DISABLED;
        f->disabled_us = transition_us;
        f->failing_us =
            PQgetisnull(r, 0, CLAIM_FAILING_SINCE) ? 0 : pgvalue_time_us(r, 0, CLAIM_FAILING_SINCE);
    }
}

static void send_row(struct mailer *m, const PGresult *r, const char *owner)
{
    char id[UUID_TEXT + 1];
    char webhook[UUID_TEXT + 1];
    char message_id[UUID_TEXT + 1 + MIME_ADDRESS_MAX + 1];
    char link[LINK_MAX] = "";
    struct mail_facts facts;
    read_facts(r, &facts);
    uuid_format(&m->id, id);
    uuid_format(&m->webhook_id, webhook);
    (void)snprintf(message_id, sizeof(message_id), "%s@%s", id, mime_domain_of(m->from.address));
    if (m->console_url[0] != '\0') {
        (void)snprintf(link, sizeof(link), "%s" LINK_PATH "%s", m->console_url, webhook);
    }
    facts.webhook_id = webhook;
    facts.link = link;
    mail_render(&facts, &m->from, owner, message_id, clock_wall_us(), &m->mail);
    CHECK(buf_ok(&m->mail));
    set_state(m, MAILER_SENDING);
    smtp_send(m->smtp, owner, m->mail.data, m->mail.len, on_sent, m);
}

static void take_row(struct mailer *m, const PGresult *r)
{
    m->id = pgvalue_uuid(r, 0, CLAIM_ID);
    m->webhook_id = pgvalue_uuid(r, 0, CLAIM_WEBHOOK);
    m->tries = pgvalue_int8(r, 0, CLAIM_TRIES);
    const char *owner = PQgetvalue(r, 0, CLAIM_OWNER);
    if (PQgetisnull(r, 0, CLAIM_URL)) {
        end_row(m, VERDICT_DROPPED, "the webhook has been deleted");
    } else if (owner[0] == '\0') {
        end_row(m, VERDICT_DROPPED, "the account has no owner address");
    } else if (!mime_address_ok(owner)) {
        end_row(m, VERDICT_DROPPED,
                "the account's owner address is not one that mail can be sent to");
    } else {
        send_row(m, r, owner);
    }
}

static void on_rested(void *ctx)
{
    become_idle(mailer_of(ctx));
}

static void rest(struct mailer *m)
{
    set_state(m, MAILER_RESTING);
    if (m->smtp == NULL || !smtp_rest(m->smtp, on_rested, m)) {
        become_idle(m);
    }
}

static const char count_sql[] =
    "SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)) * 1000, 0)::int8 FROM "
    "(SELECT created_at FROM"
    " notifications WHERE state = 'pending' ORDER BY next_try_at LIMIT 10000) n";

static void on_claimed(void *ctx, const struct pg_reply *reply)
{
    struct mailer *m = mailer_of(ctx);
    if (!reply->ok) {
        log_warn("mailer.claim_failed", F_ERR(reply->err));
        rest(m); /* what may have been claimed is free again after claim_ms */
        return;
    }
    const PGresult *count = reply->results[0];
    m->waiting->value = (double)pgvalue_int8(count, 0, 0);
    m->oldest->value = (double)pgvalue_int8(count, 0, 1) / 1000;
    if (reply->n_results > 1 && PQntuples(reply->results[1]) == 1) {
        take_row(m, reply->results[1]);
    } else {
        rest(m);
    }
}

static void look(struct mailer *m)
{
    char claim[24];
    (void)snprintf(claim, sizeof(claim), "%lld", (long long)m->claim_ms);
    const struct pg_param params[] = {{.type = OID_INT8, .data = claim}};
    const struct pg_stmt stmts[] = {
        {.sql = count_sql, .binary_result = true},
        {.sql = claim_sql, .params = params, .n_params = 1, .binary_result = true}};
    m->hinted = false;
    const bool claims = m->smtp != NULL && !m->stopped && !paused(m);
    set_state(m, MAILER_CLAIMING);
    if (!pg_submit(m->pg, stmts, claims ? 2 : 1, on_claimed, m)) {
        rest(m);
    }
}

/* --- from outside ----------------------------------------------------------------------- */

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct mailer *m = mailer_of(ctx);
    if (m->state == MAILER_IDLE) {
        look(m);
    } else if (m->state == MAILER_MARKING) {
        mark(m);
    }
}

void mailer_hint(struct mailer *m)
{
    CHECK_MAGIC(m, MAILER_MAGIC);
    m->hinted = true;
    if (m->state == MAILER_IDLE && !paused(m)) {
        arm(m, 0);
    }
}

void mailer_stop(struct mailer *m)
{
    CHECK_MAGIC(m, MAILER_MAGIC);
    m->stopped = true;
}

bool mailer_is_idle(const struct mailer *m)
{
    return m->state == MAILER_IDLE;
}

/* It is put into HTML and in front of a path. */
static bool console_url_ok(const char *url)
{
    const size_t len = strlen(url);
    if (len == 0) {
        return true;
    }
    if (len > MAILER_CONSOLE_URL_MAX ||
        (strncmp(url, "https://", 8) != 0 && strncmp(url, "http://", 7) != 0)) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (url[i] <= ' ' || url[i] > '~' || strchr("\"<>\\^`{|}?#", url[i]) != NULL) {
            return false;
        }
    }
    return true;
}

static bool take_settings(struct mailer *m, struct event_base *base,
                          const struct mailer_config *cfg, struct err *err)
{
    m->poll_ms = cfg->poll_ms > 0 ? cfg->poll_ms : 5000;
    m->retry_ms = cfg->retry_ms > 0 ? cfg->retry_ms : 30000;
    m->pause_first_ms = cfg->pause_ms > 0 ? cfg->pause_ms : 5000;
    m->claim_ms = cfg->claim_ms > 0 ? cfg->claim_ms : 120000;
    if (!console_url_ok(cfg->console_url)) {
        return err_set(err, ERR_INVALID, "the console's URL is not http(s)://host[/path]: %s",
                       cfg->console_url);
    }
    m->console_url = mem_dup(cfg->console_url);
    size_t len = strlen(m->console_url);
    while (len > 0 && m->console_url[len - 1] == '/') {
        m->console_url[--len] = '\0';
    }
    if (cfg->smtp_url[0] == '\0') {
        return true;
    }
    if (!mime_mailbox_parse(cfg->mail_from, &m->from)) {
        return err_set(err, ERR_INVALID,
                       "the sender of mails is not an address or \"Name <address>\": %s",
                       cfg->mail_from);
    }
    const struct smtp_config smtp = {
        .url = cfg->smtp_url,
        .from = m->from.address,
        .ca_file = cfg->ca_file,
        .connect_timeout_ms = cfg->connect_timeout_ms > 0 ? cfg->connect_timeout_ms : 10000,
        .timeout_ms = cfg->timeout_ms > 0 ? cfg->timeout_ms : 60000,
    };
    m->smtp = smtp_new(base, &smtp, err);
    return m->smtp != NULL;
}

static void register_metrics(struct mailer *m)
{
    static const char mails[] = "e-mails to account owners: sent, failed tries, dropped for good";
    m->sent = metrics_counter("nrw_mails_total", "result=\"sent\"", mails);
    m->failed = metrics_counter("nrw_mails_total", "result=\"failed\"", mails);
    m->dropped = metrics_counter("nrw_mails_total", "result=\"dropped\"", mails);
    m->waiting = metrics_gauge("nrw_outbox_waiting", NULL,
                               "e-mails neither sent nor dropped, at most 10000");
    m->oldest = metrics_gauge("nrw_outbox_oldest_seconds", NULL,
                              "age of the oldest e-mail neither sent nor dropped");
}

struct mailer *mailer_new(struct event_base *base, const struct mailer_config *cfg, struct pg *pg,
                          struct err *err)
{
    struct mailer *m = mem_zero(1, sizeof(*m));
    m->magic = MAILER_MAGIC;
    m->pg = pg;
    m->timer = evtimer_new(base, on_timer, m);
    CHECK(m->timer != NULL);
    buf_init(&m->mail, MAIL_BYTES_MAX);
    register_metrics(m);
    if (!take_settings(m, base, cfg, err)) {
        mailer_free(m);
        return NULL;
    }
    if (m->smtp == NULL) {
        log_warn(
            "mailer.off",
            F_STR("why", "NRW_SMTP_URL is not set: mails to account owners stay in the outbox"));
    }
    arm(m, 0);
    return m;
}

void mailer_free(struct mailer *m)
{
    if (m == NULL) {
        return;
    }
    smtp_free(m->smtp), m->smtp = NULL;
    event_free(m->timer), m->timer = NULL;
    buf_done(&m->mail);
    free(m->console_url), m->console_url = NULL;
    m->magic = 0;
    free(m);
}
