/* Owns the rows of replay_jobs up to the moment when a worker takes them, their cancelling and
 * their looks. Walks no events. The router calls it. */
#include "replays.h"

#include <stdio.h>
#include <string.h>

#include "bounds.h"
#include "call.h"
#include "check.h"
#include "clock.h"
#include "input.h"
#include "mem.h"
#include "param.h"
#include "pgarray.h"
#include "query.h"
#include "render.h"

#define TEXT_OF_(x)   #x
#define TEXT_OF(x)    TEXT_OF_(x)
#define DAY_US        ((int64_t)86400 * 1000000)
#define PATTERNS_SIZE ((size_t)LIMIT_EVENT_PATTERNS * (LIMIT_EVENT_TYPE + 8) + 64)

/* --- a job as JSON ---------------------------------------------------------------------- */

#define JOB_COLUMNS                                                                                \
    "j.id, j.webhook_id, j.state, j.since, j.until, j.selection, array_to_string(j.events, ' '),"  \
    " j.scanned, j.enqueued, j.delivered, j.failed, j.error, j.created_at, j.updated_at,"          \
    " j.finished_at"

enum {
    JOB_ID,
    JOB_WEBHOOK,
    JOB_STATE,
    JOB_SINCE,
    JOB_UNTIL,
    JOB_SELECTION,
    JOB_EVENTS,
    JOB_SCANNED,
    JOB_ENQUEUED,
    JOB_DELIVERED,
    JOB_FAILED,
    JOB_ERROR,
    JOB_CREATED,
    JOB_UPDATED,
    JOB_FINISHED,
    JOB_N
};

static json_t *render_job(const PGresult *r, int row)
{
    json_t *o = json_object();
    CHECK(o != NULL);
    render_add(o, "id", render_uuid(r, row, JOB_ID));
    render_add(o, "webhook_id", render_uuid(r, row, JOB_WEBHOOK));
    render_add(o, "state", render_text(r, row, JOB_STATE));
    render_add(o, "since", render_time(r, row, JOB_SINCE));
    render_add(o, "until", render_time(r, row, JOB_UNTIL));
    render_add(o, "status", render_text(r, row, JOB_SELECTION));
    render_add(o, "events", render_texts(r, row, JOB_EVENTS));
    render_add(o, "scanned", render_int(r, row, JOB_SCANNED));
    render_add(o, "enqueued", render_int(r, row, JOB_ENQUEUED));
    render_add(o, "delivered", render_int(r, row, JOB_DELIVERED));
    render_add(o, "failed", render_int(r, row, JOB_FAILED));
    render_add(o, "error", render_text(r, row, JOB_ERROR));
    render_add(o, "created_at", render_time(r, row, JOB_CREATED));
    render_add(o, "updated_at", render_time(r, row, JOB_UPDATED));
    render_add(o, "finished_at", render_time(r, row, JOB_FINISHED));
    return o;
}

/* --- create ----------------------------------------------------------------------------- */

/* clang-format off */
/* $1 webhook, $2 tenant, $3 the job's id. Of two at the same instant the index lets one in. */
static const char create_sql[] =
    "WITH hook AS (SELECT active AND status <> 'disabled' AS active FROM webhooks"
    "  WHERE id = $1 AND tenant_id = $2 AND deleted_at IS NULL),"
    " j AS (INSERT INTO replay_jobs (id, tenant_id, webhook_id, since, until, selection, events)"
    "  SELECT $3, $2, $1, $4, $5, $6, $7::text[] FROM hook WHERE active"
    "  ON CONFLICT (webhook_id) WHERE state IN ('queued', 'running') DO NOTHING RETURNING *)"
    " SELECT " JOB_COLUMNS ", hook.active,"
    " (SELECT id FROM replay_jobs WHERE webhook_id = $1 AND state IN ('queued', 'running')) FROM hook LEFT JOIN j ON true";
/* clang-format on */

struct window {
    int64_t since_us, until_us;
};

/* Retention drops whole days (0002_partitions.sql), so the day in which it ends is still there. */
static int64_t oldest_kept_us(const struct call *c, int64_t now_us)
{
    const int64_t since = now_us - c->api->cfg->retention * 1000;
    return since - since % DAY_US;
}

