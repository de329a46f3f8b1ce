/* Deliveries that are due again: leased in PostgreSQL, loaded with their payload, and handed back
 * into the data path at the lanes. Which ones are due comes from the schedule (Redis), or, while
 * that is down, from a slow sweep of pending_deliveries. Either way the row's leased_until decides
 * who sends: one UPDATE that only one worker wins (R26). */
#ifndef NRW_RETRIES_H
#define NRW_RETRIES_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>

#include "config.h"
#include "event.h"
#include "ids.h"
#include "pg.h"

struct retries;

struct retries_handlers {
    /* A leased delivery as an event of one webhook; takes the reference. */
    void (*loaded)(void *ctx, struct nrw_event *ev);
    /* Not ours to send now: due again in delay_us / there is no such row any more. */
    void (*later)(void *ctx, const struct uuid *id, int64_t delay_us);
    void (*ended)(void *ctx, const struct uuid *id);
    /* Its webhook has enough to do with `ahead` more of this page: true, and somebody else sees to
     * the row, which is neither leased nor loaded. Not asked about tests. */
    bool (*crowded)(void *ctx, const struct uuid *id, const struct uuid *webhook_id, size_t ahead);
    void *ctx;
};

#define RETRIES_BATCH 500

struct retries *retries_new(struct event_base *base, const struct config *cfg,
                            struct event_account *account, const struct retries_handlers *handlers);
/* Its connection, shared with the schedule. */
struct pg *retries_pg(const struct retries *r);
bool retries_up(const struct retries *r);

/* Lease and load ids[0..n), n <= RETRIES_BATCH, as far as NRW_EVENT_BYTES_MAX leaves room for their
 * payloads: they are looked at first, and what does not fit is told as later. What cannot be loaded
 * now (PostgreSQL is away) is forgotten: its row stays due. */
void retries_claimed(struct retries *r, const struct uuid *ids, size_t n);
size_t retries_loading(const struct retries *r); /* ids whose rows are on the way */
/* How many more there is likely room for, by the size of the last ones; of the first ones nothing
 * is known, so each may be as large as any. */
size_t retries_room(const struct retries *r);

/* Once per turn: deletes the rows that ended in it. want: how many more deliveries may be taken;
 * sweep: the schedule is down, look for due rows here. */
void retries_after_turn(struct retries *r, size_t want, bool sweep);

/* The webhook of a loaded event is gone, paused or disabled: its row is deleted at the end of the
 * turn, with a log line. */
void retries_cancel(struct retries *r, struct nrw_event *ev);

/* How long a lease is: the wait in a lane, the longest attempt, and time to write the outcome. */
int64_t retries_lease_ms(const struct config *cfg);

void retries_free(struct retries *r);

#endif
