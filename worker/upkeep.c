/* Owns the timers of the chores and their statements. Each chore is one unit that first tries an
 * advisory lock; a worker that does not get it does nothing, because another one is at it. Nothing
 * waits for a chore. */
#include "upkeep.h"

#include <event2/event_struct.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "event.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"
#include "pgarray.h"

#define UPKEEP_MAGIC 0x55504b50u
#define STALL_MS     60000
#define DAY_S        86400

/* clang-format off */
#define ONCE "pg_try_advisory_xact_lock(hashtext('nrw_upkeep'))"

static const char partitions_sql[] = "SELECT nrw_ensure_partitions(8)::bigint WHERE " ONCE;
static const char retention_sql[] =
    "SELECT count(*) FROM nrw_drop_expired_partitions($1::int) WHERE (SELECT " ONCE ")";
static const char disable_sql[] =
    "WITH turned AS (UPDATE webhooks SET status = 'disabled', disabled_at = now(),"
    " disabled_reason = 'no delivery succeeded for too long'"
    " WHERE status = 'failing' AND active AND deleted_at IS NULL AND failing_since < now() - $1 * interval '1 millisecond' AND " ONCE
    " RETURNING id, tenant_id, disabled_at, disabled_reason),"
    " mailed AS (INSERT INTO notifications (kind, tenant_id, webhook_id, transition_at, reason)"
    " SELECT 'webhook_disabled', tenant_id, id, disabled_at, disabled_reason FROM turned ON CONFLICT DO NOTHING)"
    " SELECT count(*) FROM turned";
/* What a worker had leased when its replay job was cancelled, and has given back since. */
static const char replays_sql[] =
    "WITH gone AS (DELETE FROM pending_deliveries p USING replay_jobs j WHERE j.id = p.replay_job_id AND p.replay_job_id IS NOT NULL"
    " AND j.state = 'cancelled' AND (p.leased_until IS NULL OR p.leased_until < now()) AND (SELECT " ONCE ") RETURNING 1)"
    " SELECT count(*) FROM gone";
/* Every worker asks: it is cheap, and each exports it. A count stops at 100 000. */
static const char gauges_sql[] =
    "SELECT count(*) FILTER (WHERE reason = 'retry'), count(*) FILTER (WHERE reason = 'spill'),"
    " count(*) FILTER (WHERE reason = 'redeliver'), count(*) FILTER (WHERE reason = 'replay'), count(*) FILTER (WHERE reason = 'test'),"
    " coalesce((SELECT greatest(0, extract(epoch FROM now() - min(next_attempt_at)))::bigint FROM pending_deliveries), 0),"
    " nrw_partition_days_ahead()::bigint FROM (SELECT reason FROM pending_deliveries LIMIT 100000) AS head";
/* clang-format on */

enum { CHORE_PARTITIONS, CHORE_RETENTION, CHORE_DISABLE, CHORE_REPLAYS, CHORE_GAUGES, CHORES };

struct chore {
    struct upkeep *u;
    const char *name;
    const char *sql;
    int every_s;
    char param[24]; /* "": none */
    struct event timer;
    bool out;
};

struct upkeep {
    unsigned magic;
    struct pg *pg;
    struct chore chores[CHORES];
    struct gauge *pending[EVENT_TEST + 1]; /* by enum event_reason */
    struct gauge *oldest_due, *ahead;
    struct counter *disabled, *failures;
};

static void take_gauges(struct upkeep *u, const PGresult *r)
{
    for (int i = EVENT_RETRY; i <= EVENT_TEST; i++) {
        u->pending[i]->value = (double)pgvalue_int8(r, 0, i);
    }
    u->oldest_due->value = (double)pgvalue_int8(r, 0, EVENT_TEST + 1);
    u->ahead->value = (double)(pgvalue_int8(r, 0, EVENT_TEST + 2) * DAY_S);
}

