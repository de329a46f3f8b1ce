/* Owns leasing and loading of pending deliveries and the sweep that stands in for Redis. Sends
 * nothing: loaded ones enter the lanes like new ones. worker.c wires it between schedule and
 * subscriptions. */
#include "retries.h"

#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "check.h"
#include "clock.h"
#include "log.h"
#include "map.h"
#include "mem.h"
#include "metrics.h"
#include "pg.h"
#include "pgarray.h"

#define RETRIES_MAGIC  0x52455452u
#define STALL_MS       15000
#define SWEEP_EVERY_US 1000000
#define MARGIN_MS      20000
#define LOAD_BYTES     4194304 /* of payloads in one answer, or one payload: they are there twice */
#define NO_ROOM_US     250000

struct retries {
    unsigned magic;
    const struct config *cfg;
    struct event_account *account;
    struct retries_handlers on;
    struct pg *pg;
    size_t peeking, loading; /* ids */
    size_t loading_bytes;
    size_t row_bytes; /* of payload, the mean of the rows that were looked at last */
    bool sweeping;
    int64_t next_sweep_mono_us;
    struct farewell *farewell; /* of this turn, not sent yet; NULL: none */
    struct counter *loaded, *lost, *swept, *cancelled;
};

/* One question under way: what ids need, or, once that is known, the rows themselves. */
struct load {
    struct retries *r;
    int64_t asked_mono_us;
    size_t bytes;
    size_t n;
    struct uuid ids[RETRIES_BATCH];
};

/* Rows that are to be deleted together. */
struct farewell {
    struct retries *r;
    size_t n;
    struct uuid ids[RETRIES_BATCH];
    int64_t leases_us[RETRIES_BATCH];
};

int64_t retries_lease_ms(const struct config *cfg)
{
    return cfg->spill_after + cfg->send_timeout + MARGIN_MS;
}

enum {
    COL_DELIVERY,
    COL_RECEIVED,
    COL_EVENT,
    COL_WEBHOOK,
    COL_TENANT,
    COL_TYPE,
    COL_ATTEMPT,
    COL_FINAL,
    COL_PAYLOAD,
    COL_TRACE,
    COL_LEASE,
    COL_REASON
};

enum { PEEK_DELIVERY, PEEK_WAIT, PEEK_BYTES, PEEK_WEBHOOK };

/* clang-format off */
/* When it may be had: not due yet by PostgreSQL's clock, or leased to somebody else. The length of a payload is known
 * without reading it. */
static const char peek_sql[] =
    "SELECT p.delivery_id, greatest(0, 1000000 * extract(epoch FROM greatest(p.next_attempt_at, p.leased_until) - now()))::bigint,"
    " coalesce(octet_length(e.payload), 0)::bigint, CASE WHEN p.reason <> 'test' THEN p.webhook_id END"
    " FROM pending_deliveries p LEFT JOIN events e ON e.tenant_id = p.tenant_id AND e.received_at = p.received_at AND e.id = p.event_id"
    " WHERE p.delivery_id = ANY($1)";

static const char lease_sql[] =
    "WITH leased AS (UPDATE pending_deliveries SET leased_until = now() + $2 * interval '1 millisecond', updated_at = now()"
    " WHERE delivery_id = ANY($1) AND next_attempt_at <= now() AND (leased_until IS NULL OR leased_until < now())"
    " RETURNING delivery_id, received_at, event_id, webhook_id, tenant_id, event_type, next_attempt, final_attempt, leased_until,"
    " reason)"
    " SELECT l.delivery_id, l.received_at, l.event_id, l.webhook_id, l.tenant_id, l.event_type, l.next_attempt::bigint,"
    " l.final_attempt::bigint, e.payload, e.traceparent, l.leased_until, l.reason"
    " FROM leased l LEFT JOIN events e ON e.tenant_id = l.tenant_id AND e.received_at = l.received_at AND e.id = l.event_id";

static const char sweep_sql[] =
    "SELECT delivery_id FROM pending_deliveries WHERE next_attempt_at <= now()"
    " AND (leased_until IS NULL OR leased_until < now()) ORDER BY next_attempt_at LIMIT $1";

