/* A Kafka message becomes an event, or a dead letter. */
#ifndef NRW_INTAKE_H
#define NRW_INTAKE_H

#include <librdkafka/rdkafka.h>

#include "config.h"
#include "deadletter.h"
#include "event.h"
#include "tracker.h"

struct intake;

/* accepted: takes the reference on ev. */
struct intake *intake_new(const struct config *cfg, struct deadletter *dead,
                          struct event_account *account,
                          void (*accepted)(void *ctx, struct nrw_event *ev), void *ctx);
/* The slot is open and becomes this function's: it closes with the event, or with the dead letter's
 * report. */
void intake_message(struct intake *in, struct tracker *t, uint64_t slot,
                    const rd_kafka_message_t *m);
/* An accepted event that cannot be journaled goes to the dead-letter topic too. done(ctx) comes
 * after Kafka's report. */
void intake_park(struct intake *in, const struct nrw_event *ev, deadletter_fn *done, void *ctx);
void intake_free(struct intake *in);

#endif
