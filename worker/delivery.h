/* A delivery: one event for one webhook, on its way through the step table.
 *
 *   step      does                                          may wait on
 *   RESOLVE   name to addresses, vet every one, pick one    c-ares
 *   SIGN      headers and HMACs over the exact body         -
 *   SEND      POST, bounded in time and bytes               libcurl
 *   JUDGE     result to outcome, time of the next attempt   -
 *   RECORD    attempt row, pending row: one journal entry   PostgreSQL
 *   FINISH    lane and event let go                         ends
 *
 * A step either sets the next one and returns NEXT, or starts exactly one asynchronous operation
 * and returns WAIT. No step calls another. */
#ifndef NRW_DELIVERY_H
#define NRW_DELIVERY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "config.h"
#include "event.h"
#include "ids.h"
#include "journal.h"
#include "netguard.h"
#include "outcome.h"
#include "resolver.h"
#include "transport.h"
#include "webhook.h"

#define DELIVERY_MAGIC 0x44454c56u

enum delivery_step {
    DELIVERY_QUEUED, /* in a lane or with the suspects: nothing has started */
    DELIVERY_RESOLVE,
    DELIVERY_SIGN,
    DELIVERY_SEND,
    DELIVERY_JUDGE,
    DELIVERY_RECORD,
    DELIVERY_FINISH,
};

/* New work comes from Kafka, retried work from a pending row. */
enum delivery_class { DELIVERY_NEW, DELIVERY_RETRY };

struct delivery {
    unsigned magic;
    enum delivery_class class;
    enum delivery_step step;
    struct deliveries *all;
    struct nrw_event *ev; /* one reference */
    struct webhook *wh;   /* one reference; until it starts: the version that matched */
    struct uuid id;
    unsigned final_attempt;
    unsigned attempt;               /* 1 … final_attempt */
    struct delivery *next;          /* link of the one queue that it waits in           */
    TAILQ_ENTRY(delivery) age_link; /* the lanes': all that wait, oldest first          */
    int64_t queued_mono_us;
    bool started; /* it holds a place in its lane until left_lane     */

    struct resolver_query *query; /* RESOLVE */
    struct transfer *transfer;    /* SEND    */
    struct sockaddr_storage address;
    int64_t started_mono_us;
    int64_t started_wall_us;
    struct attempt_result result; /* filled by whichever step ended the attempt: */
    enum delivery_step ended_in;  /* RESOLVE, SIGN or SEND                       */
    struct outcome outcome;
    struct journal_entry entry;
};

struct deliveries; /* what all deliveries of a worker share */

struct deliveries_handlers {
    /* The request is over; its row may still be on the way. */
    void (*left_lane)(void *ctx, const struct delivery *d);
    /* Its pending row is durable and due in delay_us / its pending row is gone. */
    void (*due)(void *ctx, const struct uuid *id, int64_t delay_us);
    void (*ended)(void *ctx, const struct uuid *id);
    /* PostgreSQL does not take its row: park the event elsewhere, then call delivery_parked(). */
    void (*rejected)(void *ctx, struct delivery *d);
    void *ctx;
};

/* All pointers are borrowed for life. */
struct deliveries *deliveries_new(const struct config *cfg, const struct netguard *guard,
                                  struct resolver *resolver, struct transport *transport,
                                  struct journal *journal,
                                  const struct deliveries_handlers *handlers);
void deliveries_free(struct deliveries *all); /* none may be open */

/* References ev and wh; a first attempt, or the one that ev->retry names. */
struct delivery *delivery_new(struct deliveries *all, struct nrw_event *ev, struct webhook *wh);
/* Starts a queued one with the newest version of its webhook (borrowed). */
void delivery_start(struct delivery *d, struct webhook *newest);
/* Ends a queued one without an attempt: settled (somebody delivered it before) or abandoned (the
 * next owner of its offset, or of its lease, will see to it). */
void delivery_drop(struct delivery *d, bool settled);
/* Ends a queued one because its webhook is gone or inactive: its pending row is deleted; of a new
 * one the event's row is written, so that it can be replayed. Settled once that is durable. */
void delivery_cancel(struct delivery *d);
/* Writes a queued one as pending, due in delay_us, instead of letting it wait: not an attempt. */
void delivery_spill(struct delivery *d, int64_t delay_us);
/* Ends a rejected one, settled. */
void delivery_parked(struct delivery *d);

size_t deliveries_open(const struct deliveries *all);
size_t deliveries_retries(const struct deliveries *all);

#endif
