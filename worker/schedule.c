/* The index of deadlines in Redis: owns the two connections, the scripts, when to claim, and the
 * reaping of leases that ran out. Writes no row, sends no request, and does not decide who may try
 * a delivery: that is a fence in PostgreSQL, which also re-checks the time. The run id of Redis is
 * part of the epoch, because a Redis that restarted has its epoch but may have lost its last
 * second. Additions are in schedule_batch.c, rebuild and reconcile in schedule_walk.c. Used by
 * retries, journal and worker.c.
 *
 *   DOWN --connected--> GREETING --run id, pulse written--> UP <--pulse--error--> REFUSED */
#include "schedule.h"

#include <event2/util.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "log.h"
#include "mem.h"
#include "redis_keys.h"
#include "schedule_internal.h"
#include "scripts.h"

#define STALL_MS          2000
#define CLAIM_GAP_US      10000 /* between claims of which the last one found less than it asked */
#define COMPLAIN_EVERY_US (30 * INT64_C(1000000))
#define KEYS_MAX          4

struct script_row {
    const char *name;
    const char *text;
    bool run; /* the first argument is the run id */
    const char *keys[KEYS_MAX];
};

/* The sets and the proof that they belong to this run of Redis. */
#define INDEX REDIS_KEY_DUE, REDIS_KEY_LEASED, REDIS_KEY_EPOCH

/* clang-format off */
static const struct script_row rows[SCRIPT_N] = {
    [SCRIPT_CLAIM] = {"claim", script_claim, true, {INDEX}},
    [SCRIPT_ADD] = {"add", script_add, true, {INDEX}},
    [SCRIPT_DONE] = {"done", script_done, true, {REDIS_KEY_LEASED, REDIS_KEY_EPOCH}},
    [SCRIPT_GIVE_BACK] = {"give_back", script_give_back, true, {INDEX}},
    [SCRIPT_REAP] = {"reap", script_reap, true, {INDEX, REDIS_KEY_PULSE}},
    [SCRIPT_REBUILD_BEGIN] = {"rebuild_begin", script_rebuild_begin, true, {REDIS_KEY_EPOCH, REDIS_KEY_REBUILD}},
    [SCRIPT_FILL] = {"fill", script_fill, false, {REDIS_KEY_DUE, REDIS_KEY_LEASED, REDIS_KEY_REBUILD}},
    [SCRIPT_REBUILD_END] = {"rebuild_end", script_rebuild_end, true, {REDIS_KEY_EPOCH, REDIS_KEY_REBUILD}},
    [SCRIPT_RECONCILE_BEGIN] = {"reconcile_begin", script_reconcile_begin, false, {REDIS_KEY_RECONCILE}},
};
/* clang-format on */

static struct schedule *schedule_of(void *ctx)
{
    struct schedule *s = ctx;
    CHECK_MAGIC(s, SCHEDULE_MAGIC);
    return s;
}

static void set_state(struct schedule *s, enum schedule_state state)
{
    static const char *const names[] = {"down", "greeting", "refused", "up", "closed"};
    if (s->state != state) {
        log_debug("schedule.state", F_STR("from", names[s->state]), F_STR("to", names[state]));
    }
    s->state = state;
    s->up->value = state == SCHEDULE_UP ? 1 : 0;
}

int64_t schedule_jitter(int64_t us)
{
    uint16_t random;
    evutil_secure_rng_get_bytes(&random, sizeof(random));
    return us - us / 10 * random / UINT16_MAX;
}

void schedule_complain(struct schedule *s, const char *what, const struct err *err)
{
    int64_t now = clock_mono_us();
    s->complaints++;
    if (s->complained_us == 0 || now - s->complained_us >= COMPLAIN_EVERY_US) {
        log_warn("schedule.trouble", F_STR("what", what), F_INT("times", s->complaints),
                 F_ERR(err));
        s->complained_us = now;
        s->complaints = 0;
    }
}