/* Only while the lease is still ours: a row may have got another owner, or another errand. */
static const char delete_sql[] =
    "DELETE FROM pending_deliveries p USING unnest($1, $2) AS r (id, lease)"
    " WHERE p.delivery_id = r.id AND p.leased_until = r.lease RETURNING p.delivery_id";
/* clang-format on */

/* --- rows that end here --- */

static void deleted(void *ctx, const struct pg_reply *reply)
{
    struct farewell *f = ctx;
    struct retries *r = f->r;
    CHECK_MAGIC(r, RETRIES_MAGIC);
    if (!reply->ok) { /* the rows come back when their leases are over, and are deleted then */
        log_warn("retries.delete_failed", F_INT("deliveries", f->n), F_ERR(reply->err));
    }
    for (int row = 0; reply->ok && row < PQntuples(reply->results[0]); row++) {
        const struct uuid id = pgvalue_uuid(reply->results[0], row, 0);
        r->on.ended(r->on.ctx, &id);
    }
    free(f);
}

static void delete_rows(struct retries *r)
{
    struct farewell *f = r->farewell;
    r->farewell = NULL;
    struct pgarray ids, leases;
    pgarray_init(&ids, PGARRAY_UUID, 64 + (size_t)RETRIES_BATCH * 20);
    pgarray_init(&leases, PGARRAY_TIME, 64 + (size_t)RETRIES_BATCH * 12);
    for (size_t i = 0; i < f->n; i++) {
        pgarray_add_uuid(&ids, &f->ids[i]);
        pgarray_add_time(&leases, f->leases_us[i]);
    }
    const struct pg_param params[] = {pgarray_param(&ids), pgarray_param(&leases)};
    const struct pg_stmt stmt = {
        .sql = delete_sql, .params = params, .n_params = 2, .binary_result = true};
    if (!pg_submit(r->pg, &stmt, 1, deleted, f)) {
        free(f);
    }
    pgarray_done(&ids);
    pgarray_done(&leases);
}

static void delete_row(struct retries *r, const struct uuid *id, int64_t lease_us)
{
    if (r->farewell == NULL) {
        r->farewell = mem_alloc(sizeof(*r->farewell));
        r->farewell->r = r;
        r->farewell->n = 0;
    }
    struct farewell *f = r->farewell;
    f->ids[f->n] = *id;
    f->leases_us[f->n++] = lease_us;
    if (f->n == RETRIES_BATCH) {
        delete_rows(r);
    }
}

/* Its payload was dropped with its partition: nothing can ever be sent. */
static void no_payload(struct retries *r, const struct uuid *id, int64_t lease_us)
{
    log_error("retries.payload_gone", F_UUID("delivery", id));
    r->lost->value++;
    delete_row(r, id, lease_us);
}

void retries_cancel(struct retries *r, struct nrw_event *ev)
{
    CHECK_MAGIC(r, RETRIES_MAGIC);
    const struct uuid id = uuid_of_delivery(&ev->id, &ev->retry.webhook_id);
    log_info("retries.cancelled", F_UUID("delivery", &id), F_UUID("webhook", &ev->retry.webhook_id),
             F_INT("attempt", ev->retry.attempt),
             F_STR("why", "the webhook is paused, disabled or deleted"));
    r->cancelled->value++;
    delete_row(r, &id, ev->retry.lease_us);
    nrw_event_unref(ev);
}

/* --- leasing and loading --- */

