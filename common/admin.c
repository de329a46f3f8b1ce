/* The operator's HTTP port: /health, /ready and /metrics on the loop of the process, answered at
 * once. Knows neither what ready means (asks its owner) nor what is measured (asks metrics.c).
 * Meant for loopback or a cluster's inside: no TLS, no authentication. evhttp has no limit of
 * connections of its own, so each one is counted here: at ADMIN_CONNECTIONS_MAX the listener pauses
 * and further clients wait in the kernel's backlog. */
#include "admin.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"
#include "mem.h"
#include "metrics.h"

#define ADMIN_MAGIC           0x61646d6eu
#define ADMIN_CONNECTIONS_MAX 64
#define ADMIN_BACKLOG         64
#define HEADERS_MAX           8192
#define BODY_MAX              1024
#define SWEEP_US              100000L
#define IDLE_TIMEOUT_S        10
#define REASONS_MAX           4096
#define METRICS_MAX           ((size_t)4 * 1024 * 1024)

struct admin {
    unsigned magic;
    struct evhttp *http;
    struct evconnlistener *listener; /* owned by http */
    admin_ready_fn *ready;
    void *ctx;
    unsigned port;
    struct event *sweep; /* only while there are connections */
    unsigned n;
    struct bufferevent *open[ADMIN_CONNECTIONS_MAX]; /* one reference of ours each */
};

static struct admin *admin_of(void *ctx)
{
    struct admin *a = ctx;
    CHECK_MAGIC(a, ADMIN_MAGIC);
    return a;
}

/* --- counting connections
 * ------------------------------------------------------------------------------- */

/* evhttp tells nobody when a connection ends that never sent a request. But bufferevent_free()
 * clears the callback argument, which evhttp never does, and our reference keeps the memory (and,
 * by BEV_OPT_CLOSE_ON_FREE, the descriptor, so that libevent never watches a closed one) until the
 * next sweep has seen it. */
static bool is_closed(struct bufferevent *bev)
{
    void *arg = NULL;
    bufferevent_getcb(bev, NULL, NULL, NULL, &arg);
    return arg == NULL;
}

static void on_sweep(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct admin *a = admin_of(ctx);
    unsigned kept = 0;
    bool was_full = a->n == ADMIN_CONNECTIONS_MAX;
    for (unsigned i = 0; i < a->n; i++) {
        if (is_closed(a->open[i])) {
            bufferevent_decref(a->open[i]);
        } else {
            a->open[kept++] = a->open[i];
        }
    }
    a->n = kept;
    if (was_full && kept < ADMIN_CONNECTIONS_MAX) {
        CHECK(evconnlistener_enable(a->listener) == 0);
    }
    if (kept == 0) {
        (void)event_del(a->sweep); /* a process that nobody asks sleeps */
    }
}

/* evhttp asks here for the bufferevent of each connection that it has accepted. */
static struct bufferevent *on_accept(struct event_base *base, void *ctx)
{
    struct admin *a = admin_of(ctx);
    CHECK(a->n < ADMIN_CONNECTIONS_MAX);
    struct bufferevent *bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
    CHECK(bev != NULL);
    bufferevent_incref(bev);
    a->open[a->n++] = bev;
    if (a->n == 1) {
        const struct timeval tv = {.tv_usec = SWEEP_US};
        CHECK(event_add(a->sweep, &tv) == 0);
    }
    if (a->n == ADMIN_CONNECTIONS_MAX) {
        CHECK(evconnlistener_disable(a->listener) == 0);
    }
    return bev;
}

/* --- answers
 * -------------------------------------------------------------------------------------------- */

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

