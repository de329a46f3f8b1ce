/* One lane per webhook: two FIFOs (new and retried deliveries) and an adaptive cap on requests in
 * flight.
 *
 * Who may start: lanes take turns by tenant, then by endpoint, one delivery each. New and retried
 * work have a guaranteed share of the worker's requests, each borrows what the other leaves. A host
 * that many webhooks share has a cap of its own. The last fifth of the worker's requests is for
 * endpoints that have none in flight, so that slow endpoints cannot take them all.
 *
 * Who must not wait: a delivery that waits longer than NRW_SPILL_AFTER is spilled, which means
 * written as a pending row that comes back at the endpoint's pace, in an hour at most, and earlier
 * when the endpoint takes more than that. A full lane slows intake down while its endpoint
 * keeps up; when it does not, or has had no room for NRW_SPILL_AFTER with the lane full, what
 * overflows is spilled at once. */
#ifndef NRW_LANES_H
#define NRW_LANES_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>

#include "config.h"
#include "delivery.h"
#include "tracker.h"
#include "webhook.h"

struct lanes;

struct lanes *lanes_new(struct event_base *base, const struct config *cfg);
/* Takes d until it is started, spilled or dropped; it may be spilled before this returns. */
void lanes_add(struct lanes *l, struct delivery *d);
/* A test is watched by somebody: it does not queue, whatever waits. It takes one place beyond the
 * lane's cap, if its host and the worker have room. False: they have not; d is the caller's. */
bool lanes_start_now(struct lanes *l, struct delivery *d) MUST_CHECK;
/* The request of d is over; its lane has room again, and learns from how it went. */
void lanes_left(struct lanes *l, const struct delivery *d);
/* A newer version of the webhook, or NULL: it is gone. What waits for one that is gone or inactive
 * is cancelled (P4). */
void lanes_changed(struct lanes *l, const struct uuid *webhook_id, struct webhook *wh);
/* Drops (abandons) what has not started and belongs to t; NULL: all that came from Kafka. */
void lanes_abandon(struct lanes *l, const struct tracker *t);
/* Gives every retry that has not started back to the schedule: the worker stops. */
void lanes_give_back_retries(struct lanes *l);
/* Once per turn: starts what may start, but only a burst of it. True: more may start, so the next
 * turn must not wait. Receivers that answer within a turn thus see few connections, slow ones as
 * many as the caps allow. */
bool lanes_after_turn(struct lanes *l);

bool lanes_full(const struct lanes *l); /* a healthy lane is full: intake waits */
/* More retries for this webhook than `ahead` would only wait: with those its lane holds as many as
 * it can send soon. *ret_back_in_us is then when this one should come back, an hour at most, and it
 * counts as spilled. */
bool lanes_crowded(struct lanes *l, const struct uuid *webhook_id, size_t ahead,
                   int64_t *ret_back_in_us);
/* Asked of each d that lanes_left() was told of: how many rows that were put off its webhook could
 * have now; 0: none. The endpoint answers and nearly nothing waits for it: it has recovered, or is
 * quicker than was thought when they were put off. */
size_t lanes_hungry(struct lanes *l, const struct delivery *d);
void lanes_none_put_off(struct lanes *l, const struct uuid *webhook_id);
void lanes_free(struct lanes *l); /* drops (abandons) what waits */

#endif
