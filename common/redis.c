/* One Redis connection: connects, logs in, pipelines commands, hands back replies, gives up on a
 * stalled server and connects again. hiredis connects, buffers and reads the protocol
 * (redis_link.c); its async layer is not used: it has no timeouts, frees itself in callbacks, and
 * needs glue anyway. Knows no key; keeps no command for a second try, except a script that the
 * server's cache has lost. A server that turned into a read-only replica is left, because the name
 * may lead to its master by now; after a failed try it is the turn of the name's next address.
 * Called by worker/schedule and api/hints.
 *
 *   WAITING --timer--> RESOLVING --address--> CONNECTING --TCP, TLS--> GREETING --PONG--> UP
 *      ^------------------------------ any failure, lose() --------------------------------| */
#include "redis.h"

#include <event2/util.h>
#include <openssl/crypto.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backoff.h"
#include "buf.h"
#include "check.h"
#include "clock.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"
#include "redis_format.h"
#include "redis_link.h"
#include "redis_url.h"

#define REDIS_MAGIC        0x72656469u
#define OUTSTANDING_MAX    4096
#define OUTSTANDING_BYTES  (32u << 20) /* of commands without an answer */
#define COMMAND_MAX        (4u << 20)
#define STEADY_US          (5 * INT64_C(1000000)) /* up for so long: the next backoff starts small */
#define CONNECT_TIMEOUT_US (5 * INT64_C(1000000)) /* until PONG */
#define LISTENER_STALL_MS  5000

enum redis_state {
    REDIS_WAITING,
    REDIS_RESOLVING,
    REDIS_CONNECTING,
    REDIS_GREETING,
    REDIS_UP,
    REDIS_CLOSED
};

struct slot {
    redis_reply_fn *fn;
    void *ctx;
    size_t len;                        /* of the command                              */
    const struct redis_script *script; /* NULL: not an EVALSHA                        */
    char *again;                       /* the EVALSHA, for one EVAL after NOSCRIPT    */
    int argc;                          /* of it, without its head                     */
    int64_t sent_us;
};

struct redis {
    unsigned magic;
    enum redis_state state;
    struct event_base *base;
    struct redis_handlers handlers;
    void (*message)(void *ctx, const char *text, size_t len); /* NULL: not a listener */
    void *message_ctx;
    char *channel;
    char *name;
    struct redis_url url;
    int64_t stall_us;

    struct redis_link link;
    struct event *read;
    struct event *write; /* only while something is to be sent */
    struct event *timer; /* WAITING: next try; CONNECTING, GREETING: deadline; UP: stall */
    struct err broken;   /* why the handlers are to give up, found where it must not be done */
    bool in_callback;

    struct slot *slots; /* ring of OUTSTANDING_MAX */
    size_t head;
    size_t n;
    size_t bytes;
    int64_t head_since_us; /* when the oldest command became the oldest */
    struct histogram *seconds;
    struct counter *lost;
    struct buf out; /* scratch: the command that is being written */

    struct backoff backoff;
    int64_t up_since_us;
};

static void lose(struct redis *r, const struct err *why);
static void on_read(evutil_socket_t fd, short what, void *ctx);
static void on_write(evutil_socket_t fd, short what, void *ctx);
static void go_on_connecting(struct redis *r);

static struct redis *redis_of(void *ctx)
{
    struct redis *r = ctx;
    CHECK_MAGIC(r, REDIS_MAGIC);
    return r;
}

static void set_state(struct redis *r, enum redis_state state)
{
    static const char *const names[] = {"waiting",  "resolving", "connecting",
                                        "greeting", "up",        "closed"};
    log_debug("redis.state", F_STR("name", r->name), F_STR("from", names[r->state]),
              F_STR("to", names[state]));
    r->state = state;
}

static void arm_timer(struct redis *r, int64_t us)
{
    struct timeval tv = {.tv_sec = us / 1000000, .tv_usec = us % 1000000};
    CHECK(event_add(r->timer, &tv) == 0);
}

/* --- commands --------------------------------------------------------------------------- */

