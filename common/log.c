/* JSON lines: formatted straight into one fixed buffer, written to the fd in whole lines. Hot path
 * (a line per attempt): no malloc, no stdio, the date is formatted once per second. A line is at
 * most PIPE_BUF bytes, so every write to a pipe is whole lines and atomic: workers may share one.
 * Owns the process's only log; never blocks but in log_flush_blocking(). Called from everywhere. */
#include "log.h"

#include <errno.h>
#include <linux/limits.h> /* PIPE_BUF */
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "buf.h"
#include "clock.h"

#define BUFFER_SIZE     ((size_t)1024 * 1024)
#define LINE_MAX_LEN    PIPE_BUF
#define COMPACT_FROM    (BUFFER_SIZE / 8) /* moving the rest up pays from here on */
#define PATIENCE_MAX_MS 60000
#define TAIL_CUT        ",\"truncated\":true}\n" /* instead of the fields that did not fit */
#define TAIL            "}\n"

static struct {
    enum log_level threshold;
    int fd;
    bool regular_file; /* poll says nothing about those, and they never block for long */
    size_t start;      /* unwritten lines: bytes[start..end) */
    size_t end;
    uint64_t dropped; /* since the last line that told the number */
    uint64_t dropped_total;
    int64_t second; /* that `time` was formatted for */
    char time[CLOCK_RFC3339_SIZE];
} l = {.threshold = LOG_LEVEL_INFO, .fd = STDOUT_FILENO, .second = -1};

static char bytes[BUFFER_SIZE + 1]; /* + 1: struct buf's spare byte */

void log_init(enum log_level threshold, int fd)
{
    struct stat st;
    l.threshold = threshold;
    l.fd = fd;
    l.regular_file = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

_Bool log_enabled(enum log_level level)
{
    return level >= l.threshold;
}

uint64_t log_dropped_total(void)
{
    return l.dropped_total;
}

static void add_time(struct buf *b)
{
    int64_t now = clock_wall_us();
    int64_t second = now / 1000000;
    if (second != l.second) {
        clock_format_rfc3339(now, l.time);
        l.second = second;
    }
    int64_t us = now % 1000000;
    char *digit = l.time + sizeof("2026-03-15T10:30:00.000000") - 1;
    for (int i = 0; i < 6; i++) {
        *--digit = (char)('0' + us % 10);
        us /= 10;
    }
    buf_add(b, l.time, sizeof(l.time) - 1);
}

static void add_number(struct buf *b, uint64_t v, unsigned min_digits)
{
    char text[20];
    char *at = text + sizeof(text);
    do {
        *--at = (char)('0' + v % 10);
        v /= 10;
    } while (v != 0 || at > text + sizeof(text) - min_digits);
    buf_add(b, at, (size_t)(text + sizeof(text) - at));
}

static uint64_t add_sign(struct buf *b, int64_t v)
{
    if (v >= 0) {
        return (uint64_t)v;
    }
    buf_add(b, "-", 1);
    return -(uint64_t)v;
}

static void add_value(struct buf *b, const struct log_field *f)
{
    if ((f->type == LOG_STR || f->type == LOG_STRN) && f->v.str == NULL) {
        buf_add(b, "null", 4);
        return;
    }
    char id[UUID_TEXT + 1];
    uint64_t v = 0;
    switch (f->type) {
    case LOG_STR: /* more than a line's worth does not fit anyway: do not walk all of a huge one */
        buf_add_json_string(b, f->v.str, strnlen(f->v.str, LINE_MAX_LEN));
        break;
    case LOG_STRN:
        buf_add_json_string(b, f->v.str, f->len);
        break;
    case LOG_INT:
        add_number(b, add_sign(b, f->v.num), 1);
        break;
    case LOG_UUID:
        if (f->v.uuid == NULL) {
            buf_add(b, "null", 4);
            break;
        }
        uuid_format(f->v.uuid, id);
        buf_add(b, "\"", 1);
        buf_add(b, id, UUID_TEXT);
        buf_add(b, "\"", 1);
        break;
    case LOG_MS:
        v = add_sign(b, f->v.num);
        add_number(b, v / 1000, 1);
        buf_add(b, ".", 1);
        add_number(b, v % 1000, 3);
        break;
    }
}

static const char *level_name(enum log_level level)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    return names[level];
}

/* Only for literals of ours (names of events and fields): nothing in them needs an escape. */
static void add_literal(struct buf *b, const char *s)
{
    buf_add(b, "\"", 1);
    buf_add_str(b, s);
    buf_add(b, "\"", 1);
}

