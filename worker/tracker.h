/* The offsets of one partition during one assignment: which events are open, and up to where all
 * are settled. Slots are opened in the order in which messages arrive and closed in any order. The
 * offset to store is one past the last offset of the closed prefix; offsets are never computed from
 * each other, because compaction and transactions leave gaps (R3). A tracker belongs to one
 * assignment epoch. After tracker_retire() it takes completions silently and frees itself with the
 * last one, so a completion from an old epoch can never touch a newer tracker of the same partition
 * (R4). */
#ifndef NRW_TRACKER_H
#define NRW_TRACKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Slots from the oldest open one to the newest; a tracker this long wants intake to stop. */
#define TRACKER_SLOTS_MAX 65536

struct tracker;

struct tracker *tracker_new(int32_t partition, uint64_t epoch);
int32_t tracker_partition(const struct tracker *t);
uint64_t tracker_epoch(const struct tracker *t);

/* Opens a slot for the message at `offset` (greater than all before; CHECKed). */
uint64_t tracker_open(struct tracker *t, int64_t offset, int64_t now_mono_us);
/* Highest offset opened so far, -1 when none. */
int64_t tracker_last_opened(const struct tracker *t);
/* Closes it; exactly once per slot (CHECKed). May free a retired tracker. */
void tracker_done(struct tracker *t, uint64_t slot);
/* The slot's event is gone without being settled: the slot stays open for ever. May free a retired
 * tracker. */
void tracker_leave(struct tracker *t);

/* True when the closed prefix has grown since the last call; *ret_offset is then the next offset to
 * read. */
bool tracker_take_offset(struct tracker *t, int64_t *ret_offset);

size_t tracker_busy(const struct tracker *t); /* events still in memory: neither done nor left */
bool tracker_full(const struct tracker *t);
int64_t tracker_oldest_mono_us(
    const struct tracker *t); /* when the oldest open slot was opened; 0 when none */
bool tracker_retired(const struct tracker *t);

/* The assignment is over (or the process ends). Borrowed pointers held by events stay valid until
 * they let go. */
void tracker_retire(struct tracker *t);

#endif
