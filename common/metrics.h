/* Prometheus metrics of this process, text format 0.0.4. Registered at boot, never freed; labels
 * are literal and bounded ("outcome=\"delivered\"" or NULL), never an id or a URL. One name may be
 * registered with several label sets; HELP and TYPE are printed once per name. Registering the same
 * name with another type is a bug. */
#ifndef NRW_METRICS_H
#define NRW_METRICS_H

#include <stdint.h>

#include "buf.h"

struct counter {
    uint64_t value;
};
struct gauge {
    double value;
};
struct histogram; /* upper bounds given at birth, +Inf added */

struct counter *metrics_counter(const char *name, const char *labels, const char *help);
struct gauge *metrics_gauge(const char *name, const char *labels, const char *help);
/* Asked when /metrics is read. */
void metrics_gauge_fn(const char *name, const char *labels, const char *help,
                      double (*fn)(void *ctx), void *ctx);
void metrics_counter_fn(const char *name, const char *labels, const char *help,
                        double (*fn)(void *ctx), void *ctx);
struct histogram *metrics_histogram(const char *name, const char *labels, const char *help,
                                    const double *bounds, unsigned n);
void histogram_observe(struct histogram *h, double value);

/* 1 ms … 60 s, for everything that takes time (seconds, as Prometheus wants it). */
extern const double metrics_seconds_bounds[];
extern const unsigned metrics_seconds_bounds_n;

/* Registers process_resident_memory_bytes, process_open_fds, process_max_fds,
 * process_cpu_seconds_total, process_start_time_seconds and nrw_build_info{version}. */
void metrics_register_process(const char *version);

void metrics_render(struct buf *out);

#endif
