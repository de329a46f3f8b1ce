/* One PostgreSQL connection: connects, checks the server, pipelines units, hands back replies and
 * notifications, gives up on a stalled server and connects again. Knows no SQL but its own check of
 * synchronous_commit, keeps no unit for a second try: its users do, they know what is idempotent.
 * Host names are resolved on the loop (pg_hosts.c) before libpq connects, which would block. All
 * hosts and addresses share one connect_timeout, which one that says nothing uses up: the next try
 * then begins with another one. Logs only what its user cannot learn (why there is no connection
 * yet); the rest is at debug.
 *
 *   WAITING --timer--> RESOLVING --addresses--> CONNECTING --libpq ok--> CHECKING --ok--> UP
 *      ^------------------------- any failure, lose() -------------------------------------| */
#include "pg.h"

#include <event2/util.h>
#include <openssl/crypto.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backoff.h"
#include "check.h"
#include "clock.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"
#include "pg_hosts.h"
#include "pg_libpq.h"

#define PG_MAGIC           0x70676363u
#define SERVER_VERSION_MIN 150000
#define UNITS_PER_TURN     32 /* replies delivered before the loop gets its turn  */
#define NOTIFIES_PER_TURN  256
#define CHECK_SQL                                                                                  \
    "SELECT pg_catalog.current_setting('synchronous_commit'),"                                     \
    " pg_catalog.current_setting('transaction_read_only')"

enum pg_state { PG_WAITING, PG_RESOLVING, PG_CONNECTING, PG_CHECKING, PG_UP, PG_CLOSED };

struct unit {
    pg_reply_fn *reply;
    void *ctx;
    int n;      /* statements                                     */
    int at;     /* statement whose result comes next; n: the sync */
    int failed; /* -1: none so far                              */
    int64_t sent_us;
    PGresult *results[PG_UNIT_MAX];
    struct err err;
};

struct pg {
    unsigned magic;
    enum pg_state state;
    struct event_base *base;
    struct pg_handlers handlers;
    char *url;
    char *name;
    int64_t stall_us;

    struct pg_hosts *hosts;
    struct err left_out; /* of this try: hosts without an address */
    PGconn *conn;
    struct event *io;    /* connecting: one shot, re-made after each poll; later: readable */
    struct event *write; /* only while PQflush says that something is left   */
    struct event *timer; /* WAITING: next try; CONNECTING, CHECKING: deadline; UP: stall */
    struct err broken;   /* why the read handler is to give up, found where it must not be done */
    bool in_callback;

    struct unit *units; /* ring of PG_OUTSTANDING_MAX */
    size_t head;
    size_t n;
    int64_t head_since_us; /* when the oldest unit became the oldest */
    struct histogram *seconds;
    struct counter *lost;

    struct backoff backoff;
    unsigned first_host; /* of the URL's, or its addresses: where the next try begins */
};

static void on_io(evutil_socket_t fd, short what, void *ctx);
static void lose(struct pg *pg, const struct err *why);

static struct pg *pg_of(void *ctx)
{
    struct pg *pg = ctx;
    CHECK_MAGIC(pg, PG_MAGIC);
    return pg;
}

static void set_state(struct pg *pg, enum pg_state state)
{
    static const char *const names[] = {"waiting",  "resolving", "connecting",
                                        "checking", "up",        "closed"};
    log_debug("pg.state", F_STR("name", pg->name), F_STR("from", names[pg->state]),
              F_STR("to", names[state]));
    pg->state = state;
}

static bool is_broken(const struct pg *pg)
{
    return pg->broken.code != ERR_NONE;
}

static void arm_timer(struct pg *pg, int64_t us)
{
    struct timeval tv = {.tv_sec = us / 1000000, .tv_usec = us % 1000000};
    CHECK(event_add(pg->timer, &tv) == 0);
}

/* --- units ------------------------------------------------------------------------------ */

static struct unit *oldest(struct pg *pg)
{
    return &pg->units[pg->head];
}

static void call_reply(struct pg *pg, struct unit *u)
{
    struct pg_reply reply = {
        .ok = u->err.code == ERR_NONE,
        .failed = u->failed,
        .err = &u->err,
        .results = u->results,
        .n_results = u->n,
    };
    bool nested = pg->in_callback;
    pg->in_callback = true;
    u->reply(u->ctx, &reply);
    pg->in_callback = nested;
    for (int i = 0; i < u->n; i++) {
        PQclear(u->results[i]);
        u->results[i] = NULL;
    }
}

