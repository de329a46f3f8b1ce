/* Owns who waits for which endpoint and whose turn it is. Starts deliveries, never looks at their
 * outcome. subscriptions and suspects put in; delivery reports back through lanes_left(). */
#include "lanes.h"

#include <stdlib.h>

#include "check.h"
#include "log.h"
#include "map.h"
#include "mem.h"
#include "metrics.h"

#define LANES_MAGIC 0x4c414e45u
#define LANE_MAGIC  0x4c4e4531u
/* Starting all that may start fills every cap as long as there is a backlog; the requests then fall
 * out of the CPU's caches between two turns, which costs a fifth of the worker's time (bench). */
#define STARTS_A_TURN 64u

struct lane {
    unsigned magic;
    struct webhook *wh; /* newest version; one reference */
    struct delivery *head;
    struct delivery **tail;
    size_t waiting;
    size_t in_flight;
    bool in_turn; /* linked in lanes.turn */
    struct lane *next;
};

struct lanes {
    unsigned magic;
    const struct config *cfg;
    struct map by_webhook;
    struct lane *turn; /* lanes with work and room, in the order of their turns */
    struct lane **turn_tail;
    size_t in_flight;
    size_t waiting;
    size_t full;
    struct counter *cancelled;
};

static bool lane_full(const struct lanes *l, const struct lane *lane)
{
    return lane->waiting >= (size_t)l->cfg->lane_queue_max;
}

/* A failing webhook gets one request at a time (ARCHITECTURE 7). */
static size_t cap_of(const struct lanes *l, const struct lane *lane)
{
    return lane->wh->failing ? 1 : (size_t)l->cfg->lane_concurrency;
}

static void take_turn(struct lanes *l, struct lane *lane)
{
    if (lane->in_turn || lane->waiting == 0 || lane->in_flight >= cap_of(l, lane)) {
        return;
    }
    lane->in_turn = true;
    lane->next = NULL;
    *l->turn_tail = lane;
    l->turn_tail = &lane->next;
}

static struct lane *pop_turn(struct lanes *l)
{
    struct lane *lane = l->turn;
    CHECK_MAGIC(lane, LANE_MAGIC);
    l->turn = lane->next;
    if (l->turn == NULL) {
        l->turn_tail = &l->turn;
    }
    lane->in_turn = false;
    return lane;
}

/* A lane in the turn list is freed when its turn comes. */
static void free_if_idle(struct lanes *l, struct lane *lane)
{
    if (lane->waiting > 0 || lane->in_flight > 0 || lane->in_turn) {
        return;
    }
    (void)map_remove(&l->by_webhook, &lane->wh->id);
    webhook_unref(lane->wh);
    lane->wh = NULL;
    lane->magic = 0;
    free(lane);
}

static struct lane *lane_of(struct lanes *l, struct webhook *wh)
{
    struct lane *lane = map_get(&l->by_webhook, &wh->id);
    if (lane == NULL) {
        lane = mem_zero(1, sizeof(*lane));
        lane->magic = LANE_MAGIC;
        lane->wh = webhook_ref(wh);
        lane->tail = &lane->head;
        map_put(&l->by_webhook, &wh->id, lane);
    } else if (lane->wh->version < wh->version) {
        webhook_unref(lane->wh);
        lane->wh = webhook_ref(wh);
    }
    return lane;
}

void lanes_add(struct lanes *l, struct delivery *d)
{
    CHECK_MAGIC(l, LANES_MAGIC);
    struct lane *lane = lane_of(l, d->wh);
    const bool was_full = lane_full(l, lane);
    d->next = NULL;
    *lane->tail = d;
    lane->tail = &d->next;
    lane->waiting++;
    l->waiting++;
    l->full += !was_full && lane_full(l, lane);
    take_turn(l, lane);
}

/* Counts one delivery out of the lane's queue; the caller has unlinked it. */
static void count_out(struct lanes *l, struct lane *lane)
{
    l->full -= lane_full(l, lane) && lane->waiting - 1 < (size_t)l->cfg->lane_queue_max;
    lane->waiting--;
    l->waiting--;
}

static void start_one(struct lanes *l, struct lane *lane)
{
    struct delivery *d = lane->head;
    lane->head = d->next;
    if (lane->head == NULL) {
        lane->tail = &lane->head;
    }
    d->next = NULL;
    count_out(l, lane);
    lane->in_flight++;
    l->in_flight++;
    delivery_start(d, lane->wh);
}

