/* Any bytes as a Kafka message. What is accepted keeps the contract and decodes the same again;
 * what is refused has one of the four reasons and leaves the result alone. */
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "envelope.h"
#include "event_types.h"

#define UNTOUCHED (-77)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check_accepted(const struct envelope *env, const uint8_t *data, size_t len)
{
    struct envelope again;
    const char *reason = NULL;

    CHECK(len > 0 && len <= LIMIT_EVENT_BYTES);
    CHECK(env->type_len == strlen(env->type) && event_name_valid(env->type, env->type_len));
    CHECK(envelope_decode(data, len, &again, &reason, NULL) && reason == NULL);
    CHECK(uuid_equal(&env->id, &again.id) && uuid_equal(&env->tenant_id, &again.tenant_id));
    CHECK(env->timestamp_us == again.timestamp_us && strcmp(env->type, again.type) == 0);
}

static void check_refused(const char *reason, const struct err *err, size_t len)
{
    CHECK(reason != NULL && err->text[0] != '\0' && strlen(err->text) < sizeof(err->text));
    CHECK(err->code == ERR_INVALID || err->code == ERR_LIMIT);
    CHECK((strcmp(reason, ENVELOPE_EMPTY) == 0) == (len == 0));
    CHECK((strcmp(reason, ENVELOPE_TOO_LARGE) == 0) == (len > LIMIT_EVENT_BYTES));
    CHECK(len == 0 || len > LIMIT_EVENT_BYTES || strcmp(reason, ENVELOPE_NOT_JSON) == 0 ||
          strcmp(reason, ENVELOPE_BAD_MEMBER) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct envelope env = {.timestamp_us = UNTOUCHED};
    const char *reason = NULL;
    struct err err = {0};

    if (envelope_decode(data, len, &env, &reason, &err)) {
        CHECK(reason == NULL);
        check_accepted(&env, data, len);
    } else {
        CHECK(env.timestamp_us == UNTOUCHED && env.type_len == 0);
        check_refused(reason, &err, len);
    }
    return 0;
}
