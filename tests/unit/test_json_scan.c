/* What json_scan says is valid, jansson says too, member by member; and it does decide the usual.
 */
#include "json_scan.h"

#include <jansson.h>
#include <stdio.h>

#include "worker_fixture.h"

#define FLAGS     (JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL)
#define MUTATIONS 300000u

/* In memory of its own size, so that AddressSanitizer sees a byte read too many. */
static bool scan(const char *text, size_t len, struct json_member *members, size_t *ret_n,
                 char **ret_copy)
{
    *ret_copy = malloc(len == 0 ? 1 : len);
    assert_non_null(*ret_copy);
    memcpy(*ret_copy, text, len);
    return json_scan(*ret_copy, len, members, ret_n);
}

static void same_member(const struct json_member *m, const json_t *root)
{
    const json_t *v = json_object_getn(root, m->name, m->name_len);
    assert_non_null(v);
    assert_int_equal(m->kind == JSON_SCAN_OBJECT, json_is_object(v));
    if (m->kind == JSON_SCAN_STRING) {
        assert_true(json_is_string(v));
        assert_int_equal(json_string_length(v), m->value_len);
        assert_memory_equal(json_string_value(v), m->value, m->value_len);
    }
}

/* True when it was decided; then jansson must agree. */
static bool agree(const char *text, size_t len)
{
    struct json_member members[JSON_SCAN_MEMBERS];
    size_t n = 0;
    char *copy = NULL;
    const bool decided = scan(text, len, members, &n, &copy);
    if (decided) {
        json_error_t why;
        json_t *root = json_loadb(text, len, FLAGS, &why);
        if (root == NULL) {
            fail_msg("jansson refuses what was accepted: %s at byte %d of: %.*s", why.text,
                     why.position, (int)len, text);
        }
        assert_true(json_is_object(root));
        assert_int_equal(json_object_size(root), n);
        for (size_t i = 0; i < n; i++) {
            same_member(&members[i], root);
        }
        json_decref(root);
    }
    free(copy);
    return decided;
}

static void test_decides_usual_events(void **state)
{
    (void)state;
    static const char *const usual[] = {
        "{}",
        " { } \r\n",
        "{\"a\":\"b\",\"c\":{\"d\":[1,-2.5,3e10,0,-0,1E-9,true,false,null,{},[]]}}",
        "{\"a\" : \"\\\" \\\\ \\/ \\b\\f\\n\\r\\t\\u00e4\\u0000\" , \"b\" : [ ] }",
        "{\"name\":\"M\xc3\xbcller \xe2\x82\xac \xf0\x9f\x98\x80 \x7f\"}",
        "{\"a\":{\"x\":1},\"b\":{\"x\":2},\"x\":3}",
        "{\"\":\"an empty name\"}",
    };
    for (size_t i = 0; i < sizeof(usual) / sizeof(*usual); i++) {
        if (!agree(usual[i], strlen(usual[i]))) {
            fail_msg("undecided: %s", usual[i]);
        }
    }
}

static const char *const rest[] = {
    "",
    " ",
    "[]",
    "\"a\"",
    "1",
    "{",
    "}",
    "{}x",
    "{}{}",
    "\xef\xbb\xbf{}", /* no one object  */
    "{\"a\":1,}",
    "{,}",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1 \"b\":2}",
    "{a:1}",
    "{'a':1}", /* members */
    "{\"a\":1,\"a\":1}",
    "{\"a\":{\"b\":1,\"c\":2,\"b\":3}}",
    "{\"\\u0061\":1,\"a\":1}", /* twice   */
    "{\"a\":01}",
    "{\"a\":-}",
    "{\"a\":1.}",
    "{\"a\":.5}",
    "{\"a\":1e}",
    "{\"a\":+1}",
    "{\"a\":0x1}",
    "{\"a\":1e400}",
    "{\"a\":1e999999999999}",
    "{\"a\":NaN}",
    "{\"a\":Infinity}", /* numbers */
    "{\"a\":tru}",
    "{\"a\":True}",
    "{\"a\":nul",
    "{\"a\":[1,]}",
    "{\"a\":[1 2]}",
    "{\"a\":[}",
    "{\"a\":\"\x01\"}",
    "{\"a\":\"\n\"}",
    "{\"a\":\"\\x\"}",
    "{\"a\":\"\\u12\"}",
    "{\"a\":\"\\ud800\"}",
    "{\"a\":\"\\uDC00\"}",
    "{\"a\":\"\xc0\x80\"}",
    "{\"a\":\"\xed\xa0\x80\"}",
    "{\"a\":\"\xf4\x90\x80\x80\"}",
    "{\"a\":\"\xe2\x82\"}",
    "{\"a\":\"\xff\"}",
    "{\"a\":\"b",
    "{\"a\":\"b\\",
    "{\"a\":1}/**/", /* strings */
};

