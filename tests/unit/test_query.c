/* Parameters of addresses: each at most once, none unknown, each within its bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "call_fixture.h"
#include "query.h"

static struct caught caught;

/* The parameters that were noted, or "" and what was read in *ret. */
struct read {
    int64_t number;
    const char *choice; /* a literal, or NULL */
    int64_t when;
    struct page page;
};

static void must_note(const char *query, const char *parameters, struct read *ret)
{
    static const char *const names[] = {"number", "choice", "when", "page", "per_page", NULL};
    static const char *const choices[] = {"one", "two", NULL};
    char found[512] = "";
    size_t n = 0;
    size_t i;
    json_t *error;
    caught_done(&caught);
    *ret = (struct read){0};
    struct call *c = fixture_call(NULL, EVHTTP_REQ_GET, "", 0, query, &caught);
    query_allow(c, names);
    ret->number = query_int(c, "number", 7, 1, 9);
    const char *choice = query_choice(c, "choice", choices);
    ret->choice = choice == NULL ? NULL : strcmp(choice, "one") == 0 ? "one" : "two";
    (void)query_time(c, "when", &ret->when);
    ret->page = query_page(c);
    if (query_ok(c)) {
        call_reply(c, 200, NULL);
    }
    assert_int_equal(caught.answers, 1);
    json_array_foreach(json_object_get(caught.body, "errors"), i, error)
    {
        n += (size_t)snprintf(found + n, sizeof(found) - n, "%s%s", i > 0 ? " " : "",
                              json_string_value(json_object_get(error, "parameter")));
        assert_true(n < sizeof(found));
    }
    if (strcmp(found, parameters) != 0 || caught.status != (*parameters != '\0' ? 400 : 200)) {
        fail_msg("?%s: status %d, \"%s\", wanted \"%s\"", query, caught.status, found, parameters);
    }
}

static void wrong_parameters_are_named(void **state)
{
    static const struct {
        const char *query;
        const char *parameters;
    } rows[] = {
        {"number=1", ""},
        {"number=9", ""},
        {"number=0", "number"},
        {"number=10", "number"},
        {"number=", "number"},
        {"number=+1", "number"},
        {"number=-1", "number"},
        {"number=1.0", "number"},
        {"number=%31", ""},
        {"number=0000000000000000001", "number"},
        {"number=99999999999999999999999", "number"},
        {"choice=two", ""},
        {"choice=Two", "choice"},
        {"choice=", "choice"},
        {"when=2026-03-15T10:30:00Z", ""},
        {"when=2026-03-15T10:30:00%2B01:00", ""},
        {"when=yesterday", "when"},
        {"choice=%ff", "choice choice"}, /* not UTF-8, and none of them */
        {"when=%c3%28", "when when"},
        {"other=%ed%a0%80", "other other"},
        {"page=1&per_page=100", ""},
        {"page=100&per_page=100", ""},
        {"per_page=101", "per_page"},
        {"page=101&per_page=100", "page"},
        {"page=401", "page"}, /* times 25 */
        {"page=400", ""},
        {"page=10001", "page"},
        {"numbre=1", "numbre"},
        {"Number=1", "Number"},
        {"number=1&number=1", "number"},
        {"number=0&choice=x&when=&page=0&per_page=0&y=1", "y number choice when page per_page"},
    };
    struct read got;
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        must_note(rows[i].query, rows[i].parameters, &got);
    }
}

static void right_ones_are_read(void **state)
{
    struct read got;
    (void)state;
    must_note("", "", &got);
    assert_int_equal(got.number, 7);
    assert_null(got.choice);
    assert_int_equal(got.page.page, 1);
    assert_int_equal(got.page.per_page, PAGE_DEFAULT);
    assert_int_equal(got.page.offset, 0);
    must_note("page=3&per_page=10&choice=one&number=2&when=1970-01-01T00:00:01Z", "", &got);
    assert_int_equal(got.number, 2);
    assert_string_equal(got.choice, "one");
    assert_int_equal(got.when, 1000000);
    assert_int_equal(got.page.offset, 20);
}

static void a_request_without_parameters_takes_none(void **state)
{
    (void)state;
    caught_done(&caught);
    assert_false(query_none(fixture_call(NULL, EVHTTP_REQ_GET, "", 0, "a=1&b=2", &caught)));
    assert_int_equal(caught.status, 400);
    caught_done(&caught);
    struct call *c = fixture_call(NULL, EVHTTP_REQ_GET, "", 0, "", &caught);
    assert_true(query_none(c));
    call_reply(c, 204, NULL);
}

static void a_total_is_exact_up_to_the_reach_of_pages(void **state)
{
    static const struct {
        int64_t total;
        json_int_t shown;
        bool capped;
    } rows[] = {{0, 0, false}, {PAGE_REACH, PAGE_REACH, false}, {PAGE_REACH + 1, PAGE_REACH, true}};
    const struct page page = {.page = 2, .per_page = 25, .offset = 25};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        json_t *meta = page_meta(&page, rows[i].total);
        assert_int_equal(json_integer_value(json_object_get(meta, "page")), 2);
        assert_int_equal(json_integer_value(json_object_get(meta, "per_page")), 25);
        assert_int_equal(json_integer_value(json_object_get(meta, "total")), rows[i].shown);
        assert_int_equal(json_is_true(json_object_get(meta, "total_capped")), rows[i].capped);
        json_decref(meta);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_parameters_are_named),
        cmocka_unit_test(right_ones_are_read),
        cmocka_unit_test(a_request_without_parameters_takes_none),
        cmocka_unit_test(a_total_is_exact_up_to_the_reach_of_pages),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    caught_done(&caught);
    return failed;
}
