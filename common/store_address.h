/* Addresses of the operator's own host names, PostgreSQL's and Redis', by c-ares on the loop:
 * libpq and hiredis would ask with a blocking getaddrinfo(). Resolved as this machine resolves:
 * hosts file, then DNS with the servers, search domains and options of /etc/resolv.conf, in the
 * order that /etc/nsswitch.conf gives to "files" and "dns"; no other source of it is asked. That
 * is not how customers' names are resolved (resolver.h): NRW_DNS_SERVERS and netguard are for
 * those. Nothing is kept: every connect asks anew, and the files are read anew. */
#ifndef NRW_STORE_ADDRESS_H
#define NRW_STORE_ADDRESS_H

#include <event2/event.h>
#include <netinet/in.h>
#include <stdbool.h>

#include "err.h"

#define STORE_ADDRESSES_MAX 16   /* of one name; further ones are left out */
#define STORE_LOOKUP_MS     5000 /* for all names of a look-up, all tries together */

struct store_host {
    char *name;
    unsigned n; /* addresses, as RFC 6724 orders them; 0: err says why, and names the host */
    char addresses[STORE_ADDRESSES_MAX][INET6_ADDRSTRLEN];
    struct err err; /* retriable, ours */
};

/* An address in any spelling that getaddrinfo() takes: nothing is to be asked. */
bool store_address_is_given(const char *host);

struct store_lookup;

/* hosts: one for each name, in the order of the names; borrowed until return. */
typedef void store_lookup_fn(void *ctx, const struct store_host *hosts, unsigned n);

/* names: n >= 1, borrowed for the call. fn is called exactly once, later, within STORE_LOOKUP_MS
 * and a tick, unless cancelled; the handle is valid until then. */
struct store_lookup *store_lookup_new(struct event_base *base, const char *const *names, unsigned n,
                                      store_lookup_fn *fn, void *ctx);
void store_lookup_cancel(struct store_lookup *l); /* NULL: nothing. Not from inside fn. */

/* The address for a client that tries one at a time: a host's IPv4 ones come first, and each next
 * turn gets the next one, round and round. host->n > 0. */
const char *store_address_pick(const struct store_host *host, unsigned turn);

#endif
