/* Owns the cache of tenants and their webhooks, and the PostgreSQL connection that loads and
 * listens. Does not know lanes or deliveries. intake asks; worker.c wires `matched` to the suspect
 * look-up and `changed` to the lanes. */
#include "subscriptions.h"

#include <event2/event_struct.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "log.h"
#include "map.h"
#include "mem.h"
#include "metrics.h"
#include "pgarray.h"

#define SUBSCRIPTIONS_MAGIC 0x53554253u
#define LOAD_BATCH          500
#define STALL_MS            10000

enum tenant_state {
    TENANT_WANTED,  /* must be (re)loaded; in the `wanted` list          */
    TENANT_LOADING, /* its query is out; a change now makes it `dirty`   */
    TENANT_READY,
};

struct tenant {
    struct uuid id;
    enum tenant_state state;
    bool dirty;            /* changed while the query was out: the answer may be old  */
    bool has_rows;         /* the answer that is being read has rows of it          */
    bool stale;            /* may have changed while nobody listened: load before use */
    int64_t asked_mono_us; /* when the load of this list was sent */
    struct webhook **webhooks;
    size_t n;
    struct nrw_event *waiting; /* events until the load is done, oldest first */
    struct nrw_event **waiting_tail;
    struct tenant *newer, *older; /* by last use  */
    struct tenant *next_wanted;
};

struct subscriptions {
    unsigned magic;
    const struct config *cfg;
    const struct netguard *guard;
    const struct keyring *keys;
    struct subscriptions_handlers on;
    struct pg *pg;
    struct event poll;
    bool listening;
    struct map tenants;
    struct tenant *newest, *oldest;
    struct tenant *wanted;
    struct tenant **wanted_tail;
    bool load_out;
    struct webhook **wanting; /* scratch of deliver() */
    size_t wanting_cap;
    struct counter *loads, *notifications, *lost_notifications, *kept;
};

/* --- tenants --- */

static void lru_unlink(struct subscriptions *s, struct tenant *t)
{
    *(t->newer != NULL ? &t->newer->older : &s->newest) = t->older;
    *(t->older != NULL ? &t->older->newer : &s->oldest) = t->newer;
    t->newer = t->older = NULL;
}

static void lru_front(struct subscriptions *s, struct tenant *t)
{
    t->newer = NULL;
    t->older = s->newest;
    *(s->newest != NULL ? &s->newest->newer : &s->oldest) = t;
    s->newest = t;
}

static void drop_webhooks(struct tenant *t)
{
    for (size_t i = 0; i < t->n; i++) {
        webhook_unref(t->webhooks[i]);
    }
    free(t->webhooks);
    t->webhooks = NULL;
    t->n = 0;
}

static void tenant_free(struct subscriptions *s, struct tenant *t)
{
    lru_unlink(s, t);
    (void)map_remove(&s->tenants, &t->id);
    drop_webhooks(t);
    free(t);
}

static void want(struct subscriptions *s, struct tenant *t)
{
    t->state = TENANT_WANTED;
    t->stale = false;
    t->dirty = false;
    t->next_wanted = NULL;
    *s->wanted_tail = t;
    s->wanted_tail = &t->next_wanted;
}

static void evict(struct subscriptions *s)
{
    struct tenant *t = s->oldest;
    while (s->tenants.n > (size_t)s->cfg->tenants_max && t != NULL) {
        struct tenant *newer = t->newer;
        if (t->state == TENANT_READY && t->waiting == NULL) {
            tenant_free(s, t);
        }
        t = newer;
    }
}

static struct tenant *tenant_of(struct subscriptions *s, const struct uuid *id)
{
    struct tenant *t = map_get(&s->tenants, id);
    if (t != NULL) {
        lru_unlink(s, t);
        lru_front(s, t);
        return t;
    }
    t = mem_zero(1, sizeof(*t));
    t->id = *id;
    t->waiting_tail = &t->waiting;
    map_put(&s->tenants, id, t);
    lru_front(s, t);
    want(s, t);
    evict(s);
    return t;
}

/* Something about this tenant changed. */
static void invalidate(struct subscriptions *s, struct tenant *t)
{
    if (t->state == TENANT_LOADING) {
        t->dirty = true;
    } else if (t->state == TENANT_READY) {
        want(s, t);
    }
}

