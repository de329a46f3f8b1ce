/* Builds librdkafka configurations in three layers: our defaults, the operator's file, then what
 * must not be changed. Called once per client at boot. */
#include "kafka_conf.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"

struct property {
    const char *name;
    const char *value;
};

/* Bounded prefetch (practices 1.2): one queue of 16 MiB, messages of at most 1 MiB a fetch and
 * partition. */
static const struct property consumer_defaults[] = {
    {"client.id", "netrecon-webhooks-worker"},
    {"auto.commit.interval.ms", "1000"},
    {"session.timeout.ms", "10000"},
    {"max.poll.interval.ms", "300000"},
    {"queued.min.messages", "20000"},
    {"queued.max.messages.kbytes", "16384"},
    {"fetch.max.bytes", "8388608"},
    {"fetch.message.max.bytes", "1048576"},
    {"fetch.wait.max.ms", "100"},
    {"reconnect.backoff.max.ms", "2000"},
    {"topic.metadata.refresh.interval.ms", "30000"},
    {"partition.assignment.strategy", "range,roundrobin"},
};
static const struct property consumer_fixed[] = {
    {"enable.auto.offset.store", "false"},
    {"enable.auto.commit", "true"},
    {"auto.offset.reset", "earliest"},
    {"enable.partition.eof", "false"},
};
static const struct property producer_defaults[] = {
    {"client.id", "netrecon-webhooks-worker"}, {"message.max.bytes", "16777216"},
    {"message.timeout.ms", "30000"},           {"linger.ms", "5"},
    {"reconnect.backoff.max.ms", "2000"},      {"compression.type", "none"},
};
/* Not idempotent: a missing right or a gap in its sequence would be fatal to the producer, and a
 * letter is tried again for ever. One that is there twice does no harm: a redriven event keeps its
 * id. */
static const struct property producer_fixed[] = {
    {"acks", "all"},
    {"enable.idempotence", "false"},
};

#define N(a) (sizeof(a) / sizeof(*(a)))

static bool set(rd_kafka_conf_t *conf, const char *name, const char *value, struct err *err)
{
    char why[200];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof(why)) != RD_KAFKA_CONF_OK) {
        return err_set(err, ERR_INVALID, "Kafka property %s: %s", name, why);
    }
    return true;
}

static bool set_all(rd_kafka_conf_t *conf, const struct property *p, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!set(conf, p[i].name, p[i].value, err)) {
            return false;
        }
    }
    return true;
}

static char *trim(char *s)
{
    while (isspace((unsigned char)*s)) {
        s++;
    }
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1])) {
        end--;
    }
    *end = '\0';
    return s;
}

/* One line of the file; blank lines and comments pass. */
static bool set_line(rd_kafka_conf_t *conf, char *line, const struct property *fixed,
                     size_t n_fixed, struct err *err)
{
    char *name = trim(line);
    if (*name == '\0' || *name == '#') {
        return true;
    }
    char *eq = strchr(name, '=');
    if (eq == NULL) {
        return err_set(err, ERR_INVALID, "\"%.60s\" is not key=value", name);
    }
    *eq = '\0';
    name = trim(name);
    const char *value = trim(eq + 1);
    for (size_t i = 0; i < n_fixed; i++) {
        if (strcmp(fixed[i].name, name) == 0 && strcmp(fixed[i].value, value) != 0) {
            return err_set(err, ERR_INVALID, "%s must stay %s", name, fixed[i].value);
        }
    }
    return set(conf, name, value, err);
}

static bool read_file(rd_kafka_conf_t *conf, const char *path, const struct property *fixed,
                      size_t n_fixed, struct err *err)
{
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return err_set(err, ERR_IO, "NRW_KAFKA_CONF: cannot open %s: %s", path, strerror(errno));
    }
    char *line = NULL;
    size_t cap = 0;
    bool ok = true;
    for (int n = 1; ok && getline(&line, &cap, f) != -1; n++) {
        ok = set_line(conf, line, fixed, n_fixed, err);
        if (!ok) {
            (void)err_prefix(err, "NRW_KAFKA_CONF: %s line %d", path, n);
        }
    }
    if (line != NULL) {
        OPENSSL_cleanse(line, cap); /* a password may have been in it */
    }
    free(line);
    (void)fclose(f); /* read only: nothing can be lost */
    return ok;
}

static rd_kafka_conf_t *build(const struct config *cfg, const struct property *defaults,
                              size_t n_defaults, const struct property *fixed, size_t n_fixed,
                              struct err *err)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    bool ok = set_all(conf, defaults, n_defaults, err) &&
              set(conf, "bootstrap.servers", cfg->kafka_brokers, err);
    if (ok && cfg->kafka_conf[0] != '\0') {
        ok = read_file(conf, cfg->kafka_conf, fixed, n_fixed, err);
    }
    ok = ok && set(conf, "log.queue", "true", err) && set_all(conf, fixed, n_fixed, err);
    if (!ok) {
        rd_kafka_conf_destroy(conf);
        return NULL;
    }
    return conf;
}

rd_kafka_conf_t *kafka_conf_consumer(const struct config *cfg, struct err *err)
{
    rd_kafka_conf_t *conf =
        build(cfg, consumer_defaults, N(consumer_defaults), consumer_fixed, N(consumer_fixed), err);
    if (conf != NULL && !set(conf, "group.id", cfg->group, err)) {
        rd_kafka_conf_destroy(conf);
        return NULL;
    }
    return conf;
}

rd_kafka_conf_t *kafka_conf_producer(const struct config *cfg, struct err *err)
{
    return build(cfg, producer_defaults, N(producer_defaults), producer_fixed, N(producer_fixed),
                 err);
}

void kafka_log_event(rd_kafka_event_t *event, const char *client)
{
    const char *facility = "";
    const char *text = "";
    int level = 7;
    if (rd_kafka_event_log(event, &facility, &text, &level) != 0) {
        return;
    }
    /* syslog levels: 0-3 errors, 4 warning, 5 notice, 6 info, 7 debug */
    if (level <= 3) {
        log_error("kafka.log", F_STR("client", client), F_STR("facility", facility),
                  F_STR("text", text));
    } else if (level == 4) {
        log_warn("kafka.log", F_STR("client", client), F_STR("facility", facility),
                 F_STR("text", text));
    } else {
        log_info("kafka.log", F_STR("client", client), F_STR("facility", facility),
                 F_STR("text", text));
    }
}
