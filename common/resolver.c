/* Owns the c-ares channel on the loop, the questions that are open, and who waits for them. Answers
 * that stay are dnscache's; which address may be used is netguard's; retries of a delivery are the
 * caller's. Called by the delivery step that resolves.
 *
 * One question is one name: an A and an AAAA query by ares_query, not ares_getaddrinfo, because
 * that one answers localhost by itself, may read /etc/hosts, and hides which of the two queries
 * failed how. Its life: WAITING (too many are out) -> ASKED -> [UNDECIDED] -> ANSWERED (call-backs
 * run from the loop, never from inside c-ares) -> freed when c-ares has let go of it, which may be
 * after its time was up.
 *
 * Sockets and time-outs of c-ares are dnschannel's. Whose fault a failure is: a question notes how
 * many answers the servers had given when it was born. If that number has grown when it fails, the
 * resolver works and the failure belongs to the name. If not, ". NS", which every working resolver
 * knows, is asked as well. A question that was asked while no server answered may see the first
 * answers to others when it fails: for one time-out after the last failure of ours, nobody else is
 * to blame. */
#include "resolver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <sys/queue.h>

#include <ares.h>
#include <arpa/nameser.h>

#include "bounds.h"
#include "check.h"
#include "clock.h"
#include "dnscache.h"
#include "dnschannel.h"
#include "mem.h"

#define RESOLVER_MAGIC 0x7265736fu
#define QUESTION_MAGIC 0x71756573u
#define QUERY_MAGIC    0x71757279u

#define TRIES 2
#define ASKED_MAX                                                                                  \
    2048 /* names that c-ares works on; its lists are walked, and its ids have 16 bits */
#define YOUNG_MAX                                                                                  \
    64 /* of them asked within the last tick: the answers to twice as many overflow a UDP socket's \
          default buffer, and what is lost costs a time-out (bench: 208 of 10 000) */
#define OPEN_BUCKETS    1024
#define TICK_MIN_US     10000
#define TICK_MAX_US     100000
#define TTL_MIN_S       1
#define TTL_MAX_S       60
#define NEGATIVE_TTL_S  5
#define CACHED_ADDR_MAX 32 /* longer answers are not cached: an entry stays under 4 KiB or so */

struct resolver_query {
    unsigned magic;
    TAILQ_ENTRY(resolver_query) link;
    struct question *question;
    resolver_fn *fn;
    void *ctx;
};
TAILQ_HEAD(waiter_list, resolver_query);

enum question_state {
    QUESTION_WAITING,   /* for a free place in c-ares                                    */
    QUESTION_ASKED,     /* c-ares works on it                                            */
    QUESTION_UNDECIDED, /* failed; the probe will tell whose fault it is                 */
    QUESTION_ANSWERED,  /* `answer` is final, waiters are being called                   */
    QUESTION_LEFT,      /* nobody waits any more, c-ares still holds a pointer to it     */
};

struct question {
    unsigned magic;
    enum question_state state;
    struct resolver *resolver;
    TAILQ_ENTRY(question) link;  /* in resolver.open (by age) or resolver.answered */
    LIST_ENTRY(question) chain;  /* in resolver.by_host while open                 */
    TAILQ_ENTRY(question) queue; /* in resolver.waiting while WAITING              */
    struct waiter_list waiters;
    char *host;
    int64_t start_mono_us;
    uint64_t replies_at_start;
    uint64_t faults_at_start;
    uint64_t tick;       /* when it was asked */
    unsigned with_cares; /* call-backs that c-ares owes us */
    int status_a, status_aaaa;
    struct ares_addrttl *v4;
    struct ares_addr6ttl *v6;
    unsigned n4, n6;
    int ttl_s;
    struct dns_answer answer;
};
TAILQ_HEAD(question_list, question);
LIST_HEAD(question_bucket, question);

struct resolver {
    unsigned magic;
    struct event_base *base;
    struct dnschannel *channel;
    struct dnscache *cache;
    struct event *timer;
    struct event *call_back;
    int64_t timeout_us;
    bool closing;
    bool probe_open;
    bool probe_wanted;
    unsigned n_open, n_asked, n_young, n_undecided;
    uint64_t tick;
    uint64_t replies;       /* answers of any server to any question: it exists, or it does not */
    int64_t doubt_until_us; /* no server answered a moment ago */
    struct question_list open;
    struct question_list waiting;
    struct question_list answered;
    struct question_bucket by_host[OPEN_BUCKETS];
    struct resolver_stats stats;
};

