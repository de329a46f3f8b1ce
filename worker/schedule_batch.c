/* Collects what a turn of the loop has to tell Redis (add, done, give back) and sends it as one
 * script of each kind, at most 500 ids long. Knows no answers: schedule.c reads them. What cannot
 * be sent is forgotten, and remembered as a gap that only a rebuild closes. Called by journal and
 * retries through schedule.h. */
#include "check.h"
#include "clock.h"
#include "redis_keys.h"
#include "schedule_internal.h"

void batch_init(struct schedule *s)
{
    s->done.script = SCRIPT_DONE;
    s->give_back.script = SCRIPT_GIVE_BACK;
    s->add.script = SCRIPT_ADD;
}

void batch_forgotten(struct schedule *s)
{
    s->gap_us = clock_mono_us();
}

static bool send_batch(struct schedule *s, const struct batch *b)
{
    struct words *w = schedule_words(s, b->script);
    if (b->script == SCRIPT_ADD) {
        words_add(w, REDIS_CHANNEL_WAKE);
    }
    for (size_t i = 0; i < b->n; i++) {
        words_add_uuid(w, &b->ids[i]);
        if (b->script != SCRIPT_DONE) {
            words_add_int(w, b->delay_ms[i]);
        }
    }
    return schedule_send(s, b->script, b->n);
}

static void flush(struct schedule *s, struct batch *b)
{
    if (b->n == 0) {
        return;
    }
    bool sent = s->state == SCHEDULE_UP && send_batch(s, b);
    if (!sent && b->script != SCRIPT_DONE) { /* a lost `done` is only a claim for nothing, later */
        batch_forgotten(s);
    }
    b->n = 0;
}

static bool is_full(const struct batch *b)
{
    return b->n == SCHEDULE_CLAIM_MAX;
}

/* Done first and add last: should one turn say both of an id, an entry too many is a claim for
 * nothing, and a missing one would be a late delivery. */
void batch_flush(struct schedule *s)
{
    if (s->state == SCHEDULE_GREETING && !is_full(&s->done) && !is_full(&s->give_back) &&
        !is_full(&s->add)) {
        return; /* a moment only */
    }
    flush(s, &s->done);
    flush(s, &s->give_back);
    flush(s, &s->add);
}

static void collect(struct schedule *s, struct batch *b, const struct uuid *id, int64_t delay_ms)
{
    CHECK_MAGIC(s, SCHEDULE_MAGIC);
    if (is_full(b)) {
        batch_flush(s);
    }
    b->ids[b->n] = *id;
    b->delay_ms[b->n] = delay_ms > 0 ? delay_ms : 0;
    b->n++;
}

void schedule_add(struct schedule *s, const struct uuid *id, int64_t delay_ms)
{
    collect(s, &s->add, id, delay_ms);
}

void schedule_done(struct schedule *s, const struct uuid *id)
{
    collect(s, &s->done, id, 0);
}

void schedule_give_back(struct schedule *s, const struct uuid *id, int64_t delay_ms)
{
    collect(s, &s->give_back, id, delay_ms);
}

void schedule_after_turn(struct schedule *s)
{
    CHECK_MAGIC(s, SCHEDULE_MAGIC);
    batch_flush(s);
}
