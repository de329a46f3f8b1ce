/* The part of pg.c that has no state: connection parameters and the texts of libpq's errors.
 * Private to pg.c. */
#ifndef NRW_PG_LIBPQ_H
#define NRW_PG_LIBPQ_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#include "err.h"

struct pg_place;

/* Begins a connection; NOTICEs go to the debug log. Never NULL. url has passed pg_check_url(); name
 * outlives the result. */
PGconn *pg_connect_start(const char *url, const struct pg_place *place, char *name);
/* libpq leaves connect_timeout to whoever polls. 1 s ... 60 s. */
int64_t pg_connect_timeout_ms(PGconn *conn);

/* "PostgreSQL: what: text", one line, retriable, ours. text may be "". */
struct err pg_fault(enum err_code code, const char *what, const char *text);
/* The server refused statement `at` (or, after it, the commit). Without detail and context: those
 * quote rows. */
void pg_refusal(struct err *ret, const PGresult *res, int at, bool commit);

#endif