/* The unit leaves the ring before its callback runs, so that the callback may submit the next one.
 */
static void finish_oldest(struct pg *pg)
{
    struct unit u = *oldest(pg);
    pg->head = (pg->head + 1) % PG_OUTSTANDING_MAX;
    pg->n--;
    pg->head_since_us = clock_mono_us();
    call_reply(pg, &u);
}

/* False: the server speaks of something that a unit cannot contain (COPY). */
static bool take_result(struct unit *u, PGresult *res)
{
    ExecStatusType status = PQresultStatus(res);
    bool ours = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ||
                status == PGRES_EMPTY_QUERY || status == PGRES_PIPELINE_ABORTED ||
                status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE;
    if ((status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE) && u->failed == -1) {
        u->failed = u->at < u->n ? u->at : u->n - 1; /* refused by the commit: blame the last one */
        pg_refusal(&u->err, res, u->failed, u->at == u->n);
    }
    if (u->at < u->n && u->results[u->at] == NULL) {
        u->results[u->at] = res;
    } else {
        PQclear(res);
    }
    return ours;
}

/* Each statement gives one result and a NULL, each sync one result and no NULL. Returns false when
 * the connection is of no use any more. Stops after some units so that one busy connection cannot
 * hold the loop. */
static bool read_results(struct pg *pg)
{
    int empty = 0;
    for (int finished = 0; pg->n > 0 && empty < 2 && !PQisBusy(pg->conn);) {
        struct unit *u = oldest(pg);
        PGresult *res = PQgetResult(pg->conn);
        if (res == NULL) {
            bool got = u->at < u->n && u->results[u->at] != NULL;
            u->at += got ? 1 : 0;
            empty = got ? 0 : empty + 1;
            continue;
        }
        empty = 0;
        if (PQresultStatus(res) == PGRES_PIPELINE_SYNC) {
            PQclear(res);
            histogram_observe(pg->seconds, (double)(clock_mono_us() - u->sent_us) / 1e6);
            finish_oldest(pg);
            if (++finished == UNITS_PER_TURN) {
                event_active(pg->io, EV_READ, 0);
                break;
            }
        } else if (!take_result(u, res)) {
            return false;
        }
    }
    return PQstatus(pg->conn) == CONNECTION_OK;
}

static void read_notifies(struct pg *pg)
{
    for (int i = 0; i < NOTIFIES_PER_TURN; i++) {
        PGnotify *notify = PQnotifies(pg->conn);
        if (notify == NULL) {
            return;
        }
        if (pg->handlers.notify != NULL && pg->state == PG_UP) {
            pg->in_callback = true;
            pg->handlers.notify(pg->handlers.ctx, notify->relname, notify->extra);
            pg->in_callback = false;
        }
        PQfreemem(notify);
    }
    event_active(pg->io, EV_READ, 0);
}

static bool send_stmt(struct pg *pg, const struct pg_stmt *stmt)
{
    Oid types[PG_PARAMS_MAX];
    const char *values[PG_PARAMS_MAX];
    int lens[PG_PARAMS_MAX];
    int formats[PG_PARAMS_MAX];
    CHECK(stmt->n_params >= 0 && stmt->n_params <= PG_PARAMS_MAX);
    for (int i = 0; i < stmt->n_params; i++) {
        types[i] = stmt->params[i].type;
        values[i] = stmt->params[i].data;
        lens[i] = stmt->params[i].len;
        formats[i] = stmt->params[i].binary ? 1 : 0;
    }
    return PQsendQueryParams(pg->conn, stmt->sql, stmt->n_params, types, values, lens, formats,
                             stmt->binary_result ? 1 : 0) == 1;
}

static bool flush(struct pg *pg)
{
    int rc = PQflush(pg->conn);
    if (rc == 1) {
        CHECK(event_add(pg->write, NULL) == 0);
    }
    return rc != -1;
}

