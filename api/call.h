/* One request from its arrival to its answer. Made by server.c, given to one handler, which answers
 * exactly once, now or later; the answer ends the call. A client that has left meanwhile changes
 * nothing: the answer is then dropped.
 *
 * A handler never blocks: it asks PostgreSQL with call_query() and goes on in the function that it
 * names there. What is wrong with the input collects in `errors` (input.h, query.h), so that one
 * answer names it all. */
#ifndef NRW_CALL_H
#define NRW_CALL_H

#include <event2/http.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api.h"
#include "err.h"
#include "ids.h"
#include "pg.h"
#include "principal.h"
#include "problem.h"
#include "router.h"

#define CALL_MAGIC      0x43414c4cu
#define CALL_IDS_MAX    2
#define CALL_REQUEST_ID 64

struct call;
typedef void call_rows_fn(struct call *c, const struct pg_reply *reply);

struct call {
    unsigned magic;
    const struct api *api;
    struct evhttp_request *req;
    const struct route *route; /* NULL: none was found */
    struct principal who;
    struct uuid ids[CALL_IDS_MAX]; /* those of the path, in its order */
    struct evkeyvalq *query;       /* decoded parameters of the address */
    const char *body;              /* borrowed from req; NULL when empty */
    size_t body_len;
    json_t *errors; /* NULL or an array */
    char request_id[CALL_REQUEST_ID + 1];
    int64_t began_mono_us;
    call_rows_fn *then;              /* of the query under way */
    bool may_change;                 /* the query under way may change something */
    bool has_acted;                  /* something may have been changed already */
    void *state;                     /* the handler's own; freed with the call */
    void (*free_state)(void *state); /* NULL: free() */
    void (*ended)(void *ctx, const struct call *c, int status, size_t bytes); /* server.c's */
    void *ended_ctx;
};

/* --- answers; each ends the call: c is gone when they return --- */

void call_reply(struct call *c, int status, json_t *body); /* body: taken; NULL: none */
/* Text that is ready: borrowed for the call. */
void call_reply_text(struct call *c, int status, const char *type, const char *text, size_t len);
void call_problem(struct call *c, enum problem p, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* With everything in c->errors. */
void call_invalid(struct call *c, enum problem p);
void call_not_found(struct call *c, const char *what);

/* The only value of that header of the request, or NULL; *ret_n tells how many there are. */
const char *call_given_header(const struct call *c, const char *name, unsigned *ret_n);
/* Before the answer. value is copied. */
void call_header(struct call *c, const char *name, const char *value);
/* where: an RFC 6901 pointer into the body, or the name of a parameter of the address. */
void call_error_at(struct call *c, const char *pointer, const char *fmt, ...) PRINTF_LIKE(3, 4);
void call_error_param(struct call *c, const char *parameter, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

/* --- PostgreSQL --- */

/* One unit (pg.h): all of stmts or nothing. `then` is called with reply->ok; every failure is
 * answered here, so that `then` never sees one: 503 `unavailable` when nothing was done (no
 * PostgreSQL, its time limit), 503 `outcome-unknown` when the answer of this unit was lost or an
 * earlier one of the call was carried out, 500 and a log line when it refuses the statement. */
void call_query(struct call *c, const struct pg_stmt *stmts, int n, call_rows_fn *then);
/* The same for statements that only look, where the call changes something with others. */
void call_look(struct call *c, const struct pg_stmt *stmts, int n, call_rows_fn *then);

/* --- life; server.c only --- */

struct call *call_new(const struct api *api, struct evhttp_request *req);

#endif
