/* The operator's HTTP port: /health, /ready and /metrics on the loop of the process, answered at
 * once. Knows neither what ready means (asks its owner) nor what is measured (asks metrics.c).
 * Meant for loopback or a cluster's inside: no TLS, no authentication. */
#include "admin.h"

#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "check.h"
#include "httpd.h"
#include "mem.h"
#include "metrics.h"

#define ADMIN_MAGIC           0x61646d6eu
#define ADMIN_CONNECTIONS_MAX 64
#define TARGET_MAX            1024
#define HEADERS_MAX           8192
#define HEADERS_N             64
#define BODY_MAX              1024
#define IDLE_TIMEOUT_MS       10000
#define REASONS_MAX           4096
#define METRICS_MAX           ((size_t)4 * 1024 * 1024)

struct admin {
    unsigned magic;
    struct httpd *httpd;
    admin_ready_fn *ready;
    void *ctx;
};

/* --- answers ---------------------------------------------------------------------------- */

static void add_header(struct evhttp_request *req, const char *name, const char *value)
{
    CHECK(evhttp_add_header(evhttp_request_get_output_headers(req), name, value) == 0);
}

static void answer(struct evhttp_request *req, int status, const char *reason, const char *type,
                   const struct buf *body)
{
    char len[24];
    int n = evutil_snprintf(len, sizeof(len), "%zu", body->len);
    CHECK(n > 0 && (size_t)n < sizeof(len));
    add_header(req, "Content-Type", type);
    add_header(req, "Content-Length", len);
    add_header(req, "Cache-Control", "no-store");
    add_header(req, "X-Content-Type-Options", "nosniff");
    if (evhttp_request_get_command(req) != EVHTTP_REQ_HEAD) {
        CHECK(evbuffer_add(evhttp_request_get_output_buffer(req), body->data, body->len) == 0);
    }
    evhttp_send_reply(req, status, reason, NULL);
}

static void answer_line(struct evhttp_request *req, int status, const char *reason,
                        const char *line)
{
    struct buf body;
    buf_init(&body, REASONS_MAX);
    buf_add_str(&body, line);
    answer(req, status, reason, "text/plain; charset=utf-8", &body);
    buf_done(&body);
}

static void answer_ready(struct admin *a, struct evhttp_request *req)
{
    struct buf reasons;
    buf_init(&reasons, REASONS_MAX);
    a->ready(a->ctx, &reasons);
    if (reasons.len > 0 || !buf_ok(&reasons)) {
        answer(req, HTTP_SERVUNAVAIL, "Service Unavailable", "text/plain; charset=utf-8", &reasons);
    } else {
        answer_line(req, HTTP_OK, "OK", "ready\n");
    }
    buf_done(&reasons);
}

static void answer_metrics(struct evhttp_request *req)
{
    struct buf page;
    buf_init(&page, METRICS_MAX);
    metrics_render(&page);
    if (buf_ok(&page)) {
        answer(req, HTTP_OK, "OK", "text/plain; version=0.0.4; charset=utf-8", &page);
    } else {
        answer_line(req, HTTP_INTERNAL, "Internal Server Error", "the page is larger than 4 MiB\n");
    }
    buf_done(&page);
}

static void on_request(void *ctx, struct evhttp_request *req)
{
    struct admin *a = ctx;
    CHECK_MAGIC(a, ADMIN_MAGIC);
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri == NULL ? NULL : evhttp_uri_get_path(uri);
    enum evhttp_cmd_type method = evhttp_request_get_command(req);
    if (method != EVHTTP_REQ_GET && method != EVHTTP_REQ_HEAD) {
        add_header(req, "Allow", "GET, HEAD");
        answer_line(req, HTTP_BADMETHOD, "Method Not Allowed", "only GET and HEAD\n");
    } else if (path != NULL && strcmp(path, "/health") == 0) {
        answer_line(req, HTTP_OK, "OK", "ok\n");
    } else if (path != NULL && strcmp(path, "/ready") == 0) {
        answer_ready(a, req);
    } else if (path != NULL && strcmp(path, "/metrics") == 0) {
        answer_metrics(req);
    } else {
        answer_line(req, HTTP_NOTFOUND, "Not Found", "only /health, /ready and /metrics\n");
    }
}

/* --- birth and end ---------------------------------------------------------------------- */

struct admin *admin_new(struct event_base *base, const char *listen, admin_ready_fn *ready,
                        void *ctx, struct err *err)
{
    struct admin *a = mem_zero(1, sizeof(*a));
    a->magic = ADMIN_MAGIC;
    a->ready = ready;
    a->ctx = ctx;
    const struct httpd_config cfg = {.listen = listen,
                                     .connections_max = ADMIN_CONNECTIONS_MAX,
                                     .unread_max = LIMIT_ANSWERS_UNREAD,
                                     .limits = {.target_max = TARGET_MAX,
                                                .headers_max = HEADERS_MAX,
                                                .headers_n = HEADERS_N,
                                                .body_max = BODY_MAX},
                                     .idle_timeout_ms = IDLE_TIMEOUT_MS,
                                     .request_timeout_ms = IDLE_TIMEOUT_MS,
                                     .answer_timeout_ms = IDLE_TIMEOUT_MS};
    a->httpd = httpd_new(base, &cfg, on_request, a, err);
    if (a->httpd == NULL) {
        free(a);
        return NULL;
    }
    return a;
}

unsigned admin_port(const struct admin *a)
{
    return httpd_port(a->httpd);
}

void admin_free(struct admin *a)
{
    if (a == NULL) {
        return;
    }
    CHECK_MAGIC(a, ADMIN_MAGIC);
    httpd_free(a->httpd), a->httpd = NULL;
    a->magic = 0;
    free(a);
}
