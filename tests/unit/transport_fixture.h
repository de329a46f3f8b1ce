/* For test_transport*.c: a transport, a receiver that misbehaves as told, both on one loop, and the
 * result of the last request. Everything is static: each test program is one translation unit. */
#ifndef NRW_TRANSPORT_FIXTURE_H
#define NRW_TRANSPORT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs those first */
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "endpoint.h"
#include "mem.h"
#include "netguard.h"
#include "transport.h"
#include "transport_internal.h"

enum behaviour {
    ANSWER,       /* server.reply, connection kept                      */
    ANSWER_CLOSE, /* server.reply, then close                           */
    HANG,         /* nothing, ever                                      */
    LORIS,        /* server.reply, one byte in 20 ms                    */
    RESET,        /* RST instead of an answer                           */
    ENDLESS,      /* server.reply, then server.again for ever           */
    CLOSE_SECOND, /* answers the first request of a connection, closes at the second */
};

#define PEER_BYTES (1200 * 1024)

struct peer {
    struct server *server;
    struct event *event;
    struct event *drip;
    int fd;
    unsigned requests;
    size_t len, sent;
    char in[PEER_BYTES];
};

#define PEERS_MAX 64

struct server {
    struct event_base *base;
    struct evconnlistener *listener;
    unsigned port;
    enum behaviour behaviour;
    const char *reply, *again;
    unsigned connections, requests;
    struct peer *peers[PEERS_MAX];
    char last[PEER_BYTES]; /* the last request, headers and body */
    size_t last_len;
};

struct fixture {
    struct event_base *base;
    struct event *tick;
    struct netguard *guard;
    struct transport *t;
    struct server server;
    bool late;
    bool inside_send;
    unsigned results;
    struct transport_result result; /* of the last one; the texts are copied */
    char headers[LIMIT_RESPONSE_HEADERS_KEPT + 1], body[LIMIT_RESPONSE_KEPT + 1];
};

#define OK_REPLY "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Name: value\r\n\r\nok"

/* libcurl must never resolve: this one stands in front of libc's. */
static unsigned lookups;
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **ret)
{
    (void)name;
    (void)service;
    (void)hints;
    (void)ret;
    lookups++;
    return EAI_FAIL;
}

static void peer_close(struct peer *p)
{
    for (unsigned i = 0; i < PEERS_MAX; i++) {
        if (p->server->peers[i] == p) {
            p->server->peers[i] = NULL;
        }
    }
    event_free(p->event);
    if (p->drip != NULL) {
        event_free(p->drip);
    }
    close(p->fd);
    free(p);
}

static void on_drip(evutil_socket_t fd, short what, void *ctx)
{
    (void)what;
    struct peer *p = ctx;
    const struct server *s = p->server;
    if (s->behaviour == LORIS) {
        if (p->sent < strlen(s->reply) && send(fd, s->reply + p->sent++, 1, MSG_NOSIGNAL) != 1) {
            peer_close(p);
        }
        return;
    }
    for (unsigned i = 0; i < 64; i++) {
        const ssize_t n = send(fd, s->again, strlen(s->again), MSG_NOSIGNAL);
        if (n != (ssize_t)strlen(s->again)) {
            if (n == -1 && errno == EAGAIN) {
                return;
            }
            peer_close(p);
            return;
        }
    }
}

static void peer_answer(struct peer *p)
{
    struct server *s = p->server;
    static const struct timeval pause = {0, 20000};
    static const struct linger rst = {1, 0};
    if (s->behaviour == LORIS) {
        p->drip = event_new(s->base, p->fd, EV_PERSIST, on_drip, p);
        event_add(p->drip, &pause);
        return;
    }
    if (s->behaviour == HANG) {
        return;
    }
    if (s->behaviour == RESET || (s->behaviour == CLOSE_SECOND && p->requests > 1)) {
        if (s->behaviour == RESET) {
            setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &rst, sizeof(rst));
        }
        peer_close(p);
        return;
    }
    assert_int_equal(send(p->fd, s->reply, strlen(s->reply), MSG_NOSIGNAL), strlen(s->reply));
    if (s->behaviour == ENDLESS) {
        p->drip = event_new(s->base, p->fd, EV_WRITE | EV_PERSIST, on_drip, p);
        event_add(p->drip, NULL);
    } else if (s->behaviour == ANSWER_CLOSE) {
        peer_close(p);
    }
}

