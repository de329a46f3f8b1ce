/* Owns the job in hand and the three units of its page. Sends nothing and decides no delivery:
 * pending rows are all that comes of it. Borrows upkeep's connection; worker.c wires `due` to the
 * schedule. PostgreSQL away, or an answer lost: the job is somebody's again when its lease is over.
 *
 *   IDLE --timer--> CLAIMING --job--> READING --events--> WRITING --> CLAIMING (the next page) ...
 *                      `--none--> IDLE   `--no room, no webhook--^      */
#include "replays.h"

#include <event2/event_struct.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "check.h"
#include "event_types.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"
#include "pgarray.h"

#define REPLAYS_MAGIC   0x5245504cu
#define OID_BOOL        16
#define OID_INT8        20
#define OID_TEXT        25
#define OID_TIMESTAMPTZ 1184
#define OID_UUID        2950
#define TIME_BYTES      8
#define UUID_BYTES      16
#define POLL_MS         1000
#define LEASE_MS        30000
#define PAGE_MAX        500
#define PENDING_MAX     1000
#define ROOM_SHARE      4 /* a page begins when a quarter of the job's rows have ended */

enum replays_state { REPLAYS_IDLE, REPLAYS_CLAIMING, REPLAYS_READING, REPLAYS_WRITING };

/* Times and cursor as PostgreSQL sends them in binary: they only go back there. */
struct job {
    struct uuid id;
    struct uuid webhook_id;
    char raw_id[UUID_BYTES];
    char tenant_id[UUID_BYTES];
    char lease[TIME_BYTES]; /* leased_until, which tells whose lease it is */
    char at[TIME_BYTES];    /* the cursor: the last event that was looked at, or `since` */
    char at_id[UUID_BYTES];
    char upper[TIME_BYTES]; /* events before this can be looked at now */
    bool upper_is_until;
    uint32_t mask; /* wanted types */
    int limit;     /* events in this page */
};

struct replays {
    unsigned magic;
    enum replays_state state;
    struct replays_config cfg;
    struct replays_handlers on;
    struct pg *pg;
    struct event timer;
    bool stopped;
    struct job job; /* in hand unless IDLE or CLAIMING */
    bool last_page; /* WRITING */
    struct counter *scanned, *enqueued, *done, *cancelled, *failed, *lost;
};

static void claim(struct replays *r);

static struct replays *replays_of(void *ctx)
{
    struct replays *r = ctx;
    CHECK_MAGIC(r, REPLAYS_MAGIC);
    return r;
}

static void set_state(struct replays *r, enum replays_state state)
{
    static const char *const names[] = {"idle", "claiming", "reading", "writing"};
    log_debug("replays.state", F_STR("from", names[r->state]), F_STR("to", names[state]));
    r->state = state;
}

/* The lease ends by itself; nothing is lost but time. */
static void drop(struct replays *r, const char *what, const struct err *err)
{
    log_warn("replays.page_dropped", F_STR("what", what), F_UUID("job", &r->job.id), F_ERR(err));
    set_state(r, REPLAYS_IDLE);
}

static struct pg_param int8_param(char text[24], int64_t v)
{
    (void)snprintf(text, 24, "%" PRId64, v);
    return (struct pg_param){.type = OID_INT8, .data = text};
}

static struct pg_param time_param(const char raw[TIME_BYTES])
{
    return (struct pg_param){
        .type = OID_TIMESTAMPTZ, .data = raw, .len = TIME_BYTES, .binary = true};
}

static struct pg_param uuid_param(const char raw[UUID_BYTES])
{
    return (struct pg_param){.type = OID_UUID, .data = raw, .len = UUID_BYTES, .binary = true};
}

static void copy_raw(char *out, size_t len, const PGresult *res, int row, int col)
{
    CHECK((size_t)PQgetlength(res, row, col) == len);
    memcpy(out, PQgetvalue(res, row, col), len);
}

/* --- the end of a job ------------------------------------------------------------------- */

static const char end_sql[] =
    "UPDATE replay_jobs SET state = $3, error = $4, finished_at = now(), leased_until = NULL,"
    " updated_at = now() WHERE id = $1 AND state = 'running' AND leased_until = $2";

