/* Answers of the resolver by host name, with an end of life each, at most `max` of them: the least
 * recently used goes first. The hash is keyed per process: host names come from outsiders, who must
 * not be able to pick collisions. */
#ifndef NRW_DNSCACHE_H
#define NRW_DNSCACHE_H

#include <stdint.h>
#include <sys/socket.h>

#include "err.h"

struct dnscache;

/* Either addresses (n > 0) or the reason why there are none. */
struct dns_answer {
    struct sockaddr_storage *addresses; /* NULL when n is 0 */
    unsigned n;
    struct err err;
};

struct dnscache *dnscache_new(unsigned max); /* max 0: keeps nothing */
void dnscache_free(struct dnscache *c);

uint64_t dnscache_hash(const struct dnscache *c, const char *host);

/* NULL when unknown or over. Borrowed until the next put. */
const struct dns_answer *dnscache_get(struct dnscache *c, const char *host, int64_t now_mono_us);
/* host and answer are copied; an older answer for host is replaced. */
void dnscache_put(struct dnscache *c, const char *host, const struct dns_answer *answer,
                  int64_t until_mono_us);
unsigned dnscache_count(const struct dnscache *c);

/* A copy of n addresses; NULL when n is 0. Taken by the caller: free(). */
struct sockaddr_storage *dns_addresses_copy(const struct sockaddr_storage *addresses, unsigned n);

#endif
