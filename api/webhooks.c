/* Owns the reading of webhooks: the list and one of them. */
#include "webhooks.h"

#include <string.h>

#include "bounds.h"
#include "check.h"
#include "event_types.h"
#include "mem.h"
#include "param.h"
#include "pgarray.h"
#include "query.h"
#include "render.h"
#include "webhook_row.h"

/* --- the list --------------------------------------------------------------------------- */

/* $1 tenant, $2 patterns of which one must be there, $3 status; NULL filters nothing. */
#define LISTED                                                                                     \
    " FROM webhooks WHERE tenant_id = $1 AND deleted_at IS NULL"                                   \
    " AND ($2::text[] IS NULL OR events && $2) AND ($3::text IS NULL OR status = $3)"

static const char count_sql[] = "SELECT count(*)" LISTED;
static const char list_sql[] =
    "SELECT " WEBHOOK_COLUMNS LISTED " ORDER BY created_at DESC, id DESC LIMIT $4 OFFSET $5";

enum { STMT_COUNT, STMT_PAGE, STMTS };

/* Everything that a webhook can subscribe with to receive this type. */
static void patterns_for(const char *type, struct pgarray *ret)
{
    char pattern[LIMIT_EVENT_TYPE + sizeof(".*")];
    pgarray_add_bytes(ret, "*", 1);
    pgarray_add_bytes(ret, type, strlen(type));
    for (const char *dot = strchr(type, '.'); dot != NULL; dot = strchr(dot + 1, '.')) {
        const size_t len = (size_t)(dot - type) + 1;
        memcpy(pattern, type, len);
        pattern[len] = '*';
        pgarray_add_bytes(ret, pattern, len + 1);
    }
}

static void listed(struct call *c, const struct pg_reply *reply)
{
    const struct page *page = c->state;
    const PGresult *r = reply->results[STMT_PAGE];
    json_t *data = json_array();
    json_t *answer = json_object();
    CHECK(data != NULL && answer != NULL);
    for (int row = 0; row < PQntuples(r); row++) {
        CHECK(json_array_append_new(data, webhook_json(r, row)) == 0);
    }
    render_add(answer, "data", data);
    render_add(answer, "meta", page_meta(page, pgvalue_int8(reply->results[STMT_COUNT], 0, 0)));
    call_reply(c, 200, answer);
}

static void list(struct call *c, const struct page *page, struct pg_param patterns,
                 const char *status)
{
    char limit[PARAM_INT_SIZE];
    char offset[PARAM_INT_SIZE];
    const struct pg_param params[] = {
        param_uuid(&c->who.tenant_id),
        patterns,
        param_text(status),
        param_int(page->per_page, limit),
        param_int(page->offset, offset),
    };
    const struct pg_stmt stmts[STMTS] = {
        [STMT_COUNT] = {.sql = count_sql, .params = params, .n_params = 3, .binary_result = true},
        [STMT_PAGE] = {.sql = list_sql, .params = params, .n_params = 5, .binary_result = true},
    };
    struct page *kept = mem_alloc(sizeof(*kept));
    *kept = *page;
    c->state = kept;
    call_query(c, stmts, STMTS, listed);
}

void webhooks_list(struct call *c)
{
    static const char *const names[] = {"page", "per_page", "event", "status", NULL};
    static const char *const standings[] = {"active", "failing", "disabled", NULL};
    const char *types[EVENT_TYPES_N + 1] = {NULL};
    for (size_t i = 0; i < EVENT_TYPES_N; i++) {
        types[i] = event_types[i].name;
    }
    query_allow(c, names);
    const struct page page = query_page(c);
    const char *type = query_choice(c, "event", types);
    const char *status = query_choice(c, "status", standings);
    if (!query_ok(c)) {
        return;
    }
    struct pgarray patterns;
    pgarray_init(&patterns, PGARRAY_TEXT, 4096);
    if (type != NULL) {
        patterns_for(type, &patterns);
    }
    list(c, &page, type != NULL ? pgarray_param(&patterns) : param_null(), status);
    pgarray_done(&patterns);
}

/* --- one -------------------------------------------------------------------------------- */

static const char get_sql[] = "SELECT " WEBHOOK_COLUMNS " FROM webhooks WHERE " WEBHOOK_IS_MINE;

static void got(struct call *c, const struct pg_reply *reply)
{
    const PGresult *r = reply->results[0];
    if (PQntuples(r) == 0) {
        call_not_found(c, "webhook");
    } else {
        call_reply(c, 200, webhook_json(r, 0));
    }
}

void webhooks_get(struct call *c)
{
    if (!query_none(c)) {
        return;
    }
    const struct pg_param params[] = {WEBHOOK_MINE_PARAMS(c)};
    const struct pg_stmt stmt = {
        .sql = get_sql, .params = params, .n_params = 2, .binary_result = true};
    call_query(c, &stmt, 1, got);
}
