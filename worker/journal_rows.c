/* Owns the SQL of the journal and the encoding of its rows. Every batch is idempotent: a row that
 * is there stays as it is or refuses the batch, a pending row only moves to a later attempt,
 * progress only grows. journal.c decides what is sent when. */
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

/* Columns of one statement: their names, in the order of $1…, are in the SQL right below. */
enum {
    EV_ID,
    EV_RECEIVED,
    EV_TENANT,
    EV_TYPE,
    EV_PAYLOAD,
    EV_TRACE,
    EV_PARTITION,
    EV_OFFSET,
    EV_N
};
static const enum pgarray_type event_types_of[EV_N] = {
    PGARRAY_UUID,  PGARRAY_TIME, PGARRAY_UUID, PGARRAY_TEXT,
    PGARRAY_BYTEA, PGARRAY_TEXT, PGARRAY_INT4, PGARRAY_INT8,
};
/* unnest in the select list is cheaper for PostgreSQL than in FROM, which stores all rows first. */
#define EVENT_SQL                                                                                  \
    "INSERT INTO events (id, received_at, tenant_id, event_type, payload, traceparent, "           \
    "kafka_partition, kafka_offset)"                                                               \
    " SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6), unnest($7), " \
    "unnest($8)"

enum {
    AT_RECEIVED,
    AT_DELIVERY,
    AT_ATTEMPT,
    AT_EVENT,
    AT_WEBHOOK,
    AT_TENANT,
    AT_TYPE,
    AT_STARTED,
    AT_RESPONSE_MS,
    AT_OUTCOME,
    AT_STATUS,
    AT_ERROR,
    AT_NEXT,
    AT_HEADERS,
    AT_BODY,
    AT_N
};
static const enum pgarray_type attempt_types_of[AT_N] = {
    PGARRAY_TIME, PGARRAY_UUID, PGARRAY_INT2, PGARRAY_UUID,  PGARRAY_UUID,
    PGARRAY_UUID, PGARRAY_TEXT, PGARRAY_TIME, PGARRAY_INT4,  PGARRAY_TEXT,
    PGARRAY_INT2, PGARRAY_TEXT, PGARRAY_TIME, PGARRAY_BYTEA, PGARRAY_BYTEA,
};
#define ATTEMPT_SQL                                                                                \
    "INSERT INTO attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id, "   \
    "event_type, started_at,"                                                                      \
    " response_time_ms, outcome, status_code, error, next_attempt_at, response_headers, "          \
    "response_body)"                                                                               \
    " SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6), unnest($7), " \
    "unnest($8), unnest($9),"                                                                      \
    " unnest($10), unnest($11), unnest($12), unnest($13), unnest($14), unnest($15)"
#define UNLESS_THERE " ON CONFLICT DO NOTHING"

enum {
    PE_DELIVERY,
    PE_RECEIVED,
    PE_EVENT,
    PE_WEBHOOK,
    PE_TENANT,
    PE_TYPE,
    PE_ATTEMPT,
    PE_AT,
    PE_REASON,
    PE_N
};
static const enum pgarray_type pending_types_of[PE_N] = {
    PGARRAY_UUID, PGARRAY_TIME, PGARRAY_UUID, PGARRAY_UUID, PGARRAY_UUID,
    PGARRAY_TEXT, PGARRAY_INT2, PGARRAY_TIME, PGARRAY_TEXT,
};
static const char pending_sql[] =
    "INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, "
    "event_type,"
    " next_attempt, next_attempt_at, reason) SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, "
    "$9)"
    " ON CONFLICT (delivery_id) DO UPDATE SET next_attempt = EXCLUDED.next_attempt,"
    " next_attempt_at = EXCLUDED.next_attempt_at, reason = EXCLUDED.reason, leased_until = NULL, "
    "updated_at = now()"
    " WHERE pending_deliveries.next_attempt < EXCLUDED.next_attempt";

/* The highest offset with a journaled outcome bounds what the next owner has to look up
 * (suspects.h). */
enum { PR_GROUP, PR_TOPIC, PR_PARTITION, PR_OFFSET, PR_N };
static const char progress_sql[] =
    "INSERT INTO consumer_progress (consumer_group, topic, partition, journaled_offset)"
    " SELECT $1, $2, p, o FROM unnest($3, $4) AS moved (p, o)"
    " ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET journaled_offset = "
    "EXCLUDED.journaled_offset,"
    " updated_at = now() WHERE consumer_progress.journaled_offset < EXCLUDED.journaled_offset";