static void wait_for_load(struct tenant *t, struct nrw_event *ev)
{
    ev->next = NULL;
    *t->waiting_tail = ev;
    t->waiting_tail = &ev->next;
}

static struct webhook *find(struct webhook *const *list, size_t n, const struct uuid *id)
{
    for (size_t i = 0; i < n; i++) {
        if (uuid_equal(&list[i]->id, id)) {
            return list[i];
        }
    }
    return NULL;
}

/* A retry goes to its own webhook whatever that subscribes to by now, a test whatever its standing.
 */
static struct webhook *retry_target(const struct tenant *t, const struct nrw_event *ev)
{
    struct webhook *wh = find(t->webhooks, t->n, &ev->retry.webhook_id);
    return wh != NULL && wh->inactive && ev->retry.reason != EVENT_TEST ? NULL : wh;
}

/* True: not with this list. */
static bool needs_newer_list(const struct tenant *t, const struct nrw_event *ev)
{
    return ev->is_retry && t->asked_mono_us <= ev->taken_mono_us &&
           (ev->retry.reason == EVENT_TEST || retry_target(t, ev) == NULL);
}

static void deliver_new(struct subscriptions *s, const struct tenant *t, struct nrw_event *ev)
{
    if (t->n > s->wanting_cap) {
        s->wanting = mem_grow(s->wanting, t->n, sizeof(struct webhook *));
        s->wanting_cap = t->n;
    }
    struct webhook *inactive = NULL;
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) {
        if ((t->webhooks[i]->mask & ev->type_bit) == 0) {
            continue;
        }
        if (t->webhooks[i]->inactive) {
            inactive = t->webhooks[i];
        } else {
            s->wanting[n++] = t->webhooks[i];
        }
    }
    if (n == 0 && inactive != NULL) {
        s->kept->value++;
        s->on.kept(s->on.ctx, ev, inactive);
    } else { /* an active one's outcome brings the event's row with it */
        s->on.matched(s->on.ctx, ev, s->wanting, n);
    }
}

static void deliver(struct subscriptions *s, const struct tenant *t, struct nrw_event *ev)
{
    if (ev->is_retry) {
        struct webhook *wh = retry_target(t, ev);
        s->on.matched(s->on.ctx, ev, &wh, wh != NULL ? 1 : 0);
    } else {
        deliver_new(s, t, ev);
    }
}

void subscriptions_match(struct subscriptions *s, struct nrw_event *ev)
{
    CHECK_MAGIC(s, SUBSCRIPTIONS_MAGIC);
    struct tenant *t = tenant_of(s, &ev->tenant_id);
    if (t->state == TENANT_READY && (t->stale || needs_newer_list(t, ev))) {
        want(s, t);
    }
    if (t->state == TENANT_READY) {
        deliver(s, t, ev);
    } else {
        wait_for_load(t, ev);
    }
}

static void abandon_waiting(struct tenant *t, const struct tracker *tracker)
{
    struct nrw_event **link = &t->waiting;
    while (*link != NULL) {
        struct nrw_event *ev = *link;
        if (tracker == NULL || ev->tracker == tracker) {
            *link = ev->next;
            nrw_event_abandon(ev);
            nrw_event_unref(ev);
        } else {
            link = &ev->next;
        }
    }
    t->waiting_tail = link;
}

void subscriptions_abandon(struct subscriptions *s, const struct tracker *tracker)
{
    for (struct tenant *t = s->newest; t != NULL; t = t->older) {
        abandon_waiting(t, tracker);
    }
}

/* --- loading --- */

struct load {
    struct subscriptions *s;
    size_t n;
    struct tenant *tenants[LOAD_BATCH];
};

enum {
    COL_ID,
    COL_TENANT,
    COL_VERSION,
    COL_URL,
    COL_SECRET,
    COL_PREVIOUS,
    COL_PREVIOUS_UNTIL,
    COL_EVENTS,
    COL_FAILING,
    COL_INACTIVE
};

