/* Owns the list of the delivery log: its filters, its two ways of paging and its SQL.
 *
 * Rows come in the order of the index attempts_webhook from every partition that may have some, and
 * are merged; the list never sorts and never reads a row that it does not pass. Sorting is
 * forbidden for the unit because the planner, which does not know how many attempts one webhook
 * has, would rather sort half a million of them than pass ten thousand.
 *
 * Which partitions may have some: those are days of received_at, the event's time in Kafka, and
 * filters and cursors are about started_at. An attempt starts after its event was received, but for
 * the clocks of producers, which Kafka's brokers allow to be an hour ahead
 * (message.timestamp.after.max.ms). So below an upper bound on started_at, which now is too,
 * nothing was received a day after it, and later partitions are left out. A lower bound says
 * nothing: what is redelivered today may have been received when the log begins. */
#include "deliveries.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "cursor.h"
#include "delivery_row.h"
#include "event_types.h"
#include "mem.h"
#include "param.h"
#include "pgarray.h"
#include "query.h"
#include "render.h"

#define CLOCKS_APART_US (INT64_C(24) * 3600 * 1000000)
#define TEXT_OF_(x)     #x
#define TEXT_OF(x)      TEXT_OF_(x)

/* clang-format off */
/* Parameters are planned with their values, so that a condition on a NULL vanishes. */
#define FILTERED_FROM \
    " FROM attempts WHERE webhook_id = $1::uuid" \
    " AND ($3::text IS NULL OR outcome = $3) AND ($4::text IS NULL OR event_type = $4)" \
    " AND ($5::timestamptz IS NULL OR started_at >= $5) AND ($6::timestamptz IS NULL OR started_at < $6)"
/* "attempt" alone would be the column of the result, which is no column of the index. */
#define IN_ORDER " ORDER BY started_at DESC, delivery_id, attempts.attempt"

/* The last row before a page. Without filters on what is not in the index, the index alone tells. */
static const char position_sql[] =
    "SELECT * FROM (SELECT delivery_id, attempt::bigint, started_at" FILTERED_FROM IN_ORDER
    " LIMIT 1 OFFSET $7::bigint) AS position WHERE " IS_OWNED;
static const char rows_sql[] =
    "SELECT * FROM (SELECT " DELIVERY_ROW_COLUMNS FILTERED_FROM
    " AND ($7::timestamptz IS NULL OR (started_at <= $7 AND"
    " (started_at < $7 OR (delivery_id, attempt) > ($8::uuid, $9::bigint))))"
    " AND received_at < $10::timestamptz" IN_ORDER " LIMIT $11::bigint) AS listed WHERE " IS_OWNED;
/* Without the bound on received_at, which is not in the index: that is read alone. */
static const char count_sql[] =
    "SELECT count(*) FROM (SELECT" FILTERED_FROM " LIMIT " TEXT_OF(PAGE_REACH) " + 1) AS counted WHERE " IS_OWNED;
/* clang-format on */
#define FILTER_PARAMS   6
#define POSITION_PARAMS 7
#define ROWS_PARAMS     11
#define PARAMS_MAX      ROWS_PARAMS
enum { ASKED_OWNED, ASKED_ROWS, ASKED_TOTAL }; /* the statements of a unit */
enum { POSITION_DELIVERY_ID, POSITION_ATTEMPT, POSITION_STARTED_AT };

struct listing {
    struct page page;
    bool by_cursor;
    bool goes_on; /* after the position `after` */
    struct cursor after;
    const char *status; /* NULL: any */
    const char *event;
    char since[CLOCK_RFC3339_SIZE]; /* "": open */
    char until[CLOCK_RFC3339_SIZE];
    int64_t until_us; /* INT64_MAX: open */
    int64_t total;    /* known before the rows of a page after the first */
};

/* --- the request ------------------------------------------------------------------------ */

static void read_cursor(struct call *c, struct listing *l)
{
    const char *text = query_text(c, "cursor");
    l->by_cursor = text != NULL;
    if (!l->by_cursor) {
        l->page = query_page(c);
        return;
    }
    l->page.per_page = query_int(c, "per_page", PAGE_DEFAULT, 1, PAGE_MAX);
    if (query_text(c, "page") != NULL) {
        call_error_param(c, "page", "page and cursor exclude each other");
    }
    l->goes_on = *text != '\0';
    if (l->goes_on && !cursor_parse(text, strlen(text), &l->after)) {
        call_error_param(c, "cursor", "must be empty, or next_cursor of an answer as it was");
    }
}

static void read_filters(struct call *c, struct listing *l)
{
    static const char *const outcomes[] = {"delivered", "failed",      "exhausted",
                                           "gone",      "test_failed", NULL};
    int64_t since_us = 0;
    l->until_us = INT64_MAX;
    l->status = query_choice(c, "status", outcomes);
    l->event = query_text(c, "event");
    if (l->event != NULL && !event_name_valid(l->event, strlen(l->event))) {
        call_error_param(c, "event", "must be the name of an event type, as alert.created");
    }
    if (query_time(c, "since", &since_us)) {
        clock_format_rfc3339(since_us, l->since);
    }
    if (query_time(c, "until", &l->until_us)) {
        clock_format_rfc3339(l->until_us, l->until);
    }
}

/* --- the answer ------------------------------------------------------------------------- */

/* rows: the result whose first n are shown. */
static void reply(struct call *c, const PGresult *rows, int n, json_t *meta)
{
    json_t *data = json_array();
    json_t *answer = json_object();
    CHECK(data != NULL && answer != NULL);
    for (int i = 0; i < n; i++) {
        CHECK(json_array_append_new(data, delivery_row_render(rows, i)) == 0);
    }
    render_add(answer, "data", data);
    render_add(answer, "meta", meta);
    call_reply(c, 200, answer);
}

