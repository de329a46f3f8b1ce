/* Owns the SQL of the journal and the encoding of its rows. Every statement is idempotent: a row
 * that is there stays as it is, a pending row only moves on from the attempt that was made, a
 * webhook changes its status once, progress only grows. journal.c decides what is sent when. */
#include "journal_rows.h"

#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "check.h"
#include "clock.h"
#include "mem.h"
#include "pgarray.h"

#define ARRAY_MAX            ((size_t)512 * 1024 * 1024)
#define PARTITIONS_PER_BATCH 256
#define COLUMNS_MAX          15

/* In the order in which they run. A delivery's own rows come first; what they mean for the webhook
 * follows, so that of a failure and a success in one batch the success has the last word. */
enum kind {
    EVENTS,
    ATTEMPTS,
    PUT,
    MOVE,
    DELETE,
    EXHAUSTED,
    SUCCEEDED,
    NOTED,
    GONE,
    PROGRESS,
    KINDS
};

/* clang-format off */
/* unnest in the select list is cheaper for PostgreSQL than in FROM, which stores all rows first. */
#define EVENT_SQL \
    "INSERT INTO events (id, received_at, tenant_id, event_type, payload, traceparent, kafka_partition, kafka_offset)" \
    " SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6), unnest($7), unnest($8)"
#define ATTEMPT_SQL \
    "INSERT INTO attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id, event_type, started_at," \
    " response_time_ms, outcome, status_code, error, next_attempt_at, response_headers, response_body)" \
    " SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6), unnest($7), unnest($8), unnest($9)," \
    " unnest($10), unnest($11), unnest($12), now() + unnest($13) * interval '1 microsecond', unnest($14), unnest($15)"
#define UNLESS_THERE " ON CONFLICT DO NOTHING"
#define PUT_SQL(where) \
    "INSERT INTO pending_deliveries AS p (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type," \
    " next_attempt, next_attempt_at, reason)" \
    " SELECT r.id, r.received_at, r.event_id, r.webhook_id, r.tenant_id, r.event_type, r.attempt," \
    " now() + r.delay_us * interval '1 microsecond', r.reason" \
    " FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) AS r (id, received_at, event_id, webhook_id, tenant_id, event_type," \
    " attempt, delay_us, reason)" where \
    " ON CONFLICT (delivery_id) DO UPDATE SET next_attempt = EXCLUDED.next_attempt," \
    " next_attempt_at = EXCLUDED.next_attempt_at, reason = EXCLUDED.reason, leased_until = NULL, updated_at = now()" \
    " WHERE p.next_attempt < EXCLUDED.next_attempt"
/* Another worker may have made the attempt, and ended the delivery, since the row was written first. */
#define UNLESS_MADE \
    " WHERE NOT EXISTS (SELECT FROM attempts a WHERE a.received_at = r.received_at AND a.delivery_id = r.id" \
    " AND a.attempt >= r.attempt)"
/* An answer of the URL that the webhook had before says nothing of the one that it has. */
#define OF_THIS_URL(places) "(id, url) IN (SELECT * FROM unnest(" places "))"