static void ended(void *ctx, const struct pg_reply *reply)
{
    struct replays *r = replays_of(ctx);
    if (reply->ok) {
        set_state(r, REPLAYS_IDLE);
        claim(r);
    } else {
        drop(r, "end", reply->err);
    }
}

static void end_job(struct replays *r, const char *state, const char *error)
{
    log_warn("replays.ended", F_UUID("job", &r->job.id), F_UUID("webhook", &r->job.webhook_id),
             F_STR("state", state), F_STR("error", error));
    const struct pg_param params[] = {
        uuid_param(r->job.raw_id),
        time_param(r->job.lease),
        {.type = OID_TEXT, .data = state},
        {.type = OID_TEXT, .data = error},
    };
    const struct pg_stmt stmt = {.sql = end_sql, .params = params, .n_params = 4};
    set_state(r, pg_submit(r->pg, &stmt, 1, ended, r) ? REPLAYS_WRITING : REPLAYS_IDLE);
}

/* --- write ------------------------------------------------------------------------------ */

/* clang-format off */
/* Everything hangs on `job`: without the lease it is empty, and nothing happens. Its lock is what a cancel waits for. The
 * log is read by key, in the one partition of the event's day. */
static const char write_sql[] =
    "WITH job AS (SELECT id, tenant_id, webhook_id, selection FROM replay_jobs"
    " WHERE id = $1 AND state = 'running' AND leased_until = $2 FOR UPDATE),"
    " added AS (INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type,"
    " next_attempt, final_attempt, next_attempt_at, reason, replay_job_id)"
    " SELECT e.delivery_id, e.received_at, e.event_id, job.webhook_id, job.tenant_id, e.event_type,"
    " coalesce(log.last, 0) + 1, coalesce(log.last, 0) + $11, now(), 'replay', job.id"
    " FROM job, unnest($3, $4, $5, $6) AS e (received_at, delivery_id, event_id, event_type),"
    " LATERAL (SELECT max(a.attempt) AS last, bool_or(a.outcome = 'delivered') AS delivered FROM attempts a"
    " WHERE a.received_at = e.received_at AND a.delivery_id = e.delivery_id) AS log"
    " WHERE CASE job.selection WHEN 'failed' THEN NOT log.delivered WHEN 'missed' THEN log.last IS NULL ELSE true END"
    " AND NOT EXISTS (SELECT FROM pending_deliveries p WHERE p.delivery_id = e.delivery_id)"
    " ON CONFLICT DO NOTHING RETURNING delivery_id),"
    " moved AS (UPDATE replay_jobs j SET cursor_at = coalesce($7, j.cursor_at), cursor_id = coalesce($8, j.cursor_id),"
    " scanned = j.scanned + $9, enqueued = j.enqueued + (SELECT count(*) FROM added), updated_at = now(),"
    " state = CASE WHEN $10 THEN 'done' ELSE 'running' END, finished_at = CASE WHEN $10 THEN now() END,"
    " leased_until = CASE WHEN NOT $10 THEN now() + $12 * interval '1 millisecond' END"
    " FROM job WHERE j.id = job.id RETURNING j.id)"
    " SELECT added.delivery_id FROM moved LEFT JOIN added ON true";
/* clang-format on */

struct page {
    struct pgarray received, deliveries, events, types;
    int scanned;
    const char *at, *at_id; /* of the last event; NULL: there is none */
    bool last;
    int64_t pause_ms; /* nobody takes the job up before */
};

static void page_init(struct page *p, int events, size_t type_bytes)
{
    const size_t n = (size_t)events;
    *p = (struct page){.scanned = events};
    pgarray_init(&p->received, PGARRAY_TIME, 64 + n * 12);
    pgarray_init(&p->deliveries, PGARRAY_UUID, 64 + n * 20);
    pgarray_init(&p->events, PGARRAY_UUID, 64 + n * 20);
    pgarray_init(&p->types, PGARRAY_TEXT, 64 + n * 4 + type_bytes);
}

static void page_done(struct page *p)
{
    pgarray_done(&p->received);
    pgarray_done(&p->deliveries);
    pgarray_done(&p->events);
    pgarray_done(&p->types);
}

/* A page like any other was refused for its data, and always will be. */
static bool data_refused(const struct pg_reply *reply)
{
    const char *state = reply->err->sqlstate;
    return reply->failed >= 0 && (strncmp(state, "22", 2) == 0 || strncmp(state, "23", 2) == 0);
}

