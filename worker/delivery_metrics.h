/* What is counted of attempts. The names are the README's. */
#ifndef NRW_DELIVERY_METRICS_H
#define NRW_DELIVERY_METRICS_H

#include "delivery.h"
#include "metrics.h"

#define DELIVERY_OUTCOMES 6 /* enum outcome_kind    */
#define DELIVERY_FAULTS   8 /* enum transport_fault */
#define DELIVERY_STATUSES 5 /* 1xx … 5xx */

struct delivery_metrics {
    struct counter *outcomes[DELIVERY_OUTCOMES];
    struct counter *faults[DELIVERY_FAULTS];
    struct counter *own[DELIVERY_SEND + 1]; /* by the step that met it; only RESOLVE, SIGN, SEND */
    struct counter *reused;
    struct histogram *seconds;
    struct histogram *first_wait;
    struct histogram *first_latency;
    struct counter *answers[DELIVERY_STATUSES];
};

void delivery_metrics_register(struct delivery_metrics *m);

/* One attempt was judged: its result and outcome are final. */
void delivery_metrics_attempt(struct delivery_metrics *m, const struct delivery *d);

#endif