static const struct {
    const char *sql;
    const char *wary_sql; /* where rows may exist; NULL: sql takes them as it is */
    int columns;
    enum pgarray_type types[COLUMNS_MAX]; /* of $1, $2, … */
} table[KINDS] = {
[EVENTS] = {
    EVENT_SQL, EVENT_SQL UNLESS_THERE,
    8, {PGARRAY_UUID, PGARRAY_TIME, PGARRAY_UUID, PGARRAY_TEXT, PGARRAY_BYTEA, PGARRAY_TEXT, PGARRAY_INT4, PGARRAY_INT8}},
[ATTEMPTS] = {
    ATTEMPT_SQL, ATTEMPT_SQL UNLESS_THERE,
    15, {PGARRAY_TIME, PGARRAY_UUID, PGARRAY_INT2, PGARRAY_UUID, PGARRAY_UUID, PGARRAY_UUID, PGARRAY_TEXT, PGARRAY_TIME,
         PGARRAY_INT4, PGARRAY_TEXT, PGARRAY_INT2, PGARRAY_TEXT, PGARRAY_INT8, PGARRAY_BYTEA, PGARRAY_BYTEA}},
[PUT] = {
    PUT_SQL(""), PUT_SQL(UNLESS_MADE),
    9, {PGARRAY_UUID, PGARRAY_TIME, PGARRAY_UUID, PGARRAY_UUID, PGARRAY_UUID, PGARRAY_TEXT, PGARRAY_INT2, PGARRAY_INT8,
        PGARRAY_TEXT}},
[MOVE] = {
    "UPDATE pending_deliveries p SET next_attempt = r.next, next_attempt_at = now() + r.delay_us * interval '1 microsecond',"
    " reason = r.reason, leased_until = NULL, updated_at = now()"
    " FROM unnest($1, $2, $3, $4, $5, $6) AS r (id, made, next, delay_us, reason, lease)"
    " WHERE p.delivery_id = r.id AND p.next_attempt = r.made AND (r.lease IS NULL OR p.leased_until = r.lease)", NULL,
    6, {PGARRAY_UUID, PGARRAY_INT2, PGARRAY_INT2, PGARRAY_INT8, PGARRAY_TEXT, PGARRAY_TIME}},
[DELETE] = { /* what ends so counts for its replay job, once: the row is there once */
    "WITH ended AS (DELETE FROM pending_deliveries p USING unnest($1, $2, $3, $4) AS r (id, made, lease, outcome)"
    " WHERE p.delivery_id = r.id AND p.next_attempt = r.made AND (r.lease IS NULL OR p.leased_until = r.lease)"
    " RETURNING p.replay_job_id AS job, r.outcome)"
    " UPDATE replay_jobs j SET delivered = j.delivered + e.delivered, failed = j.failed + e.failed, updated_at = now()"
    " FROM (SELECT job, count(*) FILTER (WHERE outcome = 'delivered') AS delivered,"
    " count(*) FILTER (WHERE outcome IN ('exhausted', 'gone')) AS failed"
    " FROM ended WHERE job IS NOT NULL GROUP BY job ORDER BY job) e WHERE j.id = e.job", NULL,
    4, {PGARRAY_UUID, PGARRAY_INT2, PGARRAY_TIME, PGARRAY_TEXT}},
[EXHAUSTED] = {
    "WITH turned AS (UPDATE webhooks SET status = 'failing', failing_since = now()"
    " WHERE " OF_THIS_URL("$1, $2") " AND status = 'active' AND deleted_at IS NULL"
    " RETURNING id, url, tenant_id, failing_since)"
    " INSERT INTO notifications (kind, tenant_id, webhook_id, transition_at, status_code, error)"
    " SELECT DISTINCT ON (t.id) 'webhook_failing', t.tenant_id, t.id, t.failing_since, r.status, r.error"
    " FROM turned t JOIN unnest($1, $2, $3, $4) AS r (id, url, status, error) ON r.id = t.id AND r.url = t.url"
    " ON CONFLICT DO NOTHING", NULL,
    4, {PGARRAY_UUID, PGARRAY_TEXT, PGARRAY_INT2, PGARRAY_TEXT}},
[SUCCEEDED] = { /* of every success: what its worker knew of the webhook may be older than the failure */
    "UPDATE webhooks SET status = 'active', failing_since = NULL, last_success_at = now()"
    " WHERE id = ANY($1) AND status = 'failing'", NULL,
    1, {PGARRAY_UUID}},
[NOTED] = { /* several workers say so of the same webhooks, in any order: none waits for another */
    "UPDATE webhooks SET last_success_at = now() WHERE id IN"
    " (SELECT id FROM webhooks WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)", NULL,
    1, {PGARRAY_UUID}},
[GONE] = {
    "WITH turned AS (UPDATE webhooks SET status = 'disabled', disabled_at = now(),"
    " disabled_reason = 'the endpoint answered 410 Gone'"
    " WHERE " OF_THIS_URL("$1, $2") " AND status <> 'disabled' AND deleted_at IS NULL RETURNING id, tenant_id, disabled_at, disabled_reason)"
    " INSERT INTO notifications (kind, tenant_id, webhook_id, transition_at, reason, status_code)"
    " SELECT 'webhook_disabled', tenant_id, id, disabled_at, disabled_reason, 410 FROM turned ON CONFLICT DO NOTHING", NULL,
    2, {PGARRAY_UUID, PGARRAY_TEXT}},
[PROGRESS] = { /* the highest offset with a journaled outcome bounds what the next owner looks up (suspects.h) */
    "INSERT INTO consumer_progress AS p (consumer_group, topic, partition, journaled_offset)"
    " SELECT * FROM unnest($1, $2, $3, $4)"
    " ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET journaled_offset = EXCLUDED.journaled_offset,"
    " updated_at = now() WHERE p.journaled_offset < EXCLUDED.journaled_offset", NULL,
    4, {PGARRAY_TEXT, PGARRAY_TEXT, PGARRAY_INT4, PGARRAY_INT8}},
};
/* clang-format on */

struct progress {
    int32_t partition;
    int64_t offset;
};

struct journal_rows {
    char *group;
    char *topic;
    struct pgarray columns[KINDS][COLUMNS_MAX];
    struct progress progress[PARTITIONS_PER_BATCH]; /* by partition: one lock order everywhere */
    size_t progress_n;
    struct pg_param params[KINDS][COLUMNS_MAX];
    struct pg_stmt stmts[KINDS];
};

