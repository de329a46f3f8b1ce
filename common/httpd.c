/* Owns the listener, what is known of each connection, and the refusal of what is not well-formed;
 * evhttp owns the connections themselves and the protocol. Knows no path and no content. Used by
 * admin.c and by the API's server. */
#include "httpd.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http_struct.h>
#include <event2/listener.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "check.h"
#include "clock.h"
#include "listener.h"
#include "mem.h"

#define HTTPD_MAGIC        0x48545044u
#define CONN_MAGIC         0x48434f4eu
#define SWEEP_US           100000L
#define SPARED_US          1000000 /* a client that has just come may be about to ask */
#define LINGER_US          2000000 /* for a client to read why it was refused */
#define DESCRIPTORS_SPARED 128     /* for everything else that the process has open */
#define LINE_SLACK         64      /* of a first line beside its address: method, version, blanks */

enum conn_state { CONN_IDLE, CONN_RECEIVING, CONN_BUSY, CONN_ANSWERING, CONN_REFUSED };

struct conn {
    unsigned magic;
    struct httpd *httpd;
    enum conn_state state;
    int64_t since_mono_us;
    struct frame frame;         /* of the request that is being received */
    size_t beyond;              /* bytes received after its end */
    struct evhttp_request *req; /* while BUSY: evhttp has it and waits for its answer */
    struct bufferevent *bev;    /* one reference of ours */
    bool told;                  /* shut down by us: evhttp sees the end and frees it */
    size_t unread;              /* bytes of its answer in memory; 0 once it is told */
    int64_t moved_mono_us;      /* when that changed */
    TAILQ_ENTRY(conn) link;
};

TAILQ_HEAD(conn_list, conn);

struct httpd {
    unsigned magic;
    struct httpd_config cfg;
    httpd_fn *fn;
    void *ctx;
    struct evhttp *http;
    struct evhttp_bound_socket *bound; /* with the listener owned by http; NULL once it drains */
    struct evconnlistener *listener;
    unsigned port;
    bool paused;
    bool draining;
    struct event *sweep; /* only while there are connections */
    unsigned n;
    size_t unread;
    struct conn_list conns; /* the longest in their state first */
};

static struct httpd *httpd_of(void *ctx)
{
    struct httpd *h = ctx;
    CHECK_MAGIC(h, HTTPD_MAGIC);
    return h;
}

/* --- connections ------------------------------------------------------------------------ */

static void set_state(struct conn *c, enum conn_state state)
{
    c->state = state;
    c->since_mono_us = clock_mono_us();
    TAILQ_REMOVE(&c->httpd->conns, c, link);
    TAILQ_INSERT_TAIL(&c->httpd->conns, c, link);
}

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

static void set_unread(struct conn *c, size_t bytes)
{
    c->httpd->unread += bytes - c->unread;
    c->unread = bytes;
}

/* The end that evhttp then reads is what closes it: nothing of evhttp's is touched from outside. */
static void tell_to_go(struct conn *c)
{
    if (!c->told) {
        c->told = true;
        set_unread(c, 0);
        (void)shutdown(bufferevent_getfd(c->bev), SHUT_RDWR); /* an error: it is gone already */
    }
}

static void forget(struct httpd *h, struct conn *c)
{
    TAILQ_REMOVE(&h->conns, c, link);
    h->n--;
    set_unread(c, 0);
    bufferevent_decref(c->bev);
    c->bev = NULL;
    c->magic = 0;
    mem_free_cleansed(c); /* it holds headers of a request */
}

/* A first line and headers at their largest. */
static size_t head_max(const struct frame_limits *limits)
{
    return limits->target_max + limits->headers_max + LINE_SLACK;
}

static struct evbuffer *input_of(const struct conn *c)
{
    return bufferevent_get_input(c->bev);
}

static void drop_input(const struct conn *c)
{
    CHECK(evbuffer_drain(input_of(c), evbuffer_get_length(input_of(c))) == 0);
}

