/* Cursors as they are written and read back: one text for each position, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base64.h"
#include "cursor.h"

#define END_OF_9999 INT64_C(253402300799999999)

static const struct cursor sample = {
    .started_at_us = INT64_C(1773570632518202), /* 2026-03-15T10:30:32.518202Z */
    .delivery_id = {{0x46, 0x80, 0x1c, 0x34, 0xdc, 0x36, 0x58, 0x17, 0x99, 0x56, 0xf9, 0x5e, 0x95,
                     0xc7, 0x5f, 0xcd}},
    .attempt = 2};

static bool same(const struct cursor *a, const struct cursor *b)
{
    return a->started_at_us == b->started_at_us && a->attempt == b->attempt &&
           uuid_equal(&a->delivery_id, &b->delivery_id);
}

static void a_position_has_the_text_of_the_contract(void **state)
{
    (void)state;
    char text[CURSOR_TEXT + 1];
    struct cursor read;
    cursor_format(&sample, text);
    assert_string_equal(text, "AQAGTQ2XiQo6RoAcNNw2WBeZVvlelcdfzQAC"); /* as in openapi.yaml */
    assert_true(cursor_parse(text, CURSOR_TEXT, &read));
    assert_true(same(&read, &sample));
}

static void the_bounds_are_positions_and_time_beyond_them_is_clamped(void **state)
{
    (void)state;
    static const struct {
        int64_t written, read;
        uint16_t attempt;
    } rows[] = {{0, 0, 1},         {END_OF_9999, END_OF_9999, 32767}, {-1, 0, 1},
                {INT64_MIN, 0, 1}, {END_OF_9999 + 1, END_OF_9999, 1}, {INT64_MAX, END_OF_9999, 1}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        const struct cursor c = {.started_at_us = rows[i].written, .attempt = rows[i].attempt};
        char text[CURSOR_TEXT + 1];
        struct cursor read;
        cursor_format(&c, text);
        assert_true(cursor_parse(text, CURSOR_TEXT, &read));
        assert_true(read.started_at_us == rows[i].read && read.attempt == rows[i].attempt);
    }
}

/* A good position with one of its bytes set to something else. */
static bool taken_with(size_t at, unsigned char byte)
{
    unsigned char bytes[CURSOR_BYTES];
    char text[BASE64_SIZE(CURSOR_BYTES)];
    size_t n = 0;
    struct cursor read;
    cursor_format(&sample, text);
    assert_true(base64url_decode(text, CURSOR_TEXT, bytes, sizeof(bytes), &n));
    bytes[at] = byte;
    (void)base64url_encode(bytes, sizeof(bytes), text);
    return cursor_parse(text, strlen(text), &read);
}

static void what_is_no_position_is_refused(void **state)
{
    (void)state;
    static const char good[] = "AQAGTQ2XiQo6RoAcNNw2WBeZVvlelcdfzQAC";
    static const char *const bad[] = {"",
                                      "A",
                                      "null",
                                      "AQAGTQ2XiQo6RoAcNNw2WBeZVvlelcdfzQA",
                                      "AQAGTQ2XiQo6RoAcNNw2WBeZVvlelcdfzQACA",
                                      "AQAGTQ2XiQo6RoAcNNw2WBeZVvlelcdfzQA=",
                                      "AQAGTQ2XiQo6RoAcNNw2WBeZVvlelcdfzQA+",
                                      "AQAGTQ2XiQo6RoAcNNw2WBeZVvlelcdfzQ C"};
    struct cursor read = {.attempt = 99};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_false(cursor_parse(bad[i], strlen(bad[i]), &read));
    }
    for (size_t len = 0; len < CURSOR_TEXT; len++) {
        assert_false(cursor_parse(good, len, &read));
    }
    assert_false(taken_with(0, 0) || taken_with(0, 2));       /* version */
    assert_false(taken_with(1, 0x80) || taken_with(1, 0x04)); /* time */
    assert_false(taken_with(25, 0x80));                       /* attempt 32770 */
    assert_false(taken_with(26, 0));                          /* attempt 0 */
    assert_int_equal(read.attempt, 99);
    assert_true(taken_with(26, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_position_has_the_text_of_the_contract),
        cmocka_unit_test(the_bounds_are_positions_and_time_beyond_them_is_clamped),
        cmocka_unit_test(what_is_no_position_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
