/* The resolver's memory: a chained hash table of a fixed number of buckets and one list by time of
 * use. It knows no DNS: how long an answer lives is the caller's decision. Entries that are over go
 * when they are asked for or pushed out, not by a timer. Called by resolver.c only. */
#include "dnscache.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>

#include "check.h"
#include "mem.h"

#define BUCKETS_MAX 65536

struct entry {
    LIST_ENTRY(entry) chain;
    TAILQ_ENTRY(entry) use; /* most recent first */
    char *host;
    struct dns_answer answer;
    int64_t until_mono_us;
};
LIST_HEAD(bucket, entry);
TAILQ_HEAD(use_list, entry);

struct dnscache {
    struct bucket *buckets;
    struct use_list use;
    size_t mask;
    unsigned n;
    unsigned max;
    uint64_t key[2];
};

static uint64_t rotate(uint64_t x, unsigned by)
{
    return x << by | x >> (64 - by);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

/* SipHash-1-3. */
uint64_t dnscache_hash(const struct dnscache *c, const char *host)
{
    size_t len = strlen(host);
    uint64_t v[4] = {c->key[0] ^ 0x736f6d6570736575u, c->key[1] ^ 0x646f72616e646f6du,
                     c->key[0] ^ 0x6c7967656e657261u, c->key[1] ^ 0x7465646279746573u};

    for (size_t at = 0; at <= len; at += 8) {
        size_t left = len - at;
        uint64_t word = 0;

        if (left >= 8) {
            memcpy(&word, host + at, 8);
        } else {
            memcpy(&word, host + at, left);
            word |= (uint64_t)len << 56;
        }
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    sip_round(v);
    sip_round(v);
    sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

struct dnscache *dnscache_new(unsigned max)
{
    struct dnscache *c = mem_zero(1, sizeof(*c));
    size_t buckets = 16;

    while (buckets < max && buckets < BUCKETS_MAX) {
        buckets *= 2;
    }
    c->buckets = mem_zero(buckets, sizeof(*c->buckets));
    c->mask = buckets - 1;
    c->max = max;
    TAILQ_INIT(&c->use);
    CHECK(getrandom(c->key, sizeof(c->key), 0) == (ssize_t)sizeof(c->key));
    return c;
}

static void drop(struct dnscache *c, struct entry *e)
{
    LIST_REMOVE(e, chain);
    TAILQ_REMOVE(&c->use, e, use);
    c->n--;
    free(e->host);
    free(e->answer.addresses);
    free(e);
}

void dnscache_free(struct dnscache *c)
{
    struct entry *e;
    struct entry *next;

    if (c == NULL) {
        return;
    }
    for (e = TAILQ_FIRST(&c->use); e != NULL; e = next) {
        next = TAILQ_NEXT(e, use);
        drop(c, e);
    }
    free(c->buckets);
    free(c);
}

static struct entry *find(const struct dnscache *c, const char *host)
{
    struct entry *e;

    LIST_FOREACH(e, &c->buckets[dnscache_hash(c, host) & c->mask], chain)
    {
        if (strcmp(e->host, host) == 0) {
            return e;
        }
    }
    return NULL;
}

const struct dns_answer *dnscache_get(struct dnscache *c, const char *host, int64_t now_mono_us)
{
    struct entry *e = find(c, host);

    if (e == NULL) {
        return NULL;
    }
    if (now_mono_us >= e->until_mono_us) {
        drop(c, e);
        return NULL;
    }
    TAILQ_REMOVE(&c->use, e, use);
    TAILQ_INSERT_HEAD(&c->use, e, use);
    return &e->answer;
}

struct sockaddr_storage *dns_addresses_copy(const struct sockaddr_storage *addresses, unsigned n)
{
    struct sockaddr_storage *copy;

    if (n == 0) {
        return NULL;
    }
    copy = mem_zero(n, sizeof(*copy));
    memcpy(copy, addresses, n * sizeof(*copy));
    return copy;
}

void dnscache_put(struct dnscache *c, const char *host, const struct dns_answer *answer,
                  int64_t until_mono_us)
{
    struct entry *e = find(c, host);

    if (e != NULL) {
        drop(c, e);
    }
    if (c->max == 0) {
        return;
    }
    if (c->n >= c->max) {
        drop(c, TAILQ_LAST(&c->use, use_list));
    }
    e = mem_zero(1, sizeof(*e));
    e->host = mem_dup(host);
    e->answer = *answer;
    e->answer.addresses = dns_addresses_copy(answer->addresses, answer->n);
    e->until_mono_us = until_mono_us;
    LIST_INSERT_HEAD(&c->buckets[dnscache_hash(c, host) & c->mask], e, chain);
    TAILQ_INSERT_HEAD(&c->use, e, use);
    c->n++;
}

unsigned dnscache_count(const struct dnscache *c)
{
    return c->n;
}
