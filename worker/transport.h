/* HTTP out: libcurl's multi interface on the loop, sharded by host (measurements.md), with the
 * address policy enforced at three points: before pinning (the caller), when a socket is opened,
 * and before a request goes out on any connection, new or kept. HTTP/1.1, TLS >= 1.2 verified, no
 * redirect, no proxy, no cookie, no compression, no Expect. */
#ifndef NRW_TRANSPORT_H
#define NRW_TRANSPORT_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "bounds.h"
#include "endpoint.h"
#include "err.h"
#include "netguard.h"

struct transport;
struct transfer;

struct transport_config {
    const char *ca_file;
    const char *user_agent;
    int64_t connect_timeout_ms;
    unsigned shards;
    unsigned connections_max; /* over all shards */
};

#define TRANSPORT_HEADERS_MAX 12

struct transport_request {
    const struct endpoint *endpoint; /* borrowed until the callback */
    const struct sockaddr_storage
        *address;     /* already vetted; pinned for a new connection; copied              */
    const void *body; /* borrowed until the callback                                      */
    size_t body_len;
    const char *headers[TRANSPORT_HEADERS_MAX]; /* "Name: value", copied. Content-Type, User-Agent,
                                                 * Content-Length, Host are added here */
    unsigned n_headers;
    int64_t timeout_ms; /* for this transfer, to the last body byte; > 0                    */
};

enum transport_fault {
    TRANSPORT_OK,      /* status is the answer's, even if the body was cut                        */
    TRANSPORT_TIMEOUT, /* the whole attempt took too long                                         */
    TRANSPORT_CONNECT, /* refused, unreachable host, reset while connecting, connect timeout      */
    TRANSPORT_TLS,     /* handshake or certificate                                                */
    TRANSPORT_BROKEN,  /* reset, closed or nonsense instead of an answer                          */
    TRANSPORT_TOO_LARGE, /* headers above LIMIT_RESPONSE_HEADERS */
    TRANSPORT_DENIED, /* the address policy stopped it                                           */
    TRANSPORT_OURS, /* descriptors, memory, no route, local ports, and a deadline that passed while
                     * this process was stopped: never the customer's fault */
};

/* Borrowed until the callback returns. */
struct transport_result {
    enum transport_fault fault;
    long status;                  /* 0 when no status line came                               */
    char error[LIMIT_ERROR_TEXT]; /* "" when OK; else one line that helps the customer        */
    int64_t duration_us;          /* from start to end                                        */
    int64_t retry_after_s; /* from Retry-After (seconds, or a date against Date), -1 when absent */
    const char *headers;   /* raw header lines of the answer, cut at LIMIT_RESPONSE_HEADERS_KEPT */
    size_t headers_len;
    const char *body; /* first LIMIT_RESPONSE_KEPT bytes                          */
    size_t body_len;
    bool reused;                 /* went over a kept connection                              */
    char address[NETGUARD_TEXT]; /* the peer, "" when none                                   */
};

typedef void transport_fn(void *ctx, const struct transport_result *result);

struct transport *transport_new(struct event_base *base, const struct transport_config *cfg,
                                const struct netguard *guard, struct err *err) MUST_CHECK;
void transport_free(struct transport *t); /* running transfers are dropped without a callback */

/* Starts one POST. Always calls back exactly once, later, never from inside this call, unless
 * cancelled. Own-side failures to start are reported by the callback as TRANSPORT_OURS. */
struct transfer *transport_send(struct transport *t, const struct transport_request *req,
                                transport_fn *fn, void *ctx);
void transport_cancel(struct transfer *x);

/* Everything that has to be done once per turn of the loop (batched starts, finished transfers).
 * The loop has to turn at least twice a second: a deadline that passed in a turn of more than a
 * second is taken for a stop of this process (SIGSTOP, a frozen machine, no CPU). */
void transport_after_turn(struct transport *t);

struct transport_stats {
    unsigned in_flight;
    uint64_t requests, connections_opened, denied;
};
void transport_stats(const struct transport *t, struct transport_stats *ret);

#endif
