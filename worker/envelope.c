/* Decides whether a Kafka message is an event. Parsing is jansson's, and json_scan's for what is
 * plainly right; this file owns only the contract of the five members. Called by intake once per
 * message. */
#include "envelope.h"

#include <jansson.h>
#include <string.h>

#include "clock.h"
#include "event_types.h"
#include "json_scan.h"

/* A string member, or NULL with err set. */
static const char *string_member(const json_t *root, const char *name, size_t *ret_len,
                                 struct err *err)
{
    const json_t *v = json_object_get(root, name);
    if (v == NULL) {
        err_set(err, ERR_INVALID, "member \"%s\" is missing", name);
        return NULL;
    }
    if (!json_is_string(v)) {
        err_set(err, ERR_INVALID, "member \"%s\" is not a string", name);
        return NULL;
    }
    *ret_len = json_string_length(v);
    return json_string_value(v);
}

static bool uuid_member(const json_t *root, const char *name, struct uuid *ret, struct err *err)
{
    size_t len = 0;
    const char *s = string_member(root, name, &len, err);
    if (s == NULL) {
        return false;
    }
    if (!uuid_parse(s, len, ret)) {
        return err_set(err, ERR_INVALID, "member \"%s\" is not a UUID: \"%.60s\"", name, s);
    }
    return true;
}

static bool decode_members(const json_t *root, struct envelope *out, struct err *err)
{
    if (!json_is_object(root)) {
        return err_set(err, ERR_INVALID, "the event is not a JSON object");
    }
    if (!uuid_member(root, "id", &out->id, err) ||
        !uuid_member(root, "tenant_id", &out->tenant_id, err)) {
        return false;
    }
    size_t len = 0;
    const char *s = string_member(root, "event", &len, err);
    if (s == NULL) {
        return false;
    }
    if (!event_name_valid(s, len)) {
        return err_set(err, ERR_INVALID, "member \"event\" is not an event name: \"%.60s\"", s);
    }
    memcpy(out->type, s, len + 1);
    out->type_len = len;

    s = string_member(root, "timestamp", &len, err);
    if (s == NULL) {
        return false;
    }
    if (!clock_parse_rfc3339(s, len, &out->timestamp_us)) {
        return err_set(err, ERR_INVALID, "member \"timestamp\" is not an RFC 3339 time: \"%.60s\"",
                       s);
    }
    if (!json_is_object(json_object_get(root, "data"))) {
        return err_set(err, ERR_INVALID, "member \"data\" is missing or not an object");
    }
    return true;
}

static const struct json_member *find(const struct json_member *members, size_t n, const char *name,
                                      enum json_scan_kind kind)
{
    const size_t len = strlen(name);
    for (size_t i = 0; i < n; i++) {
        if (members[i].name_len == len && memcmp(members[i].name, name, len) == 0) {
            return members[i].kind == kind ? &members[i] : NULL;
        }
    }
    return NULL;
}

/* False: undecided. Only jansson's way refuses, and it knows what to say. */
static bool decode_plain(const char *body, size_t len, struct envelope *out)
{
    struct json_member all[JSON_SCAN_MEMBERS];
    size_t n = 0;
    if (!json_scan(body, len, all, &n)) {
        return false;
    }
    const struct json_member *id = find(all, n, "id", JSON_SCAN_STRING);
    const struct json_member *tenant = find(all, n, "tenant_id", JSON_SCAN_STRING);
    const struct json_member *type = find(all, n, "event", JSON_SCAN_STRING);
    const struct json_member *time = find(all, n, "timestamp", JSON_SCAN_STRING);
    if (id == NULL || tenant == NULL || type == NULL || time == NULL ||
        find(all, n, "data", JSON_SCAN_OBJECT) == NULL ||
        !uuid_parse(id->value, id->value_len, &out->id) ||
        !uuid_parse(tenant->value, tenant->value_len, &out->tenant_id) ||
        !event_name_valid(type->value, type->value_len) ||
        !clock_parse_rfc3339(time->value, time->value_len, &out->timestamp_us)) {
        return false;
    }
    memcpy(out->type, type->value, type->value_len);
    out->type[type->value_len] = '\0';
    out->type_len = type->value_len;
    return true;
}

bool envelope_decode(const void *body, size_t len, struct envelope *ret, const char **ret_reason,
                     struct err *err)
{
    if (body == NULL || len == 0) {
        *ret_reason = ENVELOPE_EMPTY;
        return err_set(err, ERR_INVALID, "the message has no value");
    }
    if (len > LIMIT_EVENT_BYTES) {
        *ret_reason = ENVELOPE_TOO_LARGE;
        return err_set(err, ERR_LIMIT, "%zu bytes, at most %u are allowed", len, LIMIT_EVENT_BYTES);
    }
    struct envelope out;
    if (decode_plain(body, len, &out)) {
        *ret = out;
        return true;
    }
    /* Integers are read as doubles because only their validity matters here: a 40-digit number is
     * fine. Duplicates are refused: two readers could see two different events under one signature.
     */
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL;
    json_error_t why;
    json_t *root = json_loadb(body, len, flags, &why);
    if (root == NULL) {
        *ret_reason = ENVELOPE_NOT_JSON;
        return err_set(err, ERR_INVALID, "byte %d: %s", why.position, why.text);
    }
    const bool ok = decode_members(root, &out, err);
    json_decref(root);
    if (!ok) {
        *ret_reason = ENVELOPE_BAD_MEMBER;
        return false;
    }
    *ret = out;
    return true;
}
