/* Owns how an attempt looks in an answer, and the question whose log it is. */
#include "delivery_row.h"

#include <inttypes.h>
#include <stdio.h>

#include "check.h"
#include "pgarray.h"
#include "render.h"

/* jit: what is forbidden counts as very expensive, and expensive statements would be compiled. */
const char delivery_row_owned_sql[] =
    "SELECT set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true),"
    " set_config('jit', 'off', true) " OWNED_WEBHOOK;

json_t *delivery_row_render(const PGresult *r, int row)
{
    static const struct {
        const char *name;
        json_t *(*render)(const PGresult *r, int row, int col);
    } members[DELIVERY_ROW_COLUMNS_N] = {
        {"delivery_id", render_uuid},     {"attempt", render_int}, {"event_id", render_uuid},
        {"event", render_text},           {"status", render_text}, {"status_code", render_int},
        {"response_time_ms", render_int}, {"error", render_text},  {"attempted_at", render_time},
        {"next_attempt_at", render_time},
    };
    char number[24];
    const struct uuid delivery_id = pgvalue_uuid(r, row, ROW_DELIVERY_ID);
    const int len = snprintf(number, sizeof(number), "%" PRId64, pgvalue_int8(r, row, ROW_ATTEMPT));
    CHECK(len > 0);
    const struct uuid id = uuid_v5(&delivery_id, number, (size_t)len);
    json_t *object = json_object();
    CHECK(object != NULL);
    render_add(object, "id", render_id(&id));
    for (int i = 0; i < DELIVERY_ROW_COLUMNS_N; i++) {
        render_add(object, members[i].name, members[i].render(r, row, i));
    }
    return object;
}

bool delivery_row_not_owned(struct call *c, const struct pg_reply *reply)
{
    if (PQntuples(reply->results[0]) > 0) {
        return false;
    }
    call_not_found(c, "webhook");
    return true;
}
