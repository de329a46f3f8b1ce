/* What another worker may have delivered already. After an assignment, events up to the partition's
 * journaled offset are *suspect*: consumer_progress holds, per partition, the highest offset whose
 * outcome was ever committed (it is written in the same transaction as the outcome), so an attempts
 * row can only exist at or below it. Suspect deliveries are looked up in batches, one query each;
 * those with an attempts or a pending row are settled already. Beyond that offset nothing is looked
 * up: the steady state and a fresh backlog pay nothing. Until a partition's progress is known, all
 * of it is suspect. */
#ifndef NRW_SUSPECTS_H
#define NRW_SUSPECTS_H

#include <stdbool.h>
#include <stddef.h>

#include "config.h"
#include "delivery.h"
#include "pg.h"
#include "tracker.h"

struct suspects;

struct suspects_handlers {
    void (*cleared)(void *ctx, struct delivery *d); /* nobody delivered it: go on */
    void (*known)(void *ctx, struct delivery *d);   /* its outcome is durable     */
    void *ctx;
};

struct suspects *suspects_new(const struct config *cfg, struct pg *pg,
                              const struct suspects_handlers *handlers);

void suspects_assigned(struct suspects *s, struct tracker *const *trackers, size_t n);
bool suspects_covers(const struct suspects *s, const struct tracker *t, int64_t offset);

/* Takes d until one of the handlers gives it back. */
void suspects_add(struct suspects *s, struct delivery *d);
/* Drops (abandons) what is here of tracker t; NULL: all. */
void suspects_abandon(struct suspects *s, const struct tracker *t);

/* Once per turn: the next look-up, the next question for progress. */
void suspects_after_turn(struct suspects *s);
/* After the connection was freed, which still answers what is out. */
void suspects_free(struct suspects *s);

#endif
