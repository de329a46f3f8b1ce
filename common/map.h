/* A hash map from UUID to pointer: open addressing, power-of-two size, backward-shift deletion.
 * Values are borrowed. */
#ifndef NRW_MAP_H
#define NRW_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "ids.h"

struct map_slot {
    struct uuid key;
    void *value; /* NULL = free */
};
struct map {
    struct map_slot *slots;
    size_t mask; /* slots - 1; 0 slots: no memory yet */
    size_t n;
};

void map_init(struct map *m);
void map_done(struct map *m);
void *map_get(const struct map *m, const struct uuid *key);       /* NULL when absent        */
void map_put(struct map *m, const struct uuid *key, void *value); /* value not NULL; replaces */
void *map_remove(struct map *m, const struct uuid *key);          /* returns the old value   */
/* Visits all; fn must not change the map. */
void map_each(const struct map *m, void (*fn)(void *ctx, void *value), void *ctx);

#endif