static void done(void *ctx, const struct pg_reply *reply)
{
    struct chore *c = ctx;
    struct upkeep *u = c->u;
    CHECK_MAGIC(u, UPKEEP_MAGIC);
    c->out = false;
    if (!reply->ok) {
        u->failures->value++;
        log_warn("upkeep.failed", F_STR("chore", c->name), F_ERR(reply->err));
        return;
    }
    const PGresult *r = reply->results[0];
    if (PQntuples(r) == 0) {
        return; /* somebody else is at it */
    }
    if (c == &u->chores[CHORE_GAUGES]) {
        take_gauges(u, r);
        return;
    }
    const int64_t n = pgvalue_int8(r, 0, 0);
    if (c == &u->chores[CHORE_DISABLE]) {
        u->disabled->value += (uint64_t)n;
    }
    if (n > 0) {
        log_info("upkeep.done", F_STR("chore", c->name), F_INT("changed", n));
        if (c == &u->chores[CHORE_RETENTION]) { /* that was one bounded piece: the next one */
            event_active(&c->timer, EV_TIMEOUT, 0);
        }
    }
}

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
    struct chore *c = ctx;
    (void)fd;
    (void)what;
    CHECK_MAGIC(c->u, UPKEEP_MAGIC);
    if (c->out) {
        return;
    }
    const struct pg_param param = {.type = 20, .data = c->param};
    const struct pg_stmt stmt = {.sql = c->sql,
                                 .params = &param,
                                 .n_params = c->param[0] != '\0' ? 1 : 0,
                                 .binary_result = true};
    c->out = pg_submit(c->u->pg, &stmt, 1, done, c);
}

static void run_all(void *ctx)
{
    struct upkeep *u = ctx;
    for (int i = 0; i < CHORES; i++) {
        event_active(&u->chores[i].timer, EV_TIMEOUT, 0);
    }
}

static void add_chore(struct upkeep *u, struct event_base *base, int which, const char *name,
                      const char *sql, int every_s, int64_t param)
{
    struct chore *c = &u->chores[which];
    c->u = u;
    c->name = name;
    c->sql = sql;
    c->every_s = every_s;
    if (param >= 0) {
        (void)snprintf(c->param, sizeof(c->param), "%" PRId64, param);
    }
    event_assign(&c->timer, base, -1, EV_PERSIST, on_timer, c);
    const struct timeval tv = {.tv_sec = every_s};
    event_add(&c->timer, &tv);
}

static void on_down(void *ctx, const struct err *why)
{
    (void)ctx;
    log_warn("upkeep.connection_lost", F_ERR(why));
}

struct upkeep *upkeep_new(struct event_base *base, const struct config *cfg)
{
    struct upkeep *u = mem_zero(1, sizeof(*u));
    u->magic = UPKEEP_MAGIC;
    static const char *const reasons[] = {[EVENT_RETRY] = "reason=\"retry\"",
                                          [EVENT_SPILL] = "reason=\"spill\"",
                                          [EVENT_REDELIVER] = "reason=\"redeliver\"",
                                          [EVENT_REPLAY] = "reason=\"replay\"",
                                          [EVENT_TEST] = "reason=\"test\""};
    for (int i = EVENT_RETRY; i <= EVENT_TEST; i++) {
        u->pending[i] = metrics_gauge("nrw_pending_deliveries", reasons[i],
                                      "pending rows of the database, of the first 100000");
    }
    u->oldest_due = metrics_gauge("nrw_oldest_due_seconds", NULL,
                                  "how long the oldest due pending row has been due");
    u->ahead = metrics_gauge("nrw_partitions_ahead_seconds", NULL,
                             "time ahead for which partitions exist, in whole days");
    u->ahead->value = NAN; /* until somebody has looked: 0 would be an alarm */
    u->disabled = metrics_counter("nrw_webhooks_disabled_total", NULL,
                                  "webhooks disabled here after failing too long");
    u->failures = metrics_counter("nrw_upkeep_failures_total", NULL, "chores that failed");
    const struct pg_handlers on = {.up = run_all, .down = on_down, .ctx = u};
    u->pg = pg_new(base, cfg->database_url, "nrw-worker-upkeep", STALL_MS, &on);
    add_chore(u, base, CHORE_PARTITIONS, "partitions", partitions_sql, 3600, -1);
    add_chore(u, base, CHORE_RETENTION, "retention", retention_sql, 3600,
              cfg->retention / 86400000);
    add_chore(u, base, CHORE_DISABLE, "disable", disable_sql, 60, cfg->disable_after);
    add_chore(u, base, CHORE_REPLAYS, "replays", replays_sql, 5, -1);
    add_chore(u, base, CHORE_GAUGES, "gauges", gauges_sql, 5, -1);
    return u;
}

struct pg *upkeep_pg(const struct upkeep *u)
{
    return u->pg;
}

void upkeep_free(struct upkeep *u)
{
    if (u == NULL) {
        return;
    }
    CHECK_MAGIC(u, UPKEEP_MAGIC);
    for (int i = 0; i < CHORES; i++) {
        event_del(&u->chores[i].timer);
    }
    pg_free(u->pg);
    u->pg = NULL;
    u->magic = 0;
    free(u);
}
