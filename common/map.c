/* UUID -> pointer. Linear probing in a table at most three quarters full; a removal moves the
 * entries behind the gap up, so there are no tombstones and a table that breathes for weeks stays
 * as fast as a new one. Owns its slots, never the values. Has no maximum of its own: each user caps
 * what it puts in. */
#include "map.h"

#include <stdlib.h>

#include "check.h"
#include "mem.h"

#define FIRST_SLOTS 16

void map_init(struct map *m)
{
    *m = (struct map){0};
}

void map_done(struct map *m)
{
    free(m->slots);
    *m = (struct map){0};
}

/* The slot of the key, or the free one where it belongs. There is always a free slot. */
static struct map_slot *find(const struct map *m, const struct uuid *key)
{
    size_t i = (size_t)uuid_hash(key) & m->mask;
    while (m->slots[i].value != NULL && !uuid_equal(&m->slots[i].key, key)) {
        i = (i + 1) & m->mask;
    }
    return &m->slots[i];
}

static void grow(struct map *m)
{
    size_t old_n = m->slots == NULL ? 0 : m->mask + 1;
    size_t new_n = old_n == 0 ? FIRST_SLOTS : 2 * old_n;
    struct map_slot *old = m->slots;
    m->slots = mem_zero(new_n, sizeof(*m->slots));
    m->mask = new_n - 1;
    for (size_t i = 0; i < old_n; i++) {
        if (old[i].value != NULL) {
            *find(m, &old[i].key) = old[i];
        }
    }
    free(old);
}

void *map_get(const struct map *m, const struct uuid *key)
{
    return m->n == 0 ? NULL : find(m, key)->value;
}

void map_put(struct map *m, const struct uuid *key, void *value)
{
    CHECK(value != NULL);
    if (m->slots == NULL || m->n >= (m->mask + 1) / 4 * 3) {
        grow(m);
    }
    struct map_slot *slot = find(m, key);
    m->n += slot->value == NULL;
    *slot = (struct map_slot){.key = *key, .value = value};
}

void *map_remove(struct map *m, const struct uuid *key)
{
    if (m->n == 0) {
        return NULL;
    }
    struct map_slot *gap = find(m, key);
    void *value = gap->value;
    if (value == NULL) {
        return NULL;
    }
    size_t hole = (size_t)(gap - m->slots);
    for (size_t i = (hole + 1) & m->mask; m->slots[i].value != NULL; i = (i + 1) & m->mask) {
        size_t home = (size_t)uuid_hash(&m->slots[i].key) & m->mask;
        /* it may move up only if its home is not behind the hole, seen around the ring */
        if (((i - home) & m->mask) >= ((i - hole) & m->mask)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole].value = NULL;
    m->n--;
    return value;
}

void map_each(const struct map *m, void (*fn)(void *ctx, void *value), void *ctx)
{
    for (size_t i = 0; m->slots != NULL && i <= m->mask; i++) {
        if (m->slots[i].value != NULL) {
            fn(ctx, m->slots[i].value);
        }
    }
}
