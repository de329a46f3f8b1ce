/* A load generator for the events topic: envelopes of the product page, or raw bytes, with acks=all
 * and idempotence. This file owns what is sent and when; produce/ has the options and the producer.
 * It reads nothing back and knows no webhook: the ledger of the tool `sink` is held against the ids
 * that this program wrote. Called by deploy/local, system tests, bench. */
#include "produce/produce.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"
#include "mem.h"

volatile sig_atomic_t produce_stopped;

static void on_signal(int number)
{
    (void)number;
    produce_stopped = 1;
}

_Noreturn void produce_fail(const char *what, const char *why)
{
    (void)fprintf(stderr, "produce: %s: %s\n", what, why);
    _exit(2); /* at once: librdkafka may have threads running, and nothing of worth is open */
}

static char *sample_data(const char *dir, const char *type)
{
    char path[4096];
    json_error_t why;
    if (snprintf(path, sizeof(path), "%s/%s.json", dir, type) >= (int)sizeof(path))
        produce_fail(dir, "path too long");
    json_t *envelope = json_load_file(path, 0, &why);
    if (envelope == NULL)
        produce_fail(path, why.text);
    json_t *data = json_object_get(envelope, "data");
    if (!json_is_object(data))
        produce_fail(path, "has no data object");
    char *text = json_dumps(data, JSON_COMPACT);
    CHECK(text != NULL);
    json_decref(envelope);
    return text;
}

static char *given_data(const char *text)
{
    json_error_t why;
    json_t *data = json_loads(text, 0, &why);
    if (!json_is_object(data))
        produce_fail("--data", data == NULL ? why.text : "is not an object");
    json_decref(data);
    size_t len = strlen(text);
    while (text[len - 1] != '}') /* members may be added in front of the last brace */
        len--;
    return mem_dupn(text, len);
}

static void load_data(struct produce *p)
{
    for (size_t i = 0; i < EVENT_TYPES_N; i++) {
        if (!p->all_events && i > 0)
            break;
        const char *type = p->all_events ? event_types[i].name : p->event;
        if (p->data != NULL) {
            p->data_of[i] = given_data(p->data);
        } else if (p->samples_dir != NULL) {
            p->data_of[i] = sample_data(p->samples_dir, type);
        } else {
            p->data_of[i] = mem_dup("{\"alert_id\":\"0b5e3a52-6c0e-4c39-9c53-0d1f4a0a8e11\","
                                    "\"title\":\"New open port detected\",\"severity\":\"high\","
                                    "\"device_ip\":\"192.168.1.10\"}");
        }
    }
}

static void add_member(struct buf *b, bool *first, const char *name)
{
    buf_add_fmt(b, "%s\"%s\":", *first ? "" : ",", name);
    *first = false;
}

/* data with its extra members, into p->message, which ends with the envelope's last brace. */
static void build_envelope(struct produce *p, const char *type, const char *data,
                           const struct uuid *id, const char *tenant)
{
    char at[CLOCK_RFC3339_SIZE];
    char id_text[UUID_TEXT + 1];
    struct buf *b = &p->message;
    size_t data_len = strlen(data);
    bool first = data[1 + strspn(data + 1, " \t\r\n")] == '}';
    int64_t now = clock_wall_us();
    clock_format_rfc3339(now, at);
    uuid_format(id, id_text);
    buf_reset(b);
    buf_add_fmt(
        b, "{\"id\":\"%s\",\"event\":\"%s\",\"timestamp\":\"%s\",\"tenant_id\":\"%s\",\"data\":",
        id_text, type, at, tenant);
    buf_add(b, data, data_len - 1);
    if (p->rate > 0) {
        add_member(b, &first, "produced_at_us");
        buf_add_fmt(b, "%" PRId64, now);
    }
    if (p->size > 0) {
        add_member(b, &first, "padding");
        size_t tail = strlen("\"\"}}");
        if (b->len + tail > p->size)
            produce_fail("--size", "is smaller than the envelope without padding");
        size_t padding = p->size - b->len - tail;
        buf_add(b, "\"", 1);
        if (padding > 0)
            memset(buf_extend(b, padding), 'p', padding);
        buf_add(b, "\"", 1);
    }
    buf_add_str(b, "}}");
    CHECK(buf_ok(b));
}

static void tenant_text(const struct produce *p, uint64_t i, char out[UUID_TEXT + 1])
{
    char name[32];
    struct uuid id = p->tenant;
    if (i > 0) {
        int n = snprintf(name, sizeof(name), "tenant-%" PRIu64, i);
        id = uuid_v5(&p->tenant, name, (size_t)n);
    }
    uuid_format(&id, out);
}

/* Message i is due at start + i/rate, or with the first one of its burst. Sleeps in steps so that
 * reports are collected and a signal is seen. */