static void send_unit(struct pg *pg, const struct pg_stmt *stmts, int n, pg_reply_fn *reply,
                      void *ctx)
{
    CHECK(n >= 1 && n <= PG_UNIT_MAX && pg->n < PG_OUTSTANDING_MAX);
    const int64_t now = clock_mono_us();
    pg->units[(pg->head + pg->n) % PG_OUTSTANDING_MAX] =
        (struct unit){.reply = reply, .ctx = ctx, .n = n, .failed = -1, .sent_us = now};
    if (pg->n++ == 0) {
        pg->head_since_us = now;
        if (pg->state == PG_UP && !event_pending(pg->timer, EV_TIMEOUT, NULL)) {
            arm_timer(pg, pg->stall_us);
        }
    }
    bool sent = true;
    for (int i = 0; i < n && sent; i++) {
        sent = send_stmt(pg, &stmts[i]);
    }
    if (!sent || PQpipelineSync(pg->conn) != 1 || !flush(pg)) {
        pg->broken = pg_fault(ERR_IO, "cannot send", PQerrorMessage(pg->conn));
    }
    /* libpq reads while it sends to a full socket: then answers wait in its buffer and the socket
     * stays silent. A failed send is handled there too, because no callback may come from inside
     * pg_submit. */
    event_active(pg->io, EV_READ, 0);
}

bool pg_submit(struct pg *pg, const struct pg_stmt *stmts, int n, pg_reply_fn *reply, void *ctx)
{
    CHECK_MAGIC(pg, PG_MAGIC);
    CHECK(reply != NULL);
    if (pg->state != PG_UP || is_broken(pg) || pg->n == PG_OUTSTANDING_MAX) {
        return false;
    }
    send_unit(pg, stmts, n, reply, ctx);
    return true;
}

/* --- up and down ------------------------------------------------------------------------ */

static void close_conn(struct pg *pg)
{
    /* libevent must forget the descriptor before libpq closes it. */
    if (pg->io != NULL) {
        event_free(pg->io), pg->io = NULL;
    }
    if (pg->write != NULL) {
        event_free(pg->write), pg->write = NULL;
    }
    PQfinish(pg->conn), pg->conn = NULL; /* still non-blocking: its last message never waits */
    pg->broken = (struct err){.code = ERR_NONE};
}

static void fail_units(struct pg *pg, const struct err *why)
{
    for (size_t left = pg->n; left > 0; left--) {
        struct unit *u = oldest(pg);
        u->failed = -1;
        u->err = *why;
        finish_oldest(pg);
    }
}

static void complain(struct pg *pg, const struct err *why)
{
    if (backoff_failed(&pg->backoff)) {
        log_warn("pg.connect_failed", F_STR("name", pg->name), F_INT("tries", pg->backoff.tries),
                 F_STR("not_tried", pg->left_out.code == ERR_NONE ? NULL : pg->left_out.text),
                 F_ERR(why));
    }
}

/* The only way out of RESOLVING, CONNECTING, CHECKING and UP. */
static void lose(struct pg *pg, const struct err *why)
{
    struct err err = *why; /* may live in what is closed here */
    bool was_up = pg->state == PG_UP;
    pg->lost->value += was_up;
    set_state(pg, PG_WAITING);
    (void)event_del(pg->timer); /* a failure to delete means that it was not added */
    close_conn(pg);
    fail_units(pg, &err);
    if (!was_up) {
        complain(pg, &err);
    } else if (pg->handlers.down != NULL) {
        pg->in_callback = true;
        pg->handlers.down(pg->handlers.ctx, &err);
        pg->in_callback = false;
    }
    arm_timer(pg, backoff_next_us(&pg->backoff));
}

static void lose_libpq(struct pg *pg, const char *what)
{
    const char *text = PQerrorMessage(pg->conn);
    /* 57P: the server says why it ends the session; in a pipeline libpq hands that over as a
     * result. */
    if (pg->n > 0 && strncmp(oldest(pg)->err.sqlstate, "57P", 3) == 0) {
        text = oldest(pg)->err.text;
    }
    struct err err = pg_fault(ERR_IO, what, text);
    lose(pg, &err);
}

