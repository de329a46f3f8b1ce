/* The partitions that this worker holds now: a tracker each, the offsets to store, and which of
 * them are paused. consumer decides when; this file does it. */
#ifndef NRW_ASSIGNMENT_H
#define NRW_ASSIGNMENT_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stddef.h>

#include "tracker.h"

struct assignment;

struct assignment *assignment_new(const char *topic);
/* Retires all trackers; events that still point to them stay valid. */
void assignment_free(struct assignment *a);

/* What is added from here on belongs to a new epoch. */
void assignment_new_epoch(struct assignment *a);
/* A fresh tracker; one that the partition still had is retired. */
struct tracker *assignment_add(struct assignment *a, int32_t partition);
struct tracker *assignment_tracker(const struct assignment *a, int32_t partition); /* or NULL */
void assignment_drop(struct assignment *a, int32_t partition);

/* Hands every offset that moved to librdkafka, which commits by its timer and when a partition is
 * unassigned. An offset that it refuses (R5) is logged and counted; the next owner reads it again.
 */
void assignment_store_offsets(struct assignment *a, rd_kafka_t *rk);

/* Resuming a partition that is not paused can rewind it (practices 0.6): resume touches only what
 * pause has paused. Both are local operations of librdkafka. */
void assignment_pause(struct assignment *a, rd_kafka_t *rk);
void assignment_resume(struct assignment *a, rd_kafka_t *rk);
bool assignment_paused(const struct assignment *a);

void assignment_each(const struct assignment *a, void (*fn)(void *ctx, struct tracker *t),
                     void *ctx);
size_t assignment_busy(const struct assignment *a); /* events in memory, over all partitions */
bool assignment_any_full(const struct assignment *a);

#endif
