/* Owns the Kafka producer and the letters that wait for their delivery report. intake sends here;
 * nobody else produces. */
#include "deadletter.h"

#include <event2/event_struct.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "kafka_conf.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"

#define DEADLETTER_MAGIC 0x44454144u
#define LETTER_MAGIC     0x4c455454u
#define RETRY_AFTER_S    1

struct letter {
    unsigned magic;
    struct letter *prev, *next; /* all letters, so that free can find them */
    bool waiting;               /* for the retry timer                     */
    deadletter_fn *done;
    void *ctx;
    struct deadletter_letter l; /* pointers into `bytes` or literals       */
    char detail[240];
    char bytes[];
};

struct deadletter {
    unsigned magic;
    rd_kafka_t *rk;
    rd_kafka_queue_t *queue;
    int wake_fd;
    struct event wake;
    struct event tick;
    char *topic;
    struct letter *first, *last; /* oldest first */
    size_t n;
    size_t bytes;
    struct counter *sent;
    struct counter *failed;
};

static void failed(struct deadletter *d, const struct letter *x, const char *why)
{
    d->failed->value++;
    log_error("deadletter.failed", F_INT("partition", x->l.partition), F_INT("offset", x->l.offset),
              F_STR("error", why));
}

static void add_header(rd_kafka_headers_t *headers, const char *name, const char *value)
{
    (void)rd_kafka_header_add(headers, name, -1, value, -1); /* fails only on a read-only list */
}

/* One list of our own: librdkafka 2.0.2 frees headers that it was given one by one twice when the
 * topic does not exist. */
static rd_kafka_headers_t *headers_of(const struct letter *x)
{
    char partition[16];
    char offset[24];
    (void)snprintf(partition, sizeof(partition), "%" PRId32, x->l.partition);
    (void)snprintf(offset, sizeof(offset), "%" PRId64, x->l.offset);
    rd_kafka_headers_t *headers = rd_kafka_headers_new(5);
    add_header(headers, "reason", x->l.reason);
    add_header(headers, "error", x->detail);
    add_header(headers, "topic", x->l.topic);
    add_header(headers, "partition", partition);
    add_header(headers, "offset", offset);
    return headers;
}

/* Asynchronous; a failure here or in the report leads to another try at the next tick. */
static void produce(struct deadletter *d, struct letter *x)
{
    rd_kafka_headers_t *headers = headers_of(x);
    /* librdkafka does not write to it, and does not copy: the letter outlives the report */
    void *value = (void *)(uintptr_t)x->l.value;
    const rd_kafka_vu_t parts[] = {
        {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = d->topic},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)(uintptr_t)x->l.key, x->l.key_len}},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {value, x->l.value_len}},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = x->l.timestamp_ms},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = x},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
    };
    rd_kafka_error_t *e = rd_kafka_produceva(d->rk, parts, sizeof(parts) / sizeof(*parts));
    x->waiting = e != NULL;
    if (e != NULL) {
        rd_kafka_headers_destroy(headers); /* ours again */
        failed(d, x, rd_kafka_error_string(e));
        rd_kafka_error_destroy(e);
    }
}

static void unlink_letter(struct deadletter *d, struct letter *x)
{
    if (x->prev != NULL) {
        x->prev->next = x->next;
    } else {
        d->first = x->next;
    }
    if (x->next != NULL) {
        x->next->prev = x->prev;
    } else {
        d->last = x->prev;
    }
    d->n--;
    d->bytes -= x->l.key_len + x->l.value_len;
    x->magic = 0;
    free(x);
}

static void on_report(struct deadletter *d, const rd_kafka_message_t *m)
{
    struct letter *x = m->_private;
    CHECK_MAGIC(x, LETTER_MAGIC);
    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        x->waiting = true;
        failed(d, x, rd_kafka_err2str(m->err)); /* message_errstr() of a report is the payload */
        return;
    }
    d->sent->value++;
    deadletter_fn *done = x->done;
    void *ctx = x->ctx;
    unlink_letter(d, x);
    done(ctx);
}

static void serve(struct deadletter *d)
{
    rd_kafka_event_t *event;
    while ((event = rd_kafka_queue_poll(d->queue, 0)) != NULL) {
        if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR) {
            const rd_kafka_message_t *m;
            while ((m = rd_kafka_event_message_next(event)) != NULL) {
                on_report(d, m);
            }
        } else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_LOG) {
            kafka_log_event(event, "producer");
        } else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR) {
            log_warn("kafka.error", F_STR("code", rd_kafka_err2name(rd_kafka_event_error(event))),
                     F_STR("error", rd_kafka_event_error_string(event)));
        }
        rd_kafka_event_destroy(event);
    }
}

