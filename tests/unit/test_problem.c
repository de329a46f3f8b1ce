/* Problems: each can be answered, and is told apart by its type. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "call_fixture.h"
#include "problem.h"

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    assert_non_null(text);
    return text;
}

static void every_problem_can_be_answered(void **state)
{
    const char *types[PROBLEMS_N];
    json_t *bodies[PROBLEMS_N];
    (void)state;
    for (int p = 0; p < PROBLEMS_N; p++) {
        struct caught caught = {0};
        struct call *c = fixture_call(NULL, EVHTTP_REQ_GET, "", 0, "", &caught);
        char id[CALL_REQUEST_ID + 1];
        memcpy(id, c->request_id, sizeof(id));
        call_problem(c, (enum problem)p, "what happened is %d", 7);
        assert_int_equal(caught.answers, 1);
        assert_int_equal(caught.status, problem_status((enum problem)p));
        assert_in_range(caught.status, 400, 599);
        assert_int_equal(json_integer_value(json_object_get(caught.body, "status")), caught.status);
        assert_string_equal(text_of(caught.body, "detail"), "what happened is 7");
        assert_string_equal(text_of(caught.body, "request_id"), id);
        assert_true(*text_of(caught.body, "title") != '\0');
        assert_null(json_object_get(caught.body, "errors"));
        bodies[p] = caught.body;
        types[p] = text_of(caught.body, "type");
        assert_int_equal(strncmp(types[p], "/problems/", 10), 0);
        for (int other = 0; other < p; other++) {
            assert_string_not_equal(types[p], types[other]);
        }
    }
    for (int p = 0; p < PROBLEMS_N; p++) {
        json_decref(bodies[p]);
    }
}

/* Each of these would be no text for JSON. */
static void an_outsiders_bytes_become_text(void **state)
{
    struct caught caught = {0};
    (void)state;
    struct call *c = fixture_call(NULL, EVHTTP_REQ_GET, "", 0, "", &caught);
    call_error_param(c, "a\xff\n", "it is %s", "\xc3");
    call_error_at(c, "/\xed\xa0\x80", "and %s", "\xe2\x82");
    call_invalid(c, PROBLEM_INVALID);
    const json_t *errors = json_object_get(caught.body, "errors");
    assert_int_equal(json_array_size(errors), 2);
    assert_string_equal(text_of(json_array_get(errors, 0), "parameter"), "a\xef\xbf\xbd ");
    assert_string_equal(text_of(json_array_get(errors, 0), "detail"), "it is \xef\xbf\xbd");
    assert_string_equal(text_of(caught.body, "detail"), "2 errors; the first: it is \xef\xbf\xbd");
    caught_done(&caught);
}

static void a_flood_of_errors_is_cut(void **state)
{
    struct caught caught = {0};
    (void)state;
    struct call *c = fixture_call(NULL, EVHTTP_REQ_GET, "", 0, "", &caught);
    for (int i = 0; i < 101; i++) {
        call_error_param(c, "x", "error %d", i);
    }
    call_invalid(c, PROBLEM_BAD_REQUEST);
    assert_int_equal(json_array_size(json_object_get(caught.body, "errors")), 100);
    caught_done(&caught);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_problem_can_be_answered),
        cmocka_unit_test(an_outsiders_bytes_become_text),
        cmocka_unit_test(a_flood_of_errors_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
