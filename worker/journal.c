/* Owns the queue of what must be written, the one batch that is out, and what happens when
 * PostgreSQL says no. The rows themselves are journal_rows.c. delivery adds entries; nothing else
 * writes attempts. */
#include "journal.h"

#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>

#include "bisect.h"
#include "check.h"
#include "clock.h"
#include "journal_rows.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"
#include "pg.h"

#define JOURNAL_MAGIC 0x4a4f5552u
#define BATCH_BYTES_MAX                                                                            \
    ((size_t)8 * 1024 * 1024) /* payload and kept bytes in one transaction       */
#define STALL_MS       30000
#define RETRY_AFTER_US 1000000  /* after an error that is not the data's            */
#define WARY_US        10000000 /* rows that exist come in clumps: after a crash, a lost answer */

struct journal {
    unsigned magic;
    const struct config *cfg;
    struct pg *pg;
    struct event timer; /* linger or retry */
    struct journal_rows *rows;

    struct journal_entry *queue; /* oldest first */
    struct journal_entry **queue_tail;
    size_t queue_n;
    int64_t oldest_mono_us; /* when the first entry came into an empty queue */

    struct journal_entry **batch; /* out, or between two tries */
    size_t batch_n;
    struct bisect parts; /* which range of the batch is next; one range unless data was refused */
    bool out;
    int64_t sent_mono_us;
    int64_t not_before_mono_us; /* after an own fault */
    int64_t wary_until_mono_us; /* rows may be there already */
    bool sent_wary;
    uint64_t sends;

    struct counter *batches, *rows_total, *existing, *retries, *rejected;
    struct histogram *seconds, *sizes;
};

void journal_add(struct journal *j, struct journal_entry *e)
{
    CHECK_MAGIC(j, JOURNAL_MAGIC);
    e->next = NULL;
    e->bare = false;
    if (j->queue_n == 0) {
        j->oldest_mono_us = clock_mono_us();
    }
    *j->queue_tail = e;
    j->queue_tail = &e->next;
    j->queue_n++;
}

static size_t bytes_of(const struct journal_entry *e)
{
    return (e->ev->row_committed ? 0 : e->ev->payload_len) + e->headers_len + e->body_len;
}

static void take_batch(struct journal *j)
{
    size_t bytes = 0;
    j->batch_n = 0;
    while (j->queue != NULL && j->batch_n < (size_t)j->cfg->journal_batch_max) {
        struct journal_entry *e = j->queue;
        bytes += bytes_of(e);
        if (bytes > BATCH_BYTES_MAX && j->batch_n > 0) {
            break;
        }
        j->queue = e->next;
        j->queue_n--;
        j->batch[j->batch_n++] = e;
    }
    if (j->queue == NULL) {
        j->queue_tail = &j->queue;
    }
    j->oldest_mono_us = clock_mono_us();
    bisect_begin(&j->parts, j->batch_n);
}

/* The row of this event is durable now: later entries need not carry it. */
static void end_entry(struct journal_entry *e, enum journal_end end)
{
    if (end == JOURNAL_COMMITTED) {
        e->ev->row_committed = true;
    }
    e->done(e, end);
}

static void committed(struct journal *j)
{
    size_t first = 0;
    size_t end = 0;
    CHECK(bisect_current(&j->parts, &first, &end));
    bisect_good(&j->parts);
    j->batches->value++;
    j->rows_total->value += end - first;
    histogram_observe(j->sizes, (double)(end - first));
    histogram_observe(j->seconds, (double)(clock_mono_us() - j->sent_mono_us) / 1e6);
    for (size_t i = first; i < end; i++) {
        end_entry(j->batch[i], JOURNAL_COMMITTED);
    }
}

/* Class 22 and 23 are the data's fault, P0001 is a trigger's RAISE, class 21 means that a delivery
 * is in the batch twice (a producer sent its event twice) and goes in parts; anything else would
 * hit every row alike. */
static bool data_refused(const struct pg_reply *reply)
{
    const char *state = reply->err->sqlstate;
    return reply->failed >= 0 && (strncmp(state, "21", 2) == 0 || strncmp(state, "22", 2) == 0 ||
                                  strncmp(state, "23", 2) == 0 || strcmp(state, "P0001") == 0);
}

/* Consumed again after a crash, or an answer was lost: from now on such rows are left alone. */
static bool met_existing_row(const struct journal *j, const struct pg_reply *reply)
{
    return reply->failed >= 0 && !j->sent_wary && strcmp(reply->err->sqlstate, "23505") == 0;
}

static void refused(struct journal *j, const struct pg_reply *reply)
{
    size_t first = 0;
    size_t end = 0;
    CHECK(bisect_current(&j->parts, &first, &end));
    struct journal_entry *e = j->batch[first];
    if (end - first == 1 && !e->bare) {
        e->bare = true; /* once more, without what the endpoint answered */
        return;
    }
    if (bisect_bad(&j->parts)) {
        j->rejected->value++;
        log_error("journal.row_rejected", F_UUID("delivery", &e->delivery_id),
                  F_UUID("event_id", &e->ev->id), F_STR("sqlstate", reply->err->sqlstate),
                  F_ERR(reply->err));
        end_entry(e, JOURNAL_REJECTED);
    }
}

static void replied(void *ctx, const struct pg_reply *reply)
{
    struct journal *j = ctx;
    CHECK_MAGIC(j, JOURNAL_MAGIC);
    j->out = false;
    if (reply->ok) {
        committed(j);
        return;
    }
    j->wary_until_mono_us = clock_mono_us() + WARY_US;
    if (met_existing_row(j, reply)) {
        j->existing->value++;
    } else if (data_refused(reply)) {
        refused(j, reply);
    } else {
        j->retries->value++;
        j->not_before_mono_us = clock_mono_us() + RETRY_AFTER_US;
        log_warn("journal.batch_failed", F_INT("entries", j->batch_n),
                 F_STR("sqlstate", reply->err->sqlstate), F_ERR(reply->err));
    }
}