static void hand_over(struct retries *r, const struct load *l, const PGresult *res, int row)
{
    const char *type = PQgetvalue(res, row, COL_TYPE);
    struct nrw_event *ev = nrw_event_new(r->account, type, (size_t)PQgetlength(res, row, COL_TYPE),
                                         PQgetvalue(res, row, COL_PAYLOAD),
                                         (size_t)PQgetlength(res, row, COL_PAYLOAD));
    ev->id = pgvalue_uuid(res, row, COL_EVENT);
    ev->tenant_id = pgvalue_uuid(res, row, COL_TENANT);
    ev->received_at_us = pgvalue_time_us(res, row, COL_RECEIVED);
    ev->taken_mono_us = clock_mono_us();
    ev->partition = -1;
    ev->offset = -1;
    ev->row_committed = true;
    const struct event_retry retry = {
        .webhook_id = pgvalue_uuid(res, row, COL_WEBHOOK),
        .reason = event_reason_of(PQgetvalue(res, row, COL_REASON)),
        .attempt = (unsigned)pgvalue_int8(res, row, COL_ATTEMPT),
        .final_attempt = (unsigned)pgvalue_int8(res, row, COL_FINAL),
        /* an attempt that starts at the last moment still ends, and is written, within the lease */
        .lease_until_mono_us =
            l->asked_mono_us +
            (retries_lease_ms(r->cfg) - r->cfg->send_timeout - MARGIN_MS / 2) * 1000,
        .lease_us = pgvalue_time_us(res, row, COL_LEASE),
    };
    nrw_event_set_retry(ev, &retry);
    const size_t trace_len = (size_t)PQgetlength(res, row, COL_TRACE);
    if (!PQgetisnull(res, row, COL_TRACE) && trace_len == EVENT_TRACEPARENT) {
        memcpy(ev->traceparent, PQgetvalue(res, row, COL_TRACE), trace_len + 1);
    }
    r->loaded->value++;
    r->on.loaded(r->on.ctx, ev);
}

static bool submit(struct load *l, const struct pg_stmt *stmt, pg_reply_fn *fn)
{
    if (!pg_submit(l->r->pg, stmt, 1, fn, l)) {
        free(l);
        return false;
    }
    return true;
}

static void ids_of(const struct load *l, struct pgarray *ret)
{
    pgarray_init(ret, PGARRAY_UUID, 64 + (size_t)RETRIES_BATCH * 20);
    for (size_t i = 0; i < l->n; i++) {
        pgarray_add_uuid(ret, &l->ids[i]);
    }
}

/* Leases that were taken although the answer was lost run out; reconcile and reaper find the rows.
 */
static void failed(const struct load *l, const struct pg_reply *reply)
{
    log_warn("retries.load_failed", F_INT("deliveries", l->n), F_ERR(reply->err));
}

static void leased(void *ctx, const struct pg_reply *reply)
{
    struct load *l = ctx;
    struct retries *r = l->r;
    CHECK_MAGIC(r, RETRIES_MAGIC);
    r->loading -= l->n;
    r->loading_bytes -= l->bytes;
    if (!reply->ok) {
        failed(l, reply);
        free(l);
        return;
    }
    const PGresult *res = reply->results[0];
    struct map mine;
    map_init(&mine);
    for (int row = 0; row < PQntuples(res); row++) {
        const struct uuid id = pgvalue_uuid(res, row, COL_DELIVERY);
        map_put(&mine, &id, r);
        if (PQgetisnull(res, row, COL_PAYLOAD)) {
            no_payload(r, &id, pgvalue_time_us(res, row, COL_LEASE));
        } else {
            hand_over(r, l, res, row);
        }
    }
    for (size_t i = 0; i < l->n; i++) {
        if (map_get(&mine, &l->ids[i]) == NULL) { /* somebody was faster */
            r->on.later(r->on.ctx, &l->ids[i], retries_lease_ms(r->cfg) * 1000);
        }
    }
    map_done(&mine);
    free(l);
}

/* Takes l. */
static void lease(struct load *l)
{
    struct retries *r = l->r;
    struct pgarray ids;
    char lease_ms[24];
    ids_of(l, &ids);
    (void)snprintf(lease_ms, sizeof(lease_ms), "%lld", (long long)retries_lease_ms(r->cfg));
    const struct pg_param params[] = {pgarray_param(&ids), {.type = 20, .data = lease_ms}};
    const struct pg_stmt stmt = {
        .sql = lease_sql, .params = params, .n_params = 2, .binary_result = true};
    l->asked_mono_us = clock_mono_us();
    const size_t n = l->n;
    const size_t bytes = l->bytes;
    if (submit(l, &stmt, leased)) {
        r->loading += n;
        r->loading_bytes += bytes;
    }
    pgarray_done(&ids);
}

/* --- looking before taking --- */

static struct load *load_new(struct retries *r)
{
    struct load *l = mem_alloc(sizeof(*l));
    l->r = r;
    l->n = l->bytes = 0;
    return l;
}

