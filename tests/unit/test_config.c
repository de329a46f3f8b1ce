/* common/config.c: what is accepted, what is reported (all at once, one line each, no secret), what
 * is printed. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem.h"

#define ENV_MAX 24
#define REQUIRED                                                                                   \
    "NRW_DATABASE_URL=postgresql://u:hunter2@h/d", "NRW_KAFKA_BROKERS=k:9092",                     \
        "NRW_KEYRING=a:hunter2"

struct loaded {
    bool ok;
    struct config cfg;
    struct buf problems;
    const char *text;
};

static void load(struct loaded *l, const char *const *env)
{
    char *envp[ENV_MAX] = {NULL};
    for (int i = 0; env[i] != NULL; i++) {
        assert_true(i < ENV_MAX - 1);
        envp[i] = mem_dup(env[i]);
    }
    buf_init(&l->problems, 65536);
    l->ok = config_load(&l->cfg, CONFIG_WORKER, envp, &l->problems);
    l->text = buf_cstr(&l->problems);
    assert_null(strstr(l->text, "hunter2"));
    for (int i = 0; envp[i] != NULL; i++) { /* nothing is borrowed from envp */
        memset(envp[i], '#', strlen(envp[i]));
        free(envp[i]);
    }
}
#define LOAD(l, ...) load(l, (const char *const[]){__VA_ARGS__, NULL})

static void unload(struct loaded *l)
{
    config_free(&l->cfg);
    buf_done(&l->problems);
}

static char *printed(const struct config *cfg)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    if (cfg == NULL) {
        config_print_reference(out);
    } else {
        config_print(cfg, out);
    }
    assert_int_equal(0, fclose(out));
    return text;
}

static void assert_has_line(const char *text, const char *line)
{
    size_t len = strlen(line);
    for (const char *p = text; (p = strstr(p, line)) != NULL; p++) {
        if ((p == text || p[-1] == '\n') && (p[len] == '\n' || p[len] == '\0')) {
            return;
        }
    }
    fail_msg("no line \"%s\" in:\n%s", line, text);
}

static void test_defaults_are_used_where_nothing_is_given(void **state)
{
    (void)state;
    struct loaded l;
    LOAD(&l, REQUIRED, "PATH=/bin", "NRW", "NRW_TOPIC=", "NRW_CRASH_AT=send:3", "nrw_topic=x");
    assert_string_equal("", l.text);
    assert_true(l.ok);
    assert_string_equal("netrecon.events", l.cfg.topic);
    assert_string_equal("", l.cfg.allow_cidrs);
    assert_string_equal("a:hunter2", l.cfg.keyring);
    assert_int_equal(15000, l.cfg.send_timeout);
    assert_int_equal(64 * 1024 * 1024, l.cfg.event_bytes_max);
    assert_int_equal(5000, l.cfg.requests_max);
    assert_false(l.cfg.allow_http);
    assert_int_equal(LOG_LEVEL_INFO, l.cfg.log_level);
    static const int64_t delays[] = {0, 30000, 120000, 600000, 3600000};
    assert_memory_equal(delays, l.cfg.retry_delays.ms, sizeof(delays));
    unload(&l);
}

