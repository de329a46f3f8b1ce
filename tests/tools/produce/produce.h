/* The state and the parts of the load generator tests/tools/produce. */
#ifndef NRW_PRODUCE_H
#define NRW_PRODUCE_H

#include <librdkafka/rdkafka.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "event_types.h"
#include "ids.h"

#define MESSAGE_MAX    ((size_t)16 * 1024 * 1024)
#define PROPERTIES_MAX 256u

struct produce {
    const char *brokers, *topic, *event, *data, *samples_dir, *file, *key, *acked_path, *conf_path;
    struct uuid tenant;
    bool has_tenant, all_events, from_stdin, wait_topic, print_tenants;
    uint64_t count, tenants_n, size, rate, burst, timeout_s;
    int64_t timestamp_ms; /* 0: now */
    const char *properties[PROPERTIES_MAX];
    size_t properties_n;
    rd_kafka_headers_t *headers;
    rd_kafka_t *rk;
    int acked_fd;
    struct buf acked_ids;
    struct buf message;
    char *data_of[EVENT_TYPES_N];
    uint64_t acked, failed, sent;
    char last_error[256];
};

extern volatile sig_atomic_t
    produce_stopped; /* SIGINT or SIGTERM: no further message, then the reports */

_Noreturn void produce_fail(const char *what, const char *why); /* exit 2 */

/* produce_options.c: prints and exits on --help, --version and on mistakes. */
void produce_parse_options(struct produce *p, int argc, char **argv);

/* produce_kafka.c */
void produce_connect(struct produce *p);
void produce_wait_for_topic(struct produce *p);
/* Takes id, the event's (NULL: a raw message without one). key may be NULL. Waits while
 * librdkafka's queue is full. */
void produce_send(struct produce *p, const char *key, const char *value, size_t len,
                  struct uuid *id);
void produce_poll(struct produce *p, int wait_ms); /* reports in, acknowledged ids out */
void produce_finish(struct produce *p);            /* all reports, then frees  */

#endif
