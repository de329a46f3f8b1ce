/* Owns transports and transfers: the pool of libcurl handles, the queue of requests to start, the
 * turn's end where transfers start and finish. Decides no outcome and retries nothing (libcurl
 * does, see transport_easy.c). Called by delivery.c and by main's turn.
 *
 * Nothing happens inside transport_send() but copying: starts and callbacks happen in
 * transport_after_turn(), or, when the owner does not call it, in the next turn (`kick`). So a
 * callback may send and cancel as it likes. */
#include "transport.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "mem.h"
#include "transport_internal.h"

static void start_and_finish(struct transport *t);

static void on_kick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    start_and_finish(ctx);
}

static void kick(struct transport *t)
{
    static const struct timeval now = {0, 0};
    if (!t->kicked && !t->in_turn) {
        CHECK(event_add(&t->kick, &now) == 0);
        t->kicked = true;
    }
}

void transport_touch(struct transport *t, struct shard *s)
{
    if (!s->touched) {
        s->touched = true;
        STAILQ_INSERT_TAIL(&t->touched, s, touched_link);
        kick(t);
    }
}

static struct shard *shard_of(const struct transport *t, const struct endpoint *e)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a; the host is lower case already */
    for (const char *p = e->host; *p != '\0'; p++) {
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    }
    h = (h ^ e->port) * 1099511628211u;
    return &t->shards[(h >> 32) % t->n_shards];
}

static void transfer_free(struct transfer *x)
{
    curl_easy_cleanup(x->easy);
    x->magic = 0;
    free(x);
}

static struct transfer *transfer_take(struct transport *t)
{
    struct transfer *x = TAILQ_FIRST(&t->idle);
    if (x != NULL) {
        TAILQ_REMOVE(&t->idle, x, link);
        t->n_idle--;
    } else {
        x = mem_alloc(sizeof(*x));
        memset(x, 0, offsetof(struct transfer, nodes));
        if (!transfer_init(x, t)) {
            x->refused = "libcurl has no memory";
        }
    }
    return x;
}

/* The last tenant's request is out of libcurl before the handle goes to the pool; the answer's
 * buffers are cut to length 0. */
static void transfer_give_back(struct transfer *x)
{
    struct transport *t = x->t;
    CHECK(x->state == TRANSFER_ENDED);
    t->stats.in_flight--;
    if (x->refused != NULL || t->n_idle >= TRANSPORT_POOL_MAX) {
        transfer_free(x);
        return;
    }
    transfer_forget(x);
    x->state = TRANSFER_IDLE;
    x->fn = NULL, x->ctx = NULL;
    x->endpoint = NULL;
    TAILQ_INSERT_HEAD(&t->idle, x, link); /* the warmest first */
    t->n_idle++;
}

/* Takes a transfer out of its list and out of libcurl. */
static void transfer_end(struct transfer *x)
{
    struct transport *t = x->t;
    if (x->state == TRANSFER_RUNNING) {
        TAILQ_REMOVE(&t->running, x, link);
        shard_remove(x->shard, x);
    } else {
        CHECK(x->state == TRANSFER_QUEUED);
        TAILQ_REMOVE(&t->queued, x, link);
    }
    x->state = TRANSFER_ENDED;
}

/* Of a transfer that is out of its list and of libcurl. */
static void report(struct transfer *x, CURLcode code)
{
    struct transport_result result;
    answer_judge(x, code, &result);
    x->t->stats.denied += x->denied != NULL;
    x->fn(x->ctx, &result);
    transfer_give_back(x);
}

struct transfer *transport_send(struct transport *t, const struct transport_request *req,
                                transport_fn *fn, void *ctx)
{
    CHECK_MAGIC(t, TRANSPORT_MAGIC);
    CHECK(req->timeout_ms > 0);
    struct transfer *x = transfer_take(t);
    CHECK_MAGIC(x, TRANSFER_MAGIC);
    answer_reset(x);
    x->denied = NULL;
    x->socket_errno = 0;
    x->unpinned = x->tls_started = false;
    x->sends = 0;
    x->peer[0] = x->error[0] = '\0';
    x->fn = fn;
    x->ctx = ctx;
    x->endpoint = req->endpoint;
    x->timeout_ms = req->timeout_ms;
    x->connect_ms =
        req->timeout_ms < t->connect_timeout_ms ? req->timeout_ms : t->connect_timeout_ms;
    x->started_us = clock_mono_us();
    x->shard = shard_of(t, req->endpoint);
    if (x->refused == NULL) {
        transfer_prepare(x, req);
    }
    x->state = TRANSFER_QUEUED;
    TAILQ_INSERT_TAIL(&t->queued, x, link);
    t->stats.in_flight++;
    t->stats.requests++;
    kick(t);
    return x;
}

