/* One lane per webhook: a FIFO of deliveries and a cap on requests in flight. Lanes with work and
 * room take turns, one delivery each, so a long queue for one endpoint does not hold up the others;
 * the worker's own limit of requests in flight is over all of them. A lane exists while it has
 * work. */
#ifndef NRW_LANES_H
#define NRW_LANES_H

#include <stdbool.h>
#include <stddef.h>

#include "config.h"
#include "delivery.h"
#include "tracker.h"
#include "webhook.h"

struct lanes;

struct lanes *lanes_new(const struct config *cfg);
/* Takes d until it is started or dropped. */
void lanes_add(struct lanes *l, struct delivery *d);
/* The request of d is over; its lane has room again. */
void lanes_left(struct lanes *l, const struct delivery *d);
/* A newer version of the webhook, or NULL: it is gone and what waits for it is dropped, settled
 * (P4). */
void lanes_changed(struct lanes *l, const struct uuid *webhook_id, struct webhook *wh);
/* Drops (abandons) what has not started and belongs to t; NULL: all. */
void lanes_abandon(struct lanes *l, const struct tracker *t);
/* Once per turn: starts what may start, but only a burst of it. True: more may start, so the next
 * turn must not wait. Receivers that answer within a turn thus see few connections, slow ones as
 * many as the caps allow. */
bool lanes_after_turn(struct lanes *l);

bool lanes_full(
    const struct lanes *l); /* some lane holds NRW_LANE_QUEUE_MAX deliveries: intake waits */
size_t lanes_in_flight(const struct lanes *l);
void lanes_free(struct lanes *l); /* drops (abandons) what waits */

#endif
