/* What is an event and what is a dead letter, message by message. */
#include "envelope.h"

#include "worker_fixture.h"

#include <inttypes.h>

#define ID     "\"id\":\"0f0e0d0c-0b0a-4908-8706-050403020100\""
#define TENANT "\"tenant_id\":\"f47ac10b-58cc-4372-a567-0e02b2c3d479\""
#define TYPE   "\"event\":\"alert.created\""
#define TIME   "\"timestamp\":\"2026-03-15T10:30:00Z\""
#define DATA   "\"data\":{}"
#define FOUR   ID "," TENANT "," TYPE "," TIME ","
#define WHOLE  "{" FOUR DATA "}"
#define ROOM   (LIMIT_EVENT_BYTES + 2)

#define TIME_US INT64_C(1773570600000000)

static char *room;

static int make_room(void **state)
{
    (void)state;
    room = malloc(ROOM);
    return room == NULL;
}

static int free_room(void **state)
{
    (void)state;
    free(room);
    return 0;
}

/* In memory of its own size, so that AddressSanitizer sees a byte read too many. */
static bool decode(const char *body, size_t len, struct envelope *ret, const char **ret_reason,
                   struct err *err)
{
    char *copy = malloc(len == 0 ? 1 : len);
    assert_non_null(copy);
    memcpy(copy, body, len);
    const bool ok = envelope_decode(copy, len, ret, ret_reason, err);
    free(copy);
    return ok;
}

static void accept_at(const char *name, const char *body, size_t len, struct envelope *ret)
{
    const char *reason = NULL;
    struct err err = {0};
    if (!decode(body, len, ret, &reason, &err)) {
        fail_msg("%s: refused as %s: %s", name, reason, err.text);
    }
    assert_null(reason);
}

static void refuse_at(const char *name, const char *body, size_t len, const char *reason)
{
    static const struct envelope untouched = {.timestamp_us = 77};
    struct envelope env = untouched;
    const char *got = NULL;
    struct err err = {0};
    if (decode(body, len, &env, &got, &err)) {
        fail_msg("%s: accepted", name);
    }
    assert_non_null(got);
    if (strcmp(reason, got) != 0) {
        fail_msg("%s: refused as %s, not %s: %s", name, got, reason, err.text);
    }
    assert_true(err.code == ERR_INVALID || err.code == ERR_LIMIT);
    assert_true(err.text[0] != '\0');
    assert_memory_equal(&untouched, &env, sizeof(env));
}

struct row {
    const char *name;
    const char *body;
};

/* --- valid --- */

static void the_five_members_are_read(void **state)
{
    (void)state;
    struct envelope env;
    struct uuid id;
    struct uuid tenant;
    accept_at("whole", WHOLE, strlen(WHOLE), &env);
    assert_true(uuid_parse("0f0e0d0c-0b0a-4908-8706-050403020100", UUID_TEXT, &id));
    assert_true(uuid_parse("f47ac10b-58cc-4372-a567-0e02b2c3d479", UUID_TEXT, &tenant));
    assert_true(uuid_equal(&id, &env.id));
    assert_true(uuid_equal(&tenant, &env.tenant_id));
    assert_string_equal("alert.created", env.type);
    assert_int_equal(strlen("alert.created"), env.type_len);
    assert_int_equal(TIME_US, env.timestamp_us);
}

static const struct row valid[] = {
    {"other members", "{\"x\":[1,2,{\"y\":null}]," FOUR DATA ",\"schema\":3}"},
    {"any order", "{" DATA "," TIME "," TYPE "," TENANT "," ID "}"},
    {"blanks of JSON around everything",
     " \t\r\n{ " ID " ,\n" TENANT "\t,\r" TYPE "," TIME " , \"data\" : { } } \n\n"},
    {"upper-case UUIDs", "{\"id\":\"0F0E0D0C-0B0A-4908-8706-050403020100\",\"tenant_id\":"
                         "\"F47AC10B-58CC-4372-A567-0E02B2C3D479\"," TYPE "," TIME "," DATA "}"},
    {"member names and values in escapes",
     "{\"\\u0069d\":\"0f0e0d0c-0b0a-4908-8706-050403020100\",\"\\u0074enant_id\":\"f47ac10b-58cc-"
     "4372-a567-0e02b2c3d479\",\"event\":\"alert\\u002ecreated\"," TIME "," DATA "}"},
    {"an integer of 40 digits",
     "{" FOUR "\"data\":{\"n\":1234567890123456789012345678901234567890}}"},
    {"a negative integer of 40 digits",
     "{" FOUR "\"data\":{\"n\":-1234567890123456789012345678901234567890}}"},
    {"numbers near the ends of double",
     "{" FOUR "\"data\":{\"a\":1.7e308,\"b\":-1.7e308,\"c\":5e-324,\"d\":1e-400}}"},
    {"NUL in a string as an escape", "{" FOUR "\"data\":{\"s\":\"a\\u0000b\"}}"},
    {"a surrogate pair", "{" FOUR "\"data\":{\"s\":\"\\ud83d\\ude00\"}}"},
    {"four-byte UTF-8", "{" FOUR "\"data\":{\"s\":\"\xf0\x9f\x98\x80\"}}"},
    {"noncharacters and private use",
     "{" FOUR "\"data\":{\"s\":\"\xef\xbf\xbf\xee\x80\x80\xf4\x8f\xbf\xbf\"}}"},
    {"equal names in different objects", "{" FOUR "\"data\":{\"id\":1,\"a\":{\"id\":2}}}"},
    {"a member with an empty name", "{\"\":0," FOUR DATA "}"},
};