static void wait_until(struct journal *j, int64_t at_mono_us)
{
    const int64_t us = at_mono_us - clock_mono_us();
    const struct timeval tv = {.tv_sec = us > 0 ? us / 1000000 : 0,
                               .tv_usec = us > 0 ? us % 1000000 : 0};
    event_add(&j->timer, &tv);
}

/* A quarter of the largest batch is large enough to go at once; less waits for company, but not
 * longer than the linger. */
static bool worth_sending(struct journal *j)
{
    const int64_t due = j->oldest_mono_us + j->cfg->journal_linger * 1000;
    if (j->queue_n == 0) {
        return false;
    }
    if (j->queue_n >= (size_t)(j->cfg->journal_batch_max + 3) / 4 || clock_mono_us() >= due) {
        return true;
    }
    wait_until(j, due);
    return false;
}

static void send_range(struct journal *j)
{
    size_t first = 0;
    size_t end = 0;
    CHECK(bisect_current(&j->parts, &first, &end));
    const struct pg_stmt *stmts = NULL;
    j->sent_wary = clock_mono_us() < j->wary_until_mono_us;
    const int n = journal_rows_build(j->rows, &j->batch[first], end - first, ++j->sends,
                                     j->sent_wary, &stmts);
    j->sent_mono_us = clock_mono_us();
    j->out = pg_submit(j->pg, stmts, n, replied, j);
}

void journal_after_turn(struct journal *j)
{
    CHECK_MAGIC(j, JOURNAL_MAGIC);
    if (j->out || !pg_is_up(j->pg)) {
        return;
    }
    if (clock_mono_us() < j->not_before_mono_us) {
        wait_until(j, j->not_before_mono_us);
        return;
    }
    size_t first = 0;
    size_t end = 0;
    if (!bisect_current(&j->parts, &first, &end)) {
        j->batch_n = 0;
        if (!worth_sending(j)) {
            return;
        }
        take_batch(j);
    }
    send_range(j);
}

/* Waking the loop is all: journal_after_turn() does the work. */
static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
    const struct journal *j = ctx;
    (void)fd;
    (void)what;
    CHECK_MAGIC(j, JOURNAL_MAGIC);
}

static void on_up(void *ctx)
{
    struct journal *j = ctx;
    j->not_before_mono_us = 0;
    log_info("journal.connected", F_INT("waiting", journal_waiting(j)));
}

static void on_down(void *ctx, const struct err *why)
{
    (void)ctx;
    log_warn("journal.connection_lost", F_ERR(why));
}

bool journal_up(const struct journal *j)
{
    return pg_is_up(j->pg);
}

size_t journal_waiting(const struct journal *j)
{
    size_t first = 0;
    size_t end = 0;
    size_t open = 0;
    if (bisect_current(&j->parts, &first, &end)) {
        open = j->batch_n - first;
    }
    return j->queue_n + open;
}

static double waiting(void *ctx)
{
    return (double)journal_waiting(ctx);
}

static double up(void *ctx)
{
    return journal_up(ctx) ? 1 : 0;
}

static void register_metrics(struct journal *j)
{
    static const double sizes[] = {1, 3, 10, 30, 100, 300, 1000, 3000, 10000};
    j->batches = metrics_counter("nrw_journal_batches_total", NULL, "transactions committed");
    j->rows_total =
        metrics_counter("nrw_journal_entries_total", NULL, "delivery outcomes committed");
    j->existing = metrics_counter("nrw_journal_existing_total", NULL,
                                  "batches sent again because a row was there already");
    j->retries =
        metrics_counter("nrw_journal_retries_total", NULL, "batches that have to be sent again");
    j->rejected = metrics_counter("nrw_journal_rejected_total", NULL,
                                  "entries that PostgreSQL does not take");
    j->seconds =
        metrics_histogram("nrw_journal_batch_seconds", NULL, "from sending a batch to its commit",
                          metrics_seconds_bounds, metrics_seconds_bounds_n);
    j->sizes = metrics_histogram("nrw_journal_batch_entries", NULL, "entries in a committed batch",
                                 sizes, sizeof(sizes) / sizeof(*sizes));
    metrics_gauge_fn("nrw_journal_waiting", NULL, "entries that are not committed", waiting, j);
    metrics_gauge_fn("nrw_pg_up", NULL,
                     "1 while PostgreSQL is connected: a worker's journal, one of the API's", up,
                     j);
}

struct journal *journal_new(struct event_base *base, const struct config *cfg)
{
    struct journal *j = mem_zero(1, sizeof(*j));
    j->magic = JOURNAL_MAGIC;
    j->cfg = cfg;
    j->queue_tail = &j->queue;
    j->batch = mem_zero((size_t)cfg->journal_batch_max, sizeof(struct journal_entry *));
    j->rows = journal_rows_new(cfg->group, cfg->topic);
    event_assign(&j->timer, base, -1, 0, on_timer, j);
    register_metrics(j);
    const struct pg_handlers on = {.up = on_up, .down = on_down, .ctx = j};
    j->pg = pg_new(base, cfg->database_url, "nrw-worker-journal", STALL_MS, &on);
    return j;
}

void journal_free(struct journal *j)
{
    if (j == NULL) {
        return;
    }
    CHECK_MAGIC(j, JOURNAL_MAGIC);
    event_del(&j->timer);
    pg_free(j->pg);
    j->pg = NULL;
    journal_rows_free(j->rows);
    j->rows = NULL;
    free(j->batch);
    j->batch = NULL;
    j->magic = 0;
    free(j);
}
