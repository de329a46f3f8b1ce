/* Owns the trackers of the current assignment and the list of what is paused. Called by consumer
 * only. */
#include "assignment.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"

#define PARTITIONS_MAX 100000

struct assignment {
    char *topic;
    struct tracker **trackers; /* by partition; NULL = not ours */
    size_t n;
    uint64_t epoch;
    rd_kafka_topic_partition_list_t *paused; /* what we paused; NULL: nothing */
    struct counter *pauses, *store_errors;
};

static double oldest_unsettled_s(void *ctx)
{
    const struct assignment *a = ctx;
    int64_t oldest = 0;
    for (size_t p = 0; p < a->n; p++) {
        const int64_t at = a->trackers[p] != NULL ? tracker_oldest_mono_us(a->trackers[p]) : 0;
        oldest = at != 0 && (oldest == 0 || at < oldest) ? at : oldest;
    }
    return oldest == 0 ? 0 : (double)(clock_mono_us() - oldest) / 1e6;
}

static double partitions(void *ctx)
{
    const struct assignment *a = ctx;
    size_t n = 0;
    for (size_t p = 0; p < a->n; p++) {
        n += a->trackers[p] != NULL;
    }
    return (double)n;
}

struct assignment *assignment_new(const char *topic)
{
    struct assignment *a = mem_zero(1, sizeof(*a));
    a->topic = mem_dup(topic);
    a->pauses = metrics_counter("nrw_pauses_total", NULL,
                                "times that intake was off for more than a second");
    a->store_errors = metrics_counter("nrw_offset_store_errors_total", NULL,
                                      "offsets that librdkafka did not take");
    metrics_gauge_fn("nrw_oldest_unsettled_seconds", NULL,
                     "age of the oldest event that is not settled", oldest_unsettled_s, a);
    metrics_gauge_fn("nrw_assigned_partitions", NULL, "partitions of this worker", partitions, a);
    return a;
}

void assignment_free(struct assignment *a)
{
    if (a == NULL) {
        return;
    }
    for (size_t p = 0; p < a->n; p++) {
        assignment_drop(a, (int32_t)p);
    }
    free(a->trackers);
    a->trackers = NULL;
    if (a->paused != NULL) {
        rd_kafka_topic_partition_list_destroy(a->paused);
        a->paused = NULL;
    }
    free(a->topic);
    a->topic = NULL;
    free(a);
}

void assignment_new_epoch(struct assignment *a)
{
    a->epoch++;
}

struct tracker *assignment_tracker(const struct assignment *a, int32_t partition)
{
    return partition >= 0 && (size_t)partition < a->n ? a->trackers[partition] : NULL;
}

void assignment_drop(struct assignment *a, int32_t partition)
{
    struct tracker *t = assignment_tracker(a, partition);
    if (t != NULL) {
        a->trackers[partition] = NULL;
        tracker_retire(t);
    }
}

struct tracker *assignment_add(struct assignment *a, int32_t partition)
{
    CHECK(partition >= 0 && partition < PARTITIONS_MAX);
    const size_t need = (size_t)partition + 1;
    if (need > a->n) {
        a->trackers = mem_grow(a->trackers, need, sizeof(struct tracker *));
        memset(&a->trackers[a->n], 0, (need - a->n) * sizeof(struct tracker *));
        a->n = need;
    }
    assignment_drop(a, partition);
    a->trackers[partition] = tracker_new(partition, a->epoch);
    return a->trackers[partition];
}

static void report_refused(struct assignment *a, const rd_kafka_topic_partition_list_t *list)
{
    for (int i = 0; i < list->cnt; i++) {
        const rd_kafka_topic_partition_t *e = &list->elems[i];
        if (e->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
            a->store_errors->value++;
            log_warn("kafka.offset_not_stored", F_INT("partition", e->partition),
                     F_INT("offset", e->offset), F_STR("error", rd_kafka_err2str(e->err)));
        }
    }
}

void assignment_store_offsets(struct assignment *a, rd_kafka_t *rk)
{
    rd_kafka_topic_partition_list_t *list = NULL;
    for (size_t p = 0; p < a->n; p++) {
        int64_t offset = 0;
        if (a->trackers[p] != NULL && tracker_take_offset(a->trackers[p], &offset)) {
            if (list == NULL) {
                list = rd_kafka_topic_partition_list_new(8);
            }
            rd_kafka_topic_partition_list_add(list, a->topic, (int32_t)p)->offset = offset;
        }
    }
    if (list != NULL) {
        (void)rd_kafka_offsets_store(rk, list); /* partial success shows per element only */
        report_refused(a, list);
        rd_kafka_topic_partition_list_destroy(list);
    }
}

void assignment_pause(struct assignment *a, rd_kafka_t *rk)
{
    CHECK(a->paused == NULL);
    if (rd_kafka_assignment(rk, &a->paused) != RD_KAFKA_RESP_ERR_NO_ERROR) {
        a->paused = NULL;
        return;
    }
    (void)rd_kafka_pause_partitions(rk, a->paused); /* an element's error: no longer assigned */
    a->pauses->value++;
    log_info("kafka.paused", F_INT("partitions", a->paused->cnt));
}

void assignment_resume(struct assignment *a, rd_kafka_t *rk)
{
    if (a->paused == NULL) {
        return;
    }
    (void)rd_kafka_resume_partitions(rk, a->paused); /* an element's error: no longer assigned */
    log_info("kafka.resumed", F_INT("partitions", a->paused->cnt));
    rd_kafka_topic_partition_list_destroy(a->paused);
    a->paused = NULL;
}

bool assignment_paused(const struct assignment *a)
{
    return a->paused != NULL;
}

void assignment_each(const struct assignment *a, void (*fn)(void *ctx, struct tracker *t),
                     void *ctx)
{
    for (size_t p = 0; p < a->n; p++) {
        if (a->trackers[p] != NULL) {
            fn(ctx, a->trackers[p]);
        }
    }
}

size_t assignment_busy(const struct assignment *a)
{
    size_t busy = 0;
    for (size_t p = 0; p < a->n; p++) {
        busy += a->trackers[p] != NULL ? tracker_busy(a->trackers[p]) : 0;
    }
    return busy;
}

bool assignment_any_full(const struct assignment *a)
{
    for (size_t p = 0; p < a->n; p++) {
        if (a->trackers[p] != NULL && tracker_full(a->trackers[p])) {
            return true;
        }
    }
    return false;
}