static const char load_sql[] =
    "SELECT id, tenant_id, version, url, secret,"
    " CASE WHEN previous_secret_until > now() THEN previous_secret END, previous_secret_until,"
    " array_to_string(events, ' '), status = 'failing',"
    " NOT active OR status = 'disabled'"
    " FROM webhooks WHERE tenant_id = ANY($1) AND deleted_at IS NULL"
    " ORDER BY tenant_id, id";

static struct webhook *webhook_of_row(const struct subscriptions *s, const PGresult *r, int row)
{
    struct webhook_row w = {
        .id = pgvalue_uuid(r, row, COL_ID),
        .tenant_id = pgvalue_uuid(r, row, COL_TENANT),
        .version = pgvalue_int8(r, row, COL_VERSION),
        .url = PQgetvalue(r, row, COL_URL),
        .url_len = (size_t)PQgetlength(r, row, COL_URL),
        .secret = PQgetvalue(r, row, COL_SECRET),
        .secret_len = (size_t)PQgetlength(r, row, COL_SECRET),
        .events = PQgetvalue(r, row, COL_EVENTS),
        .events_len = (size_t)PQgetlength(r, row, COL_EVENTS),
        .failing = pgvalue_bool(r, row, COL_FAILING),
        .inactive = pgvalue_bool(r, row, COL_INACTIVE),
    };
    if (!PQgetisnull(r, row, COL_PREVIOUS)) {
        w.previous_secret = PQgetvalue(r, row, COL_PREVIOUS);
        w.previous_secret_len = (size_t)PQgetlength(r, row, COL_PREVIOUS);
        w.previous_until_us = pgvalue_time_us(r, row, COL_PREVIOUS_UNTIL);
    }
    return webhook_new(&w, s->cfg->allow_http, s->guard, s->keys);
}

/* Gives the tenant its new list and tells about every webhook that changed or went. */
static void replace_webhooks(struct subscriptions *s, struct tenant *t, struct webhook **list,
                             size_t n)
{
    struct webhook **old = t->webhooks;
    const size_t old_n = t->n;
    t->webhooks = list;
    t->n = n;
    for (size_t i = 0; i < old_n; i++) {
        struct webhook *now = find(list, n, &old[i]->id);
        if (now == NULL || now->version != old[i]->version) {
            s->on.changed(s->on.ctx, &old[i]->id, now);
        }
        webhook_unref(old[i]);
    }
    free(old);
}

static void finish_tenant(struct subscriptions *s, struct tenant *t)
{
    if (t->dirty) {
        want(s, t);
        return;
    }
    t->state = TENANT_READY;
    struct nrw_event *ev = t->waiting;
    t->waiting = NULL;
    t->waiting_tail = &t->waiting;
    while (ev != NULL) {
        struct nrw_event *next = ev->next;
        ev->next = NULL;
        if (needs_newer_list(t, ev)) { /* it came while the query was out */
            wait_for_load(t, ev);
        } else {
            deliver(s, t, ev);
        }
        ev = next;
    }
    if (t->waiting != NULL) {
        want(s, t);
    }
}

/* Rows come ordered by tenant: each run of equal tenants is one list. */
static void take_rows(struct subscriptions *s, const PGresult *r)
{
    const int rows = PQntuples(r);
    for (int first = 0; first < rows;) {
        const struct uuid id = pgvalue_uuid(r, first, COL_TENANT);
        int end = first + 1;
        while (end < rows && memcmp(PQgetvalue(r, end, COL_TENANT), id.b, sizeof(id.b)) == 0) {
            end++;
        }
        struct tenant *t = map_get(&s->tenants, &id);
        CHECK(t != NULL); /* a tenant that loads is never evicted */
        const size_t n = (size_t)(end - first);
        struct webhook **list = mem_zero(n, sizeof(struct webhook *));
        for (size_t i = 0; i < n; i++) {
            list[i] = webhook_of_row(s, r, first + (int)i);
        }
        t->has_rows = true;
        replace_webhooks(s, t, list, n);
        first = end;
    }
}