static void on_request(evutil_socket_t fd, short what, void *ctx)
{
    (void)what;
    struct peer *p = ctx;
    struct server *s = p->server;
    const ssize_t n = recv(fd, p->in + p->len, sizeof(p->in) - 1 - p->len, 0);
    if (n <= 0) {
        peer_close(p);
        return;
    }
    p->len += (size_t)n;
    p->in[p->len] = '\0';
    const char *end = strstr(p->in, "\r\n\r\n");
    const char *length = strstr(p->in, "Content-Length: ");
    if (end == NULL || length == NULL ||
        p->len < (size_t)(end + 4 - p->in) + strtoul(length + 16, NULL, 10)) {
        return;
    }
    memcpy(s->last, p->in, p->len + 1);
    s->last_len = p->len;
    p->len = 0;
    p->requests++;
    s->requests++;
    peer_answer(p);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int len,
                      void *ctx)
{
    (void)l;
    (void)sa;
    (void)len;
    struct server *s = ctx;
    struct peer *p = mem_zero(1, sizeof(*p));
    p->server = s;
    p->fd = fd;
    p->event = event_new(s->base, fd, EV_READ | EV_PERSIST, on_request, p);
    event_add(p->event, NULL);
    unsigned i = 0;
    while (s->peers[i] != NULL) {
        assert_true(++i < PEERS_MAX);
    }
    s->peers[i] = p;
    s->connections++;
}

/* All of 127.0.0.0/8 but nothing else reaches it. */
static void server_init(struct server *s, struct event_base *base)
{
    struct sockaddr_in sin = {.sin_family = AF_INET};
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->base = base;
    s->reply = OK_REPLY;
    s->listener =
        evconnlistener_new_bind(base, on_accept, s, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC,
                                128, (struct sockaddr *)&sin, sizeof(sin));
    assert_non_null(s->listener);
    socklen_t len = sizeof(sin);
    assert_int_equal(getsockname(evconnlistener_get_fd(s->listener), (struct sockaddr *)&sin, &len),
                     0);
    s->port = ntohs(sin.sin_port);
}

/* A turn at least this often, as the worker's loop has. */
static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static struct fixture *fixture_new(const char *ca_file, unsigned shards, unsigned connections_max)
{
    struct fixture *f = mem_zero(1, sizeof(*f));
    struct err err = {0};
    static const struct timeval every = {.tv_usec = 250000};
    f->base = event_base_new();
    f->tick = event_new(f->base, -1, EV_PERSIST, on_tick, NULL);
    event_add(f->tick, &every);
    f->guard = netguard_new("127.0.0.0/8", "", &err);
    const struct transport_config cfg = {.ca_file = ca_file,
                                         .user_agent = "NetRecon-Webhooks/test",
                                         .connect_timeout_ms = 2000,
                                         .shards = shards,
                                         .connections_max = connections_max};
    f->t = transport_new(f->base, &cfg, f->guard, &err);
    assert_non_null(f->t);
    server_init(&f->server, f->base);
    return f;
}

static void fixture_free(struct fixture *f)
{
    transport_free(f->t);
    for (unsigned i = 0; i < PEERS_MAX; i++) {
        if (f->server.peers[i] != NULL) {
            peer_close(f->server.peers[i]);
        }
    }
    evconnlistener_free(f->server.listener);
    event_free(f->tick);
    event_base_free(f->base);
    netguard_free(f->guard);
    free(f);
    assert_int_equal(lookups, 0);
}

/* The TLS tests make their own. */
__attribute__((unused)) static int setup(void **state)
{
    *state = fixture_new("/etc/ssl/certs/ca-certificates.crt", 4, 64);
    return 0;
}

