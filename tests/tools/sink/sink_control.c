/* The control calls under /_control/: change what a path does, give secrets, read and zero the
 * counters. Not in the ledger and not counted as requests. Owns nothing; sink_handle.c calls it. */
#include <inttypes.h>
#include <string.h>

#include "sink.h"

static void reply(struct conn *c, const struct request *r, int status, const char *text)
{
    answer_plan_text(c, status, "application/json", text, strlen(text), r->close);
}

static void reply_error(struct conn *c, const struct request *r, const char *why, struct slice what)
{
    struct buf b;
    buf_init(&b, SINK_HEAD_MAX);
    buf_add_str(&b, "{\"error\":\"");
    buf_add_str(&b, why);
    buf_add_str(&b, "\",\"at\":");
    buf_add_json_string(&b, what.p == NULL ? "" : what.p, what.len);
    buf_add_str(&b, "}");
    answer_plan_text(c, 400, "application/json", b.data, b.len, r->close);
    buf_done(&b);
}

/* The decoded path=… of a control call: "*" is every path. NULL: an error is the answer. */
static struct path *path_of(struct sink *s, struct conn *c, const struct request *r)
{
    char name[8192];
    size_t len;
    struct slice raw = query_get(r->query, "path");
    if (raw.p == NULL || !percent_decode(raw, name, sizeof(name), &len) || len == 0) {
        reply_error(c, r, "path=/x is needed", raw);
        return NULL;
    }
    if (len == 1 && name[0] == '*')
        return &s->paths.everything;
    struct path *p = paths_get(&s->paths, (struct slice){name, len});
    if (p == &s->paths.other) {
        reply_error(c, r, "too many paths", raw);
        return NULL;
    }
    return p;
}

static void control_set(struct sink *s, struct conn *c, const struct request *r)
{
    struct slice rest = r->query;
    struct slice key;
    struct slice value;
    struct buf behaviour;
    struct path *p = path_of(s, c, r);
    if (p == NULL)
        return;
    buf_init(&behaviour, SINK_HEAD_MAX);
    while (query_next(&rest, &key, &value)) {
        if (slice_is(key, "path"))
            continue;
        buf_add(&behaviour, key.p, key.len + (value.p == NULL ? 0 : 1 + value.len));
        buf_add_str(&behaviour, "&");
    }
    if (path_override(p, (struct slice){buf_cstr(&behaviour), behaviour.len}, &key)) {
        reply(c, r, 200, "{\"ok\":true}");
    } else {
        reply_error(c, r, "unknown key or bad value", key);
    }
    buf_done(&behaviour);
}

static void clear_one(void *ctx, struct path *p)
{
    (void)ctx;
    path_clear(p);
}

static void control_clear(struct sink *s, struct conn *c, const struct request *r)
{
    if (query_get(r->query, "path").p != NULL) {
        struct path *p = path_of(s, c, r);
        if (p == NULL)
            return;
        path_clear(p);
    } else {
        paths_each(&s->paths, clear_one, NULL);
        path_clear(&s->paths.everything);
    }
    reply(c, r, 200, "{\"ok\":true}");
}

static void control_secret(struct sink *s, struct conn *c, const struct request *r)
{
    char prefix[8192];
    size_t len;
    struct slice raw = query_get(r->query, "prefix");
    bool replace = query_get(r->query, "replace").p != NULL;
    if (raw.p == NULL || !percent_decode(raw, prefix, sizeof(prefix), &len)) {
        reply_error(c, r, "prefix=/x is needed", raw);
        return;
    }
    if (secrets_add(&s->secrets, (struct slice){prefix, len}, r->body, replace)) {
        reply(c, r, 200, "{\"ok\":true}");
    } else {
        reply_error(c, r, "secret empty, too long, or too many", raw);
    }
}

static void add_path_count(void *ctx, struct path *p)
{
    struct buf *b = ctx;
    if (p->requests == 0)
        return;
    if (b->data[b->len - 1] != '{')
        buf_add_str(b, ",");
    buf_add_json_string(b, p->name, p->len);
    buf_add_fmt(b, ":%" PRIu64, p->requests);
}

static void control_stats(struct sink *s, struct conn *c, const struct request *r)
{
    const struct counters *n = &s->count;
    const struct latency *l = &s->latency;
    struct buf b;
    buf_init(&b, SINK_OUT_MAX / 2);
    buf_add_fmt(&b,
                "{\"requests\":%" PRIu64 ",\"open\":%" PRIu64 ",\"max_open\":%" PRIu64
                ",\"delayed\":%" PRIu64 ",\"max_delayed\":%" PRIu64 ",\"hanging\":%" PRIu64
                ",\"connections\":%" PRIu64 ",\"unsent\":%" PRIu64 ",\"bad\":%" PRIu64
                ",\"refused\":%" PRIu64 ",\"failures_forgotten\":%" PRIu64 ",\"seq\":%" PRIu64,
                n->requests, n->open, n->max_open, n->delayed, n->max_delayed, n->hanging,
                n->connections, n->unsent, n->bad, n->refused, s->failures.forgotten, s->seq);
    if (s->latency_on) {
        buf_add_fmt(&b,
                    ",\"latency_us\":{\"n\":%" PRIu64 ",\"p50\":%" PRIu64 ",\"p90\":%" PRIu64
                    ",\"p99\":%" PRIu64 ",\"p999\":%" PRIu64 ",\"max\":%" PRIu64 "}",
                    l->n, latency_quantile(l, 0.5), latency_quantile(l, 0.9),
                    latency_quantile(l, 0.99), latency_quantile(l, 0.999), l->max);
    }
    buf_add_str(&b, ",\"by_path\":{");
    paths_each(&s->paths, add_path_count, &b);
    buf_add_str(&b, "}}");
    if (buf_ok(&b)) {
        answer_plan_text(c, 200, "application/json", b.data, b.len, r->close);
    } else {
        reply(c, r, 500, "{\"error\":\"too many paths for one answer\"}");
    }
    buf_done(&b);
}

static void zero_one(void *ctx, struct path *p)
{
    (void)ctx;
    p->requests = 0;
}

static void control_reset(struct sink *s, struct conn *c, const struct request *r)
{
    paths_each(&s->paths, zero_one, NULL);
    failures_reset(&s->failures);
    s->latency = (struct latency){0};
    s->failures.forgotten = 0;
    s->count = (struct counters){
        .open = s->count.open,
        .max_open = s->count.open,
        .delayed = s->count.delayed,
        .max_delayed = s->count.delayed,
        .hanging = s->count.hanging,
    };
    reply(c, r, 200, "{\"ok\":true}");
}

static void control_health(struct sink *s, struct conn *c, const struct request *r)
{
    (void)s;
    reply(c, r, 200, "{\"ok\":true}");
}

void control_request(struct sink *s, struct conn *c, const struct request *r)
{
    static const struct {
        const char *name;
        const char *method;
        void (*run)(struct sink *s, struct conn *c, const struct request *r);
    } calls[] = {
        {"set", "POST", control_set},       {"clear", "POST", control_clear},
        {"secret", "POST", control_secret}, {"stats", "GET", control_stats},
        {"reset", "POST", control_reset},   {"health", "GET", control_health},
    };
    size_t lead = strlen(SINK_CONTROL_PREFIX);
    struct slice name = {r->path.p + lead, r->path.len - lead};
    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
        if (slice_is(name, calls[i].name) && slice_is(r->method, calls[i].method)) {
            calls[i].run(s, c, r);
            return;
        }
    }
    reply(c, r, 404, "{\"error\":\"no such control call\"}");
}