/* Only collects: it is written when the loop says that the socket takes it. */
static void send_formatted(struct redis *r, const char *cmd, struct slot slot)
{
    CHECK(r->n < OUTSTANDING_MAX);
    slot.sent_us = clock_mono_us();
    r->slots[(r->head + r->n) % OUTSTANDING_MAX] = slot;
    r->bytes += slot.len;
    if (r->n++ == 0) {
        r->head_since_us = slot.sent_us;
        if (r->state == REDIS_UP && !event_pending(r->timer, EV_TIMEOUT, NULL)) {
            arm_timer(r, r->stall_us);
        }
    }
    CHECK(redisAppendFormattedCommand(r->link.conn, cmd, slot.len) == REDIS_OK); /* or no memory */
    CHECK(event_add(r->write, NULL) == 0);
}

static bool has_room(const struct redis *r, int argc, const size_t *argv_len)
{
    size_t len = 0;
    for (int i = 0; i < argc; i++) {
        len += argv_len[i];
    }
    CHECK(len <= COMMAND_MAX / 2);
    return redis_is_up(r) && r->n < OUTSTANDING_MAX && r->bytes + len <= OUTSTANDING_BYTES;
}

bool redis_command(struct redis *r, int argc, const char *const *argv, const size_t *argv_len,
                   redis_reply_fn *fn, void *ctx)
{
    CHECK_MAGIC(r, REDIS_MAGIC);
    CHECK(fn != NULL && r->message == NULL && argc >= 1 && argc <= REDIS_ARGS_MAX);
    if (!has_room(r, argc, argv_len)) {
        return false;
    }
    redis_format(&r->out, argc, argv, argv_len);
    send_formatted(r, r->out.data, (struct slot){.fn = fn, .ctx = ctx, .len = r->out.len});
    return true;
}

bool redis_eval(struct redis *r, const struct redis_script *s, int n_keys, int argc,
                const char *const *argv, const size_t *argv_len, redis_reply_fn *fn, void *ctx)
{
    CHECK_MAGIC(r, REDIS_MAGIC);
    CHECK(fn != NULL && r->message == NULL && n_keys >= 0 && n_keys <= argc &&
          argc <= REDIS_ARGS_MAX);
    if (!has_room(r, argc, argv_len)) {
        return false;
    }
    redis_format_evalsha(&r->out, s, n_keys, argc, argv, argv_len);
    send_formatted(r, r->out.data,
                   (struct slot){.fn = fn,
                                 .ctx = ctx,
                                 .len = r->out.len,
                                 .script = s,
                                 .argc = argc,
                                 .again = mem_dupn(r->out.data, r->out.len)});
    return true;
}

/* By its text instead of its hash. Runs after the commands that were sent since; the second time
 * there is nothing more to try. */
static void send_eval(struct redis *r, const struct slot *old)
{
    redis_format_eval(&r->out, old->script, old->argc, old->again, old->len);
    send_formatted(
        r, r->out.data,
        (struct slot){.fn = old->fn, .ctx = old->ctx, .len = r->out.len, .script = old->script});
}

/* --- replies ---------------------------------------------------------------------------- */

static bool starts_with(const struct redisReply *reply, const char *word)
{
    return strncmp(reply->str, word, strlen(word)) == 0;
}

/* The slot leaves the ring before its callback runs, so that the callback may send the next one. */
static struct slot take_oldest(struct redis *r)
{
    struct slot slot = r->slots[r->head];
    r->head = (r->head + 1) % OUTSTANDING_MAX;
    r->n--;
    r->bytes -= slot.len;
    r->head_since_us = clock_mono_us();
    return slot;
}

static void call_back(struct redis *r, const struct slot *slot, const struct redisReply *reply,
                      const struct err *err)
{
    bool nested = r->in_callback;
    r->in_callback = true;
    slot->fn(slot->ctx, reply, err);
    r->in_callback = nested;
}

static void finish_oldest(struct redis *r, const struct redisReply *reply)
{
    struct slot slot = take_oldest(r);
    struct err err = {.code = ERR_NONE};
    histogram_observe(r->seconds, (double)(clock_mono_us() - slot.sent_us) / 1e6);
    if (reply->type == REDIS_REPLY_ERROR) {
        if (slot.again != NULL && starts_with(reply, "NOSCRIPT")) {
            send_eval(r, &slot);
            free(slot.again);
            return;
        }
        err = redis_fault(ERR_DENIED, slot.script != NULL ? slot.script->name : "refused",
                          reply->str);
        if (r->state == REDIS_UP && starts_with(reply, "READONLY")) {
            r->broken = redis_fault(ERR_DENIED, "left, because it is a read-only replica", "");
            r->link.turn++;
        }
        reply = NULL;
    }
    free(slot.again), slot.again = NULL;
    call_back(r, &slot, reply, &err);
}