static void pace(struct produce *p, int64_t start_us, uint64_t i)
{
    if (p->rate == 0) {
        if (i % 256 == 0)
            produce_poll(p, 0);
        return;
    }
    int64_t due = start_us + (int64_t)((i - i % p->burst) * 1000000 / p->rate);
    produce_poll(p, 0);
    while (!produce_stopped) {
        int64_t left = due - clock_mono_us();
        if (left <= 0)
            return;
        if (left > 2000) {
            produce_poll(p, (int)((left - 1000) / 1000 < 100 ? (left - 1000) / 1000 : 100));
        } else {
            struct timespec wait = {.tv_nsec = (long)left * 1000};
            (void)nanosleep(&wait, NULL);
        }
    }
}

static void send_envelopes(struct produce *p)
{
    int64_t start = clock_mono_us();
    load_data(p);
    for (uint64_t i = 0; i < p->count && !produce_stopped; i++) {
        char tenant[UUID_TEXT + 1];
        size_t type = p->all_events ? (size_t)(i % EVENT_TYPES_N) : 0;
        struct uuid *id = mem_alloc(sizeof(*id));
        *id = uuid_v4();
        tenant_text(p, i % p->tenants_n, tenant);
        pace(p, start, i);
        build_envelope(p, p->all_events ? event_types[type].name : p->event, p->data_of[type], id,
                       tenant);
        produce_send(p, p->key != NULL ? p->key : tenant, p->message.data, p->message.len, id);
    }
}

/* The event id of raw bytes, when they happen to be an envelope. */
static struct uuid *raw_id(const char *data, size_t len)
{
    struct uuid id;
    json_error_t why;
    json_t *envelope = json_loadb(data, len, JSON_ALLOW_NUL, &why);
    const char *text = json_string_value(json_object_get(envelope, "id"));
    struct uuid *ret = NULL;
    if (text != NULL && uuid_parse(text, strlen(text), &id)) {
        ret = mem_alloc(sizeof(*ret));
        *ret = id;
    }
    json_decref(envelope);
    return ret;
}

static void send_raw(struct produce *p, const char *data, size_t len)
{
    char tenant[UUID_TEXT + 1];
    if (p->has_tenant)
        tenant_text(p, 0, tenant);
    const char *key = p->key;
    if (key == NULL && p->has_tenant)
        key = tenant;
    produce_send(p, key, data, len, raw_id(data, len));
}

static void send_lines(struct produce *p)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t len;
    int64_t start = clock_mono_us();
    uint64_t i = 0;
    while (!produce_stopped && (len = getline(&line, &size, stdin)) >= 0) {
        if (len > 0 && line[len - 1] == '\n')
            len--;
        if ((size_t)len > MESSAGE_MAX)
            produce_fail("--stdin", "line too long");
        pace(p, start, i++);
        send_raw(p, line, (size_t)len);
    }
    free(line);
}

static void send_file(struct produce *p)
{
    FILE *f = fopen(p->file, "re");
    if (f == NULL)
        produce_fail(p->file, strerror(errno));
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0)
        buf_add(&p->message, chunk, n);
    if (ferror(f) || !buf_ok(&p->message))
        produce_fail(p->file, "cannot read, or too large");
    (void)fclose(f);
    int64_t start = clock_mono_us();
    for (uint64_t i = 0; i < p->count && !produce_stopped; i++) {
        pace(p, start, i);
        send_raw(p, p->message.len == 0 ? "" : p->message.data, p->message.len);
    }
}

static int print_tenants(const struct produce *p)
{
    for (uint64_t i = 0; i < p->tenants_n; i++) {
        char text[UUID_TEXT + 1];
        tenant_text(p, i, text);
        (void)puts(text);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct produce p = {
        .event = "alert.created", .tenants_n = 1, .burst = 1, .timeout_s = 120, .acked_fd = -1};
    struct sigaction action = {.sa_handler = on_signal};
    buf_init(&p.message, MESSAGE_MAX);
    produce_parse_options(&p, argc, argv);
    if (p.print_tenants)
        return print_tenants(&p);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    produce_connect(&p);
    if (p.wait_topic)
        produce_wait_for_topic(&p);
    int64_t start = clock_mono_us();
    if (p.from_stdin) {
        send_lines(&p);
    } else if (p.file != NULL) {
        send_file(&p);
    } else {
        send_envelopes(&p);
    }
    produce_finish(&p);
    for (size_t i = 0; i < EVENT_TYPES_N; i++)
        free(p.data_of[i]);
    buf_done(&p.message);
    if (p.failed > 0)
        (void)fprintf(stderr, "produce: %" PRIu64 " failed, last: %s\n", p.failed, p.last_error);
    (void)printf("{\"acked\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"seconds\":%.3f}\n", p.acked,
                 p.failed, (double)(clock_mono_us() - start) / 1e6);
    return p.failed > 0 ? 1 : 0;
}
