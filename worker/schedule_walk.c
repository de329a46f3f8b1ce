/* Walks over pending_deliveries, a page of 1 000 rows at a time, soonest due first, and adds to
 * Redis what it does not have. Two walks: rebuild (everything, under a lock in Redis, when the
 * index was lost) and reconcile (what is overdue and leased by nobody, about once a minute, one
 * worker at a time). Writes nothing to PostgreSQL. A walk that fails anywhere is abandoned and
 * begun anew: every step may be repeated. Called by schedule.c.
 *
 *   IDLE -> BEGIN (lock) -> READ (page) -> FILL (scripts) -> READ ... -> END (epoch, lock) -> IDLE
 */
#include <endian.h>
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "log.h"
#include "mem.h"
#include "pgarray.h"
#include "schedule_internal.h"

#define PAGE_ROWS       1000
#define PAGE_ROWS_TEXT  "1000"
#define RECONCILE_PAGES 100   /* of one walk; the next one goes on there */
#define LOCK_MS         10000 /* a page and its scripts take much less   */
#define PAUSE_US        1000000
#define BUSY_US         300000
#define OID_UUID        2950
#define OID_TIMESTAMPTZ 1184
#define OID_INT8        20

/* Bounded on both sides, because an interval cannot be infinite. Up: never early. */
#define DELAY_MS(at)                                                                               \
    "ceil(extract(epoch from least(greatest(" at ", now() - interval '1 day'), "                   \
    "now() + interval '1000 days') - now()) * 1000)::bigint"
#define KEYSET                                                                                     \
    " (next_attempt_at, delivery_id) > ($1, $2)"                                                   \
    " ORDER BY next_attempt_at, delivery_id LIMIT " PAGE_ROWS_TEXT

/* A row that a worker has taken is due again when its lease in PostgreSQL ends. */
#define REBUILD_SQL                                                                                \
    "SELECT delivery_id, next_attempt_at, " DELAY_MS(                                              \
        "greatest(next_attempt_at, leased_until)") " FROM pending_deliveries WHERE" KEYSET
#define RECONCILE_SQL                                                                              \
    "SELECT delivery_id, next_attempt_at, 0::bigint FROM pending_deliveries"                       \
    " WHERE next_attempt_at < now() - $3::bigint * interval '1 millisecond'"                       \
    " AND (leased_until IS NULL OR leased_until < now()) AND" KEYSET

/* A query that is out. It outlives a walk that is abandoned, and the schedule. */
struct walk_page {
    struct schedule *s; /* NULL: nobody waits for it any more */
};

static void cursor_start(struct walk_cursor *c)
{
    memset(c, 0, sizeof(*c));
    c->at[0] = (char)-128; /* the smallest int8: -infinity */
}

/* +-10 % */
static void plan_reconcile(struct schedule *s)
{
    int64_t us = s->cfg.reconcile_ms * 1000;
    int64_t later = us - schedule_jitter(us);
    int64_t sooner = us - schedule_jitter(us);
    s->reconcile_at_us = clock_mono_us() + us + later - sooner;
}

void walk_init(struct schedule *s)
{
    struct uuid token = uuid_v4();
    uuid_format(&token, s->token);
    cursor_start(&s->reconcile_cursor);
    plan_reconcile(s);
}

static void end(struct schedule *s, int64_t pause_us)
{
    s->walk.step = WALK_IDLE;
    s->walk.generation++;
    s->walk_not_before_us = clock_mono_us() + pause_us;
    if (s->walk.page != NULL) {
        s->walk.page->s = NULL;
        s->walk.page = NULL;
    }
}

void walk_abandon(struct schedule *s)
{
    if (s->walk.step != WALK_IDLE) {
        log_debug("schedule.walk_abandoned", F_INT("rows", s->walk.rows));
        end(s, PAUSE_US);
    }
}

/* --- the pages -------------------------------------------------------------------------- */

static bool send_fill(struct schedule *s, const PGresult *rows, int from, int to)
{
    struct words *w = schedule_words(s, SCRIPT_FILL);
    words_add(w, s->walk.rebuild ? s->token : "");
    words_add_int(w, LOCK_MS);
    for (int i = from; i < to; i++) {
        struct uuid id = pgvalue_uuid(rows, i, 0);
        words_add_uuid(w, &id);
        words_add_int(w, pgvalue_int8(rows, i, 2));
    }
    s->walk.fills++;
    return schedule_send(s, SCRIPT_FILL, (size_t)(to - from));
}

