/* What an answer is: the behaviour asked for by a query string, and the bytes and steps it comes
 * to. Owns nothing. It sends nothing and waits for nothing; sink_conn.c carries the plan out. */
#include <inttypes.h>
#include <string.h>

#include "sink.h"

static const struct {
    const char *key; /* in the query string */
    const char *name;
    enum act act;
} acts[] = {
    {NULL, "answer", ACT_ANSWER},
    {"hang", "hang", ACT_HANG},
    {NULL, "loris_header", ACT_LORIS_HEADER},
    {NULL, "loris_body", ACT_LORIS_BODY},
    {"endless", "endless", ACT_ENDLESS},
    {"endless_headers", "endless_headers", ACT_ENDLESS_HEADERS},
    {"endless_1xx", "endless_1xx", ACT_ENDLESS_1XX},
    {"reset", "reset", ACT_RESET},
    {"reset_after", "reset_after", ACT_RESET_AFTER},
    {"close", "close", ACT_CLOSE},
    {"close_after", "close_after", ACT_CLOSE_AFTER},
    {"garbage", "garbage", ACT_GARBAGE},
    {"stall", "stall", ACT_STALL},
};
#define ACTS_N (sizeof(acts) / sizeof(*acts))

const char *act_name(enum act act)
{
    return acts[act].name; /* the table is in the order of the enum */
}

enum key_result { KEY_OK, KEY_BAD, KEY_UNKNOWN };

static enum key_result key_number(struct slice value, uint64_t max, uint64_t *ret)
{
    return slice_number(value, max, ret) ? KEY_OK : KEY_BAD;
}

static enum key_result key_status(struct slice value, int *ret)
{
    uint64_t n;
    if (!slice_number(value, 999, &n) || n < 100)
        return KEY_BAD;
    *ret = (int)n;
    return KEY_OK;
}

static enum key_result parse_value_key(struct slice key, struct slice value, struct behaviour *b)
{
    uint64_t n;
    enum key_result result;
    if (slice_is(key, "status"))
        return key_status(value, &b->status);
    if (slice_is(key, "fail_status"))
        return key_status(value, &b->fail_status);
    if (slice_is(key, "body"))
        return key_number(value, SINK_ANSWER_MAX, &b->body_len);
    if (slice_is(key, "delay"))
        return slice_duration(value, SINK_DELAY_MAX_US, &b->delay_us) ? KEY_OK : KEY_BAD;
    if (slice_is(key, "tick")) {
        return slice_duration(value, SINK_DELAY_MAX_US, &b->tick_us) && b->tick_us > 0 ? KEY_OK
                                                                                       : KEY_BAD;
    }
    if (slice_is(key, "retry_after")) {
        if ((result = key_number(value, 1000000000, &n)) == KEY_OK)
            b->retry_after_s = (int64_t)n;
        return result;
    }
    if (slice_is(key, "fail_first")) {
        if ((result = key_number(value, UINT32_MAX, &n)) == KEY_OK)
            b->fail_first = (uint32_t)n;
        return result;
    }
    return KEY_UNKNOWN;
}

static enum key_result parse_act_name(struct slice key, struct slice value, struct behaviour *b)
{
    uint64_t n;
    for (size_t i = 0; i < ACTS_N; i++) {
        if (acts[i].key == NULL || !slice_is(key, acts[i].key))
            continue;
        b->act = acts[i].act;
        if (b->act == ACT_RESET_AFTER && value.p != NULL) {
            if (!slice_number(value, SINK_BODY_MAX, &n))
                return KEY_BAD;
            b->reset_after = (uint32_t)n;
        }
        return KEY_OK;
    }
    return KEY_UNKNOWN;
}

static enum key_result parse_act_key(struct slice key, struct slice value, struct behaviour *b)
{
    if (slice_is(key, "redirect")) {
        b->location = value;
        return value.len > 0 && value.len < 8192 ? KEY_OK : KEY_BAD;
    }
    if (slice_is(key, "gone")) {
        b->status = 410;
        return KEY_OK;
    }
    if (slice_is(key, "loris")) {
        b->act = slice_is(value, "header") ? ACT_LORIS_HEADER : ACT_LORIS_BODY;
        return slice_is(value, "header") || slice_is(value, "body") ? KEY_OK : KEY_BAD;
    }
    return parse_act_name(key, value, b);
}

