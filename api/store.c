/* Owns the pool, the queue in front of it and every unit from its submission to its reply. Knows no
 * SQL but the session's time limit. call.c submits.
 *
 * One unit at a time on a connection: what was sent can be neither taken back nor overtaken, so
 * that whatever were sent behind a slow one would wait for it, whosever it is. */
#include "store.h"

#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "check.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"

#define STORE_MAGIC 0x53544f52u
#define UNIT_MAGIC  0x53554e54u

#define TEXT_OF_(x) #x
#define TEXT_OF(x)  TEXT_OF_(x)

struct member {
    struct store *store;
    struct pg *pg;
    bool ready;        /* the session's settings are made */
    struct unit *unit; /* under way; NULL: none */
};

struct unit {
    unsigned magic;
    struct store *store;
    bool waits;
    struct uuid tenant;
    pg_reply_fn *reply; /* NULL: it was called, and the unit is still under way */
    void *ctx;
    struct event deadline;
    TAILQ_ENTRY(unit) link; /* while it waits */
    int n;
    struct pg_stmt stmts[STORE_STATEMENTS_MAX];
    struct pg_param params[]; /* of all statements; behind them their data */
};

TAILQ_HEAD(unit_list, unit);

struct store {
    unsigned magic;
    struct event_base *base;
    unsigned n;
    unsigned share; /* connections that one tenant may have */
    struct member *members;
    struct unit_list waiting; /* the oldest first */
};

/* --- units ------------------------------------------------------------------------------- */

static size_t size_of(const struct pg_param *p)
{
    if (p->data == NULL) {
        return 0;
    }
    return p->binary ? (size_t)p->len : strlen(p->data) + 1;
}

static struct unit *copy(const struct pg_stmt *stmts, int n)
{
    size_t params = 0;
    size_t bytes = 0;
    CHECK(n >= 1 && n <= STORE_STATEMENTS_MAX);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < stmts[i].n_params; j++) {
            bytes += size_of(&stmts[i].params[j]);
            params++;
        }
    }
    struct unit *u = mem_alloc(sizeof(*u) + params * sizeof(*u->params) + bytes);
    *u = (struct unit){.magic = UNIT_MAGIC, .n = n};
    struct pg_param *param = u->params;
    char *data = (char *)(u->params + params);
    for (int i = 0; i < n; i++) {
        u->stmts[i] = stmts[i];
        u->stmts[i].params = param;
        for (int j = 0; j < stmts[i].n_params; j++, param++) {
            const size_t size = size_of(&stmts[i].params[j]);
            *param = stmts[i].params[j];
            if (param->data != NULL) {
                memcpy(data, param->data, size);
                param->data = data;
                data += size;
            }
        }
    }
    return u;
}

static void unit_free(struct unit *u)
{
    CHECK(event_del(&u->deadline) == 0);
    u->magic = 0;
    mem_free_cleansed(u); /* what customers wrote */
}

static void tell(struct unit *u, int failed, const char *what)
{
    struct err err = {0};
    const struct pg_reply reply = {.failed = failed, .err = &err};
    pg_reply_fn *fn = u->reply;
    (void)err_set(&err, ERR_TIMEOUT, "PostgreSQL: %s", what);
    err.retriable = err.ours = true;
    u->reply = NULL;
    fn(u->ctx, &reply);
}

static void give_up_waiting(struct unit *u, const char *why)
{
    TAILQ_REMOVE(&u->store->waiting, u, link);
    tell(u, 0, why);
    unit_free(u);
}

static void on_deadline(evutil_socket_t fd, short what, void *ctx)
{
    struct unit *u = ctx;
    (void)fd;
    (void)what;
    CHECK_MAGIC(u, UNIT_MAGIC);
    if (u->waits) {
        give_up_waiting(u, "not asked, all connections were busy for too long");
    } else {
        tell(u, -1, "no answer in time, not waited for any longer");
    }
}

/* --- which is next ----------------------------------------------------------------------- */

static unsigned under_way(const struct store *s, const struct uuid *tenant)
{
    unsigned n = 0;
    for (unsigned i = 0; i < s->n; i++) {
        const struct unit *u = s->members[i].unit;
        n += u != NULL && uuid_equal(&u->tenant, tenant) ? 1 : 0;
    }
    return n;
}

static bool is_nobody(const struct uuid *tenant)
{
    static const struct uuid nobody;
    return uuid_equal(tenant, &nobody);
}

static struct unit *next_unit(const struct store *s)
{
    struct unit *found = NULL;
    unsigned least = s->n;
    struct unit *u;
    TAILQ_FOREACH(u, &s->waiting, link)
    {
        const unsigned n = under_way(s, &u->tenant);
        if (n < least && (n < s->share || is_nobody(&u->tenant))) {
            found = u;
            least = n;
        }
        if (least == 0) {
            break;
        }
    }
    return found;
}

static bool is_up(const struct member *m)
{
    return m->ready && pg_is_up(m->pg);
}

static struct member *free_member(const struct store *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        if (is_up(&s->members[i]) && s->members[i].unit == NULL) {
            return &s->members[i];
        }
    }
    return NULL;
}

