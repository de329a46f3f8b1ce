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

static const char *const status_labels[DELIVERY_STATUSES] = {
    "status=\"1xx\"", "status=\"2xx\"", "status=\"3xx\"", "status=\"4xx\"", "status=\"5xx\"",
};
/* The promise is 1 s; a backlog after an outage takes hours. */
static const double latency_bounds[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                        2.5,   5,    10,    30,   60,  300,  900, 3600};

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
    m->first_latency = metrics_histogram(
        "nrw_first_attempt_latency_seconds", NULL,
        "from the event's timestamp in Kafka to the start of attempt 1, without what was spilled",
        latency_bounds, sizeof(latency_bounds) / sizeof(*latency_bounds));
    for (int i = 0; i < DELIVERY_STATUSES; i++) {
        m->answers[i] =
            metrics_counter("nrw_answers_total", status_labels[i], "answers by class of status");
    }
}

/* The timestamp is another machine's: a clock that is ahead of ours makes it 0. */
static double latency_s(const struct delivery *d)
{
    const int64_t us = d->started_wall_us - d->ev->received_at_us;
    return us > 0 ? (double)us / 1e6 : 0;
}

static void count_answer(struct delivery_metrics *m, const struct attempt_result *r)
{
    if (r->status >= 100 && r->status <= 599) {
        m->answers[r->status / 100 - 1]->value++;
    }
}

void delivery_metrics_attempt(struct delivery_metrics *m, const struct delivery *d)
{
    m->outcomes[d->outcome.kind]->value++;
    m->faults[d->result.fault]->value++;
    if (d->outcome.kind == OUTCOME_OURS) {
        m->own[d->ended_in]->value++;
    }
    m->reused->value += d->result.reused;
    count_answer(m, &d->result);
    histogram_observe(m->seconds, (double)d->result.duration_us / 1e6);
    if (d->attempt == 1) {
        histogram_observe(m->first_wait, (double)(d->started_mono_us - d->ev->taken_mono_us) / 1e6);
    }
    if (d->class == DELIVERY_NEW) {
        histogram_observe(m->first_latency, latency_s(d));
    }
}
