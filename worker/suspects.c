/* Owns the suspect window of each partition and the look-ups that a crash or a rebalance makes
 * necessary. Borrows the subscriptions' connection. worker.c puts it between subscriptions and
 * lanes. */
#include "suspects.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "log.h"
#include "map.h"
#include "mem.h"
#include "metrics.h"
#include "pgarray.h"

#define SUSPECTS_MAGIC 0x53555350u
#define LOOKUP_BATCH   500
#define PAUSE_US       1000000

struct window {
    uint64_t epoch; /* of the tracker; 0 = none */
    bool known;
    int64_t high; /* suspect: offset <= high, once known */
};

struct suspects {
    unsigned magic;
    const struct config *cfg;
    struct pg *pg;
    struct suspects_handlers on;
    struct window *windows; /* by partition */
    size_t windows_n;
    bool ask; /* some window is not known */
    bool asking;
    uint64_t asked_epoch;   /* windows newer than the question stay unknown */
    struct delivery *queue; /* not looked up yet, oldest first */
    struct delivery **queue_tail;
    struct delivery *out; /* their look-up is under way */
    bool looking;
    int64_t not_before_mono_us; /* after a failure */
    struct counter *looked_up, *skipped;
};

/* --- the window --- */

void suspects_assigned(struct suspects *s, struct tracker *const *trackers, size_t n)
{
    CHECK_MAGIC(s, SUSPECTS_MAGIC);
    for (size_t i = 0; i < n; i++) {
        const size_t p = (size_t)tracker_partition(trackers[i]);
        if (p >= s->windows_n) {
            s->windows = mem_grow(s->windows, p + 1, sizeof(*s->windows));
            memset(&s->windows[s->windows_n], 0, (p + 1 - s->windows_n) * sizeof(*s->windows));
            s->windows_n = p + 1;
        }
        s->windows[p] = (struct window){.epoch = tracker_epoch(trackers[i])};
    }
    s->ask = s->ask || n > 0;
}

bool suspects_covers(const struct suspects *s, const struct tracker *t, int64_t offset)
{
    const size_t p = (size_t)tracker_partition(t);
    CHECK(p < s->windows_n);
    const struct window *w = &s->windows[p];
    return !w->known || w->epoch != tracker_epoch(t) || offset <= w->high;
}

static void told(void *ctx, const struct pg_reply *reply)
{
    struct suspects *s = ctx;
    CHECK_MAGIC(s, SUSPECTS_MAGIC);
    s->asking = false;
    if (!reply->ok) {
        s->ask = true;
        s->not_before_mono_us = clock_mono_us() + PAUSE_US;
        log_warn("suspects.progress_failed", F_ERR(reply->err));
        return;
    }
    for (size_t p = 0; p < s->windows_n; p++) {
        struct window *w = &s->windows[p];
        if (!w->known && w->epoch != 0 && w->epoch <= s->asked_epoch) {
            w->known = true;
            w->high = -1; /* no row: nothing was ever journaled */
        }
    }
    const PGresult *r = reply->results[0];
    for (int row = 0; row < PQntuples(r); row++) {
        const int64_t p = pgvalue_int8(r, row, 0);
        if (p >= 0 && (size_t)p < s->windows_n && s->windows[p].epoch <= s->asked_epoch) {
            s->windows[p].high = pgvalue_int8(r, row, 1);
        }
    }
}

static void ask_progress(struct suspects *s)
{
    static const char sql[] = "SELECT partition::bigint, journaled_offset FROM consumer_progress"
                              " WHERE consumer_group = $1 AND topic = $2";
    const struct pg_param params[] = {{.type = 25, .data = s->cfg->group},
                                      {.type = 25, .data = s->cfg->topic}};
    const struct pg_stmt stmt = {
        .sql = sql, .params = params, .n_params = 2, .binary_result = true};
    s->asked_epoch = 0;
    for (size_t p = 0; p < s->windows_n; p++) {
        s->asked_epoch =
            s->windows[p].epoch > s->asked_epoch ? s->windows[p].epoch : s->asked_epoch;
    }
    s->asking = pg_submit(s->pg, &stmt, 1, told, s);
    s->ask = !s->asking;
}

/* --- look-ups --- */

void suspects_add(struct suspects *s, struct delivery *d)
{
    CHECK_MAGIC(s, SUSPECTS_MAGIC);
    d->next = NULL;
    *s->queue_tail = d;
    s->queue_tail = &d->next;
}

/* Nested loops by primary key whatever the planner's statistics say: the partitions are young when
 * this runs. */
