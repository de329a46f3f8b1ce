/* Arrays and scalars in PostgreSQL's binary format, byte by byte; test_journal proves against a
 * server that it reads them so. */
#include "pgarray.h"

#include "worker_fixture.h"

#define MAX_BYTES 4096

static void expect_bytes(struct pgarray *a, Oid type, const char *bytes, size_t len)
{
    const struct pg_param p = pgarray_param(a);
    assert_int_equal(type, p.type);
    assert_true(p.binary);
    assert_int_equal(len, p.len);
    assert_memory_equal(bytes, p.data, len);
}
#define EXPECT_BYTES(a, type, literal) expect_bytes(a, type, literal, sizeof(literal) - 1)

/* dimensions, has-null flag, element type, length, lower bound */
#define HEAD(null, oid, n) "\0\0\0\1\0\0\0" null oid n "\0\0\0\1"

static void each_type_has_its_encoding(void **state)
{
    (void)state;
    struct pgarray a;
    pgarray_init(&a, PGARRAY_INT2, MAX_BYTES);
    pgarray_add_int(&a, -2);
    pgarray_add_int(&a, INT16_MAX);
    EXPECT_BYTES(&a, 1005, HEAD("\0", "\0\0\0\x15", "\0\0\0\2") "\0\0\0\2\xff\xfe\0\0\0\2\x7f\xff");
    pgarray_done(&a);

    pgarray_init(&a, PGARRAY_INT4, MAX_BYTES);
    pgarray_add_int(&a, INT32_MIN);
    EXPECT_BYTES(&a, 1007, HEAD("\0", "\0\0\0\x17", "\0\0\0\1") "\0\0\0\4\x80\0\0\0");
    pgarray_done(&a);

    pgarray_init(&a, PGARRAY_INT8, MAX_BYTES);
    pgarray_add_int(&a, INT64_C(0x0102030405060708));
    EXPECT_BYTES(&a, 1016, HEAD("\0", "\0\0\0\x14", "\0\0\0\1") "\0\0\0\10\1\2\3\4\5\6\7\10");
    pgarray_done(&a);

    pgarray_init(&a, PGARRAY_TIME, MAX_BYTES);
    pgarray_add_time(&a, INT64_C(946684800000001)); /* 2000-01-01 and a microsecond */
    pgarray_add_time(&a, INT64_C(946684799999999));
    EXPECT_BYTES(&a, 1185,
                 HEAD("\0", "\0\0\4\xa0", "\0\0\0\2") "\0\0\0\10\0\0\0\0\0\0\0\1\0\0\0\10\xff\xff"
                                                      "\xff\xff\xff\xff\xff\xff");
    pgarray_done(&a);

    const struct uuid id = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};
    pgarray_init(&a, PGARRAY_UUID, MAX_BYTES);
    pgarray_add_uuid(&a, &id);
    EXPECT_BYTES(&a, 2951,
                 HEAD("\0", "\0\0\x0b\x86", "\0\0\0\1") "\0\0\0\20\1\2\3\4\5\6\7\10\11\12\13\14\15"
                                                        "\16\17\20");
    pgarray_done(&a);

    pgarray_init(&a, PGARRAY_TEXT, MAX_BYTES);
    pgarray_add_bytes(&a, "ab", 2);
    EXPECT_BYTES(&a, 1009, HEAD("\0", "\0\0\0\x19", "\0\0\0\1") "\0\0\0\2ab");
    pgarray_done(&a);
}

static void any_bytes_and_null_are_different_things(void **state)
{
    (void)state;
    struct pgarray a;
    pgarray_init(&a, PGARRAY_BYTEA, MAX_BYTES);
    pgarray_add_bytes(&a, "\0\xff", 2);
    pgarray_add_null(&a);
    pgarray_add_bytes(&a, "", 0);
    EXPECT_BYTES(&a, 1001,
                 HEAD("\1", "\0\0\0\x11", "\0\0\0\3") "\0\0\0\2\0\xff\xff\xff\xff\xff\0\0\0\0");
    pgarray_done(&a);
}