static json_t *cursor_meta(const struct listing *l, const PGresult *r, int shown)
{
    json_t *meta = json_object();
    CHECK(meta != NULL);
    render_add(meta, "per_page", json_integer(l->page.per_page));
    json_t *next = json_null();
    if (PQntuples(r) > shown) {
        char text[CURSOR_TEXT + 1];
        const struct cursor last = {.started_at_us = pgvalue_time_us(r, shown - 1, ROW_STARTED_AT),
                                    .delivery_id = pgvalue_uuid(r, shown - 1, ROW_DELIVERY_ID),
                                    .attempt = (uint16_t)pgvalue_int8(r, shown - 1, ROW_ATTEMPT)};
        cursor_format(&last, text);
        next = json_string(text);
    }
    render_add(meta, "next_cursor", next);
    return meta;
}

/* --- the queries ------------------------------------------------------------------------ */

/* One unit: whose log it is, a statement whose first parameters are the filters, and a page's total
 * where it is not known yet. Each unit less is a change of process less. */
static void ask(struct call *c, const char *sql, struct pg_param params[PARAMS_MAX], int n,
                bool counted, call_rows_fn *then)
{
    const struct listing *l = c->state;
    params[0] = param_uuid(&c->ids[0]);
    params[1] = param_uuid(&c->who.tenant_id);
    params[2] = param_text(l->status);
    params[3] = param_text(l->event);
    params[4] = param_time(l->since);
    params[5] = param_time(l->until);
    const struct pg_stmt stmts[] = {
        [ASKED_OWNED] = {.sql = delivery_row_owned_sql, .params = params, .n_params = 2},
        [ASKED_ROWS] = {.sql = sql, .params = params, .n_params = n, .binary_result = true},
        [ASKED_TOTAL] = {
            .sql = count_sql, .params = params, .n_params = FILTER_PARAMS, .binary_result = true}};
    call_query(c, stmts, counted ? ASKED_TOTAL + 1 : ASKED_TOTAL, then);
}

static void listed(struct call *c, const struct pg_reply *answer)
{
    struct listing *l = c->state;
    const PGresult *r = answer->results[ASKED_ROWS];
    const int n = PQntuples(r);
    if (delivery_row_not_owned(c, answer)) {
        return;
    }
    if (l->by_cursor) {
        const int shown = n > l->page.per_page ? (int)l->page.per_page : n;
        reply(c, r, shown, cursor_meta(l, r, shown));
        return;
    }
    if (answer->n_results > ASKED_TOTAL) {
        l->total = pgvalue_int8(answer->results[ASKED_TOTAL], 0, 0);
    }
    reply(c, r, n, page_meta(&l->page, l->total));
}

static void read_rows(struct call *c)
{
    const struct listing *l = c->state;
    char at[CLOCK_RFC3339_SIZE];
    char attempt[PARAM_INT_SIZE];
    char limit[PARAM_INT_SIZE];
    char received[CLOCK_RFC3339_SIZE];
    struct pg_param params[PARAMS_MAX];
    int64_t bound_us = clock_wall_us(); /* on started_at */
    bound_us = l->until_us < bound_us ? l->until_us : bound_us;
    params[6] = params[7] = params[8] = param_null();
    if (l->goes_on) {
        clock_format_rfc3339(l->after.started_at_us, at);
        params[6] = param_time(at);
        params[7] = param_uuid(&l->after.delivery_id);
        params[8] = param_int(l->after.attempt, attempt);
        bound_us = l->after.started_at_us < bound_us ? l->after.started_at_us : bound_us;
    }
    clock_format_rfc3339(bound_us + CLOCKS_APART_US, received);
    params[9] = param_time(received);
    params[10] = param_int(l->page.per_page + (l->by_cursor ? 1 : 0), limit);
    ask(c, rows_sql, params, ROWS_PARAMS, !l->by_cursor && !l->goes_on, listed);
}

static void positioned(struct call *c, const struct pg_reply *answer)
{
    struct listing *l = c->state;
    const PGresult *r = answer->results[ASKED_ROWS];
    if (delivery_row_not_owned(c, answer)) {
        return;
    }
    l->total = pgvalue_int8(answer->results[ASKED_TOTAL], 0, 0);
    if (PQntuples(r) == 0) { /* the page is beyond the end */
        reply(c, r, 0, page_meta(&l->page, l->total));
        return;
    }
    l->goes_on = true;
    l->after = (struct cursor){.started_at_us = pgvalue_time_us(r, 0, POSITION_STARTED_AT),
                               .delivery_id = pgvalue_uuid(r, 0, POSITION_DELIVERY_ID),
                               .attempt = (uint16_t)pgvalue_int8(r, 0, POSITION_ATTEMPT)};
    read_rows(c);
}

/* A page after the first is read as what follows the row before it. */
static void find_position(struct call *c)
{
    const struct listing *l = c->state;
    char offset[PARAM_INT_SIZE];
    struct pg_param params[PARAMS_MAX];
    params[6] = param_int(l->page.offset - 1, offset);
    ask(c, position_sql, params, POSITION_PARAMS, true, positioned);
}

void deliveries_list(struct call *c)
{
    static const char *const names[] = {"page",  "per_page", "cursor", "status",
                                        "event", "since",    "until",  NULL};
    struct listing *l = mem_zero(1, sizeof(*l));
    c->state = l;
    query_allow(c, names);
    read_cursor(c, l);
    read_filters(c, l);
    if (!query_ok(c)) {
        return;
    }
    if (l->page.offset > 0) {
        find_position(c);
    } else {
        read_rows(c);
    }
}