static void loaded(void *ctx, const struct pg_reply *reply)
{
    struct load *l = ctx;
    struct subscriptions *s = l->s;
    CHECK_MAGIC(s, SUBSCRIPTIONS_MAGIC);
    s->load_out = false;
    if (!reply->ok) {
        log_warn("subscriptions.load_failed", F_INT("tenants", l->n), F_ERR(reply->err));
        for (size_t i = 0; i < l->n; i++) {
            want(s, l->tenants[i]); /* again; after_turn waits while the connection is down */
        }
        free(l);
        return;
    }
    const PGresult *r = reply->results[0];
    for (size_t i = 0; i < l->n; i++) {
        l->tenants[i]->has_rows = false;
    }
    take_rows(s, r);
    for (size_t i = 0; i < l->n; i++) {
        if (!l->tenants[i]->has_rows) { /* no webhook now: what it had must go */
            replace_webhooks(s, l->tenants[i], NULL, 0);
        }
        finish_tenant(s, l->tenants[i]);
    }
    free(l);
}

void subscriptions_after_turn(struct subscriptions *s)
{
    CHECK_MAGIC(s, SUBSCRIPTIONS_MAGIC);
    if (s->wanted == NULL || s->load_out || !s->listening) {
        return;
    }
    struct load *l = mem_alloc(sizeof(*l));
    l->s = s;
    l->n = 0;
    struct pgarray ids;
    pgarray_init(&ids, PGARRAY_UUID, 64 + (size_t)LOAD_BATCH * 20);
    while (s->wanted != NULL && l->n < LOAD_BATCH) {
        struct tenant *t = s->wanted;
        s->wanted = t->next_wanted;
        t->next_wanted = NULL;
        t->state = TENANT_LOADING;
        t->stale = false; /* also when it was wanted before anybody listened */
        t->asked_mono_us = clock_mono_us();
        l->tenants[l->n++] = t;
        pgarray_add_uuid(&ids, &t->id);
    }
    if (s->wanted == NULL) {
        s->wanted_tail = &s->wanted;
    }
    const struct pg_param param = pgarray_param(&ids);
    const struct pg_stmt stmt = {
        .sql = load_sql, .params = &param, .n_params = 1, .binary_result = true};
    s->loads->value++;
    s->load_out = pg_submit(s->pg, &stmt, 1, loaded, l);
    pgarray_done(&ids);
    if (!s->load_out) {
        for (size_t i = 0; i < l->n; i++) {
            want(s, l->tenants[i]);
        }
        free(l);
    }
}

/* --- changes --- */

/* payload: "<webhook id> <version> <tenant id>" */
static void on_notify(void *ctx, const char *channel, const char *payload)
{
    struct subscriptions *s = ctx;
    (void)channel;
    s->notifications->value++;
    const char *last = strrchr(payload, ' ');
    struct uuid tenant_id;
    if (last == NULL || !uuid_parse(last + 1, strlen(last + 1), &tenant_id)) {
        log_warn("subscriptions.bad_notification", F_STR("payload", payload));
        return;
    }
    struct tenant *t = map_get(&s->tenants, &tenant_id);
    if (t != NULL) {
        invalidate(s, t);
    }
}

/* What changed in the last minutes, whether or not somebody told us. The window outlasts the
 * longest transaction that an API call may take; a version that is already in memory costs nothing.
 */
static const char poll_sql[] = "SELECT tenant_id, id, version, deleted_at IS NULL FROM webhooks"
                               " WHERE updated_at > now() - interval '10 minutes'";

static void polled(void *ctx, const struct pg_reply *reply)
{
    struct subscriptions *s = ctx;
    CHECK_MAGIC(s, SUBSCRIPTIONS_MAGIC);
    if (!reply->ok) {
        log_warn("subscriptions.poll_failed", F_ERR(reply->err));
        return;
    }
    const PGresult *r = reply->results[0];
    for (int row = 0; row < PQntuples(r); row++) {
        const struct uuid tenant_id = pgvalue_uuid(r, row, 0);
        const struct uuid id = pgvalue_uuid(r, row, 1);
        struct tenant *t = map_get(&s->tenants, &tenant_id);
        if (t == NULL || t->state != TENANT_READY) {
            continue;
        }
        const struct webhook *have = find(t->webhooks, t->n, &id);
        const bool exists = pgvalue_bool(r, row, 3);
        if (exists != (have != NULL) ||
            (have != NULL && have->version != pgvalue_int8(r, row, 2))) {
            s->lost_notifications->value++;
            invalidate(s, t);
        }
    }
}

