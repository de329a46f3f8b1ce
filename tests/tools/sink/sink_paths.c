/* What the receiver remembers: per path its counter, override and secrets, and per delivery how
 * often it was failed on purpose. Owns both tables, each with a maximum. Decides nothing;
 * sink_handle.c and sink_control.c ask. */
#include <stdlib.h>
#include <string.h>

#include "mem.h"
#include "sink.h"

#define PATHS_SLOTS ((size_t)2 * SINK_PATHS_MAX)

void paths_init(struct paths *p)
{
    *p = (struct paths){0};
    p->slots = mem_zero(PATHS_SLOTS, sizeof(struct path *));
    p->other.name = mem_dup("(other)");
    p->other.len = strlen(p->other.name);
    p->other.generation = UINT64_MAX;
    p->everything.generation = UINT64_MAX;
}

void path_clear(struct path *p)
{
    free(p->override_text);
    p->override_text = NULL;
}

static void path_free(struct path *p)
{
    path_clear(p);
    free(p->name);
    free(p);
}

void paths_done(struct paths *p)
{
    for (size_t i = 0; p->slots != NULL && i < PATHS_SLOTS; i++) {
        if (p->slots[i] != NULL)
            path_free(p->slots[i]);
    }
    free(p->slots);
    free(p->other.name);
    path_clear(&p->everything);
    *p = (struct paths){0};
}

struct path *paths_get(struct paths *p, struct slice name)
{
    uint64_t hash = slice_hash(name, 0);
    size_t i = hash & (PATHS_SLOTS - 1);
    for (; p->slots[i] != NULL; i = (i + 1) & (PATHS_SLOTS - 1)) {
        struct path *at = p->slots[i];
        if (at->hash == hash && at->len == name.len && memcmp(at->name, name.p, name.len) == 0)
            return at;
    }
    if (p->n == SINK_PATHS_MAX)
        return &p->other;
    struct path *made = mem_zero(1, sizeof(*made));
    made->name = mem_dupn(name.p, name.len);
    made->len = name.len;
    made->hash = hash;
    made->generation = UINT64_MAX;
    p->slots[i] = made;
    p->n++;
    return made;
}

bool path_override(struct path *p, struct slice query, struct slice *ret_key)
{
    struct behaviour b;
    char *text = mem_dupn(query.p == NULL ? "" : query.p, query.len);
    if (!behaviour_parse((struct slice){text, query.len}, true, &b, ret_key)) {
        ret_key->p = query.p + (ret_key->p - text); /* the copy goes away */
        free(text);
        return false;
    }
    path_clear(p);
    p->override_text = text;
    p->override = b;
    return true;
}

void paths_each(struct paths *p, void (*fn)(void *ctx, struct path *path), void *ctx)
{
    for (size_t i = 0; i < PATHS_SLOTS; i++) {
        if (p->slots[i] != NULL)
            fn(ctx, p->slots[i]);
    }
    if (p->other.requests > 0)
        fn(ctx, &p->other);
}

struct failure {
    uint64_t key; /* 0 = free */
    uint32_t count;
};

void failures_reset(struct failures *f)
{
    free(f->slots);
    *f = (struct failures){.forgotten = f->forgotten};
}

static struct failure *failure_slot(const struct failures *f, uint64_t key)
{
    size_t i = key & f->mask;
    while (f->slots[i].key != 0 && f->slots[i].key != key)
        i = (i + 1) & f->mask;
    return &f->slots[i];
}

static void failures_grow(struct failures *f)
{
    if (f->n >= SINK_FAILURES_MAX) {
        failures_reset(f);
        f->forgotten++;
    }
    struct failures bigger = {.n = f->n, .forgotten = f->forgotten};
    size_t size = f->slots == NULL ? 1024 : (f->mask + 1) * 2;
    bigger.slots = mem_zero(size, sizeof(*bigger.slots));
    bigger.mask = size - 1;
    for (size_t i = 0; f->slots != NULL && i <= f->mask; i++) {
        if (f->slots[i].key != 0)
            *failure_slot(&bigger, f->slots[i].key) = f->slots[i];
    }
    free(f->slots);
    *f = bigger;
}

bool failures_take(struct failures *f, struct slice path, struct slice id, uint32_t first)
{
    if (f->slots == NULL || f->n * 2 >= f->mask)
        failures_grow(f);
    uint64_t key = slice_hash(id, slice_hash(path, 1));
    struct failure *at = failure_slot(f, key == 0 ? 1 : key);
    if (at->key == 0) {
        at->key = key == 0 ? 1 : key;
        f->n++;
    }
    if (at->count >= first)
        return false;
    at->count++;
    return true;
}
