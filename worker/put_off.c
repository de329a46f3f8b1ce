/* Owns the two statements that move a row without loading it. Decides nothing: lanes know which
 * webhook has enough, for how long, and when it has not. worker.c wires it between retries, lanes
 * and schedule. */
#include "put_off.h"

#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "log.h"
#include "mem.h"
#include "pgarray.h"

#define PUT_OFF_MAGIC 0x5055544fu
#define BATCH         500

struct put_off {
    unsigned magic;
    struct pg *pg;
    struct put_off_handlers on;
    struct put_off_batch *batch; /* of this turn, not sent yet; NULL: none */
};

struct put_off_batch {
    struct put_off *p;
    size_t n;
    struct uuid ids[BATCH];
    int64_t delays_us[BATCH];
};

struct bring_forward {
    struct put_off *p;
    struct uuid webhook_id;
    size_t n;
};

/* clang-format off */
/* A server that crashes may forget these: then the rows are due when they were, and nothing is lost by not waiting. */
static const char hasty_sql[] = "SET LOCAL synchronous_commit = off";

/* What is leased is somebody's, and what is not due any more got another errand: both stay as they are. */
static const char move_sql[] =
    "UPDATE pending_deliveries p SET next_attempt_at = now() + r.delay_us * interval '1 microsecond',"
    " reason = CASE p.reason WHEN 'retry' THEN 'spill' ELSE p.reason END, leased_until = NULL, updated_at = now()"
    " FROM unnest($1, $2) AS r (id, delay_us)"
    " WHERE p.delivery_id = r.id AND p.next_attempt_at <= now() AND (p.leased_until IS NULL OR p.leased_until < now())";

static const char forward_sql[] =
    "UPDATE pending_deliveries SET next_attempt_at = now(), updated_at = now() WHERE delivery_id IN"
    " (SELECT delivery_id FROM pending_deliveries WHERE webhook_id = $1 AND reason <> 'retry'"
    " AND next_attempt_at > now() + interval '1 minute' AND (leased_until IS NULL OR leased_until < now())"
    " LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING delivery_id";
/* clang-format on */

static void moved(void *ctx, const struct pg_reply *reply)
{
    struct put_off_batch *b = ctx;
    struct put_off *p = b->p;
    CHECK_MAGIC(p, PUT_OFF_MAGIC);
    if (!reply->ok) { /* still due; Redis hands them out again when its lease is over */
        log_warn("put_off.failed", F_INT("deliveries", b->n), F_ERR(reply->err));
    }
    for (size_t i = 0; reply->ok && i < b->n; i++) {
        p->on.later(p->on.ctx, &b->ids[i], b->delays_us[i]);
    }
    free(b);
}

static void move(struct put_off *p)
{
    struct put_off_batch *b = p->batch;
    p->batch = NULL;
    struct pgarray ids, delays;
    pgarray_init(&ids, PGARRAY_UUID, 64 + (size_t)BATCH * 20);
    pgarray_init(&delays, PGARRAY_INT8, 64 + (size_t)BATCH * 12);
    for (size_t i = 0; i < b->n; i++) {
        pgarray_add_uuid(&ids, &b->ids[i]);
        pgarray_add_int(&delays, b->delays_us[i]);
    }
    const struct pg_param params[] = {pgarray_param(&ids), pgarray_param(&delays)};
    const struct pg_stmt stmts[] = {
        {.sql = hasty_sql},
        {.sql = move_sql, .params = params, .n_params = 2, .binary_result = true}};
    if (!pg_submit(p->pg, stmts, 2, moved, b)) {
        free(b);
    }
    pgarray_done(&ids);
    pgarray_done(&delays);
}

void put_off_add(struct put_off *p, const struct uuid *id, int64_t delay_us)
{
    CHECK_MAGIC(p, PUT_OFF_MAGIC);
    if (p->batch == NULL) {
        p->batch = mem_alloc(sizeof(*p->batch));
        p->batch->p = p;
        p->batch->n = 0;
    }
    p->batch->ids[p->batch->n] = *id;
    p->batch->delays_us[p->batch->n++] = delay_us;
    if (p->batch->n == BATCH) {
        move(p);
    }
}

static void brought_forward(void *ctx, const struct pg_reply *reply)
{
    struct bring_forward *f = ctx;
    struct put_off *p = f->p;
    CHECK_MAGIC(p, PUT_OFF_MAGIC);
    if (reply->ok) {
        const int n = PQntuples(reply->results[1]);
        for (int row = 0; row < n; row++) {
            const struct uuid id = pgvalue_uuid(reply->results[1], row, 0);
            p->on.due(p->on.ctx, &id, 0);
        }
        if ((size_t)n < f->n) {
            p->on.none_left(p->on.ctx, &f->webhook_id);
        }
    } else {
        log_warn("put_off.not_brought_forward", F_UUID("webhook", &f->webhook_id),
                 F_ERR(reply->err));
    }
    free(f);
}

void put_off_bring_forward(struct put_off *p, const struct uuid *webhook_id, size_t n)
{
    CHECK_MAGIC(p, PUT_OFF_MAGIC);
    struct bring_forward *f = mem_alloc(sizeof(*f));
    *f = (struct bring_forward){.p = p, .webhook_id = *webhook_id, .n = n};
    char id[UUID_TEXT + 1];
    char most[24];
    uuid_format(webhook_id, id);
    (void)snprintf(most, sizeof(most), "%zu", n);
    const struct pg_param params[] = {{.type = 2950, .data = id}, {.type = 20, .data = most}};
    const struct pg_stmt stmts[] = {
        {.sql = hasty_sql},
        {.sql = forward_sql, .params = params, .n_params = 2, .binary_result = true}};
    if (!pg_submit(p->pg, stmts, 2, brought_forward, f)) {
        free(f);
    }
}

void put_off_after_turn(struct put_off *p)
{
    CHECK_MAGIC(p, PUT_OFF_MAGIC);
    if (p->batch != NULL) {
        move(p);
    }
}

struct put_off *put_off_new(struct pg *pg, const struct put_off_handlers *handlers)
{
    struct put_off *p = mem_zero(1, sizeof(*p));
    p->magic = PUT_OFF_MAGIC;
    p->pg = pg;
    p->on = *handlers;
    return p;
}

void put_off_free(struct put_off *p)
{
    if (p == NULL) {
        return;
    }
    CHECK_MAGIC(p, PUT_OFF_MAGIC);
    free(p->batch);
    p->batch = NULL;
    p->magic = 0;
    free(p);
}
