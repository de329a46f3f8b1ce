/* Owns the answer about one delivery and its SQL.
 *
 * Everything about a delivery is at its event's received_at: attempts and payload are looked up by
 * their primary keys in one partition. A delivery's id does not tell that time, so it is found
 * first: in the pending row, or by the index attempts_webhook, which holds the delivery's id in its
 * third column. That reads the index entries of the webhook, the last days' first, and no rows; for
 * a webhook with hundreds of thousands of attempts it takes some ten milliseconds. The parameter
 * attempted_at, from a row of the list, completes the key of that index and makes it a look-up. */
#include "delivery_detail.h"

#include <stdlib.h>
#include <string.h>

#include "base64.h"
#include "bounds.h"
#include "check.h"
#include "clock.h"
#include "delivery_row.h"
#include "mem.h"
#include "param.h"
#include "pgarray.h"
#include "query.h"
#include "render.h"

#define RECENT_US (INT64_C(2) * 24 * 3600 * 1000000)

/* Of one answer; a delivery has more only after many redeliveries. */
#define ATTEMPTS_SHOWN "100"
/* The newest, with headers and body: each up to 40 KiB of JSON. */
#define RESPONSES_SHOWN "20"

/* clang-format off */

/* The branches of a union run in their order, and LIMIT ends it: what is recent is found first. */
#define OF_DELIVERY " WHERE webhook_id = $1::uuid AND delivery_id = $3::uuid"
static const char find_sql[] =
    "SELECT * FROM (SELECT received_at FROM pending_deliveries" OF_DELIVERY
    " UNION ALL SELECT received_at FROM attempts" OF_DELIVERY " AND received_at >= $4::timestamptz"
    " UNION ALL SELECT received_at FROM attempts" OF_DELIVERY " AND received_at < $4 LIMIT 1) AS found WHERE " IS_OWNED;
static const char find_at_sql[] =
    "SELECT * FROM (SELECT received_at FROM attempts" OF_DELIVERY " AND started_at = $4::timestamptz LIMIT 1) AS found WHERE " IS_OWNED;

#define AT_EVENT " WHERE received_at = $4::timestamptz AND webhook_id = $1::uuid AND delivery_id = $3::uuid AND " IS_OWNED
#define IF_SHOWN(column) "CASE WHEN row_number() OVER (ORDER BY attempts.attempt DESC) <= " RESPONSES_SHOWN " THEN " column " END"
static const char attempts_sql[] =
    "SELECT " DELIVERY_ROW_COLUMNS ", " IF_SHOWN("response_headers") ", " IF_SHOWN("response_body") " FROM attempts" AT_EVENT
    " ORDER BY attempts.attempt DESC LIMIT " ATTEMPTS_SHOWN;
static const char pending_sql[] =
    "SELECT event_id, event_type, next_attempt::bigint, next_attempt_at, reason FROM pending_deliveries" AT_EVENT;
static const char event_sql[] =
    "SELECT payload, traceparent FROM events WHERE tenant_id = $2::uuid AND received_at = $4::timestamptz AND id = coalesce("
    "(SELECT event_id FROM pending_deliveries" AT_EVENT "), (SELECT event_id FROM attempts" AT_EVENT " LIMIT 1))";
/* clang-format on */
#define PARAMS 4

enum { OWNED, PENDING, ATTEMPTS, EVENT, STATEMENTS };
enum { COL_HEADERS = DELIVERY_ROW_COLUMNS_N, COL_BODY };
enum { PENDING_EVENT_ID, PENDING_EVENT, PENDING_NEXT, PENDING_AT, PENDING_REASON };
enum { EVENT_PAYLOAD, EVENT_TRACEPARENT };

/* What is looked for: a delivery at the time of its event, once that is known. */
struct sought {
    char attempted_at[CLOCK_RFC3339_SIZE]; /* "": not told */
    int64_t received_at_us;
};