static bool is_message(const struct redisReply *reply)
{
    return reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 &&
           reply->element[0]->type == REDIS_REPLY_STRING &&
           strcmp(reply->element[0]->str, "message") == 0 &&
           reply->element[2]->type == REDIS_REPLY_STRING;
}

static void take_reply(struct redis *r, const struct redisReply *reply)
{
    if (r->message != NULL && is_message(reply)) {
        r->in_callback = true;
        r->message(r->message_ctx, reply->element[2]->str, reply->element[2]->len);
        r->in_callback = false;
    } else if (r->n > 0) {
        finish_oldest(r, reply);
    } else {
        r->broken = redis_fault(ERR_IO, "sent a reply that nobody asked for",
                                reply->type == REDIS_REPLY_ERROR ? reply->str : "");
    }
}

/* At most what one read of 16 KiB completed, so that a busy connection cannot hold the loop. */
static void take_replies(struct redis *r)
{
    while (r->broken.code == ERR_NONE) {
        void *reply = NULL;
        if (redisGetReplyFromReader(r->link.conn, &reply) != REDIS_OK) {
            r->broken = redis_fault(ERR_IO, "connection lost", r->link.conn->errstr);
            return;
        }
        if (reply == NULL) {
            return;
        }
        take_reply(r, reply);
        freeReplyObject(reply);
    }
}

/* --- up and down ------------------------------------------------------------------------ */

static void close_conn(struct redis *r)
{
    /* libevent must forget the descriptor before hiredis closes it. */
    if (r->read != NULL) {
        event_free(r->read), r->read = NULL;
    }
    if (r->write != NULL) {
        event_free(r->write), r->write = NULL;
    }
    redis_link_close(&r->link);
    r->broken = (struct err){.code = ERR_NONE};
}

static void fail_commands(struct redis *r, const struct err *why)
{
    struct err err = *why;
    err.code = err.code == ERR_TIMEOUT ? ERR_TIMEOUT : ERR_IO; /* it may have run: not ERR_DENIED */
    for (size_t left = r->n; left > 0; left--) {
        struct slot slot = take_oldest(r);
        free(slot.again), slot.again = NULL;
        call_back(r, &slot, NULL, &err);
    }
}

static void complain(struct redis *r, const struct err *why)
{
    if (backoff_failed(&r->backoff)) {
        log_warn("redis.connect_failed", F_STR("name", r->name), F_INT("tries", r->backoff.tries),
                 F_ERR(why));
    }
}

/* The only way out of RESOLVING, CONNECTING, GREETING and UP. */
static void lose(struct redis *r, const struct err *why)
{
    struct err err = *why; /* may live in what is closed here */
    bool was_up = r->state == REDIS_UP;
    r->lost->value += was_up;
    r->link.turn += !was_up;
    set_state(r, REDIS_WAITING);
    (void)event_del(r->timer); /* a failure to delete means that it was not added */
    close_conn(r);
    fail_commands(r, &err);
    if (!was_up || r->message != NULL) {
        complain(r, &err);
    } else if (r->handlers.down != NULL) {
        r->in_callback = true;
        r->handlers.down(r->handlers.ctx, &err);
        r->in_callback = false;
    }
    /* A server that lets us in and throws us out must not be asked ten times a second. */
    if (was_up && clock_mono_us() - r->up_since_us >= STEADY_US) {
        r->backoff.ms = 0;
    }
    arm_timer(r, backoff_next_us(&r->backoff));
}

static void on_read(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct redis *r = redis_of(ctx);
    if (r->state == REDIS_CONNECTING) {
        go_on_connecting(r);
        return;
    }
    if (r->broken.code == ERR_NONE && redis_link_read(&r->link, &r->broken)) {
        take_replies(r);
    }
    if (r->broken.code != ERR_NONE) {
        lose(r, &r->broken);
    }
}

/* --- logging in ------------------------------------------------------------------------- */

