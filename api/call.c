/* Owns a call: its memory, its answer, and the fate of its queries. Knows no route and no table.
 * server.c makes calls, handlers end them. */
#include "call.h"

#include <event2/buffer.h>
#include <event2/keyvalq_struct.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>

#include "bounds.h"
#include "check.h"
#include "clock.h"
#include "log.h"
#include "mem.h"
#include "pgarray.h"
#include "store.h"

#define ERRORS_MAX      100 /* of one answer; the rest is not told */
#define DETAIL_SIZE     480
#define RETRY_AFTER_S   "5"
#define JSON_TYPE       "application/json"
#define PROBLEM_TYPE    "application/problem+json"
#define CANCELLED_STATE "57014" /* query_canceled: the time limit */

static void set_request_id(struct call *c)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    const char *given =
        evhttp_find_header(evhttp_request_get_input_headers(c->req), "X-Request-Id");
    const size_t len = given != NULL ? strlen(given) : 0;
    if (len >= 1 && len <= CALL_REQUEST_ID && strspn(given, good) == len) {
        memcpy(c->request_id, given, len + 1);
        return;
    }
    const struct uuid id = uuid_v4();
    uuid_format(&id, c->request_id);
}

struct call *call_new(const struct api *api, struct evhttp_request *req)
{
    struct call *c = mem_zero(1, sizeof(*c));
    c->magic = CALL_MAGIC;
    c->api = api;
    c->req = req;
    c->began_mono_us = clock_mono_us();
    set_request_id(c);
    struct evbuffer *body = evhttp_request_get_input_buffer(req);
    c->body_len = evbuffer_get_length(body);
    if (c->body_len > 0) {
        c->body = (const char *)evbuffer_pullup(body, -1);
        CHECK(c->body != NULL);
    }
    return c;
}

static void call_free(struct call *c)
{
    if (c->state != NULL) {
        (c->free_state != NULL ? c->free_state : free)(c->state);
        c->state = NULL;
    }
    if (c->query != NULL) {
        evhttp_clear_headers(c->query);
        free(c->query), c->query = NULL;
    }
    json_decref(c->errors), c->errors = NULL;
    c->req = NULL;
    c->magic = 0;
    free(c);
}

const char *call_given_header(const struct call *c, const char *name, unsigned *ret_n)
{
    const char *value = NULL;
    const struct evkeyval *h;
    *ret_n = 0;
    TAILQ_FOREACH(h, evhttp_request_get_input_headers(c->req), next)
    {
        if (strcasecmp(h->key, name) == 0) {
            value = h->value;
            ++*ret_n;
        }
    }
    return value;
}

/* --- answers ---------------------------------------------------------------------------- */

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *reason;
    } rows[] = {{200, "OK"},
                {201, "Created"},
                {202, "Accepted"},
                {204, "No Content"},
                {400, "Bad Request"},
                {401, "Unauthorized"},
                {403, "Forbidden"},
                {404, "Not Found"},
                {405, "Method Not Allowed"},
                {409, "Conflict"},
                {410, "Gone"},
                {413, "Content Too Large"},
                {414, "URI Too Long"},
                {415, "Unsupported Media Type"},
                {422, "Unprocessable Content"},
                {431, "Request Header Fields Too Large"},
                {500, "Internal Server Error"},
                {503, "Service Unavailable"},
                {504, "Gateway Timeout"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        if (rows[i].status == status) {
            return rows[i].reason;
        }
    }
    CHECK(false);
    return "";
}

void call_header(struct call *c, const char *name, const char *value)
{
    CHECK(evhttp_add_header(evhttp_request_get_output_headers(c->req), name, value) == 0);
}

/* evhttp writes a length by itself, but not for HEAD, and none where there is no body. */
static void add_standard_headers(struct call *c, int status, const char *type, size_t len)
{
    call_header(c, "X-Request-Id", c->request_id);
    call_header(c, "Cache-Control", "no-store");
    call_header(c, "X-Content-Type-Options", "nosniff");
    if (type != NULL) {
        call_header(c, "Content-Type", type);
    }
    if (status != 204) {
        char text[24];
        (void)snprintf(text, sizeof(text), "%zu", len);
        call_header(c, "Content-Length", text);
    }
}

void call_reply_text(struct call *c, int status, const char *type, const char *text, size_t len)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    add_standard_headers(c, status, type, len);
    struct evhttp_request *req = c->req;
    if (len > 0 && evhttp_request_get_command(req) != EVHTTP_REQ_HEAD) {
        CHECK(evbuffer_add(evhttp_request_get_output_buffer(req), text, len) == 0);
    }
    c->ended(c->ended_ctx, c, status, len);
    call_free(c);
    evhttp_send_reply(req, status, reason_of(status), NULL); /* last: it may free req */
}

