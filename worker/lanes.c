/* Owns who waits for which endpoint and whose turn it is. Starts and spills deliveries, looks at
 * their outcome only to learn what the endpoint can take. subscriptions, suspects and retries put
 * in; delivery reports back through lanes_left(). */
#include "lanes.h"

#include <stdlib.h>

#include "check.h"
#include "clock.h"
#include "lane_internal.h"
#include "log.h"
#include "mem.h"

/* Starting all that may start fills every cap as long as there is a backlog; the requests then fall
 * out of the CPU's caches between two turns, which costs a fifth of the worker's time (bench). */
#define STARTS_A_TURN  64
#define SPILL_CHECK_US 100000
#define FEED_EVERY_US  250000

static void take_out(struct lanes *l, struct lane *lane, struct delivery *d)
{
    TAILQ_REMOVE(&l->ages, d, age_link);
    d->next = NULL;
    lane->waiting[d->class].n--;
    l->waiting[d->class]--;
    if (lane->was_full && lane_waiting(lane) <= (size_t)l->cfg->lane_queue_max / 2) {
        lane->was_full = false;
        lane->eased_mono_us = clock_mono_us();
        TAILQ_REMOVE(&l->full, lane, full_link);
    }
}

static struct delivery *pop(struct lanes *l, struct lane *lane, int c)
{
    struct fifo *f = &lane->waiting[c];
    struct delivery *d = f->head;
    f->head = d->next;
    if (f->head == NULL) {
        f->tail = &f->head;
    }
    take_out(l, lane, d);
    return d;
}

/* d is in no FIFO. It may end at once, and take an emptied lane with it. */
static void launch(struct lanes *l, struct lane *lane, struct delivery *d)
{
    lane->in_flight++;
    lane->host->in_flight++;
    l->in_flight[d->class]++;
    delivery_start(d, lane->wh);
}

static void start(struct lanes *l, struct lane *lane, int c)
{
    const struct uuid id = lane->wh->id;
    launch(l, lane, pop(l, lane, c));
    lane = map_get(&l->by_webhook, &id);
    if (lane != NULL) {
        lane_take_turn(l, lane);
    }
}

/* It has its turn and cannot use it: it waits where room will be, or passes the room on. */
static void pass(struct lanes *l, struct lane *lane)
{
    if (lane_waiting(lane) > 0) {
        lane_take_turn(l, lane);
        return;
    }
    if (lane_host_has_room(l, lane)) {
        (void)lanes_wake_one(l, &lane->host->blocked);
    }
    lane_rest(l, lane);
}

/* False: nothing more may start. */
static bool start_burst(struct lanes *l)
{
    unsigned started = 0;
    while (lanes_requests(l) < (size_t)l->cfg->requests_max) {
        const int c = lanes_pick_class(l);
        struct lane *lane = lane_next(l, c);
        if (lane == NULL) {
            if (TAILQ_EMPTY(&l->turn[DELIVERY_NEW]) && TAILQ_EMPTY(&l->turn[DELIVERY_RETRY])) {
                return false;
            }
            continue; /* tenants without lanes: they are out of the turn now */
        }
        if (lane->waiting[c].n == 0 || lane->in_flight >= lane_cap(l, lane) ||
            !lane_host_has_room(l, lane)) {
            pass(l, lane);
            continue;
        }
        start(l, lane, c);
        if (++started == STARTS_A_TURN) {
            return true;
        }
    }
    return false;
}

/* --- in and out --- */

/* Whose doing it is that a first attempt does not start now: this worker's if the endpoint had room
 * after all had started that could. */
static void count_deferred(struct lanes *l, const struct delivery *d, bool spare)
{
    l->deferred->value += d->class == DELIVERY_NEW && spare;
}

void lanes_add(struct lanes *l, struct delivery *d)
{
    CHECK_MAGIC(l, LANES_MAGIC);
    struct lane *lane = lane_get(l, d->wh);
    if (lane->wh->inactive) { /* since it was matched */
        l->cancelled->value++;
        delivery_cancel(d);
        lane_rest(l, lane);
        return;
    }
    if (lane_waiting(lane) == 0 && lane->in_flight == 0) {
        lane->busy_mono_us = clock_mono_us();
    }
    if (lane_full(l, lane) && !lane_keeps_up(l, lane)) {
        l->spilled_full->value++;
        count_deferred(l, d, lane->spare && !lane_stuck(l, lane));
        delivery_spill(d, lane_next_moment(lane));
        return;
    }
    struct fifo *f = &lane->waiting[d->class];
    d->next = NULL;
    *f->tail = d;
    f->tail = &d->next;
    f->n++;
    l->waiting[d->class]++;
    if (!lane->was_full && lane_full(l, lane)) {
        const int64_t stuck_us = lane->stuck_us - (clock_mono_us() - lane->eased_mono_us);
        lane->was_full = true;
        lane->spare = false;
        lane->stuck_us = stuck_us > 0 ? stuck_us : 0;
        TAILQ_INSERT_TAIL(&l->full, lane, full_link);
    }
    d->queued_mono_us = clock_mono_us();
    TAILQ_INSERT_TAIL(&l->ages, d, age_link);
    lane_take_turn(l, lane);
}

