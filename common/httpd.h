/* evhttp on the loop, with what it lacks: a strict reading of requests (http_frame.h), a cap on
 * connections, and deadlines that a slow client cannot stretch byte by byte.
 *
 *   IDLE --first byte--> RECEIVING --whole request--> BUSY --answer--> ANSWERING --written--> IDLE
 *                            |
 *                            +--not well-formed, or too large--> REFUSED
 *
 * All but BUSY have a deadline. REFUSED: evhttp does not see the request; the answer goes out at
 * once, and what else the client sends is dropped for a while so that it can read that answer.
 * While an answer is written, no more is read than the next request may need. At the cap the
 * listener pauses, clients wait in the kernel's backlog, and the connections that have been idle
 * longest (a second at least) are closed to make room. When too many bytes of answers wait for
 * their clients, those are closed that leave most for longest. */
#ifndef NRW_HTTPD_H
#define NRW_HTTPD_H

#include <event2/event.h>
#include <event2/http.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "err.h"
#include "http_frame.h"

struct httpd;

/* Adds to a refusal its header lines (each with CR LF; those of the framing are there) and its
 * body. HTTPD_REFUSAL_MAX bytes of each. */
typedef void httpd_refusal_fn(void *ctx, enum frame_fault fault, struct buf *headers,
                              struct buf *body);
#define HTTPD_REFUSAL_MAX 2048

struct httpd_config {
    const char *listen;       /* "address:port" ("[::1]:9464" for IPv6; port 0 picks a free one) */
    unsigned connections_max; /* fewer where the process may have fewer descriptors */
    size_t unread_max;        /* bytes of answers in memory, of all connections */
    struct frame_limits limits;
    httpd_refusal_fn *refusal;  /* NULL: a line of text         */
    int64_t idle_timeout_ms;    /* without a byte of a request  */
    int64_t request_timeout_ms; /* from its first byte to its last */
    int64_t answer_timeout_ms;  /* the same of an answer           */
};

/* A whole and well-formed request within the limits, of any method. Must be answered by one of
 * evhttp's reply functions, now or later; a client that has left meanwhile makes that reply a mere
 * clean-up. */
typedef void httpd_fn(void *ctx, struct evhttp_request *req);

/* NULL: ERR_INVALID or ERR_IO, the text names the address. */
struct httpd *httpd_new(struct event_base *base, const struct httpd_config *cfg, httpd_fn *fn,
                        void *ctx, struct err *err) MUST_CHECK;
unsigned httpd_port(const struct httpd *h);
unsigned httpd_connections(const struct httpd *h);
/* No new connection is accepted (it is refused at once, so that its client looks elsewhere), and
 * none stays open after its answer. */
void httpd_drain(struct httpd *h);
bool httpd_is_draining(const struct httpd *h);
/* Closes everything. Requests without an answer must have got one before. */
void httpd_free(struct httpd *h);

#endif