static void arm(struct event *timer, int64_t us)
{
    struct timeval tv = {.tv_sec = us / 1000000, .tv_usec = us % 1000000};
    CHECK(event_add(timer, &tv) == 0);
}

/* --- words ------------------------------------------------------------------------------ */

void words_add(struct words *w, const char *text)
{
    size_t len = strlen(text);
    CHECK(w->n < REDIS_ARGS_MAX && w->used + len <= sizeof(w->text));
    memcpy(w->text + w->used, text, len);
    w->argv[w->n] = w->text + w->used;
    w->len[w->n++] = len;
    w->used += len;
}

void words_add_int(struct words *w, int64_t value)
{
    char text[24];
    CHECK(snprintf(text, sizeof(text), "%lld", (long long)value) > 0);
    words_add(w, text);
}

void words_add_uuid(struct words *w, const struct uuid *id)
{
    char text[UUID_TEXT + 1];
    uuid_format(id, text);
    words_add(w, text);
}

struct words *schedule_words(struct schedule *s, enum schedule_script script)
{
    struct words *w = &s->words;
    w->n = 0;
    w->used = 0;
    for (int i = 0; i < KEYS_MAX && rows[script].keys[i] != NULL; i++) {
        words_add(w, rows[script].keys[i]);
    }
    w->n_keys = w->n;
    if (rows[script].run) {
        words_add(w, s->run);
    }
    return w;
}

/* --- claims ----------------------------------------------------------------------------- */

static void arm_claim(struct schedule *s)
{
    if (s->state != SCHEDULE_UP || s->claim_out || s->want == 0) {
        (void)event_del(s->claim_timer); /* a failure to delete means that it was not added */
        return;
    }
    int64_t us = s->next_claim_us - clock_mono_us();
    arm(s->claim_timer, us > 0 ? us : 0);
}

void schedule_hint(struct schedule *s, int64_t wait_ms)
{
    int64_t at = clock_mono_us() + (wait_ms < 0 ? 0 : wait_ms) * 1000;
    if (s->claim_out) {
        s->hinted_us = at < s->hinted_us ? at : s->hinted_us;
        return;
    }
    if (at < s->last_claim_us + CLAIM_GAP_US) {
        at = s->last_claim_us + CLAIM_GAP_US;
    }
    if (at < s->next_claim_us) {
        s->next_claim_us = at;
        arm_claim(s);
    }
}

/* A wake-up message: ms until something is due; anything else means now. */
static void on_message(void *ctx, const char *text, size_t len)
{
    struct schedule *s = schedule_of(ctx);
    int64_t wait_ms = 0;
    for (size_t i = 0; i < len && text[i] >= '0' && text[i] <= '9'; i++) {
        wait_ms = wait_ms * 10 + (text[i] - '0');
        if (wait_ms > SCHEDULE_TICK_US / 1000) {
            return; /* a poll comes before */
        }
    }
    schedule_hint(s, wait_ms);
}

static void on_claim_timer(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct schedule *s = schedule_of(ctx);
    if (s->state != SCHEDULE_UP || s->claim_out || s->want == 0) {
        return;
    }
    size_t n = s->want < SCHEDULE_CLAIM_MAX ? s->want : SCHEDULE_CLAIM_MAX;
    struct words *w = schedule_words(s, SCRIPT_CLAIM);
    words_add_int(w, (int64_t)n);
    words_add_int(w, s->cfg.lease_ms);
    s->last_claim_us = clock_mono_us();
    s->next_claim_us = s->last_claim_us + schedule_jitter(SCHEDULE_TICK_US);
    s->claim_out = schedule_send(s, SCRIPT_CLAIM, n);
    arm_claim(s);
}

