/* Owns the decision what a message is, and the life of a slot until an event or a dead letter holds
 * it. consumer brings messages; accepted events go on to subscriptions. */
#include "intake.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "envelope.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"

#define INTAKE_MAGIC        0x494e544bu
#define LAST_RECEIVED_AT_US INT64_C(253402300799000000) /* 9999-12-31T23:59:59Z */

static const char journal_rejected[] = "journal_rejected";

struct intake {
    unsigned magic;
    const struct config *cfg;
    struct deadletter *dead;
    struct event_account *account;
    void (*accepted)(void *ctx, struct nrw_event *ev);
    void *ctx;
    struct counter *events;
    struct counter *rejected[5];
};

static const struct {
    const char *reason;
    const char *label;
} reasons[] = {
    {ENVELOPE_EMPTY, "reason=\"empty\""},
    {ENVELOPE_TOO_LARGE, "reason=\"too_large\""},
    {ENVELOPE_NOT_JSON, "reason=\"not_json\""},
    {ENVELOPE_BAD_MEMBER, "reason=\"bad_member\""},
    {journal_rejected, "reason=\"journal_rejected\""},
};

static void count_rejected(struct intake *in, const char *reason)
{
    for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++) {
        if (strcmp(reasons[i].reason, reason) == 0) {
            in->rejected[i]->value++;
        }
    }
}

/* A slot that waits for its dead letter's report. */
struct dead_slot {
    struct tracker *t;
    uint64_t slot;
};

static void letter_arrived(void *ctx)
{
    struct dead_slot *s = ctx;
    tracker_done(s->t, s->slot);
    free(s);
}

static void reject(struct intake *in, struct tracker *t, uint64_t slot, const rd_kafka_message_t *m,
                   const char *reason, const struct err *err)
{
    count_rejected(in, reason);
    log_warn("intake.rejected", F_STR("reason", reason), F_INT("partition", m->partition),
             F_INT("offset", m->offset), F_INT("bytes", m->len), F_ERR(err));
    struct dead_slot *s = mem_alloc(sizeof(*s));
    *s = (struct dead_slot){.t = t, .slot = slot};
    rd_kafka_timestamp_type_t type;
    const struct deadletter_letter letter = {
        .reason = reason,
        .detail = err->text,
        .topic = in->cfg->topic,
        .partition = m->partition,
        .offset = m->offset,
        .key = m->key,
        .key_len = m->key_len,
        .value = m->payload,
        .value_len = m->len,
        .timestamp_ms = rd_kafka_message_timestamp(m, &type),
    };
    deadletter_send(in->dead, &letter, letter_arrived, s);
}

/* Kafka's own timestamp, because it is the same when the message is consumed again; the envelope's
 * when the producer set none. */
static int64_t received_at_us(const rd_kafka_message_t *m, const struct envelope *env)
{
    rd_kafka_timestamp_type_t type = RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    const int64_t ms = rd_kafka_message_timestamp(m, &type);
    if (type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE || ms < 0) {
        return env->timestamp_us < 0 ? 0 : env->timestamp_us;
    }
    return ms > LAST_RECEIVED_AT_US / 1000 ? LAST_RECEIVED_AT_US : ms * 1000;
}

/* version 00: "00-" 32 hex "-" 16 hex "-" 2 hex, lower case */
static bool traceparent_valid(const char *s, size_t len)
{
    static const char shape[] = "00-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
    if (len != EVENT_TRACEPARENT) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        const bool hex = (s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f');
        if (shape[i] == 'x' ? !hex : s[i] != shape[i]) {
            return false;
        }
    }
    return true;
}

static void copy_traceparent(struct nrw_event *ev, const rd_kafka_message_t *m)
{
    rd_kafka_headers_t *headers = NULL;
    const void *value = NULL;
    size_t len = 0;
    if (rd_kafka_message_headers(m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR &&
        rd_kafka_header_get_last(headers, "traceparent", &value, &len) ==
            RD_KAFKA_RESP_ERR_NO_ERROR &&
        value != NULL && traceparent_valid(value, len)) {
        memcpy(ev->traceparent, value, len);
        ev->traceparent[len] = '\0';
    }
}

void intake_message(struct intake *in, struct tracker *t, uint64_t slot,
                    const rd_kafka_message_t *m)
{
    CHECK_MAGIC(in, INTAKE_MAGIC);
    struct envelope env;
    struct err err = {0};
    const char *reason = NULL;
    if (!envelope_decode(m->payload, m->len, &env, &reason, &err)) {
        reject(in, t, slot, m, reason, &err);
        return;
    }
    struct nrw_event *ev = nrw_event_new(in->account, env.type, env.type_len, m->payload, m->len);
    ev->tracker = t;
    ev->slot = slot;
    ev->id = env.id;
    ev->tenant_id = env.tenant_id;
    ev->partition = m->partition;
    ev->offset = m->offset;
    ev->received_at_us = received_at_us(m, &env);
    ev->taken_mono_us = clock_mono_us();
    copy_traceparent(ev, m);
    in->events->value++;
    in->accepted(in->ctx, ev);
}

void intake_park(struct intake *in, const struct nrw_event *ev, deadletter_fn *done, void *ctx)
{
    CHECK_MAGIC(in, INTAKE_MAGIC);
    count_rejected(in, journal_rejected);
    char tenant[UUID_TEXT + 1];
    uuid_format(&ev->tenant_id, tenant);
    const struct deadletter_letter letter = {
        .reason = journal_rejected,
        .detail =
            "PostgreSQL does not take this event's rows; see the log line journal.row_rejected",
        .topic = in->cfg->topic,
        .partition = ev->partition,
        .offset = ev->offset,
        .key = tenant,
        .key_len = UUID_TEXT,
        .value = ev->payload,
        .value_len = ev->payload_len,
        .timestamp_ms = ev->received_at_us / 1000,
    };
    deadletter_send(in->dead, &letter, done, ctx);
}

struct intake *intake_new(const struct config *cfg, struct deadletter *dead,
                          struct event_account *account,
                          void (*accepted)(void *ctx, struct nrw_event *ev), void *ctx)
{
    struct intake *in = mem_zero(1, sizeof(*in));
    in->magic = INTAKE_MAGIC;
    in->cfg = cfg;
    in->dead = dead;
    in->account = account;
    in->accepted = accepted;
    in->ctx = ctx;
    in->events = metrics_counter("nrw_events_total", NULL, "valid events taken in");
    for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++) {
        in->rejected[i] = metrics_counter("nrw_rejected_total", reasons[i].label,
                                          "messages set aside as dead letters, by reason");
    }
    return in;
}

void intake_free(struct intake *in)
{
    if (in == NULL) {
        return;
    }
    CHECK_MAGIC(in, INTAKE_MAGIC);
    in->magic = 0;
    free(in);
}