/* ---- the end of a question ---- */

static void question_free(struct question *q)
{
    CHECK(TAILQ_EMPTY(&q->waiters) && q->with_cares == 0);
    q->magic = 0;
    free(q->host);
    free(q->v4);
    free(q->v6);
    free(q->answer.addresses);
    free(q);
}

static void question_leave(struct question *q)
{
    q->state = QUESTION_LEFT;
    if (q->with_cares == 0) {
        question_free(q);
    }
}

static void gather_addresses(const struct question *q, struct dns_answer *ret)
{
    struct sockaddr_storage *to = mem_zero(q->n4 + q->n6, sizeof(*to));

    ret->addresses = to;
    ret->n = q->n4 + q->n6;
    for (unsigned i = 0; i < q->n4; i++, to++) {
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = q->v4[i].ipaddr};

        memcpy(to, &in, sizeof(in));
    }
    for (unsigned i = 0; i < q->n6; i++, to++) {
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

        memcpy(&in6.sin6_addr, &q->v6[i].ip6addr, sizeof(in6.sin6_addr));
        memcpy(to, &in6, sizeof(in6));
    }
}

static void remember(struct question *q)
{
    int64_t ttl_s = q->answer.n > 0 ? MAX(q->ttl_s, TTL_MIN_S) : NEGATIVE_TTL_S;

    if (!q->answer.err.ours && q->answer.n <= CACHED_ADDR_MAX) {
        dnscache_put(q->resolver->cache, q->host, &q->answer, clock_mono_us() + ttl_s * 1000000);
    }
}

/* Takes the question off the open ones; call-backs follow from the loop. q->answer is set. */
static void finish(struct question *q)
{
    struct resolver *r = q->resolver;

    if (q->state == QUESTION_WAITING) {
        TAILQ_REMOVE(&r->waiting, q, queue);
    }
    if (q->state == QUESTION_UNDECIDED) {
        r->n_undecided--;
    }
    q->state = QUESTION_ANSWERED;
    TAILQ_REMOVE(&r->open, q, link);
    LIST_REMOVE(q, chain);
    r->n_open--;
    r->stats.failures += q->answer.n == 0;
    r->stats.ours += q->answer.err.ours;
    remember(q);
    TAILQ_INSERT_TAIL(&r->answered, q, link);
    event_active(r->call_back, EV_TIMEOUT, 0);
}

static void finish_failed(struct question *q, bool ours, enum err_code code, const char *what)
{
    err_set(&q->answer.err, code, "%.100s: %s", q->host, what);
    q->answer.err.retriable = true;
    q->answer.err.ours = ours;
    finish(q);
}

static bool has_status(const struct question *q, int status)
{
    return q->status_a == status || q->status_aaaa == status;
}

/* q failed without the servers saying so about the name. last: there will be no more evidence.
 * True: it is finished, somebody is to blame. */
static bool blame(struct question *q, bool last)
{
    struct resolver *r = q->resolver;
    bool waiting = q->state == QUESTION_WAITING;
    bool late = waiting || q->with_cares > 0 || has_status(q, ARES_ETIMEOUT);
    char text[128];
    int fault;

    if (dnschannel_faults(r->channel, &fault) != q->faults_at_start) {
        if (snprintf(text, sizeof(text), "no socket for a DNS query: %s", strerrordesc_np(fault)) <
            0) {
            text[0] = '\0';
        }
        finish_failed(q, true, ERR_IO, text);
    } else if (!waiting && r->replies != q->replies_at_start &&
               clock_mono_us() >= r->doubt_until_us) {
        finish_failed(q, false, late ? ERR_TIMEOUT : ERR_DNS,
                      "the DNS servers of this name gave no usable answer");
    } else if (last) {
        if (r->replies == q->replies_at_start) {
            r->doubt_until_us = clock_mono_us() + r->timeout_us;
        }
        finish_failed(q, true, late ? ERR_TIMEOUT : ERR_IO,
                      late ? "no DNS server answered in time" : "no DNS server gave an answer");
    } else {
        return false;
    }
    return true;
}

