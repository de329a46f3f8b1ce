/* Connections: read until a request is whole, hold its answer back, send it, go on or end as the
 * plan says. Owns the connection objects and their lists. Knows no path and no behaviour:
 * sink_handle.c plans the answers. Sockets are edge-triggered and registered once: a request costs
 * one read and one write and no epoll_ctl. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"
#include "mem.h"
#include "sink.h"

#define IN_MAX        (SINK_HEAD_MAX + SINK_BODY_MAX + 2 * SINK_SCRATCH)
#define KEEP_CAPACITY 4096u                /* of an idle connection's buffers                 */
#define FLUSH_BUDGET  ((size_t)256 * 1024) /* per turn: an endless answer must not starve others */
#define FILL_CHUNK    ((size_t)64 * 1024)
#define DRAIN_US      2000000

static void stage(struct sink *s, struct conn *c)
{
    if (c->in_staged)
        return;
    c->in_staged = true;
    c->next_staged = s->staged;
    s->staged = c;
}

static void make_ready(struct sink *s, struct conn *c)
{
    if (c->in_ready)
        return;
    c->in_ready = true;
    c->next_ready = s->ready;
    s->ready = c;
}

void conn_new(struct sink *s, int fd, uint16_t peer_port)
{
    struct conn *c = mem_zero(1, sizeof(*c));
    c->magic = CONN_MAGIC;
    c->fd = fd;
    c->number = ++s->connection_number;
    c->peer_port = peer_port;
    buf_init(&c->in, IN_MAX);
    buf_init(&c->out, SINK_OUT_MAX);
    c->next = s->conns;
    if (s->conns != NULL)
        s->conns->prev = c;
    s->conns = c;
    s->count.connections++;
    if (++s->count.open > s->count.max_open)
        s->count.max_open = s->count.open;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    CHECK(epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0);
}

/* Leaving CONN_WAITING, for whatever reason. */
static void stop_waiting(struct sink *s, struct conn *c)
{
    timers_remove(&s->timers, c);
    s->count.delayed -= c->delayed;
    s->count.hanging -= c->hanging;
    c->delayed = false;
    c->hanging = false;
}

static void conn_close(struct sink *s, struct conn *c)
{
    if (c->state == CONN_DEAD)
        return;
    stop_waiting(s, c);
    if (c->seq != 0 && c->whole) {
        s->count.unsent++;
        ledger_unsent(s, c->seq);
    }
    (void)close(c->fd);
    if (c->prev != NULL) {
        c->prev->next = c->next;
    } else {
        s->conns = c->next;
    }
    if (c->next != NULL)
        c->next->prev = c->prev;
    s->count.open--;
    c->state = CONN_DEAD;
    c->next_dead = s->dead;
    s->dead = c;
}

static size_t buffered(const struct conn *c)
{
    return c->in.len - c->in_off;
}

static void shrink(struct buf *b, size_t max)
{
    if (b->cap > KEEP_CAPACITY) {
        buf_done(b);
        buf_init(b, max);
    }
    buf_reset(b);
}

static void used_up(struct conn *c, size_t n)
{
    c->in_off += n;
    if (c->in_off == c->in.len) {
        shrink(&c->in, IN_MAX);
        c->in_off = 0;
    }
}

static void keep(struct conn *c, const char *data, size_t len)
{
    if (c->in_off > 0) {
        memmove(c->in.data, c->in.data + c->in_off, buffered(c));
        c->in.len -= c->in_off;
        c->in_off = 0;
    }
    buf_add(&c->in, data, len);
}

static void start_answer(struct sink *s, struct conn *c, int64_t delay_us)
{
    c->need = 0;
    c->continued = false;
    if (delay_us <= 0) {
        c->state = CONN_ANSWERING;
        stage(s, c);
        return;
    }
    c->state = CONN_WAITING;
    c->delayed = true;
    if (++s->count.delayed > s->count.max_delayed)
        s->count.max_delayed = s->count.delayed;
    timers_set(&s->timers, c, clock_mono_us() + delay_us);
}