/* --- refusals --------------------------------------------------------------------------- */

static const char *reason_of(int status)
{
    switch (status) {
    case 413:
        return "Content Too Large";
    case 414:
        return "URI Too Long";
    case 431:
        return "Request Header Fields Too Large";
    default:
        return "Bad Request";
    }
}

static void plain_refusal(void *ctx, enum frame_fault fault, struct buf *headers, struct buf *body)
{
    (void)ctx;
    buf_add_str(headers, "Content-Type: text/plain\r\n");
    buf_add_fmt(body, "%s\n", frame_text(fault));
}

/* evhttp is still waiting for this request and has nothing to say: the answer goes past it. What
 * the socket does not take at once is lost; a client that reads no answers needs none. */
static void refuse(struct conn *c, enum frame_fault fault)
{
    struct httpd *h = c->httpd;
    const int status = frame_status(fault);
    struct buf headers;
    struct buf body;
    struct buf answer;
    buf_init(&headers, HTTPD_REFUSAL_MAX);
    buf_init(&body, HTTPD_REFUSAL_MAX);
    buf_init(&answer, 3 * (size_t)HTTPD_REFUSAL_MAX);
    (h->cfg.refusal != NULL ? h->cfg.refusal : plain_refusal)(h->ctx, fault, &headers, &body);
    buf_add_fmt(&answer, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: %zu\r\n", status,
                reason_of(status), body.len);
    buf_add(&answer, headers.data, headers.len);
    buf_add_str(&answer, "\r\n");
    buf_add(&answer, body.data, body.len);
    CHECK(buf_ok(&headers) && buf_ok(&body) && buf_ok(&answer));
    const evutil_socket_t fd = bufferevent_getfd(c->bev);
    (void)send(fd, answer.data, answer.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)shutdown(fd, SHUT_WR);
    buf_done(&headers);
    buf_done(&body);
    buf_done(&answer);
    set_state(c, CONN_REFUSED);
    drop_input(c);
}

/* --- requests as they come in ----------------------------------------------------------- */

/* The last n bytes of the input are new. Runs before evhttp reads them. */
static void read_ahead(struct conn *c, size_t n)
{
    struct evbuffer *input = input_of(c);
    struct evbuffer_ptr at;
    CHECK(evbuffer_ptr_set(input, &at, evbuffer_get_length(input) - n, EVBUFFER_PTR_SET) == 0);
    while (n > 0 && !c->frame.done) {
        struct evbuffer_iovec piece;
        CHECK(evbuffer_peek(input, (ev_ssize_t)n, &at, &piece, 1) >= 1);
        const size_t len = piece.iov_len < n ? piece.iov_len : n;
        const size_t took = frame_feed(&c->frame, &c->httpd->cfg.limits, piece.iov_base, len);
        if (c->frame.fault != FRAME_GOOD) {
            refuse(c, c->frame.fault);
            return;
        }
        n -= took;
        (void)evbuffer_ptr_set(input, &at, took, EVBUFFER_PTR_ADD); /* fails at the very end */
    }
    c->beyond += n;
}

static void on_input(struct evbuffer *input, const struct evbuffer_cb_info *info, void *ctx)
{
    struct conn *c = ctx;
    (void)input;
    CHECK_MAGIC(c, CONN_MAGIC);
    if (info->n_added == 0) {
        return;
    }
    if (is_closed(c->bev)) { /* until the sweep forgets it, its memory goes on reading */
        drop_input(c);
        return;
    }
    switch (c->state) {
    case CONN_IDLE:
        set_state(c, CONN_RECEIVING);
        read_ahead(c, info->n_added);
        break;
    case CONN_RECEIVING:
        read_ahead(c, info->n_added);
        break;
    case CONN_BUSY:
    case CONN_ANSWERING:
        break; /* its turn comes when the answer is written */
    case CONN_REFUSED:
        drop_input(c);
        break;
    }
}

