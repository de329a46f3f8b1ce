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

struct delivery {
    unsigned magic;
    enum delivery_step step;
    struct deliveries *all;
    struct nrw_event *ev; /* one reference */
    struct webhook *wh;   /* one reference; until it starts: the version that matched */
    struct uuid id;
    unsigned attempt;      /* 1 … LIMIT_ATTEMPTS */
    struct delivery *next; /* link of the one queue that it waits in */

    struct resolver_query *query; /* RESOLVE */
    struct transfer *transfer;    /* SEND    */
    struct sockaddr_storage address;
    int64_t started_mono_us;
    int64_t started_wall_us;
    struct attempt_result result; /* filled by whichever step ended the attempt */
    struct outcome outcome;
    struct journal_entry entry;
};

struct deliveries; /* what all deliveries of a worker share */

struct deliveries_handlers {
    /* The request is over; its row may still be on the way. */
    void (*left_lane)(void *ctx, const struct delivery *d);
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

/* References ev and wh. */
struct delivery *delivery_new(struct deliveries *all, struct nrw_event *ev, struct webhook *wh,
                              unsigned attempt);
/* Starts a queued one with the newest version of its webhook (borrowed). */
void delivery_start(struct delivery *d, struct webhook *newest);
/* Ends a queued one without an attempt: settled (somebody delivered it before, or nobody wants it
 * any more) or abandoned. */
void delivery_drop(struct delivery *d, bool settled);

/* Ends a rejected one, settled. */
void delivery_parked(struct delivery *d);

size_t deliveries_open(const struct deliveries *all);

#endif
