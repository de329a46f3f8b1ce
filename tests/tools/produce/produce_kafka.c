/* The producer: librdkafka with acks=all and idempotence, and the file of acknowledged event ids.
 * Owns the producer and that file. It does not know what a message means; produce.c builds them. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "produce.h"

#define ACKED_FLUSH_AT ((size_t)64 * 1024)
#define LINE_MAX_BYTES 4096

static void acked_write(struct produce *p)
{
    size_t done = 0;
    while (done < p->acked_ids.len) {
        ssize_t n = write(p->acked_fd, p->acked_ids.data + done, p->acked_ids.len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            produce_fail(p->acked_path, strerror(errno));
        done += (size_t)n;
    }
    buf_reset(&p->acked_ids);
}

/* The id of the event travels as the message's opaque; NULL for a raw message without one. */
static void on_report(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    struct produce *p = opaque;
    struct uuid *id = m->_private;
    (void)rk;
    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        p->failed++;
        (void)snprintf(p->last_error, sizeof(p->last_error), "%s", rd_kafka_err2str(m->err));
    } else {
        p->acked++;
        if (id != NULL && p->acked_fd >= 0) {
            char text[UUID_TEXT + 1];
            uuid_format(id, text);
            buf_add(&p->acked_ids, text, UUID_TEXT);
            buf_add(&p->acked_ids, "\n", 1);
        }
    }
    free(id);
    if (p->acked_ids.len >= ACKED_FLUSH_AT)
        acked_write(p);
}

void produce_poll(struct produce *p, int wait_ms)
{
    (void)rd_kafka_poll(p->rk, wait_ms);
    if (p->acked_ids.len > 0)
        acked_write(p);
}

static void set_property(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char why[256];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof(why)) != RD_KAFKA_CONF_OK)
        produce_fail(name, why);
}

/* "name=value", spaces around both allowed. */
static void set_property_line(rd_kafka_conf_t *conf, const char *line)
{
    char text[LINE_MAX_BYTES];
    if (snprintf(text, sizeof(text), "%s", line) >= (int)sizeof(text))
        produce_fail("property", "line too long");
    char *name = text + strspn(text, " \t");
    char *end = name + strcspn(name, "\r\n");
    while (end > name && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *end = '\0';
    if (*name == '\0' || *name == '#')
        return;
    char *equals = strchr(name, '=');
    if (equals == NULL)
        produce_fail(name, "wants name=value");
    char *value = equals + 1 + strspn(equals + 1, " \t");
    while (equals > name && (equals[-1] == ' ' || equals[-1] == '\t'))
        equals--;
    *equals = '\0';
    set_property(conf, name, value);
}

static void load_properties(const struct produce *p, rd_kafka_conf_t *conf)
{
    char line[LINE_MAX_BYTES];
    if (p->conf_path != NULL) {
        FILE *f = fopen(p->conf_path, "re");
        if (f == NULL)
            produce_fail(p->conf_path, strerror(errno));
        while (fgets(line, sizeof(line), f) != NULL)
            set_property_line(conf, line);
        (void)fclose(f);
    }
    for (size_t i = 0; i < p->properties_n; i++)
        set_property_line(conf, p->properties[i]);
}

void produce_connect(struct produce *p)
{
    char text[32];
    char why[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    buf_init(&p->acked_ids, 4 * ACKED_FLUSH_AT);
    if (p->acked_path != NULL) {
        p->acked_fd = open(p->acked_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (p->acked_fd < 0)
            produce_fail(p->acked_path, strerror(errno));
    }
    set_property(conf, "bootstrap.servers", p->brokers);
    set_property(conf, "acks", "all");
    set_property(conf, "enable.idempotence", "true");
    set_property(conf, "linger.ms", p->rate > 0 ? "0" : "20");
    set_property(conf, "message.max.bytes", "16777216");
    set_property(conf, "queue.buffering.max.messages", "200000");
    set_property(conf, "queue.buffering.max.kbytes", "262144");
    (void)snprintf(text, sizeof(text), "%" PRIu64, p->timeout_s * 1000);
    set_property(conf, "message.timeout.ms", text);
    load_properties(p, conf);
    rd_kafka_conf_set_opaque(conf, p);
    rd_kafka_conf_set_dr_msg_cb(conf, on_report);
    p->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
    if (p->rk == NULL)
        produce_fail("librdkafka", why);
}

void produce_wait_for_topic(struct produce *p)
{
    int64_t until = clock_mono_us() + 60ll * 1000 * 1000;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(p->rk, p->topic, NULL);
    bool known = false;
    while (topic != NULL && !known && !produce_stopped && clock_mono_us() < until) {
        const struct rd_kafka_metadata *metadata = NULL;
        if (rd_kafka_metadata(p->rk, 0, topic, &metadata, 1000) == RD_KAFKA_RESP_ERR_NO_ERROR) {
            known = metadata->topic_cnt == 1 &&
                    metadata->topics[0].err == RD_KAFKA_RESP_ERR_NO_ERROR &&
                    metadata->topics[0].partition_cnt > 0;
            rd_kafka_metadata_destroy(metadata);
        }
        if (!known)
            produce_poll(p, 200);
    }
    if (topic != NULL)
        rd_kafka_topic_destroy(topic);
    if (!known)
        produce_fail(p->topic, "the broker does not know the topic");
}

void produce_send(struct produce *p, const char *key, const char *value, size_t len,
                  struct uuid *id)
{
    for (;;) {
        rd_kafka_headers_t *headers = p->headers == NULL ? NULL : rd_kafka_headers_copy(p->headers);
        rd_kafka_vu_t fields[] = {
            {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = p->topic},
            {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
            {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {(void *)(uintptr_t)value, len}},
            {.vtype = RD_KAFKA_VTYPE_KEY,
             .u.mem = {(void *)(uintptr_t)key, key == NULL ? 0 : strlen(key)}},
            {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = id},
            {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = p->timestamp_ms},
            {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
        };
        size_t n = sizeof(fields) / sizeof(*fields) - (headers == NULL);
        rd_kafka_error_t *error = rd_kafka_produceva(p->rk, fields, n);
        if (error == NULL) {
            p->sent++;
            return;
        }
        rd_kafka_resp_err_t code = rd_kafka_error_code(error);
        if (headers != NULL)
            rd_kafka_headers_destroy(headers);
        if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL || produce_stopped) {
            p->failed++;
            (void)snprintf(p->last_error, sizeof(p->last_error), "%s",
                           rd_kafka_error_string(error));
            rd_kafka_error_destroy(error);
            free(id);
            return;
        }
        rd_kafka_error_destroy(error);
        produce_poll(p, 50);
    }
}

void produce_finish(struct produce *p)
{
    while (rd_kafka_outq_len(p->rk) >
           0) /* ends: each message is reported after message.timeout.ms at the latest */
        produce_poll(p, 100);
    rd_kafka_destroy(p->rk);
    if (p->headers != NULL)
        rd_kafka_headers_destroy(p->headers);
    buf_done(&p->acked_ids);
    if (p->acked_fd >= 0)
        (void)close(p->acked_fd);
}
