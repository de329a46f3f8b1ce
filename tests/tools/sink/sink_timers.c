/* A binary heap of connections by due time: ten thousand delayed answers cost a few comparisons
 * each. Owns the heap, not the connections; each connection knows its own place. Only sink_conn.c
 * and the loop use it. */
#include <stdlib.h>

#include "mem.h"
#include "sink.h"

#define WAIT_MAX_MS 60000 /* a turn for nothing once a minute is harmless */

static void place(struct timers *t, size_t i, struct conn *c)
{
    t->heap[i] = c;
    c->timer_index = i + 1;
}

static void sift_up(struct timers *t, size_t i)
{
    struct conn *c = t->heap[i];
    while (i > 0) {
        size_t parent = (i - 1) / 2;
        if (t->heap[parent]->timer_due <= c->timer_due)
            break;
        place(t, i, t->heap[parent]);
        i = parent;
    }
    place(t, i, c);
}

static void sift_down(struct timers *t, size_t i)
{
    struct conn *c = t->heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= t->n)
            break;
        if (child + 1 < t->n && t->heap[child + 1]->timer_due < t->heap[child]->timer_due)
            child++;
        if (c->timer_due <= t->heap[child]->timer_due)
            break;
        place(t, i, t->heap[child]);
        i = child;
    }
    place(t, i, c);
}

void timers_done(struct timers *t)
{
    free(t->heap);
    *t = (struct timers){0};
}

void timers_set(struct timers *t, struct conn *c, int64_t due_mono_us)
{
    timers_remove(t, c);
    if (t->n == t->cap) { /* as many as there are connections, and RLIMIT_NOFILE bounds those */
        t->cap = t->cap == 0 ? 256 : t->cap * 2;
        t->heap = mem_grow(t->heap, t->cap, sizeof(struct conn *));
    }
    c->timer_due = due_mono_us;
    place(t, t->n++, c);
    sift_up(t, t->n - 1);
}

void timers_remove(struct timers *t, struct conn *c)
{
    if (c->timer_index == 0)
        return;
    size_t i = c->timer_index - 1;
    c->timer_index = 0;
    struct conn *last = t->heap[--t->n];
    if (last == c)
        return;
    place(t, i, last);
    sift_up(t, i);
    sift_down(t, last->timer_index - 1);
}

struct conn *timers_take_due(struct timers *t, int64_t now_mono_us)
{
    if (t->n == 0 || t->heap[0]->timer_due > now_mono_us)
        return NULL;
    struct conn *c = t->heap[0];
    timers_remove(t, c);
    return c;
}

int timers_wait_ms(const struct timers *t, int64_t now_mono_us)
{
    if (t->n == 0)
        return -1;
    int64_t wait_us = t->heap[0]->timer_due - now_mono_us;
    if (wait_us <= 0)
        return 0;
    int64_t wait_ms = (wait_us + 999) / 1000;
    return wait_ms > WAIT_MAX_MS ? WAIT_MAX_MS : (int)wait_ms;
}
