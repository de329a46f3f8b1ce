/* The Kafka side of intake: group membership, assignment, flow, offsets. All on the loop:
 * librdkafka's consumer queue wakes an eventfd, and a 1 s timer polls as well (practices 1.3). No
 * batch API, no manual commit (R6).
 *
 * A revoked partition is drained without blocking: its tracker stops, `revoking` lets the owner
 * drop what has not started, and when nothing of it is left in memory - or the drain timeout has
 * passed - offsets are stored and the partition is given back. */
#ifndef NRW_CONSUMER_H
#define NRW_CONSUMER_H

#include <event2/event.h>
#include <librdkafka/rdkafka.h>
#include <stdbool.h>

#include "config.h"
#include "err.h"
#include "tracker.h"

struct consumer;

#define CONSUMER_TROUBLE 400 /* bytes of an error's text, with its NUL */

struct consumer_handlers {
    /* One message: the slot is open; somebody must close or leave it. message is borrowed until
     * return. */
    void (*message)(void *ctx, struct tracker *t, uint64_t slot, const rd_kafka_message_t *message);
    /* Partitions were assigned, each with a fresh tracker (epoch). */
    void (*assigned)(void *ctx, struct tracker *const *trackers, size_t n);
    /* Drop every delivery of t that has not started; what is in hand may finish. */
    void (*revoking)(void *ctx, const struct tracker *t);
    /* librdkafka says that this client cannot go on. */
    void (*fatal)(void *ctx, const char *text);
    void *ctx;
};

struct consumer *consumer_new(struct event_base *base, const struct config *cfg,
                              const struct consumer_handlers *handlers, struct err *err) MUST_CHECK;

/* Whether more messages are welcome. Off: nothing is polled for up to 1 s (prefetch is bounded,
 * heartbeats go on), then the partitions are paused so that rebalances are still served; only what
 * was paused here is resumed (practices 1.2). */
void consumer_set_flow(struct consumer *c, bool on);

/* Once per turn: polls what is left over, stores offsets that moved, finishes drains. */
void consumer_after_turn(struct consumer *c);

/* Starts leaving the group: no more messages, drain, store, close. consumer_closed() turns true
 * when all is done. */
void consumer_stop(struct consumer *c);
bool consumer_closed(const struct consumer *c);

bool consumer_joined(
    const struct consumer *c); /* an assignment was received, possibly an empty one */
/* The last error that librdkafka told (it goes on by itself), cut to CONSUMER_TROUBLE, or that
 * there was none. Why there is no assignment, as far as is known: brokers, certificates, passwords.
 */
const char *consumer_trouble(const struct consumer *c);
bool consumer_any_full(const struct consumer *c); /* a tracker has TRACKER_SLOTS_MAX slots */

/* Drops everything at once when consumer_closed() does not come true in time, and destroys a closed
 * one. */
void consumer_free(struct consumer *c);

#endif
