/* Owns the counters of attempts and their names; delivery's JUDGE step tells it each one once. */
#include "delivery_metrics.h"

static const char *const outcome_labels[DELIVERY_OUTCOMES] = {
    [OUTCOME_DELIVERED] = "outcome=\"delivered\"",
    [OUTCOME_RETRY] = "outcome=\"retry\"",
    [OUTCOME_EXHAUSTED] = "outcome=\"exhausted\"",
    [OUTCOME_GONE] = "outcome=\"gone\"",
    [OUTCOME_OURS] = "outcome=\"ours\"",
    [OUTCOME_TEST_FAILED] = "outcome=\"test_failed\"",
};
static const char *const fault_labels[DELIVERY_FAULTS] = {
    [TRANSPORT_OK] = "fault=\"status\"",       [TRANSPORT_TIMEOUT] = "fault=\"timeout\"",
    [TRANSPORT_CONNECT] = "fault=\"connect\"", [TRANSPORT_TLS] = "fault=\"tls\"",
    [TRANSPORT_BROKEN] = "fault=\"broken\"",   [TRANSPORT_TOO_LARGE] = "fault=\"too_large\"",
    [TRANSPORT_DENIED] = "fault=\"denied\"",   [TRANSPORT_OURS] = "fault=\"ours\"",
};
static const char own_help[] =
    "attempts that a fault of this side prevented, by what could not be done";

void delivery_metrics_register(struct delivery_metrics *m)
{
    for (int i = 0; i < DELIVERY_OUTCOMES; i++) {
        m->outcomes[i] =
            metrics_counter("nrw_attempts_total", outcome_labels[i], "attempts by outcome");
    }
    for (int i = 0; i < DELIVERY_FAULTS; i++) {
        m->faults[i] = metrics_counter("nrw_attempt_faults_total", fault_labels[i],
                                       "attempts by how they ended");
    }
    m->own[DELIVERY_RESOLVE] =
        metrics_counter("nrw_own_faults_total", "step=\"resolve\"", own_help);
    m->own[DELIVERY_SIGN] = metrics_counter("nrw_own_faults_total", "step=\"sign\"", own_help);
    m->own[DELIVERY_SEND] = metrics_counter("nrw_own_faults_total", "step=\"send\"", own_help);
    m->reused =
        metrics_counter("nrw_connections_reused_total", NULL, "attempts over a kept connection");
    m->seconds = metrics_histogram("nrw_attempt_seconds", NULL,
                                   "duration of an attempt, look-up to last byte",
                                   metrics_seconds_bounds, metrics_seconds_bounds_n);
    m->first_wait = metrics_histogram("nrw_first_attempt_wait_seconds", NULL,
                                      "from intake to the start of attempt 1",
                                      metrics_seconds_bounds, metrics_seconds_bounds_n);
}

void delivery_metrics_attempt(struct delivery_metrics *m, const struct delivery *d)
{
    m->outcomes[d->outcome.kind]->value++;
    m->faults[d->result.fault]->value++;
    if (d->outcome.kind == OUTCOME_OURS) {
        m->own[d->ended_in]->value++;
    }
    m->reused->value += d->result.reused;
    histogram_observe(m->seconds, (double)d->result.duration_us / 1e6);
    if (d->attempt == 1) {
        histogram_observe(m->first_wait, (double)(d->started_mono_us - d->ev->taken_mono_us) / 1e6);
    }
}
