/* Where a PostgreSQL URL leads: its hosts, and their addresses in libpq's own terms, so that libpq
 * resolves no name by itself. Private to pg.c. */
#ifndef NRW_PG_HOSTS_H
#define NRW_PG_HOSTS_H

#include <event2/event.h>

#include "err.h"

/* What stands in for the URL's host, hostaddr and port: comma lists of one length, a host with
 * several addresses once for each. Certificates and passwords still go by the host. "": as the URL
 * says. */
struct pg_place {
    const char *host;
    const char *hostaddr;
    const char *port;
};

struct pg_hosts;

/* The hosts of a URL; PGHOST, PGHOSTADDR and PGPORT count where it says nothing, as for libpq.
 * What libpq refuses by itself is left to it, and a URL with service= is, too, with the names in
 * that file. */
struct pg_hosts *pg_hosts_new(const char *url);
void pg_hosts_free(struct pg_hosts *h); /* cancels a look-up. Not from inside a pg_hosts_fn */

/* err: why hosts were left out, which is retriable and ours, or ERR_NONE. place NULL: none was
 * left. Both are borrowed until return. */
typedef void pg_hosts_fn(void *ctx, const struct pg_place *place, const struct err *err);
/* One at a time. first: which address is tried first, in the order of the URL and round and round;
 * the others follow. fn is called exactly once, unless cancelled: before this returns, where
 * nothing is to be looked up, else as store_lookup_new() calls. It may begin the next one. */
void pg_hosts_find(struct pg_hosts *h, struct event_base *base, unsigned first, pg_hosts_fn *fn,
                   void *ctx);

#endif
