/* struct buf: bounds, stickiness, PostgreSQL's byte order, and JSON strings out of arbitrary bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"

static void overflow_is_sticky_and_keeps_a_clean_beginning(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 10);
    buf_add_str(&b, "12345678");
    buf_add_str(&b, "abc"); /* 11 bytes: does not fit */
    buf_add_str(&b, "x");   /* would fit, but there is a hole before it */
    buf_add_fmt(&b, "%d", 1);
    assert_false(buf_ok(&b));
    assert_null(buf_extend(&b, 1));
    assert_int_equal(b.len, 8);
    assert_memory_equal(b.data, "12345678", 8);
    assert_string_equal(buf_cstr(&b), "");
    buf_reset(&b);
    assert_true(buf_ok(&b));
    buf_add_str(&b, "0123456789");
    assert_true(buf_ok(&b));
    assert_string_equal(buf_cstr(&b), "0123456789");
    buf_done(&b);
}

static void exactly_max_fits_and_one_more_does_not(void **state)
{
    (void)state;
    static char bytes[100001];
    memset(bytes, 'a', sizeof(bytes));
    struct buf b;
    for (int one_by_one = 0; one_by_one < 2; one_by_one++) {
        buf_init(&b, 100000);
        if (one_by_one) {
            for (size_t i = 0; i < 100000; i++) {
                buf_add(&b, bytes, 1);
            }
        } else {
            buf_add(&b, bytes, 100000);
        }
        assert_true(buf_ok(&b));
        assert_int_equal(strlen(buf_cstr(&b)), 100000);
        buf_add(&b, bytes, 1);
        assert_false(buf_ok(&b));
        buf_done(&b);
    }
    buf_init(&b, 100000);
    buf_add(&b, bytes, 100001);
    assert_false(buf_ok(&b));
    assert_int_equal(b.len, 0);
    buf_done(&b);
}

static void an_empty_buffer_reads_as_the_empty_string(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 0);
    assert_string_equal(buf_cstr(&b), "");
    buf_add(&b, NULL, 0);
    buf_add_str(&b, "");
    buf_add_fmt(&b, "%s", "");
    assert_true(buf_ok(&b));
    assert_string_equal(buf_cstr(&b), "");
    buf_add_fmt(&b, "%d", 7);
    assert_false(buf_ok(&b));
    buf_done(&b);
    buf_done(&b); /* twice is harmless */
}

static void formatted_text_of_any_length_is_whole_or_absent(void **state)
{
    (void)state;
    for (int width = 1; width < 1200; width++) {
        struct buf b;
        buf_init(&b, 1000);
        buf_add_str(&b, "ab");
        buf_add_fmt(&b, "%*d", width, 5);
        assert_int_equal(buf_ok(&b), width <= 998);
        assert_int_equal(b.len, width <= 998 ? 2 + width : 2);
        if (buf_ok(&b)) {
            assert_int_equal(b.data[b.len - 1], '5');
            assert_int_equal(strlen(buf_cstr(&b)), 2 + width);
        }
        buf_done(&b);
    }
}

static void extended_room_can_be_written_whole(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    for (int i = 0; i < 10; i++) {
        char *at = buf_extend(&b, 100);
        assert_non_null(at);
        memset(at, 'a' + i, 100);
    }
    assert_null(buf_extend(&b, 1));
    assert_int_equal(b.len, 1000);
    assert_int_equal(b.data[0], 'a');
    assert_int_equal(b.data[999], 'j');
    buf_done(&b);
}

static void integers_are_big_endian(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 14);
    buf_add_be16(&b, 0x0102);
    buf_add_be32(&b, 0xf3040506);
    buf_add_be64(&b, UINT64_C(0xf708090a0b0c0d0e));
    assert_true(buf_ok(&b));
    assert_memory_equal(b.data, "\x01\x02\xf3\x04\x05\x06\xf7\x08\x09\x0a\x0b\x0c\x0d\x0e", 14);
    buf_done(&b);
}

