/* Owns the ring of slots behind one partition's committed offset. Pure memory: no Kafka, no clock,
 * no log. consumer opens slots and takes offsets, event closes slots. */
#include "tracker.h"

#include <stdlib.h>

#include "check.h"
#include "mem.h"

#define TRACKER_MAGIC  0x54524b52u
#define FIRST_CAPACITY 256u

struct slot {
    int64_t offset;
    int64_t opened_mono_us;
    bool done;
};

struct tracker {
    unsigned magic;
    int32_t partition;
    uint64_t epoch;
    bool retired;
    size_t busy;
    struct slot *ring; /* slot s lives at ring[s & mask]; head <= s < tail */
    uint64_t mask;
    uint64_t head;       /* the oldest open slot, or tail */
    uint64_t tail;       /* the next slot to open         */
    int64_t next_offset; /* one past the closed prefix */
    bool moved;
    int64_t last_opened; /* highest offset seen */
};

struct tracker *tracker_new(int32_t partition, uint64_t epoch)
{
    struct tracker *t = mem_zero(1, sizeof(*t));
    t->magic = TRACKER_MAGIC;
    t->partition = partition;
    t->epoch = epoch;
    t->ring = mem_zero(FIRST_CAPACITY, sizeof(*t->ring));
    t->mask = FIRST_CAPACITY - 1;
    t->last_opened = -1;
    return t;
}

int32_t tracker_partition(const struct tracker *t)
{
    return t->partition;
}

uint64_t tracker_epoch(const struct tracker *t)
{
    return t->epoch;
}

int64_t tracker_last_opened(const struct tracker *t)
{
    return t->last_opened;
}

static struct slot *slot_at(const struct tracker *t, uint64_t slot)
{
    return &t->ring[slot & t->mask];
}

static void grow(struct tracker *t)
{
    const uint64_t capacity = (t->mask + 1) * 2;
    struct slot *ring = mem_zero(capacity, sizeof(*ring));
    for (uint64_t s = t->head; s != t->tail; s++) {
        ring[s & (capacity - 1)] = *slot_at(t, s);
    }
    free(t->ring);
    t->ring = ring;
    t->mask = capacity - 1;
}

uint64_t tracker_open(struct tracker *t, int64_t offset, int64_t now_mono_us)
{
    CHECK_MAGIC(t, TRACKER_MAGIC);
    CHECK(!t->retired && offset > t->last_opened);
    if (t->tail - t->head > t->mask) {
        grow(t);
    }
    *slot_at(t, t->tail) = (struct slot){.offset = offset, .opened_mono_us = now_mono_us};
    t->last_opened = offset;
    t->busy++;
    return t->tail++;
}

static void release(struct tracker *t)
{
    CHECK(t->busy > 0);
    t->busy--;
    if (t->retired && t->busy == 0) {
        t->magic = 0;
        free(t->ring);
        t->ring = NULL;
        free(t);
    }
}

void tracker_done(struct tracker *t, uint64_t slot)
{
    CHECK_MAGIC(t, TRACKER_MAGIC);
    CHECK(slot >= t->head && slot < t->tail && !slot_at(t, slot)->done);
    slot_at(t, slot)->done = true;
    while (t->head != t->tail && slot_at(t, t->head)->done) {
        t->next_offset = slot_at(t, t->head)->offset + 1;
        t->moved = true;
        t->head++;
    }
    release(t);
}

void tracker_leave(struct tracker *t)
{
    CHECK_MAGIC(t, TRACKER_MAGIC);
    release(t);
}

bool tracker_take_offset(struct tracker *t, int64_t *ret_offset)
{
    CHECK_MAGIC(t, TRACKER_MAGIC);
    if (!t->moved) {
        return false;
    }
    t->moved = false;
    *ret_offset = t->next_offset;
    return true;
}

size_t tracker_busy(const struct tracker *t)
{
    return t->busy;
}

bool tracker_full(const struct tracker *t)
{
    return t->tail - t->head >= TRACKER_SLOTS_MAX;
}

int64_t tracker_oldest_mono_us(const struct tracker *t)
{
    return t->head == t->tail ? 0 : slot_at(t, t->head)->opened_mono_us;
}

bool tracker_retired(const struct tracker *t)
{
    return t->retired;
}

void tracker_retire(struct tracker *t)
{
    CHECK_MAGIC(t, TRACKER_MAGIC);
    CHECK(!t->retired);
    t->retired = true;
    t->busy++; /* so that release() below decides, once */
    release(t);
}
