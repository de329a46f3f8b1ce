/* A row of the delivery log in an answer, and whose it is: what the list, the detail and the
 * statistics have in common. */
#ifndef NRW_DELIVERY_ROW_H
#define NRW_DELIVERY_ROW_H

#include <jansson.h>
#include <stdbool.h>

#include "call.h"

/* The one that asks for webhook $1 is its tenant $2, and it is not deleted. As a condition around
 * a subquery with a LIMIT it is judged once and before any row is read: a stranger's log is not
 * even looked at. */
#define OWNED_WEBHOOK                                                                              \
    "FROM webhooks WHERE id = $1::uuid AND tenant_id = $2::uuid AND deleted_at IS NULL"
#define IS_OWNED "(SELECT true " OWNED_WEBHOOK ")"

/* The first statement of every unit about a log; takes $1 and $2. It finds the webhook, and for the
 * rest of the unit forbids the planner to sort what an index has in order and to read what an index
 * leads to: it does not know how many attempts one webhook has, and would rather sort half a
 * million of them than pass ten thousand. */
extern const char delivery_row_owned_sql[];
/* It found none of the caller's: answers 404 and returns true. */
bool delivery_row_not_owned(struct call *c, const struct pg_reply *reply);

/* First in the select list of a binary result. */
#define DELIVERY_ROW_COLUMNS                                                                       \
    "delivery_id, attempt::bigint, event_id, event_type, outcome, status_code::bigint,"            \
    " response_time_ms::bigint, error, started_at, next_attempt_at"
#define DELIVERY_ROW_COLUMNS_N 10
enum { ROW_DELIVERY_ID, ROW_ATTEMPT, ROW_EVENT_ID, ROW_EVENT, ROW_STATUS, ROW_STARTED_AT = 8 };

/* Members of AttemptMembers in openapi.yaml. */
json_t *delivery_row_render(const PGresult *r, int row);

#endif