bool lanes_start_now(struct lanes *l, struct delivery *d)
{
    CHECK_MAGIC(l, LANES_MAGIC);
    struct lane *lane = lane_get(l, d->wh);
    if (lane->in_flight > lane_own_cap(lane) || !lane_host_has_room(l, lane) ||
        lanes_requests(l) >= (size_t)l->cfg->requests_max) {
        lane_rest(l, lane);
        return false;
    }
    if (lane_waiting(lane) == 0 && lane->in_flight == 0) {
        lane->busy_mono_us = clock_mono_us();
    }
    launch(l, lane, d);
    return true;
}

static void learn(struct lane *lane, const struct delivery *d)
{
    const int64_t now = clock_mono_us();
    const struct attempt_result *r = &d->result;
    lane_ended(lane, now);
    if (r->fault == TRANSPORT_OURS) {
        return;
    }
    if (r->fault == TRANSPORT_TIMEOUT || r->fault == TRANSPORT_CONNECT || r->status == 429 ||
        r->status == 503) {
        lane_limit_overload(&lane->limit, d->started_mono_us, now);
    } else if (d->outcome.kind == OUTCOME_DELIVERED) {
        lane_limit_success(&lane->limit);
    }
}

void lanes_left(struct lanes *l, const struct delivery *d)
{
    CHECK_MAGIC(l, LANES_MAGIC);
    struct lane *lane = map_get(&l->by_webhook, &d->wh->id);
    CHECK_MAGIC(lane, LANE_MAGIC);
    CHECK(lane->in_flight > 0 && l->in_flight[d->class] > 0 && lane->host->in_flight > 0);
    lane->in_flight--;
    lane->host->in_flight--;
    l->in_flight[d->class]--;
    learn(lane, d);
    (void)lanes_wake_one(l, &lane->host->blocked); /* one request ended: room for one */
    while (lanes_requests(l) < (size_t)RESERVE(l->cfg->requests_max) &&
           lanes_wake_one(l, &l->starved)) {
    }
    lane_take_turn(l, lane);
    lane_rest(l, lane);
}

enum drop { DROP_ABANDON, DROP_CANCEL, DROP_GIVE_BACK };

static bool concerns(const struct delivery *d, enum drop how, const struct tracker *t)
{
    switch (how) {
    case DROP_ABANDON:
        return d->class == DELIVERY_NEW && (t == NULL || d->ev->tracker == t);
    case DROP_GIVE_BACK:
        return d->class == DELIVERY_RETRY;
    case DROP_CANCEL:
        return true;
    }
    return false;
}

static size_t drop_waiting(struct lanes *l, struct lane *lane, enum drop how,
                           const struct tracker *t)
{
    size_t n = 0;
    for (int c = 0; c < CLASSES; c++) {
        struct delivery **link = &lane->waiting[c].head;
        while (*link != NULL) {
            struct delivery *d = *link;
            if (!concerns(d, how, t)) {
                link = &d->next;
                continue;
            }
            *link = d->next;
            take_out(l, lane, d);
            n++;
            if (how == DROP_GIVE_BACK) {
                delivery_spill(d, 0);
            } else if (how == DROP_CANCEL) {
                delivery_cancel(d);
            } else {
                delivery_drop(d, false);
            }
        }
        lane->waiting[c].tail = link;
    }
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
        lane_set_webhook(l, lane, wh);
    }
    if (wh != NULL && !wh->inactive) {
        return;
    }
    const size_t n = drop_waiting(l, lane, DROP_CANCEL, NULL);
    if (n > 0) {
        l->cancelled->value += n;
        log_info("lane.cancelled", F_UUID("webhook", webhook_id), F_INT("deliveries", n));
    }
    lane_rest(l, lane);
}

struct drop_all {
    struct lanes *l;
    enum drop how;
    const struct tracker *t;
};

static void drop_in_lane(void *ctx, void *value)
{
    const struct drop_all *a = ctx;
    (void)drop_waiting(a->l, value, a->how, a->t); /* an emptied lane rests after its next turn */
}

void lanes_abandon(struct lanes *l, const struct tracker *t)
{
    CHECK_MAGIC(l, LANES_MAGIC);
    struct drop_all a = {.l = l, .how = DROP_ABANDON, .t = t};
    map_each(&l->by_webhook, drop_in_lane, &a);
}