static const char lookup_sql[] =
    "SELECT s.delivery_id FROM unnest($1, $2) AS s (received_at, delivery_id)"
    " WHERE EXISTS (SELECT FROM attempts a WHERE a.received_at = s.received_at AND a.delivery_id = "
    "s.delivery_id)"
    " OR EXISTS (SELECT FROM pending_deliveries p WHERE p.delivery_id = s.delivery_id)";

static void looked_up(void *ctx, const struct pg_reply *reply)
{
    struct suspects *s = ctx;
    CHECK_MAGIC(s, SUSPECTS_MAGIC);
    struct delivery *d = s->out;
    s->out = NULL;
    s->looking = false;
    if (!reply->ok) {
        s->not_before_mono_us = clock_mono_us() + PAUSE_US;
        log_warn("suspects.lookup_failed", F_ERR(reply->err));
        while (d != NULL) { /* again, later */
            struct delivery *next = d->next;
            suspects_add(s, d);
            d = next;
        }
        return;
    }
    struct map found;
    map_init(&found);
    const PGresult *r = reply->results[0];
    for (int row = 0; row < PQntuples(r); row++) {
        const struct uuid id = pgvalue_uuid(r, row, 0);
        map_put(&found, &id, s);
    }
    while (d != NULL) {
        struct delivery *next = d->next;
        d->next = NULL;
        s->looked_up->value++;
        if (map_get(&found, &d->id) != NULL) {
            s->skipped->value++;
            s->on.known(s->on.ctx, d);
        } else {
            s->on.cleared(s->on.ctx, d);
        }
        d = next;
    }
    map_done(&found);
}

static void look_up(struct suspects *s)
{
    struct pgarray received;
    struct pgarray ids;
    pgarray_init(&received, PGARRAY_TIME, 64 + (size_t)LOOKUP_BATCH * 12);
    pgarray_init(&ids, PGARRAY_UUID, 64 + (size_t)LOOKUP_BATCH * 20);
    struct delivery **link = &s->queue;
    for (size_t n = 0; *link != NULL && n < LOOKUP_BATCH; n++) {
        pgarray_add_time(&received, (*link)->ev->received_at_us);
        pgarray_add_uuid(&ids, &(*link)->id);
        link = &(*link)->next;
    }
    const struct pg_param params[] = {pgarray_param(&received), pgarray_param(&ids)};
    const struct pg_stmt stmt = {
        .sql = lookup_sql, .params = params, .n_params = 2, .binary_result = true};
    s->looking = pg_submit(s->pg, &stmt, 1, looked_up, s);
    if (s->looking) {
        s->out = s->queue;
        s->queue = *link;
        *link = NULL;
        if (s->queue == NULL) {
            s->queue_tail = &s->queue;
        }
    }
    pgarray_done(&received);
    pgarray_done(&ids);
}

static struct delivery **abandon_in(struct delivery **link, const struct tracker *t)
{
    while (*link != NULL) {
        struct delivery *d = *link;
        if (t == NULL || d->ev->tracker == t) {
            *link = d->next;
            delivery_drop(d, false);
        } else {
            link = &d->next;
        }
    }
    return link;
}

void suspects_abandon(struct suspects *s, const struct tracker *t)
{
    CHECK_MAGIC(s, SUSPECTS_MAGIC);
    (void)abandon_in(&s->out, t);
    s->queue_tail = abandon_in(&s->queue, t);
}

void suspects_after_turn(struct suspects *s)
{
    CHECK_MAGIC(s, SUSPECTS_MAGIC);
    if (!pg_is_up(s->pg) || clock_mono_us() < s->not_before_mono_us) {
        return;
    }
    if (s->ask && !s->asking) {
        ask_progress(s);
    }
    if (s->queue != NULL && !s->looking) {
        look_up(s);
    }
}

struct suspects *suspects_new(const struct config *cfg, struct pg *pg,
                              const struct suspects_handlers *handlers)
{
    struct suspects *s = mem_zero(1, sizeof(*s));
    s->magic = SUSPECTS_MAGIC;
    s->cfg = cfg;
    s->pg = pg;
    s->on = *handlers;
    s->queue_tail = &s->queue;
    s->looked_up =
        metrics_counter("nrw_suspects_total", NULL, "deliveries looked up after an assignment");
    s->skipped = metrics_counter("nrw_duplicates_skipped_total", NULL,
                                 "deliveries found settled after an assignment and not sent again");
    return s;
}

void suspects_free(struct suspects *s)
{
    if (s == NULL) {
        return;
    }
    CHECK_MAGIC(s, SUSPECTS_MAGIC);
    suspects_abandon(s, NULL);
    free(s->windows);
    s->windows = NULL;
    s->magic = 0;
    free(s);
}
