/* Owns the change-over from one secret to the next. A sealed secret is bound to its column, so the
 * old one must be opened and sealed anew for webhooks.previous_secret: read, then write on the
 * condition that the secret is still the one that was read. Who loses that race reads again. */
#include "webhooks.h"

#include "check.h"
#include "input.h"
#include "mem.h"
#include "param.h"
#include "query.h"
#include "render.h"
#include "webhook_row.h"
#include "webhook_secret.h"

#define OVERLAP_HOURS     24
#define OVERLAP_HOURS_MAX 168
#define TRIES             5

static const char read_sql[] =
    "SELECT " WEBHOOK_COLUMNS ", secret FROM webhooks WHERE " WEBHOOK_IS_MINE;
enum { COL_SECRET = WEBHOOK_COLUMNS_N };

/* $5 NULL: without an overlap. The condition $4 is then NULL, too: nothing of the old is kept. */
static const char write_sql[] =
    "UPDATE webhooks SET secret = $3, previous_secret = $5,"
    " previous_secret_until = CASE WHEN $5::bytea IS NOT NULL"
    " THEN now() + $6::bigint * interval '1 hour' END"
    " WHERE " WEBHOOK_IS_MINE " AND ($4::bytea IS NULL OR secret = $4) RETURNING " WEBHOOK_COLUMNS;

struct rotation {
    struct webhook_secret secret; /* the new one */
    json_int_t overlap_hours;
    int tries_left;
};

static void read_old(struct call *c);

static void answer(struct call *c, const PGresult *r)
{
    const struct rotation *rotation = c->state;
    json_t *webhook = webhook_json(r, 0);
    render_add(webhook, "secret", webhook_secret_json(&rotation->secret));
    call_reply(c, 200, webhook);
}

static void written(struct call *c, const struct pg_reply *reply)
{
    struct rotation *rotation = c->state;
    const PGresult *r = reply->results[0];
    if (PQntuples(r) == 1) {
        answer(c, r);
    } else if (rotation->overlap_hours == 0) {
        call_not_found(c, "webhook");
    } else if (--rotation->tries_left > 0) {
        read_old(c);
    } else {
        call_problem(c, PROBLEM_IN_PROGRESS, "the secret is being changed by other requests");
    }
}

/* old, previous: NULL without an overlap. */
static void write_new(struct call *c, const struct buf *old, const struct buf *previous)
{
    const struct rotation *rotation = c->state;
    char hours[PARAM_INT_SIZE];
    struct buf sealed;
    buf_init(&sealed, WEBHOOK_BLOB_MAX);
    if (webhook_secret_seal(c, &c->ids[0], "webhooks.secret", &rotation->secret, &sealed)) {
        const struct pg_param params[] = {
            WEBHOOK_MINE_PARAMS(c),
            param_bytes(&sealed),
            old != NULL ? param_bytes(old) : param_null(),
            previous != NULL ? param_bytes(previous) : param_null(),
            param_int(rotation->overlap_hours, hours),
        };
        const struct pg_stmt stmt = {.sql = write_sql,
                                     .params = params,
                                     .n_params = sizeof(params) / sizeof(*params),
                                     .binary_result = true};
        call_query(c, &stmt, 1, written);
    }
    buf_done(&sealed);
}

/* A secret that is in force already came with a request whose answer was lost: the one before it
 * stays good. */
static void old_read(struct call *c, const struct pg_reply *reply)
{
    const struct rotation *rotation = c->state;
    const PGresult *r = reply->results[0];
    if (PQntuples(r) == 0) {
        call_not_found(c, "webhook");
        return;
    }
    struct webhook_secret plain = {0};
    struct buf old;
    struct buf previous;
    buf_init(&old, WEBHOOK_BLOB_MAX);
    buf_init(&previous, WEBHOOK_BLOB_MAX);
    buf_add(&old, PQgetvalue(r, 0, COL_SECRET), (size_t)PQgetlength(r, 0, COL_SECRET));
    if (webhook_secret_open(c, &c->ids[0], old.data, old.len, &plain)) {
        if (webhook_secret_equal(&plain, &rotation->secret)) {
            answer(c, r);
        } else if (webhook_secret_seal(c, &c->ids[0], "webhooks.previous_secret", &plain,
                                       &previous)) {
            write_new(c, &old, &previous);
        }
    }
    webhook_secret_cleanse(&plain);
    buf_done(&old);
    buf_done(&previous);
}

static void read_old(struct call *c)
{
    const struct pg_param mine[] = {WEBHOOK_MINE_PARAMS(c)};
    const struct pg_stmt stmt = {
        .sql = read_sql, .params = mine, .n_params = 2, .binary_result = true};
    call_look(c, &stmt, 1, old_read);
}

/* False: answered. */
static bool read_body(struct call *c, struct rotation *ret)
{
    static const char *const names[] = {"overlap_hours", "secret", NULL};
    struct input in;
    const char *text;
    size_t len;
    if (!input_open(&in, c, names)) {
        return false;
    }
    input_refuse_null(&in, "overlap_hours");
    input_refuse_null(&in, "secret");
    (void)input_int(&in, "overlap_hours", 0, OVERLAP_HOURS_MAX, &ret->overlap_hours);
    if (input_string(&in, "secret", LIMIT_SECRET_MIN, LIMIT_SECRET, &text, &len)) {
        webhook_secret_set(&ret->secret, text, len);
    }
    return input_close(&in);
}

void webhooks_rotate_secret(struct call *c)
{
    if (!query_none(c)) {
        return;
    }
    struct rotation *rotation = mem_zero(1, sizeof(*rotation));
    rotation->overlap_hours = OVERLAP_HOURS;
    rotation->tries_left = TRIES;
    c->state = rotation;
    c->free_state = mem_free_cleansed;
    if (!read_body(c, rotation)) {
        return;
    }
    if (rotation->secret.len == 0) {
        webhook_secret_make(&rotation->secret);
    }
    if (rotation->overlap_hours == 0) {
        write_new(c, NULL, NULL); /* works even when the old one cannot be opened any more */
    } else {
        read_old(c);
    }
}