/* Marks the connection instead of losing it: this runs inside its read loop. */
static void on_checked(void *ctx, const struct pg_reply *reply)
{
    struct pg *pg = pg_of(ctx);
    if (pg->state != PG_CHECKING) {
        return; /* lost meanwhile */
    }
    if (!reply->ok) {
        pg->broken = *reply->err;
        return;
    }
    const PGresult *res = reply->results[0];
    const char *value = PQntuples(res) == 1 ? PQgetvalue(res, 0, 0) : "";
    if (strcmp(value, "on") != 0 && strcmp(value, "local") != 0 &&
        strcmp(value, "remote_write") != 0 && strcmp(value, "remote_apply") != 0) {
        pg->broken = pg_fault(ERR_DB, "refused, because synchronous_commit is", value);
        return;
    }
    if (strcmp(PQgetvalue(res, 0, 1), "off") != 0) {
        pg->broken = pg_fault(ERR_DB, "refused", "the session is read-only, as on a standby");
        pg->first_host++; /* the primary may be the next one of the URL */
        return;
    }
    (void)event_del(pg->timer);
    pg->backoff.ms = 0;
    pg->backoff.tries = 0;
    set_state(pg, PG_UP);
    if (pg->handlers.up != NULL) {
        pg->handlers.up(pg->handlers.ctx);
    }
}

static void on_readable(struct pg *pg)
{
    if (!is_broken(pg)) {
        if (PQconsumeInput(pg->conn) != 1 || !read_results(pg)) {
            lose_libpq(pg, "connection lost");
            return;
        }
        read_notifies(pg);
    }
    if (is_broken(pg)) {
        lose(pg, &pg->broken);
    }
}

void pg_break(struct pg *pg, const struct err *why)
{
    if (pg->state == PG_UP && !is_broken(pg)) {
        pg->broken = *why;
        event_active(pg->io, EV_READ, 0);
    }
}

static void on_writable(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct pg *pg = pg_of(ctx);
    if (!flush(pg)) {
        pg->broken = pg_fault(ERR_IO, "cannot send", PQerrorMessage(pg->conn));
    }
    on_readable(pg); /* see send_unit() */
}

/* --- connecting ------------------------------------------------------------------------- */

static void watch_connect(struct pg *pg, short what)
{
    if (pg->io != NULL) {
        event_free(pg->io);
    }
    /* The descriptor may be another one after each step of libpq. */
    pg->io = event_new(pg->base, PQsocket(pg->conn), what, on_io, pg);
    CHECK(pg->io != NULL && event_add(pg->io, NULL) == 0);
}

static void on_connected(struct pg *pg)
{
    static const struct pg_stmt check = {.sql = CHECK_SQL};
    if (PQserverVersion(pg->conn) < SERVER_VERSION_MIN) {
        const char *version = PQparameterStatus(pg->conn, "server_version");
        struct err err =
            pg_fault(ERR_DB, "server is older than version 15", version == NULL ? "" : version);
        lose(pg, &err);
        return;
    }
    event_free(pg->io);
    pg->io = event_new(pg->base, PQsocket(pg->conn), EV_READ | EV_PERSIST, on_io, pg);
    pg->write = event_new(pg->base, PQsocket(pg->conn), EV_WRITE, on_writable, pg);
    CHECK(pg->io != NULL && pg->write != NULL && event_add(pg->io, NULL) == 0);
    if (PQsetnonblocking(pg->conn, 1) != 0 || PQenterPipelineMode(pg->conn) != 1) {
        lose_libpq(pg, "cannot enter pipeline mode");
        return;
    }
    set_state(pg, PG_CHECKING);
    send_unit(pg, &check, 1, on_checked, pg);
}

static void poll_connect(struct pg *pg)
{
    switch (PQconnectPoll(pg->conn)) {
    case PGRES_POLLING_READING:
        watch_connect(pg, EV_READ);
        break;
    case PGRES_POLLING_WRITING:
    case PGRES_POLLING_ACTIVE: /* never returned since 7.4 */
        watch_connect(pg, EV_WRITE);
        break;
    case PGRES_POLLING_OK:
        on_connected(pg);
        break;
    case PGRES_POLLING_FAILED:
        lose_libpq(pg, "cannot connect");
        break;
    }
}

static void on_io(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct pg *pg = pg_of(ctx);
    if (pg->state == PG_CONNECTING) {
        poll_connect(pg);
    } else {
        on_readable(pg);
    }
}

