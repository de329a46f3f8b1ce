/* Owns the reading of bodies. Knows no resource; handlers name the members. */
#include "input.h"

#include <string.h>

#include "bounds.h"
#include "buf.h"
#include "check.h"
#include "clock.h"
#include "event_types.h"
#include "pgarray.h"

#define NAME_SHOWN   80 /* bytes */
#define POINTER_SIZE (1 + 2 * NAME_SHOWN + 1)

static bool is_in(const char *const *names, const char *name)
{
    for (; *names != NULL; names++) {
        if (strcmp(*names, name) == 0) {
            return true;
        }
    }
    return false;
}

/* RFC 6901: "~" and "/" of a name are escaped. A name of an outsider may be long: it is cut, but
 * never inside of a character. */
static void pointer_to(const char *name, char out[POINTER_SIZE])
{
    char cut[NAME_SHOWN + 1];
    size_t n = 0;
    (void)pgarray_clean_text(name, strlen(name), cut, sizeof(cut));
    out[n++] = '/';
    for (const char *p = cut; *p != '\0'; p++) {
        if (*p == '~' || *p == '/') {
            out[n++] = '~';
            out[n++] = *p == '~' ? '0' : '1';
        } else {
            out[n++] = *p;
        }
    }
    out[n] = '\0';
}

/* jansson ends its texts with the piece of the body that it stumbled over ("… near '"x"'"). That
 * may be a secret, and who sees answers need not be who sees requests. */
static void not_json(struct call *c, const json_error_t *error)
{
    const char *quote = strstr(error->text, " near '");
    const int len = (int)(quote != NULL ? (size_t)(quote - error->text) : strlen(error->text));
    call_problem(c, PROBLEM_BAD_REQUEST, "the body is not JSON: line %d, column %d: %.*s",
                 error->line, error->column, len, error->text);
}

bool input_open(struct input *in, struct call *c, const char *const *names)
{
    json_error_t error = {0};
    in->c = c;
    in->root = c->body_len == 0 ? json_object()
                                : json_loadb(c->body, c->body_len, JSON_REJECT_DUPLICATES, &error);
    if (in->root == NULL) {
        not_json(c, &error);
        return false;
    }
    if (!json_is_object(in->root)) {
        json_decref(in->root), in->root = NULL;
        call_problem(c, PROBLEM_BAD_REQUEST, "the body must be a JSON object");
        return false;
    }
    const char *name;
    json_t *value;
    json_object_foreach(in->root, name, value)
    {
        if (!is_in(names, name)) {
            char pointer[POINTER_SIZE];
            pointer_to(name, pointer);
            call_error_at(c, pointer, "unknown member");
        }
    }
    return true;
}

static json_t *member(const struct input *in, const char *name)
{
    json_t *v = json_object_get(in->root, name);
    return json_is_null(v) ? NULL : v;
}

/* Our own names: nothing to escape. */
static void note(struct input *in, const char *name, const char *what)
{
    char pointer[POINTER_SIZE];
    pointer_to(name, pointer);
    call_error_at(in->c, pointer, "%s", what);
}

bool input_has(const struct input *in, const char *name)
{
    return json_object_get(in->root, name) != NULL;
}

bool input_is_null(const struct input *in, const char *name)
{
    return json_is_null(json_object_get(in->root, name));
}

bool input_bool(struct input *in, const char *name, bool *ret)
{
    const json_t *v = member(in, name);
    if (v == NULL) {
        return false;
    }
    if (!json_is_boolean(v)) {
        note(in, name, "must be true or false");
        return false;
    }
    *ret = json_is_true(v);
    return true;
}

bool input_int(struct input *in, const char *name, json_int_t min, json_int_t max, json_int_t *ret)
{
    const json_t *v = member(in, name);
    if (v == NULL) {
        return false;
    }
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max) {
        char text[80];
        (void)snprintf(text, sizeof(text), "must be a whole number from %lld to %lld",
                       (long long)min, (long long)max);
        note(in, name, text);
        return false;
    }
    *ret = json_integer_value(v);
    return true;
}

