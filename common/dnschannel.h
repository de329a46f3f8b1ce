/* A c-ares channel living on the loop: sockets are watched, servers and time-outs are set. What
 * resolver.c and store_address.c share: it knows nothing of questions, caches or blame. */
#ifndef NRW_DNSCHANNEL_H
#define NRW_DNSCHANNEL_H

#include <ares.h>
#include <event2/event.h>
#include <stdint.h>

#include "err.h"

struct dnschannel;

enum dnschannel_names {
    DNSCHANNEL_FOREIGN, /* customers': asked of DNS as they stand, no file, no search domain */
    DNSCHANNEL_OWN,     /* the operator's: hosts file, search domains and options as /etc says,
                           which is read anew for each channel */
};

/* after(ctx) runs after c-ares has worked on a socket, outside of it. servers: as in struct
 * resolver_config. timeout_ms: all tries of one query end within it. */
struct dnschannel *dnschannel_new(struct event_base *base, enum dnschannel_names names,
                                  const char *servers, int64_t timeout_ms, void (*after)(void *ctx),
                                  void *ctx, struct err *err) MUST_CHECK;
void dnschannel_free(
    struct dnschannel *c); /* open queries are called back with ARES_EDESTRUCTION */

ares_channel dnschannel_ares(const struct dnschannel *c);
void dnschannel_tick(
    struct dnschannel *c); /* to be called every few 10 ms while queries are open */

/* How many sockets this machine has refused to open (descriptors, memory), and the errno of the
 * last one. */
uint64_t dnschannel_faults(const struct dnschannel *c, int *ret_errno);

#endif