#define FFFD "\xef\xbf\xbd"
static const struct {
    const char *name;
    const char *in;
    const char *out;
} json_rows[] = {
    {"empty", "", "\"\""},
    {"plain", "scan.completed", "\"scan.completed\""},
    {"quote and backslash", "a\"b\\c/", "\"a\\\"b\\\\c/\""},
    {"short escapes", "\b\f\n\r\t", "\"\\b\\f\\n\\r\\t\""},
    {"other controls", "\x01\x1f\x7f", "\"\\u0001\\u001f\x7f\""},
    {"two, three, four bytes", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x94\x91",
     "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x94\x91\""},
    {"edges of each length",
     "\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf",
     "\"\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\""},
    {"around the surrogates", "\xed\x9f\xbf\xee\x80\x80", "\"\xed\x9f\xbf\xee\x80\x80\""},
    {"lone continuation", "a\x80z", "\"a" FFFD "z\""},
    {"overlong slash, two bytes", "\xc0\xaf", "\"" FFFD FFFD "\""},
    {"overlong, three bytes", "\xe0\x9f\xbf", "\"" FFFD FFFD FFFD "\""},
    {"overlong, four bytes", "\xf0\x8f\xbf\xbf", "\"" FFFD FFFD FFFD FFFD "\""},
    {"surrogate U+D800", "\xed\xa0\x80", "\"" FFFD FFFD FFFD "\""},
    {"surrogate U+DFFF", "\xed\xbf\xbf", "\"" FFFD FFFD FFFD "\""},
    {"U+110000", "\xf4\x90\x80\x80", "\"" FFFD FFFD FFFD FFFD "\""},
    {"0xf5, 0xfe, 0xff", "\xf5\xfe\xff", "\"" FFFD FFFD FFFD "\""},
    {"cut after two of three: one mark", "\xe2\x82z", "\"" FFFD "z\""},
    {"cut after three of four: one mark", "\xf0\x9f\x94", "\"" FFFD "\""},
    {"cut by a quote", "\xe2\"", "\"" FFFD "\\\"\""},
    {"cut by another lead", "\xe2\x82\xc3\xa9", "\"" FFFD "\xc3\xa9\""},
};

static void json_strings_are_right_for_every_kind_of_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(json_rows) / sizeof(*json_rows); i++) {
        struct buf b;
        buf_init(&b, 200);
        size_t len = strlen(json_rows[i].in);
        char *exact =
            malloc(len > 0 ? len : 1); /* so that the sanitizer sees a read past the end */
        assert_non_null(exact);
        memcpy(exact, json_rows[i].in, len);
        buf_add_json_string(&b, exact, len);
        if (strcmp(buf_cstr(&b), json_rows[i].out) != 0) {
            fail_msg("%s: got %s", json_rows[i].name, buf_cstr(&b));
        }
        free(exact);
        buf_done(&b);
    }
}

static void a_nul_inside_a_json_string_is_escaped(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 200);
    buf_add_json_string(&b, "a\0b", 3);
    assert_string_equal(buf_cstr(&b), "\"a\\u0000b\"");
    buf_done(&b);
}

/* jansson refuses invalid UTF-8 and raw controls: an independent judge for all 1-, 2- and many
 * 4-byte inputs. */
static void a_json_parser_accepts_what_any_bytes_became(void **state)
{
    (void)state;
    uint32_t x = 12345;
    for (unsigned i = 0; i < 100000; i++) {
        char in[4];
        x = x * 1664525 + 1013904223;
        uint32_t v = i < 65536 ? i : (x | 0xc0000000); /* lead bytes in front, mostly */
        in[0] = (char)(i < 65536 ? v >> 8 : v >> 24);
        in[1] = (char)(i < 65536 ? v : v >> 16);
        in[2] = (char)((v >> 8 & 0x3f) | 0x80);
        in[3] = (char)((v & 0x3f) | 0x80);
        struct buf b;
        buf_init(&b, 200);
        buf_add_json_string(&b, in, i < 65536 ? 2 : 4);
        json_error_t why;
        json_t *j = json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
        if (j == NULL) {
            fail_msg("%08x: %s", v, why.text);
        }
        json_decref(j);
        buf_done(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overflow_is_sticky_and_keeps_a_clean_beginning),
        cmocka_unit_test(exactly_max_fits_and_one_more_does_not),
        cmocka_unit_test(an_empty_buffer_reads_as_the_empty_string),
        cmocka_unit_test(formatted_text_of_any_length_is_whole_or_absent),
        cmocka_unit_test(extended_room_can_be_written_whole),
        cmocka_unit_test(integers_are_big_endian),
        cmocka_unit_test(json_strings_are_right_for_every_kind_of_byte),
        cmocka_unit_test(a_nul_inside_a_json_string_is_escaped),
        cmocka_unit_test(a_json_parser_accepts_what_any_bytes_became),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
