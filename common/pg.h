/* One asynchronous PostgreSQL connection on the loop, in pipeline mode, that reconnects by itself.
 * Work is handed over in units: 1..PG_UNIT_MAX statements that commit together (libpq's implicit
 * transaction between two syncs) or not at all. Units run in order. Nothing here blocks: connect,
 * send and receive are all driven by the loop. No prepared statements, no session state but what
 * on_up sends: safe behind a transaction pooler (except LISTEN). */
#ifndef NRW_PG_H
#define NRW_PG_H

#include <event2/event.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>

#include "err.h"

#define PG_UNIT_MAX        10
#define PG_PARAMS_MAX      24
#define PG_OUTSTANDING_MAX 256

struct pg;

struct pg_param {
    Oid type;         /* 0: let the server infer                                */
    const void *data; /* borrowed for the call; NULL = SQL NULL                 */
    int len;          /* bytes when binary; ignored for text (NUL-terminated)   */
    bool binary;
};

struct pg_stmt {
    const char *sql;
    const struct pg_param *params;
    int n_params;
    bool binary_result;
};

/* How a unit ended. ok: results[i] belongs to statement i. Not ok: err tells why, failed is the
 * index of the statement that the server refused (the last one when the commit itself was refused),
 * or -1 when the connection was lost: the unit may or may not have committed, so it must be
 * idempotent to be sent again. Results are borrowed until the callback returns. */
struct pg_reply {
    bool ok;
    int failed;
    const struct err *err; /* sqlstate is set when the server refused */
    PGresult *const *results;
    int n_results;
};
typedef void pg_reply_fn(void *ctx, const struct pg_reply *reply);

struct pg_handlers {
    void (*up)(void *ctx); /* may be NULL; may submit units     */
    void (*down)(void *ctx,
                 const struct err *why); /* may be NULL; after the replies of lost units */
    void (*notify)(void *ctx, const char *channel, const char *payload); /* may be NULL */
    void *ctx;
};

/* At boot: is this a URI that libpq can read? The err text never shows it. Connects to nothing. */
bool pg_check_url(const char *url, struct err *err) MUST_CHECK;

/* Connects at once and for ever: failed connects are repeated after 100 ms … 5 s (doubling, with
 * jitter). Host names are looked up first, within 5 s and without blocking (store_address.h). Of
 * several hosts in the URL, or addresses of a host, one that says nothing costs each connection at
 * most one connect_timeout for every one in front of it.
 * `name` goes into application_name, log lines and the metrics' label connection:
 * a literal. Keepalives, tcp_user_timeout 10 s and
 * connect_timeout 5 s are set unless the URL says otherwise; a unit without an answer for stall_ms,
 * counted from when it is the oldest, closes the connection. url and name are copied. On every
 * connect synchronous_commit is checked to be on (R35), and that the session may write: a server
 * that says otherwise (a standby before its promotion, too) is refused with a log line. */
struct pg *pg_new(struct event_base *base, const char *url, const char *name, int stall_ms,
                  const struct pg_handlers *handlers);
bool pg_is_up(const struct pg *pg);
size_t pg_outstanding(const struct pg *pg); /* units submitted and not answered */

/* Sends one unit. False when the connection is not up or PG_OUTSTANDING_MAX units wait for their
 * answers (nothing was sent, no callback comes): pg_is_up() tells which. Otherwise reply is called
 * exactly once, later, never from inside this call. */
bool pg_submit(struct pg *pg, const struct pg_stmt *stmts, int n, pg_reply_fn *reply,
               void *ctx) MUST_CHECK;

/* Gives the connection up as if it had been lost, after this turn: what its session needs was
 * refused. Not up from now on; nothing when it was not. Safe inside callbacks. why: copied. */
void pg_break(struct pg *pg, const struct err *why);

/* Closes at once; outstanding units get their callback with failed = -1; handlers.down is not
 * called. Not from inside a callback of this connection. */
void pg_free(struct pg *pg);

#endif
