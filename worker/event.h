/* An event on its way through the worker: what Kafka delivered, copied once, shared by its
 * deliveries. Reference counted (the only such object beside webhook): one reference while it is
 * fanned out, one per open delivery. When the last one goes the event is settled and its tracker
 * slot closes - unless somebody abandoned it. */
#ifndef NRW_EVENT_H
#define NRW_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ids.h"
#include "tracker.h"

#define EVENT_MAGIC       0x4e45564eu
#define EVENT_TRACEPARENT 55 /* W3C trace context, version 00 */

struct nrw_event;

/* What is in memory; intake stops at a maximum of each. */
struct event_account {
    size_t events;
    size_t retries; /* of these events */
    size_t payload_bytes;
};

/* Why a delivery has a pending row, as pending_deliveries.reason says. The last three are what
 * somebody asked for. */
enum event_reason { EVENT_RETRY, EVENT_SPILL, EVENT_REDELIVER, EVENT_REPLAY, EVENT_TEST };

/* What a retried delivery brings from its pending row; in the event, because exactly one delivery
 * comes of it. */
struct event_retry {
    struct uuid webhook_id;
    enum event_reason reason;
    unsigned attempt;
    unsigned final_attempt;
    int64_t lease_until_mono_us; /* nothing may start after this: somebody else may have it */
    /* leased_until of the row, which tells whose lease it is: only its owner writes to the row */
    int64_t lease_us;
};

struct nrw_event {
    unsigned magic;
    unsigned refs;
    struct event_account *account;
    struct tracker *tracker; /* NULL: not from Kafka (a retry) */
    uint64_t slot;
    bool is_retry; /* `retry` is set, tracker is NULL, only that webhook gets it               */
    struct event_retry retry;
    bool abandoned; /* somebody dropped a delivery unsettled: the slot must stay open           */
    bool suspect;   /* another worker may have delivered it before                              */
    bool row_committed;     /* the events row is durable     */
    uint64_t row_batch;     /* the journal batch that carries the row     */
    struct nrw_event *next; /* link of the one list that the event waits in (tenant, suspects) */
    struct uuid id;
    struct uuid tenant_id;
    uint32_t type_bit;
    int32_t partition;
    int64_t offset;
    int64_t received_at_us; /* Kafka's message timestamp: the partition key of every row */
    int64_t taken_mono_us;  /* when intake took it  */
    const char *type; /* NUL-terminated                                                       */
    char traceparent[EVENT_TRACEPARENT + 1]; /* "" when the producer sent none */
    const char *payload;
    size_t payload_len;
};

/* type and payload are copied. One reference. */
struct nrw_event *nrw_event_new(struct event_account *account, const char *type, size_t type_len,
                                const void *payload, size_t payload_len);
struct nrw_event *nrw_event_ref(struct nrw_event *ev);
void nrw_event_unref(struct nrw_event *ev);
/* The column's word; a word that is none of ours (a newer schema) counts as a plain retry. */
const char *event_reason_name(enum event_reason reason);
enum event_reason event_reason_of(const char *name);
/* One delivery that somebody wants to watch: made once, and it does not change the webhook. */
bool nrw_event_is_test(const struct nrw_event *ev);
/* Makes it the event of one due delivery; before anybody else sees it. */
void nrw_event_set_retry(struct nrw_event *ev, const struct event_retry *retry);
/* The event will not settle in this process: its slot stays open and the next owner gets it again.
 */
void nrw_event_abandon(struct nrw_event *ev);

#endif