static void reply_json(struct call *c, int status, const char *type, json_t *body)
{
    char *text = json_dumps(body, JSON_COMPACT);
    CHECK(text != NULL);
    const size_t len = strlen(text);
    json_decref(body);
    call_reply_text(c, status, type, text, len);
    mem_free_cleansed(text); /* it may hold a secret that is shown this once */
}

void call_reply(struct call *c, int status, json_t *body)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    if (body == NULL) {
        call_reply_text(c, status, NULL, NULL, 0);
    } else {
        reply_json(c, status, JSON_TYPE, body);
    }
}

/* detail may quote an outsider, and may have been cut in the middle of a character. */
static void reply_problem(struct call *c, enum problem p, const char *detail)
{
    char clean[DETAIL_SIZE];
    json_t *errors = c->errors;
    c->errors = NULL;
    if (problem_status(p) == 503) {
        call_header(c, "Retry-After", RETRY_AFTER_S);
    }
    (void)pgarray_clean_text(detail, strlen(detail), clean, sizeof(clean));
    reply_json(c, problem_status(p), PROBLEM_TYPE, problem_json(p, clean, c->request_id, errors));
}

void call_problem(struct call *c, enum problem p, const char *fmt, ...)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    char detail[DETAIL_SIZE];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(detail, sizeof(detail), fmt, args);
    va_end(args);
    reply_problem(c, p, detail);
}

void call_invalid(struct call *c, enum problem p)
{
    const size_t n = json_array_size(c->errors);
    CHECK(n > 0);
    const char *first = json_string_value(json_object_get(json_array_get(c->errors, 0), "detail"));
    if (n == 1) {
        call_problem(c, p, "%s", first);
    } else {
        call_problem(c, p, "%zu errors; the first: %s", n, first);
    }
}

void call_not_found(struct call *c, const char *what)
{
    call_problem(c, PROBLEM_NOT_FOUND, "there is no such %s", what);
}

/* where and what are cleaned like every detail. */
static void add_error(struct call *c, const char *key, const char *where, const char *what)
{
    char place[DETAIL_SIZE];
    char detail[DETAIL_SIZE];
    (void)pgarray_clean_text(where, strlen(where), place, sizeof(place));
    (void)pgarray_clean_text(what, strlen(what), detail, sizeof(detail));
    if (c->errors == NULL) {
        c->errors = json_array();
    }
    if (json_array_size(c->errors) < ERRORS_MAX) {
        json_t *error = json_pack("{s:s, s:s}", key, place, "detail", detail);
        CHECK(error != NULL && json_array_append_new(c->errors, error) == 0);
    }
}

void call_error_at(struct call *c, const char *pointer, const char *fmt, ...)
{
    char what[DETAIL_SIZE];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    add_error(c, "pointer", pointer, what);
}

void call_error_param(struct call *c, const char *parameter, const char *fmt, ...)
{
    char what[DETAIL_SIZE];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    add_error(c, "parameter", parameter, what);
}

/* --- PostgreSQL ------------------------------------------------------------------------- */

static void unavailable(struct call *c, const char *why)
{
    if (c->has_acted) {
        call_problem(c, PROBLEM_OUTCOME_UNKNOWN,
                     "%s: the request may have been carried out, look before you send it again",
                     why);
    } else {
        call_problem(c, PROBLEM_UNAVAILABLE, "%s", why);
    }
}

static void answered(void *ctx, const struct pg_reply *reply)
{
    struct call *c = ctx;
    CHECK_MAGIC(c, CALL_MAGIC);
    c->has_acted |= c->may_change && (reply->ok || reply->failed < 0);
    if (reply->ok) {
        c->then(c, reply);
        return;
    }
    log_warn("api.query_failed", F_STR("request_id", c->request_id), F_STR("route", c->route->name),
             F_INT("statement", reply->failed), F_ERR(reply->err));
    if (reply->failed < 0) {
        unavailable(c, reply->err->code == ERR_TIMEOUT ? "the database does not answer in time"
                                                       : "the database connection was lost");
    } else if (strcmp(reply->err->sqlstate, CANCELLED_STATE) == 0) {
        unavailable(c, "the database took too long");
    } else if (reply->err->retriable) {
        unavailable(c, "the database cannot answer now");
    } else {
        call_problem(c, PROBLEM_INTERNAL, "the request could not be carried out");
    }
}

static void submit(struct call *c, const struct pg_stmt *stmts, int n, call_rows_fn *then,
                   bool may_change)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    c->then = then;
    c->may_change = may_change;
    if (!store_submit(c->api->store, &c->who.tenant_id, stmts, n, answered, c)) {
        unavailable(c, store_is_up(c->api->store) ? "too many requests wait for the database"
                                                  : "there is no database connection that answers");
    }
}

void call_query(struct call *c, const struct pg_stmt *stmts, int n, call_rows_fn *then)
{
    submit(c, stmts, n, then, c->route->method != EVHTTP_REQ_GET);
}

void call_look(struct call *c, const struct pg_stmt *stmts, int n, call_rows_fn *then)
{
    submit(c, stmts, n, then, false);
}