bool input_string(struct input *in, const char *name, size_t min, size_t max, const char **ret,
                  size_t *ret_len)
{
    const json_t *v = member(in, name);
    if (v == NULL) {
        return false;
    }
    if (!json_is_string(v) || json_string_length(v) < min || json_string_length(v) > max) {
        char text[80];
        (void)snprintf(text, sizeof(text), "must be a text of %zu to %zu bytes (UTF-8)", min, max);
        note(in, name, text);
        return false;
    }
    *ret = json_string_value(v);
    *ret_len = json_string_length(v);
    if (strlen(*ret) != *ret_len) { /* jansson refuses \u0000 by itself; this is not its promise */
        note(in, name, "must not contain a NUL");
        return false;
    }
    return true;
}

static size_t characters(const char *utf8)
{
    size_t n = 0;
    for (; *utf8 != '\0'; utf8++) {
        n += ((unsigned char)*utf8 & 0xc0) != 0x80; /* not a continuation */
    }
    return n;
}

bool input_text(struct input *in, const char *name, size_t max, const char **ret)
{
    const json_t *v = member(in, name);
    if (v == NULL) {
        return false;
    }
    const char *text = json_string_value(v);
    if (text == NULL || strlen(text) != json_string_length(v) || characters(text) > max) {
        char what[80];
        (void)snprintf(what, sizeof(what), "must be a text of at most %zu characters", max);
        note(in, name, what);
        return false;
    }
    *ret = text;
    return true;
}

bool input_time(struct input *in, const char *name, int64_t *ret_wall_us)
{
    const json_t *v = member(in, name);
    if (v == NULL) {
        return false;
    }
    if (!json_is_string(v) ||
        !clock_parse_rfc3339(json_string_value(v), json_string_length(v), ret_wall_us)) {
        note(in, name, "must be a time as in \"2026-03-15T10:30:00Z\" (RFC 3339)");
        return false;
    }
    return true;
}

const char *input_choice(struct input *in, const char *name, const char *const *values)
{
    const json_t *v = member(in, name);
    const char *text = v != NULL ? json_string_value(v) : NULL;
    for (size_t i = 0; text != NULL && values[i] != NULL; i++) {
        if (strcmp(text, values[i]) == 0) {
            return values[i];
        }
    }
    if (v != NULL) {
        struct buf what;
        buf_init(&what, 512);
        for (size_t i = 0; values[i] != NULL; i++) {
            buf_add_fmt(&what, "%s%s", i > 0 ? ", " : "must be one of ", values[i]);
        }
        note(in, name, buf_cstr(&what));
        buf_done(&what);
    }
    return NULL;
}

void input_require(struct input *in, const char *name)
{
    if (member(in, name) == NULL) {
        note(in, name, "is required");
    }
}

void input_refuse_null(struct input *in, const char *name)
{
    if (input_is_null(in, name)) {
        note(in, name, "must not be null");
    }
}

static void check_pattern(struct input *in, const char *name, const json_t *list, size_t i)
{
    const json_t *v = json_array_get(list, i);
    const char *text = json_string_value(v);
    char pointer[POINTER_SIZE];
    uint32_t mask;
    (void)snprintf(pointer, sizeof(pointer), "/%s/%zu", name, i);
    if (text == NULL || !event_pattern_mask(text, json_string_length(v), &mask)) {
        call_error_at(in->c, pointer,
                      "must be an event type, \"*\", or a prefix as in \"alert.*\"; GET "
                      "/api/v1/integrations/event-types lists the types");
        return;
    }
    for (size_t j = 0; j < i; j++) {
        if (json_equal(v, json_array_get(list, j))) {
            call_error_at(in->c, pointer, "is there twice");
            return;
        }
    }
}

bool input_patterns(struct input *in, const char *name, const json_t **ret)
{
    const json_t *list = member(in, name);
    if (list == NULL) {
        return false;
    }
    const size_t n = json_array_size(list); /* 0 when it is no array */
    if (n < 1 || n > LIMIT_EVENT_PATTERNS) {
        char text[80];
        (void)snprintf(text, sizeof(text), "must be an array of 1 to %d event types",
                       LIMIT_EVENT_PATTERNS);
        note(in, name, text);
        return false;
    }
    const size_t before = json_array_size(in->c->errors);
    for (size_t i = 0; i < n; i++) {
        check_pattern(in, name, list, i);
    }
    *ret = list;
    return json_array_size(in->c->errors) == before;
}

bool input_close(struct input *in)
{
    json_decref(in->root), in->root = NULL;
    if (in->c->errors == NULL) {
        return true;
    }
    call_invalid(in->c, PROBLEM_INVALID);
    return false;
}
