/* A row of the delivery log in an answer, and whose it is: what the list, the detail and the
 * statistics have in common. */
#ifndef NRW_DELIVERY_ROW_H
#define NRW_DELIVERY_ROW_H

#include <jansson.h>
#include <stdbool.h>

#include "call.h"

/* The one that asks for webhook $1 is its tenant $2, and it is not deleted. As a condition of its
 * own it is judged before any row is read, so that a stranger's log is not even looked at. */
#define OWNED_WEBHOOK                                                                              \
    "FROM webhooks WHERE id = $1::uuid AND tenant_id = $2::uuid AND deleted_at IS NULL"
#define IS_OWNED "(SELECT true " OWNED_WEBHOOK ")"

/* First in the select list of a binary result. */
#define DELIVERY_ROW_COLUMNS                                                                       \
    "delivery_id, attempt::bigint, event_id, event_type, outcome, status_code::bigint,"            \
    " response_time_ms::bigint, error, started_at, next_attempt_at"
#define DELIVERY_ROW_COLUMNS_N 10
enum { ROW_DELIVERY_ID, ROW_ATTEMPT, ROW_EVENT_ID, ROW_EVENT, ROW_STATUS, ROW_STARTED_AT = 8 };

/* Members of AttemptMembers in openapi.yaml. */
json_t *delivery_row_render(const PGresult *r, int row);

/* The unit's first statement found no webhook of the caller's: answers 404 and returns true. */
bool delivery_row_not_owned(struct call *c, const struct pg_reply *reply);

#endif