static void write_failed(struct replays *r, const struct pg_reply *reply)
{
    if (!data_refused(reply) || r->stopped) {
        drop(r, "write", reply->err);
        return;
    }
    char text[LIMIT_ERROR_TEXT];
    (void)snprintf(text, sizeof(text), "the database refused a delivery (SQLSTATE %s)",
                   reply->err->sqlstate);
    log_error("replays.refused", F_UUID("job", &r->job.id), F_ERR(reply->err));
    r->failed->value++;
    end_job(r, "failed", text);
}

static void written(void *ctx, const struct pg_reply *reply)
{
    struct replays *r = replays_of(ctx);
    if (!reply->ok) {
        write_failed(r, reply);
        return;
    }
    const PGresult *res = reply->results[0];
    const int n = PQntuples(res);
    set_state(r, REPLAYS_IDLE);
    if (n == 0) { /* cancelled, or too slow: it is somebody else's */
        r->lost->value++;
        log_info("replays.lost", F_UUID("job", &r->job.id));
    } else if (r->last_page) {
        r->done->value++;
        log_info("replays.done", F_UUID("job", &r->job.id), F_UUID("webhook", &r->job.webhook_id));
    }
    for (int row = 0; row < n; row++) {
        if (!PQgetisnull(res, row, 0)) {
            const struct uuid id = pgvalue_uuid(res, row, 0);
            r->enqueued->value++;
            r->on.due(r->on.ctx, &id, 0);
        }
    }
    claim(r);
}

static void write_page(struct replays *r, struct page *p)
{
    char numbers[3][24];
    r->last_page = p->last;
    r->scanned->value += (uint64_t)p->scanned;
    const struct pg_param none = {.type = OID_TIMESTAMPTZ};
    const struct pg_param no_id = {.type = OID_UUID};
    const struct pg_param params[] = {
        uuid_param(r->job.raw_id),
        time_param(r->job.lease),
        pgarray_param(&p->received),
        pgarray_param(&p->deliveries),
        pgarray_param(&p->events),
        pgarray_param(&p->types),
        p->at != NULL ? time_param(p->at) : none,
        p->at_id != NULL ? uuid_param(p->at_id) : no_id,
        int8_param(numbers[0], p->scanned),
        {.type = OID_BOOL, .data = p->last ? "t" : "f"},
        int8_param(numbers[1], LIMIT_ATTEMPTS),
        int8_param(numbers[2], p->pause_ms),
    };
    const struct pg_stmt stmt = {
        .sql = write_sql, .params = params, .n_params = 12, .binary_result = true};
    set_state(r, pg_submit(r->pg, &stmt, 1, written, r) ? REPLAYS_WRITING : REPLAYS_IDLE);
}

/* It cannot go on now. */
static void give_back(struct replays *r)
{
    struct page p;
    page_init(&p, 0, 0);
    p.pause_ms = r->cfg.poll_ms;
    write_page(r, &p);
    page_done(&p);
}

/* --- read ------------------------------------------------------------------------------- */

/* A test's event did not come from Kafka, and is nobody's to replay. */
static const char read_sql[] =
    "SELECT received_at, id, event_type FROM events"
    " WHERE tenant_id = $1 AND (received_at, id) > ($2, $3) AND received_at >= $2"
    " AND received_at < $4 AND kafka_partition IS NOT NULL ORDER BY received_at, id LIMIT $5";

enum { COL_RECEIVED, COL_EVENT, COL_TYPE };

static void add_event(struct page *p, const struct job *job, const PGresult *res, int row)
{
    const char *type = PQgetvalue(res, row, COL_TYPE);
    const size_t type_len = (size_t)PQgetlength(res, row, COL_TYPE);
    if ((event_type_bit(type, type_len) & job->mask) == 0) {
        return;
    }
    const struct uuid event = pgvalue_uuid(res, row, COL_EVENT);
    const struct uuid delivery = uuid_of_delivery(&event, &job->webhook_id);
    pgarray_add_time(&p->received, pgvalue_time_us(res, row, COL_RECEIVED));
    pgarray_add_uuid(&p->deliveries, &delivery);
    pgarray_add_uuid(&p->events, &event);
    pgarray_add_bytes(&p->types, type, type_len);
}