static void test_each_program_requires_only_what_it_uses(void **state)
{
    (void)state;
    char url[] = "NRW_DATABASE_URL=postgresql:///x";
    char keyring[] = "NRW_KEYRING=a:hunter2";
    char *const envp[] = {url, keyring, NULL};
    const struct {
        enum config_program program;
        const char *problems;
    } rows[] = {
        {CONFIG_API, ""},
        {CONFIG_WORKER,
         "NRW_KAFKA_BROKERS: must be set (bootstrap servers, host:port[,host:port])\n"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct config cfg;
        struct buf problems;
        buf_init(&problems, CONFIG_PROBLEMS_MAX);
        assert_int_equal(rows[i].problems[0] == '\0',
                         config_load(&cfg, rows[i].program, envp, &problems));
        assert_string_equal(rows[i].problems, buf_cstr(&problems));
        buf_done(&problems);
        config_free(&cfg);
    }
}

/* A row that Redis forgot counts as that when it is overdue for half of this time, and is looked
 * for every time +10 %. */
static void test_no_retry_can_be_a_minute_late(void **state)
{
    (void)state;
    struct loaded l;
    LOAD(&l, REQUIRED);
    assert_true(l.ok && l.cfg.retry_reconcile * 16 / 10 < 60000);
    unload(&l);
    LOAD(&l, REQUIRED, "NRW_RETRY_RECONCILE=36s");
    assert_false(l.ok);
    unload(&l);
}

static void test_a_change_whose_notification_was_lost_holds_within_30_s(void **state)
{
    (void)state;
    struct loaded l;
    LOAD(&l, REQUIRED);
    assert_true(l.ok && l.cfg.subscriptions_poll + 5000 <= 30000); /* and the load */
    unload(&l);
}

static void test_good_values_are_taken_exactly(void **state)
{
    (void)state;
    static const struct {
        const char *entry;
        const char *line;
    } rows[] = {
        {"NRW_DNS_TIMEOUT=100ms", "NRW_DNS_TIMEOUT=100ms"},
        {"NRW_DNS_TIMEOUT=30s", "NRW_DNS_TIMEOUT=30s"},
        {"NRW_SEND_TIMEOUT=90000ms", "NRW_SEND_TIMEOUT=90s"},
        {"NRW_SEND_TIMEOUT=120s", "NRW_SEND_TIMEOUT=2m"},
        {"NRW_SEND_TIMEOUT=1500ms", "NRW_SEND_TIMEOUT=1500ms"},
        {"NRW_OWN_FAULT_DELAY=1h", "NRW_OWN_FAULT_DELAY=1h"},
        {"NRW_JOURNAL_LINGER=0ms", "NRW_JOURNAL_LINGER=0s"},
        {"NRW_EVENT_BYTES_MAX=1MiB", "NRW_EVENT_BYTES_MAX=1MiB"},
        {"NRW_EVENT_BYTES_MAX=1048577", "NRW_EVENT_BYTES_MAX=1048577"},
        {"NRW_EVENT_BYTES_MAX=1536KiB", "NRW_EVENT_BYTES_MAX=1536KiB"},
        {"NRW_EVENT_BYTES_MAX=16GiB", "NRW_EVENT_BYTES_MAX=16GiB"},
        {"NRW_REQUESTS_MAX=007", "NRW_REQUESTS_MAX=7"},
        {"NRW_ALLOW_HTTP=yes", "NRW_ALLOW_HTTP=true"},
        {"NRW_ALLOW_HTTP=1", "NRW_ALLOW_HTTP=true"},
        {"NRW_ALLOW_HTTP=no", "NRW_ALLOW_HTTP=false"},
        {"NRW_LOG_LEVEL=error", "NRW_LOG_LEVEL=error"},
        {"NRW_RETRY_DELAYS=0s,1ms,2s,7d,48h", "NRW_RETRY_DELAYS=0s,1ms,2s,7d,2d"},
        {"NRW_GROUP=a=b c", "NRW_GROUP=a=b c"},
        {"NRW_REDIS_URL=redis://:hunter2@h", "NRW_REDIS_URL=******"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct loaded l;
        LOAD(&l, REQUIRED, rows[i].entry);
        assert_string_equal("", l.text);
        assert_true(l.ok);
        char *text = printed(&l.cfg);
        assert_has_line(text, rows[i].line);
        free(text);
        unload(&l);
    }
}

static const struct {
    const char *entry;
    const char *line;
} bad_rows[] = {
    {"NRW_DNS_TIMEOUT=5x",
     "NRW_DNS_TIMEOUT: \"5x\" is not a duration (100ms to 30s; suffixes ms, s, m, h, d)"},
    {"NRW_DNS_TIMEOUT=5",
     "NRW_DNS_TIMEOUT: \"5\" is not a duration (100ms to 30s; suffixes ms, s, m, h, d)"},
    {"NRW_DNS_TIMEOUT=1.5s",
     "NRW_DNS_TIMEOUT: \"1.5s\" is not a duration (100ms to 30s; suffixes ms, s, m, h, d)"},
    {"NRW_DNS_TIMEOUT=99ms",
     "NRW_DNS_TIMEOUT: \"99ms\" is out of range (100ms to 30s; suffixes ms, s, m, h, d)"},
    {"NRW_DNS_TIMEOUT=31s",
     "NRW_DNS_TIMEOUT: \"31s\" is out of range (100ms to 30s; suffixes ms, s, m, h, d)"},
    {"NRW_DNS_TIMEOUT=9223372036854775807d", "NRW_DNS_TIMEOUT: \"9223372036854775807d\" is not a "
                                             "duration (100ms to 30s; suffixes ms, s, m, h, d)"},
    {"NRW_REQUESTS_MAX=0", "NRW_REQUESTS_MAX: \"0\" is out of range (1 to 100000)"},
    {"NRW_REQUESTS_MAX=-1", "NRW_REQUESTS_MAX: \"-1\" is not a whole number (1 to 100000)"},
    {"NRW_REQUESTS_MAX= 5", "NRW_REQUESTS_MAX: \" 5\" is not a whole number (1 to 100000)"},
    {"NRW_REQUESTS_MAX=18446744073709551617",
     "NRW_REQUESTS_MAX: \"18446744073709551617\" is not a whole number (1 to 100000)"},
    {"NRW_EVENT_BYTES_MAX=64MB", "NRW_EVENT_BYTES_MAX: \"64MB\" is not a size in bytes (1MiB to "
                                 "16GiB; suffixes KiB, MiB, GiB)"},
    {"NRW_EVENT_BYTES_MAX=17GiB", "NRW_EVENT_BYTES_MAX: \"17GiB\" is out of range (1MiB to 16GiB; "
                                  "suffixes KiB, MiB, GiB)"},
    {"NRW_ALLOW_HTTP=True", "NRW_ALLOW_HTTP: \"True\" is not a boolean (true, false)"},
    {"NRW_LOG_LEVEL=trace",
     "NRW_LOG_LEVEL: \"trace\" is not a log level (debug, info, warn, error)"},
    {"NRW_RETRY_DELAYS=0s,30s,2m,10m", "NRW_RETRY_DELAYS: \"0s,30s,2m,10m\" is not a list of five "
                                       "durations (each 0s to 7d; suffixes ms, s, m, h, d)"},
    {"NRW_RETRY_DELAYS=0s,30s,2m,10m,1h,",
     "NRW_RETRY_DELAYS: \"0s,30s,2m,10m,1h,\" is not a list of "
     "five durations (each 0s to 7d; suffixes ms, s, m, h, d)"},
    {"NRW_RETRY_DELAYS=0s,30s,2m,10m,8d",
     "NRW_RETRY_DELAYS: \"0s,30s,2m,10m,8d\" is not a list of "
     "five durations (each 0s to 7d; suffixes ms, s, m, h, d)"},
    {"NRW_TOPIC=a\nNRW_GROUP=b", "NRW_TOPIC: contains a control character"},
    {"NRW_LOG_LEVEL=a\nb\x01\xff",
     "NRW_LOG_LEVEL: \"a?b??\" is not a log level (debug, info, warn, error)"},
    {"NRW_DNS_TIMOUT=1s", "NRW_DNS_TIMOUT: no such setting; did you mean NRW_DNS_TIMEOUT?"},
    {"NRW_topic=x", "NRW_topic: no such setting; did you mean NRW_TOPIC?"},
    {"NRW_KEYRING_FIL=x", "NRW_KEYRING_FIL: no such setting; did you mean NRW_KEYRING_FILE?"},
    {"NRW_SOMETHING_ELSE=x", "NRW_SOMETHING_ELSE: no such setting"},
    {"NRW_=x", "NRW_: no such setting"},
    {"NRW_TOPIC_FILE=/x", "NRW_TOPIC_FILE: only secrets are read from a file; set NRW_TOPIC"},
    {"NRW_KEYRING_FILE=/x", "NRW_KEYRING: given twice, also as NRW_KEYRING_FILE"},
    {"NRW_KAFKA_BROKERS=k2:9092", "NRW_KAFKA_BROKERS: given more than once"},
    {"NRW_REDIS_URL_FILE=/nowhere/x", "NRW_REDIS_URL_FILE: /nowhere/x: No such file or directory"},
    {"NRW_REDIS_URL_FILE=/dev/zero", "NRW_REDIS_URL_FILE: /dev/zero is larger than 64 KiB"},
    {"NRW_REDIS_URL_FILE=/dev/null", "NRW_REDIS_URL_FILE: /dev/null is empty"},
    {"NRW_REDIS_URL_FILE=/", "NRW_REDIS_URL_FILE: /: Is a directory"},
    {"NRW_REDIS_URL_FILE=redis://:hunter2@h",
     "NRW_REDIS_URL_FILE: the file: No such file or directory"},
};

static void test_bad_values_are_told_with_what_would_be_right(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad_rows) / sizeof(*bad_rows); i++) {
        struct loaded l;
        char expected[256];
        LOAD(&l, REQUIRED, bad_rows[i].entry);
        assert_false(l.ok);
        assert_true(snprintf(expected, sizeof(expected), "%s\n", bad_rows[i].line) <
                    (int)sizeof(expected));
        assert_string_equal(expected, l.text);
        unload(&l);
    }
}