/* Precondition: LINE_MAX_LEN bytes of room. */
static void write_line(enum log_level level, const char *event, const struct log_field *f, size_t n)
{
    size_t max = LINE_MAX_LEN - (sizeof(TAIL_CUT) - 1);
    struct buf b = {.data = bytes + l.end, .cap = max, .max = max};
    buf_add_str(&b, "{\"time\":\"");
    add_time(&b);
    buf_add_str(&b, "\",\"level\":\"");
    buf_add_str(&b, level_name(level));
    buf_add_str(&b, "\",\"event\":");
    add_literal(&b, event);
    bool cut = false;
    for (size_t i = 0; i < n; i++) {
        size_t mark = b.len;
        buf_add(&b, ",", 1);
        add_literal(&b, f[i].name);
        buf_add(&b, ":", 1);
        add_value(&b, &f[i]);
        if (!buf_ok(&b)) { /* this field is too long; a later, shorter one may still fit */
            b.len = mark;
            b.overflow = false;
            cut = true;
        }
    }
    b.cap = b.max = LINE_MAX_LEN;
    buf_add_str(&b, cut ? TAIL_CUT : TAIL);
    l.end += b.len;
}

static size_t room(void)
{
    return BUFFER_SIZE - l.end;
}

static bool make_room(size_t len)
{
    if (room() < len && l.start >= COMPACT_FROM) {
        memmove(bytes, bytes + l.start, l.end - l.start);
        l.end -= l.start;
        l.start = 0;
    }
    return room() >= len;
}

/* The gap in the log is told where it is: before the next line that fits again. */
static void report_dropped(void)
{
    if (l.dropped > 0 && log_enabled(LOG_LEVEL_WARN) && make_room((size_t)2 * LINE_MAX_LEN)) {
        const struct log_field f[] = {F_INT("lines", l.dropped)};
        write_line(LOG_LEVEL_WARN, "log.dropped", f, 1);
        l.dropped = 0;
    }
}

void log_write(enum log_level level, const char *event, const struct log_field *f, size_t n)
{
    if (!log_enabled(level)) {
        return;
    }
    if (!make_room(LINE_MAX_LEN)) {
        log_flush(); /* a long turn with much to say */
        if (!make_room(LINE_MAX_LEN)) {
            l.dropped++;
            l.dropped_total++;
            return;
        }
    }
    report_dropped();
    write_line(level, event, f, n);
}

/* Whole lines, as many as PIPE_BUF holds. The rest of a line that a short write has cut (not on
 * pipes) comes first. */
static size_t next_chunk(void)
{
    size_t len = l.end - l.start;
    if (len <= PIPE_BUF) {
        return len;
    }
    const char *last = memrchr(bytes + l.start, '\n', PIPE_BUF);
    return last == NULL ? PIPE_BUF : (size_t)(last + 1 - (bytes + l.start));
}

static bool write_some(size_t len)
{
    ssize_t n = write(l.fd, bytes + l.start, len);
    if (n <= 0) { /* EINTR, EAGAIN, no space: the lines stay, the next flush tries again */
        return n < 0 && errno == EINTR;
    }
    l.start += (size_t)n;
    if (l.start == l.end) {
        l.start = l.end = 0;
    }
    return true;
}

/* A pipe that nobody reads any more is "writable" with POLLERR: writing would only raise SIGPIPE.
 */
static bool writable(int timeout_ms)
{
    struct pollfd p = {.fd = l.fd, .events = POLLOUT};
    return poll(&p, 1, timeout_ms) == 1 && (p.revents & (POLLOUT | POLLERR | POLLNVAL)) == POLLOUT;
}

void log_flush(void)
{
    bool going = true;
    while (going && l.start < l.end) {
        if (l.regular_file) {
            going = write_some(l.end - l.start);
        } else {
            going = writable(0) && write_some(next_chunk());
        }
    }
    report_dropped();
}

void log_flush_blocking(int64_t timeout_us)
{
    int64_t deadline = clock_mono_us() + timeout_us;
    for (;;) {
        log_flush();
        int64_t left_ms = (deadline - clock_mono_us()) / 1000;
        if (l.start == l.end || left_ms <= 0 || l.regular_file) {
            return;
        }
        if (!writable(left_ms < PATIENCE_MAX_MS ? (int)left_ms : PATIENCE_MAX_MS)) {
            return;
        }
    }
}