/* Marks the connection instead of losing it: this runs inside its read loop. */
static void on_greeted(void *ctx, const struct redisReply *reply, const struct err *err)
{
    struct redis *r = redis_of(ctx);
    if (r->state == REDIS_GREETING && reply == NULL) {
        r->broken = *err;
    }
}

static void on_ignored(void *ctx, const struct redisReply *reply, const struct err *err)
{
    (void)ctx, (void)reply, (void)err;
}

/* The last word of the greeting. A user who may not PING is logged in all the same. */
static void on_ready(void *ctx, const struct redisReply *reply, const struct err *err)
{
    struct redis *r = redis_of(ctx);
    if (r->state != REDIS_GREETING || r->broken.code != ERR_NONE) {
        return; /* lost meanwhile, or refused before */
    }
    if (reply == NULL && strstr(err->text, "NOPERM") == NULL) {
        r->broken = *err;
        return;
    }
    (void)event_del(r->timer);
    r->backoff.tries = 0;
    r->up_since_us = clock_mono_us();
    set_state(r, REDIS_UP);
    if (r->message != NULL) {
        arm_timer(r, r->stall_us); /* silence is ended by a PING of ours: see check_stall() */
    }
    if (r->handlers.up != NULL) {
        r->handlers.up(r->handlers.ctx);
    }
}

static void greet(struct redis *r, redis_reply_fn *fn, int argc, const char *const *argv)
{
    size_t lens[3];
    CHECK(argc <= 3);
    for (int i = 0; i < argc; i++) {
        lens[i] = strlen(argv[i]);
    }
    redis_format(&r->out, argc, argv, lens);
    send_formatted(r, r->out.data, (struct slot){.fn = fn, .ctx = r, .len = r->out.len});
    OPENSSL_cleanse(r->out.data, r->out.len); /* the password */
}
#define GREET(r, fn, ...)                                                                          \
    greet(r, fn, (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)),               \
          (const char *const[]){__VA_ARGS__})

static void log_in(struct redis *r)
{
    set_state(r, REDIS_GREETING);
    if (r->url.user != NULL) {
        GREET(r, on_greeted, "AUTH", r->url.user, r->url.password);
    } else if (r->url.password != NULL) {
        GREET(r, on_greeted, "AUTH", r->url.password);
    }
    GREET(r, on_ignored, "CLIENT", "SETNAME", r->name); /* a help for operators, no more */
    if (r->url.db != 0) {
        char db[16];
        CHECK(snprintf(db, sizeof(db), "%d", r->url.db) > 0);
        GREET(r, on_greeted, "SELECT", db);
    }
    if (r->channel != NULL) {
        GREET(r, on_greeted, "SUBSCRIBE", r->channel);
    }
    GREET(r, on_ready, "PING");
}

/* The TCP connection is there, or the TLS handshake has what it waited for. */
static void go_on_connecting(struct redis *r)
{
    struct err err = {.code = ERR_NONE};
    switch (redis_link_go_on(&r->link, &err)) {
    case REDIS_STEP_DONE:
        CHECK(event_add(r->read, NULL) == 0);
        log_in(r);
        return;
    case REDIS_STEP_READ:
        CHECK(event_add(r->read, NULL) == 0);
        return;
    case REDIS_STEP_WRITE:
        CHECK(event_add(r->write, NULL) == 0);
        return;
    case REDIS_STEP_FAILED:
        lose(r, &err);
        return;
    }
}

static void on_write(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct redis *r = redis_of(ctx);
    if (r->state == REDIS_CONNECTING) {
        go_on_connecting(r);
        return;
    }
    bool done = false;
    struct err err = {.code = ERR_NONE};
    if (!redis_link_write(&r->link, &done, &err)) {
        lose(r, &err);
    } else if (!done) {
        CHECK(event_add(r->write, NULL) == 0);
    }
}

static void on_opened(void *ctx, const struct err *err)
{
    struct redis *r = redis_of(ctx);
    if (err->code != ERR_NONE) {
        lose(r, err);
        return;
    }
    set_state(r, REDIS_CONNECTING);
    const evutil_socket_t fd = r->link.conn->fd;
    r->read = event_new(r->base, fd, EV_READ | EV_PERSIST, on_read, r);
    r->write = event_new(r->base, fd, EV_WRITE, on_write, r);
    CHECK(r->read != NULL && r->write != NULL && event_add(r->write, NULL) == 0);
    arm_timer(r, CONNECT_TIMEOUT_US);
}