static void read_window(struct input *in, struct window *ret)
{
    const int64_t now = clock_wall_us();
    const int64_t oldest = oldest_kept_us(in->c, now);
    ret->until_us = now;
    input_require(in, "since");
    const bool has_since = input_time(in, "since", &ret->since_us);
    const bool has_until = input_time(in, "until", &ret->until_us);
    if (has_until && ret->until_us > now) {
        call_error_at(in->c, "/until", "must not be in the future");
    }
    if (has_since && ret->since_us < oldest) {
        char text[CLOCK_RFC3339_SIZE];
        clock_format_rfc3339(oldest, text);
        call_error_at(in->c, "/since", "must be %s or later: nothing older is kept", text);
    }
    if (has_since && ret->since_us >= ret->until_us) {
        call_error_at(in->c, has_until ? "/until" : "/since",
                      has_until ? "must be later than since" : "must be in the past");
    }
}

static void created(struct call *c, const struct pg_reply *reply)
{
    const PGresult *r = reply->results[0];
    char job[UUID_TEXT + 1];
    if (PQntuples(r) == 0) {
        call_not_found(c, "webhook");
    } else if (!pgvalue_bool(r, 0, JOB_N)) {
        call_problem(c, PROBLEM_WEBHOOK_INACTIVE,
                     "the webhook is paused or disabled: set active to true first");
    } else if (!PQgetisnull(r, 0, JOB_ID)) {
        char webhook[UUID_TEXT + 1];
        char location[128];
        const struct uuid id = pgvalue_uuid(r, 0, JOB_ID);
        uuid_format(&id, job);
        uuid_format(&c->ids[0], webhook);
        (void)snprintf(location, sizeof(location), "/api/v1/integrations/webhooks/%s/replays/%s",
                       webhook, job);
        call_header(c, "Location", location);
        call_reply(c, 202, render_job(r, 0));
    } else if (!PQgetisnull(r, 0, JOB_N + 1)) {
        const struct uuid open = pgvalue_uuid(r, 0, JOB_N + 1);
        uuid_format(&open, job);
        call_problem(c, PROBLEM_IN_PROGRESS,
                     "replay %s of this webhook is not finished; wait for it or cancel it", job);
    } else {
        call_problem(c, PROBLEM_IN_PROGRESS, "another replay of this webhook has just begun");
    }
}