static size_t bytes_taken(const struct retries *r)
{
    return r->account->payload_bytes + r->loading_bytes;
}

/* One that may be had now: it goes with the others, as long as there is room for its payload. */
static void take(struct load **load, const struct uuid *id, size_t bytes)
{
    struct load *l = *load;
    struct retries *r = l->r;
    if (bytes_taken(r) + l->bytes + bytes > (size_t)r->cfg->event_bytes_max) {
        r->next_sweep_mono_us = clock_mono_us() + SWEEP_EVERY_US;
        r->on.later(r->on.ctx, id, NO_ROOM_US);
        return;
    }
    if (l->n > 0 && l->bytes + bytes > LOAD_BYTES) {
        *load = load_new(r);
        lease(l);
        l = *load;
    }
    l->ids[l->n++] = *id;
    l->bytes += bytes;
}

/* Counts the rows of this page that each webhook has got. */
struct page {
    struct map webhooks; /* -> a counter */
    size_t n;
    size_t counters[RETRIES_BATCH];
};

static bool crowded(struct retries *r, struct page *page, const PGresult *res, int row)
{
    if (PQgetisnull(res, row, PEEK_WEBHOOK)) {
        return false;
    }
    const struct uuid id = pgvalue_uuid(res, row, PEEK_DELIVERY);
    const struct uuid webhook_id = pgvalue_uuid(res, row, PEEK_WEBHOOK);
    size_t *ahead = map_get(&page->webhooks, &webhook_id);
    if (ahead == NULL) {
        ahead = &page->counters[page->n++];
        *ahead = 0;
        map_put(&page->webhooks, &webhook_id, ahead);
    }
    if (r->on.crowded(r->on.ctx, &id, &webhook_id, *ahead)) {
        return true;
    }
    ++*ahead;
    return false;
}

static void sort_out(struct retries *r, const struct load *asked, const PGresult *res)
{
    struct map known;
    struct page page = {.n = 0};
    struct load *l = load_new(r);
    size_t all_bytes = 0;
    map_init(&known);
    map_init(&page.webhooks);
    for (int row = 0; row < PQntuples(res); row++) {
        const struct uuid id = pgvalue_uuid(res, row, PEEK_DELIVERY);
        const int64_t wait_us = pgvalue_int8(res, row, PEEK_WAIT);
        const size_t bytes = (size_t)pgvalue_int8(res, row, PEEK_BYTES);
        map_put(&known, &id, r);
        all_bytes += bytes;
        if (wait_us > 0) {
            r->on.later(r->on.ctx, &id, wait_us);
        } else if (!crowded(r, &page, res, row)) {
            take(&l, &id, bytes);
        }
    }
    if (PQntuples(res) > 0) {
        r->row_bytes = all_bytes / (size_t)PQntuples(res) + 1;
    }
    for (size_t i = 0; i < asked->n; i++) {
        if (map_get(&known, &asked->ids[i]) == NULL) {
            r->on.ended(r->on.ctx, &asked->ids[i]);
        }
    }
    map_done(&known);
    map_done(&page.webhooks);
    if (l->n > 0) {
        lease(l);
    } else {
        free(l);
    }
}

static void peeked(void *ctx, const struct pg_reply *reply)
{
    struct load *l = ctx;
    struct retries *r = l->r;
    CHECK_MAGIC(r, RETRIES_MAGIC);
    r->peeking -= l->n;
    if (reply->ok) {
        sort_out(r, l, reply->results[0]);
    } else {
        failed(l, reply);
    }
    free(l);
}

void retries_claimed(struct retries *r, const struct uuid *ids, size_t n)
{
    CHECK_MAGIC(r, RETRIES_MAGIC);
    CHECK(n <= RETRIES_BATCH);
    if (n == 0) {
        return;
    }
    struct load *l = load_new(r);
    struct pgarray array;
    l->n = n;
    memcpy(l->ids, ids, n * sizeof(*ids));
    ids_of(l, &array);
    const struct pg_param param = pgarray_param(&array);
    const struct pg_stmt stmt = {
        .sql = peek_sql, .params = &param, .n_params = 1, .binary_result = true};
    if (submit(l, &stmt, peeked)) {
        r->peeking += n;
    }
    pgarray_done(&array);
}

