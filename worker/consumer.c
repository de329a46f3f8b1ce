/* Owns the librdkafka consumer: its queue, group membership, the rebalance drain, the flow. Does
 * not look into messages; intake does. worker.c makes it and calls consumer_after_turn() once per
 * turn. */
#include "consumer.h"

#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "assignment.h"
#include "check.h"
#include "clock.h"
#include "kafka_conf.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"

#define CONSUMER_MAGIC 0x434f4e53u
#define POLL_BURST     256     /* messages per turn, so that a backlog cannot hold the loop */
#define POLL_BYTES     1048576 /* and of them: the flow is looked at between two turns      */
#define PAUSE_AFTER_US 1000000 /* flow off for so long: pause and keep polling              */

enum drain_kind {
    DRAIN_NONE,
    DRAIN_REVOKE, /* a rebalance took partitions: unassign when drained */
    DRAIN_STOP,   /* this process leaves: close when drained            */
};

struct consumer {
    unsigned magic;
    struct consumer_handlers on;
    rd_kafka_t *rk;
    rd_kafka_queue_t *queue;
    int wake_fd;
    struct event wake;
    struct event tick;
    char *topic;
    int64_t drain_timeout_us;

    struct assignment *assignment;
    bool joined;
    char trouble[CONSUMER_TROUBLE];

    bool flow;
    bool more;           /* the queue may hold more than was polled */
    size_t polled_bytes; /* of the burst */
    int64_t flow_off_mono_us;

    enum drain_kind drain;
    int64_t drain_until_us;
    rd_kafka_topic_partition_list_t *revoked; /* of DRAIN_REVOKE */
    bool revoked_lost; /* somebody else may own them already: store nothing */
    bool stopping;
    bool closing;
    bool closed;

    struct counter *messages, *rebalances, *drains_late, *errors;
};

/* --- flow --- */

void consumer_set_flow(struct consumer *c, bool on)
{
    CHECK_MAGIC(c, CONSUMER_MAGIC);
    if (on == c->flow) {
        return;
    }
    c->flow = on;
    if (on) {
        assignment_resume(c->assignment, c->rk);
        c->more = true;
    } else {
        c->flow_off_mono_us = clock_mono_us();
    }
}

/* --- rebalance --- */

static void log_rd_error(const char *what, rd_kafka_error_t *error)
{
    if (error != NULL) {
        log_error("kafka.rebalance_failed", F_STR("call", what),
                  F_STR("error", rd_kafka_error_string(error)));
        rd_kafka_error_destroy(error);
    }
}

static bool cooperative(const struct consumer *c)
{
    const char *protocol = rd_kafka_rebalance_protocol(c->rk);
    return protocol != NULL && strcmp(protocol, "COOPERATIVE") == 0;
}

static void on_assign(struct consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    assignment_resume(c->assignment,
                      c->rk); /* all start unpaused; the flow rule pauses again if need be */
    assignment_new_epoch(c->assignment);
    struct tracker **fresh = mem_zero((size_t)list->cnt + 1, sizeof(struct tracker *));
    for (int i = 0; i < list->cnt; i++) {
        fresh[i] = assignment_add(c->assignment, list->elems[i].partition);
    }
    if (cooperative(c)) {
        log_rd_error("incremental_assign", rd_kafka_incremental_assign(c->rk, list));
    } else {
        const rd_kafka_resp_err_t e = rd_kafka_assign(c->rk, list);
        if (e != RD_KAFKA_RESP_ERR_NO_ERROR) {
            log_error("kafka.rebalance_failed", F_STR("call", "assign"),
                      F_STR("error", rd_kafka_err2str(e)));
        }
    }
    c->flow_off_mono_us = clock_mono_us();
    c->joined = true;
    log_info("kafka.assigned", F_INT("partitions", list->cnt));
    c->on.assigned(c->on.ctx, fresh, (size_t)list->cnt);
    free(fresh);
}