static void was_read(void *ctx, const struct pg_reply *reply)
{
    struct replays *r = replays_of(ctx);
    if (!reply->ok) {
        drop(r, "read", reply->err);
        return;
    }
    const PGresult *res = reply->results[0];
    const int n = PQntuples(res);
    const bool all = n < r->job.limit;
    struct page p;
    size_t type_bytes = 0;
    for (int row = 0; row < n; row++) {
        type_bytes += (size_t)PQgetlength(res, row, COL_TYPE);
    }
    page_init(&p, n, type_bytes);
    for (int row = 0; row < n; row++) {
        add_event(&p, &r->job, res, row);
    }
    if (n > 0) {
        p.at = PQgetvalue(res, n - 1, COL_RECEIVED);
        p.at_id = PQgetvalue(res, n - 1, COL_EVENT);
    }
    p.last = all && r->job.upper_is_until;
    p.pause_ms = all ? r->cfg.poll_ms : 0;
    write_page(r, &p);
    page_done(&p);
}

static void read_page(struct replays *r)
{
    char limit[24];
    const struct pg_param params[] = {
        uuid_param(r->job.tenant_id), time_param(r->job.at),           uuid_param(r->job.at_id),
        time_param(r->job.upper),     int8_param(limit, r->job.limit),
    };
    const struct pg_stmt stmt = {
        .sql = read_sql, .params = params, .n_params = 5, .binary_result = true};
    set_state(r, pg_submit(r->pg, &stmt, 1, was_read, r) ? REPLAYS_READING : REPLAYS_IDLE);
}

/* --- claim ------------------------------------------------------------------------------ */

/* clang-format off */
/* The one that has waited longest, so that jobs take turns. `wanted` is null when the webhook gets nothing any more. */
static const char claim_sql[] =
    "WITH next AS (SELECT id FROM replay_jobs WHERE state IN ('queued', 'running') AND (leased_until IS NULL OR leased_until <= now())"
    " ORDER BY leased_until NULLS FIRST, created_at LIMIT 1 FOR UPDATE),"
    " mine AS (UPDATE replay_jobs j SET state = 'running', leased_until = now() + $1 * interval '1 millisecond', updated_at = now()"
    " FROM next WHERE j.id = next.id RETURNING j.*,"
    " CASE j.selection WHEN 'failed' THEN j.until ELSE least(j.until, now() - $2 * interval '1 millisecond') END AS upper)"
    " SELECT id, tenant_id, webhook_id, leased_until, coalesce(cursor_at, since),"
    " coalesce(cursor_id, '00000000-0000-0000-0000-000000000000'), upper, upper = until,"
    " (SELECT array_to_string(coalesce(mine.events, w.events), ' ') FROM webhooks w"
    " WHERE w.id = webhook_id AND w.active AND w.status <> 'disabled' AND w.deleted_at IS NULL) AS wanted,"
    " (SELECT count(*) FROM pending_deliveries p WHERE p.replay_job_id = mine.id) FROM mine";
/* clang-format on */

enum {
    COL_JOB,
    COL_TENANT,
    COL_WEBHOOK,
    COL_LEASE,
    COL_AT,
    COL_AT_ID,
    COL_UPPER,
    COL_UPPER_IS_UNTIL,
    COL_WANTED,
    COL_PENDING
};

static void take_job(struct job *job, const PGresult *res)
{
    job->id = pgvalue_uuid(res, 0, COL_JOB);
    job->webhook_id = pgvalue_uuid(res, 0, COL_WEBHOOK);
    copy_raw(job->raw_id, UUID_BYTES, res, 0, COL_JOB);
    copy_raw(job->tenant_id, UUID_BYTES, res, 0, COL_TENANT);
    copy_raw(job->lease, TIME_BYTES, res, 0, COL_LEASE);
    copy_raw(job->at, TIME_BYTES, res, 0, COL_AT);
    copy_raw(job->at_id, UUID_BYTES, res, 0, COL_AT_ID);
    copy_raw(job->upper, TIME_BYTES, res, 0, COL_UPPER);
    job->upper_is_until = pgvalue_bool(res, 0, COL_UPPER_IS_UNTIL);
    job->mask = event_patterns_mask(PQgetvalue(res, 0, COL_WANTED),
                                    (size_t)PQgetlength(res, 0, COL_WANTED));
}

