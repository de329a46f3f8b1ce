/* Owns no figure: the event account, the resolver and the transport do, and know nothing of
 * metrics. worker.c registers them at start. */
#include "worker_metrics.h"

#include <stddef.h>
#include <string.h>

#include "log.h"
#include "metrics.h"

static double events_open(void *ctx)
{
    return (double)((struct worker_sources *)ctx)->account->events;
}

static double payload_bytes(void *ctx)
{
    return (double)((struct worker_sources *)ctx)->account->payload_bytes;
}

static double log_dropped(void *ctx)
{
    (void)ctx;
    return (double)log_dropped_total();
}

static double dns_stat(void *ctx, size_t offset)
{
    struct resolver_stats stats;
    resolver_stats(((struct worker_sources *)ctx)->resolver, &stats);
    uint64_t v;
    memcpy(&v, (const char *)&stats + offset, sizeof(v));
    return (double)v;
}

static double dns_queries(void *ctx)
{
    return dns_stat(ctx, offsetof(struct resolver_stats, queries));
}

static double dns_failures(void *ctx)
{
    return dns_stat(ctx, offsetof(struct resolver_stats, failures));
}

static double connections_opened(void *ctx)
{
    struct transport_stats stats;
    transport_stats(((struct worker_sources *)ctx)->transport, &stats);
    return (double)stats.connections_opened;
}

void worker_metrics_register(struct worker_sources *s)
{
    metrics_register_process(NRW_VERSION);
    metrics_gauge_fn("nrw_events_open", NULL, "events in memory", events_open, s);
    metrics_gauge_fn("nrw_payload_bytes", NULL, "payload bytes in memory", payload_bytes, s);
    metrics_counter_fn("nrw_log_dropped_total", NULL, "log lines that stdout did not take in time",
                       log_dropped, s);
    metrics_counter_fn("nrw_dns_queries_total", NULL, "look-ups sent to a resolver", dns_queries,
                       s);
    metrics_counter_fn("nrw_dns_failures_total", NULL, "look-ups without a usable answer",
                       dns_failures, s);
    metrics_counter_fn("nrw_connections_opened_total", NULL, "connections opened to endpoints",
                       connections_opened, s);
}
