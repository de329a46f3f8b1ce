/* Owns a test from its rows to its answer: what is sent, the wait for the worker, the withdrawal.
 * Sends nothing itself. The router calls it; everything ends with the call, which owns the wait. */
#include "test_send.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "buf.h"
#include "call.h"
#include "catalogue.h"
#include "check.h"
#include "clock.h"
#include "hints.h"
#include "input.h"
#include "mem.h"
#include "param.h"
#include "pgarray.h"
#include "query.h"
#include "render.h"

#define DEFAULT_EVENT "alert.created"
#define POLL_FIRST_US 50000
#define POLL_MAX_US   250000
#define IN_HAND_TIMES 2 /* NRW_TEST_TIMEOUT, while a worker has the test in hand */

/* What a call waits for; its state. The timer runs exactly while no query is under way. */
struct wait {
    struct call *c;
    struct event timer;
    struct uuid event_id;
    struct uuid delivery_id;
    char received_at[CLOCK_RFC3339_SIZE]; /* of all three rows, to the microsecond */
    int64_t since_mono_us;
    int64_t poll_us;
};

/* clang-format off */
/* Two tests of a webhook at the same instant: the second one sees what the first one did. */
static const char lock_sql[] = "SELECT pg_advisory_xact_lock(hashtextextended('nrw_asked ' || $1::text, 0))";

/* A test is due when it is made, so its time bounds the search, whatever else is pending; one whose call is long gone does not count. */
static const char insert_sql[] =
    "WITH hook AS (SELECT FROM webhooks WHERE id = $1 AND tenant_id = $2 AND deleted_at IS NULL),"
    " other AS (SELECT FROM pending_deliveries WHERE webhook_id = $1 AND reason = 'test'"
    "  AND next_attempt_at BETWEEN now() - $7 * interval '1 millisecond' AND now() + interval '1 minute'),"
    " event AS (INSERT INTO events (id, received_at, tenant_id, event_type, payload)"
    "  SELECT $3, now(), $2, $4, $5 FROM hook WHERE NOT EXISTS (SELECT FROM other) RETURNING received_at),"
    " due AS (INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type,"
    "  next_attempt, final_attempt, next_attempt_at, reason)"
    "  SELECT $6, received_at, $3, $1, $2, $4, 1, 1, now(), 'test' FROM event RETURNING received_at)"
    " SELECT EXISTS (SELECT FROM hook), (SELECT received_at FROM due)";

static const char attempt_sql[] =
    "SELECT outcome = 'delivered', status_code::bigint, response_time_ms::bigint, error FROM attempts"
    " WHERE received_at = $1 AND delivery_id = $2 AND attempt = 1";

/* Not from a worker's hands: a lease that has not run out is a request that may be on its way. */
static const char withdraw_sql[] =
    "DELETE FROM pending_deliveries WHERE delivery_id = $1 AND (leased_until IS NULL OR leased_until < now())";
static const char forget_sql[] =
    "DELETE FROM events WHERE tenant_id = $1 AND received_at = $2 AND id = $3"
    " AND NOT EXISTS (SELECT FROM pending_deliveries WHERE delivery_id = $4)"
    " AND NOT EXISTS (SELECT FROM attempts WHERE received_at = $2 AND delivery_id = $4 AND attempt = 1)";
/* clang-format on */

/* --- waiting ---------------------------------------------------------------------------- */

static void free_wait(void *state)
{
    struct wait *w = state;
    CHECK(event_del(&w->timer) == 0);
    w->c = NULL;
    free(w);
}

static void look_later(struct wait *w)
{
    const struct timeval tv = {.tv_sec = w->poll_us / 1000000, .tv_usec = w->poll_us % 1000000};
    CHECK(evtimer_add(&w->timer, &tv) == 0);
    w->poll_us = w->poll_us * 3 / 2 < POLL_MAX_US ? w->poll_us * 3 / 2 : POLL_MAX_US;
}

static bool has_waited(const struct wait *w, int64_t times)
{
    return clock_mono_us() - w->since_mono_us >= times * w->c->api->cfg->test_timeout * 1000;
}

/* The row of attempt_sql. */
static void reply_outcome(struct wait *w, const PGresult *r)
{
    json_t *o = json_object();
    CHECK(o != NULL);
    render_add(o, "success", render_bool(r, 0, 0));
    render_add(o, "status_code", render_int(r, 0, 1));
    render_add(o, "response_time_ms", render_int(r, 0, 2));
    render_add(o, "delivery_id", render_id(&w->delivery_id));
    render_add(o, "error", render_text(r, 0, 3));
    call_reply(w->c, 200, o);
}

static void looked(struct call *c, const struct pg_reply *reply)
{
    struct wait *w = c->state;
    if (PQntuples(reply->results[0]) > 0) {
        reply_outcome(w, reply->results[0]);
    } else {
        look_later(w);
    }
}

/* withdraw, forget, look: in this order, so that a worker either leased the row before or not at
 * all. */
static void taken_back(struct call *c, const struct pg_reply *reply)
{
    struct wait *w = c->state;
    const int64_t timeout_ms = c->api->cfg->test_timeout;
    if (PQntuples(reply->results[2]) > 0) {
        reply_outcome(w, reply->results[2]);
    } else if (strcmp(PQcmdTuples(reply->results[1]), "0") != 0) {
        call_problem(c, PROBLEM_NO_ANSWER,
                     "no worker made the test within %lld ms; it was taken back and left nothing",
                     (long long)timeout_ms);
    } else if (has_waited(w, IN_HAND_TIMES)) {
        char id[UUID_TEXT + 1];
        uuid_format(&w->delivery_id, id);
        call_problem(c, PROBLEM_NO_ANSWER,
                     "the attempt is still under way after %lld ms; its outcome will be in the "
                     "delivery log as delivery %s",
                     (long long)(IN_HAND_TIMES * timeout_ms), id);
    } else {
        look_later(w);
    }
}