static void on_poll(evutil_socket_t fd, short what, void *ctx)
{
    struct subscriptions *s = ctx;
    (void)fd;
    (void)what;
    CHECK_MAGIC(s, SUBSCRIPTIONS_MAGIC);
    const struct pg_stmt stmt = {.sql = poll_sql, .binary_result = true};
    if (s->listening && !pg_submit(s->pg, &stmt, 1, polled, s)) {
        log_debug("subscriptions.poll_skipped", F_STR("why", "connection is down"));
    }
}

static void listened(void *ctx, const struct pg_reply *reply)
{
    struct subscriptions *s = ctx;
    CHECK_MAGIC(s, SUBSCRIPTIONS_MAGIC);
    if (!reply->ok) {
        log_error("subscriptions.listen_failed", F_ERR(reply->err));
        pg_break(s->pg, reply->err); /* the next connection asks again */
        return;
    }
    for (struct tenant *t = s->newest; t != NULL; t = t->older) {
        t->stale = true; /* whatever changed while nobody listened: load again before use */
    }
    s->listening = true;
    log_info("subscriptions.listening", F_INT("tenants", s->tenants.n));
}

static void on_up(void *ctx)
{
    struct subscriptions *s = ctx;
    const struct pg_stmt stmt = {.sql = "LISTEN nrw_webhooks"};
    CHECK(pg_submit(s->pg, &stmt, 1, listened, s)); /* the connection has just come up */
}

static void on_down(void *ctx, const struct err *why)
{
    struct subscriptions *s = ctx;
    s->listening = false;
    log_warn("subscriptions.connection_lost", F_ERR(why));
}

/* --- life --- */

static double tenants_cached(void *ctx)
{
    return (double)((struct subscriptions *)ctx)->tenants.n;
}

struct subscriptions *subscriptions_new(struct event_base *base, const struct config *cfg,
                                        const struct netguard *guard, const struct keyring *keys,
                                        const struct subscriptions_handlers *handlers)
{
    struct subscriptions *s = mem_zero(1, sizeof(*s));
    s->magic = SUBSCRIPTIONS_MAGIC;
    s->cfg = cfg;
    s->guard = guard;
    s->keys = keys;
    s->on = *handlers;
    s->wanted_tail = &s->wanted;
    map_init(&s->tenants);
    s->loads =
        metrics_counter("nrw_tenant_loads_total", NULL, "queries that loaded tenants' webhooks");
    s->notifications =
        metrics_counter("nrw_notifications_total", NULL, "webhook changes told by PostgreSQL");
    s->lost_notifications = metrics_counter("nrw_notifications_missed_total", NULL,
                                            "webhook changes that only the version poll found");
    s->kept = metrics_counter("nrw_events_kept_total", NULL,
                              "events that only paused or disabled webhooks want, kept for replay");
    metrics_gauge_fn("nrw_tenants_cached", NULL, "tenants in memory", tenants_cached, s);
    const struct pg_handlers pg_on = {.up = on_up, .down = on_down, .notify = on_notify, .ctx = s};
    s->pg = pg_new(base, cfg->database_url, "nrw-worker-subscriptions", STALL_MS, &pg_on);
    event_assign(&s->poll, base, -1, EV_PERSIST, on_poll, s);
    const struct timeval every = {.tv_sec = cfg->subscriptions_poll / 1000,
                                  .tv_usec = (cfg->subscriptions_poll % 1000) * 1000};
    event_add(&s->poll, &every);
    return s;
}

struct pg *subscriptions_pg(const struct subscriptions *s)
{
    return s->pg;
}

bool subscriptions_up(const struct subscriptions *s)
{
    return s->listening;
}

void subscriptions_free(struct subscriptions *s)
{
    if (s == NULL) {
        return;
    }
    CHECK_MAGIC(s, SUBSCRIPTIONS_MAGIC);
    event_del(&s->poll);
    pg_free(s->pg); /* an open load is answered (failed) from here, so the tenants must still be
                       there */
    s->pg = NULL;
    while (s->newest != NULL) {
        abandon_waiting(s->newest, NULL);
        tenant_free(s, s->newest);
    }
    map_done(&s->tenants);
    free(s->wanting);
    s->wanting = NULL;
    s->magic = 0;
    free(s);
}
