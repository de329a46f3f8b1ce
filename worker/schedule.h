/* The index of deadlines in Redis: {nrw}:due and {nrw}:leased, sorted sets of delivery ids scored
 * by Redis' own milliseconds. The truth is pending_deliveries; this index can be lost at any time
 * and is rebuilt from it (ARCHITECTURE 4, practices 3, rules 23-30). Each operation is one Lua
 * script of schema/redis/ on one hash tag. Members are 36-character delivery ids. */
#ifndef NRW_SCHEDULE_H
#define NRW_SCHEDULE_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "ids.h"
#include "pg.h"

struct schedule;

#define SCHEDULE_CLAIM_MAX 500

struct schedule_config {
    const char *redis_url;
    int64_t lease_ms; /* longer than the longest attempt and the wait before it */
    /* How often rows that Redis has forgotten are looked for, +-10 %; a row counts as forgotten
     * when it is overdue for half of this. So none is later than 1.6 times this. */
    int64_t reconcile_ms;
};

struct schedule_handlers {
    /* ids[0..n) are leased to this worker now (n <= what schedule_want() allows). Borrowed until
     * return. */
    void (*claimed)(void *ctx, const struct uuid *ids, size_t n);
    void *ctx;
};

/* pg: borrowed for life; used for rebuild and reconcile only. NULL: bad URL. */
struct schedule *schedule_new(struct event_base *base, const struct schedule_config *cfg,
                              struct pg *pg, const struct schedule_handlers *handlers,
                              struct err *err) MUST_CHECK;

/* How many deliveries the owner could take now; 0 stops claiming. Claims happen by themselves: at
 * the next due time (told by the last claim), on a wake-up message, and at least once a second
 * while something may be due; never while the want is 0. */
void schedule_want(struct schedule *s, size_t n);

/* A pending row was committed: due in delay_ms from now, by Redis' clock. Batched into one command
 * a turn. Redis down: forgotten, because the reconcile finds the row. */
void schedule_add(struct schedule *s, const struct uuid *id, int64_t delay_ms);
/* The delivery has ended: its lease is over. An appointment that somebody made meanwhile stays. */
void schedule_done(struct schedule *s, const struct uuid *id);
/* Claimed but not started: give it back, due in delay_ms. */
void schedule_give_back(struct schedule *s, const struct uuid *id, int64_t delay_ms);

/* Sends what has collected; once per turn. */
void schedule_after_turn(struct schedule *s);

bool schedule_up(
    const struct schedule *s); /* connected, and the index is (being) rebuilt if it was lost */
void schedule_free(struct schedule *s);

#endif