static void on_request(struct evhttp_request *req, void *ctx)
{
    struct admin *a = admin_of(ctx);
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

/* --- birth and end
 * -------------------------------------------------------------------------------------- */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* libevent's own parser refuses port 0. */
static bool parse_address(const char *text, union address *ret)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    size_t len = colon == NULL ? sizeof(host) : (size_t)(colon - text);
    bool v6 = text[0] == '[';
    size_t brackets = v6 ? 1 : 0;
    if (len >= sizeof(host) || len < 1 + 2 * brackets || (v6 && colon[-1] != ']')) {
        return false;
    }
    memcpy(host, text + brackets, len - 2 * brackets);
    host[len - 2 * brackets] = '\0';
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || port > UINT16_MAX) {
        return false;
    }
    *ret = (union address){.v6 = {0}};
    if (v6) {
        ret->v6.sin6_family = AF_INET6;
        ret->v6.sin6_port = htons((uint16_t)port);
        return evutil_inet_pton(AF_INET6, host, &ret->v6.sin6_addr) == 1;
    }
    ret->v4.sin_family = AF_INET;
    ret->v4.sin_port = htons((uint16_t)port);
    return evutil_inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1;
}

static struct evconnlistener *listen_on(struct event_base *base, const char *listen,
                                        struct err *err)
{
    union address addr;
    if (!parse_address(listen, &addr)) {
        (void)err_set(err, ERR_INVALID, "\"%.80s\" is not address:port or [address]:port", listen);
        return NULL;
    }
    /* The callback is set by evhttp. */
    struct evconnlistener *listener = evconnlistener_new_bind(
        base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE,
        ADMIN_BACKLOG, &addr.any,
        addr.any.sa_family == AF_INET6 ? sizeof(addr.v6) : sizeof(addr.v4));
    if (listener == NULL) {
        (void)err_set(err, ERR_IO, "cannot listen on %.80s: %s", listen,
                      evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR()));
    }
    return listener;
}

static unsigned bound_port(evutil_socket_t fd)
{
    union address addr = {.v6 = {0}};
    socklen_t len = sizeof(addr);
    CHECK(getsockname(fd, &addr.any, &len) == 0);
    return ntohs(addr.any.sa_family == AF_INET6 ? addr.v6.sin6_port : addr.v4.sin_port);
}

struct admin *admin_new(struct event_base *base, const char *listen, admin_ready_fn *ready,
                        void *ctx, struct err *err)
{
    struct evconnlistener *listener = listen_on(base, listen, err);
    if (listener == NULL) {
        return NULL;
    }
    struct admin *a = mem_zero(1, sizeof(*a));
    a->magic = ADMIN_MAGIC;
    a->ready = ready;
    a->ctx = ctx;
    a->listener = listener;
    a->port = bound_port(evconnlistener_get_fd(listener));
    a->http = evhttp_new(base);
    a->sweep = event_new(base, -1, EV_PERSIST, on_sweep, a);
    CHECK(a->sweep != NULL && a->http != NULL);
    evhttp_set_max_headers_size(a->http, HEADERS_MAX);
    evhttp_set_max_body_size(a->http, BODY_MAX);
    evhttp_set_timeout(a->http, IDLE_TIMEOUT_S);
    /* All that evhttp can read: it would answer 501 to the others, and we answer 405. */
    evhttp_set_allowed_methods(a->http, UINT16_MAX);
    evhttp_set_default_content_type(a->http, NULL);
    evhttp_set_bevcb(a->http, on_accept, a);
    evhttp_set_gencb(a->http, on_request, a);
    CHECK(evhttp_bind_listener(a->http, listener) != NULL);
    return a;
}

unsigned admin_port(const struct admin *a)
{
    return a->port;
}

void admin_free(struct admin *a)
{
    if (a == NULL) {
        return;
    }
    CHECK_MAGIC(a, ADMIN_MAGIC);
    evhttp_free(a->http), a->http = NULL; /* and with it the listener and the connections */
    event_free(a->sweep), a->sweep = NULL;
    for (unsigned i = 0; i < a->n; i++) {
        bufferevent_decref(a->open[i]);
    }
    a->magic = 0;
    free(a);
}