static void test_all_problems_come_at_once(void **state)
{
    (void)state;
    struct loaded l;
    LOAD(&l, "NRW_KAFKA_BROKERS=", "NRW_DNS_TIMEOUT=x", "NRW_NONSENSE=1", "NRW_REQUESTS_MAX=0",
         "NRW_DATABASE_URL=\x01hunter2");
    assert_false(l.ok);
    assert_has_line(l.text, "NRW_NONSENSE: no such setting");
    assert_has_line(l.text,
                    "NRW_KAFKA_BROKERS: must be set (bootstrap servers, host:port[,host:port])");
    assert_has_line(l.text, "NRW_REQUESTS_MAX: \"0\" is out of range (1 to 100000)");
    assert_has_line(l.text, "NRW_DATABASE_URL: contains a control character");
    assert_non_null(strstr(l.text, "NRW_KEYRING: must be set"));
    int lines = 0;
    for (const char *p = l.text; *p != '\0'; p++) {
        lines += *p == '\n';
    }
    assert_int_equal(6, lines);
    unload(&l);
}

static void test_a_name_of_any_length_is_only_unknown(void **state)
{
    (void)state;
    char entry[5000];
    memset(entry, 'A', sizeof(entry));
    memcpy(entry, "NRW_", 4);
    entry[sizeof(entry) - 3] = '=';
    entry[sizeof(entry) - 1] = '\0';
    struct loaded l;
    LOAD(&l, REQUIRED, entry);
    assert_false(l.ok);
    assert_true(strlen(l.text) < 120);
    assert_non_null(strstr(l.text, "...: no such setting\n"));
    unload(&l);
}