static void plan_claim(struct schedule *s, bool more, int64_t wait_ms)
{
    int64_t poll_us = schedule_jitter(SCHEDULE_TICK_US);
    int64_t us = wait_ms < 0 || wait_ms * 1000 > poll_us ? poll_us : wait_ms * 1000;
    if (more) {
        us = 0;
    } else if (us < CLAIM_GAP_US) {
        us = CLAIM_GAP_US;
    }
    s->next_claim_us = clock_mono_us() + us;
    if (s->hinted_us < s->next_claim_us) {
        s->next_claim_us = s->hinted_us;
    }
    s->hinted_us = INT64_MAX;
}

static void take_claim(struct schedule *s, const struct schedule_call *call,
                       const struct redisReply *reply)
{
    s->claim_out = false;
    CHECK(reply->elements == 3 && reply->element[2]->type == REDIS_REPLY_ARRAY);
    const struct redisReply *list = reply->element[2];
    CHECK(list->elements <= call->n);
    struct uuid ids[SCHEDULE_CLAIM_MAX];
    size_t n = 0;
    for (size_t i = 0; i < list->elements; i++) {
        const struct redisReply *id = list->element[i];
        if (uuid_parse(id->str, id->len, &ids[n])) {
            n++;
        } else { /* not ours; it stays leased, so it comes once in a lease */
            struct err err = {.code = ERR_NONE};
            (void)err_set(&err, ERR_INVALID, "not a delivery id: %.36s", id->str);
            s->errors->value++;
            schedule_complain(s, "claim", &err);
        }
    }
    plan_claim(s, list->elements == call->n, reply->element[1]->integer);
    s->claimed->value += n;
    s->want -= n < s->want ? n : s->want;
    if (n > 0) {
        s->on.claimed(s->on.ctx, ids, n);
    }
    arm_claim(s);
}

void schedule_want(struct schedule *s, size_t n)
{
    CHECK_MAGIC(s, SCHEDULE_MAGIC);
    bool idle = s->want == 0;
    s->want = n;
    if (idle && n > 0) {
        arm_claim(s);
    }
}

/* --- answers ---------------------------------------------------------------------------- */

/* Redis takes writes. */
static void came_up(struct schedule *s)
{
    if (s->state == SCHEDULE_UP) {
        return;
    }
    set_state(s, SCHEDULE_UP);
    log_info("schedule.up", F_STR("run", s->run));
    s->next_claim_us = 0;
    arm_claim(s);
    batch_flush(s);
}

static void refused(struct schedule *s, const struct err *err)
{
    schedule_complain(s, "refused", err);
    if (s->state == SCHEDULE_UP || s->state == SCHEDULE_GREETING) {
        set_state(s, SCHEDULE_REFUSED);
        arm_claim(s);
        walk_abandon(s);
    }
}

static void reap(struct schedule *s)
{
    struct words *w = schedule_words(s, SCRIPT_REAP);
    words_add_int(w, SCHEDULE_CLAIM_MAX);
    if (!schedule_send(s, SCRIPT_REAP, SCHEDULE_CLAIM_MAX)) {
        s->errors->value++; /* 4096 commands wait: the stall watchdog will act, or the next tick */
    }
}

static void take_reap(struct schedule *s, const struct redisReply *reply)
{
    size_t n = (size_t)reply->element[1]->integer;
    s->reaped->value += n;
    came_up(s);
    if (n > 0) {
        schedule_hint(s, 0);
    }
    if (n == SCHEDULE_CLAIM_MAX) {
        reap(s); /* one at a time, until it finds less */
    }
}

static void answered(struct schedule *s, const struct schedule_call *call,
                     const struct redisReply *reply)
{
    CHECK(reply->type == REDIS_REPLY_ARRAY && reply->elements >= 1);
    long long first = reply->element[0]->integer;
    switch (call->script) {
    case SCRIPT_CLAIM:
        take_claim(s, call, reply);
        break;
    case SCRIPT_ADD:
    case SCRIPT_GIVE_BACK:
        schedule_hint(s, reply->element[1]->integer);
        break;
    case SCRIPT_REAP:
        take_reap(s, reply);
        break;
    case SCRIPT_DONE:
        break;
    case SCRIPT_REBUILD_BEGIN:
    case SCRIPT_FILL:
    case SCRIPT_REBUILD_END:
    case SCRIPT_RECONCILE_BEGIN:
        walk_answer(s, call, reply);
        return;
    case SCRIPT_N:
        CHECK(false);
    }
    if (first == 0 && s->state == SCHEDULE_UP) {
        s->epoch_lost = true;
        walk_tick(s);
    }
}

