/* Owns the pool and the choice of a connection. Knows no SQL but the session's time limit. call.c
 * submits. */
#include "store.h"

#include <stdlib.h>

#include "check.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"

#define STORE_MAGIC 0x53544f52u

#define TEXT_OF_(x) #x
#define TEXT_OF(x)  TEXT_OF_(x)

struct member {
    struct store *store;
    struct pg *pg;
    bool ready; /* the session's settings are made */
};

struct store {
    unsigned magic;
    unsigned n;
    struct member *members;
};

static void limited(void *ctx, const struct pg_reply *reply)
{
    struct member *m = ctx;
    CHECK_MAGIC(m->store, STORE_MAGIC);
    if (!reply->ok) {
        log_error("store.session_failed", F_ERR(reply->err));
        return;
    }
    m->ready = true;
}

static void on_up(void *ctx)
{
    struct member *m = ctx;
    const struct pg_stmt stmt = {.sql = "SET statement_timeout = " TEXT_OF(STORE_STATEMENT_MS)};
    CHECK(pg_submit(m->pg, &stmt, 1, limited, m)); /* the connection has just come up */
}

static void on_down(void *ctx, const struct err *why)
{
    struct member *m = ctx;
    m->ready = false;
    log_warn("store.connection_lost", F_ERR(why));
}

static double up(void *ctx)
{
    return store_is_up(ctx) ? 1 : 0;
}

struct store *store_new(struct event_base *base, const char *url, unsigned connections)
{
    struct store *s = mem_zero(1, sizeof(*s));
    s->magic = STORE_MAGIC;
    s->n = connections;
    s->members = mem_zero(connections, sizeof(*s->members));
    metrics_gauge_fn("nrw_pg_up", NULL,
                     "1 while PostgreSQL is connected: a worker's journal, one of the API's", up,
                     s);
    for (unsigned i = 0; i < connections; i++) {
        struct member *m = &s->members[i];
        const struct pg_handlers on = {.up = on_up, .down = on_down, .ctx = m};
        m->store = s;
        m->pg = pg_new(base, url, "nrw-api", STORE_STALL_MS, &on);
    }
    return s;
}

static struct member *least_busy(const struct store *s)
{
    struct member *found = NULL;
    for (unsigned i = 0; i < s->n; i++) {
        struct member *m = &s->members[i];
        if (m->ready && pg_is_up(m->pg) &&
            (found == NULL || pg_outstanding(m->pg) < pg_outstanding(found->pg))) {
            found = m;
        }
    }
    return found;
}

bool store_is_up(const struct store *s)
{
    return least_busy(s) != NULL;
}

bool store_submit(struct store *s, const struct pg_stmt *stmts, int n, pg_reply_fn *reply,
                  void *ctx)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    const struct member *m = least_busy(s);
    return m != NULL && pg_submit(m->pg, stmts, n, reply, ctx);
}

void store_free(struct store *s)
{
    if (s == NULL) {
        return;
    }
    CHECK_MAGIC(s, STORE_MAGIC);
    for (unsigned i = 0; i < s->n; i++) {
        s->members[i].ready = false;
        pg_free(s->members[i].pg);
        s->members[i].pg = NULL;
    }
    free(s->members), s->members = NULL;
    s->magic = 0;
    free(s);
}