static void claimed(void *ctx, const struct pg_reply *reply)
{
    struct replays *r = replays_of(ctx);
    set_state(r, REPLAYS_IDLE);
    if (!reply->ok) {
        log_warn("replays.claim_failed", F_ERR(reply->err));
        return;
    }
    const PGresult *res = reply->results[0];
    if (PQntuples(res) == 0) {
        return;
    }
    take_job(&r->job, res);
    if (PQgetisnull(res, 0, COL_WANTED)) {
        r->cancelled->value++;
        end_job(r, "cancelled", "the webhook was paused, disabled or deleted");
        return;
    }
    const int64_t room = r->cfg.pending_max - pgvalue_int8(res, 0, COL_PENDING);
    if (room * ROOM_SHARE < r->cfg.pending_max) {
        give_back(r);
        return;
    }
    r->job.limit = room < r->cfg.page_max ? (int)room : r->cfg.page_max;
    read_page(r);
}

static void claim(struct replays *r)
{
    if (r->stopped || r->state != REPLAYS_IDLE) {
        return;
    }
    char lease[24];
    char settle[24];
    const struct pg_param params[] = {int8_param(lease, r->cfg.lease_ms),
                                      int8_param(settle, r->cfg.settle_ms)};
    const struct pg_stmt stmt = {
        .sql = claim_sql, .params = params, .n_params = 2, .binary_result = true};
    if (pg_submit(r->pg, &stmt, 1, claimed, r)) { /* down: the next poll */
        set_state(r, REPLAYS_CLAIMING);
    }
}

/* --- life ------------------------------------------------------------------------------- */

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    claim(replays_of(ctx));
}

static void register_metrics(struct replays *r)
{
    static const char ends[] = "replay jobs that ended here";
    r->scanned = metrics_counter("nrw_replay_events_total", NULL, "events that replays looked at");
    r->enqueued = metrics_counter("nrw_replay_deliveries_total", NULL,
                                  "deliveries that replays made pending");
    r->done = metrics_counter("nrw_replay_jobs_total", "end=\"done\"", ends);
    r->cancelled = metrics_counter("nrw_replay_jobs_total", "end=\"cancelled\"", ends);
    r->failed = metrics_counter("nrw_replay_jobs_total", "end=\"failed\"", ends);
    r->lost = metrics_counter("nrw_replay_pages_lost_total", NULL,
                              "pages whose job was cancelled or taken over meanwhile");
}

struct replays *replays_new(struct event_base *base, const struct replays_config *cfg,
                            struct pg *pg, const struct replays_handlers *handlers)
{
    struct replays *r = mem_zero(1, sizeof(*r));
    r->magic = REPLAYS_MAGIC;
    r->cfg = (struct replays_config){
        .poll_ms = cfg->poll_ms > 0 ? cfg->poll_ms : POLL_MS,
        .lease_ms = cfg->lease_ms > 0 ? cfg->lease_ms : LEASE_MS,
        .settle_ms = cfg->settle_ms,
        .page_max = cfg->page_max > 0 ? cfg->page_max : PAGE_MAX,
        .pending_max = cfg->pending_max > 0 ? cfg->pending_max : PENDING_MAX,
    };
    r->on = *handlers;
    r->pg = pg;
    register_metrics(r);
    event_assign(&r->timer, base, -1, EV_PERSIST, on_timer, r);
    const struct timeval every = {.tv_sec = r->cfg.poll_ms / 1000,
                                  .tv_usec = r->cfg.poll_ms % 1000 * 1000};
    event_add(&r->timer, &every);
    return r;
}

void replays_stop(struct replays *r)
{
    CHECK_MAGIC(r, REPLAYS_MAGIC);
    r->stopped = true;
}

bool replays_is_idle(const struct replays *r)
{
    return r->state == REPLAYS_IDLE;
}

void replays_free(struct replays *r)
{
    if (r == NULL) {
        return;
    }
    CHECK_MAGIC(r, REPLAYS_MAGIC);
    event_del(&r->timer);
    r->magic = 0;
    free(r);
}