static void on_place(void *ctx, const struct pg_place *place, const struct err *why)
{
    struct pg *pg = pg_of(ctx);
    pg->left_out = *why;
    if (place == NULL) {
        struct err err = pg_fault(why->code, "cannot connect", why->text);
        lose(pg, &err);
        return;
    }
    set_state(pg, PG_CONNECTING);
    pg->conn = pg_connect_start(pg->url, place, pg->name);
    if (PQstatus(pg->conn) == CONNECTION_BAD) {
        lose_libpq(pg, "cannot connect");
        return;
    }
    arm_timer(pg, pg_connect_timeout_ms(pg->conn) * 1000);
    watch_connect(pg, EV_WRITE);
}

static void start_connect(struct pg *pg)
{
    struct err err = {.code = ERR_NONE};
    if (!pg_check_url(pg->url, &err)) { /* libpq's own text could show the password */
        lose(pg, &err);
        return;
    }
    set_state(pg, PG_RESOLVING);
    pg_hosts_find(pg->hosts, pg->base, pg->first_host, on_place, pg);
}

static void check_stall(struct pg *pg)
{
    if (pg->n == 0) {
        return; /* the next unit arms the timer */
    }
    int64_t age = clock_mono_us() - pg->head_since_us;
    if (age < pg->stall_us) {
        arm_timer(pg, pg->stall_us - age);
        return;
    }
    struct err err = pg_fault(ERR_TIMEOUT, "no answer in time, connection given up", "");
    lose(pg, &err);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct pg *pg = pg_of(ctx);
    if (pg->state == PG_WAITING) {
        start_connect(pg);
    } else if (pg->state == PG_UP) {
        check_stall(pg);
    } else {
        const char *host = PQhost(pg->conn); /* the one in turn */
        struct err err = pg_fault(ERR_TIMEOUT, "no connection in time", host == NULL ? "" : host);
        pg->first_host++;
        lose(pg, &err);
    }
}

/* --- birth and end ---------------------------------------------------------------------- */

static void register_metrics(struct pg *pg)
{
    char labels[80];
    const int n = snprintf(labels, sizeof(labels), "connection=\"%s\"", pg->name);
    CHECK(n > 0 && (size_t)n < sizeof(labels));
    pg->seconds = metrics_histogram("nrw_pg_seconds", labels,
                                    "from sending statements to PostgreSQL to their answer",
                                    metrics_seconds_bounds, metrics_seconds_bounds_n);
    pg->lost = metrics_counter("nrw_pg_connections_lost_total", labels,
                               "connections to PostgreSQL that were up and broke");
}

struct pg *pg_new(struct event_base *base, const char *url, const char *name, int stall_ms,
                  const struct pg_handlers *handlers)
{
    CHECK(stall_ms > 0);
    struct pg *pg = mem_zero(1, sizeof(*pg));
    pg->magic = PG_MAGIC;
    pg->base = base;
    pg->url = mem_dup(url);
    pg->hosts = pg_hosts_new(url);
    pg->name = mem_dup(name);
    pg->stall_us = (int64_t)stall_ms * 1000;
    pg->handlers = *handlers;
    register_metrics(pg);
    pg->units = mem_zero(PG_OUTSTANDING_MAX, sizeof(*pg->units));
    pg->timer = evtimer_new(base, on_timer, pg);
    CHECK(pg->timer != NULL);
    arm_timer(pg, 0); /* from the loop: `up` must not be called before the caller has the pointer */
    return pg;
}

bool pg_is_up(const struct pg *pg)
{
    return pg->state == PG_UP && !is_broken(pg);
}

size_t pg_outstanding(const struct pg *pg)
{
    return pg->state == PG_CHECKING ? 0 : pg->n; /* the check is not the user's */
}

void pg_free(struct pg *pg)
{
    if (pg == NULL) {
        return;
    }
    CHECK_MAGIC(pg, PG_MAGIC);
    CHECK(!pg->in_callback);
    struct err err = pg_fault(ERR_IO, "connection closed by this side", "");
    set_state(pg, PG_CLOSED);
    event_free(pg->timer), pg->timer = NULL;
    pg_hosts_free(pg->hosts), pg->hosts = NULL;
    close_conn(pg);
    fail_units(pg, &err);
    OPENSSL_cleanse(pg->url, strlen(pg->url));
    free(pg->url), pg->url = NULL;
    free(pg->name), pg->name = NULL;
    free(pg->units), pg->units = NULL;
    pg->magic = 0;
    free(pg);
}