static void failed(struct schedule *s, const struct schedule_call *call, const struct err *err)
{
    if (s->state == SCHEDULE_CLOSED) {
        return;
    }
    s->errors->value++;
    if (call->script == SCRIPT_CLAIM) {
        s->claim_out = false;
    } else if (call->script == SCRIPT_ADD || call->script == SCRIPT_GIVE_BACK) {
        batch_forgotten(s);
    } else if (call->generation == s->walk.generation && call->script >= SCRIPT_REBUILD_BEGIN) {
        walk_abandon(s);
    }
    if (err->code == ERR_DENIED) {
        refused(s, err);
    }
}

static void on_reply(void *ctx, const struct redisReply *reply, const struct err *err)
{
    struct schedule_call *call = ctx;
    struct schedule *s = schedule_of(call->s);
    if (reply != NULL) {
        answered(s, call, reply);
    } else {
        failed(s, call, err);
    }
    free(call);
}

bool schedule_send(struct schedule *s, enum schedule_script script, size_t n)
{
    struct schedule_call *call = mem_alloc(sizeof(*call));
    *call =
        (struct schedule_call){.s = s, .script = script, .n = n, .generation = s->walk.generation};
    const struct words *w = &s->words;
    if (!redis_eval(s->redis, &s->scripts[script], w->n_keys, w->n, w->argv, w->len, on_reply,
                    call)) {
        free(call);
        return false;
    }
    return true;
}

/* --- up and down ------------------------------------------------------------------------ */

/* Who may not ask has no run id; then only a lost epoch is noticed, and the rest by reconcile. */
static void on_info(void *ctx, const struct redisReply *reply, const struct err *err)
{
    static const char name[] = "run_id:";
    struct schedule *s = schedule_of(ctx);
    if (s->state != SCHEDULE_GREETING || (reply == NULL && err->code != ERR_DENIED)) {
        return; /* lost */
    }
    const char *at =
        reply == NULL || reply->type != REDIS_REPLY_STRING ? NULL : strstr(reply->str, name);
    size_t len = at == NULL ? 0 : strspn(at + sizeof(name) - 1, "0123456789abcdef");
    if (len == 0 || len > SCHEDULE_RUN_MAX) {
        at = "run_id:unknown", len = strlen("unknown");
        log_warn("schedule.no_run_id",
                 F_STR("effect", "a restart of Redis is noticed by reconcile only"), F_ERR(err));
    }
    memcpy(s->run, at + sizeof(name) - 1, len);
    s->run[len] = '\0';
    reap(s); /* its pulse decides */
}

static void on_ignored(void *ctx, const struct redisReply *reply, const struct err *err)
{
    (void)ctx, (void)reply, (void)err;
}

/* Loaded before the first use, so that NOSCRIPT, whose second try comes out of order, is left for a
 * SCRIPT FLUSH. */
static void on_up(void *ctx)
{
    struct schedule *s = schedule_of(ctx);
    static const char *const info[] = {"INFO", "server"};
    static const size_t info_len[] = {4, 6};
    set_state(s, SCHEDULE_GREETING);
    s->run[0] = '\0';
    for (int i = 0; i < SCRIPT_N; i++) {
        const char *const load[] = {"SCRIPT", "LOAD", rows[i].text};
        const size_t load_len[] = {6, 4, strlen(rows[i].text)};
        CHECK(redis_command(s->redis, 3, load, load_len, on_ignored, NULL));
    }
    CHECK(redis_command(s->redis, 2, info, info_len, on_info, s));
}