static void begin_revoke(struct consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    /* librdkafka waits for our unassign before the next rebalance event */
    CHECK(c->revoked == NULL);
    assignment_resume(c->assignment, c->rk); /* a paused partition must not come back paused */
    c->revoked = rd_kafka_topic_partition_list_copy(list);
    c->revoked_lost = rd_kafka_assignment_lost(c->rk) != 0;
    c->drain = DRAIN_REVOKE;
    c->drain_until_us = c->revoked_lost || c->closing ? 0 : clock_mono_us() + c->drain_timeout_us;
    log_info("kafka.revoking", F_INT("partitions", list->cnt),
             F_STR("lost", c->revoked_lost ? "yes" : "no"));
    for (int i = 0; i < list->cnt; i++) {
        struct tracker *t = assignment_tracker(c->assignment, list->elems[i].partition);
        if (t != NULL) {
            c->on.revoking(c->on.ctx, t);
        }
    }
}

static size_t busy_of(const struct consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    size_t busy = 0;
    for (int i = 0; i < list->cnt; i++) {
        const struct tracker *t = assignment_tracker(c->assignment, list->elems[i].partition);
        busy += t != NULL ? tracker_busy(t) : 0;
    }
    return busy;
}

static void unassign(struct consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    if (cooperative(c)) {
        log_rd_error("incremental_unassign", rd_kafka_incremental_unassign(c->rk, list));
        return;
    }
    const rd_kafka_resp_err_t e = rd_kafka_assign(c->rk, NULL);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) {
        log_error("kafka.rebalance_failed", F_STR("call", "unassign"),
                  F_STR("error", rd_kafka_err2str(e)));
    }
}

static void finish_revoke(struct consumer *c)
{
    const size_t busy = busy_of(c, c->revoked);
    if (busy > 0 && clock_mono_us() < c->drain_until_us) {
        return;
    }
    if (busy > 0) {
        c->drains_late->value++;
        log_warn("kafka.drain_incomplete", F_INT("events", busy),
                 F_STR("lost", c->revoked_lost ? "yes" : "no"));
    }
    if (!c->revoked_lost) {
        assignment_store_offsets(c->assignment, c->rk);
    }
    for (int i = 0; i < c->revoked->cnt; i++) {
        assignment_drop(c->assignment, c->revoked->elems[i].partition);
    }
    unassign(c, c->revoked);
    log_info("kafka.revoked", F_INT("partitions", c->revoked->cnt));
    rd_kafka_topic_partition_list_destroy(c->revoked);
    c->revoked = NULL;
    c->drain = DRAIN_NONE;
}

static void on_rebalance(struct consumer *c, rd_kafka_event_t *event)
{
    const rd_kafka_topic_partition_list_t *list = rd_kafka_event_topic_partition_list(event);
    const rd_kafka_resp_err_t e = rd_kafka_event_error(event);
    c->rebalances->value++;
    if (e == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
        on_assign(c, list);
    } else if (e == RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS) {
        begin_revoke(c, list);
    } else {
        log_error("kafka.rebalance_failed", F_STR("call", "rebalance"),
                  F_STR("error", rd_kafka_err2str(e)));
        (void)rd_kafka_assign(c->rk, NULL); /* documented reaction to an unknown rebalance error */
    }
}

/* --- queue --- */

/* An offset that goes backwards within an assignment: the topic was made anew, or librdkafka
 * rewound (practices 1.6). Either way this is a new epoch: what is under way settles in the retired
 * tracker, and what comes now is suspect, so nothing is lost and little is sent twice. */
static struct tracker *start_over(struct consumer *c, const rd_kafka_message_t *m)
{
    log_warn("kafka.offset_went_back", F_INT("partition", m->partition), F_INT("offset", m->offset),
             F_INT("seen", tracker_last_opened(assignment_tracker(c->assignment, m->partition))));
    assignment_new_epoch(c->assignment);
    struct tracker *t = assignment_add(c->assignment, m->partition);
    c->on.assigned(c->on.ctx, &t, 1);
    return t;
}

