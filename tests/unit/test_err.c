/* struct err: what a caller that handles an error can rely on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "err.h"

static void setting_replaces_everything_and_returns_false(void **state)
{
    (void)state;
    struct err err = {
        .code = ERR_DB, .retriable = true, .ours = true, .sqlstate = "40001", .text = "old"};
    assert_false(err_set(&err, ERR_INVALID, "url has %d bytes", 7));
    assert_int_equal(err.code, ERR_INVALID);
    assert_false(err.retriable || err.ours);
    assert_string_equal(err.sqlstate, "");
    assert_string_equal(err.text, "url has 7 bytes");
    assert_false(err_set(NULL, ERR_INVALID, "x"));
    assert_false(err_prefix(NULL, "x"));
}

static void a_text_may_be_made_of_itself(void **state)
{
    (void)state;
    struct err err = {.text = "inner"};
    (void)err_set(&err, ERR_IO, "outer (%s)", err.text);
    assert_string_equal(err.text, "outer (inner)");
    err.ours = true;
    assert_false(err_prefix(&err, "file %s", "a"));
    assert_string_equal(err.text, "file a: outer (inner)");
    assert_int_equal(err.code, ERR_IO);
    assert_true(err.ours);
}

static void a_text_is_one_line(void **state)
{
    (void)state;
    struct err err = {0};
    (void)err_set(&err, ERR_DB, "ERROR:  x\nDETAIL:  y\r\n\n");
    assert_string_equal(err.text, "ERROR:  x DETAIL:  y");
}

static void a_long_text_is_cut_at_its_end(void **state)
{
    (void)state;
    char many[1000];
    struct err err = {0};
    memset(many, 'x', sizeof(many) - 1);
    many[sizeof(many) - 1] = '\0';
    (void)err_set(&err, ERR_IO, "%s", many);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    (void)err_prefix(&err, "abc");
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    assert_memory_equal(err.text, "abc: xxx", 8);
    (void)err_prefix(&err, "%s", many);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(setting_replaces_everything_and_returns_false),
        cmocka_unit_test(a_text_may_be_made_of_itself),
        cmocka_unit_test(a_text_is_one_line),
        cmocka_unit_test(a_long_text_is_cut_at_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
