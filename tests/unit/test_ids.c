/* UUIDs: text both ways, versions, the delivery id (vectors from Python's uuid module), and the
 * keyed hash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ids.h"

static const char dns_ns[] = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
static const char url_ns[] = "6ba7b811-9dad-11d1-80b4-00c04fd430c8";

static struct uuid id_of(const char *text)
{
    struct uuid id;
    assert_true(uuid_parse(text, strlen(text), &id));
    return id;
}

static uint64_t hash_in_a_new_process(void)
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct uuid zero = {{0}};
        uint64_t h = uuid_hash(&zero);
        _exit(write(fds[1], &h, sizeof(h)) == sizeof(h) ? 0 : 1);
    }
    uint64_t h = 0;
    close(fds[1]);
    assert_int_equal(read(fds[0], &h, sizeof(h)), sizeof(h));
    close(fds[0]);
    int status = 1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return h;
}

/* Runs first: later this process has drawn a key, and its children would inherit it. */
static void every_process_hashes_with_its_own_key(void **state)
{
    (void)state;
    assert_true(hash_in_a_new_process() != hash_in_a_new_process());
}

static void text_round_trips_and_comes_out_in_lower_case(void **state)
{
    (void)state;
    struct uuid id = id_of("F47AC10B-58cc-4372-A567-0e02b2c3d479");
    char text[UUID_TEXT + 1];
    uuid_format(&id, text);
    assert_string_equal(text, "f47ac10b-58cc-4372-a567-0e02b2c3d479");
    assert_int_equal(id.b[0], 0xf4);
    assert_int_equal(id.b[15], 0x79);
}

static void only_the_canonical_form_is_a_uuid(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "f47ac10b-58cc-4372-a567-0e02b2c3d47",
        "f47ac10b-58cc-4372-a567-0e02b2c3d4790",
        "f47ac10b58cc4372a5670e02b2c3d479",
        "{f47ac10b-58cc-4372-a567-0e02b2c3d479}",
        "f47ac10b-58cc-4372-a567_0e02b2c3d479",
        "f47ac10b-58cc-4372-a5670-e02b2c3d479",
        "g47ac10b-58cc-4372-a567-0e02b2c3d479",
        "f47ac10b-58cc-4372-a567-0e02b2c3d47g",
        "f47ac10b-58cc-4372-a567-0e02b2c3d4-9",
        " 47ac10b-58cc-4372-a567-0e02b2c3d479",
        "f47ac10b-58cc-4372-a567-0e02b2c3d4\xc3\xa9",
        "f47ac10b-58cc-4372-a567-0e02b2c3d4\x11\x19",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct uuid id = {{7}};
        if (uuid_parse(bad[i], strlen(bad[i]), &id)) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_int_equal(id.b[0], 7);
    }
    struct uuid id;
    assert_false(uuid_parse("f47ac10b-58cc-4372-a567-0e02b2c3\0"
                            "479",
                            UUID_TEXT, &id));
}

static void v5_agrees_with_python(void **state)
{
    (void)state;
    struct uuid dns = id_of(dns_ns);
    struct uuid url = id_of(url_ns);
    struct uuid got = uuid_v5(&dns, "www.example.com", 15);
    struct uuid want = id_of("2ed6657d-e927-568b-95e1-2665a8aea6a2");
    assert_true(uuid_equal(&got, &want));
    got = uuid_v5(&url, "", 0);
    want = id_of("1b4db7eb-4057-5ddf-91e0-36dec72071f5");
    assert_true(uuid_equal(&got, &want));
}

static void the_same_event_and_webhook_are_the_same_delivery(void **state)
{
    (void)state;
    struct uuid event = id_of("0b0e1f52-7c1b-4a58-9d51-3f6f0e1c2d3a");
    struct uuid webhook = id_of("f47ac10b-58cc-4372-a567-0e02b2c3d479");
    struct uuid want = id_of("cc07f0ff-382c-566e-b8f7-c0b632f8038c");
    for (int again = 0; again < 2; again++) {
        struct uuid got = uuid_of_delivery(&event, &webhook);
        assert_true(uuid_equal(&got, &want));
    }
    struct uuid swapped = uuid_of_delivery(&webhook, &event);
    assert_false(uuid_equal(&swapped, &want));
}

static void v4_is_random_with_version_and_variant(void **state)
{
    (void)state;
    struct uuid before = {{0}};
    for (int i = 0; i < 1000; i++) {
        struct uuid id = uuid_v4();
        assert_int_equal(id.b[6] >> 4, 4);
        assert_int_equal(id.b[8] >> 6, 2);
        assert_false(uuid_equal(&id, &before));
        before = id;
    }
}

static void the_hash_spreads_ids_that_differ_in_two_bytes(void **state)
{
    (void)state;
    for (size_t at = 0; at < 15; at++) {
        unsigned low[256] = {0};
        unsigned high[256] = {0};
        for (unsigned i = 0; i < 65536; i++) {
            struct uuid id = {{0}};
            id.b[at] = (uint8_t)(i >> 8);
            id.b[at + 1] = (uint8_t)i;
            uint64_t h = uuid_hash(&id);
            low[h & 255]++;
            high[h >> 56]++;
        }
        for (size_t i = 0; i < 256; i++) { /* 256 expected, standard deviation 16 */
            assert_in_range(low[i], 128, 384);
            assert_in_range(high[i], 128, 384);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_process_hashes_with_its_own_key),
        cmocka_unit_test(text_round_trips_and_comes_out_in_lower_case),
        cmocka_unit_test(only_the_canonical_form_is_a_uuid),
        cmocka_unit_test(v5_agrees_with_python),
        cmocka_unit_test(the_same_event_and_webhook_are_the_same_delivery),
        cmocka_unit_test(v4_is_random_with_version_and_variant),
        cmocka_unit_test(the_hash_spreads_ids_that_differ_in_two_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
