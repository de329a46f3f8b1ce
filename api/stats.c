/* Owns the statistics of a webhook and their SQL: one walk along the index attempts_webhook from
 * now back to the beginning of the window, and of at most ATTEMPTS_MAX attempts, so that it ends
 * well before the time limit of a statement for the busiest webhook, too. Then `since` is that of
 * the oldest attempt that was looked at: what is told is always exact. */
#include "stats.h"

#include "check.h"
#include "clock.h"
#include "delivery_row.h"
#include "mem.h"
#include "param.h"
#include "pgarray.h"
#include "query.h"
#include "render.h"

#define TEXT_OF_(x)   #x
#define TEXT_OF(x)    TEXT_OF_(x)
#define HOUR_US       (INT64_C(3600) * 1000000)
#define HOURS_MAX     168
#define HOURS_DEFAULT 24
#define ATTEMPTS_MAX  200000

#define PARAMS 4
#define NO_ROW (-1)

/* clang-format off */
/* In the order of the index, so that LIMIT ends the walk. The row without an hour is the whole window's. Response times are of those that answered. */
static const char stats_sql[] =
    "SELECT hour, count(*), count(*) FILTER (WHERE outcome = 'delivered'),"
    " percentile_disc(0.5) WITHIN GROUP (ORDER BY response_time_ms) FILTER (WHERE status_code IS NOT NULL)::bigint,"
    " percentile_disc(0.95) WITHIN GROUP (ORDER BY response_time_ms) FILTER (WHERE status_code IS NOT NULL)::bigint,"
    " min(started_at)"
    " FROM (SELECT date_trunc('hour', started_at, 'UTC') AS hour, started_at, outcome, status_code, response_time_ms"
    " FROM attempts WHERE webhook_id = $1::uuid AND started_at >= $3::timestamptz"
    " AND started_at < $4::timestamptz ORDER BY started_at DESC LIMIT " TEXT_OF(ATTEMPTS_MAX) ") AS seen WHERE " IS_OWNED
    " GROUP BY GROUPING SETS ((hour), ())";
/* clang-format on */
enum { COL_HOUR, COL_ATTEMPTS, COL_DELIVERED, COL_P50, COL_P95, COL_OLDEST };

struct window {
    int64_t since_us; /* the beginning of an hour */
    int64_t until_us;
};

static int64_t hour_of(int64_t wall_us)
{
    return wall_us - wall_us % HOUR_US;
}

/* Adds StatsMembers of openapi.yaml. row NO_ROW: there was no attempt. */
static void add_members(json_t *object, const PGresult *r, int row)
{
    const int64_t attempts = row == NO_ROW ? 0 : pgvalue_int8(r, row, COL_ATTEMPTS);
    const int64_t delivered = row == NO_ROW ? 0 : pgvalue_int8(r, row, COL_DELIVERED);
    render_add(object, "attempts", json_integer(attempts));
    render_add(object, "delivered", json_integer(delivered));
    render_add(object, "failed", json_integer(attempts - delivered));
    render_add(object, "success_rate",
               attempts > 0 ? json_real((double)delivered / (double)attempts) : json_null());
    render_add(object, "p50_ms", row == NO_ROW ? json_null() : render_int(r, row, COL_P50));
    render_add(object, "p95_ms", row == NO_ROW ? json_null() : render_int(r, row, COL_P95));
}

static json_t *object(void)
{
    json_t *o = json_object();
    CHECK(o != NULL);
    return o;
}

/* Rows by hour, of hours that have any; the first of them begins at first_us. */
static json_t *render_hours(const PGresult *r, const int *row_of, int64_t first_us,
                            int64_t until_us)
{
    json_t *list = json_array();
    CHECK(list != NULL);
    for (int64_t at = first_us; at <= until_us; at += HOUR_US) {
        json_t *hour = object();
        render_add(hour, "hour", render_wall_time(at));
        add_members(hour, r, row_of[(at - first_us) / HOUR_US]);
        CHECK(json_array_append_new(list, hour) == 0);
    }
    return list;
}

static void found(struct call *c, const struct pg_reply *reply)
{
    const struct window *w = c->state;
    const PGresult *r = reply->results[1];
    int row_of[HOURS_MAX];
    int total = NO_ROW;
    if (delivery_row_not_owned(c, reply)) {
        return;
    }
    for (int row = 0; row < PQntuples(r); row++) {
        if (PQgetisnull(r, row, COL_HOUR)) {
            total = row;
        }
    }
    CHECK(total != NO_ROW);
    const bool all = pgvalue_int8(r, total, COL_ATTEMPTS) < ATTEMPTS_MAX;
    const int64_t since_us = all ? w->since_us : pgvalue_time_us(r, total, COL_OLDEST);
    for (size_t i = 0; i < HOURS_MAX; i++) {
        row_of[i] = NO_ROW;
    }
    for (int row = 0; row < PQntuples(r); row++) {
        if (row != total) {
            const int64_t i = (pgvalue_time_us(r, row, COL_HOUR) - hour_of(since_us)) / HOUR_US;
            CHECK(i >= 0 && i < HOURS_MAX);
            row_of[i] = row;
        }
    }
    json_t *totals = object();
    add_members(totals, r, total);
    json_t *stats = object();
    render_add(stats, "since", render_wall_time(since_us));
    render_add(stats, "until", render_wall_time(w->until_us));
    render_add(stats, "totals", totals);
    render_add(stats, "hours", render_hours(r, row_of, hour_of(since_us), w->until_us));
    call_reply(c, 200, stats);
}

static void ask(struct call *c, const struct window *w)
{
    char since[CLOCK_RFC3339_SIZE];
    char until[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(w->since_us, since);
    clock_format_rfc3339(w->until_us, until);
    const struct pg_param params[PARAMS] = {param_uuid(&c->ids[0]), param_uuid(&c->who.tenant_id),
                                            param_time(since), param_time(until)};
    const struct pg_stmt stmts[] = {
        {.sql = delivery_row_owned_sql, .params = params, .n_params = 2},
        {.sql = stats_sql, .params = params, .n_params = PARAMS, .binary_result = true}};
    call_query(c, stmts, 2, found);
}

void stats_get(struct call *c)
{
    static const char *const names[] = {"hours", NULL};
    struct window *w = mem_zero(1, sizeof(*w));
    c->state = w;
    query_allow(c, names);
    const int64_t hours = query_int(c, "hours", HOURS_DEFAULT, 1, HOURS_MAX);
    w->until_us = clock_wall_us();
    w->since_us = hour_of(w->until_us) - (hours - 1) * HOUR_US;
    if (query_ok(c)) {
        ask(c, w);
    }
}
