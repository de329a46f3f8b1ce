/* Owns the way of a request up to its handler, its log line and the metrics of requests. Knows the
 * order screen -> router -> auth -> handler and nothing of what they do. service.c starts it. */
#include "server.h"

#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>

#include "auth.h"
#include "bounds.h"
#include "call.h"
#include "check.h"
#include "clock.h"
#include "httpd.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"
#include "query.h"
#include "router.h"
#include "screen.h"

#define SERVER_MAGIC      0x53525652u
#define ANSWER_TIMEOUT_MS 30000 /* for a client to take it */
#define CLASSES           4     /* 2xx … 5xx */
#define LABELS_SIZE       80

struct server {
    unsigned magic;
    const struct api *api;
    struct httpd *httpd;
    unsigned calls;
    struct counter *(*requests)[CLASSES]; /* of each route, and of no route at the end */
    struct histogram **seconds;           /* the same rows */
};

/* --- the end of a call ------------------------------------------------------------------ */

static const char *method_name(struct evhttp_request *req)
{
    static const struct {
        enum evhttp_cmd_type method;
        const char *name;
    } rows[] = {{EVHTTP_REQ_GET, "GET"},        {EVHTTP_REQ_HEAD, "HEAD"},
                {EVHTTP_REQ_POST, "POST"},      {EVHTTP_REQ_PATCH, "PATCH"},
                {EVHTTP_REQ_PUT, "PUT"},        {EVHTTP_REQ_DELETE, "DELETE"},
                {EVHTTP_REQ_OPTIONS, "OPTIONS"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        if (rows[i].method == evhttp_request_get_command(req)) {
            return rows[i].name;
        }
    }
    return "other";
}

/* Never the address: its query can hold anything. The route and the ids say what was asked. */
static void log_call(const struct call *c, int status, int64_t took_us, size_t bytes)
{
    static const char *const kinds[] = {"nobody", "jwt", "api_key"};
    const bool known = c->who.kind != PRINCIPAL_NOBODY;
    const bool has_id = c->route != NULL && strstr(c->route->path, "{}") != NULL;
    const enum log_level level = status >= 500 ? LOG_LEVEL_WARN : LOG_LEVEL_INFO;
    LOG_AT_(level, "api.request", F_STR("request_id", c->request_id),
            F_STR("route", c->route != NULL ? c->route->name : NULL),
            F_STR("method", method_name(c->req)), F_INT("status", status), F_MS("took_ms", took_us),
            F_INT("bytes", bytes), F_STR("auth", kinds[c->who.kind]),
            known ? F_UUID("tenant", &c->who.tenant_id) : F_STR("tenant", NULL),
            has_id ? F_UUID("webhook", &c->ids[0]) : F_STR("webhook", NULL),
            c->who.kind == PRINCIPAL_API_KEY ? F_UUID("key", &c->who.key_id) : F_STR("key", NULL));
}

static void call_ended(void *ctx, const struct call *c, int status, size_t bytes)
{
    struct server *s = ctx;
    CHECK_MAGIC(s, SERVER_MAGIC);
    const int64_t took_us = clock_mono_us() - c->began_mono_us;
    const size_t row = c->route != NULL ? (size_t)(c->route - routes) : routes_n;
    CHECK(s->calls > 0 && status >= 200 && status <= 599);
    s->calls--;
    s->requests[row][status / 100 - 2]->value++;
    histogram_observe(s->seconds[row], (double)took_us / 1e6);
    log_call(c, status, took_us, bytes);
}

/* --- the way to the handler ------------------------------------------------------------- */

/* False: answered. Not before the caller is known: strangers learn nothing from their mistakes. */
static bool parse_query(struct call *c)
{
    const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(c->req));
    c->query = mem_zero(1, sizeof(*c->query));
    TAILQ_INIT(c->query);
    if (query != NULL && *query != '\0' && evhttp_parse_query_str(query, c->query) != 0) {
        call_error_param(c, "", "the query cannot be read: name=value pairs joined by &");
    }
    return query_ok(c);
}

/* The name, and at most a charset that can only be UTF-8. */
static bool is_type(const char *type, const char *name)
{
    const size_t len = strlen(name);
    if (type == NULL || strncasecmp(type, name, len) != 0) {
        return false;
    }
    const char *rest = type + len + strspn(type + len, " \t");
    if (*rest != ';') {
        return *rest == '\0';
    }
    rest++;
    rest += strspn(rest, " \t");
    return strcasecmp(rest, "charset=utf-8") == 0 || strcasecmp(rest, "charset=\"utf-8\"") == 0;
}

/* A merge patch is what PATCH takes, and nothing else does. */
static bool is_json_type(const struct route *route, const char *type)
{
    return is_type(type, "application/json") ||
           (route->method == EVHTTP_REQ_PATCH && is_type(type, "application/merge-patch+json"));
}

/* False: answered. */
static bool check_body(struct call *c)
{
    const struct evkeyvalq *headers = evhttp_request_get_input_headers(c->req);
    if (c->route->body == BODY_NONE) {
        if (c->body_len == 0) {
            return true;
        }
        call_problem(c, PROBLEM_BAD_REQUEST, "this request takes no body");
        return false;
    }
    if (c->body_len == 0) {
        if (c->route->body == BODY_OPTIONAL) {
            return true;
        }
        call_problem(c, PROBLEM_BAD_REQUEST, "the body is missing: a JSON object");
        return false;
    }
    if (!is_json_type(c->route, evhttp_find_header(headers, "Content-Type"))) {
        call_problem(c, PROBLEM_UNSUPPORTED_MEDIA_TYPE,
                     "Content-Type must be application/json (UTF-8)");
        return false;
    }
    return true;
}

