/* Owns the registration of a webhook: its limit per tenant, its secret, its row. */
#include "webhooks.h"

#include <stdio.h>

#include "check.h"
#include "config.h"
#include "mem.h"
#include "param.h"
#include "query.h"
#include "render.h"
#include "webhook_input.h"
#include "webhook_row.h"
#include "webhook_secret.h"

#define WEBHOOKS_PATH "/api/v1/integrations/webhooks/"

/* One creation of a tenant at a time: who waits here counts only after the one before has
 * committed, because each statement sees what is committed when it begins. */
static const char lock_sql[] = "SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE";

static const char insert_sql[] =
    "INSERT INTO webhooks (id, tenant_id, url, description, secret, events, active)"
    " SELECT $1, t.id, $3, $4, $5, $6, $7 FROM tenants t WHERE t.id = $2"
    " AND (SELECT count(*) FROM webhooks w WHERE w.tenant_id = t.id AND w.deleted_at IS NULL) < $8"
    " RETURNING " WEBHOOK_COLUMNS;

enum { STMT_LOCK, STMT_INSERT, STMTS };

static void created(struct call *c, const struct pg_reply *reply)
{
    if (PQntuples(reply->results[STMT_LOCK]) == 0) {
        call_problem(c, PROBLEM_TENANT_UNKNOWN,
                     "the account of these credentials is not set up here yet");
        return;
    }
    const PGresult *r = reply->results[STMT_INSERT];
    if (PQntuples(r) == 0) {
        call_problem(c, PROBLEM_WEBHOOK_LIMIT,
                     "this account has as many webhooks as it may have, %lld: delete one first",
                     (long long)c->api->cfg->webhooks_max);
        return;
    }
    const struct uuid id = pgvalue_uuid(r, 0, 0);
    char location[sizeof(WEBHOOKS_PATH) + UUID_TEXT] = WEBHOOKS_PATH;
    uuid_format(&id, location + sizeof(WEBHOOKS_PATH) - 1);
    call_header(c, "Location", location);
    json_t *answer = webhook_json(r, 0);
    render_add(answer, "secret", webhook_secret_json(c->state));
    call_reply(c, 201, answer);
}

static void insert(struct call *c, struct webhook_input *in, const struct uuid *id,
                   const struct buf *sealed)
{
    char max[PARAM_INT_SIZE];
    const struct pg_param tenant = param_uuid(&c->who.tenant_id);
    const struct pg_param params[] = {
        param_uuid(id),
        tenant,
        param_text(in->url),
        param_text(in->description),
        param_bytes(sealed),
        pgarray_param(&in->events),
        param_bool(!in->has_active || in->active),
        param_int(c->api->cfg->webhooks_max, max),
    };
    const struct pg_stmt stmts[STMTS] = {
        [STMT_LOCK] = {.sql = lock_sql, .params = &tenant, .n_params = 1},
        [STMT_INSERT] = {.sql = insert_sql,
                         .params = params,
                         .n_params = sizeof(params) / sizeof(*params),
                         .binary_result = true},
    };
    struct webhook_secret *kept = mem_alloc(sizeof(*kept));
    *kept = in->secret;
    c->state = kept; /* shown when the row is there, and never again */
    c->free_state = mem_free_cleansed;
    call_query(c, stmts, STMTS, created);
}

void webhooks_create(struct call *c)
{
    struct webhook_input in;
    if (!query_none(c) || !webhook_input_read(c, WEBHOOK_CREATE, &in)) {
        return;
    }
    if (in.secret.len == 0) {
        webhook_secret_make(&in.secret);
    }
    const struct uuid id = uuid_v4();
    struct buf sealed;
    buf_init(&sealed, WEBHOOK_BLOB_MAX);
    if (webhook_secret_seal(c, &id, "webhooks.secret", &in.secret, &sealed)) {
        insert(c, &in, &id, &sealed);
    }
    buf_done(&sealed);
    webhook_input_done(&in);
}
