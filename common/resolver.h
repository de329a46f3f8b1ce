/* Names to addresses, by c-ares on the loop: DNS only (no hosts file, no search domains), bounded
 * in time and memory. Answers are cached for their TTL (at least 1 s, at most 60 s), negative
 * answers for 5 s; look-ups of the same name that are open at the same time share one query. A and
 * AAAA are both asked. The answer holds EVERY address that the caller must vet; a name with more
 * than LIMIT_ADDRESSES fails (ERR_LIMIT, the customer's). Beyond a fixed number of open questions,
 * further ones wait within their time. */
#ifndef NRW_RESOLVER_H
#define NRW_RESOLVER_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "err.h"

struct resolver;
struct resolver_query;

/* addresses: IPv4 first, port unset, borrowed until the callback returns. n 0: err says why.
 * err.ours: no server could be reached or none answered ANY question while this one was open, so
 * the resolver is at fault; a name that does not exist, has no address, or whose own servers fail
 * while other names resolve is the customer's. When nothing else is asked, the resolver asks for
 * the root's servers to find out. A socket that this machine refuses to open is ours in any case.
 */
typedef void resolver_fn(void *ctx, const struct sockaddr_storage *addresses, unsigned n,
                         const struct err *err);

struct resolver_config {
    const char *servers; /* "" = /etc/resolv.conf; else "127.0.0.1:5353,[::1]:53" */
    int64_t timeout_ms;  /* for the whole look-up                                 */
    unsigned cache_max;  /* names; the least recently used goes first             */
};

struct resolver *resolver_new(struct event_base *base, const struct resolver_config *cfg,
                              struct err *err) MUST_CHECK;
/* Open queries are cancelled without a callback. Not from inside a callback. */
void resolver_free(struct resolver *r);

/* Calls back exactly once, unless cancelled. From the cache it calls back before it returns, and
 * returns NULL; else it returns a handle that is valid until the callback or resolver_cancel. host:
 * canonical (struct endpoint), borrowed for the call. */
struct resolver_query *resolver_lookup(struct resolver *r, const char *host, resolver_fn *fn,
                                       void *ctx);
void resolver_cancel(struct resolver_query *q);

struct resolver_stats {
    uint64_t cache_hits, queries, failures, ours;
    unsigned cached, open;
};
void resolver_stats(const struct resolver *r, struct resolver_stats *ret);

#endif