/* Also an empty page is sent: it proves that the lock is still held. */
static void take_page(struct schedule *s, const PGresult *rows)
{
    struct walk *walk = &s->walk;
    int n = PQntuples(rows);
    walk->step = WALK_FILL;
    walk->last = n < PAGE_ROWS;
    walk->rows += (uint64_t)n;
    walk->pages++;
    if (n > 0) {
        memcpy(walk->cursor.id, PQgetvalue(rows, n - 1, 0), sizeof(walk->cursor.id));
        memcpy(walk->cursor.at, PQgetvalue(rows, n - 1, 1), sizeof(walk->cursor.at));
    }
    int from = 0;
    do {
        int to = n - from < SCHEDULE_CLAIM_MAX ? n : from + SCHEDULE_CLAIM_MAX;
        if (!send_fill(s, rows, from, to)) {
            walk_abandon(s);
            return;
        }
        from = to;
    } while (from < n);
}

static void on_page(void *ctx, const struct pg_reply *reply)
{
    struct walk_page *page = ctx;
    struct schedule *s = page->s;
    free(page);
    if (s == NULL) {
        return;
    }
    CHECK_MAGIC(s, SCHEDULE_MAGIC);
    s->walk.page = NULL;
    if (reply->ok) {
        take_page(s, reply->results[0]);
    } else {
        s->errors->value++;
        schedule_complain(s, s->walk.rebuild ? "rebuild" : "reconcile", reply->err);
        walk_abandon(s);
    }
}

static void read_page(struct schedule *s)
{
    struct walk *walk = &s->walk;
    uint64_t overdue_ms = htobe64((uint64_t)(s->cfg.reconcile_ms / 2));
    const struct pg_param params[] = {
        {.type = OID_TIMESTAMPTZ, .data = walk->cursor.at, .len = 8, .binary = true},
        {.type = OID_UUID, .data = walk->cursor.id, .len = 16, .binary = true},
        {.type = OID_INT8, .data = &overdue_ms, .len = sizeof(overdue_ms), .binary = true},
    };
    const struct pg_stmt stmt = {.sql = walk->rebuild ? REBUILD_SQL : RECONCILE_SQL,
                                 .params = params,
                                 .n_params = walk->rebuild ? 2 : 3,
                                 .binary_result = true};
    walk->step = WALK_READ;
    walk->page = mem_alloc(sizeof(*walk->page));
    walk->page->s = s;
    if (!pg_submit(s->pg, &stmt, 1, on_page, walk->page)) {
        free(walk->page), walk->page = NULL;
        walk_abandon(s); /* PostgreSQL is down or busy: nothing to say here, its owner does */
    }
}

/* --- begin and end ---------------------------------------------------------------------- */

static void begin(struct schedule *s, bool rebuild)
{
    unsigned generation = s->walk.generation + 1;
    s->walk = (struct walk){.step = WALK_BEGIN,
                            .rebuild = rebuild,
                            .generation = generation,
                            .begun_us = clock_mono_us()};
}

static void begin_rebuild(struct schedule *s)
{
    begin(s, true);
    cursor_start(&s->walk.cursor);
    struct words *w = schedule_words(s, SCRIPT_REBUILD_BEGIN);
    words_add(w, s->token);
    words_add_int(w, LOCK_MS);
    words_add_int(w, s->gap_us == 0 ? -1 : (s->walk.begun_us - s->gap_us) / 1000);
    if (!schedule_send(s, SCRIPT_REBUILD_BEGIN, 0)) {
        walk_abandon(s);
    }
}

static void begin_reconcile(struct schedule *s)
{
    begin(s, false);
    s->walk.cursor = s->reconcile_cursor;
    plan_reconcile(s);
    words_add_int(schedule_words(s, SCRIPT_RECONCILE_BEGIN), s->cfg.reconcile_ms / 3);
    if (!schedule_send(s, SCRIPT_RECONCILE_BEGIN, 0)) {
        walk_abandon(s);
    }
}