/* Bytes times the time for which they have not become fewer: a large answer that nobody takes gives
 * way before one that is just being made, and a small one that waits for its turn stays. */
static double burden(const struct conn *c, int64_t now)
{
    return (double)c->unread * (double)(now - c->moved_mono_us + 1);
}

static void drop_unread(struct httpd *h)
{
    const int64_t now = clock_mono_us();
    while (h->unread > h->cfg.unread_max) {
        struct conn *worst = TAILQ_FIRST(&h->conns);
        struct conn *c;
        CHECK(worst != NULL); /* whose bytes would they be? */
        TAILQ_FOREACH(c, &h->conns, link)
        {
            if (burden(c, now) > burden(worst, now)) {
                worst = c;
            }
        }
        tell_to_go(worst);
    }
}

static void count_unread(struct conn *c, size_t bytes)
{
    if (!c->told) {
        set_unread(c, bytes);
        c->moved_mono_us = clock_mono_us();
        drop_unread(c->httpd);
    }
}

/* evhttp writes when it is given an answer ("100 Continue" comes while receiving). It reads
 * meanwhile, and takes the end of a client that has nothing more to ask for that of the connection:
 * after the first bytes of an answer that takes longer it is stopped, until the next request. */
static void on_output(struct evbuffer *output, const struct evbuffer_cb_info *info, void *ctx)
{
    struct conn *c = ctx;
    CHECK_MAGIC(c, CONN_MAGIC);
    count_unread(c, evbuffer_get_length(output));
    if (info->n_added > 0 && c->state == CONN_BUSY) {
        c->req = NULL;
        set_state(c, CONN_ANSWERING);
    } else if (info->n_deleted > 0 && c->state == CONN_ANSWERING &&
               evbuffer_get_length(output) > 0) {
        CHECK(bufferevent_disable(c->bev, EV_READ) == 0);
    }
}

static void await_request(struct conn *c)
{
    frame_begin(&c->frame);
    c->beyond = 0;
    const size_t n = evbuffer_get_length(input_of(c)); /* pipelined */
    set_state(c, n > 0 ? CONN_RECEIVING : CONN_IDLE);
    if (n > 0) {
        read_ahead(c, n);
    }
}

/* --- the cap and the deadlines ---------------------------------------------------------- */

static void pause_when_full(struct httpd *h)
{
    if (h->n >= h->cfg.connections_max && !h->paused && h->listener != NULL) {
        h->paused = true;
        CHECK(evconnlistener_disable(h->listener) == 0);
    }
}

/* While it is full: a part of the connections at a time, so that clients who only wait cannot keep
 * out those who have something to ask. */
static void make_room(struct httpd *h, int64_t now)
{
    unsigned left = h->cfg.connections_max / 16 + 1;
    struct conn *c;
    TAILQ_FOREACH(c, &h->conns, link)
    {
        if (left == 0 || now - c->since_mono_us < SPARED_US) {
            return;
        }
        if (c->state == CONN_IDLE && !c->told) {
            tell_to_go(c);
            left--;
        }
    }
}

static void resume_when_room(struct httpd *h)
{
    if (h->paused && h->listener != NULL && h->n < h->cfg.connections_max) {
        h->paused = false;
        CHECK(evconnlistener_enable(h->listener) == 0);
    }
}

static bool is_overdue(const struct httpd *h, const struct conn *c, int64_t now)
{
    switch (c->state) {
    case CONN_IDLE:
        return h->draining || now - c->since_mono_us >= h->cfg.idle_timeout_ms * 1000;
    case CONN_RECEIVING:
        return now - c->since_mono_us >= h->cfg.request_timeout_ms * 1000;
    case CONN_BUSY:
        return false; /* its handler has deadlines of its own */
    case CONN_ANSWERING:
        return now - c->since_mono_us >= h->cfg.answer_timeout_ms * 1000;
    case CONN_REFUSED:
        return now - c->since_mono_us >= LINGER_US;
    }
    return false;
}

