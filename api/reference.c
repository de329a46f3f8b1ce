/* Owns the answers that need no database: texts of schema/, compiled in (catalogue.h). */
#include "reference.h"

#include "call.h"
#include "catalogue.h"
#include "check.h"
#include "event_types.h"
#include "query.h"
#include "render.h"
#include "store.h"

void reference_event_types(struct call *c)
{
    if (!query_none(c)) {
        return;
    }
    json_t *data = json_array();
    CHECK(data != NULL);
    for (size_t i = 0; i < EVENT_TYPES_N; i++) {
        json_t *type = json_object();
        CHECK(type != NULL);
        render_add(type, "event", json_string(event_types[i].name));
        render_add(type, "description", json_string(event_types[i].description));
        render_add(type, "sample", json_loads(event_samples[i].json, 0, NULL));
        CHECK(json_array_append_new(data, type) == 0);
    }
    json_t *answer = json_object();
    CHECK(answer != NULL);
    render_add(answer, "data", data);
    call_reply(c, 200, answer);
}

void reference_openapi(struct call *c)
{
    if (query_none(c)) {
        call_reply_text(c, 200, "application/json", openapi_json, openapi_json_len);
    }
}

void reference_health(struct call *c)
{
    if (query_none(c)) {
        call_reply(c, 200, json_pack("{s:s}", "status", "ok"));
    }
}

void reference_ready(struct call *c)
{
    if (!query_none(c)) {
        return;
    }
    if (c->api->stopping) {
        call_problem(c, PROBLEM_UNAVAILABLE, "the service is shutting down");
    } else if (store_is_up(c->api->store)) {
        call_reply(c, 200, json_pack("{s:s}", "status", "ready"));
    } else {
        call_problem(c, PROBLEM_UNAVAILABLE, "PostgreSQL is not connected");
    }
}