static void an_array_is_used_again_after_a_reset(void **state)
{
    (void)state;
    struct pgarray a;
    pgarray_init(&a, PGARRAY_INT4, MAX_BYTES);
    pgarray_add_null(&a);
    (void)pgarray_param(&a);
    pgarray_add_int(&a, 1); /* may go on after the parameter was taken */
    EXPECT_BYTES(&a, 1007, HEAD("\1", "\0\0\0\x17", "\0\0\0\2") "\xff\xff\xff\xff\0\0\0\4\0\0\0\1");
    pgarray_reset(&a);
    assert_int_equal(0, a.n);
    EXPECT_BYTES(&a, 1007, HEAD("\0", "\0\0\0\x17", "\0\0\0\0"));
    pgarray_done(&a);
}

/* --- results --- */

static PGresult *result_of(char *value, int len)
{
    PGresult *r = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    PGresAttDesc column = {.name = (char[]){"c"}, .format = 1};
    assert_int_equal(1, PQsetResultAttrs(r, 1, &column));
    assert_int_equal(1, PQsetvalue(r, 0, 0, value, len));
    return r;
}

static void scalars_are_read_back(void **state)
{
    (void)state;
    PGresult *r = result_of((char[]){"\xff\xff\xff\xff\xff\xff\xff\xfe"}, 8);
    assert_int_equal(-2, pgvalue_int8(r, 0, 0));
    assert_int_equal(INT64_C(946684799999998), pgvalue_time_us(r, 0, 0));
    PQclear(r);
    r = result_of((char[]){"0123456789abcdef"}, 16);
    const struct uuid id = pgvalue_uuid(r, 0, 0);
    assert_memory_equal("0123456789abcdef", id.b, 16);
    PQclear(r);
    r = result_of((char[]){"\1"}, 1);
    assert_true(pgvalue_bool(r, 0, 0));
    PQclear(r);
    r = result_of((char[]){"\0"}, 1);
    assert_false(pgvalue_bool(r, 0, 0));
    PQclear(r);
}

static void read_null(void)
{
    (void)pgvalue_int8(result_of(NULL, -1), 0, 0);
}

static void read_int4_as_int8(void)
{
    (void)pgvalue_int8(result_of((char[]){"\0\0\0\1"}, 4), 0, 0);
}

static void add_int_beyond_int2(void)
{
    struct pgarray a;
    pgarray_init(&a, PGARRAY_INT2, MAX_BYTES);
    pgarray_add_int(&a, INT16_MAX + 1);
}

static void add_int_beyond_int4(void)
{
    struct pgarray a;
    pgarray_init(&a, PGARRAY_INT4, MAX_BYTES);
    pgarray_add_int(&a, (int64_t)INT32_MIN - 1);
}

static void add_uuid_to_text(void)
{
    const struct uuid id = {{0}};
    struct pgarray a;
    pgarray_init(&a, PGARRAY_TEXT, MAX_BYTES);
    pgarray_add_uuid(&a, &id);
}

static void use_an_overflown_array(void)
{
    static const char data[MAX_BYTES];
    struct pgarray a;
    pgarray_init(&a, PGARRAY_BYTEA, MAX_BYTES);
    pgarray_add_bytes(&a, data, sizeof(data));
    (void)pgarray_param(&a);
}

static void a_wrong_type_or_range_is_a_bug(void **state)
{
    (void)state;
    assert_aborts(read_null);
    assert_aborts(read_int4_as_int8);
    assert_aborts(add_int_beyond_int2);
    assert_aborts(add_int_beyond_int4);
    assert_aborts(add_uuid_to_text);
    assert_aborts(use_an_overflown_array);
}

/* --- text of outsiders --- */

#define FFFD "\xef\xbf\xbd"

