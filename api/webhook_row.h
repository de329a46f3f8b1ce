/* A webhook as the API finds it and shows it, never with its secret. */
#ifndef NRW_WEBHOOK_ROW_H
#define NRW_WEBHOOK_ROW_H

#include <jansson.h>
#include <libpq-fe.h>

#include "call.h"
#include "param.h"

/* What a SELECT or RETURNING of the table webhooks lists, first, for a binary result. A secret that
 * is no longer good is no rotation any more. */
#define WEBHOOK_COLUMNS                                                                            \
    "id, url, description, array_to_string(events, ' '), active, status, failing_since,"           \
    " last_success_at, disabled_at, disabled_reason,"                                              \
    " CASE WHEN previous_secret_until > now() THEN previous_secret_until END,"                     \
    " created_at, updated_at"
#define WEBHOOK_COLUMNS_N 13

/* In a WHERE of the table webhooks: the one that the path names, if it is the caller's and not
 * deleted. Takes parameters $1 and $2. */
#define WEBHOOK_IS_MINE        "id = $1 AND tenant_id = $2 AND deleted_at IS NULL"
#define WEBHOOK_MINE_PARAMS(c) param_uuid(&(c)->ids[0]), param_uuid(&(c)->who.tenant_id)

/* A new reference. */
json_t *webhook_json(const PGresult *r, int row);

#endif
