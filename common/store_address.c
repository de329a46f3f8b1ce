/* Owns one look-up of a few names: a c-ares channel of its own, which lives as long as the look-up,
 * so that a changed /etc/resolv.conf counts for the next one. Names that DNS does not answer end
 * with the look-up's deadline. Which host is tried, and when again, is for its callers to know:
 * redis.c, and pg_hosts.c for pg.c. */
#include "store_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "dnschannel.h"
#include "mem.h"

#define LOOKUP_MAGIC 0x73746c75u
#define TICK_US      50000

struct question {
    struct store_lookup *lookup;
    struct store_host *host;
};

struct store_lookup {
    unsigned magic;
    struct dnschannel *channel;
    struct event *tick;
    int64_t deadline_us;
    store_lookup_fn *fn;
    void *ctx;
    unsigned n;
    unsigned n_open; /* names without an answer */
    struct store_host *hosts;
    struct question *questions;
};

bool store_address_is_given(const char *host)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    const bool given =
        getaddrinfo(host, NULL, &hints, &found) == 0; /* AI_NUMERICHOST: asks nobody */

    if (given) {
        freeaddrinfo(found);
    }
    return given;
}

static bool is_ipv6(const char *address)
{
    return strchr(address, ':') != NULL;
}

const char *store_address_pick(const struct store_host *host, unsigned turn)
{
    unsigned skip = turn % host->n;

    for (int six = 0; six <= 1; six++) {
        for (unsigned i = 0; i < host->n; i++) {
            if (is_ipv6(host->addresses[i]) == (six == 1) && skip-- == 0) {
                return host->addresses[i];
            }
        }
    }
    CHECK(false);
    return NULL;
}

/* --- answers ---------------------------------------------------------------------------- */

static void fail_host(struct store_host *host, enum err_code code, const char *what,
                      const char *detail)
{
    (void)err_set(&host->err, code, "%.100s: %s%s%s", host->name, what, *detail == '\0' ? "" : ": ",
                  detail);
    host->err.retriable = true;
    host->err.ours = true;
}

static void explain(const struct store_lookup *l, struct store_host *host, int status)
{
    int fault = 0;

    if (status == ARES_ENOTFOUND) {
        fail_host(host, ERR_DNS, "the name does not exist", "");
    } else if (status == ARES_ENODATA) {
        fail_host(host, ERR_DNS, "the name has no address", "");
    } else if (dnschannel_faults(l->channel, &fault) > 0) {
        fail_host(host, ERR_IO, "no socket for a DNS query", strerrordesc_np(fault));
    } else if (status == ARES_ETIMEOUT || status == ARES_EDESTRUCTION) {
        fail_host(host, ERR_TIMEOUT, "no DNS server answered in time", "");
    } else {
        fail_host(host, ERR_DNS, "no DNS server gave a usable answer", ares_strerror(status));
    }
}

static void take_address(struct store_host *host, const struct ares_addrinfo_node *node)
{
    const void *address = NULL;

    if (node->ai_family == AF_INET) {
        address = &((const struct sockaddr_in *)(const void *)node->ai_addr)->sin_addr;
    } else if (node->ai_family == AF_INET6) {
        address = &((const struct sockaddr_in6 *)(const void *)node->ai_addr)->sin6_addr;
    }
    if (address != NULL && host->n < STORE_ADDRESSES_MAX) {
        CHECK(inet_ntop(node->ai_family, address, host->addresses[host->n], INET6_ADDRSTRLEN) !=
              NULL);
        host->n++;
    }
}

/* Also called by dnschannel_free(), for what nobody has answered. */
static void on_answer(void *ctx, int status, int timeouts, struct ares_addrinfo *found)
{
    const struct question *q = ctx;
    struct store_lookup *l = q->lookup;

    (void)timeouts;
    CHECK_MAGIC(l, LOOKUP_MAGIC);
    if (status == ARES_SUCCESS) {
        for (const struct ares_addrinfo_node *node = found->nodes; node != NULL;
             node = node->ai_next) {
            take_address(q->host, node);
        }
        ares_freeaddrinfo(found);
    }
    if (q->host->n == 0) {
        explain(l, q->host, status == ARES_SUCCESS ? ARES_ENODATA : status);
    }
    l->n_open--;
}

/* --- life ------------------------------------------------------------------------------- */

static void lookup_free(struct store_lookup *l)
{
    if (l->channel != NULL) {
        dnschannel_free(l->channel), l->channel = NULL;
    }
    event_free(l->tick);
    for (unsigned i = 0; i < l->n; i++) {
        free(l->hosts[i].name);
    }
    free(l->hosts);
    free(l->questions);
    l->magic = 0;
    free(l);
}

/* The only way to fn: no answer of c-ares is handed on from inside c-ares. */
static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    const struct timeval tick = {.tv_usec = TICK_US};
    struct store_lookup *l = ctx;

    (void)fd, (void)what;
    CHECK_MAGIC(l, LOOKUP_MAGIC);
    if (l->n_open > 0) {
        dnschannel_tick(l->channel);
    }
    if (l->n_open > 0 && clock_mono_us() < l->deadline_us) {
        CHECK(event_add(l->tick, &tick) == 0);
        return;
    }
    dnschannel_free(l->channel), l->channel = NULL;
    l->fn(l->ctx, l->hosts, l->n);
    lookup_free(l);
}

static void after_cares(void *ctx)
{
    const struct store_lookup *l = ctx;

    if (l->n_open == 0) {
        event_active(l->tick, EV_TIMEOUT, 0);
    }
}

static void ask(struct store_lookup *l)
{
    static const struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC,
                                                     .ai_socktype = SOCK_STREAM};

    l->n_open = l->n; /* before the first call: it may answer at once */
    for (unsigned i = 0; i < l->n; i++) {
        l->questions[i] = (struct question){.lookup = l, .host = &l->hosts[i]};
        ares_getaddrinfo(dnschannel_ares(l->channel), l->hosts[i].name, NULL, &hints, on_answer,
                         &l->questions[i]);
    }
}

struct store_lookup *store_lookup_new(struct event_base *base, const char *const *names, unsigned n,
                                      store_lookup_fn *fn, void *ctx)
{
    struct store_lookup *l = mem_zero(1, sizeof(*l));
    struct err err = {.code = ERR_NONE};

    CHECK(n > 0);
    l->magic = LOOKUP_MAGIC;
    l->deadline_us = clock_mono_us() + STORE_LOOKUP_MS * INT64_C(1000);
    l->fn = fn;
    l->ctx = ctx;
    l->n = n;
    l->hosts = mem_zero(n, sizeof(*l->hosts));
    l->questions = mem_zero(n, sizeof(*l->questions));
    for (unsigned i = 0; i < n; i++) {
        l->hosts[i].name = mem_dup(names[i]);
    }
    l->tick = evtimer_new(base, on_tick, l);
    CHECK(l->tick != NULL);
    l->channel = dnschannel_new(base, DNSCHANNEL_OWN, "", STORE_LOOKUP_MS, after_cares, l, &err);
    if (l->channel != NULL) {
        ask(l);
    }
    for (unsigned i = 0; i < n && l->channel == NULL; i++) {
        fail_host(&l->hosts[i], err.code, err.text, "");
    }
    CHECK(event_add(l->tick, &(struct timeval){.tv_usec = l->n_open > 0 ? TICK_US : 0}) == 0);
    return l;
}

void store_lookup_cancel(struct store_lookup *l)
{
    if (l != NULL) {
        CHECK_MAGIC(l, LOOKUP_MAGIC);
        lookup_free(l);
    }
}
