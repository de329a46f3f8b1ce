/* Any bytes as the body that creates or changes a webhook, and as one that has a member of every
 * type. Either exactly one answer is given, 400 or 422 and JSON, or everything that was read keeps
 * the rules. */
#include <stdint.h>
#include <stdlib.h>

#include "../unit/call_fixture.h"
#include "config.h"
#include "endpoint.h"
#include "input.h"
#include "netguard.h"
#include "webhook_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct config cfg = {.allow_http = true};
static struct api api = {.cfg = &cfg};

static void check_refused(struct caught *caught)
{
    CHECK(caught->answers == 1 && (caught->status == 400 || caught->status == 422));
    CHECK((caught->status == 422) ==
          (json_array_size(json_object_get(caught->body, "errors")) > 0));
    caught_done(caught);
}

static void check_accepted(const struct webhook_input *in, enum webhook_input_kind kind)
{
    CHECK(kind == WEBHOOK_PATCH || (in->url != NULL && in->has_events));
    if (in->url != NULL) {
        struct endpoint e;
        struct err err = {0};
        CHECK(endpoint_parse(in->url, strlen(in->url), true, api.guard, &e, &err));
        CHECK(strcmp(e.url, in->url) == 0);
        endpoint_done(&e);
    }
    CHECK(!in->has_events || (in->events.n >= 1 && in->events.n <= LIMIT_EVENT_PATTERNS));
    CHECK(in->secret.len == 0 ||
          (in->secret.len >= LIMIT_SECRET_MIN && in->secret.len <= LIMIT_SECRET));
    CHECK(in->description == NULL || (in->has_description && strlen(in->description) <= 4096));
}

static void as_webhook(enum webhook_input_kind kind, const char *body, size_t size)
{
    struct caught caught = {0};
    struct webhook_input in;
    struct call *c = fixture_call(&api, EVHTTP_REQ_POST, body, size, "", &caught);
    if (!webhook_input_read(c, kind, &in)) {
        check_refused(&caught);
        return;
    }
    CHECK(caught.answers == 0);
    check_accepted(&in, kind);
    webhook_input_done(&in);
    call_reply(c, 204, NULL);
}

static void as_every_type(const char *body, size_t size)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", NULL};
    struct caught caught = {0};
    struct input in;
    bool flag;
    json_int_t number = 0;
    const char *text;
    size_t len = 1;
    int64_t when;
    const json_t *list;
    struct call *c = fixture_call(&api, EVHTTP_REQ_POST, body, size, "", &caught);
    if (!input_open(&in, c, names)) {
        check_refused(&caught);
        return;
    }
    (void)input_bool(&in, "a", &flag);
    CHECK(!input_int(&in, "b", -5, 5, &number) || (number >= -5 && number <= 5));
    CHECK(!input_string(&in, "c", 1, 9, &text, &len) || (len >= 1 && len <= 9));
    (void)input_text(&in, "d", 9, &text);
    (void)input_time(&in, "e", &when);
    (void)input_patterns(&in, "f", &list);
    input_require(&in, "a");
    input_refuse_null(&in, "b");
    if (!input_close(&in)) {
        check_refused(&caught);
    } else {
        call_reply(c, 204, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (api.guard == NULL) {
        api.guard = netguard_new("", "", NULL);
        CHECK(api.guard != NULL);
    }
    if (size > LIMIT_REQUEST_BODY) {
        return 0;
    }
    as_webhook(WEBHOOK_CREATE, (const char *)data, size);
    as_webhook(WEBHOOK_PATCH, (const char *)data, size);
    as_every_type((const char *)data, size);
    return 0;
}