void transport_cancel(struct transfer *x)
{
    CHECK_MAGIC(x, TRANSFER_MAGIC);
    transfer_end(x);
    transfer_give_back(x);
}

static void start_queued(struct transport *t)
{
    for (unsigned n = 0; n < TRANSPORT_STARTS_A_TURN && !TAILQ_EMPTY(&t->queued); n++) {
        struct transfer *x = TAILQ_FIRST(&t->queued);
        TAILQ_REMOVE(&t->queued, x, link);
        if (x->refused == NULL && !shard_add(x->shard, x)) {
            x->refused = "libcurl has no memory";
        }
        if (x->refused != NULL) {
            x->state = TRANSFER_ENDED;
            report(x, CURLE_OK);
            continue;
        }
        TAILQ_INSERT_TAIL(&t->running, x, link);
        x->state = TRANSFER_RUNNING;
        x->shard->to_start = true;
        transport_touch(t, x->shard);
    }
}

static void run_started(struct transport *t)
{
    struct shard *s;
    STAILQ_FOREACH(s, &t->touched, touched_link)
    {
        if (s->to_start) {
            s->to_start = false;
            shard_run(s);
        }
    }
}

static void finish_ended(struct transport *t)
{
    while (!STAILQ_EMPTY(&t->touched)) {
        struct shard *s = STAILQ_FIRST(&t->touched);
        STAILQ_REMOVE_HEAD(&t->touched, touched_link);
        s->touched = false;
        CURLcode code = CURLE_OK;
        struct transfer *x;
        while ((x = shard_next_ended(s, &code)) != NULL) {
            transfer_end(x);
            report(x, code);
        }
    }
}

static void start_and_finish(struct transport *t)
{
    CHECK_MAGIC(t, TRANSPORT_MAGIC);
    if (!t->kicked) {
        return; /* nobody sent, nothing moved */
    }
    CHECK(event_del(&t->kick) == 0);
    t->kicked = false;
    t->in_turn = true;
    finish_ended(t); /* first: their callbacks send the next ones */
    start_queued(t);
    run_started(t);
    finish_ended(t); /* those that could not even start */
    if (t->crowded != t->crowded_told) {
        t->crowded_told = t->crowded;
        transport_share_connections(t);
    }
    t->in_turn = false;
    if (!TAILQ_EMPTY(&t->queued)) {
        kick(t);
    }
}

void transport_after_turn(struct transport *t)
{
    start_and_finish(t);
    t->turned_us = clock_mono_us();
}

struct transport *transport_new(struct event_base *base, const struct transport_config *cfg,
                                const struct netguard *guard, struct err *err)
{
    CHECK(cfg->shards > 0 && cfg->connections_max > 0);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        (void)err_set(err, ERR_IO, "libcurl does not initialise");
        return NULL;
    }
    struct transport *t = mem_zero(1, sizeof(*t));
    t->magic = TRANSPORT_MAGIC;
    t->base = base;
    t->guard = guard;
    t->ca_file = mem_dup(cfg->ca_file);
    t->user_agent = mem_dup(cfg->user_agent);
    t->connect_timeout_ms = cfg->connect_timeout_ms;
    t->connections_max = cfg->connections_max;
    t->n_shards = cfg->shards;
    t->turned_us = clock_mono_us();
    t->shards = mem_zero(cfg->shards, sizeof(*t->shards));
    TAILQ_INIT(&t->idle);
    TAILQ_INIT(&t->queued);
    TAILQ_INIT(&t->running);
    STAILQ_INIT(&t->touched);
    CHECK(evtimer_assign(&t->kick, base, on_kick, t) == 0);
    for (unsigned i = 0; i < t->n_shards; i++) {
        if (!shard_init(&t->shards[i], t, err)) {
            transport_free(t);
            return NULL;
        }
    }
    transport_share_connections(t);
    return t;
}

static void drop_all(struct transfer_list *list)
{
    struct transfer *x;
    while ((x = TAILQ_FIRST(list)) != NULL) {
        TAILQ_REMOVE(list, x, link);
        if (x->state == TRANSFER_RUNNING) {
            shard_remove(x->shard, x);
        }
        transfer_free(x);
    }
}

void transport_free(struct transport *t)
{
    if (t == NULL) {
        return;
    }
    CHECK_MAGIC(t, TRANSPORT_MAGIC);
    drop_all(&t->running);
    drop_all(&t->queued);
    drop_all(&t->idle);
    for (unsigned i = 0; i < t->n_shards; i++) {
        shard_done(&t->shards[i]);
    }
    transport_watch_free(t);
    (void)event_del(&t->kick); /* fails only for an event that is not registered */
    free(t->shards);
    free(t->ca_file);
    free(t->user_agent);
    t->magic = 0;
    free(t);
    curl_global_cleanup();
}

void transport_stats(const struct transport *t, struct transport_stats *ret)
{
    *ret = t->stats;
}