bool lanes_after_turn(struct lanes *l)
{
    CHECK_MAGIC(l, LANES_MAGIC);
    for (unsigned n = 0; l->turn != NULL && l->in_flight < (size_t)l->cfg->requests_max; n++) {
        if (n == STARTS_A_TURN) {
            return true;
        }
        struct lane *lane = pop_turn(l);
        if (lane->waiting > 0 && lane->in_flight < cap_of(l, lane)) {
            lane->in_turn = true; /* keeps it alive if the delivery ends at once */
            start_one(l, lane);
            lane->in_turn = false;
            take_turn(l, lane);
        }
        free_if_idle(l, lane);
    }
    return false;
}

void lanes_left(struct lanes *l, const struct delivery *d)
{
    CHECK_MAGIC(l, LANES_MAGIC);
    struct lane *lane = map_get(&l->by_webhook, &d->wh->id);
    CHECK_MAGIC(lane, LANE_MAGIC);
    CHECK(lane->in_flight > 0 && l->in_flight > 0);
    lane->in_flight--;
    l->in_flight--;
    take_turn(l, lane);
    free_if_idle(l, lane);
}

/* t NULL: all. */
static size_t drop_waiting(struct lanes *l, struct lane *lane, const struct tracker *t, bool all,
                           bool settled)
{
    size_t n = 0;
    struct delivery **link = &lane->head;
    while (*link != NULL) {
        struct delivery *d = *link;
        if (all || d->ev->tracker == t) {
            *link = d->next;
            d->next = NULL;
            count_out(l, lane);
            delivery_drop(d, settled);
            n++;
        } else {
            link = &d->next;
        }
    }
    lane->tail = link;
    return n;
}

void lanes_changed(struct lanes *l, const struct uuid *webhook_id, struct webhook *wh)
{
    CHECK_MAGIC(l, LANES_MAGIC);
    struct lane *lane = map_get(&l->by_webhook, webhook_id);
    if (lane == NULL) {
        return;
    }
    if (wh != NULL) {
        webhook_unref(lane->wh);
        lane->wh = webhook_ref(wh);
        take_turn(l, lane); /* its cap may have grown */
        return;
    }
    const size_t n = drop_waiting(l, lane, NULL, true, true);
    if (n > 0) {
        l->cancelled->value += n;
        log_info("lane.cancelled", F_UUID("webhook", webhook_id), F_INT("deliveries", n));
    }
    free_if_idle(l, lane);
}

struct abandon {
    struct lanes *l;
    const struct tracker *t;
};

static void abandon_lane(void *ctx, void *value)
{
    const struct abandon *a = ctx;
    struct lane *lane = value;
    (void)drop_waiting(a->l, lane, a->t, a->t == NULL, false);
}

void lanes_abandon(struct lanes *l, const struct tracker *t)
{
    CHECK_MAGIC(l, LANES_MAGIC);
    struct abandon a = {.l = l, .t = t};
    map_each(&l->by_webhook, abandon_lane, &a);
}

bool lanes_full(const struct lanes *l)
{
    return l->full > 0;
}

size_t lanes_in_flight(const struct lanes *l)
{
    return l->in_flight;
}

static double in_flight(void *ctx)
{
    return (double)((struct lanes *)ctx)->in_flight;
}

static double waiting(void *ctx)
{
    return (double)((struct lanes *)ctx)->waiting;
}

static double lanes_open(void *ctx)
{
    return (double)((struct lanes *)ctx)->by_webhook.n;
}

struct lanes *lanes_new(const struct config *cfg)
{
    struct lanes *l = mem_zero(1, sizeof(*l));
    l->magic = LANES_MAGIC;
    l->cfg = cfg;
    l->turn_tail = &l->turn;
    map_init(&l->by_webhook);
    l->cancelled = metrics_counter("nrw_cancelled_total", NULL,
                                   "queued deliveries whose webhook was paused or deleted");
    metrics_gauge_fn("nrw_in_flight", NULL, "requests in flight", in_flight, l);
    metrics_gauge_fn("nrw_lanes_waiting", NULL, "deliveries that wait in lanes", waiting, l);
    metrics_gauge_fn("nrw_lanes", NULL, "lanes with work", lanes_open, l);
    return l;
}

static void free_lane(void *ctx, void *value)
{
    struct lane *lane = value;
    (void)drop_waiting(ctx, lane, NULL, true, false);
    webhook_unref(lane->wh);
    lane->wh = NULL;
    lane->magic = 0;
    free(lane);
}

void lanes_free(struct lanes *l)
{
    if (l == NULL) {
        return;
    }
    CHECK_MAGIC(l, LANES_MAGIC);
    map_each(&l->by_webhook, free_lane, l);
    map_done(&l->by_webhook);
    l->magic = 0;
    free(l);
}