void lanes_give_back_retries(struct lanes *l)
{
    CHECK_MAGIC(l, LANES_MAGIC);
    struct drop_all a = {.l = l, .how = DROP_GIVE_BACK};
    map_each(&l->by_webhook, drop_in_lane, &a);
}

/* --- spilling --- */

static void spill(struct lanes *l, struct delivery *d)
{
    struct lane *lane = map_get(&l->by_webhook, &d->wh->id);
    CHECK_MAGIC(lane, LANE_MAGIC);
    /* A FIFO's oldest is its head, and the age list is in the order of all FIFOs. */
    CHECK(lane->waiting[d->class].head == d);
    CHECK(pop(l, lane, (int)d->class) == d);
    l->spilled_wait->value++;
    count_deferred(l, d, lane_has_room(l, lane));
    delivery_spill(d, lane_next_moment(lane));
    lane_rest(l, lane);
}

static void spill_late(struct lanes *l)
{
    const int64_t limit = clock_mono_us() - l->cfg->spill_after * 1000;
    struct delivery *d;
    while ((d = TAILQ_FIRST(&l->ages)) != NULL && d->queued_mono_us < limit) {
        spill(l, d);
    }
}

/* At the end of the turn: what can start by then is not late. */
static void on_spill_timer(evutil_socket_t fd, short what, void *ctx)
{
    struct lanes *l = ctx;
    (void)fd;
    (void)what;
    CHECK_MAGIC(l, LANES_MAGIC);
    l->spill_due = true;
}

bool lanes_after_turn(struct lanes *l)
{
    CHECK_MAGIC(l, LANES_MAGIC);
    const bool more = start_burst(l);
    lanes_look_at_full(l);
    if (l->spill_due) {
        l->spill_due = false;
        spill_late(l);
    }
    return more;
}

bool lanes_full(const struct lanes *l)
{
    const struct lane *lane;
    TAILQ_FOREACH(lane, &l->full, full_link)
    {
        if (lane_full(l, lane) && lane_keeps_up(l, lane)) {
            return true;
        }
    }
    return false;
}

bool lanes_crowded(struct lanes *l, const struct uuid *webhook_id, size_t ahead,
                   int64_t *ret_back_in_us)
{
    struct lane *lane = map_get(&l->by_webhook, webhook_id);
    if (lane == NULL) {
        return false;
    }
    if (lane->waiting[DELIVERY_RETRY].n + ahead < lane_room_for_retries(l, lane)) {
        return false;
    }
    l->spilled_crowded->value++;
    *ret_back_in_us = lane_next_moment(lane);
    return true;
}

size_t lanes_hungry(struct lanes *l, const struct delivery *d)
{
    struct lane *lane = map_get(&l->by_webhook, &d->wh->id);
    if (lane == NULL || d->outcome.kind != OUTCOME_DELIVERED) {
        return 0;
    }
    const int64_t now = clock_mono_us();
    /* where one was put off there may be more, also when another worker did it */
    lane->put_off |= d->class == DELIVERY_RETRY && d->ev->retry.reason == EVENT_SPILL &&
                     now - lane->none_mono_us > LANE_PUT_OFF_US;
    if (!lane->put_off || lane_waiting(lane) >= lane_own_cap(lane) ||
        (!lane->idle && now - lane->fed_mono_us < FEED_EVERY_US)) {
        return 0; /* what it was given last may still be on its way */
    }
    lane->fed_mono_us = now;
    lane->moment_mono_us = now; /* what is put off from now on need not wait behind all of them */
    return lane_room_for_retries(l, lane);
}

void lanes_none_put_off(struct lanes *l, const struct uuid *webhook_id)
{
    struct lane *lane = map_get(&l->by_webhook, webhook_id);
    if (lane != NULL) {
        lane->put_off = false;
        lane->none_mono_us = clock_mono_us();
    }
}

/* --- life --- */

static double in_flight(void *ctx)
{
    return (double)lanes_requests(ctx);
}

static double waiting(void *ctx)
{
    const struct lanes *l = ctx;
    return (double)(l->waiting[DELIVERY_NEW] + l->waiting[DELIVERY_RETRY]);
}

static double busy_lanes(void *ctx)
{
    const struct lanes *l = ctx;
    return (double)(l->by_webhook.n - l->idle_n);
}

struct lanes_by_limit {
    unsigned lo, hi;
    size_t n;
};

static void count_limit(void *ctx, void *value)
{
    struct lanes_by_limit *b = ctx;
    const struct lane *lane = value;
    b->n += lane->limit.limit >= b->lo && lane->limit.limit <= b->hi;
}