static void look(evutil_socket_t fd, short what, void *ctx)
{
    struct wait *w = ctx;
    struct call *c = w->c;
    (void)fd;
    (void)what;
    CHECK_MAGIC(c, CALL_MAGIC);
    const struct pg_param delivery = param_uuid(&w->delivery_id);
    const struct pg_param received = param_time(w->received_at);
    const struct pg_param forget[] = {param_uuid(&c->who.tenant_id), received,
                                      param_uuid(&w->event_id), delivery};
    const struct pg_param attempt[] = {received, delivery};
    const struct pg_stmt stmts[] = {
        {.sql = withdraw_sql, .params = &delivery, .n_params = 1},
        {.sql = forget_sql, .params = forget, .n_params = 4},
        {.sql = attempt_sql, .params = attempt, .n_params = 2, .binary_result = true},
    };
    if (has_waited(w, 1)) {
        call_query(c, stmts, 3, taken_back);
    } else {
        call_query(c, &stmts[2], 1, looked);
    }
}

/* --- sending ---------------------------------------------------------------------------- */

static void inserted(struct call *c, const struct pg_reply *reply)
{
    const PGresult *r = reply->results[1];
    struct wait *w = c->state;
    if (!pgvalue_bool(r, 0, 0)) {
        call_not_found(c, "webhook");
    } else if (PQgetisnull(r, 0, 1)) {
        call_problem(c, PROBLEM_IN_PROGRESS, "another test of this webhook is under way");
    } else {
        clock_format_rfc3339(pgvalue_time_us(r, 0, 1), w->received_at);
        w->since_mono_us = clock_mono_us();
        hints_due(c->api->hints, &w->delivery_id, 0);
        look_later(w);
    }
}

static int add_json(const char *text, size_t len, void *out)
{
    buf_add(out, text, len);
    return 0;
}

/* The sample as this tenant would receive it just now. */
static void add_payload(struct buf *out, const struct event_sample *sample,
                        const struct uuid *event_id, const struct uuid *tenant_id)
{
    json_t *o = json_loads(sample->json, 0, NULL);
    CHECK(o != NULL);
    render_add(o, "id", render_id(event_id)); /* a member that is there keeps its place */
    render_add(o, "timestamp", render_wall_time(clock_wall_us()));
    render_add(o, "tenant_id", render_id(tenant_id));
    /* 15 digits: 0.94 stays 0.94 */
    const size_t flags = JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15);
    CHECK(json_dump_callback(o, add_json, out, flags) == 0);
    json_decref(o);
}

static void insert(struct wait *w, const struct event_sample *sample)
{
    struct call *c = w->c;
    struct buf payload;
    char given_up_ms[PARAM_INT_SIZE];
    buf_init(&payload, LIMIT_EVENT_BYTES);
    add_payload(&payload, sample, &w->event_id, &c->who.tenant_id);
    const struct pg_param webhook = param_uuid(&c->ids[0]);
    const struct pg_param params[] = {
        webhook,
        param_uuid(&c->who.tenant_id),
        param_uuid(&w->event_id),
        param_text(sample->name),
        param_bytes(&payload),
        param_uuid(&w->delivery_id),
        param_int(IN_HAND_TIMES * c->api->cfg->test_timeout, given_up_ms)};
    const struct pg_stmt stmts[] = {
        {.sql = lock_sql, .params = &webhook, .n_params = 1},
        {.sql = insert_sql, .params = params, .n_params = 7, .binary_result = true}};
    call_query(c, stmts, 2, inserted);
    buf_done(&payload);
}

static const struct event_sample *find_sample(const char *name)
{
    for (size_t i = 0; i < EVENT_TYPES_N; i++) {
        if (strcmp(name, event_samples[i].name) == 0) {
            return &event_samples[i];
        }
    }
    CHECK(false);
    return NULL;
}

static const struct event_sample *read_sample(struct input *in)
{
    const char *names[EVENT_TYPES_N + 1] = {NULL};
    for (size_t i = 0; i < EVENT_TYPES_N; i++) {
        names[i] = event_samples[i].name;
    }
    const char *wanted = input_choice(in, "event", names);
    return find_sample(wanted != NULL ? wanted : DEFAULT_EVENT);
}

void test_send(struct call *c)
{
    static const char *const members[] = {"event", NULL};
    struct input in;
    if (!query_none(c) || !input_open(&in, c, members)) {
        return;
    }
    input_refuse_null(&in, "event");
    const struct event_sample *sample = read_sample(&in);
    if (!input_close(&in)) {
        return;
    }
    struct wait *w = mem_zero(1, sizeof(*w));
    w->c = c;
    w->event_id = uuid_v4();
    w->delivery_id = uuid_of_delivery(&w->event_id, &c->ids[0]);
    w->poll_us = POLL_FIRST_US;
    CHECK(evtimer_assign(&w->timer, c->api->base, look, w) == 0);
    c->state = w;
    c->free_state = free_wait;
    insert(w, sample);
}