static void dispatch(struct store *s);

static void replied(void *ctx, const struct pg_reply *reply)
{
    struct member *m = ctx;
    struct unit *u = m->unit;
    CHECK_MAGIC(u, UNIT_MAGIC);
    m->unit = NULL;
    if (u->reply != NULL) {
        u->reply(u->ctx, reply);
    }
    unit_free(u);
    dispatch(m->store);
}

static void dispatch(struct store *s)
{
    struct member *m;
    struct unit *u;
    while ((m = free_member(s)) != NULL && (u = next_unit(s)) != NULL) {
        TAILQ_REMOVE(&s->waiting, u, link);
        u->waits = false;
        m->unit = u;
        CHECK(pg_submit(m->pg, u->stmts, u->n, replied, m)); /* it is up, and has nothing to do */
    }
}

/* --- connections ------------------------------------------------------------------------- */

static void limited(void *ctx, const struct pg_reply *reply)
{
    struct member *m = ctx;
    CHECK_MAGIC(m->store, STORE_MAGIC);
    if (!reply->ok) {
        log_error("store.session_failed", F_ERR(reply->err));
        pg_break(m->pg, reply->err);
        return;
    }
    m->ready = true;
    dispatch(m->store);
}

static void on_up(void *ctx)
{
    struct member *m = ctx;
    const struct pg_stmt stmt = {.sql = "SET statement_timeout = " TEXT_OF(STORE_STATEMENT_MS)};
    CHECK(pg_submit(m->pg, &stmt, 1, limited, m)); /* the connection has just come up */
}

static void give_up_all_waiting(struct store *s)
{
    struct unit *u;
    while ((u = TAILQ_FIRST(&s->waiting)) != NULL) {
        give_up_waiting(u, "not asked, there is no connection");
    }
}

static void on_down(void *ctx, const struct err *why)
{
    struct member *m = ctx;
    m->ready = false;
    log_warn("store.connection_lost", F_ERR(why));
    if (!store_is_up(m->store)) {
        give_up_all_waiting(m->store);
    }
}

/* --- submission -------------------------------------------------------------------------- */

/* A connection whose unit was given up answers later, or never. */
bool store_is_up(const struct store *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        const struct unit *u = s->members[i].unit;
        if (is_up(&s->members[i]) && (u == NULL || u->reply != NULL)) {
            return true;
        }
    }
    return false;
}

static bool may_wait(const struct store *s, const struct uuid *tenant)
{
    unsigned all = 0;
    unsigned own = 0;
    const struct unit *u;
    TAILQ_FOREACH(u, &s->waiting, link)
    {
        all++;
        own += uuid_equal(&u->tenant, tenant) ? 1 : 0;
    }
    return all < STORE_WAITING_MAX && own < STORE_TENANT_WAITING_MAX;
}

bool store_submit(struct store *s, const struct uuid *tenant, const struct pg_stmt *stmts, int n,
                  pg_reply_fn *reply, void *ctx)
{
    static const struct timeval limit = {.tv_sec = STORE_DEADLINE_MS / 1000,
                                         .tv_usec = STORE_DEADLINE_MS % 1000 * 1000L};
    CHECK_MAGIC(s, STORE_MAGIC);
    CHECK(reply != NULL);
    if (!store_is_up(s) || !may_wait(s, tenant)) {
        return false;
    }
    struct unit *u = copy(stmts, n);
    u->store = s;
    u->waits = true;
    u->tenant = *tenant;
    u->reply = reply;
    u->ctx = ctx;
    CHECK(evtimer_assign(&u->deadline, s->base, on_deadline, u) == 0);
    CHECK(evtimer_add(&u->deadline, &limit) == 0);
    TAILQ_INSERT_TAIL(&s->waiting, u, link);
    dispatch(s);
    return true;
}

/* --- birth and end ----------------------------------------------------------------------- */

static double up(void *ctx)
{
    return store_is_up(ctx) ? 1 : 0;
}

/* A quarter of the connections, one at least, is left to others; where there is only one, it is
 * everybody's. */
static unsigned share_of(unsigned connections)
{
    const unsigned left = connections >= 8 ? connections / 4 : 1;
    return connections > left ? connections - left : 1;
}

struct store *store_new(struct event_base *base, const char *url, unsigned connections)
{
    struct store *s = mem_zero(1, sizeof(*s));
    s->magic = STORE_MAGIC;
    s->base = base;
    s->n = connections;
    s->share = share_of(connections);
    s->members = mem_zero(connections, sizeof(*s->members));
    TAILQ_INIT(&s->waiting);
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

void store_free(struct store *s)
{
    if (s == NULL) {
        return;
    }
    CHECK_MAGIC(s, STORE_MAGIC);
    for (unsigned i = 0; i < s->n; i++) {
        s->members[i].ready = false; /* nothing more is sent */
    }
    give_up_all_waiting(s);
    for (unsigned i = 0; i < s->n; i++) {
        pg_free(s->members[i].pg), s->members[i].pg = NULL;
    }
    free(s->members), s->members = NULL;
    s->magic = 0;
    free(s);
}