/* --- the answer ------------------------------------------------------------------------- */

static json_t *object(void)
{
    json_t *o = json_object();
    CHECK(o != NULL);
    return o;
}

static json_t *render_base64(const PGresult *r, int row, int col)
{
    const size_t len = (size_t)PQgetlength(r, row, col); /* 0 for NULL */
    char *text = mem_alloc(BASE64_SIZE(len));
    (void)base64_encode(PQgetvalue(r, row, col), len, text);
    json_t *value = json_string(text);
    free(text);
    return value;
}

/* Null when nothing came back. An answer without a body has kept headers, and "" for a body. */
static json_t *render_response(const PGresult *r, int row)
{
    if (PQgetisnull(r, row, COL_HEADERS) && PQgetisnull(r, row, COL_BODY)) {
        return json_null();
    }
    json_t *response = object();
    const bool has_body = !PQgetisnull(r, row, COL_BODY);
    render_add(response, "headers", render_bytes_as_text(r, row, COL_HEADERS));
    render_add(response, "body",
               has_body ? render_bytes_as_text(r, row, COL_BODY) : json_string(""));
    render_add(response, "body_base64", render_base64(r, row, COL_BODY));
    return response;
}

static json_t *render_attempts(const PGresult *r)
{
    json_t *list = json_array();
    CHECK(list != NULL);
    for (int row = PQntuples(r) - 1; row >= 0; row--) {
        json_t *attempt = delivery_row_render(r, row);
        render_add(attempt, "response", render_response(r, row));
        CHECK(json_array_append_new(list, attempt) == 0);
    }
    return list;
}

/* What worker/request.c and transport.c send, but for what differs from attempt to attempt. A test
 * compares it with what a receiver got. */
static json_t *render_request(const struct call *c, const struct uuid *event_id, const char *event,
                              const PGresult *kept)
{
    json_t *headers = object();
    render_add(headers, "Content-Type", json_string("application/json"));
    render_add(headers, "User-Agent", json_string("NetRecon-Webhooks/" NRW_VERSION));
    render_add(headers, "X-NetRecon-Event", json_string(event));
    render_add(headers, "X-NetRecon-Delivery", render_id(&c->ids[1]));
    render_add(headers, "webhook-id", render_id(event_id));
    const bool is_kept = PQntuples(kept) > 0;
    if (is_kept && !PQgetisnull(kept, 0, EVENT_TRACEPARENT)) {
        render_add(headers, "traceparent", render_text(kept, 0, EVENT_TRACEPARENT));
    }
    json_t *request = object();
    render_add(request, "headers", headers);
    render_add(request, "body",
               is_kept ? render_bytes_as_text(kept, 0, EVENT_PAYLOAD) : json_null());
    return request;
}

/* Between the two statements an attempt may have been written: then the row that was read is no
 * longer true. */
static bool still_pending(const PGresult *pending, const PGresult *attempts)
{
    return PQntuples(pending) > 0 &&
           (PQntuples(attempts) == 0 ||
            pgvalue_int8(attempts, 0, ROW_ATTEMPT) < pgvalue_int8(pending, 0, PENDING_NEXT));
}