static void valid_shapes_are_events(void **state)
{
    (void)state;
    struct envelope plain;
    accept_at("whole", WHOLE, strlen(WHOLE), &plain);
    for (size_t i = 0; i < COUNT(valid); i++) {
        struct envelope env;
        accept_at(valid[i].name, valid[i].body, strlen(valid[i].body), &env);
        assert_true(uuid_equal(&plain.id, &env.id));
        assert_true(uuid_equal(&plain.tenant_id, &env.tenant_id));
        assert_string_equal("alert.created", env.type);
        assert_int_equal(TIME_US, env.timestamp_us);
    }
}

static const struct {
    const char *text;
    int64_t us;
} times[] = {
    {"2026-03-15T10:30:00Z", TIME_US},
    {"2026-03-15t10:30:00z", TIME_US},
    {"2026-03-15T10:30:00.5Z", TIME_US + 500000},
    {"2026-03-15T10:30:00.123456Z", TIME_US + 123456},
    {"2026-03-15T10:30:00.1234567899999Z", TIME_US + 123456},
    {"2026-03-15T10:30:00+00:00", TIME_US},
    {"2026-03-15T10:30:00-00:00", TIME_US},
    {"2026-03-15T12:30:00+02:00", TIME_US},
    {"2026-03-15T05:00:00.25-05:30", TIME_US + 250000},
    {"1969-12-31T23:59:59Z", -1000000},
};

static void fractions_and_offsets_of_timestamps_are_understood(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(times); i++) {
        char body[512];
        struct envelope env;
        const int len =
            snprintf(body, sizeof(body),
                     "{" ID "," TENANT "," TYPE ",\"timestamp\":\"%s\"," DATA "}", times[i].text);
        accept_at(times[i].text, body, (size_t)len, &env);
        assert_int_equal(times[i].us, env.timestamp_us);
    }
}

static const struct {
    const char *type;
    bool ok;
} types[] = {
    {"alert.created", true},
    {"a.b", true},
    {"0.1", true},
    {"_._", true},
    {"a.b.c.d.e", true},
    {"tomorrows_type.v2", true},
    {"", false},
    {"alert", false},
    {".", false},
    {".created", false},
    {"alert.", false},
    {"alert..created", false},
    {"Alert.created", false},
    {"alert.created ", false},
    {" alert.created", false},
    {"alert.*", false},
    {"*", false},
    {"alert-x.created", false},
    {"alert.cr\xc3\xa9\x65", false},
    {"alert.created\\n", false},
    {"alert.created\\u0000", false},
    {"alert\\u0000.created", false},
    {"alert.created\\r\\nX-Evil: 1", false},
};

static void event_names_follow_their_rule(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(types); i++) {
        char body[512];
        struct envelope env;
        const int len =
            snprintf(body, sizeof(body), "{" ID "," TENANT ",\"event\":\"%s\"," TIME "," DATA "}",
                     types[i].type);
        if (types[i].ok) {
            accept_at(types[i].type, body, (size_t)len, &env);
            assert_string_equal(types[i].type, env.type);
        } else {
            refuse_at(types[i].type, body, (size_t)len, ENVELOPE_BAD_MEMBER);
        }
    }
}