static void on_wake(evutil_socket_t fd, short what, void *ctx)
{
    struct deadletter *d = ctx;
    (void)what;
    CHECK_MAGIC(d, DEADLETTER_MAGIC);
    uint64_t n;
    while (read(fd, &n, sizeof(n)) > 0) {
    }
    serve(d);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    struct deadletter *d = ctx;
    (void)fd;
    (void)what;
    CHECK_MAGIC(d, DEADLETTER_MAGIC);
    serve(d);
    for (struct letter *x = d->first; x != NULL; x = x->next) {
        if (x->waiting) {
            produce(d, x);
        }
    }
}

void deadletter_send(struct deadletter *d, const struct deadletter_letter *letter,
                     deadletter_fn *done, void *ctx)
{
    CHECK_MAGIC(d, DEADLETTER_MAGIC);
    struct letter *x = mem_alloc(sizeof(*x) + letter->key_len + letter->value_len);
    memset(x, 0, sizeof(*x));
    x->magic = LETTER_MAGIC;
    x->done = done;
    x->ctx = ctx;
    x->l = *letter;
    (void)snprintf(x->detail, sizeof(x->detail), "%s", letter->detail);
    if (letter->key_len > 0) {
        memcpy(x->bytes, letter->key, letter->key_len);
        x->l.key = x->bytes;
    }
    if (letter->value_len > 0) {
        memcpy(x->bytes + letter->key_len, letter->value, letter->value_len);
        x->l.value = x->bytes + letter->key_len;
    }
    x->prev = d->last;
    *(d->last != NULL ? &d->last->next : &d->first) = x;
    d->last = x;
    d->n++;
    d->bytes += letter->key_len + letter->value_len;
    produce(d, x);
}

bool deadletter_full(const struct deadletter *d)
{
    return d->n >= DEADLETTER_MAX || d->bytes >= DEADLETTER_BYTES_MAX;
}

size_t deadletter_outstanding(const struct deadletter *d)
{
    return d->n;
}

static bool open_client(struct deadletter *d, const struct config *cfg, struct err *err)
{
    rd_kafka_conf_t *conf = kafka_conf_producer(cfg, err);
    if (conf == NULL) {
        return false;
    }
    rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);
    char why[256];
    d->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
    if (d->rk == NULL) {
        rd_kafka_conf_destroy(conf);
        return err_set(err, ERR_KAFKA, "Kafka producer: %s", why);
    }
    d->queue = rd_kafka_queue_get_main(d->rk);
    (void)rd_kafka_set_log_queue(
        d->rk, d->queue); /* only fails without log.queue=true, which kafka_conf sets */
    static const uint64_t one = 1;
    rd_kafka_queue_io_event_enable(d->queue, d->wake_fd, &one, sizeof(one));
    return true;
}

static double outstanding(void *ctx)
{
    return (double)((struct deadletter *)ctx)->n;
}

struct deadletter *deadletter_new(struct event_base *base, const struct config *cfg,
                                  struct err *err)
{
    struct deadletter *d = mem_zero(1, sizeof(*d));
    d->magic = DEADLETTER_MAGIC;
    d->topic = mem_dup(cfg->dlq_topic);
    d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(d->wake_fd != -1);
    event_assign(&d->wake, base, d->wake_fd, EV_READ | EV_PERSIST, on_wake, d);
    event_assign(&d->tick, base, -1, EV_PERSIST, on_tick, d);
    if (!open_client(d, cfg, err)) {
        deadletter_free(d);
        return NULL;
    }
    d->sent = metrics_counter("nrw_dead_letters_total", NULL,
                              "messages put on the dead-letter topic, with Kafka's report");
    d->failed = metrics_counter("nrw_dead_letter_failures_total", NULL,
                                "tries to put a message on the dead-letter topic that failed");
    metrics_gauge_fn("nrw_dead_letters_waiting", NULL, "dead letters without Kafka's report yet",
                     outstanding, d);
    const struct timeval every = {.tv_sec = RETRY_AFTER_S};
    event_add(&d->wake, NULL);
    event_add(&d->tick, &every);
    return d;
}

void deadletter_free(struct deadletter *d)
{
    if (d == NULL) {
        return;
    }
    CHECK_MAGIC(d, DEADLETTER_MAGIC);
    event_del(&d->wake);
    event_del(&d->tick);
    if (d->queue != NULL) {
        rd_kafka_queue_io_event_enable(d->queue, -1, NULL, 0);
        rd_kafka_queue_destroy(d->queue);
        d->queue = NULL;
    }
    if (d->rk != NULL) {
        (void)rd_kafka_purge(d->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
                                        RD_KAFKA_PURGE_F_NON_BLOCKING);
        rd_kafka_destroy(d->rk); /* joins librdkafka's threads: nothing reads a letter afterwards */
        d->rk = NULL;
    }
    for (struct letter *x = d->first; x != NULL;) {
        struct letter *next = x->next;
        free(x);
        x = next;
    }
    close(d->wake_fd);
    free(d->topic);
    d->topic = NULL;
    d->magic = 0;
    free(d);
}