static void start_connect(struct redis *r)
{
    set_state(r, REDIS_RESOLVING);
    redis_link_open(&r->link, r->base, on_opened, r);
}

/* --- the timer -------------------------------------------------------------------------- */

static void check_stall(struct redis *r)
{
    if (r->n == 0) {
        if (r->message != NULL) { /* else the next command arms the timer */
            GREET(r, on_ignored, "PING");
        }
        return;
    }
    int64_t age = clock_mono_us() - r->head_since_us;
    if (age < r->stall_us) {
        arm_timer(r, r->stall_us - age);
        return;
    }
    struct err err = redis_fault(ERR_TIMEOUT, "no answer in time, connection given up", "");
    lose(r, &err);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct redis *r = redis_of(ctx);
    if (r->state == REDIS_WAITING) {
        start_connect(r);
    } else if (r->state == REDIS_UP) {
        check_stall(r);
    } else {
        struct err err =
            redis_fault(ERR_TIMEOUT, "no connection in time", redis_link_stage(&r->link));
        lose(r, &err);
    }
}

/* --- birth and end ---------------------------------------------------------------------- */

static void register_metrics(struct redis *r)
{
    char labels[80];
    const int n = snprintf(labels, sizeof(labels), "connection=\"%s\"", r->name);
    CHECK(n > 0 && (size_t)n < sizeof(labels));
    r->seconds = metrics_histogram("nrw_redis_seconds", labels,
                                   "from sending a command to Redis to its answer",
                                   metrics_seconds_bounds, metrics_seconds_bounds_n);
    r->lost = metrics_counter("nrw_redis_connections_lost_total", labels,
                              "connections to Redis that were up and broke");
}

struct redis *redis_new(struct event_base *base, const char *url, const char *name, int stall_ms,
                        const struct redis_handlers *handlers, struct err *err)
{
    CHECK(stall_ms > 0);
    struct redis *r = mem_zero(1, sizeof(*r));
    if (!redis_url_parse(url, &r->url, err) || !redis_link_init(&r->link, &r->url, err)) {
        redis_url_done(&r->url);
        free(r);
        return NULL;
    }
    r->magic = REDIS_MAGIC;
    r->base = base;
    r->name = mem_dup(name);
    register_metrics(r);
    r->stall_us = (int64_t)stall_ms * 1000;
    if (handlers != NULL) {
        r->handlers = *handlers;
    }
    r->slots = mem_zero(OUTSTANDING_MAX, sizeof(*r->slots));
    buf_init(&r->out, COMMAND_MAX);
    r->timer = evtimer_new(base, on_timer, r);
    CHECK(r->timer != NULL);
    arm_timer(r, 0); /* from the loop: `up` must not be called before the caller has the pointer */
    return r;
}

struct redis *redis_subscribe(struct event_base *base, const char *url, const char *name,
                              const char *channel,
                              void (*message)(void *ctx, const char *text, size_t len), void *ctx,
                              struct err *err)
{
    CHECK(message != NULL);
    struct redis *r = redis_new(base, url, name, LISTENER_STALL_MS, NULL, err);
    if (r != NULL) {
        r->channel = mem_dup(channel);
        r->message = message;
        r->message_ctx = ctx;
    }
    return r;
}

bool redis_is_up(const struct redis *r)
{
    return r->state == REDIS_UP && r->broken.code == ERR_NONE;
}

void redis_free(struct redis *r)
{
    if (r == NULL) {
        return;
    }
    CHECK_MAGIC(r, REDIS_MAGIC);
    CHECK(!r->in_callback);
    struct err err = redis_fault(ERR_IO, "connection closed by this side", "");
    set_state(r, REDIS_CLOSED);
    event_free(r->timer), r->timer = NULL;
    close_conn(r);
    fail_commands(r, &err);
    redis_link_done(&r->link);
    redis_url_done(&r->url);
    buf_done(&r->out);
    free(r->slots), r->slots = NULL;
    free(r->channel), r->channel = NULL;
    free(r->name), r->name = NULL;
    r->magic = 0;
    free(r);
}