static void on_sweep(evutil_socket_t fd, short what, void *ctx)
{
    struct httpd *h = httpd_of(ctx);
    (void)fd;
    (void)what;
    const int64_t now = clock_mono_us();
    if (h->paused) {
        make_room(h, now);
    }
    struct conn *next;
    for (struct conn *c = TAILQ_FIRST(&h->conns); c != NULL; c = next) {
        next = TAILQ_NEXT(c, link);
        if (is_closed(c->bev)) {
            forget(h, c);
        } else if (is_overdue(h, c, now)) {
            tell_to_go(c);
        }
    }
    resume_when_room(h);
    if (h->n == 0) {
        (void)event_del(h->sweep); /* a process that nobody asks sleeps */
    }
}

/* evhttp asks here for the bufferevent of each connection that it has accepted. */
static struct bufferevent *on_accept(struct event_base *base, void *ctx)
{
    struct httpd *h = httpd_of(ctx);
    struct conn *c = mem_zero(1, sizeof(*c));
    c->magic = CONN_MAGIC;
    c->httpd = h;
    c->bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
    CHECK(c->bev != NULL);
    bufferevent_incref(c->bev);
    CHECK(evbuffer_add_cb(input_of(c), on_input, c) != NULL &&
          evbuffer_add_cb(bufferevent_get_output(c->bev), on_output, c) != NULL);
    /* evhttp reads on while it writes an answer. More than this no request needs at a time. */
    bufferevent_setwatermark(c->bev, EV_READ, 0, head_max(&h->cfg.limits) + h->cfg.limits.body_max);
    TAILQ_INSERT_TAIL(&h->conns, c, link);
    await_request(c);
    h->n++;
    if (h->n == 1) {
        const struct timeval tv = {.tv_usec = SWEEP_US};
        CHECK(event_add(h->sweep, &tv) == 0);
    }
    pause_when_full(h);
    return c->bev;
}

/* --- requests --------------------------------------------------------------------------- */

static struct conn *conn_of(struct httpd *h, struct evhttp_request *req)
{
    const struct bufferevent *bev =
        evhttp_connection_get_bufferevent(evhttp_request_get_connection(req));
    struct conn *c;
    TAILQ_FOREACH_REVERSE(c, &h->conns, conn_list, link)
    {
        if (c->bev == bev) {
            break;
        }
    }
    return c;
}

static const char *connection_header(const struct evkeyvalq *headers)
{
    const char *value = evhttp_find_header(headers, "Connection");
    return value != NULL ? value : "";
}

/* As evhttp is about to decide, to the letter: "keep-alive" may go on, "close" may not. */
static bool will_close(const struct evhttp_request *req)
{
    static const char keep[] = "keep-alive";
    const char *asked = connection_header(req->input_headers);
    return strcasecmp(connection_header(req->output_headers), "close") == 0 ||
           strcasecmp(asked, "close") == 0 ||
           (req->minor == 0 && strncasecmp(asked, keep, sizeof(keep) - 1) != 0);
}

/* The answer is written. */
static void on_answered(struct evhttp_request *req, void *ctx)
{
    struct conn *c = ctx;
    CHECK_MAGIC(c, CONN_MAGIC);
    if (will_close(req)) {
        drop_input(c); /* what followed is nobody's business any more */
    }
    await_request(c);
}

static void close_afterwards(struct evhttp_request *req)
{
    CHECK(evhttp_add_header(evhttp_request_get_output_headers(req), "Connection", "close") == 0);
}

