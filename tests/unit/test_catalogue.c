/* What the API tells of itself: the embedded contract is whole, and each event type has its sample.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <string.h>

#include "bounds.h"
#include "catalogue.h"

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    assert_non_null(text);
    return text;
}

static void the_contract_is_json_in_ascii(void **state)
{
    (void)state;
    assert_int_equal(strlen(openapi_json), openapi_json_len);
    for (size_t i = 0; i < openapi_json_len; i++) {
        assert_in_range(openapi_json[i], 0x20, 0x7e); /* compact: no line ends, no NUL inside */
    }
    json_t *document = json_loadb(openapi_json, openapi_json_len, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(document);
    assert_string_equal(text_of(document, "openapi"), "3.1.0");
    assert_non_null(json_object_get(document, "paths"));
    assert_null(json_object_get(document, "x-answers"));
    json_decref(document);
}

static void each_event_type_has_its_sample_in_its_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < EVENT_TYPES_N; i++) {
        const struct event_sample *sample = &event_samples[i];
        assert_string_equal(sample->name, event_types[i].name);
        assert_int_equal(strlen(sample->json), sample->len);
        assert_true(sample->len < LIMIT_EVENT_BYTES);
        json_t *envelope = json_loadb(sample->json, sample->len, JSON_REJECT_DUPLICATES, NULL);
        assert_non_null(envelope);
        assert_string_equal(text_of(envelope, "event"), sample->name);
        assert_true(json_object_size(json_object_get(envelope, "data")) > 0);
        json_decref(envelope);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_contract_is_json_in_ascii),
        cmocka_unit_test(each_event_type_has_its_sample_in_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