struct journal_rows *journal_rows_new(const char *group, const char *topic)
{
    struct journal_rows *r = mem_zero(1, sizeof(*r));
    r->group = mem_dup(group);
    r->topic = mem_dup(topic);
    for (int k = 0; k < KINDS; k++) {
        for (int c = 0; c < table[k].columns; c++) {
            pgarray_init(&r->columns[k][c], table[k].types[c], ARRAY_MAX);
        }
    }
    return r;
}

void journal_rows_free(struct journal_rows *r)
{
    if (r == NULL) {
        return;
    }
    for (int k = 0; k < KINDS; k++) {
        for (int c = 0; c < table[k].columns; c++) {
            pgarray_done(&r->columns[k][c]);
        }
    }
    free(r->group);
    r->group = NULL;
    free(r->topic);
    r->topic = NULL;
    free(r);
}

static void add_text(struct pgarray *a, const char *s)
{
    pgarray_add_bytes(a, s, strlen(s));
}

static void add_bytes_or_null(struct pgarray *a, const char *data, size_t len)
{
    if (len > 0) {
        pgarray_add_bytes(a, data, len);
    } else {
        pgarray_add_null(a);
    }
}

static void add_status(struct pgarray *a, const struct journal_entry *e)
{
    if (e->status_code > 0) {
        pgarray_add_int(a, e->status_code);
    } else {
        pgarray_add_null(a);
    }
}

static void add_error(struct pgarray *a, const struct journal_entry *e)
{
    char text[LIMIT_ERROR_TEXT];
    const char *error = e->error != NULL && !e->bare ? e->error : "";
    add_bytes_or_null(a, text, pgarray_clean_text(error, strlen(error), text, sizeof(text)));
}

static void add_event(struct pgarray *a, const struct nrw_event *ev)
{
    pgarray_add_uuid(a++, &ev->id);
    pgarray_add_time(a++, ev->received_at_us);
    pgarray_add_uuid(a++, &ev->tenant_id);
    add_text(a++, ev->type);
    pgarray_add_bytes(a++, ev->payload, ev->payload_len);
    add_bytes_or_null(a++, ev->traceparent, strlen(ev->traceparent));
    pgarray_add_int(a++, ev->partition);
    pgarray_add_int(a, ev->offset);
}

static void add_attempt(struct pgarray *a, const struct journal_entry *e)
{
    pgarray_add_time(a++, e->ev->received_at_us);
    pgarray_add_uuid(a++, &e->delivery_id);
    pgarray_add_int(a++, e->attempt);
    pgarray_add_uuid(a++, &e->ev->id);
    pgarray_add_uuid(a++, &e->webhook_id);
    pgarray_add_uuid(a++, &e->ev->tenant_id);
    add_text(a++, e->ev->type);
    pgarray_add_time(a++, e->started_at_us);
    pgarray_add_int(a++, (e->response_time_us + 500) / 1000);
    add_text(a++, e->outcome);
    add_status(a++, e);
    add_error(a++, e);
    if (e->pending == JOURNAL_PENDING_PUT || e->pending == JOURNAL_PENDING_MOVE) {
        pgarray_add_int(a++, e->pending_delay_us);
    } else {
        pgarray_add_null(a++);
    }
    add_bytes_or_null(a++, e->headers, e->bare ? 0 : e->headers_len);
    add_bytes_or_null(a, e->body, e->bare ? 0 : e->body_len);
}

static void add_put(struct pgarray *a, const struct journal_entry *e)
{
    pgarray_add_uuid(a++, &e->delivery_id);
    pgarray_add_time(a++, e->ev->received_at_us);
    pgarray_add_uuid(a++, &e->ev->id);
    pgarray_add_uuid(a++, &e->webhook_id);
    pgarray_add_uuid(a++, &e->ev->tenant_id);
    add_text(a++, e->ev->type);
    pgarray_add_int(a++, e->pending_attempt);
    pgarray_add_int(a++, e->pending_delay_us);
    add_text(a, e->pending_reason);
}

/* Two workers can make the same attempt, when one was stopped for longer than its lease. The
 * attempt's number tells them apart only after one of them has finished; the lease always does. */
static void add_lease(struct pgarray *a, const struct journal_entry *e)
{
    if (e->lease_us != 0) {
        pgarray_add_time(a, e->lease_us);
    } else {
        pgarray_add_null(a);
    }
}