/* Both queries have ended, or the time is up, or the probe has failed (last). */
static void judge(struct question *q, bool last)
{
    struct resolver *r = q->resolver;

    if (q->n4 + q->n6 > LIMIT_ADDRESSES) {
        finish_failed(q, false, ERR_LIMIT, "the name has more addresses than are allowed");
    } else if (q->n4 + q->n6 > 0) {
        gather_addresses(q, &q->answer);
        finish(q);
    } else if (has_status(q, ARES_ENOTFOUND)) {
        finish_failed(q, false, ERR_DNS, "the name does not exist");
    } else if (q->status_a == ARES_ENODATA && q->status_aaaa == ARES_ENODATA) {
        finish_failed(q, false, ERR_DNS, "the name has no address");
    } else if (has_status(q, ARES_EBADNAME)) {
        finish_failed(q, false, ERR_INVALID, "not a DNS name");
    } else if (!blame(q, last) && q->state != QUESTION_UNDECIDED) {
        q->state = QUESTION_UNDECIDED;
        r->n_undecided++;
    }
}

/* ---- asking ---- */

static void note_reply(struct resolver *r, int status)
{
    r->replies += status == ARES_SUCCESS || status == ARES_ENODATA || status == ARES_ENOTFOUND;
}

/* Common end of an A and an AAAA query. */
static void query_ended(struct question *q)
{
    struct resolver *r = q->resolver;

    if (--q->with_cares > 0) {
        return;
    }
    r->n_asked--;
    r->n_young -= q->tick == r->tick;
    if (q->state == QUESTION_LEFT) {
        question_free(q);
    } else if (q->state == QUESTION_ASKED) {
        judge(q, false);
    }
}

static void on_a(void *ctx, int status, int timeouts, unsigned char *data, int len)
{
    struct question *q = ctx;
    int n = LIMIT_ADDRESSES + 1;

    (void)timeouts;
    CHECK_MAGIC(q, QUESTION_MAGIC);
    note_reply(q->resolver, status);
    if (status == ARES_SUCCESS && q->state == QUESTION_ASKED) {
        q->v4 = mem_zero(LIMIT_ADDRESSES + 1, sizeof(*q->v4));
        status = ares_parse_a_reply(data, len, NULL, q->v4, &n);
        q->n4 = status == ARES_SUCCESS ? (unsigned)n : 0;
        for (unsigned i = 0; i < q->n4; i++) {
            q->ttl_s = MIN(q->ttl_s, q->v4[i].ttl);
        }
        status = status == ARES_SUCCESS && q->n4 == 0 ? ARES_ENODATA : status;
    }
    q->status_a = status;
    query_ended(q);
}

static void on_aaaa(void *ctx, int status, int timeouts, unsigned char *data, int len)
{
    struct question *q = ctx;
    int n = LIMIT_ADDRESSES + 1;

    (void)timeouts;
    CHECK_MAGIC(q, QUESTION_MAGIC);
    note_reply(q->resolver, status);
    if (status == ARES_SUCCESS && q->state == QUESTION_ASKED) {
        q->v6 = mem_zero(LIMIT_ADDRESSES + 1, sizeof(*q->v6));
        status = ares_parse_aaaa_reply(data, len, NULL, q->v6, &n);
        q->n6 = status == ARES_SUCCESS ? (unsigned)n : 0;
        for (unsigned i = 0; i < q->n6; i++) {
            q->ttl_s = MIN(q->ttl_s, q->v6[i].ttl);
        }
        status = status == ARES_SUCCESS && q->n6 == 0 ? ARES_ENODATA : status;
    }
    q->status_aaaa = status;
    query_ended(q);
}

static void ask(struct question *q)
{
    struct resolver *r = q->resolver;

    q->state = QUESTION_ASKED;
    q->with_cares = 2; /* before the first call: it may call back at once */
    r->n_asked++;
    r->n_young++;
    q->tick = r->tick;
    r->stats.queries++;
    ares_query(dnschannel_ares(r->channel), q->host, ns_c_in, ns_t_a, on_a, q);
    ares_query(dnschannel_ares(r->channel), q->host, ns_c_in, ns_t_aaaa, on_aaaa, q);
}

static void settle_undecided(struct resolver *r, bool last)
{
    struct question *q;
    struct question *next;

    for (q = TAILQ_FIRST(&r->open); q != NULL && r->n_undecided > 0; q = next) {
        next = TAILQ_NEXT(q, link);
        if (q->state == QUESTION_UNDECIDED) {
            judge(q, last);
        }
    }
}

