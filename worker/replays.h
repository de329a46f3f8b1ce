/* The durable jobs by which a tenant has past events delivered again: rows of `replay_jobs` become
 * rows of `pending_deliveries`, which the schedule and the retries then treat like any other. A job
 * is worked on a page at a time, each time by whichever worker takes it up (leased_until), the one
 * that has waited longest first. A page is one unit: its pending rows and the job's cursor are
 * written together, and only while the lease is ours, so a crash anywhere neither skips an event
 * nor enqueues one twice.
 *
 * A job holds at most pending_max pending rows; it goes on when some have ended. What it enqueues
 * has a round of attempts of its own. The selection is by what the delivery's log says:
 *   failed  tried, never delivered, and nothing pending
 *   missed  never tried, and nothing pending
 *   all     nothing pending
 * Events that are so young that their first attempt may still be under way wait for settle_ms,
 * unless only failed ones are selected. The job of a webhook that was paused, disabled or deleted
 * meanwhile is cancelled; what is left of it in pending_deliveries is upkeep's to delete. */
#ifndef NRW_REPLAYS_H
#define NRW_REPLAYS_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "ids.h"
#include "pg.h"

struct replays;

/* 0 is the default. */
struct replays_config {
    int64_t poll_ms;   /* how often a job is looked for, and how long one waits that cannot go on;
                        * 1 s */
    int64_t lease_ms;  /* longer than a page can take; 30 s                                     */
    int64_t settle_ms; /* from an event's time to the row of its first attempt                  */
    int page_max;      /* events looked at in one unit; 500                                     */
    int pending_max;   /* of one job; 1 000                                                     */
};

struct replays_handlers {
    /* Its pending row is durable and due in delay_us. */
    void (*due)(void *ctx, const struct uuid *id, int64_t delay_us);
    void *ctx;
};

/* pg: borrowed for life. */
struct replays *replays_new(struct event_base *base, const struct replays_config *cfg,
                            struct pg *pg, const struct replays_handlers *handlers);
/* Takes no further job up; idle once the page in hand is written. */
void replays_stop(struct replays *r);
bool replays_is_idle(const struct replays *r);
/* Breaks off: the page in hand is begun anew by somebody when its lease is over. pg must have been
 * freed (or its units answered) before. */
void replays_free(struct replays *r);

#endif