static void test_leaves_the_rest_to_jansson(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(rest) / sizeof(*rest); i++) {
        if (agree(rest[i], strlen(rest[i]))) {
            fail_msg("decided: %s", rest[i]);
        }
    }
    assert_false(agree("{\"a\":\"b\0\"}", 9)); /* a NUL byte in a string, and behind the end */
    assert_false(agree("{}\0", 3));
}

static void test_gives_up_at_its_limits(void **state)
{
    (void)state;
    char text[4096];
    size_t at = 0;
    for (int depth = 0; depth < 200; depth++) {
        at += (size_t)snprintf(text + at, sizeof(text) - at, "{\"a\":");
    }
    assert_false(agree(text, at)); /* open at the end, too */
    at = (size_t)snprintf(text, sizeof(text), "{\"a\":{");
    for (int i = 0; i < 200; i++) {
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s\"n%d\":1", i == 0 ? "" : ",", i);
    }
    at += (size_t)snprintf(text + at, sizeof(text) - at, "}}");
    assert_false(agree(text, at));
    at = 0;
    for (int i = 0; i < JSON_SCAN_MEMBERS + 1; i++) {
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s\"n%d\":1", i == 0 ? "{" : ",", i);
    }
    assert_true(agree(text, (size_t)(strrchr(text, ',') - text)) == false);
    at += (size_t)snprintf(text + at, sizeof(text) - at, "}");
    assert_false(agree(text, at));
    at = (size_t)snprintf(text, sizeof(text), "{\"a\":1%0*d}", 400, 0);
    assert_false(agree(text, at));
}

/* splitmix64, always the same */
static uint64_t next_random(uint64_t *seed)
{
    uint64_t z = (*seed += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Replaces, removes, doubles or swaps a few bytes, mostly by those that mean something in JSON. */
static size_t mutate(char *text, size_t len, uint64_t *seed)
{
    static const char bytes[] =
        "{}[]\",:\\ue0123456789.-+trfalsnd \t\n\x01\x7f\xc3\xa4\xe2\x82\xac\xed\xf0\xff";
    for (uint64_t n = next_random(seed) % 3 + 1; n > 0 && len > 2; n--) {
        const size_t at = next_random(seed) % (len - 1);
        const uint64_t what = next_random(seed) % 4;
        if (what == 0) {
            memmove(text + at, text + at + 1, --len - at);
        } else if (what == 1) {
            memmove(text + at + 1, text + at, len++ - at);
        } else if (what == 2) {
            const size_t from = next_random(seed) % len;
            text[at] = text[from];
        } else {
            text[at] = bytes[next_random(seed) % (sizeof(bytes) - 1)];
        }
    }
    return len;
}

static void test_never_accepts_what_jansson_refuses(void **state)
{
    (void)state;
    static const char seed_text[] =
        "{\"id\":\"a\\\"\\u00e4\",\"n\":[1,-2.5,3e10,[],{\"x\":0,\"y\":\"\xc3\xa4\xe2\x82\xac\"}],"
        "\"t\":true,\"f\":false,\"z\":null,\"o\":{\"x\":1,\"yy\":{\"x\":\"\\\\\"}}}";
    char text[sizeof(seed_text) + 8];
    uint64_t seed = 20260315;
    unsigned decided = 0;
    for (unsigned i = 0; i < MUTATIONS; i++) {
        memcpy(text, seed_text, sizeof(seed_text));
        decided += agree(text, mutate(text, sizeof(seed_text) - 1, &seed));
    }
    print_message("%u of %u mutations accepted by both\n", decided, MUTATIONS);
    assert_in_range(decided, MUTATIONS / 20, MUTATIONS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decides_usual_events),
        cmocka_unit_test(test_leaves_the_rest_to_jansson),
        cmocka_unit_test(test_gives_up_at_its_limits),
        cmocka_unit_test(test_never_accepts_what_jansson_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