static void test_a_secret_comes_from_its_file(void **state)
{
    (void)state;
    static const struct {
        const char *content;
        size_t len;
        const char *value; /* NULL: refused */
    } rows[] = {
        {"redis://x", 9, "redis://x"},
        {"redis://x\n", 10, "redis://x"},
        {"redis://x\r\n", 11, "redis://x"},
        {"redis://x\n\n", 11, "redis://x\n"},
        {"\n", 1, NULL},
        {"redis\0x", 7, NULL},
        {"redis\vx", 7, NULL},
        {"{\n\t\"keys\": []}", 14, "{\n\t\"keys\": []}"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char path[] = "/tmp/nrw-test-config-XXXXXX";
        char entry[64];
        int fd = mkstemp(path);
        assert_true(fd != -1);
        assert_int_equal(rows[i].len, write(fd, rows[i].content, rows[i].len));
        close(fd);
        assert_true(snprintf(entry, sizeof(entry), "NRW_REDIS_URL_FILE=%s", path) > 0);
        struct loaded l;
        LOAD(&l, REQUIRED, entry, "NRW_REDIS_URL=");
        assert_int_equal(rows[i].value != NULL, l.ok);
        if (rows[i].value != NULL) {
            assert_string_equal(rows[i].value, l.cfg.redis_url);
        }
        unload(&l);
        unlink(path);
    }
}

static void test_printing_masks_secrets_and_reads_back_the_same(void **state)
{
    (void)state;
    struct loaded l;
    LOAD(&l, REQUIRED, "NRW_SEND_TIMEOUT=2500ms");
    char *text = printed(&l.cfg);
    assert_null(strstr(text, "hunter2"));
    assert_has_line(text, "NRW_KEYRING=******");
    assert_has_line(text, "NRW_DATABASE_URL=******");
    assert_has_line(text, "NRW_DENY_CIDRS=");

    char *envp[128] = {NULL};
    int n = 0;
    for (char *at = text, *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        *end = '\0';
        envp[n++] = at;
    }
    struct loaded again = {.ok = false};
    buf_init(&again.problems, 4096);
    assert_true(config_load(&again.cfg, CONFIG_WORKER, envp, &again.problems));
    char *text_again = printed(&again.cfg);
    for (char *p = text_again, *q = envp[0]; *p != '\0'; p++, q++) {
        assert_int_equal(*p == '\n' ? '\0' : *p, *q);
    }
    free(text_again);
    unload(&again);
    free(text);
    unload(&l);
}

static void test_the_reference_has_a_row_for_each_setting(void **state)
{
    (void)state;
    char *text = printed(NULL);
#define SETTING(field, kind, def, lo, hi, by, meaning)                                             \
    assert_non_null(strstr(text, "| " meaning " |"));
#include "config.def"
#undef SETTING
    assert_has_line(
        text, "| `NRW_DNS_TIMEOUT` | `2s` | duration, 100ms to 30s | worker | one name look-up, "
              "all tries together |");
    assert_has_line(text,
                    "| `NRW_KEYRING` | **required** | secret text, or a file's path in "
                    "`NRW_KEYRING_FILE` | both | keys that seal webhook secrets: id:base64 of 32 "
                    "bytes, comma or newline separated, the first one seals |");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_are_used_where_nothing_is_given),
        cmocka_unit_test(test_each_program_requires_only_what_it_uses),
        cmocka_unit_test(test_no_retry_can_be_a_minute_late),
        cmocka_unit_test(test_a_change_whose_notification_was_lost_holds_within_30_s),
        cmocka_unit_test(test_good_values_are_taken_exactly),
        cmocka_unit_test(test_bad_values_are_told_with_what_would_be_right),
        cmocka_unit_test(test_all_problems_come_at_once),
        cmocka_unit_test(test_a_name_of_any_length_is_only_unknown),
        cmocka_unit_test(test_a_secret_comes_from_its_file),
        cmocka_unit_test(test_printing_masks_secrets_and_reads_back_the_same),
        cmocka_unit_test(test_the_reference_has_a_row_for_each_setting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