static void an_event_name_may_have_128_characters_and_no_more(void **state)
{
    (void)state;
    char name[LIMIT_EVENT_TYPE + 2];
    char body[512];
    struct envelope env;
    for (size_t len = LIMIT_EVENT_TYPE; len <= LIMIT_EVENT_TYPE + 1; len++) {
        memset(name, 'x', len);
        name[3] = '.';
        name[len] = '\0';
        const int n = snprintf(body, sizeof(body),
                               "{" ID "," TENANT ",\"event\":\"%s\"," TIME "," DATA "}", name);
        if (len == LIMIT_EVENT_TYPE) {
            accept_at("128 characters", body, (size_t)n, &env);
            assert_string_equal(name, env.type);
        } else {
            refuse_at("129 characters", body, (size_t)n, ENVELOPE_BAD_MEMBER);
        }
    }
}

/* --- size --- */

/* An event of exactly len bytes. */
static void fill_to(size_t len)
{
    static const char head[] = "{" FOUR "\"data\":{\"s\":\"";
    static const char tail[] = "\"}}";
    memcpy(room, head, sizeof(head) - 1);
    memset(room + sizeof(head) - 1, 'x', len - sizeof(head) - sizeof(tail) + 2);
    memcpy(room + len - sizeof(tail) + 1, tail, sizeof(tail) - 1);
}

static void exactly_256_kib_is_an_event_and_one_byte_more_is_not(void **state)
{
    (void)state;
    struct envelope env;
    assert_int_equal(262144, LIMIT_EVENT_BYTES);
    fill_to(LIMIT_EVENT_BYTES);
    accept_at("256 KiB", room, LIMIT_EVENT_BYTES, &env);
    fill_to(LIMIT_EVENT_BYTES + 1);
    refuse_at("256 KiB + 1", room, LIMIT_EVENT_BYTES + 1, ENVELOPE_TOO_LARGE);
    memset(room, ' ', ROOM);
    memcpy(room, WHOLE, sizeof(WHOLE));
    room[sizeof(WHOLE) - 1] = ' ';
    refuse_at("blanks count", room, LIMIT_EVENT_BYTES + 1, ENVELOPE_TOO_LARGE);
}

static void no_value_is_a_tombstone(void **state)
{
    (void)state;
    struct envelope env;
    const char *reason = NULL;
    struct err err = {0};
    assert_false(envelope_decode(NULL, 0, &env, &reason, &err));
    assert_string_equal(ENVELOPE_EMPTY, reason);
    refuse_at("no bytes", "", 0, ENVELOPE_EMPTY);
}

/* --- depth --- */

/* The root is level 1, data level 2, and each array one more. */
static size_t nest(size_t levels)
{
    static const char head[] = "{" FOUR "\"data\":{\"a\":";
    size_t n = sizeof(head) - 1;
    memcpy(room, head, n);
    for (size_t i = 2; i < levels; i++) {
        room[n++] = '[';
    }
    for (size_t i = 2; i < levels; i++) {
        room[n++] = ']';
    }
    room[n++] = '}';
    room[n++] = '}';
    return n;
}

static void nesting_is_accepted_to_its_limit_and_harmless_beyond(void **state)
{
    (void)state;
    struct envelope env;
    accept_at("2000 levels", room, nest(2000), &env);
    accept_at("the limit", room, nest(LIMIT_JSON_DEPTH), &env);
    refuse_at("one more", room, nest(LIMIT_JSON_DEPTH + 1), ENVELOPE_NOT_JSON);
    refuse_at("as deep as fits", room, nest(100000), ENVELOPE_NOT_JSON);
    memset(room, '[', LIMIT_EVENT_BYTES);
    refuse_at("only brackets", room, LIMIT_EVENT_BYTES, ENVELOPE_NOT_JSON);
}

/* --- not JSON --- */