static void on_message(struct consumer *c, const rd_kafka_message_t *m)
{
    struct tracker *t = assignment_tracker(c->assignment, m->partition);
    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        log_warn("kafka.message_error", F_INT("partition", m->partition),
                 F_STR("error", rd_kafka_message_errstr(m)));
        return;
    }
    const bool leaving = c->revoked != NULL && rd_kafka_topic_partition_list_find(
                                                   c->revoked, c->topic, m->partition) != NULL;
    if (t == NULL || c->stopping || leaving) {
        return; /* fetched before the revoke or the stop; its offset is not stored */
    }
    if (m->offset <= tracker_last_opened(t)) {
        t = start_over(c, m);
    }
    c->messages->value++;
    c->polled_bytes += m->len;
    const uint64_t slot = tracker_open(t, m->offset, clock_mono_us());
    c->on.message(c->on.ctx, t, slot, m);
}

static void on_error(struct consumer *c, rd_kafka_event_t *event)
{
    const rd_kafka_resp_err_t e = rd_kafka_event_error(event);
    const char *text = rd_kafka_event_error_string(event);
    if (e == RD_KAFKA_RESP_ERR__FATAL || rd_kafka_event_error_is_fatal(event)) {
        c->on.fatal(c->on.ctx, text);
        return;
    }
    c->errors->value++;
    if (e != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || c->trouble[0] == '\0') { /* a sum of others */
        (void)snprintf(c->trouble, sizeof(c->trouble), "%s", text);          /* may be cut */
    }
    log_warn("kafka.error", F_STR("code", rd_kafka_err2name(e)), F_STR("error", text));
}

static void on_commit(rd_kafka_event_t *event)
{
    const rd_kafka_resp_err_t e = rd_kafka_event_error(event);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR && e != RD_KAFKA_RESP_ERR__NO_OFFSET) {
        log_warn("kafka.commit_failed", F_STR("code", rd_kafka_err2name(e)),
                 F_STR("error", rd_kafka_err2str(e)));
    }
}

static void serve(struct consumer *c, rd_kafka_event_t *event)
{
    switch (rd_kafka_event_type(event)) {
    case RD_KAFKA_EVENT_FETCH: {
        const rd_kafka_message_t *m;
        while ((m = rd_kafka_event_message_next(event)) != NULL) {
            on_message(c, m);
        }
        break;
    }
    case RD_KAFKA_EVENT_REBALANCE:
        on_rebalance(c, event);
        break;
    case RD_KAFKA_EVENT_OFFSET_COMMIT:
        on_commit(event);
        break;
    case RD_KAFKA_EVENT_ERROR:
        on_error(c, event);
        break;
    case RD_KAFKA_EVENT_LOG:
        kafka_log_event(event, "consumer");
        break;
    default:
        break;
    }
    rd_kafka_event_destroy(event);
}

/* While partitions are being revoked nothing new may start, but the queue must be served: that is
 * where the next rebalance step and errors arrive. librdkafka itself pauses all partitions
 * meanwhile. */
static bool may_poll(const struct consumer *c)
{
    return c->flow || assignment_paused(c->assignment) || c->stopping || c->drain != DRAIN_NONE;
}

static void poll_queue(struct consumer *c)
{
    c->more = true;
    c->polled_bytes = 0;
    for (int i = 0; i < POLL_BURST && c->polled_bytes < POLL_BYTES && may_poll(c); i++) {
        rd_kafka_event_t *event = rd_kafka_queue_poll(c->queue, 0);
        if (event == NULL) {
            c->more = false;
            return;
        }
        serve(c, event);
    }
}

static void on_wake(evutil_socket_t fd, short what, void *ctx)
{
    struct consumer *c = ctx;
    (void)what;
    CHECK_MAGIC(c, CONSUMER_MAGIC);
    uint64_t n;
    while (read(fd, &n, sizeof(n)) > 0) {
    }
    c->more = true; /* consumer_after_turn polls: one place only */
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    struct consumer *c = ctx;
    (void)fd;
    (void)what;
    CHECK_MAGIC(c, CONSUMER_MAGIC);
    c->more = true; /* also when no edge came: an idle member must poll (practices 1.3) */
}

/* --- life --- */