static void finish_rebuild(struct schedule *s)
{
    struct words *w = schedule_words(s, SCRIPT_REBUILD_END);
    words_add(w, s->token);
    words_add(w, s->walk.begun_ms);
    s->walk.step = WALK_END;
    if (!schedule_send(s, SCRIPT_REBUILD_END, 0)) {
        walk_abandon(s);
    }
}

static void finish_reconcile(struct schedule *s)
{
    if (s->walk.last) {
        cursor_start(&s->reconcile_cursor);
    } else {
        s->reconcile_cursor = s->walk.cursor;
    }
    if (s->walk.added > 0) {
        log_info("schedule.reconciled", F_INT("rows", s->walk.rows), F_INT("added", s->walk.added));
    }
    end(s, 0);
}

static void rebuilt(struct schedule *s)
{
    s->epoch_lost = false;
    s->rebuilds->value++;
    log_info("schedule.rebuilt", F_INT("rows", s->walk.rows), F_INT("added", s->walk.added),
             F_MS("took", clock_mono_us() - s->walk.begun_us));
    if (s->gap_us < s->walk.begun_us) {
        s->gap_us = 0;
    }
    end(s, PAUSE_US);
}

/* --- answers ---------------------------------------------------------------------------- */

static void take_begin(struct schedule *s, const struct redisReply *reply)
{
    long long verdict = reply->element[0]->integer;
    if (verdict == 1) {
        CHECK(reply->elements == 2 && reply->element[1]->len < sizeof(s->walk.begun_ms));
        memcpy(s->walk.begun_ms, reply->element[1]->str, reply->element[1]->len + 1);
        log_info("schedule.rebuilding",
                 F_STR("why", s->epoch_lost ? "the index was lost" : "additions were lost"));
        read_page(s);
        return;
    }
    if (verdict == 0) { /* somebody has done it */
        s->epoch_lost = false;
        if (s->gap_us < s->walk.begun_us) {
            s->gap_us = 0;
        }
    }
    end(s, BUSY_US);
}

static void take_fill(struct schedule *s, long long added)
{
    struct walk *walk = &s->walk;
    if (added < 0) {
        walk_abandon(s); /* wiped again, or too slow */
        return;
    }
    walk->added += (uint64_t)added;
    if (!walk->rebuild) {
        s->reconciled->value += (uint64_t)added;
    }
    if (added > 0) {
        schedule_hint(s, 0);
    }
    if (--walk->fills > 0) {
        return;
    }
    if (!walk->last && (walk->rebuild || walk->pages < RECONCILE_PAGES)) {
        read_page(s);
    } else if (walk->rebuild) {
        finish_rebuild(s);
    } else {
        finish_reconcile(s);
    }
}

void walk_answer(struct schedule *s, const struct schedule_call *call,
                 const struct redisReply *reply)
{
    if (call->generation != s->walk.generation) {
        return; /* of a walk that was abandoned */
    }
    long long verdict = reply->element[0]->integer;
    if (call->script == SCRIPT_REBUILD_BEGIN) {
        take_begin(s, reply);
    } else if (call->script == SCRIPT_FILL) {
        take_fill(s, verdict);
    } else if (call->script == SCRIPT_REBUILD_END) {
        if (verdict == 1) {
            rebuilt(s);
        } else {
            walk_abandon(s);
        }
    } else if (verdict == 1) {
        read_page(s);
    } else {
        end(s, 0); /* another worker reconciled lately */
    }
}

void walk_tick(struct schedule *s)
{
    if (s->state != SCHEDULE_UP) {
        return;
    }
    bool rebuild = s->epoch_lost || s->gap_us != 0;
    if (s->walk.step != WALK_IDLE) {
        if (s->walk.rebuild || !rebuild) {
            return;
        }
        end(s, 0); /* a rebuild is a reconcile too */
    }
    int64_t now = clock_mono_us();
    if (now < s->walk_not_before_us || !pg_is_up(s->pg)) {
        return;
    }
    if (rebuild) {
        begin_rebuild(s);
    } else if (now >= s->reconcile_at_us) {
        begin_reconcile(s);
    }
}