static void insert_job(struct call *c, const struct window *w, const char *selection,
                       struct pg_param patterns)
{
    const struct uuid id = uuid_v4();
    char since[CLOCK_RFC3339_SIZE];
    char until[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(w->since_us, since);
    clock_format_rfc3339(w->until_us, until);
    const struct pg_param params[] = {
        param_uuid(&c->ids[0]), param_uuid(&c->who.tenant_id), param_uuid(&id), param_time(since),
        param_time(until),      param_text(selection),         patterns};
    const struct pg_stmt stmt = {
        .sql = create_sql, .params = params, .n_params = 7, .binary_result = true};
    call_query(c, &stmt, 1, created);
}

/* NULL: whatever the webhook subscribes to. */
static struct pg_param read_patterns(struct input *in, struct pgarray *storage)
{
    const json_t *patterns = NULL;
    if (!input_patterns(in, "events", &patterns)) {
        return param_null();
    }
    for (size_t i = 0; i < json_array_size(patterns); i++) {
        const json_t *pattern = json_array_get(patterns, i);
        pgarray_add_bytes(storage, json_string_value(pattern), json_string_length(pattern));
    }
    return pgarray_param(storage);
}

void replays_create(struct call *c)
{
    static const char *const members[] = {"since", "until", "status", "events", NULL};
    static const char *const selections[] = {"failed", "missed", "all", NULL};
    struct input in;
    if (!query_none(c) || !input_open(&in, c, members)) {
        return;
    }
    struct window window = {0};
    struct pgarray storage;
    pgarray_init(&storage, PGARRAY_TEXT, PATTERNS_SIZE);
    input_refuse_null(&in, "until");
    input_refuse_null(&in, "status");
    input_refuse_null(&in, "events");
    read_window(&in, &window);
    const char *selection = input_choice(&in, "status", selections);
    const struct pg_param patterns = read_patterns(&in, &storage);
    if (input_close(&in)) {
        insert_job(c, &window, selection != NULL ? selection : selections[0], patterns);
    }
    pgarray_done(&storage);
}

/* --- list, get -------------------------------------------------------------------------- */

/* clang-format off */
static const char count_sql[] = /* no row: no such webhook; one more than is told is enough */
    "SELECT (SELECT count(*) FROM (SELECT FROM replay_jobs WHERE webhook_id = w.id LIMIT 1 + " TEXT_OF(PAGE_REACH) ") n)"
    " FROM webhooks w WHERE w.id = $1 AND w.tenant_id = $2 AND w.deleted_at IS NULL";
static const char list_sql[] =
    "SELECT " JOB_COLUMNS " FROM replay_jobs j WHERE j.webhook_id = $1 AND j.tenant_id = $2"
    " ORDER BY j.created_at DESC, j.id DESC LIMIT $3 OFFSET $4";
static const char get_sql[] =
    "SELECT " JOB_COLUMNS " FROM replay_jobs j JOIN webhooks w ON w.id = j.webhook_id"
    " WHERE w.id = $1 AND w.tenant_id = $2 AND w.deleted_at IS NULL AND j.id = $3";
/* clang-format on */

static void listed(struct call *c, const struct pg_reply *reply)
{
    const PGresult *total = reply->results[0];
    const PGresult *r = reply->results[1];
    if (PQntuples(total) == 0) {
        call_not_found(c, "webhook");
        return;
    }
    json_t *data = json_array();
    json_t *o = json_object();
    CHECK(data != NULL && o != NULL);
    for (int row = 0; row < PQntuples(r); row++) {
        CHECK(json_array_append_new(data, render_job(r, row)) == 0);
    }
    const struct page *page = c->state;
    render_add(o, "data", data);
    render_add(o, "meta", page_meta(page, pgvalue_int8(total, 0, 0)));
    call_reply(c, 200, o);
}

void replays_list(struct call *c)
{
    static const char *const names[] = {"page", "per_page", NULL};
    query_allow(c, names);
    struct page *page = mem_alloc(sizeof(*page));
    c->state = page;
    *page = query_page(c);
    if (!query_ok(c)) {
        return;
    }
    char limit[PARAM_INT_SIZE];
    char offset[PARAM_INT_SIZE];
    const struct pg_param params[] = {param_uuid(&c->ids[0]), param_uuid(&c->who.tenant_id),
                                      param_int(page->per_page, limit),
                                      param_int(page->offset, offset)};
    const struct pg_stmt stmts[] = {
        {.sql = count_sql, .params = params, .n_params = 2, .binary_result = true},
        {.sql = list_sql, .params = params, .n_params = 4, .binary_result = true}};
    call_query(c, stmts, 2, listed);
}

static void reply_job(struct call *c, const PGresult *r)
{
    if (PQntuples(r) == 0) {
        call_not_found(c, "replay of this webhook");
    } else {
        call_reply(c, 200, render_job(r, 0));
    }
}

static void got(struct call *c, const struct pg_reply *reply)
{
    reply_job(c, reply->results[0]);
}

void replays_get(struct call *c)
{
    if (!query_none(c)) {
        return;
    }
    const struct pg_param params[] = {param_uuid(&c->ids[0]), param_uuid(&c->who.tenant_id),
                                      param_uuid(&c->ids[1])};
    const struct pg_stmt stmt = {
        .sql = get_sql, .params = params, .n_params = 3, .binary_result = true};
    call_query(c, &stmt, 1, got);
}

/* --- cancel ----------------------------------------------------------------------------- */

/* clang-format off */
/* The job's row first: a worker that is filling the queue from it has then either committed, or finds it cancelled. */
static const char cancel_sql[] =
    "UPDATE replay_jobs j SET state = 'cancelled', leased_until = NULL, finished_at = now(), updated_at = now() FROM webhooks w"
    " WHERE w.id = $1 AND w.tenant_id = $2 AND w.deleted_at IS NULL AND j.webhook_id = w.id AND j.id = $3"
    " AND j.state IN ('queued', 'running')";
/* A row that is locked is just being leased, or its attempt written down: never waited for, because whoever writes it may want the job's row. */
static const char withdraw_sql[] =
    "DELETE FROM pending_deliveries WHERE delivery_id IN (SELECT p.delivery_id FROM pending_deliveries p"
    "  JOIN replay_jobs j ON j.id = p.replay_job_id"
    "  WHERE p.replay_job_id = $3 AND j.state = 'cancelled' AND j.webhook_id = $1 AND j.tenant_id = $2"
    "  AND (p.leased_until IS NULL OR p.leased_until < now()) FOR UPDATE OF p SKIP LOCKED)";
/* clang-format on */

static void cancelled(struct call *c, const struct pg_reply *reply)
{
    reply_job(c, reply->results[2]);
}

void replays_cancel(struct call *c)
{
    if (!query_none(c)) {
        return;
    }
    const struct pg_param params[] = {param_uuid(&c->ids[0]), param_uuid(&c->who.tenant_id),
                                      param_uuid(&c->ids[1])};
    const struct pg_stmt stmts[] = {
        {.sql = cancel_sql, .params = params, .n_params = 3},
        {.sql = withdraw_sql, .params = params, .n_params = 3},
        {.sql = get_sql, .params = params, .n_params = 3, .binary_result = true}};
    call_query(c, stmts, 3, cancelled);
}
