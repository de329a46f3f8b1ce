/* The three layers of a librdkafka configuration: defaults, the operator's file, what must not
 * change. */
#include "kafka_conf.h"

#include "worker_fixture.h"

#include <stdio.h>

static struct config settings;
static char path[] = "/tmp/nrw-test-kafka-conf-XXXXXX";

static int begin(void **state)
{
    (void)state;
    settings_defaults(&settings);
    const int fd = mkstemp(path);
    if (fd == -1) {
        return -1;
    }
    close(fd);
    return 0;
}

static int end(void **state)
{
    (void)state;
    config_free(&settings);
    return unlink(path);
}

static void write_file(const char *text)
{
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(0, fclose(f));
    settings_set(&settings.kafka_conf, path);
}

static void no_file(void)
{
    settings_set(&settings.kafka_conf, "");
}

static void expect(const rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char got[512] = "";
    size_t size = sizeof(got);
    assert_int_equal(RD_KAFKA_CONF_OK, rd_kafka_conf_get(conf, name, got, &size));
    if (strcmp(value, got) != 0) {
        fail_msg("%s is %s, not %s", name, got, value);
    }
}

static rd_kafka_conf_t *consumer(void)
{
    struct err err = {0};
    rd_kafka_conf_t *conf = kafka_conf_consumer(&settings, &err);
    if (conf == NULL) {
        fail_msg("%s", err.text);
    }
    return conf;
}

static void what_offsets_depend_on_is_fixed(void **state)
{
    (void)state;
    no_file();
    rd_kafka_conf_t *conf = consumer();
    expect(conf, "enable.auto.offset.store", "false");
    expect(conf, "enable.auto.commit", "true");
    expect(conf, "auto.offset.reset", "smallest"); /* librdkafka's other name of earliest */
    expect(conf, "enable.partition.eof", "false");
    expect(conf, "group.id", settings.group);
    expect(conf, "bootstrap.servers", "127.0.0.1:1");
    expect(conf, "log.queue", "true");
    rd_kafka_conf_destroy(conf);
}

static void dead_letters_are_produced_once_and_to_all_replicas(void **state)
{
    (void)state;
    no_file();
    struct err err = {0};
    rd_kafka_conf_t *conf = kafka_conf_producer(&settings, &err);
    assert_non_null(conf);
    expect(conf, "acks", "-1");
    expect(conf, "enable.idempotence", "false");
    expect(conf, "bootstrap.servers", "127.0.0.1:1");
    rd_kafka_conf_destroy(conf);
}

static void prefetch_is_bounded(void **state)
{
    (void)state;
    no_file();
    rd_kafka_conf_t *conf = consumer();
    expect(conf, "queued.max.messages.kbytes", "16384");
    expect(conf, "fetch.message.max.bytes", "1048576");
    rd_kafka_conf_destroy(conf);
}

static void the_file_adds_and_overrides_defaults(void **state)
{
    (void)state;
    write_file("# SASL\n"
               "\n"
               "   \t \n"
               "security.protocol=SASL_SSL\r\n"
               "  sasl.mechanism =  SCRAM-SHA-512  \n"
               "sasl.username=nrw\n"
               "sasl.password=a=b=c\n"
               "session.timeout.ms=9000\n"
               "bootstrap.servers=127.0.0.1:2\n"
               "enable.auto.offset.store=false\n"
               "client.rack=last line without its end");
    rd_kafka_conf_t *conf = consumer();
    expect(conf, "security.protocol", "sasl_ssl");
    expect(conf, "sasl.mechanism", "SCRAM-SHA-512");
    expect(conf, "sasl.username", "nrw");
    expect(conf, "sasl.password", "a=b=c");
    expect(conf, "session.timeout.ms", "9000");
    expect(conf, "bootstrap.servers", "127.0.0.1:2");
    expect(conf, "client.rack", "last line without its end");
    expect(conf, "max.poll.interval.ms", "300000"); /* what it does not name stays */
    rd_kafka_conf_destroy(conf);
}

