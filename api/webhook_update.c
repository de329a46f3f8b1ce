/* Owns what ends or stops deliveries: changing, pausing and deleting a webhook, and that nothing
 * waits for it afterwards. */
#include "webhooks.h"

#include <stdlib.h>

#include "check.h"
#include "mem.h"
#include "param.h"
#include "query.h"
#include "webhook_input.h"
#include "webhook_row.h"
#include "webhook_secret.h"

/* Of a unit: a backlog of any size can be given up without running into the statement's time
 * limit, which would undo the pause with it. */
#define CANCEL_BATCH 20000

#define TEXT_OF_(x) #x
#define TEXT_OF(x)  TEXT_OF_(x)

/* What the workers' journal has a hand on right now is left to it: waiting for each other's rows in
 * different orders would be a deadlock. A row that it then writes for a paused or deleted webhook
 * is dropped by the worker that finds it due. */
#define CANCEL_SQL(which)                                                                          \
    "DELETE FROM pending_deliveries WHERE delivery_id = ANY (ARRAY("                               \
    "SELECT delivery_id FROM pending_deliveries WHERE webhook_id = $1 AND tenant_id = $2" which    \
    " LIMIT " TEXT_OF(CANCEL_BATCH) " FOR UPDATE SKIP LOCKED))"
static const char cancel_sql[] = CANCEL_SQL("");
/* A test works while the webhook is paused, so it goes on. */
static const char pause_sql[] = CANCEL_SQL(" AND reason <> 'test'");

/* A value that is not given is NULL; description can be NULL itself and has a flag. A secret that
 * is set directly holds at once, and alone. Active: true is the way back from `disabled`. Of
 * `failing` it says nothing, but the days of a pause are no days of failures: they begin again. */
static const char update_sql[] =
    "UPDATE webhooks SET url = coalesce($3, url), events = coalesce($4, events),"
    " active = coalesce($5, active), description = CASE WHEN $6 THEN $7 ELSE description END,"
    " secret = coalesce($8, secret),"
    " previous_secret = CASE WHEN $8::bytea IS NULL THEN previous_secret END,"
    " previous_secret_until = CASE WHEN $8::bytea IS NULL THEN previous_secret_until END,"
    " status = CASE WHEN $5 AND status = 'disabled' THEN 'active' ELSE status END,"
    " failing_since = CASE WHEN $5 AND status = 'disabled' THEN NULL"
    " WHEN $5 AND NOT active AND failing_since IS NOT NULL THEN now() ELSE failing_since END,"
    " disabled_at = CASE WHEN $5 THEN NULL ELSE disabled_at END,"
    " disabled_reason = CASE WHEN $5 THEN NULL ELSE disabled_reason END"
    " WHERE " WEBHOOK_IS_MINE " RETURNING " WEBHOOK_COLUMNS;

static const char delete_sql[] =
    "UPDATE webhooks SET deleted_at = now() WHERE " WEBHOOK_IS_MINE " RETURNING id";

enum { STMT_CHANGE, STMT_CANCEL, STMTS };

/* --- cancelling -------------------------------------------------------------------------- */

static struct pg_stmt cancel_stmt(const char *sql, const struct pg_param mine[2])
{
    return (struct pg_stmt){.sql = sql, .params = mine, .n_params = 2};
}

static bool may_be_more(PGresult *r)
{
    return strtol(PQcmdTuples(r), NULL, 10) >= CANCEL_BATCH;
}

static void cancelled(struct call *c, const struct pg_reply *reply);

static void cancel_more(struct call *c)
{
    const struct pg_param mine[] = {WEBHOOK_MINE_PARAMS(c)};
    const struct pg_stmt stmt = cancel_stmt(pause_sql, mine);
    call_query(c, &stmt, 1, cancelled);
}

static void answer_kept(struct call *c)
{
    json_t *answer = c->state;
    c->state = NULL;
    call_reply(c, 200, answer);
}

static void cancelled(struct call *c, const struct pg_reply *reply)
{
    if (may_be_more(reply->results[0])) {
        cancel_more(c);
    } else {
        answer_kept(c);
    }
}

static void free_answer(void *state)
{
    json_decref(state);
}

/* --- changing ---------------------------------------------------------------------------- */

static void updated(struct call *c, const struct pg_reply *reply)
{
    const PGresult *r = reply->results[STMT_CHANGE];
    if (PQntuples(r) == 0) {
        call_not_found(c, "webhook");
    } else if (reply->n_results > STMT_CANCEL && may_be_more(reply->results[STMT_CANCEL])) {
        c->state = webhook_json(r, 0);
        c->free_state = free_answer;
        cancel_more(c); /* the pause holds already */
    } else {
        call_reply(c, 200, webhook_json(r, 0));
    }
}

static void update(struct call *c, struct webhook_input *in, const struct buf *sealed)
{
    const struct pg_param params[] = {
        WEBHOOK_MINE_PARAMS(c),
        param_text(in->url),
        in->has_events ? pgarray_param(&in->events) : param_null(),
        in->has_active ? param_bool(in->active) : param_null(),
        param_bool(in->has_description),
        param_text(in->description),
        in->secret.len > 0 ? param_bytes(sealed) : param_null(),
    };
    const struct pg_stmt stmts[STMTS] = {
        [STMT_CHANGE] = {.sql = update_sql,
                         .params = params,
                         .n_params = sizeof(params) / sizeof(*params),
                         .binary_result = true},
        [STMT_CANCEL] = cancel_stmt(pause_sql, params),
    };
    const bool pauses = in->has_active && !in->active;
    call_query(c, stmts, pauses ? STMTS : STMT_CANCEL, updated);
}

void webhooks_update(struct call *c)
{
    struct webhook_input in;
    if (!query_none(c) || !webhook_input_read(c, WEBHOOK_PATCH, &in)) {
        return;
    }
    struct buf sealed;
    buf_init(&sealed, WEBHOOK_BLOB_MAX);
    if (in.secret.len == 0 ||
        webhook_secret_seal(c, &c->ids[0], "webhooks.secret", &in.secret, &sealed)) {
        update(c, &in, &sealed);
    }
    buf_done(&sealed);
    webhook_input_done(&in);
}

/* --- deleting ---------------------------------------------------------------------------- */

/* More than a batch is left to the workers: they drop what comes due for a deleted webhook, and it
 * never comes back. */
static void deleted(struct call *c, const struct pg_reply *reply)
{
    if (PQntuples(reply->results[STMT_CHANGE]) == 0) {
        call_not_found(c, "webhook");
    } else {
        call_reply(c, 204, NULL);
    }
}

void webhooks_delete(struct call *c)
{
    if (!query_none(c)) {
        return;
    }
    const struct pg_param mine[] = {WEBHOOK_MINE_PARAMS(c)};
    const struct pg_stmt stmts[STMTS] = {
        [STMT_CHANGE] = {.sql = delete_sql, .params = mine, .n_params = 2},
        [STMT_CANCEL] = cancel_stmt(cancel_sql, mine),
    };
    call_query(c, stmts, STMTS, deleted);
}