/* auth -> handler */
static void on_authenticated(struct call *c)
{
    if (parse_query(c) && check_body(c)) {
        c->route->handle(c);
    }
}

static void route_call(struct call *c)
{
    char allow[ROUTER_ALLOW_SIZE];
    const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(c->req));
    c->route =
        router_find(evhttp_request_get_command(c->req), path != NULL ? path : "", c->ids, allow);
    if (c->route == NULL && allow[0] == '\0') {
        call_problem(c, PROBLEM_NOT_FOUND, "there is nothing at this path");
    } else if (c->route == NULL) {
        call_header(c, "Allow", allow);
        call_problem(c, PROBLEM_METHOD_NOT_ALLOWED, "this path takes %s", allow);
    } else {
        auth_check(c, on_authenticated);
    }
}

static void on_request(void *ctx, struct evhttp_request *req)
{
    struct server *s = ctx;
    CHECK_MAGIC(s, SERVER_MAGIC);
    struct call *c = call_new(s->api, req);
    c->ended = call_ended;
    c->ended_ctx = s;
    s->calls++;
    route_call(c);
}

/* No call comes of it, but it is told, logged and counted like one. */
static void on_refusal(void *ctx, enum frame_fault fault, struct buf *headers, struct buf *body)
{
    struct server *s = ctx;
    CHECK_MAGIC(s, SERVER_MAGIC);
    char request_id[UUID_TEXT + 1];
    const struct uuid id = uuid_v4();
    uuid_format(&id, request_id);
    const enum problem problem = screen_problem(fault);
    json_t *json = problem_json(problem, screen_detail(fault), request_id, NULL);
    char *text = json_dumps(json, JSON_COMPACT);
    CHECK(text != NULL);
    buf_add_fmt(headers, "Content-Type: application/problem+json\r\nCache-Control: no-store\r\n");
    buf_add_fmt(headers, "X-Content-Type-Options: nosniff\r\nX-Request-Id: %s\r\n", request_id);
    buf_add_str(body, text);
    free(text);
    json_decref(json);
    s->requests[routes_n][problem_status(problem) / 100 - 2]->value++;
    log_info("api.request_refused", F_STR("request_id", request_id),
             F_INT("status", problem_status(problem)), F_STR("why", screen_detail(fault)));
}

/* --- birth and end ---------------------------------------------------------------------- */

static void register_metrics(struct server *s)
{
    static const char *const classes[CLASSES] = {"2xx", "3xx", "4xx", "5xx"};
    s->requests = mem_zero(routes_n + 1, sizeof(*s->requests));
    s->seconds = mem_zero(routes_n + 1, sizeof(struct histogram *));
    char label[LABELS_SIZE];
    for (unsigned r = 0; r <= routes_n; r++) {
        const char *name = r < routes_n ? routes[r].name : "none";
        for (int k = 0; k < CLASSES; k++) {
            (void)snprintf(label, sizeof(label), "route=\"%s\",status=\"%s\"", name, classes[k]);
            s->requests[r][k] = metrics_counter("nrw_api_requests_total", label,
                                                "requests by route and class of status");
        }
        (void)snprintf(label, sizeof(label), "route=\"%s\"", name);
        s->seconds[r] = metrics_histogram("nrw_api_request_seconds", label,
                                          "from a whole request to its answer, by route",
                                          metrics_seconds_bounds, metrics_seconds_bounds_n);
    }
}

static double connections(void *ctx)
{
    return httpd_connections(((struct server *)ctx)->httpd);
}

static double calls_open(void *ctx)
{
    return ((struct server *)ctx)->calls;
}

struct server *server_new(const struct api *api, struct err *err)
{
    struct server *s = mem_zero(1, sizeof(*s));
    s->magic = SERVER_MAGIC;
    s->api = api;
    const struct httpd_config cfg = {.listen = api->cfg->api_listen,
                                     .connections_max = (unsigned)api->cfg->api_connections,
                                     .unread_max = LIMIT_ANSWERS_UNREAD,
                                     .limits = screen_limits,
                                     .refusal = on_refusal,
                                     .idle_timeout_ms = api->cfg->api_idle_timeout,
                                     .request_timeout_ms = api->cfg->api_request_timeout,
                                     .answer_timeout_ms = ANSWER_TIMEOUT_MS};
    s->httpd = httpd_new(api->base, &cfg, on_request, s, err);
    if (s->httpd == NULL) {
        free(s);
        return NULL;
    }
    register_metrics(s);
    metrics_gauge_fn("nrw_api_connections", NULL, "client connections", connections, s);
    metrics_gauge_fn("nrw_api_requests_open", NULL, "requests without an answer", calls_open, s);
    return s;
}

unsigned server_port(const struct server *s)
{
    return httpd_port(s->httpd);
}

unsigned server_calls(const struct server *s)
{
    return s->calls;
}

bool server_is_idle(const struct server *s)
{
    return s->calls == 0 && httpd_connections(s->httpd) == 0;
}

void server_drain(struct server *s)
{
    CHECK_MAGIC(s, SERVER_MAGIC);
    httpd_drain(s->httpd);
}

void server_free(struct server *s)
{
    if (s == NULL) {
        return;
    }
    CHECK_MAGIC(s, SERVER_MAGIC);
    CHECK(s->calls == 0);
    httpd_free(s->httpd), s->httpd = NULL;
    free(s->requests), s->requests = NULL;
    free(s->seconds), s->seconds = NULL;
    s->magic = 0;
    free(s);
}