/* One request out of these bytes. Returns how many it used up, 0 when more must come. */
static size_t take_request(struct sink *s, struct conn *c, const char *data, size_t len)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct request r;
    size_t head_len = 0;
    int status = 0;
    const char *why = NULL;
    if (len < c->need)
        return 0;
    enum http_result result = http_parse_head(data, len, &r, &head_len, &status, &why);
    if (result == HTTP_MORE)
        return 0;
    if (result == HTTP_BAD) {
        start_answer(s, c, handle_bad(s, c, status, why));
        return len;
    }
    size_t have = len - head_len;
    size_t wanted = handle_body_wanted(s, &r);
    if (have < wanted) {
        c->need = head_len + wanted;
        if (r.expect_continue && !c->continued) {
            c->continued = true; /* 25 bytes on an idle socket: if they do not fit, the client's
                                    patience decides */
            (void)send(c->fd, go_on, sizeof(go_on) - 1, MSG_NOSIGNAL);
        }
        return 0;
    }
    r.body = (struct slice){data + head_len, have < r.body_len ? have : (size_t)r.body_len};
    start_answer(s, c, handle_request(s, c, &r));
    return head_len + r.body.len;
}

static void on_bytes(struct sink *s, struct conn *c, size_t n)
{
    if (buffered(c) == 0) { /* the usual case: whole requests are never copied */
        size_t used = take_request(s, c, s->scratch, n);
        if (used < n)
            keep(c, s->scratch + used, n - used);
        return;
    }
    keep(c, s->scratch, n);
    CHECK(buf_ok(&c->in)); /* need <= IN_MAX - SINK_SCRATCH, and a head without end is refused */
    used_up(c, take_request(s, c, c->in.data + c->in_off, buffered(c)));
}

static void advance(struct sink *s, struct conn *c)
{
    if (c->state == CONN_READING && buffered(c) > 0)
        used_up(c, take_request(s, c, c->in.data + c->in_off, buffered(c)));
    while (c->state == CONN_READING && c->readable) {
        ssize_t n = recv(c->fd, s->scratch, SINK_SCRATCH, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            c->readable = false;
            return;
        }
        if (n <= 0) {
            conn_close(s, c);
            return;
        }
        /* A short read empties the socket (epoll(7)); what comes later is a new edge. */
        c->readable = (size_t)n == SINK_SCRATCH || c->hup;
        on_bytes(s, c, (size_t)n);
    }
    if (c->state == CONN_WAITING && c->hup)
        conn_close(s, c);
}

/* A close() with unread bytes would turn into a reset and could destroy the answer on its way. */
static void drain(struct sink *s, struct conn *c)
{
    for (int i = 0; i < 16; i++) {
        ssize_t n = recv(c->fd, s->scratch, SINK_SCRATCH, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            conn_close(s, c);
            return;
        }
    }
    make_ready(s, c);
}

static void reset(struct sink *s, struct conn *c)
{
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    conn_close(s, c);
}

static void go_on_reading(struct sink *s, struct conn *c)
{
    c->state = CONN_READING;
    c->whole = false;
    if (buffered(c) > 0 || c->readable)
        make_ready(s, c);
}

/* All bytes of the plan have left. */
static void after_answer(struct sink *s, struct conn *c)
{
    c->seq = 0;
    c->out_off = 0;
    shrink(&c->out, SINK_OUT_MAX);
    switch (c->after) {
    case AFTER_READ:
        go_on_reading(s, c);
        break;
    case AFTER_CLOSE:
        conn_close(s, c);
        break;
    case AFTER_RESET:
        reset(s, c);
        break;
    case AFTER_DRAIN:
        (void)shutdown(c->fd, SHUT_WR);
        c->state = CONN_DRAINING;
        timers_set(&s->timers, c, clock_mono_us() + DRAIN_US);
        drain(s, c);
        break;
    case AFTER_TICK:
        c->state = CONN_WAITING;
        timers_set(&s->timers, c, clock_mono_us() + c->tick_us);
        break;
    case AFTER_HANG:
        c->state = CONN_WAITING;
        c->hanging = true;
        s->count.hanging++;
        break;
    }
    if (c->state == CONN_WAITING && c->hup)
        conn_close(s, c);
}