static void revoke_one(void *ctx, struct tracker *t)
{
    struct consumer *c = ctx;
    c->on.revoking(c->on.ctx, t);
}

void consumer_stop(struct consumer *c)
{
    CHECK_MAGIC(c, CONSUMER_MAGIC);
    if (c->stopping) {
        return;
    }
    c->stopping = true;
    if (c->drain == DRAIN_NONE) {
        c->drain = DRAIN_STOP;
        c->drain_until_us = clock_mono_us() + c->drain_timeout_us;
    }
    assignment_each(c->assignment, revoke_one, c);
}

static void begin_close(struct consumer *c)
{
    const size_t busy = assignment_busy(c->assignment);
    if (busy > 0 && clock_mono_us() < c->drain_until_us) {
        return;
    }
    if (busy > 0) {
        c->drains_late->value++;
        log_warn("kafka.drain_incomplete", F_INT("events", busy), F_STR("lost", "no"));
        c->drain_until_us = 0; /* the revoke that follows must not wait again */
    }
    assignment_store_offsets(c->assignment, c->rk);
    c->drain = DRAIN_NONE;
    c->closing = true;
    log_rd_error("close", rd_kafka_consumer_close_queue(c->rk, c->queue));
}

static void leave_step(struct consumer *c)
{
    if (c->drain == DRAIN_STOP) {
        begin_close(c);
    } else if (c->drain == DRAIN_NONE &&
               !c->closing) { /* a revoke was under way when the stop came */
        c->drain = DRAIN_STOP;
        begin_close(c);
    }
    if (c->closing && !c->closed && rd_kafka_consumer_closed(c->rk)) {
        c->closed = true;
        log_info("kafka.closed", F_STR("topic", c->topic));
    }
}

void consumer_after_turn(struct consumer *c)
{
    CHECK_MAGIC(c, CONSUMER_MAGIC);
    if (!c->flow && !assignment_paused(c->assignment) && !c->stopping && c->drain == DRAIN_NONE &&
        c->joined && clock_mono_us() - c->flow_off_mono_us > PAUSE_AFTER_US) {
        assignment_pause(c->assignment, c->rk);
    }
    if (c->more && may_poll(c) && !c->closed) {
        poll_queue(c);
    }
    if (c->drain == DRAIN_REVOKE) {
        finish_revoke(c);
    }
    assignment_store_offsets(c->assignment, c->rk);
    if (c->stopping && !c->closed) {
        leave_step(c);
    }
    if (c->more && may_poll(c) && !c->closed) {
        event_active(&c->wake, EV_READ,
                     0); /* come back at once, after the other sockets had their turn */
    }
}

bool consumer_closed(const struct consumer *c)
{
    return c->closed;
}

bool consumer_joined(const struct consumer *c)
{
    return c->joined;
}

const char *consumer_trouble(const struct consumer *c)
{
    return c->trouble[0] != '\0' ? c->trouble : "waiting for the group";
}

bool consumer_any_full(const struct consumer *c)
{
    return assignment_any_full(c->assignment);
}

/* What the broker has beyond the position of this consumer; local figures only, nothing blocks. */
static double lag(void *ctx)
{
    const struct consumer *c = ctx;
    rd_kafka_topic_partition_list_t *list = NULL;
    double sum = 0;
    if (rd_kafka_assignment(c->rk, &list) != RD_KAFKA_RESP_ERR_NO_ERROR) {
        return 0;
    }
    (void)rd_kafka_position(c->rk, list);
    for (int i = 0; i < list->cnt; i++) {
        int64_t low = 0;
        int64_t high = 0;
        const rd_kafka_topic_partition_t *e = &list->elems[i];
        if (e->offset >= 0 &&
            rd_kafka_get_watermark_offsets(c->rk, e->topic, e->partition, &low, &high) ==
                RD_KAFKA_RESP_ERR_NO_ERROR &&
            high > e->offset) {
            sum += (double)(high - e->offset);
        }
    }
    rd_kafka_topic_partition_list_destroy(list);
    return sum;
}