__attribute__((unused)) static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static void on_result(void *ctx, const struct transport_result *r)
{
    struct fixture *f = ctx;
    assert_false(f->inside_send);
    f->results++;
    f->result = *r;
    memcpy(f->headers, r->headers, r->headers_len);
    f->headers[r->headers_len] = '\0';
    memcpy(f->body, r->body, r->body_len);
    f->body[r->body_len] = '\0';
    f->result.headers = f->headers, f->result.body = f->body;
}

static void on_late(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    ((struct fixture *)ctx)->late = true;
}

static void turn(struct fixture *f)
{
    assert_true(event_base_loop(f->base, EVLOOP_ONCE) >= 0);
    transport_after_turn(f->t);
}

/* Turns the loop until n results are there; ten seconds at most. */
static void await_results(struct fixture *f, unsigned n)
{
    static const struct timeval limit = {10, 0};
    struct event *late = evtimer_new(f->base, on_late, f);
    event_add(late, &limit);
    while (f->results < n && !f->late) {
        turn(f);
    }
    event_free(late);
    assert_false(f->late);
    assert_int_equal(f->results, n);
}

struct request {
    const char *host; /* a name, or an address literal as in a URL */
    const char *pin;  /* NULL: 127.0.0.1                           */
    unsigned port;    /* 0: the server's                           */
    bool tls;
    const char *body;
    size_t body_len; /* 0: strlen(body)                           */
    const char *header;
    int64_t timeout_ms; /* 0: 5000                                 */
};

static void endpoint_make(const struct fixture *f, const struct request *r, struct endpoint *e)
{
    char url[512];
    memset(e, 0, sizeof(*e));
    e->port = (uint16_t)(r->port != 0 ? r->port : f->server.port);
    e->tls = r->tls;
    e->is_address = strchr("[0123456789", r->host[0]) != NULL;
    (void)snprintf(e->host, sizeof(e->host), "%.*s",
                   (int)strcspn(r->host + (r->host[0] == '['), "]"), r->host + (r->host[0] == '['));
    (void)snprintf(url, sizeof(url), "http%s://%s:%u/hook?secret=1", r->tls ? "s" : "", r->host,
                   (unsigned)e->port);
    e->url = mem_dup(url);
}

static struct transfer *start(struct fixture *f, const struct request *r, struct endpoint *e,
                              transport_fn *fn)
{
    struct sockaddr_storage address = {0};
    struct sockaddr_in *sin = (void *)&address;
    struct sockaddr_in6 *sin6 = (void *)&address;
    const char *pin = r->pin != NULL ? r->pin : "127.0.0.1";
    endpoint_make(f, r, e);
    address.ss_family = strchr(pin, ':') != NULL ? AF_INET6 : AF_INET;
    assert_int_equal(
        inet_pton(address.ss_family, pin,
                  address.ss_family == AF_INET ? (void *)&sin->sin_addr : (void *)&sin6->sin6_addr),
        1);
    struct transport_request req = {.endpoint = e,
                                    .address = &address,
                                    .body = r->body,
                                    .body_len = r->body == NULL   ? 0
                                                : r->body_len > 0 ? r->body_len
                                                                  : strlen(r->body),
                                    .headers = {r->header},
                                    .n_headers = r->header != NULL,
                                    .timeout_ms = r->timeout_ms > 0 ? r->timeout_ms : 5000};
    f->inside_send = true;
    struct transfer *x = transport_send(f->t, &req, fn, f);
    f->inside_send = false;
    assert_non_null(x);
    return x;
}

/* Sends one request and waits for its result. */
static const struct transport_result *post(struct fixture *f, const struct request *r)
{
    struct endpoint e;
    const unsigned before = f->results;
    (void)start(f, r, &e, on_result);
    await_results(f, before + 1);
    free(e.url);
    return &f->result;
}

__attribute__((unused)) static const struct request hello = {
    .host = "a.example.com", .body = "{\"hello\":1}", .header = "X-One: 1"};

#endif
