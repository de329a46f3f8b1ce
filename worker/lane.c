/* Owns the life of lanes and of what they share: their tenant's turn and their host's cap. An idle
 * lane is kept for a while, because it remembers what its endpoint can take. Called by lanes.c and
 * lane_turns.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "lane_internal.h"
#include "mem.h"

#define IDLE_MAX 10000

size_t lanes_requests(const struct lanes *l)
{
    return l->in_flight[DELIVERY_NEW] + l->in_flight[DELIVERY_RETRY];
}

static struct uuid host_key(const struct endpoint *e)
{
    static const struct uuid hosts_namespace = {{0x6e, 0x72, 0x77}};
    char name[LIMIT_HOST + 8];
    const int len = snprintf(name, sizeof(name), "%s:%u", e->host, (unsigned)e->port);
    return uuid_v5(&hosts_namespace, name, (size_t)len);
}

static struct lane_host *host_join(struct lanes *l, const struct endpoint *e)
{
    const struct uuid key = host_key(e);
    struct lane_host *h = map_get(&l->hosts, &key);
    if (h == NULL) {
        h = mem_zero(1, sizeof(*h));
        h->key = key;
        TAILQ_INIT(&h->blocked);
        map_put(&l->hosts, &key, h);
    }
    h->lanes++;
    return h;
}

static void host_leave(struct lanes *l, struct lane_host *h)
{
    if (--h->lanes == 0) {
        (void)map_remove(&l->hosts, &h->key);
        free(h);
    }
}

static struct lane_tenant *tenant_join(struct lanes *l, const struct uuid *id)
{
    struct lane_tenant *t = map_get(&l->tenants, id);
    if (t == NULL) {
        t = mem_zero(1, sizeof(*t));
        t->id = *id;
        TAILQ_INIT(&t->turn[DELIVERY_NEW]);
        TAILQ_INIT(&t->turn[DELIVERY_RETRY]);
        map_put(&l->tenants, id, t);
    }
    t->lanes++;
    return t;
}

static void tenant_leave(struct lanes *l, struct lane_tenant *t)
{
    if (--t->lanes > 0) {
        return;
    }
    for (int c = 0; c < CLASSES; c++) {
        if (t->in_turn[c]) {
            TAILQ_REMOVE(&l->turn[c], t, link[c]);
        }
    }
    (void)map_remove(&l->tenants, &t->id);
    free(t);
}

size_t lane_waiting(const struct lane *lane)
{
    return lane->waiting[DELIVERY_NEW].n + lane->waiting[DELIVERY_RETRY].n;
}

bool lane_full(const struct lanes *l, const struct lane *lane)
{
    return lane_waiting(lane) >= (size_t)l->cfg->lane_queue_max;
}

bool lane_host_has_room(const struct lanes *l, const struct lane *lane)
{
    return lane->host->in_flight < (size_t)l->cfg->host_concurrency;
}

/* A failing webhook gets one request at a time … */
size_t lane_own_cap(const struct lane *lane)
{
    return lane->wh->failing ? 1 : lane->limit.limit;
}

/* … and near the worker's own limit everybody does. */
size_t lane_cap(const struct lanes *l, const struct lane *lane)
{
    const bool near_the_end = lanes_requests(l) >= (size_t)RESERVE(l->cfg->requests_max);
    return near_the_end ? 1 : lane_own_cap(lane);
}

void lane_free(struct lanes *l, struct lane *lane)
{
    for (int c = 0; c < CLASSES; c++) {
        lane_leave_turn(lane, c);
    }
    lane_unblock(lane);
    if (lane->idle) {
        TAILQ_REMOVE(&l->idle, lane, link);
        l->idle_n--;
    }
    (void)map_remove(&l->by_webhook, &lane->wh->id);
    tenant_leave(l, lane->tenant);
    host_leave(l, lane->host);
    webhook_unref(lane->wh);
    lane->wh = NULL;
    lane->magic = 0;
    free(lane);
}

/* The requests under way count for the new host from now on; they are over soon. */
static void change_host(struct lanes *l, struct lane *lane, const struct endpoint *to)
{
    struct lane_host *from = lane->host;
    lane_unblock(lane);
    lane->host = host_join(l, to);
    lane->host->in_flight += lane->in_flight;
    from->in_flight -= lane->in_flight;
    for (size_t i = 0; i < lane->in_flight && lanes_wake_one(l, &from->blocked); i++) {
    }
    host_leave(l, from);
}

void lane_set_webhook(struct lanes *l, struct lane *lane, struct webhook *wh)
{
    const bool moved = strcmp(lane->wh->endpoint.host, wh->endpoint.host) != 0 ||
                       lane->wh->endpoint.port != wh->endpoint.port;
    if (moved) {
        change_host(l, lane, &wh->endpoint);
    }
    webhook_unref(lane->wh);
    lane->wh = webhook_ref(wh);
    lane_take_turn(l, lane); /* its cap may have grown, its host may have room */
}

struct lane *lane_get(struct lanes *l, struct webhook *wh)
{
    struct lane *lane = map_get(&l->by_webhook, &wh->id);
    if (lane == NULL) {
        lane = mem_zero(1, sizeof(*lane));
        lane->magic = LANE_MAGIC;
        lane->wh = webhook_ref(wh);
        lane->tenant = tenant_join(l, &wh->tenant_id);
        lane->host = host_join(l, &wh->endpoint);
        for (int c = 0; c < CLASSES; c++) {
            lane->waiting[c].tail = &lane->waiting[c].head;
        }
        lane_limit_init(&lane->limit, (unsigned)l->cfg->lane_concurrency_start,
                        (unsigned)l->cfg->lane_concurrency);
        map_put(&l->by_webhook, &wh->id, lane);
        return lane;
    }
    if (lane->idle) {
        TAILQ_REMOVE(&l->idle, lane, link);
        lane->idle = false;
        l->idle_n--;
    }
    if (lane->wh->version < wh->version) {
        lane_set_webhook(l, lane, wh);
    }
    return lane;
}

/* An idle lane keeps its limit, so that an endpoint in trouble is not met with a fresh burst. */
void lane_rest(struct lanes *l, struct lane *lane)
{
    if (lane->idle || lane_waiting(lane) > 0 || lane->in_flight > 0) {
        return;
    }
    lane->idle = true;
    lane_unblock(lane);
    TAILQ_INSERT_TAIL(&l->idle, lane, link);
    if (++l->idle_n > IDLE_MAX) {
        lane_free(l, TAILQ_FIRST(&l->idle));
    }
}