static void on_probe(void *ctx, int status, int timeouts,
                     unsigned char *data, /* NOLINT(readability-non-const-parameter): c-ares */
                     int len)
{
    struct resolver *r = ctx;

    (void)timeouts;
    (void)data;
    (void)len;
    CHECK_MAGIC(r, RESOLVER_MAGIC);
    r->probe_open = false;
    if (r->closing) {
        return;
    }
    note_reply(r, status);
    settle_undecided(r, true);
}

static void arm_timer(struct resolver *r)
{
    int64_t wait_us = MIN(MAX(r->timeout_us / 16, TICK_MIN_US), TICK_MAX_US);
    const struct question *oldest = TAILQ_FIRST(&r->open);

    if (oldest == NULL && r->n_asked == 0 && !r->probe_open) {
        event_del(r->timer);
        return;
    }
    if (event_pending(r->timer, EV_TIMEOUT, NULL)) {
        return;
    }
    if (oldest != NULL) {
        wait_us = MIN(wait_us, oldest->start_mono_us + r->timeout_us - clock_mono_us());
        wait_us = MAX(wait_us, 0);
    }
    event_add(r->timer, &(struct timeval){.tv_usec = (suseconds_t)wait_us});
}

/* Follow-up work after anything that may have called on_a, on_aaaa or on_probe; never runs inside
 * c-ares. */
static void after_cares(void *ctx)
{
    struct resolver *r = ctx;
    struct question *q;

    settle_undecided(r, false);
    if ((r->probe_wanted || r->n_undecided > 0) && !r->probe_open) {
        r->probe_open = true;
        ares_query(dnschannel_ares(r->channel), ".", ns_c_in, ns_t_ns, on_probe, r);
    }
    r->probe_wanted = false;
    while (r->n_asked < ASKED_MAX && r->n_young < YOUNG_MAX &&
           (q = TAILQ_FIRST(&r->waiting)) != NULL) {
        TAILQ_REMOVE(&r->waiting, q, queue);
        ask(q);
    }
    arm_timer(r);
}

/* c-ares is served by a tick while anything is open, not by ares_timeout(), which walks all its
 * queries each time. */
static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
    struct resolver *r = ctx;
    int64_t now = clock_mono_us();
    struct question *q;

    (void)fd;
    (void)what;
    CHECK_MAGIC(r, RESOLVER_MAGIC);
    dnschannel_tick(r->channel);
    r->tick++; /* whoever is still open is slow, and not young any more */
    r->n_young = 0;
    while ((q = TAILQ_FIRST(&r->open)) != NULL && now - q->start_mono_us >= r->timeout_us) {
        judge(q, true); /* always finishes it */
    }
    if (q != NULL && now - q->start_mono_us >= r->timeout_us / 4 &&
        q->replies_at_start == r->replies) {
        r->probe_wanted = true; /* a quarter of its time and no word from any server */
    }
    after_cares(r);
}

/* ---- calling back ---- */

/* The two CHECKs on TAILQ_FIRST tell the static analyser what TAILQ_REMOVE does. */
static struct question *take_question(struct question_list *list)
{
    struct question *q = TAILQ_FIRST(list);

    if (q != NULL) {
        CHECK_MAGIC(q, QUESTION_MAGIC);
        TAILQ_REMOVE(list, q, link);
        CHECK(TAILQ_FIRST(list) != q);
    }
    return q;
}

static struct resolver_query *take_waiter(struct question *q)
{
    struct resolver_query *w = TAILQ_FIRST(&q->waiters);

    if (w != NULL) {
        CHECK_MAGIC(w, QUERY_MAGIC);
        TAILQ_REMOVE(&q->waiters, w, link);
        CHECK(TAILQ_FIRST(&q->waiters) != w);
        w->magic = 0;
    }
    return w;
}

static void call_waiters(struct question *q)
{
    struct resolver_query *w;

    while ((w = take_waiter(q)) != NULL) {
        w->fn(w->ctx, q->answer.addresses, q->answer.n, &q->answer.err);
        free(w);
    }
}

static void on_call_back(evutil_socket_t fd, short what, void *ctx)
{
    struct resolver *r = ctx;
    struct question_list batch = TAILQ_HEAD_INITIALIZER(batch);
    struct question *q;

    (void)fd;
    (void)what;
    CHECK_MAGIC(r, RESOLVER_MAGIC);
    TAILQ_CONCAT(&batch, &r->answered, link); /* what is answered meanwhile comes the next time */
    while ((q = take_question(&batch)) != NULL) {
        call_waiters(q);
        question_leave(q);
    }
}

