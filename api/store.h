/* PostgreSQL for requests: a small pool of connections (common/pg.h), each with one unit under way,
 * and a queue in front of them. Next is a unit of the tenant that has the fewest under way, of
 * those the oldest; a tenant never has all connections, so that another one's unit finds one. A
 * unit is answered within STORE_DEADLINE_MS whatever happens to it, and not sent any more after
 * that. A statement may take STORE_STATEMENT_MS; a connection that does not answer at all is given
 * up after STORE_STALL_MS. */
#ifndef NRW_STORE_H
#define NRW_STORE_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>

#include "ids.h"
#include "pg.h"

#define STORE_STATEMENT_MS   5000
#define STORE_STATEMENTS_MAX 4 /* of a unit */
/* A unit of which each statement takes what it may is slow, and no reason to lose the connection:
 * the server ends it. Its commit, which has no limit there, gets as much again as a statement. */
#define STORE_STALL_MS           ((STORE_STATEMENTS_MAX + 1) * STORE_STATEMENT_MS)
#define STORE_DEADLINE_MS        10000
#define STORE_WAITING_MAX        1024
#define STORE_TENANT_WAITING_MAX 256

struct store;

struct store *store_new(struct event_base *base, const char *url, unsigned connections);
bool store_is_up(const struct store *s); /* at least one connection, and it answers */
/* Takes one unit of 1..STORE_STATEMENTS_MAX statements; everything but its SQL is copied. tenant:
 * whom it is for; all zero is nobody, who has no share. reply is called exactly once, later, as
 * pg_submit()'s, and also when the unit was given up: with failed = 0 when it was never sent, and
 * -1 when it is still under way. False: the store is not up, or too many wait; no callback comes.
 */
bool store_submit(struct store *s, const struct uuid *tenant, const struct pg_stmt *stmts, int n,
                  pg_reply_fn *reply, void *ctx) MUST_CHECK;
/* All units get their reply. Not from inside a reply. */
void store_free(struct store *s);

#endif
