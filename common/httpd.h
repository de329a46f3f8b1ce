/* evhttp on the loop, with what it lacks: a cap on connections and deadlines that a slow client
 * cannot stretch byte by byte.
 *
 *   IDLE --first byte--> RECEIVING --whole request--> BUSY --answer written--> IDLE
 *
 * IDLE and RECEIVING have a deadline each. At the cap the listener pauses, clients wait in the
 * kernel's backlog, and the connections that have been idle longest (a second at least) are closed
 * to make room. Sizes that evhttp enforces itself are answered by it, in HTML (413, and 400 for
 * headers): give it more than the handler allows, and refuse in the handler. */
#ifndef NRW_HTTPD_H
#define NRW_HTTPD_H

#include <event2/event.h>
#include <event2/http.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

struct httpd;

struct httpd_config {
    const char *listen; /* "address:port" ("[::1]:9464" for IPv6; port 0 picks a free one) */
    unsigned connections_max;
    size_t headers_max;         /* request line and headers */
    size_t body_max;            /* 413 above it             */
    int64_t idle_timeout_ms;    /* without a byte of a request  */
    int64_t request_timeout_ms; /* from its first byte to its last */
};

/* A whole request, of any method that evhttp can read. Must be answered by one of evhttp's reply
 * functions, now or later; a client that has left meanwhile makes that reply a mere clean-up. */
typedef void httpd_fn(void *ctx, struct evhttp_request *req);

/* NULL: ERR_INVALID or ERR_IO, the text names the address. */
struct httpd *httpd_new(struct event_base *base, const struct httpd_config *cfg, httpd_fn *fn,
                        void *ctx, struct err *err) MUST_CHECK;
unsigned httpd_port(const struct httpd *h);
unsigned httpd_connections(const struct httpd *h);
/* No new connection, and none stays open after its answer. */
void httpd_drain(struct httpd *h);
bool httpd_is_draining(const struct httpd *h);
/* Closes everything. Requests without an answer must have got one before. */
void httpd_free(struct httpd *h);

#endif
