/* Owns the registration of a webhook: its limit per tenant, its secret, its row, and what becomes
 * of a request that comes again with its Idempotency-Key. The key is kept nowhere: the webhook's id
 * and, when it is generated, its secret follow from it. */
#include "webhooks.h"

#include <stdio.h>
#include <string.h>

#include "bounds.h"
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
    " ON CONFLICT (id) DO NOTHING RETURNING " WEBHOOK_COLUMNS;

/* The webhook of the key, and whether it is (still) what this request asks for. Its secret is shown
 * again for a day and no longer. */
static const char found_sql[] =
    "SELECT " WEBHOOK_COLUMNS ", secret, deleted_at IS NULL AND url = $3"
    " AND description IS NOT DISTINCT FROM $4 AND events = $5 AND active = $6"
    " AND created_at > now() - interval '24 hours' FROM webhooks WHERE id = $1 AND tenant_id = $2";
enum { COL_SECRET = WEBHOOK_COLUMNS_N, COL_IS_SAME };

enum { STMT_LOCK, STMT_INSERT, STMT_FOUND, STMTS };

static void reply_created(struct call *c, const PGresult *r)
{
    const struct uuid id = pgvalue_uuid(r, 0, 0);
    char location[sizeof(WEBHOOKS_PATH) + UUID_TEXT] = WEBHOOKS_PATH;
    uuid_format(&id, location + sizeof(WEBHOOKS_PATH) - 1);
    call_header(c, "Location", location);
    json_t *answer = webhook_json(r, 0);
    render_add(answer, "secret", webhook_secret_json(c->state));
    call_reply(c, 201, answer);
}

/* The key has made the webhook of r before: by this very request, or by another one. */
static void reply_found(struct call *c, const PGresult *r)
{
    const struct uuid id = pgvalue_uuid(r, 0, 0);
    struct webhook_secret kept = {0};
    char text[UUID_TEXT + 1];
    if (!webhook_secret_open(c, &id, PQgetvalue(r, 0, COL_SECRET),
                             (size_t)PQgetlength(r, 0, COL_SECRET), &kept)) {
        return;
    }
    const bool is_same = pgvalue_bool(r, 0, COL_IS_SAME) && webhook_secret_equal(&kept, c->state);
    webhook_secret_cleanse(&kept);
    if (is_same) {
        reply_created(c, r);
        return;
    }
    uuid_format(&id, text);
    call_problem(c, PROBLEM_IDEMPOTENCY_KEY_USED,
                 "this Idempotency-Key has made webhook %s, with another body, or it was changed "
                 "since, or that is more than 24 hours ago",
                 text);
}

static void created(struct call *c, const struct pg_reply *reply)
{
    if (PQntuples(reply->results[STMT_LOCK]) == 0) {
        call_problem(c, PROBLEM_TENANT_UNKNOWN,
                     "the account of these credentials is not set up here yet");
    } else if (PQntuples(reply->results[STMT_INSERT]) > 0) {
        reply_created(c, reply->results[STMT_INSERT]);
    } else if (reply->n_results > STMT_FOUND && PQntuples(reply->results[STMT_FOUND]) > 0) {
        reply_found(c, reply->results[STMT_FOUND]);
    } else {
        call_problem(c, PROBLEM_WEBHOOK_LIMIT,
                     "this account has as many webhooks as it may have, %lld: delete one first",
                     (long long)c->api->cfg->webhooks_max);
    }
}

/* key: NULL without one, and then nothing can have been made by it. */
static void insert(struct call *c, struct webhook_input *in, const struct uuid *id, const char *key,
                   const struct buf *sealed)
{
    char max[PARAM_INT_SIZE];
    const struct pg_param tenant = param_uuid(&c->who.tenant_id);
    const struct pg_param url = param_text(in->url);
    const struct pg_param description = param_text(in->description);
    const struct pg_param events = pgarray_param(&in->events);
    const struct pg_param active = param_bool(!in->has_active || in->active);
    const struct pg_param params[] = {
        param_uuid(id),      tenant, url,    description,
        param_bytes(sealed), events, active, param_int(c->api->cfg->webhooks_max, max)};
    const struct pg_param same[] = {param_uuid(id), tenant, url, description, events, active};
    const struct pg_stmt stmts[STMTS] = {
        [STMT_LOCK] = {.sql = lock_sql, .params = &tenant, .n_params = 1},
        [STMT_INSERT] = {.sql = insert_sql,
                         .params = params,
                         .n_params = sizeof(params) / sizeof(*params),
                         .binary_result = true},
        [STMT_FOUND] = {.sql = found_sql,
                        .params = same,
                        .n_params = sizeof(same) / sizeof(*same),
                        .binary_result = true},
    };
    struct webhook_secret *kept = mem_alloc(sizeof(*kept));
    *kept = in->secret;
    c->state = kept; /* shown when the row is there, and not kept after that */
    c->free_state = mem_free_cleansed;
    call_query(c, stmts, key != NULL ? STMTS : STMT_FOUND, created);
}

/* False: answered. */
static bool read_key(struct call *c, const char **ret)
{
    unsigned n;
    const char *key = call_given_header(c, "Idempotency-Key", &n);
    const size_t len = key != NULL ? strlen(key) : 0;
    bool is_good = n == 0 || (n == 1 && len >= 1 && len <= LIMIT_IDEMPOTENCY_KEY);
    for (size_t i = 0; i < len; i++) {
        is_good &= key[i] > ' ' && key[i] <= '~';
    }
    if (!is_good) {
        call_problem(c, PROBLEM_BAD_REQUEST,
                     "there may be one Idempotency-Key, of 1 to %d visible ASCII characters",
                     LIMIT_IDEMPOTENCY_KEY);
        return false;
    }
    *ret = key;
    return true;
}

void webhooks_create(struct call *c)
{
    struct webhook_input in;
    const char *key;
    if (!query_none(c) || !read_key(c, &key) || !webhook_input_read(c, WEBHOOK_CREATE, &in)) {
        return;
    }
    if (in.secret.len == 0 && key != NULL) {
        webhook_secret_derive(c, key, &in.secret);
    } else if (in.secret.len == 0) {
        webhook_secret_make(&in.secret);
    }
    const struct uuid id = key != NULL ? uuid_v5(&c->who.tenant_id, key, strlen(key)) : uuid_v4();
    struct buf sealed;
    buf_init(&sealed, WEBHOOK_BLOB_MAX);
    if (webhook_secret_seal(c, &id, "webhooks.secret", &in.secret, &sealed)) {
        insert(c, &in, &id, key, &sealed);
    }
    buf_done(&sealed);
    webhook_input_done(&in);
}
