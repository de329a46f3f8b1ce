/* Owns the reading of parameters. Handlers call it before they ask the database. */
#include "query.h"

#include <event2/keyvalq_struct.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "check.h"
#include "clock.h"
#include "utf8.h"

static bool is_in(const char *const *names, const char *name)
{
    for (; *names != NULL; names++) {
        if (strcmp(*names, name) == 0) {
            return true;
        }
    }
    return false;
}

static void join(struct buf *out, const char *const *values)
{
    for (size_t i = 0; values[i] != NULL; i++) {
        buf_add_fmt(out, "%s%s", i > 0 ? ", " : "", values[i]);
    }
}

void query_allow(struct call *c, const char *const *names)
{
    struct buf known;
    buf_init(&known, 512);
    join(&known, names);
    const struct evkeyval *p;
    TAILQ_FOREACH(p, c->query, next)
    {
        if (!utf8_is_valid(p->value, strlen(p->value))) { /* PostgreSQL would refuse it */
            call_error_param(c, p->key, "must be UTF-8");
        }
        if (!is_in(names, p->key)) {
            call_error_param(c, p->key,
                             names[0] != NULL ? "unknown parameter; known are %s"
                                              : "unknown parameter; there are none%s",
                             buf_cstr(&known));
            continue;
        }
        for (const struct evkeyval *q = TAILQ_NEXT(p, next); q != NULL; q = TAILQ_NEXT(q, next)) {
            if (strcmp(p->key, q->key) == 0) {
                call_error_param(c, p->key, "given more than once");
                break;
            }
        }
    }
    buf_done(&known);
}

bool query_none(struct call *c)
{
    static const char *const names[] = {NULL};
    query_allow(c, names);
    return query_ok(c);
}

const char *query_text(const struct call *c, const char *name)
{
    const struct evkeyval *p;
    TAILQ_FOREACH(p, c->query, next)
    {
        if (strcmp(p->key, name) == 0) { /* names of parameters are case-sensitive */
            return p->value;
        }
    }
    return NULL;
}

int64_t query_int(struct call *c, const char *name, int64_t def, int64_t min, int64_t max)
{
    const char *text = query_text(c, name);
    if (text == NULL) {
        return def;
    }
    const size_t len = strlen(text);
    const bool digits = len >= 1 && len <= 18 && strspn(text, "0123456789") == len;
    const int64_t value = digits ? strtoll(text, NULL, 10) : 0;
    if (!digits || value < min || value > max) {
        call_error_param(c, name, "must be a whole number from %lld to %lld", (long long)min,
                         (long long)max);
        return def;
    }
    return value;
}

const char *query_choice(struct call *c, const char *name, const char *const *values)
{
    const char *text = query_text(c, name);
    if (text == NULL || is_in(values, text)) {
        return text;
    }
    struct buf known;
    buf_init(&known, 512);
    join(&known, values);
    call_error_param(c, name, "must be one of %s", buf_cstr(&known));
    buf_done(&known);
    return NULL;
}

bool query_time(struct call *c, const char *name, int64_t *ret_wall_us)
{
    const char *text = query_text(c, name);
    if (text == NULL) {
        return false;
    }
    if (!clock_parse_rfc3339(text, strlen(text), ret_wall_us)) {
        call_error_param(c, name,
                         "must be a time as in 2026-03-15T10:30:00Z (RFC 3339; write + as "
                         "%%2B)");
        return false;
    }
    return true;
}

bool query_ok(struct call *c)
{
    if (c->errors == NULL) {
        return true;
    }
    call_invalid(c, PROBLEM_BAD_REQUEST);
    return false;
}

struct page query_page(struct call *c)
{
    struct page p = {.page = query_int(c, "page", 1, 1, PAGE_REACH),
                     .per_page = query_int(c, "per_page", PAGE_DEFAULT, 1, PAGE_MAX)};
    p.offset = (p.page - 1) * p.per_page;
    if (p.page * p.per_page > PAGE_REACH) {
        call_error_param(c, "page",
                         "page times per_page is at most %d; read on with a cursor or a "
                         "filter",
                         PAGE_REACH);
    }
    return p;
}

json_t *page_meta(const struct page *p, int64_t total)
{
    const bool capped = total > PAGE_REACH;
    json_t *meta =
        json_pack("{s:I, s:I, s:I}", "page", (json_int_t)p->page, "per_page",
                  (json_int_t)p->per_page, "total", (json_int_t)(capped ? PAGE_REACH : total));
    CHECK(meta != NULL);
    if (capped) {
        CHECK(json_object_set_new(meta, "total_capped", json_true()) == 0);
    }
    return meta;
}
