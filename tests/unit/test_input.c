/* JSON bodies: what is noted, where, and that it is told in one answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "call_fixture.h"
#include "input.h"

static const char *const names[] = {"flag", "number", "word",   "words",
                                    "when", "color",  "events", NULL};
static const char *const colors[] = {"red", "blue", NULL};

static struct caught caught;

/* Reads all members, as a handler would, and answers 200 when nothing was noted. */
static void read_all(const char *body, size_t len)
{
    caught_done(&caught);
    struct call *c = fixture_call(NULL, EVHTTP_REQ_POST, body, len, "", &caught);
    struct input in;
    bool flag;
    json_int_t number;
    const char *text;
    size_t text_len;
    int64_t when;
    const char *color;
    const json_t *list;
    if (!input_open(&in, c, names)) {
        return;
    }
    (void)input_bool(&in, "flag", &flag);
    (void)input_int(&in, "number", -1, 10, &number);
    (void)input_string(&in, "word", 2, 4, &text, &text_len);
    (void)input_text(&in, "words", 3, &text);
    (void)input_time(&in, "when", &when);
    color = input_choice(&in, "color", colors);
    assert_true(color == NULL || color == colors[0] || color == colors[1]);
    (void)input_patterns(&in, "events", &list);
    if (input_close(&in)) {
        call_reply(c, 200, NULL);
    }
}

/* places: the pointers of the answer's errors, in their order, separated by blanks. */
static void must_note(const char *body, const char *places)
{
    char found[1024] = "";
    size_t n = 0;
    size_t i;
    json_t *error;
    read_all(body, strlen(body));
    assert_int_equal(caught.answers, 1);
    json_array_foreach(json_object_get(caught.body, "errors"), i, error)
    {
        n += (size_t)snprintf(found + n, sizeof(found) - n, "%s%s", i > 0 ? " " : "",
                              json_string_value(json_object_get(error, "pointer")));
        assert_true(n < sizeof(found));
    }
    if (strcmp(found, places) != 0 || caught.status != (*places != '\0' ? 422 : 200)) {
        fail_msg("%s: status %d, \"%s\", wanted \"%s\"", body, caught.status, found, places);
    }
}

static void each_type_has_its_bounds(void **state)
{
    static const struct {
        const char *body;
        const char *places;
    } rows[] = {
        {"{}", ""},
        {"{\"flag\":null,\"number\":null,\"word\":null,\"words\":null,\"when\":null,\"events\":"
         "null}",
         ""},
        {"{\"flag\":true}", ""},
        {"{\"flag\":0}", "/flag"},
        {"{\"flag\":\"true\"}", "/flag"},
        {"{\"number\":-1}", ""},
        {"{\"number\":10}", ""},
        {"{\"number\":-2}", "/number"},
        {"{\"number\":11}", "/number"},
        {"{\"number\":1.0}", "/number"},
        {"{\"number\":9223372036854775807}", "/number"},
        {"{\"number\":\"1\"}", "/number"},
        {"{\"word\":\"ab\"}", ""},
        {"{\"word\":\"abcd\"}", ""},
        {"{\"word\":\"a\"}", "/word"},
        {"{\"word\":\"abcde\"}", "/word"},
        {"{\"word\":\"\xc3\xa9\xc3\xa9\"}", ""}, /* bytes count */
        {"{\"word\":\"\xc3\xa9\xc3\xa9x\"}", "/word"},
        {"{\"word\":[\"ab\"]}", "/word"},
        {"{\"words\":\"\"}", ""},
        {"{\"words\":\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x94\x91\"}", ""}, /* characters count */
        {"{\"words\":\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x94\x91x\"}", "/words"},
        {"{\"words\":3}", "/words"},
        {"{\"when\":\"2026-03-15T10:30:00+01:00\"}", ""},
        {"{\"when\":\"2026-03-15\"}", "/when"},
        {"{\"when\":1}", "/when"},
        {"{\"color\":\"red\"}", ""},
        {"{\"color\":\"blue\"}", ""},
        {"{\"color\":\"Blue\"}", "/color"},
        {"{\"color\":\"\"}", "/color"},
        {"{\"color\":[\"red\"]}", "/color"},
        {"{\"events\":[\"*\",\"alert.*\",\"scan.failed\"]}", ""},
        {"{\"events\":[]}", "/events"},
        {"{\"events\":\"*\"}", "/events"},
        {"{\"events\":[\"alert.created\",\"nothing\",null,\"alert.created\"]}",
         "/events/1 /events/2 /events/3"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        must_note(rows[i].body, rows[i].places);
    }
}

static void all_errors_are_told_at_once(void **state)
{
    (void)state;
    must_note("{\"x\":1,\"flag\":1,\"number\":true,\"word\":\"\",\"words\":[],\"when\":\"\","
              "\"events\":{}}",
              "/x /flag /number /word /words /when /events");
    assert_non_null(strstr(json_string_value(json_object_get(caught.body, "detail")), "7 errors"));
}

static void pointers_escape_and_cut_names(void **state)
{
    char body[1024];
    (void)state;
    must_note("{\"a/b~c\":1}", "/a~1b~0c");
    must_note("{\"\":1}", "/");
    for (int lead = 0; lead < 4; lead++) { /* a cut at each byte of a character */
        const int n = snprintf(body, sizeof(body), "{\"%.*s", lead, "xxxx");
        size_t len = (size_t)n;
        for (int i = 0; i < 60; i++) {
            len += (size_t)snprintf(body + len, sizeof(body) - len, "\xf0\x9f\x94\x91");
        }
        (void)snprintf(body + len, sizeof(body) - len, "\":1}");
        read_all(body, strlen(body));
        assert_int_equal(caught.status, 422);
    }
}

static void what_is_no_object_is_refused_without_quoting_it(void **state)
{
    static const char *const bodies[] = {"[]",
                                         "1",
                                         "\"s3cret\"",
                                         "null",
                                         "{",
                                         "{\"word\" \"s3cret\"}",
                                         "{\"word\":\"s3cret}",
                                         "{\"word\":s3cret}",
                                         "{\"s3cret\":1,\"s3cret\":2}",
                                         "{} s3cret",
                                         "\xff"};
    (void)state;
    for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++) {
        read_all(bodies[i], strlen(bodies[i]));
        assert_int_equal(caught.status, 400);
        char *text = json_dumps(caught.body, 0);
        assert_non_null(text);
        assert_null(strstr(text, "s3cret"));
        free(text);
    }
    read_all("{}\0", 3);
    assert_int_equal(caught.status, 400);
}

static void a_missing_body_is_an_empty_object(void **state)
{
    (void)state;
    must_note("", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_type_has_its_bounds),
        cmocka_unit_test(all_errors_are_told_at_once),
        cmocka_unit_test(pointers_escape_and_cut_names),
        cmocka_unit_test(what_is_no_object_is_refused_without_quoting_it),
        cmocka_unit_test(a_missing_body_is_an_empty_object),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    caught_done(&caught);
    return failed;
}