static const struct {
    const char *name;
    const char *text;
    const char *says;
} refused[] = {
    {"stores by itself", "enable.auto.offset.store=true\n", "enable.auto.offset.store"},
    {"never commits", "\n\nenable.auto.commit=false\n", "line 3"},
    {"skips what is there", "auto.offset.reset=latest\n", "must stay earliest"},
    {"end of partition", "enable.partition.eof = true\n", "enable.partition.eof"},
    {"unknown property", "no.such.thing=1\n", "no.such.thing"},
    {"unreadable value", "session.timeout.ms=soon\n", "session.timeout.ms"},
    {"out of range", "session.timeout.ms=0\n", "session.timeout.ms"},
    {"no value", "session.timeout.ms\n", "key=value"},
    {"no name", "=5\n", "line 1"},
    {"binary", "\x01\x02\x03\n", "key=value"},
};

static void what_the_file_must_not_say_is_refused_with_line_and_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(refused); i++) {
        struct err err = {0};
        write_file(refused[i].text);
        rd_kafka_conf_t *conf = kafka_conf_consumer(&settings, &err);
        if (conf != NULL) {
            rd_kafka_conf_destroy(conf);
            fail_msg("%s: accepted", refused[i].name);
        }
        assert_int_equal(ERR_INVALID, err.code);
        assert_non_null(strstr(err.text, path));
        if (strstr(err.text, refused[i].says) == NULL) {
            fail_msg("%s: %s", refused[i].name, err.text);
        }
    }
}

/* Names of old that librdkafka still takes: whatever they set, the fixed value wins. */
static void an_alias_does_not_get_around_what_is_fixed(void **state)
{
    (void)state;
    write_file("auto.commit.enable=false\n");
    struct err err = {0};
    rd_kafka_conf_t *conf = consumer();
    expect(conf, "enable.auto.commit", "true");
    rd_kafka_conf_destroy(conf);
    write_file("request.required.acks=1\n");
    conf = kafka_conf_producer(&settings, &err);
    assert_non_null(conf);
    expect(conf, "acks", "-1");
    rd_kafka_conf_destroy(conf);
}

static void the_group_is_the_settings(void **state)
{
    (void)state;
    write_file("group.id=another\n");
    rd_kafka_conf_t *conf = consumer();
    expect(conf, "group.id", settings.group);
    rd_kafka_conf_destroy(conf);
}

static void one_file_serves_both_clients(void **state)
{
    (void)state;
    struct err err = {0};
    write_file("security.protocol=plaintext\nsession.timeout.ms=9000\nlinger.ms=1\n");
    rd_kafka_conf_t *one = kafka_conf_consumer(&settings, &err);
    rd_kafka_conf_t *two = kafka_conf_producer(&settings, &err);
    assert_non_null(one);
    assert_non_null(two);
    rd_kafka_conf_destroy(one);
    rd_kafka_conf_destroy(two);
}

static void a_file_that_cannot_be_read_is_named(void **state)
{
    (void)state;
    struct err err = {0};
    settings_set(&settings.kafka_conf, "/nonexistent/nrw.properties");
    assert_null(kafka_conf_consumer(&settings, &err));
    assert_int_equal(ERR_IO, err.code);
    assert_non_null(strstr(err.text, "/nonexistent/nrw.properties"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_offsets_depend_on_is_fixed),
        cmocka_unit_test(dead_letters_are_produced_once_and_to_all_replicas),
        cmocka_unit_test(prefetch_is_bounded),
        cmocka_unit_test(the_file_adds_and_overrides_defaults),
        cmocka_unit_test(what_the_file_must_not_say_is_refused_with_line_and_name),
        cmocka_unit_test(an_alias_does_not_get_around_what_is_fixed),
        cmocka_unit_test(the_group_is_the_settings),
        cmocka_unit_test(one_file_serves_both_clients),
        cmocka_unit_test(a_file_that_cannot_be_read_is_named),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