static size_t lanes_between(const struct lanes *l, unsigned lo, unsigned hi)
{
    struct lanes_by_limit b = {.lo = lo, .hi = hi};
    map_each(&l->by_webhook, count_limit, &b);
    return b.n;
}

static double lanes_at_one(void *ctx)
{
    return (double)lanes_between(ctx, 1, 1);
}

static double lanes_low(void *ctx)
{
    const struct lanes *l = ctx;
    return (double)lanes_between(l, 2, (unsigned)l->cfg->lane_concurrency_start - 1);
}

static double lanes_normal(void *ctx)
{
    const struct lanes *l = ctx;
    return (double)lanes_between(l, (unsigned)l->cfg->lane_concurrency_start, UINT32_MAX);
}

static void register_metrics(struct lanes *l)
{
    l->cancelled = metrics_counter("nrw_cancelled_total", NULL,
                                   "queued deliveries whose webhook was paused or deleted");
    static const char spills[] = "deliveries written as pending instead of waiting";
    l->spilled_wait = metrics_counter("nrw_spills_total", "why=\"wait\"", spills);
    l->spilled_full = metrics_counter("nrw_spills_total", "why=\"full\"", spills);
    l->spilled_crowded = metrics_counter("nrw_spills_total", "why=\"crowded\"", spills);
    l->deferred = metrics_counter("nrw_first_attempts_deferred_total", NULL,
                                  "first attempts spilled although their endpoint had room");
    metrics_gauge("nrw_requests_max", NULL, "what nrw_in_flight may reach: NRW_REQUESTS_MAX")
        ->value = (double)l->cfg->requests_max;
    metrics_gauge_fn("nrw_in_flight", NULL, "requests in flight", in_flight, l);
    metrics_gauge_fn("nrw_lanes_waiting", NULL, "deliveries that wait in lanes", waiting, l);
    metrics_gauge_fn("nrw_lanes", NULL, "lanes with work", busy_lanes, l);
    metrics_gauge_fn("nrw_lanes_by_limit", "limit=\"one\"", "lanes in memory by their limit",
                     lanes_at_one, l);
    metrics_gauge_fn("nrw_lanes_by_limit", "limit=\"reduced\"", "lanes in memory by their limit",
                     lanes_low, l);
    metrics_gauge_fn("nrw_lanes_by_limit", "limit=\"full\"", "lanes in memory by their limit",
                     lanes_normal, l);
}

struct lanes *lanes_new(struct event_base *base, const struct config *cfg)
{
    struct lanes *l = mem_zero(1, sizeof(*l));
    l->magic = LANES_MAGIC;
    l->cfg = cfg;
    map_init(&l->by_webhook);
    map_init(&l->tenants);
    map_init(&l->hosts);
    TAILQ_INIT(&l->turn[DELIVERY_NEW]);
    TAILQ_INIT(&l->turn[DELIVERY_RETRY]);
    TAILQ_INIT(&l->starved);
    TAILQ_INIT(&l->idle);
    TAILQ_INIT(&l->full);
    TAILQ_INIT(&l->ages);
    register_metrics(l);
    event_assign(&l->spill_timer, base, -1, EV_PERSIST, on_spill_timer, l);
    const struct timeval every = {.tv_usec = SPILL_CHECK_US};
    event_add(&l->spill_timer, &every);
    return l;
}

static void collect(void *ctx, void *value)
{
    struct lane *lane = value;
    struct lane_list *all = ctx;
    lane_unblock(lane);
    TAILQ_INSERT_TAIL(all, lane, link);
}

void lanes_free(struct lanes *l)
{
    if (l == NULL) {
        return;
    }
    CHECK_MAGIC(l, LANES_MAGIC);
    event_del(&l->spill_timer);
    struct delivery *d;
    while ((d = TAILQ_FIRST(&l->ages)) != NULL) {
        TAILQ_REMOVE(&l->ages, d, age_link);
        d->next = NULL;
        delivery_drop(d, false);
    }
    while (!TAILQ_EMPTY(&l->idle)) {
        struct lane *lane = TAILQ_FIRST(&l->idle);
        TAILQ_REMOVE(&l->idle, lane, link);
        lane->idle = false;
    }
    struct lane_list all = TAILQ_HEAD_INITIALIZER(all);
    map_each(&l->by_webhook, collect, &all);
    struct lane *lane;
    while ((lane = TAILQ_FIRST(&all)) != NULL) {
        TAILQ_REMOVE(&all, lane, link);
        lane_free(l, lane);
    }
    map_done(&l->by_webhook);
    map_done(&l->tenants);
    map_done(&l->hosts);
    l->magic = 0;
    free(l);
}