struct progress {
    int32_t partition;
    int64_t offset;
};

struct journal_rows {
    char *group;
    char *topic;
    struct pgarray event[EV_N];
    struct pgarray attempt[AT_N];
    struct pgarray pending[PE_N];
    struct pgarray partitions;
    struct pgarray offsets;
    struct progress
        progress[PARTITIONS_PER_BATCH]; /* sorted by partition: equal lock order in every worker */
    size_t progress_n;
    struct pg_param params[JOURNAL_STMTS_MAX][AT_N];
    struct pg_stmt stmts[JOURNAL_STMTS_MAX];
};

static void init_all(struct pgarray *a, const enum pgarray_type *types, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        pgarray_init(&a[i], types[i], ARRAY_MAX);
    }
}

static void each(struct pgarray *a, size_t n, void (*fn)(struct pgarray *))
{
    for (size_t i = 0; i < n; i++) {
        fn(&a[i]);
    }
}

struct journal_rows *journal_rows_new(const char *group, const char *topic)
{
    struct journal_rows *r = mem_zero(1, sizeof(*r));
    r->group = mem_dup(group);
    r->topic = mem_dup(topic);
    init_all(r->event, event_types_of, EV_N);
    init_all(r->attempt, attempt_types_of, AT_N);
    init_all(r->pending, pending_types_of, PE_N);
    pgarray_init(&r->partitions, PGARRAY_INT4, ARRAY_MAX);
    pgarray_init(&r->offsets, PGARRAY_INT8, ARRAY_MAX);
    return r;
}