static void add_pending(struct journal_rows *r, const struct journal_entry *e)
{
    struct pgarray *a = NULL;
    switch (e->pending) {
    case JOURNAL_PENDING_KEEP:
        return;
    case JOURNAL_PENDING_PUT:
        add_put(r->columns[PUT], e);
        return;
    case JOURNAL_PENDING_MOVE:
        a = r->columns[MOVE];
        pgarray_add_uuid(a++, &e->delivery_id);
        pgarray_add_int(a++, e->attempt);
        pgarray_add_int(a++, e->pending_attempt);
        pgarray_add_int(a++, e->pending_delay_us);
        add_text(a++, e->pending_reason);
        add_lease(a, e);
        return;
    case JOURNAL_PENDING_DELETE:
        a = r->columns[DELETE];
        pgarray_add_uuid(a++, &e->delivery_id);
        pgarray_add_int(a++, e->attempt);
        add_lease(a++, e);
        add_bytes_or_null(a, e->outcome, e->outcome != NULL ? strlen(e->outcome) : 0);
        return;
    }
}

static void add_standing(struct journal_rows *r, const struct journal_entry *e)
{
    switch (e->standing) {
    case JOURNAL_STANDING_KEEP:
        return;
    case JOURNAL_STANDING_EXHAUSTED:
        pgarray_add_uuid(&r->columns[EXHAUSTED][0], &e->webhook_id);
        add_text(&r->columns[EXHAUSTED][1], e->url);
        add_status(&r->columns[EXHAUSTED][2], e);
        add_error(&r->columns[EXHAUSTED][3], e);
        return;
    case JOURNAL_STANDING_SUCCEEDED_NOTED:
        pgarray_add_uuid(&r->columns[NOTED][0], &e->webhook_id);
        pgarray_add_uuid(&r->columns[SUCCEEDED][0], &e->webhook_id);
        return;
    case JOURNAL_STANDING_SUCCEEDED:
        pgarray_add_uuid(&r->columns[SUCCEEDED][0], &e->webhook_id);
        return;
    case JOURNAL_STANDING_GONE:
        pgarray_add_uuid(&r->columns[GONE][0], &e->webhook_id);
        add_text(&r->columns[GONE][1], e->url);
        return;
    }
}

/* Insertion into a short sorted list. A batch with more partitions than fit leaves the rest for the
 * next batch: their progress row is only late, which costs the next owner nothing worse than a
 * duplicate after a crash. */
static void note_progress(struct journal_rows *r, const struct nrw_event *ev)
{
    if (ev->tracker == NULL) {
        return;
    }
    size_t i = 0;
    while (i < r->progress_n && r->progress[i].partition < ev->partition) {
        i++;
    }
    if (i < r->progress_n && r->progress[i].partition == ev->partition) {
        if (r->progress[i].offset < ev->offset) {
            r->progress[i].offset = ev->offset;
        }
        return;
    }
    if (r->progress_n == PARTITIONS_PER_BATCH) {
        return;
    }
    memmove(&r->progress[i + 1], &r->progress[i], (r->progress_n - i) * sizeof(r->progress[0]));
    r->progress[i] = (struct progress){ev->partition, ev->offset};
    r->progress_n++;
}

static void add_progress(struct journal_rows *r)
{
    struct pgarray *a = r->columns[PROGRESS];
    for (size_t i = 0; i < r->progress_n; i++) {
        add_text(&a[0], r->group);
        add_text(&a[1], r->topic);
        pgarray_add_int(&a[2], r->progress[i].partition);
        pgarray_add_int(&a[3], r->progress[i].offset);
    }
}

static void reset(struct journal_rows *r)
{
    for (int k = 0; k < KINDS; k++) {
        for (int c = 0; c < table[k].columns; c++) {
            pgarray_reset(&r->columns[k][c]);
        }
    }
    r->progress_n = 0;
}

static int finish(struct journal_rows *r, bool may_exist)
{
    int n = 0;
    for (int k = 0; k < KINDS; k++) {
        if (r->columns[k][0].n == 0) {
            continue;
        }
        for (int c = 0; c < table[k].columns; c++) {
            r->params[n][c] = pgarray_param(&r->columns[k][c]);
        }
        r->stmts[n] = (struct pg_stmt){
            .sql = may_exist && table[k].wary_sql != NULL ? table[k].wary_sql : table[k].sql,
            .params = r->params[n],
            .n_params = table[k].columns};
        n++;
    }
    return n;
}

int journal_rows_build(struct journal_rows *r, struct journal_entry *const *entries, size_t n,
                       uint64_t batch, bool may_exist, const struct pg_stmt **ret_stmts)
{
    reset(r);
    for (size_t i = 0; i < n; i++) {
        const struct journal_entry *e = entries[i];
        if (!e->ev->row_committed && e->ev->row_batch != batch) {
            e->ev->row_batch = batch;
            add_event(r->columns[EVENTS], e->ev);
        }
        if (e->outcome != NULL) {
            add_attempt(r->columns[ATTEMPTS], e);
        }
        add_pending(r, e);
        add_standing(r, e);
        note_progress(r, e->ev);
    }
    add_progress(r);
    const int stmts = finish(r, may_exist);
    CHECK(stmts > 0);
    *ret_stmts = r->stmts;
    return stmts;
}
