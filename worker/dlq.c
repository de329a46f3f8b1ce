/* Owns reading the dead-letter topic from end to end and producing single letters again. The
 * letters are deadletter.c's; here they are only looked at. commands.c calls it. */
#include "dlq.h"

#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buf.h"
#include "check.h"
#include "clock.h"
#include "config.h"
#include "err.h"
#include "kafka_conf.h"
#include "mem.h"
#include "shell.h"

#define KAFKA_MS     10000             /* for an answer of the brokers         */
#define SILENCE_US   INT64_C(15000000) /* no letter and no end for so long: give up */
#define ONLY_MAX     1000              /* --letter                          */
#define REPORTS_OPEN 1000              /* letters on their way back at once */
#define LINE_MAX     4096

static const char usage[] =
    "Usage: netrecon-webhooks-worker dlq list    [SELECTION]\n"
    "       netrecon-webhooks-worker dlq redrive SELECTION [--dry-run]\n"
    "\n"
    "list prints the letters of NRW_DLQ_TOPIC, one JSON line each; redrive sends their bytes to "
    "NRW_TOPIC again.\n"
    "A letter that is still wrong comes back as a new one. Letters stay where they are.\n"
    "\n"
    "SELECTION, all that is given must fit:\n"
    "  --all              every letter\n"
    "  --reason REASON    as in the letter's header (not_json, bad_member, journal_rejected ...)\n"
    "  --since TIME       written at or after this (RFC 3339)\n"
    "  --letter P:OFFSET  this one of partition P; can be given again\n"
    "  --dry-run          say what would be sent\n";

struct letter_id {
    int32_t partition;
    int64_t offset;
};

struct selection {
    bool redrive;
    bool dry_run;
    bool all;
    const char *reason;
    int64_t since_ms; /* 0: from the beginning */
    struct letter_id only[ONLY_MAX];
    size_t only_n;
};

struct job {
    struct config cfg;
    const struct selection *sel;
    rd_kafka_t *consumer;
    rd_kafka_t *producer;
    rd_kafka_topic_partition_list_t *ends; /* offset: where reading stops */
    int open_partitions;
    uint64_t seen, selected, sent, refused;
    uint64_t reports; /* not there yet */
};

/* --- what is asked for ------------------------------------------------------------------ */

static bool parse_letter(const char *text, struct letter_id *ret)
{
    char *end;
    const long partition = strtol(text, &end, 10);
    if (end == text || *end != ':' || partition < 0 || partition > INT32_MAX) {
        return false;
    }
    const char *offset = end + 1;
    ret->partition = (int32_t)partition;
    ret->offset = strtoll(offset, &end, 10);
    return end != offset && *end == '\0' && ret->offset >= 0;
}

static bool take_value(struct selection *s, const char *name, const char *value)
{
    int64_t since_us;
    if (strcmp(name, "--reason") == 0) {
        s->reason = value;
        return true;
    }
    if (strcmp(name, "--since") == 0) {
        if (!clock_parse_rfc3339(value, strlen(value), &since_us) || since_us < 0) {
            return false;
        }
        s->since_ms = since_us / 1000;
        return true;
    }
    return strcmp(name, "--letter") == 0 && s->only_n < ONLY_MAX &&
           parse_letter(value, &s->only[s->only_n++]);
}

static bool parse(int argc, char *const *argv, struct selection *s)
{
    if (argc < 2 || (strcmp(argv[1], "list") != 0 && strcmp(argv[1], "redrive") != 0)) {
        return false;
    }
    s->redrive = strcmp(argv[1], "redrive") == 0;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--all") == 0) {
            s->all = true;
        } else if (strcmp(argv[i], "--dry-run") == 0 && s->redrive) {
            s->dry_run = true;
        } else if (i + 1 < argc && take_value(s, argv[i], argv[i + 1])) {
            i++;
        } else {
            return false;
        }
    }
    const bool selects = s->all || s->reason != NULL || s->since_ms > 0 || s->only_n > 0;
    return selects || !s->redrive; /* everything goes back only when somebody says so */
}

/* --- letters ---------------------------------------------------------------------------- */

static const char *header(const rd_kafka_headers_t *headers, const char *name)
{
    const void *value;
    size_t len;
    if (headers == NULL ||
        rd_kafka_header_get_last(headers, name, &value, &len) != RD_KAFKA_RESP_ERR_NO_ERROR) {
        return "";
    }
    return value; /* librdkafka ends header values with a NUL of its own */
}

static bool fits(const struct selection *s, const rd_kafka_message_t *m, const char *reason)
{
    if (s->reason != NULL && strcmp(reason, s->reason) != 0) {
        return false;
    }
    rd_kafka_timestamp_type_t type;
    if (s->since_ms > 0 && rd_kafka_message_timestamp(m, &type) < s->since_ms) {
        return false;
    }
    for (size_t i = 0; i < s->only_n; i++) {
        if (s->only[i].partition == m->partition && s->only[i].offset == m->offset) {
            return true;
        }
    }
    return s->only_n == 0;
}

