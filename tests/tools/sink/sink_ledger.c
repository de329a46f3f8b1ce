/* The ledger: JSON lines of what arrived, judged and about to be answered. Owns the lines until
 * they are written. It does not decide when to send: the loop calls ledger_flush() before any
 * answer of the turn goes out. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "sink.h"

#define LEDGER_FLUSH_AT (1u << 20)

static void add_text(struct buf *b, const char *key, const char *text)
{
    buf_add_str(b, key);
    buf_add(b, "\"", 1);
    buf_add_str(b, text);
    buf_add(b, "\"", 1);
}

static void add_slice(struct buf *b, const char *key, struct slice s)
{
    buf_add_str(b, key);
    if (s.p == NULL) {
        buf_add_str(b, "null");
        return;
    }
    bool plain = true;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.p[i];
        plain = plain && c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
    }
    if (!plain) {
        buf_add_json_string(b, s.p, s.len);
        return;
    }
    buf_add(b, "\"", 1);
    buf_add(b, s.p, s.len);
    buf_add(b, "\"", 1);
}

static void add_number(struct buf *b, const char *key, uint64_t n)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    buf_add_str(b, key);
    buf_add(b, digits + at, sizeof(digits) - at);
}

static void add_headers(struct buf *b, struct slice head)
{
    struct slice name;
    struct slice value;
    const char *comma = "";
    buf_add_str(b, ",\"headers\":[");
    while (http_next_header(&head, &name, &value)) {
        buf_add_str(b, comma);
        add_slice(b, "[", name);
        add_slice(b, ",", value);
        buf_add_str(b, "]");
        comma = ",";
    }
    buf_add_str(b, "]");
}

static bool write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

/* A receiver that cannot keep its ledger must not go on answering: every later test result would be
 * wrong. */
static _Noreturn void give_up(const char *what, const char *name)
{
    (void)fprintf(stderr, "sink: %s %s: %s\n", what, name, strerror(errno));
    exit(1);
}

static void store_body(const struct sink *s, struct slice body, const char *sha256)
{
    char path[4096];
    char partial[4096];
    int n = snprintf(path, sizeof(path), "%s/%s", s->bodies_dir, sha256);
    int m = snprintf(partial, sizeof(partial), "%s/.partial", s->bodies_dir);
    if (n < 0 || m < 0 || (size_t)n >= sizeof(path) || (size_t)m >= sizeof(partial))
        return;
    if (access(path, F_OK) == 0)
        return;
    int fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || !write_all(fd, body.p, body.len) || close(fd) != 0 || rename(partial, path) != 0)
        give_up("cannot store body", path);
}

static void add_answer(struct buf *b, const struct answer_note *note)
{
    if (note->act == ACT_ANSWER || note->act == ACT_CLOSE_AFTER) {
        add_number(b, ",\"answer\":", (uint64_t)note->status);
    } else {
        add_text(b, ",\"answer\":", act_name(note->act));
    }
    if (note->error != NULL)
        add_text(b, ",\"error\":", note->error);
}

void ledger_request(struct sink *s, const struct conn *c, const struct request *r,
                    const struct secret_group *secrets, const struct answer_note *note)
{
    struct buf *b = &s->ledger;
    char at[CLOCK_RFC3339_SIZE];
    char sha256[VERIFY_HEX_SIZE];
    uint64_t attempt;
    clock_format_rfc3339(clock_wall_us(), at);
    verify_sha256_hex(r->body, sha256);
    if (s->bodies_dir != NULL && note->error == NULL)
        store_body(s, r->body, sha256);
    add_text(b, "{\"t\":", at);
    add_number(b, ",\"seq\":", c->seq);
    add_slice(b, ",\"method\":", r->method);
    add_slice(b, ",\"path\":", r->path);
    add_slice(b, ",\"query\":", r->query);
    add_slice(b, ",\"event\":", r->event);
    add_slice(b, ",\"event_id\":", r->event_id);
    add_slice(b, ",\"delivery_id\":", r->delivery_id);
    if (slice_number(r->attempt, UINT32_MAX, &attempt)) {
        add_number(b, ",\"attempt\":", attempt);
    } else {
        buf_add_str(b, ",\"attempt\":null");
    }
    add_text(b, ",\"body_sha256\":", sha256);
    add_number(b, ",\"body_len\":", r->body.len);
    add_text(b, ",\"sig_netrecon\":", verify_netrecon(secrets, r->sig_netrecon, r->body));
    if (r->sig_previous.p != NULL)
        add_text(b, ",\"sig_previous\":", verify_netrecon(secrets, r->sig_previous, r->body));
    add_text(b, ",\"sig_standard\":",
             verify_standard(secrets, r->sig_standard, r->event_id, r->timestamp, r->body));
    add_slice(b, ",\"webhook_timestamp\":", r->timestamp);
    add_answer(b, note);
    add_slice(b, ",\"user_agent\":", r->user_agent);
    add_slice(b, ",\"content_type\":", r->content_type);
    add_slice(b, ",\"traceparent\":", r->traceparent);
    add_number(b, ",\"port\":", c->peer_port);
    add_number(b, ",\"conn\":", c->number);
    if (s->bodies_dir != NULL)
        add_headers(b, r->head);
    buf_add_str(b, "}\n");
    if (b->len >= LEDGER_FLUSH_AT || !buf_ok(b))
        ledger_flush(s);
}

void ledger_unsent(struct sink *s, uint64_t seq)
{
    if (s->ledger_fd < 0)
        return;
    char at[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(clock_wall_us(), at);
    buf_add_fmt(&s->ledger, "{\"t\":\"%s\",\"seq\":%" PRIu64 ",\"sent\":false}\n", at, seq);
}

void ledger_flush(struct sink *s)
{
    if (s->ledger.len == 0)
        return;
    if (!buf_ok(&s->ledger) || !write_all(s->ledger_fd, s->ledger.data, s->ledger.len))
        give_up("cannot write", "the ledger");
    buf_reset(&s->ledger);
}
