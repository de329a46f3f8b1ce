/* PostgreSQL for requests: a small pool of pipelined connections (common/pg.h). A unit goes to the
 * connection with the fewest units under way, so that a slow one holds up few. A statement may take
 * STORE_STATEMENT_MS; a connection that does not answer at all is given up after STORE_STALL_MS. */
#ifndef NRW_STORE_H
#define NRW_STORE_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>

#include "pg.h"

#define STORE_STATEMENT_MS 5000
#define STORE_STALL_MS     10000

struct store;

struct store *store_new(struct event_base *base, const char *url, unsigned connections);
bool store_is_up(const struct store *s); /* at least one connection */
/* As pg_submit(). False: no connection, or all are full; nothing was sent. */
bool store_submit(struct store *s, const struct pg_stmt *stmts, int n, pg_reply_fn *reply,
                  void *ctx) MUST_CHECK;
/* Units under way get their reply (lost). Not from inside a reply. */
void store_free(struct store *s);

#endif