bool behaviour_parse(struct slice query, bool only_known, struct behaviour *ret,
                     struct slice *ret_key)
{
    struct slice key;
    struct slice value;
    *ret = (struct behaviour){
        .act = ACT_ANSWER,
        .fail_status = 500,
        .body_len = 2,
        .tick_us = 1000000,
        .retry_after_s = -1,
        .bare = true,
    };
    while (query_next(&query, &key, &value)) {
        enum key_result result = parse_value_key(key, value, ret);
        if (result == KEY_UNKNOWN)
            result = parse_act_key(key, value, ret);
        if (result == KEY_OK)
            ret->bare = false;
        if (result == KEY_BAD || (result == KEY_UNKNOWN && only_known)) {
            *ret_key = key;
            return false;
        }
    }
    if (ret->status == 0) {
        ret->status = 200;
        if (ret->location.p != NULL) {
            ret->status = 302;
        } else if (ret->retry_after_s >= 0 && ret->fail_first == 0) {
            ret->status = 503;
        }
    }
    return true;
}

static const char *reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 302:
        return "Found";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 410:
        return "Gone";
    case 411:
        return "Length Required";
    case 413:
        return "Content Too Large";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 503:
        return "Service Unavailable";
    default:
        return "Status";
    }
}

void answer_plan_text(struct conn *c, int status, const char *type, const char *text, size_t len,
                      bool close)
{
    buf_add_fmt(&c->out, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s\r\n",
                status, reason(status), type, len, close ? "Connection: close\r\n" : "");
    buf_add(&c->out, text, len);
    c->after = close ? AFTER_CLOSE : AFTER_READ;
    c->whole = true;
}

static void add_location(struct buf *out, struct slice encoded)
{
    char text[8192];
    size_t len;
    if (!percent_decode(encoded, text, sizeof(text), &len))
        return;
    buf_add_str(out, "Location: ");
    for (size_t i = 0; i < len; i++) { /* a CRLF in a test's URL must not become a header of ours */
        if ((unsigned char)text[i] >= 0x20)
            buf_add(out, &text[i], 1);
    }
    buf_add_str(out, "\r\n");
}

static void plan_whole(struct conn *c, const struct request *r, const struct behaviour *b)
{
    bool bodyless = b->status < 200 || b->status == 204 || b->status == 304;
    c->whole = true;
    c->after = r->close || b->act == ACT_CLOSE_AFTER ? AFTER_CLOSE : AFTER_READ;
    if (b->bare && !r->close && slice_is(r->method, "POST")) {
        buf_add_str(&c->out,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok");
        return;
    }
    buf_add_fmt(&c->out, "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\n", b->status,
                reason(b->status));
    if (!bodyless)
        buf_add_fmt(&c->out, "Content-Length: %" PRIu64 "\r\n", b->body_len);
    if (b->location.p != NULL)
        add_location(&c->out, b->location);
    if (b->retry_after_s >= 0 && b->status >= 300)
        buf_add_fmt(&c->out, "Retry-After: %" PRId64 "\r\n", b->retry_after_s);
    buf_add_str(&c->out, r->close ? "Connection: close\r\n\r\n" : "\r\n");
    if (bodyless || slice_is(r->method, "HEAD"))
        return;
    if (b->body_len == 2) {
        buf_add_str(&c->out, "ok");
        return;
    }
    c->fill = FILL_BODY;
    c->fill_left = b->body_len;
}

static void plan_fill(struct conn *c, const char *start, enum conn_fill fill)
{
    buf_add_str(&c->out, start);
    c->fill = fill;
    c->fill_left = UINT64_MAX;
    c->after = AFTER_CLOSE;
}

static void plan_text(struct conn *c, const char *start, enum conn_after after)
{
    buf_add_str(&c->out, start);
    c->after = after;
}

void answer_plan(struct conn *c, const struct request *r, const struct behaviour *b)
{
    c->tick_us = b->tick_us;
    switch (b->act) {
    case ACT_ANSWER:
    case ACT_CLOSE_AFTER:
        plan_whole(c, r, b);
        break;
    case ACT_HANG:
        c->after = AFTER_HANG;
        break;
    case ACT_LORIS_HEADER:
        plan_text(c, "HTTP/1.1 200 OK\r\nX-Slow: ", AFTER_TICK);
        break;
    case ACT_LORIS_BODY:
        plan_text(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", AFTER_TICK);
        break;
    case ACT_ENDLESS:
        plan_fill(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n",
                  FILL_BODY);
        break;
    case ACT_ENDLESS_HEADERS:
        plan_fill(c, "HTTP/1.1 200 OK\r\n", FILL_HEADERS);
        break;
    case ACT_ENDLESS_1XX:
        plan_fill(c, "", FILL_1XX);
        break;
    case ACT_RESET:
    case ACT_RESET_AFTER:
        c->after = AFTER_RESET;
        break;
    case ACT_CLOSE:
        c->after = AFTER_CLOSE;
        break;
    case ACT_GARBAGE:
        plan_text(c, "\x16\x03\x01 this is not HTTP \xff\xfe\r\n\r\n", AFTER_CLOSE);
        break;
    case ACT_STALL:
        plan_text(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n",
                  AFTER_HANG);
        break;
    }
}
