/* Owns the rules of a webhook's members. A name is not resolved here: what it means can change
 * later, so the worker judges every address that it connects to. Addresses that stand in the URL
 * are judged at once, for the customer's sake. webhook_create.c and webhook_update.c call it. */
#include "webhook_input.h"

#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "check.h"
#include "config.h"
#include "endpoint.h"
#include "input.h"
#include "mem.h"

#define EVENTS_BYTES_MAX ((size_t)LIMIT_EVENT_PATTERNS * (LIMIT_EVENT_TYPE + 4) + 64)

static void read_url(struct input *in, struct webhook_input *ret)
{
    const struct api *api = in->c->api;
    const char *url;
    size_t len;
    struct endpoint e;
    struct err err = {0};
    if (!input_string(in, "url", 1, LIMIT_URL, &url, &len)) {
        return;
    }
    if (!endpoint_parse(url, len, api->cfg->allow_http, api->guard, &e, &err)) {
        call_error_at(in->c, "/url", "%s", err.text);
        return;
    }
    ret->url = e.url, e.url = NULL;
    endpoint_done(&e);
}

static void read_events(struct input *in, struct webhook_input *ret)
{
    const json_t *list;
    if (!input_patterns(in, "events", &list)) {
        return;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *pattern = json_array_get(list, i);
        pgarray_add_bytes(&ret->events, json_string_value(pattern), json_string_length(pattern));
    }
    ret->has_events = true;
}

static void read_secret(struct input *in, struct webhook_input *ret)
{
    const char *text;
    size_t len;
    if (input_string(in, "secret", LIMIT_SECRET_MIN, LIMIT_SECRET, &text, &len)) {
        webhook_secret_set(&ret->secret, text, len);
    }
}

static void read_description(struct input *in, struct webhook_input *ret)
{
    const char *text;
    if (input_text(in, "description", LIMIT_DESCRIPTION, &text)) {
        ret->description = mem_dup(text);
    }
    ret->has_description = input_has(in, "description");
}

bool webhook_input_read(struct call *c, enum webhook_input_kind kind, struct webhook_input *ret)
{
    static const char *const names[] = {"url", "events", "secret", "active", "description", NULL};
    struct input in;
    if (!input_open(&in, c, names)) {
        return false;
    }
    *ret = (struct webhook_input){0};
    pgarray_init(&ret->events, PGARRAY_TEXT, EVENTS_BYTES_MAX);
    for (size_t i = 0; i < 2; i++) { /* url and events */
        (kind == WEBHOOK_CREATE ? input_require : input_refuse_null)(&in, names[i]);
    }
    input_refuse_null(&in, "secret");
    input_refuse_null(&in, "active");
    read_url(&in, ret);
    read_events(&in, ret);
    read_secret(&in, ret);
    ret->has_active = input_bool(&in, "active", &ret->active);
    read_description(&in, ret);
    if (!input_close(&in)) {
        webhook_input_done(ret);
        return false;
    }
    return true;
}

void webhook_input_done(struct webhook_input *in)
{
    free(in->url), in->url = NULL;
    free(in->description), in->description = NULL;
    pgarray_done(&in->events);
    webhook_secret_cleanse(&in->secret);
}
