/* The dead-letter topic: messages that are not events, bytes intact, with headers that say why and
 * whence. Delivered = Kafka's delivery report (acks=all). A failed one is tried again for ever, and
 * may then be there twice; its event stays open, so the offset waits (R13). */
#ifndef NRW_DEADLETTER_H
#define NRW_DEADLETTER_H

#include <event2/event.h>
#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "err.h"

struct deadletter;

/* Outstanding letters and bytes; above either intake stops. */
#define DEADLETTER_MAX       1000
#define DEADLETTER_BYTES_MAX ((size_t)64 * 1024 * 1024)

struct deadletter_letter {
    const char *reason; /* a literal: header `reason`, metric label   */
    const char *detail; /* header `error`                             */
    const char
        *topic; /* the source: headers topic, partition, offset; borrowed for the process's life */
    int32_t partition;
    int64_t offset;
    const void *key;
    size_t key_len;
    const void *value; /* may be NULL (a tombstone)                   */
    size_t value_len;
    int64_t timestamp_ms;
};

typedef void deadletter_fn(void *ctx);

struct deadletter *deadletter_new(struct event_base *base, const struct config *cfg,
                                  struct err *err) MUST_CHECK;
/* Copies everything; done(ctx) comes once, later, after Kafka's report - or never, if the process
 * ends first. */
void deadletter_send(struct deadletter *d, const struct deadletter_letter *letter,
                     deadletter_fn *done, void *ctx);
bool deadletter_full(const struct deadletter *d);
size_t deadletter_outstanding(const struct deadletter *d);
/* Letters without a report are dropped; their callbacks never come. */
void deadletter_free(struct deadletter *d);

#endif