/* Never the payload: it is a customer's. */
static void print_letter(const rd_kafka_message_t *m, const rd_kafka_headers_t *headers)
{
    static const char *const names[] = {"reason", "error", "topic", "partition", "offset"};
    char time[CLOCK_RFC3339_SIZE];
    rd_kafka_timestamp_type_t type;
    struct buf line;
    buf_init(&line, LINE_MAX);
    clock_format_rfc3339(rd_kafka_message_timestamp(m, &type) * 1000, time);
    buf_add_fmt(&line, "{\"letter\":\"%" PRId32 ":%" PRId64 "\",\"time\":\"%s\",\"bytes\":%zu",
                m->partition, m->offset, time, m->len);
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        const char *value = header(headers, names[i]);
        buf_add_fmt(&line, ",\"%s\":",
                    i < 3    ? names[i]
                    : i == 3 ? "from_partition"
                             : "from_offset");
        buf_add_json_string(&line, value, strlen(value));
    }
    buf_add_str(&line, "}");
    (void)puts(buf_ok(&line) ? buf_cstr(&line) : "{}");
    buf_done(&line);
}

static void on_report(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    struct job *j = opaque;
    (void)rk;
    j->reports--;
    if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        j->sent++;
        return;
    }
    j->refused++;
    (void)fprintf(stderr, "dlq: a letter did not get through: %s\n", rd_kafka_err2str(m->err));
}

static bool send_back(struct job *j, const rd_kafka_message_t *m)
{
    rd_kafka_timestamp_type_t type;
    while (j->reports >= REPORTS_OPEN) {
        rd_kafka_poll(j->producer, 100); /* message.timeout.ms ends it */
    }
    const rd_kafka_vu_t parts[] = {
        {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = j->cfg.topic},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {m->key, m->key_len}},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {m->payload, m->len}},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = rd_kafka_message_timestamp(m, &type)},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
    };
    rd_kafka_error_t *e = rd_kafka_produceva(j->producer, parts, sizeof(parts) / sizeof(*parts));
    if (e != NULL) {
        (void)fprintf(stderr, "dlq: %s\n", rd_kafka_error_string(e));
        rd_kafka_error_destroy(e);
        return false;
    }
    j->reports++;
    return true;
}

static bool take_letter(struct job *j, const rd_kafka_message_t *m)
{
    rd_kafka_headers_t *headers = NULL;
    (void)rd_kafka_message_headers(m, &headers); /* without headers it is no letter of ours */
    j->seen++;
    if (!fits(j->sel, m, header(headers, "reason"))) {
        return true;
    }
    j->selected++;
    if (!j->sel->redrive || j->sel->dry_run) {
        print_letter(m, headers);
        return true;
    }
    return send_back(j, m);
}

/* --- the topic, from end to end --------------------------------------------------------- */

static bool kafka_failed(const char *what, rd_kafka_resp_err_t e)
{
    (void)fprintf(stderr, "dlq: %s: %s\n", what, rd_kafka_err2str(e));
    return false;
}

/* Every partition from its beginning to where it ends now. */
static bool assign(struct job *j)
{
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(j->consumer, j->cfg.dlq_topic, NULL);
    const rd_kafka_resp_err_t e = rd_kafka_metadata(j->consumer, 0, topic, &md, KAFKA_MS);
    rd_kafka_topic_destroy(topic);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) {
        return kafka_failed("the brokers do not answer", e);
    }
    const int n = md->topic_cnt > 0 ? md->topics[0].partition_cnt : 0;
    rd_kafka_metadata_destroy(md);
    rd_kafka_topic_partition_list_t *starts = rd_kafka_topic_partition_list_new(n);
    bool ok = n > 0 || kafka_failed(j->cfg.dlq_topic, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    for (int32_t p = 0; ok && p < n; p++) {
        int64_t low;
        int64_t high;
        const rd_kafka_resp_err_t w = rd_kafka_query_watermark_offsets(
            j->consumer, j->cfg.dlq_topic, p, &low, &high, KAFKA_MS);
        ok = w == RD_KAFKA_RESP_ERR_NO_ERROR || kafka_failed("a partition's offsets", w);
        if (ok && low < high) {
            rd_kafka_topic_partition_list_add(starts, j->cfg.dlq_topic, p)->offset = low;
            rd_kafka_topic_partition_list_add(j->ends, j->cfg.dlq_topic, p)->offset = high;
        }
    }
    j->open_partitions = starts->cnt;
    if (ok && starts->cnt > 0) {
        const rd_kafka_resp_err_t a = rd_kafka_assign(j->consumer, starts);
        ok = a == RD_KAFKA_RESP_ERR_NO_ERROR || kafka_failed("the partitions", a);
    }
    rd_kafka_topic_partition_list_destroy(starts);
    return ok;
}

/* The last message of a partition may be a control record that nobody sees: the position counts,
 * and the end of the partition. */