static void on_request(struct evhttp_request *req, void *ctx)
{
    struct httpd *h = httpd_of(ctx);
    struct conn *c = conn_of(h, req);
    CHECK(c != NULL); /* it is forgotten only after evhttp has let go of it */
    const bool agreed = c->frame.done && evbuffer_get_length(input_of(c)) == c->beyond;
    set_state(c, CONN_BUSY);
    if (!agreed) {                                     /* no input is known that gets here */
        evhttp_send_error(req, HTTP_BADREQUEST, NULL); /* and closes */
        return;
    }
    evhttp_request_set_on_complete_cb(req, on_answered, c);
    c->req = req;
    if (h->draining) {
        close_afterwards(req);
    }
    h->fn(h->ctx, req);
}

/* --- birth and end ---------------------------------------------------------------------- */

/* With no descriptor left the loop would do nothing but fail to accept. */
static unsigned affordable(unsigned connections)
{
    struct rlimit lim;
    CHECK(getrlimit(RLIMIT_NOFILE, &lim) == 0);
    const rlim_t most = lim.rlim_cur > 2 * (rlim_t)DESCRIPTORS_SPARED
                            ? lim.rlim_cur - DESCRIPTORS_SPARED
                            : DESCRIPTORS_SPARED;
    return connections < most ? connections : (unsigned)most;
}

struct httpd *httpd_new(struct event_base *base, const struct httpd_config *cfg, httpd_fn *fn,
                        void *ctx, struct err *err)
{
    struct evconnlistener *listener = listener_new(base, cfg->listen, err);
    if (listener == NULL) {
        return NULL;
    }
    struct httpd *h = mem_zero(1, sizeof(*h));
    h->magic = HTTPD_MAGIC;
    h->cfg = *cfg;
    h->cfg.listen = NULL; /* borrowed for this call */
    h->cfg.connections_max = affordable(cfg->connections_max);
    h->fn = fn;
    h->ctx = ctx;
    h->listener = listener;
    h->port = listener_port(listener);
    TAILQ_INIT(&h->conns);
    h->http = evhttp_new(base);
    h->sweep = event_new(base, -1, EV_PERSIST, on_sweep, h);
    CHECK(h->sweep != NULL && h->http != NULL);
    /* Never reached: the frame is in front. */
    evhttp_set_max_headers_size(h->http, (ev_ssize_t)head_max(&cfg->limits));
    evhttp_set_max_body_size(h->http, (ev_ssize_t)cfg->limits.body_max);
    /* All that evhttp can read: it would answer 501 to the others, and the handler answers 405. */
    evhttp_set_allowed_methods(h->http, UINT16_MAX);
    evhttp_set_default_content_type(h->http, NULL);
    evhttp_set_bevcb(h->http, on_accept, h);
    evhttp_set_gencb(h->http, on_request, h);
    h->bound = evhttp_bind_listener(h->http, listener);
    CHECK(h->bound != NULL);
    return h;
}

unsigned httpd_port(const struct httpd *h)
{
    return h->port;
}

unsigned httpd_connections(const struct httpd *h)
{
    return h->n;
}

void httpd_drain(struct httpd *h)
{
    CHECK_MAGIC(h, HTTPD_MAGIC);
    struct conn *c;
    TAILQ_FOREACH(c, &h->conns, link)
    {
        if (!h->draining && c->req != NULL && !is_closed(c->bev)) {
            close_afterwards(c->req);
        }
    }
    h->draining = true;
    if (h->bound != NULL) {
        evhttp_del_accept_socket(h->http, h->bound), h->bound = NULL;
        h->listener = NULL;
        h->paused = false;
    }
}

bool httpd_is_draining(const struct httpd *h)
{
    return h->draining;
}

void httpd_free(struct httpd *h)
{
    if (h == NULL) {
        return;
    }
    CHECK_MAGIC(h, HTTPD_MAGIC);
    evhttp_free(h->http), h->http = NULL; /* and with it the listener and the connections */
    event_free(h->sweep), h->sweep = NULL;
    struct conn *next;
    for (struct conn *c = TAILQ_FIRST(&h->conns); c != NULL; c = next) {
        next = TAILQ_NEXT(c, link);
        forget(h, c);
    }
    h->magic = 0;
    free(h);
}
