/* A JSON body, strictly: one object, no member twice, none that the request does not know, each of
 * the right type and within its bounds. Everything that is wrong is noted in the call and told in
 * one answer. */
#ifndef NRW_INPUT_H
#define NRW_INPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "call.h"

struct input {
    struct call *c;
    json_t *root; /* an object */
};

/* names: NULL-terminated; any other member is noted. An absent body reads as {}. False: it is no
 * JSON object; answered with 400. Otherwise input_close() is due. */
bool input_open(struct input *in, struct call *c, const char *const *names);

bool input_has(const struct input *in, const char *name); /* also when it is null */
bool input_is_null(const struct input *in, const char *name);
/* Each: false when absent or null, or noted as bad. */
bool input_bool(struct input *in, const char *name, bool *ret);
bool input_int(struct input *in, const char *name, json_int_t min, json_int_t max, json_int_t *ret);
/* min, max: bytes of UTF-8; no NUL. Borrowed until input_close(). */
bool input_string(struct input *in, const char *name, size_t min, size_t max, const char **ret,
                  size_t *ret_len);
/* The same, measured as people do: at most max characters, and there may be none. */
bool input_text(struct input *in, const char *name, size_t max, const char **ret);
bool input_time(struct input *in, const char *name, int64_t *ret_wall_us);
/* One of values (NULL-terminated), as it stands there. NULL when absent or null, or noted as bad.
 */
const char *input_choice(struct input *in, const char *name, const char *const *values);
/* Notes that it is missing (or null). */
void input_require(struct input *in, const char *name);
/* Notes that it is null. */
void input_refuse_null(struct input *in, const char *name);
/* An array of 1 … LIMIT_EVENT_PATTERNS different event patterns (event_types.h). Borrowed. */
bool input_patterns(struct input *in, const char *name, const json_t **ret);

/* Frees the JSON. False: something was noted; answered with 422. */
bool input_close(struct input *in);

#endif