void journal_rows_free(struct journal_rows *r)
{
    if (r == NULL) {
        return;
    }
    each(r->event, EV_N, pgarray_done);
    each(r->attempt, AT_N, pgarray_done);
    each(r->pending, PE_N, pgarray_done);
    pgarray_done(&r->partitions);
    pgarray_done(&r->offsets);
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

static void add_event(struct pgarray *a, const struct nrw_event *ev)
{
    pgarray_add_uuid(&a[EV_ID], &ev->id);
    pgarray_add_time(&a[EV_RECEIVED], ev->received_at_us);
    pgarray_add_uuid(&a[EV_TENANT], &ev->tenant_id);
    add_text(&a[EV_TYPE], ev->type);
    pgarray_add_bytes(&a[EV_PAYLOAD], ev->payload, ev->payload_len);
    if (ev->traceparent[0] != '\0') {
        add_text(&a[EV_TRACE], ev->traceparent);
    } else {
        pgarray_add_null(&a[EV_TRACE]);
    }
    pgarray_add_int(&a[EV_PARTITION], ev->partition);
    pgarray_add_int(&a[EV_OFFSET], ev->offset);
}

static void add_bytes_or_null(struct pgarray *a, const char *data, size_t len)
{
    if (len > 0) {
        pgarray_add_bytes(a, data, len);
    } else {
        pgarray_add_null(a);
    }
}

static void add_attempt(struct pgarray *a, const struct journal_entry *e)
{
    char text[LIMIT_ERROR_TEXT];
    const char *error = e->error != NULL ? e->error : "";
    const size_t text_len =
        pgarray_clean_text(e->bare ? "" : error, e->bare ? 0 : strlen(error), text, sizeof(text));

    pgarray_add_time(&a[AT_RECEIVED], e->ev->received_at_us);
    pgarray_add_uuid(&a[AT_DELIVERY], &e->delivery_id);
    pgarray_add_int(&a[AT_ATTEMPT], e->attempt);
    pgarray_add_uuid(&a[AT_EVENT], &e->ev->id);
    pgarray_add_uuid(&a[AT_WEBHOOK], &e->webhook_id);
    pgarray_add_uuid(&a[AT_TENANT], &e->ev->tenant_id);
    add_text(&a[AT_TYPE], e->ev->type);
    pgarray_add_time(&a[AT_STARTED], e->started_at_us);
    pgarray_add_int(&a[AT_RESPONSE_MS], (e->response_time_us + 500) / 1000);
    add_text(&a[AT_OUTCOME], e->outcome);
    if (e->status_code > 0) {
        pgarray_add_int(&a[AT_STATUS], e->status_code);
    } else {
        pgarray_add_null(&a[AT_STATUS]);
    }
    add_bytes_or_null(&a[AT_ERROR], text, text_len);
    if (e->next_at_us != 0) {
        pgarray_add_time(&a[AT_NEXT], e->next_at_us);
    } else {
        pgarray_add_null(&a[AT_NEXT]);
    }
    add_bytes_or_null(&a[AT_HEADERS], e->headers, e->bare ? 0 : e->headers_len);
    add_bytes_or_null(&a[AT_BODY], e->body, e->bare ? 0 : e->body_len);
}

static void add_pending(struct pgarray *a, const struct journal_entry *e)
{
    pgarray_add_uuid(&a[PE_DELIVERY], &e->delivery_id);
    pgarray_add_time(&a[PE_RECEIVED], e->ev->received_at_us);
    pgarray_add_uuid(&a[PE_EVENT], &e->ev->id);
    pgarray_add_uuid(&a[PE_WEBHOOK], &e->webhook_id);
    pgarray_add_uuid(&a[PE_TENANT], &e->ev->tenant_id);
    add_text(&a[PE_TYPE], e->ev->type);
    pgarray_add_int(&a[PE_ATTEMPT], e->pending_attempt);
    pgarray_add_time(&a[PE_AT], e->pending_at_us);
    add_text(&a[PE_REASON], e->pending_reason);
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

static void reset(struct journal_rows *r)
{
    each(r->event, EV_N, pgarray_reset);
    each(r->attempt, AT_N, pgarray_reset);
    each(r->pending, PE_N, pgarray_reset);
    pgarray_reset(&r->partitions);
    pgarray_reset(&r->offsets);
    r->progress_n = 0;
}

static int add_stmt(struct journal_rows *r, int n, const char *sql, struct pgarray *a, int columns)
{
    for (int i = 0; i < columns; i++) {
        r->params[n][i] = pgarray_param(&a[i]);
    }
    r->stmts[n] = (struct pg_stmt){.sql = sql, .params = r->params[n], .n_params = columns};
    return n + 1;
}

static int add_progress_stmt(struct journal_rows *r, int n)
{
    for (size_t i = 0; i < r->progress_n; i++) {
        pgarray_add_int(&r->partitions, r->progress[i].partition);
        pgarray_add_int(&r->offsets, r->progress[i].offset);
    }
    struct pg_param *p = r->params[n];
    p[PR_GROUP] = (struct pg_param){.type = 25, .data = r->group};
    p[PR_TOPIC] = (struct pg_param){.type = 25, .data = r->topic};
    p[PR_PARTITION] = pgarray_param(&r->partitions);
    p[PR_OFFSET] = pgarray_param(&r->offsets);
    r->stmts[n] = (struct pg_stmt){.sql = progress_sql, .params = p, .n_params = PR_N};
    return n + 1;
}

int journal_rows_build(struct journal_rows *r, struct journal_entry *const *entries, size_t n,
                       uint64_t batch, bool may_exist, const struct pg_stmt **ret_stmts)
{
    reset(r);
    for (size_t i = 0; i < n; i++) {
        const struct journal_entry *e = entries[i];
        if (!e->ev->row_committed && e->ev->row_batch != batch) {
            e->ev->row_batch = batch;
            add_event(r->event, e->ev);
        }
        if (e->outcome != NULL) {
            add_attempt(r->attempt, e);
        }
        if (e->pending_reason != NULL) {
            add_pending(r->pending, e);
        }
        note_progress(r, e->ev);
    }
    int stmts = 0;
    if (r->event[EV_ID].n > 0) {
        stmts = add_stmt(r, stmts, may_exist ? EVENT_SQL UNLESS_THERE : EVENT_SQL, r->event, EV_N);
    }
    if (r->attempt[AT_DELIVERY].n > 0) {
        stmts = add_stmt(r, stmts, may_exist ? ATTEMPT_SQL UNLESS_THERE : ATTEMPT_SQL, r->attempt,
                         AT_N);
    }
    if (r->pending[PE_DELIVERY].n > 0) {
        stmts = add_stmt(r, stmts, pending_sql, r->pending, PE_N);
    }
    if (r->progress_n > 0) {
        stmts = add_progress_stmt(r, stmts);
    }
    CHECK(stmts > 0);
    *ret_stmts = r->stmts;
    return stmts;
}