static void on_down(void *ctx, const struct err *why)
{
    struct schedule *s = schedule_of(ctx);
    schedule_complain(s, "connection lost", why);
    set_state(s, SCHEDULE_DOWN);
    s->epoch_lost = false; /* the next connection tells */
    s->hinted_us = INT64_MAX;
    arm_claim(s);
    walk_abandon(s);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct schedule *s = schedule_of(ctx);
    arm(s->tick, schedule_jitter(SCHEDULE_TICK_US));
    if (s->run[0] != '\0' && redis_is_up(s->redis)) {
        reap(s);
    }
    walk_tick(s);
}

/* --- birth and end ---------------------------------------------------------------------- */

static void register_metrics(struct schedule *s)
{
    s->up = metrics_gauge("nrw_redis_up", NULL,
                          "1 while Redis is connected, and takes a worker's writes");
    s->claimed = metrics_counter("nrw_schedule_claimed_total", NULL,
                                 "deliveries that this worker leased because they were due");
    s->rebuilds = metrics_counter("nrw_schedule_rebuilds_total", NULL,
                                  "times this worker rebuilt the index in Redis from PostgreSQL");
    s->reaped = metrics_counter("nrw_schedule_reaped_total", NULL,
                                "leases that ran out and were made due again");
    s->reconciled = metrics_counter("nrw_schedule_reconciled_total", NULL,
                                    "overdue deliveries that Redis had forgotten");
    s->errors = metrics_counter("nrw_schedule_errors_total", NULL,
                                "scripts that Redis refused or whose answer was lost");
}

struct schedule *schedule_new(struct event_base *base, const struct schedule_config *cfg,
                              struct pg *pg, const struct schedule_handlers *handlers,
                              struct err *err)
{
    CHECK(cfg->lease_ms > 0 && cfg->reconcile_ms > 0);
    struct schedule *s = mem_zero(1, sizeof(*s));
    s->magic = SCHEDULE_MAGIC;
    s->cfg = *cfg;
    s->cfg.redis_url = NULL; /* borrowed for this call only */
    s->on = *handlers;
    s->pg = pg;
    s->hinted_us = INT64_MAX;
    register_metrics(s);
    set_state(s, SCHEDULE_DOWN);
    for (int i = 0; i < SCRIPT_N; i++) {
        redis_script_init(&s->scripts[i], rows[i].name, rows[i].text);
    }
    batch_init(s);
    walk_init(s);
    const struct redis_handlers on = {.up = on_up, .down = on_down, .ctx = s};
    s->redis = redis_new(base, cfg->redis_url, "nrw-schedule", STALL_MS, &on, err);
    if (s->redis == NULL) {
        schedule_free(s);
        return NULL;
    }
    s->listener = redis_subscribe(base, cfg->redis_url, "nrw-schedule-wake", REDIS_CHANNEL_WAKE,
                                  on_message, s, NULL);
    CHECK(s->listener != NULL); /* the same URL */
    s->claim_timer = evtimer_new(base, on_claim_timer, s);
    s->tick = evtimer_new(base, on_tick, s);
    CHECK(s->claim_timer != NULL && s->tick != NULL);
    arm(s->tick, schedule_jitter(SCHEDULE_TICK_US));
    return s;
}

bool schedule_up(const struct schedule *s)
{
    return s->state == SCHEDULE_UP;
}

void schedule_free(struct schedule *s)
{
    if (s == NULL) {
        return;
    }
    CHECK_MAGIC(s, SCHEDULE_MAGIC);
    set_state(s, SCHEDULE_CLOSED);
    walk_abandon(s);
    redis_free(s->listener), s->listener = NULL;
    redis_free(s->redis), s->redis = NULL; /* calls on_reply() */
    if (s->claim_timer != NULL) {
        event_free(s->claim_timer), s->claim_timer = NULL;
    }
    if (s->tick != NULL) {
        event_free(s->tick), s->tick = NULL;
    }
    s->magic = 0;
    free(s);
}
