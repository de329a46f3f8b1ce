/* Owns the shape of a webhook in answers (schema WebhookMembers of openapi.yaml). Pure; every
 * answer that has a webhook in it is made here. */
#include "webhook_row.h"

#include "check.h"
#include "render.h"

/* As WEBHOOK_COLUMNS lists them. */
enum {
    COL_ID,
    COL_URL,
    COL_DESCRIPTION,
    COL_EVENTS,
    COL_ACTIVE,
    COL_STATUS,
    COL_FAILING_SINCE,
    COL_LAST_SUCCESS_AT,
    COL_DISABLED_AT,
    COL_DISABLED_REASON,
    COL_PREVIOUS_UNTIL,
    COL_CREATED_AT,
    COL_UPDATED_AT,
    COLUMNS
};
_Static_assert(COLUMNS == WEBHOOK_COLUMNS_N, "what others list after these has the next numbers");

static json_t *rotation(const PGresult *r, int row)
{
    if (PQgetisnull(r, row, COL_PREVIOUS_UNTIL)) {
        return json_null();
    }
    json_t *o = json_object();
    CHECK(o != NULL);
    render_add(o, "previous_valid_until", render_time(r, row, COL_PREVIOUS_UNTIL));
    return o;
}

json_t *webhook_json(const PGresult *r, int row)
{
    json_t *o = json_object();
    CHECK(o != NULL);
    render_add(o, "id", render_uuid(r, row, COL_ID));
    render_add(o, "url", render_text(r, row, COL_URL));
    render_add(o, "description", render_text(r, row, COL_DESCRIPTION));
    render_add(o, "events", render_texts(r, row, COL_EVENTS));
    render_add(o, "active", render_bool(r, row, COL_ACTIVE));
    render_add(o, "status", render_text(r, row, COL_STATUS));
    render_add(o, "failing_since", render_time(r, row, COL_FAILING_SINCE));
    render_add(o, "last_success_at", render_time(r, row, COL_LAST_SUCCESS_AT));
    render_add(o, "disabled_at", render_time(r, row, COL_DISABLED_AT));
    render_add(o, "disabled_reason", render_text(r, row, COL_DISABLED_REASON));
    render_add(o, "secret_rotation", rotation(r, row));
    render_add(o, "created_at", render_time(r, row, COL_CREATED_AT));
    render_add(o, "updated_at", render_time(r, row, COL_UPDATED_AT));
    return o;
}
