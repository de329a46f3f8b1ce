/* One complete request: which behaviour holds, the counters, the ledger line, the plan of the
 * answer. Owns nothing. It neither reads nor sends; sink_conn.c calls it and carries the plan out.
 */
#include <string.h>

#include "clock.h"
#include "sink.h"

/* An override of the path, else of all paths, else what the URL itself asks for. */
static bool behaviour_of(struct sink *s, const struct path *p, const struct request *r,
                         struct behaviour *ret)
{
    struct slice key;
    if (p->override_text != NULL) {
        *ret = p->override;
        return true;
    }
    if (s->paths.everything.override_text != NULL) {
        *ret = s->paths.everything.override;
        return true;
    }
    return behaviour_parse(r->query, false, ret, &key);
}

static const struct secret_group *secrets_of(struct sink *s, struct path *p,
                                             const struct request *r)
{
    if (p == &s->paths.other) /* many paths in one: nothing to remember */
        return secrets_find(&s->secrets, r->path);
    if (p->generation != s->secrets.generation) {
        p->secrets = secrets_find(&s->secrets, r->path);
        p->generation = s->secrets.generation;
    }
    return p->secrets;
}

static bool is_control(const struct request *r)
{
    return r->path.len > strlen(SINK_CONTROL_PREFIX) &&
           memcmp(r->path.p, SINK_CONTROL_PREFIX, strlen(SINK_CONTROL_PREFIX)) == 0;
}

size_t handle_body_wanted(struct sink *s, const struct request *r)
{
    struct behaviour b;
    if (is_control(r) || !behaviour_of(s, paths_get(&s->paths, r->path), r, &b) ||
        b.act != ACT_RESET_AFTER)
        return (size_t)r->body_len;
    return b.reset_after < r->body_len ? b.reset_after : (size_t)r->body_len;
}

static void note_latency(struct sink *s, struct slice body)
{
    uint64_t produced_at = latency_produced_at(body);
    uint64_t now = (uint64_t)clock_wall_us();
    if (produced_at != 0)
        latency_add(&s->latency, now > produced_at ? now - produced_at : 0);
}

int64_t handle_request(struct sink *s, struct conn *c, const struct request *r)
{
    struct behaviour b;
    const char *error = NULL;
    if (is_control(r)) {
        control_request(s, c, r);
        return 0;
    }
    if (s->latency_on)
        note_latency(s, r->body);
    struct path *p = paths_get(&s->paths, r->path);
    p->requests++;
    s->count.requests++;
    if (!behaviour_of(s, p, r, &b)) {
        error = "bad behaviour in the query";
        b = (struct behaviour){
            .act = ACT_ANSWER, .status = 400, .body_len = 2, .retry_after_s = -1};
    }
    if (b.fail_first > 0) {
        struct slice id = r->delivery_id.p != NULL ? r->delivery_id : r->event_id;
        if (failures_take(&s->failures, r->path, id, b.fail_first))
            b.status = b.fail_status;
    }
    c->seq = ++s->seq;
    if (s->ledger_fd >= 0) {
        struct answer_note note = {.act = b.act, .status = b.status, .error = error};
        ledger_request(s, c, r, secrets_of(s, p, r), &note);
    }
    answer_plan(c, r, &b);
    return b.delay_us;
}

int64_t handle_bad(struct sink *s, struct conn *c, int status, const char *why)
{
    static const struct request nothing = {.body = SLICE_INIT("")};
    s->count.bad++;
    c->seq = ++s->seq;
    if (s->ledger_fd >= 0) {
        struct answer_note note = {.act = ACT_ANSWER, .status = status, .error = why};
        ledger_request(s, c, &nothing, NULL, &note);
    }
    answer_plan_text(c, status, "text/plain", why, strlen(why), true);
    c->after = AFTER_DRAIN;
    return 0;
}