static void register_metrics(struct consumer *c)
{
    c->messages = metrics_counter("nrw_messages_total", NULL, "messages taken from Kafka");
    c->rebalances = metrics_counter("nrw_rebalances_total", NULL, "assignments and revocations");
    c->drains_late =
        metrics_counter("nrw_drains_incomplete_total", NULL, "drains that ended by their deadline");
    c->errors = metrics_counter("nrw_kafka_errors_total", NULL,
                                "errors that librdkafka told; it goes on by itself");
    metrics_gauge_fn("nrw_consumer_lag", NULL, "messages on the broker that were not taken yet",
                     lag, c);
}

static bool subscribe(struct consumer *c, struct err *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, c->topic, RD_KAFKA_PARTITION_UA);
    const rd_kafka_resp_err_t e = rd_kafka_subscribe(c->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    return e == RD_KAFKA_RESP_ERR_NO_ERROR ||
           err_set(err, ERR_KAFKA, "subscribe to %s: %s", c->topic, rd_kafka_err2str(e));
}

static bool open_client(struct consumer *c, const struct config *cfg, struct err *err)
{
    rd_kafka_conf_t *conf = kafka_conf_consumer(cfg, err);
    if (conf == NULL) {
        return false;
    }
    rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_REBALANCE | RD_KAFKA_EVENT_ERROR |
                                       RD_KAFKA_EVENT_OFFSET_COMMIT | RD_KAFKA_EVENT_LOG);
    char why[256];
    c->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof(why));
    if (c->rk == NULL) {
        rd_kafka_conf_destroy(conf);
        return err_set(err, ERR_KAFKA, "Kafka consumer: %s", why);
    }
    (void)rd_kafka_poll_set_consumer(c->rk);
    c->queue = rd_kafka_queue_get_consumer(c->rk);
    (void)rd_kafka_set_log_queue(
        c->rk, c->queue); /* only fails without log.queue=true, which kafka_conf sets */
    static const uint64_t one = 1;
    rd_kafka_queue_io_event_enable(c->queue, c->wake_fd, &one, sizeof(one));
    return subscribe(c, err);
}

struct consumer *consumer_new(struct event_base *base, const struct config *cfg,
                              const struct consumer_handlers *handlers, struct err *err)
{
    struct consumer *c = mem_zero(1, sizeof(*c));
    c->magic = CONSUMER_MAGIC;
    c->on = *handlers;
    c->topic = mem_dup(cfg->topic);
    c->assignment = assignment_new(cfg->topic);
    c->drain_timeout_us = cfg->drain_timeout * 1000;
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(c->wake_fd != -1);
    event_assign(&c->wake, base, c->wake_fd, EV_READ | EV_PERSIST, on_wake, c);
    event_assign(&c->tick, base, -1, EV_PERSIST, on_tick, c);
    if (!open_client(c, cfg, err)) {
        consumer_free(c);
        return NULL;
    }
    register_metrics(c);
    const struct timeval every = {.tv_sec = 0, .tv_usec = 500000};
    event_add(&c->wake, NULL);
    event_add(&c->tick, &every);
    return c;
}

void consumer_free(struct consumer *c)
{
    if (c == NULL) {
        return;
    }
    CHECK_MAGIC(c, CONSUMER_MAGIC);
    event_del(&c->wake);
    event_del(&c->tick);
    assignment_free(c->assignment);
    c->assignment = NULL;
    if (c->revoked != NULL) {
        rd_kafka_topic_partition_list_destroy(c->revoked);
        c->revoked = NULL;
    }
    if (c->queue != NULL) {
        rd_kafka_queue_io_event_enable(c->queue, -1, NULL, 0);
        rd_kafka_queue_destroy(c->queue);
        c->queue = NULL;
    }
    if (c->rk != NULL) {
        /* an unclosed consumer would be closed here, blocking: only after the process's own
         * deadline */
        rd_kafka_destroy_flags(c->rk, c->closed ? 0 : RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
        c->rk = NULL;
    }
    close(c->wake_fd);
    free(c->topic);
    c->topic = NULL;
    c->magic = 0;
    free(c);
}
