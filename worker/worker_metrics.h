/* The metrics that no room of the worker registers itself. */
#ifndef NRW_WORKER_METRICS_H
#define NRW_WORKER_METRICS_H

#include "event.h"
#include "resolver.h"
#include "transport.h"

/* Borrowed for life, and so is the struct. */
struct worker_sources {
    const struct event_account *account;
    struct resolver *resolver;
    struct transport *transport;
};

void worker_metrics_register(struct worker_sources *s);

#endif