/* The next piece of a generated answer into `out`; false when there is none. */
static bool refill(struct conn *c)
{
    static const char header[] = "X-Endless: 0123456789012345678901234567890123456789\r\n";
    static const char early[] = "HTTP/1.1 103 Early Hints\r\n\r\n";
    if (c->fill == FILL_NONE || c->fill_left == 0) {
        c->fill = FILL_NONE;
        return false;
    }
    buf_reset(&c->out);
    c->out_off = 0;
    if (c->fill == FILL_BODY) {
        size_t n = c->fill_left < FILL_CHUNK ? (size_t)c->fill_left : FILL_CHUNK;
        memset(buf_extend(&c->out, n), 'x', n);
        if (c->fill_left != UINT64_MAX)
            c->fill_left -= n;
        return true;
    }
    while (c->out.len < FILL_CHUNK)
        buf_add_str(&c->out, c->fill == FILL_HEADERS ? header : early);
    return true;
}

static void flush(struct sink *s, struct conn *c)
{
    size_t sent = 0;
    while (c->out_off < c->out.len || refill(c)) {
        if (sent >= FLUSH_BUDGET) {
            make_ready(s, c);
            return;
        }
        ssize_t n = send(c->fd, c->out.data + c->out_off, c->out.len - c->out_off, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return; /* the next EPOLLOUT edge goes on */
        if (n < 0) {
            conn_close(s, c);
            return;
        }
        c->out_off += (size_t)n;
        sent += (size_t)n;
    }
    after_answer(s, c);
}

void conn_on_event(struct sink *s, struct conn *c, uint32_t events)
{
    c->readable = c->readable || (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    c->hup = c->hup || (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    switch (c->state) {
    case CONN_READING:
        advance(s, c);
        break;
    case CONN_WAITING:
        if (c->hup)
            conn_close(s, c);
        break;
    case CONN_ANSWERING:
        if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
            conn_close(s, c);
        } else {
            stage(s, c);
        }
        break;
    case CONN_DRAINING:
        drain(s, c);
        break;
    case CONN_DEAD:
        break;
    }
}

void conn_on_timer(struct sink *s, struct conn *c)
{
    if (c->state == CONN_DRAINING) {
        conn_close(s, c);
        return;
    }
    bool tick = !c->delayed;
    stop_waiting(s, c);
    if (tick)
        buf_add_str(&c->out, "a");
    c->state = CONN_ANSWERING;
    stage(s, c);
}

void conn_run_ready(struct sink *s)
{
    struct conn *list = s->ready; /* what becomes ready meanwhile is for the next turn */
    s->ready = NULL;
    while (list != NULL) {
        struct conn *c = list;
        list = c->next_ready;
        c->in_ready = false;
        if (c->state == CONN_READING) {
            advance(s, c);
        } else if (c->state == CONN_ANSWERING) {
            stage(s, c);
        } else if (c->state == CONN_DRAINING) {
            drain(s, c);
        }
    }
}

void conn_run_staged(struct sink *s)
{
    while (s->staged != NULL) {
        struct conn *c = s->staged;
        s->staged = c->next_staged;
        c->in_staged = false;
        if (c->state == CONN_ANSWERING)
            flush(s, c);
    }
}

/* Only here, at the end of a turn: until then events of the same epoll_wait may still name the
 * connection. */
void conn_free_dead(struct sink *s)
{
    struct conn *list = s->dead;
    s->dead = NULL;
    while (list != NULL) {
        struct conn *c = list;
        list = c->next_dead;
        if (c->in_ready) {
            c->next_dead = s->dead;
            s->dead = c;
            continue;
        }
        buf_done(&c->in);
        buf_done(&c->out);
        c->magic = 0;
        free(c);
    }
}

void conn_close_all(struct sink *s)
{
    while (s->conns != NULL)
        conn_close(s, s->conns);
    conn_run_staged(s);
    conn_run_ready(s);
    conn_free_dead(s);
}