static void show(struct call *c, const struct pg_reply *answer)
{
    const PGresult *attempts = answer->results[ATTEMPTS];
    const PGresult *pending = answer->results[PENDING];
    const bool is_pending = still_pending(pending, attempts);
    const struct sought *s = c->state;
    if (delivery_row_not_owned(c, answer)) {
        return;
    }
    if (!is_pending && PQntuples(attempts) == 0) {
        call_not_found(c, "delivery of this webhook"); /* it ended and expired since it was found */
        return;
    }
    const struct uuid event_id = is_pending ? pgvalue_uuid(pending, 0, PENDING_EVENT_ID)
                                            : pgvalue_uuid(attempts, 0, ROW_EVENT_ID);
    const char *event =
        is_pending ? PQgetvalue(pending, 0, PENDING_EVENT) : PQgetvalue(attempts, 0, ROW_EVENT);
    json_t *detail = object();
    render_add(detail, "delivery_id", render_id(&c->ids[1]));
    render_add(detail, "event_id", render_id(&event_id));
    render_add(detail, "event", json_string(event));
    render_add(detail, "webhook_id", render_id(&c->ids[0]));
    render_add(detail, "received_at", render_wall_time(s->received_at_us));
    render_add(detail, "state",
               is_pending ? json_string("pending") : render_text(attempts, 0, ROW_STATUS));
    render_add(detail, "next_attempt_at",
               is_pending ? render_time(pending, 0, PENDING_AT) : json_null());
    render_add(detail, "pending_reason",
               is_pending ? render_text(pending, 0, PENDING_REASON) : json_null());
    render_add(detail, "request", render_request(c, &event_id, event, answer->results[EVENT]));
    render_add(detail, "attempts", render_attempts(attempts));
    call_reply(c, 200, detail);
}

/* --- the queries ------------------------------------------------------------------------ */

static void fill(const struct call *c, const char *at, struct pg_param params[PARAMS])
{
    params[0] = param_uuid(&c->ids[0]);
    params[1] = param_uuid(&c->who.tenant_id);
    params[2] = param_uuid(&c->ids[1]);
    params[3] = param_time(at);
}

static void find(struct call *c);

static void found(struct call *c, const struct pg_reply *answer)
{
    struct sought *s = c->state;
    if (delivery_row_not_owned(c, answer)) {
        return;
    }
    if (PQntuples(answer->results[1]) == 0) {
        if (s->attempted_at[0] == '\0') {
            call_not_found(c, "delivery of this webhook");
        } else { /* a hint that leads nowhere is none */
            s->attempted_at[0] = '\0';
            find(c);
        }
        return;
    }
    char at[CLOCK_RFC3339_SIZE];
    struct pg_param params[PARAMS];
    s->received_at_us = pgvalue_time_us(answer->results[1], 0, 0);
    clock_format_rfc3339(s->received_at_us, at);
    fill(c, at, params);
    static const char *const texts[STATEMENTS] = {[OWNED] = delivery_row_owned_sql,
                                                  [PENDING] = pending_sql,
                                                  [ATTEMPTS] = attempts_sql,
                                                  [EVENT] = event_sql};
    struct pg_stmt stmts[STATEMENTS];
    for (int i = 0; i < STATEMENTS; i++) {
        stmts[i] = (struct pg_stmt){.sql = texts[i],
                                    .params = params,
                                    .n_params = i == OWNED ? 2 : PARAMS,
                                    .binary_result = true};
    }
    call_query(c, stmts, STATEMENTS, show);
}

static void find(struct call *c)
{
    const struct sought *s = c->state;
    const bool told = s->attempted_at[0] != '\0';
    char recent[CLOCK_RFC3339_SIZE];
    struct pg_param params[PARAMS];
    clock_format_rfc3339(clock_wall_us() - RECENT_US, recent);
    fill(c, told ? s->attempted_at : recent, params);
    const struct pg_stmt stmts[] = {
        {.sql = delivery_row_owned_sql, .params = params, .n_params = 2},
        {.sql = told ? find_at_sql : find_sql,
         .params = params,
         .n_params = PARAMS,
         .binary_result = true}};
    call_query(c, stmts, 2, found);
}

void deliveries_get(struct call *c)
{
    static const char *const names[] = {"attempted_at", NULL};
    struct sought *s = mem_zero(1, sizeof(*s));
    int64_t at_us;
    c->state = s;
    query_allow(c, names);
    if (query_time(c, "attempted_at", &at_us)) {
        clock_format_rfc3339(at_us, s->attempted_at);
    }
    if (query_ok(c)) {
        find(c);
    }
}