void resolver_cancel(struct resolver_query *q)
{
    CHECK_MAGIC(q, QUERY_MAGIC);
    TAILQ_REMOVE(&q->question->waiters, q, link);
    q->magic = 0;
    free(q);
}

static struct question *open_question(struct resolver *r, const char *host)
{
    struct question_bucket *bucket = &r->by_host[dnscache_hash(r->cache, host) % OPEN_BUCKETS];
    struct question *q;
    int fault;

    LIST_FOREACH(q, bucket, chain)
    {
        if (strcmp(q->host, host) == 0) {
            return q;
        }
    }
    q = mem_zero(1, sizeof(*q));
    q->magic = QUESTION_MAGIC;
    q->state = QUESTION_WAITING;
    q->resolver = r;
    q->host = mem_dup(host);
    q->start_mono_us = clock_mono_us();
    q->replies_at_start = r->replies;
    q->faults_at_start = dnschannel_faults(r->channel, &fault);
    q->ttl_s = TTL_MAX_S; /* and lowered by what comes */
    TAILQ_INIT(&q->waiters);
    TAILQ_INSERT_TAIL(&r->open, q, link);
    TAILQ_INSERT_TAIL(&r->waiting, q, queue);
    LIST_INSERT_HEAD(bucket, q, chain);
    r->n_open++;
    return q;
}

struct resolver_query *resolver_lookup(struct resolver *r, const char *host, resolver_fn *fn,
                                       void *ctx)
{
    const struct dns_answer *known = dnscache_get(r->cache, host, clock_mono_us());
    struct resolver_query *w;

    if (known != NULL) {
        struct dns_answer copy =
            *known; /* the call-back may look up another name and push this one out */

        r->stats.cache_hits++;
        copy.addresses = dns_addresses_copy(known->addresses, known->n);
        fn(ctx, copy.addresses, copy.n, &copy.err);
        free(copy.addresses);
        return NULL;
    }
    w = mem_zero(1, sizeof(*w));
    w->magic = QUERY_MAGIC;
    w->fn = fn;
    w->ctx = ctx;
    w->question = open_question(r, host);
    TAILQ_INSERT_TAIL(&w->question->waiters, w, link);
    after_cares(r);
    return w;
}

/* ---- birth and death ---- */

struct resolver *resolver_new(struct event_base *base, const struct resolver_config *cfg,
                              struct err *err)
{
    struct resolver *r = mem_zero(1, sizeof(*r));

    r->magic = RESOLVER_MAGIC;
    r->base = base;
    r->timeout_us = cfg->timeout_ms * 1000;
    r->cache = dnscache_new(cfg->cache_max);
    TAILQ_INIT(&r->open);
    TAILQ_INIT(&r->waiting);
    TAILQ_INIT(&r->answered);
    r->timer = evtimer_new(base, on_timer, r);
    r->call_back = evtimer_new(base, on_call_back, r);
    CHECK(r->timer != NULL && r->call_back != NULL);
    r->channel = dnschannel_new(base, DNSCHANNEL_FOREIGN, cfg->servers, cfg->timeout_ms,
                                after_cares, r, err);
    if (r->channel == NULL) {
        resolver_free(r);
        return NULL;
    }
    return r;
}

static void abandon(struct question_list *list)
{
    struct question *q;
    struct resolver_query *w;

    while ((q = take_question(list)) != NULL) {
        while ((w = take_waiter(q)) != NULL) {
            free(w);
        }
        question_leave(q);
    }
}

void resolver_free(struct resolver *r)
{
    if (r == NULL) {
        return;
    }
    CHECK_MAGIC(r, RESOLVER_MAGIC);
    r->closing = true;
    abandon(&r->open);
    abandon(&r->answered);
    dnschannel_free(r->channel); /* calls back what it still owes; that frees the questions left */
    CHECK(r->n_asked == 0);
    event_free(r->timer);
    event_free(r->call_back);
    dnscache_free(r->cache);
    r->magic = 0;
    free(r);
}

void resolver_stats(const struct resolver *r, struct resolver_stats *ret)
{
    *ret = r->stats;
    ret->cached = dnscache_count(r->cache);
    ret->open = r->n_open;
}