static const struct {
    const char *name;
    const char *in;
    size_t len;
    const char *out;
} texts[] = {
    {"plain", "connection refused", 18, "connection refused"},
    {"empty", "", 0, ""},
    {"two, three, four bytes", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9,
     "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
    {"the ends of the forms",
     "\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf", 17,
     "\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf"},
    {"NUL", "a\0b", 3, "a b"},
    {"controls", "a\r\n\t\x1b[2J\x7f", 9, "a    [2J "},
    {"Latin-1", "caf\xe9!", 5, "caf" FFFD "!"},
    {"overlong", "\xc0\xaf\xc1\xbf", 4, FFFD FFFD FFFD FFFD},
    {"overlong of three", "\xe0\x9f\xbf", 3, FFFD FFFD FFFD},
    {"surrogate", "\xed\xa0\x80", 3, FFFD FFFD FFFD},
    {"beyond U+10FFFF", "\xf4\x90\x80\x80", 4, FFFD FFFD FFFD FFFD},
    {"bytes that never occur", "\xf5\xff\xfe", 3, FFFD FFFD FFFD},
    {"cut in a character", "ok\xf0\x9f\x98", 5, "ok" FFFD FFFD FFFD},
    {"lone continuation", "\x80x", 2, FFFD "x"},
    {"broken off by ASCII", "\xe2\x82x", 3, FFFD FFFD "x"},
    {"third byte wrong", "\xf0\x9f\x41\x80", 4, FFFD FFFD "A" FFFD},
};

static void hostile_text_becomes_valid_utf8_without_controls(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        char *in = malloc(texts[i].len + 1); /* of its own size: AddressSanitizer watches */
        assert_non_null(in);
        char *tight = memcpy(in + 1, texts[i].in, texts[i].len);
        char out[64];
        const size_t n = pgarray_clean_text(tight, texts[i].len, out, sizeof(out));
        if (n != strlen(texts[i].out) || strcmp(out, texts[i].out) != 0) {
            fail_msg("%s: \"%s\"", texts[i].name, out);
        }
        free(in);
    }
}

static void a_text_is_cut_between_characters(void **state)
{
    (void)state;
    static const char in[] = "ab\xf0\x9f\x98\x80\xc3\xa9";
    static const size_t lens[] = {0, 0, 1, 2, 2, 2, 2, 6, 6, 8, 8};
    for (size_t size = 1; size < COUNT(lens); size++) {
        char *out = malloc(size);
        assert_non_null(out);
        assert_int_equal(lens[size], pgarray_clean_text(in, sizeof(in) - 1, out, size));
        assert_int_equal('\0', out[lens[size]]);
        assert_memory_equal(in, out, lens[size]);
        free(out);
    }
}

/* The replacement is longer than what it replaces: no input overruns the room. */
static void random_bytes_stay_in_their_room_and_clean_twice_is_clean_once(void **state)
{
    (void)state;
    uint64_t seed = 5;
    for (int round = 0; round < 20000; round++) {
        unsigned char in[48];
        char out[64];
        char again[64];
        const size_t len = random_below(&seed, sizeof(in) + 1);
        const size_t size = 1 + random_below(&seed, sizeof(out));
        for (size_t i = 0; i < len; i++) {
            static const unsigned char starts[] = {0x00, 0x41, 0x80, 0xbf, 0xc2, 0xe0,
                                                   0xed, 0xf0, 0xf4, 0xff, 0x9f, 0xa0};
            in[i] = random_below(&seed, 2) == 0 ? starts[random_below(&seed, COUNT(starts))]
                                                : (unsigned char)random_next(&seed);
        }
        const size_t n = pgarray_clean_text((const char *)in, len, out, size);
        assert_true(n < size);
        assert_int_equal(n, strlen(out));
        assert_int_equal(n, pgarray_clean_text(out, n, again, sizeof(again)));
        assert_string_equal(out, again);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_type_has_its_encoding),
        cmocka_unit_test(any_bytes_and_null_are_different_things),
        cmocka_unit_test(an_array_is_used_again_after_a_reset),
        cmocka_unit_test(scalars_are_read_back),
        cmocka_unit_test(a_wrong_type_or_range_is_a_bug),
        cmocka_unit_test(hostile_text_becomes_valid_utf8_without_controls),
        cmocka_unit_test(a_text_is_cut_between_characters),
        cmocka_unit_test(random_bytes_stay_in_their_room_and_clean_twice_is_clean_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