static void note_position(struct job *j, int32_t partition, int64_t next)
{
    rd_kafka_topic_partition_t *end =
        rd_kafka_topic_partition_list_find(j->ends, j->cfg.dlq_topic, partition);
    if (end != NULL && next >= end->offset) {
        end->offset = INT64_MAX;
        j->open_partitions--;
    }
}

static bool read_all(struct job *j)
{
    int64_t heard_us = clock_mono_us();
    while (j->open_partitions > 0) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(j->consumer, 500);
        if (j->producer != NULL) {
            rd_kafka_poll(j->producer, 0);
        }
        if (m == NULL) {
            if (clock_mono_us() - heard_us > SILENCE_US) {
                (void)fputs("dlq: the brokers are silent\n", stderr);
                return false;
            }
            continue;
        }
        heard_us = clock_mono_us();
        bool ok = true;
        if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            const rd_kafka_topic_partition_t *end =
                rd_kafka_topic_partition_list_find(j->ends, j->cfg.dlq_topic, m->partition);
            if (end != NULL && m->offset < end->offset && end->offset != INT64_MAX) {
                ok = take_letter(j, m);
            }
            note_position(j, m->partition, m->offset + 1);
        } else if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            note_position(j, m->partition, m->offset);
        } else {
            ok = kafka_failed("reading", m->err);
        }
        rd_kafka_message_destroy(m);
        if (!ok) {
            return false;
        }
    }
    return true;
}

/* --- one run ---------------------------------------------------------------------------- */

static rd_kafka_t *client(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
    char why[200];
    if (conf == NULL) {
        return NULL;
    }
    rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof(why));
    if (rk == NULL) {
        rd_kafka_conf_destroy(conf);
        (void)fprintf(stderr, "dlq: %s\n", why);
    }
    return rk;
}

/* Logs go to stderr as librdkafka writes them: the loop that would take them does not run here. */
static rd_kafka_conf_t *conf_of(struct job *j, rd_kafka_type_t type)
{
    struct err err = {0};
    rd_kafka_conf_t *conf = type == RD_KAFKA_CONSUMER ? kafka_conf_consumer(&j->cfg, &err)
                                                      : kafka_conf_producer(&j->cfg, &err);
    if (conf == NULL) {
        (void)fprintf(stderr, "dlq: %s\n", err.text);
        return NULL;
    }
    CHECK(rd_kafka_conf_set(conf, "log.queue", "false", NULL, 0) == RD_KAFKA_CONF_OK);
    if (type == RD_KAFKA_CONSUMER) { /* nothing is committed: there is nothing to lose here */
        CHECK(rd_kafka_conf_set(conf, "enable.partition.eof", "true", NULL, 0) == RD_KAFKA_CONF_OK);
        CHECK(rd_kafka_conf_set(conf, "enable.auto.commit", "false", NULL, 0) == RD_KAFKA_CONF_OK);
    } else {
        rd_kafka_conf_set_opaque(conf, j);
        rd_kafka_conf_set_dr_msg_cb(conf, on_report);
    }
    return conf;
}

static bool run(struct job *j)
{
    const bool sends = j->sel->redrive && !j->sel->dry_run;
    j->consumer = client(RD_KAFKA_CONSUMER, conf_of(j, RD_KAFKA_CONSUMER));
    j->producer = sends ? client(RD_KAFKA_PRODUCER, conf_of(j, RD_KAFKA_PRODUCER)) : NULL;
    if (j->consumer == NULL || (sends && j->producer == NULL)) {
        return false;
    }
    rd_kafka_poll_set_consumer(j->consumer);
    bool ok = assign(j) && read_all(j);
    if (sends) {
        rd_kafka_flush(j->producer, 2 * KAFKA_MS);
        ok = ok && j->refused == 0 && j->reports == 0;
    }
    (void)fprintf(stderr, "%" PRIu64 " letters, %" PRIu64 " selected, %" PRIu64 " sent to %s\n",
                  j->seen, j->selected, j->sent, j->cfg.topic);
    return ok;
}

int dlq_command(int argc, char *const *argv)
{
    struct selection *sel = mem_zero(1, sizeof(*sel));
    struct job j = {.sel = sel};
    int code = 2;
    if (!parse(argc, argv, sel)) {
        (void)fputs(usage, stderr);
    } else if (!shell_config(&j.cfg, CONFIG_WORKER)) {
        config_free(&j.cfg);
    } else {
        j.ends = rd_kafka_topic_partition_list_new(1);
        code = run(&j) ? 0 : 1;
        if (j.consumer != NULL) {
            (void)rd_kafka_consumer_close(
                j.consumer); /* the process ends: nothing to do about it */
            rd_kafka_destroy(j.consumer);
        }
        if (j.producer != NULL) {
            rd_kafka_destroy(j.producer);
        }
        rd_kafka_topic_partition_list_destroy(j.ends);
        config_free(&j.cfg);
    }
    free(sel);
    return code;
}