static const struct row not_json[] = {
    {"one word", "hello"},
    {"a string and no object", "\"alert.created\""}, /* JSON to RFC 8259, not to jansson: */
    {"a number and no object", "17"},                /* the reason is coarse, the letter the same */
    {"null", "null"},
    {"truncated", "{" FOUR "\"data\":{"},
    {"truncated in a string", "{" FOUR "\"data\":{\"s\":\"abc"},
    {"truncated in an escape", "{" FOUR "\"data\":{\"s\":\"\\u00"},
    {"truncated in UTF-8", "{" FOUR "\"data\":{\"s\":\"\xf0\x9f"},
    {"trailing comma", "{" FOUR DATA ",}"},
    {"trailing garbage", WHOLE "x"},
    {"two events", WHOLE WHOLE},
    {"two lines", WHOLE "\n" WHOLE},
    {"byte order mark", "\xef\xbb\xbf" WHOLE},
    {"UTF-16", "{\0\"\0"},
    {"single quotes", "{'id':1}"},
    {"comment", "{/**/" FOUR DATA "}"},
    {"NaN", "{" FOUR "\"data\":{\"n\":NaN}}"},
    {"Infinity", "{" FOUR "\"data\":{\"n\":Infinity}}"},
    {"leading zero", "{" FOUR "\"data\":{\"n\":012}}"},
    {"plus sign", "{" FOUR "\"data\":{\"n\":+1}}"},
    {"raw control character in a string", "{" FOUR "\"data\":{\"s\":\"a\nb\"}}"},
    {"unknown escape", "{" FOUR "\"data\":{\"s\":\"\\x41\"}}"},
    {"duplicate member of the contract", "{" FOUR DATA "," ID "}"},
    {"duplicate data", "{" FOUR DATA "," DATA "}"},
    {"duplicate deep inside", "{" FOUR "\"data\":{\"a\":{\"b\":1,\"b\":1}}}"},
    {"duplicate by escape", "{" FOUR DATA ",\"\\u0069d\":1}"},
    {"lone high surrogate", "{" FOUR "\"data\":{\"s\":\"\\ud83d\"}}"},
    {"lone high surrogate before text", "{" FOUR "\"data\":{\"s\":\"\\ud83dabc\"}}"},
    {"lone low surrogate", "{" FOUR "\"data\":{\"s\":\"\\ude00\"}}"},
    {"surrogates the wrong way round", "{" FOUR "\"data\":{\"s\":\"\\ude00\\ud83d\"}}"},
    {"surrogate in UTF-8", "{" FOUR "\"data\":{\"s\":\"\xed\xa0\xbd\"}}"},
    {"overlong NUL", "{" FOUR "\"data\":{\"s\":\"\xc0\x80\"}}"},
    {"overlong slash", "{" FOUR "\"data\":{\"s\":\"\xe0\x80\xaf\"}}"},
    {"beyond U+10FFFF", "{" FOUR "\"data\":{\"s\":\"\xf4\x90\x80\x80\"}}"},
    {"lone continuation byte", "{" FOUR "\"data\":{\"s\":\"\x80\"}}"},
    {"Latin-1", "{" FOUR "\"data\":{\"s\":\"caf\xe9\"}}"},
    {"0xff", "\xff" WHOLE},
    {"invalid UTF-8 in a name", "{\"\xff\":1," FOUR DATA "}"},
    {"NUL escape in a member name", "{\"a\\u0000b\":1," FOUR DATA "}"},
};

static void what_is_not_strict_json_is_a_dead_letter(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(not_json); i++) {
        refuse_at(not_json[i].name, not_json[i].body, strlen(not_json[i].body), ENVELOPE_NOT_JSON);
    }
    static const char nul[] = WHOLE "\0";
    refuse_at("trailing NUL", nul, sizeof(nul) - 1, ENVELOPE_NOT_JSON);
    static const char inside[] = "{" FOUR "\"data\":{\"s\":\"a\0b\"}}";
    refuse_at("raw NUL in a string", inside, sizeof(inside) - 1, ENVELOPE_NOT_JSON);
}

/* RFC 8259 leaves the range to the reader; jansson has no number beyond double. */
static void a_number_beyond_double_is_a_dead_letter(void **state)
{
    (void)state;
    static const char *const numbers[] = {"1e400", "-1e400", "1e999999999", "1.8e308"};
    char body[1024];
    for (size_t i = 0; i < COUNT(numbers); i++) {
        const int len = snprintf(body, sizeof(body), "{" FOUR "\"data\":{\"n\":%s}}", numbers[i]);
        refuse_at(numbers[i], body, (size_t)len, ENVELOPE_NOT_JSON);
    }
    char digits[401];
    memset(digits, '9', 400);
    digits[400] = '\0';
    const int len = snprintf(body, sizeof(body), "{" FOUR "\"data\":{\"n\":%s}}", digits);
    refuse_at("an integer of 400 digits", body, (size_t)len, ENVELOPE_NOT_JSON);
}

static void every_truncation_of_an_event_is_a_dead_letter(void **state)
{
    (void)state;
    refuse_at("0 bytes", WHOLE, 0, ENVELOPE_EMPTY);
    for (size_t len = 1; len < strlen(WHOLE); len++) {
        refuse_at("truncated", WHOLE, len, ENVELOPE_NOT_JSON);
    }
}

/* --- the contract --- */

#define WITHOUT_ID     "{" TENANT "," TYPE "," TIME "," DATA
#define WITHOUT_TENANT "{" ID "," TYPE "," TIME "," DATA
#define WITHOUT_TIME   "{" ID "," TENANT "," TYPE "," DATA