size_t retries_room(const struct retries *r)
{
    const size_t max = (size_t)r->cfg->event_bytes_max;
    const size_t taken = bytes_taken(r) + r->peeking * r->row_bytes;
    return taken < max ? (max - taken) / r->row_bytes : 0;
}

/* --- the sweep --- */

static void swept(void *ctx, const struct pg_reply *reply)
{
    struct retries *r = ctx;
    CHECK_MAGIC(r, RETRIES_MAGIC);
    r->sweeping = false;
    if (!reply->ok) {
        log_warn("retries.sweep_failed", F_ERR(reply->err));
        return;
    }
    const PGresult *res = reply->results[0];
    struct uuid ids[RETRIES_BATCH];
    const int n = PQntuples(res) < RETRIES_BATCH ? PQntuples(res) : RETRIES_BATCH;
    for (int row = 0; row < n; row++) {
        ids[row] = pgvalue_uuid(res, row, 0);
    }
    r->swept->value += (uint64_t)n;
    if (n > 0) { /* more may be due: as soon as there is room */
        r->next_sweep_mono_us = clock_mono_us();
    }
    retries_claimed(r, ids, (size_t)n);
}

void retries_after_turn(struct retries *r, size_t want, bool sweep)
{
    CHECK_MAGIC(r, RETRIES_MAGIC);
    if (r->farewell != NULL) {
        delete_rows(r);
    }
    const int64_t now = clock_mono_us();
    if (!sweep || want == 0 || r->sweeping || retries_loading(r) > 0 || !pg_is_up(r->pg) ||
        now < r->next_sweep_mono_us) {
        return;
    }
    char limit[24];
    (void)snprintf(limit, sizeof(limit), "%zu",
                   want < RETRIES_BATCH ? want : (size_t)RETRIES_BATCH);
    const struct pg_param param = {.type = 20, .data = limit};
    const struct pg_stmt stmt = {
        .sql = sweep_sql, .params = &param, .n_params = 1, .binary_result = true};
    r->sweeping = pg_submit(r->pg, &stmt, 1, swept, r);
    r->next_sweep_mono_us = now + SWEEP_EVERY_US;
}

/* --- life --- */

bool retries_up(const struct retries *r)
{
    return pg_is_up(r->pg);
}

size_t retries_loading(const struct retries *r)
{
    return r->peeking + r->loading;
}

struct pg *retries_pg(const struct retries *r)
{
    return r->pg;
}

static void on_down(void *ctx, const struct err *why)
{
    (void)ctx;
    log_warn("retries.connection_lost", F_ERR(why));
}

struct retries *retries_new(struct event_base *base, const struct config *cfg,
                            struct event_account *account, const struct retries_handlers *handlers)
{
    struct retries *r = mem_zero(1, sizeof(*r));
    r->magic = RETRIES_MAGIC;
    r->cfg = cfg;
    r->account = account;
    r->row_bytes = LIMIT_EVENT_BYTES;
    r->on = *handlers;
    r->loaded =
        metrics_counter("nrw_retries_loaded_total", NULL, "due deliveries leased and loaded");
    r->lost = metrics_counter("nrw_retries_payload_gone_total", NULL,
                              "due deliveries whose payload was dropped");
    r->swept =
        metrics_counter("nrw_retries_swept_total", NULL, "due deliveries found without Redis");
    r->cancelled = metrics_counter("nrw_retries_cancelled_total", NULL,
                                   "due deliveries whose webhook was paused, disabled or deleted");
    const struct pg_handlers on = {.down = on_down, .ctx = r};
    r->pg = pg_new(base, cfg->database_url, "nrw-worker-retries", STALL_MS, &on);
    return r;
}

void retries_free(struct retries *r)
{
    if (r == NULL) {
        return;
    }
    CHECK_MAGIC(r, RETRIES_MAGIC);
    pg_free(r->pg);
    r->pg = NULL;
    free(r->farewell);
    r->farewell = NULL;
    r->magic = 0;
    free(r);
}