static const struct row bad_member[] = {
    {"an array", "[" WHOLE "]"},
    {"an empty object", "{}"},
    {"no id", WITHOUT_ID "}"},
    {"id null", WITHOUT_ID ",\"id\":null}"},
    {"id a number", WITHOUT_ID ",\"id\":17}"},
    {"id empty", WITHOUT_ID ",\"id\":\"\"}"},
    {"id without dashes", WITHOUT_ID ",\"id\":\"0f0e0d0c0b0a49088706050403020100\"}"},
    {"id in braces", WITHOUT_ID ",\"id\":\"{0f0e0d0c-0b0a-4908-8706-050403020100}\"}"},
    {"id too short", WITHOUT_ID ",\"id\":\"0f0e0d0c-0b0a-4908-8706-05040302010\"}"},
    {"id too long", WITHOUT_ID ",\"id\":\"0f0e0d0c-0b0a-4908-8706-0504030201000\"}"},
    {"id with a NUL after it",
     WITHOUT_ID ",\"id\":\"0f0e0d0c-0b0a-4908-8706-050403020100\\u0000\"}"},
    {"id with a letter", WITHOUT_ID ",\"id\":\"0f0e0d0c-0b0a-4908-8706-05040302010g\"}"},
    {"ID in capitals", WITHOUT_ID ",\"ID\":\"0f0e0d0c-0b0a-4908-8706-050403020100\"}"},
    {"no tenant", WITHOUT_TENANT "}"},
    {"tenant an object", WITHOUT_TENANT ",\"tenant_id\":{}}"},
    {"tenant a name", WITHOUT_TENANT ",\"tenant_id\":\"acme\"}"},
    {"no type", "{" ID "," TENANT "," TIME "," DATA "}"},
    {"type an array", "{" ID "," TENANT "," TIME "," DATA ",\"event\":[\"alert.created\"]}"},
    {"no time", WITHOUT_TIME "}"},
    {"time a number", WITHOUT_TIME ",\"timestamp\":1773570600}"},
    {"time without offset", WITHOUT_TIME ",\"timestamp\":\"2026-03-15T10:30:00\"}"},
    {"time a date", WITHOUT_TIME ",\"timestamp\":\"2026-03-15\"}"},
    {"time on February 30", WITHOUT_TIME ",\"timestamp\":\"2026-02-30T10:30:00Z\"}"},
    {"time with a blank after it", WITHOUT_TIME ",\"timestamp\":\"2026-03-15T10:30:00Z \"}"},
    {"time with a NUL after it", WITHOUT_TIME ",\"timestamp\":\"2026-03-15T10:30:00Z\\u0000\"}"},
    {"no data", "{" ID "," TENANT "," TYPE "," TIME "}"},
    {"data null", "{" FOUR "\"data\":null}"},
    {"data an array", "{" FOUR "\"data\":[]}"},
    {"data a string", "{" FOUR "\"data\":\"{}\"}"},
};

static void a_member_that_is_missing_or_misshapen_is_a_dead_letter(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_member); i++) {
        refuse_at(bad_member[i].name, bad_member[i].body, strlen(bad_member[i].body),
                  ENVELOPE_BAD_MEMBER);
    }
}

static void a_refusal_names_member_and_value(void **state)
{
    (void)state;
    static const char body[] = "{" ID "," TENANT ",\"event\":\"Alarm!\"," TIME "," DATA "}";
    struct envelope env;
    const char *reason = NULL;
    struct err err = {0};
    assert_false(decode(body, sizeof(body) - 1, &env, &reason, &err));
    assert_non_null(strstr(err.text, "event"));
    assert_non_null(strstr(err.text, "Alarm!"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_five_members_are_read),
        cmocka_unit_test(valid_shapes_are_events),
        cmocka_unit_test(fractions_and_offsets_of_timestamps_are_understood),
        cmocka_unit_test(event_names_follow_their_rule),
        cmocka_unit_test(an_event_name_may_have_128_characters_and_no_more),
        cmocka_unit_test(exactly_256_kib_is_an_event_and_one_byte_more_is_not),
        cmocka_unit_test(no_value_is_a_tombstone),
        cmocka_unit_test(nesting_is_accepted_to_its_limit_and_harmless_beyond),
        cmocka_unit_test(what_is_not_strict_json_is_a_dead_letter),
        cmocka_unit_test(a_number_beyond_double_is_a_dead_letter),
        cmocka_unit_test(every_truncation_of_an_event_is_a_dead_letter),
        cmocka_unit_test(a_member_that_is_missing_or_misshapen_is_a_dead_letter),
        cmocka_unit_test(a_refusal_names_member_and_value),
    };
    return cmocka_run_group_tests(tests, make_room, free_room);
}
