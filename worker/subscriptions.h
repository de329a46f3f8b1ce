/* Who wants an event: each tenant's webhooks, from memory, the paused and disabled ones included.
 * A tenant is loaded on its first event and kept (least recently used goes first above
 * NRW_TENANTS_MAX). Changes arrive by NOTIFY; LISTEN comes before anything is loaded, a lost
 * connection makes everything stale, and every NRW_SUBSCRIPTIONS_POLL what changed lately is
 * compared, so a lost notification costs at most that long (R39). A stale tenant is loaded again
 * before its next event goes on. What somebody has just asked for must not meet an older list than
 * he saw: a test waits for a list that was asked for after its row was read, and so does a retry
 * before it is taken for unwanted. */
#ifndef NRW_SUBSCRIPTIONS_H
#define NRW_SUBSCRIPTIONS_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>

#include "config.h"
#include "event.h"
#include "netguard.h"
#include "pg.h"
#include "seal.h"
#include "webhook.h"

struct subscriptions;

struct subscriptions_handlers {
    /* The active webhooks that want ev, or the one of any standing that a test is for; the array is
     * borrowed until return, n may be 0. Takes the reference on ev that subscriptions_match() was
     * given. */
    void (*matched)(void *ctx, struct nrw_event *ev, struct webhook *const *webhooks, size_t n);
    /* Instead: only inactive webhooks want this new event, wh is one of them. Nothing is sent, but
     * its row must become durable before it settles: paused time can be replayed (P4). Takes the
     * reference. */
    void (*kept)(void *ctx, struct nrw_event *ev, struct webhook *wh);
    /* wh replaces every older version of it (and may be inactive now); NULL: webhook `id` was
     * deleted. */
    void (*changed)(void *ctx, const struct uuid *id, struct webhook *wh);
    void *ctx;
};

/* All pointers are borrowed for life. Its connection is `subscriptions_pg()`, shared with the
 * suspect look-up. */
struct subscriptions *subscriptions_new(struct event_base *base, const struct config *cfg,
                                        const struct netguard *guard, const struct keyring *keys,
                                        const struct subscriptions_handlers *handlers);
struct pg *subscriptions_pg(const struct subscriptions *s);
bool subscriptions_up(const struct subscriptions *s); /* connected and listening */

/* Takes the caller's reference on ev. `matched` comes at once when the tenant is in memory, else
 * after its load. */
void subscriptions_match(struct subscriptions *s, struct nrw_event *ev);

/* Events that still wait for a load and belong to t (NULL: all) are abandoned and released. */
void subscriptions_abandon(struct subscriptions *s, const struct tracker *t);

/* Once per turn: one query for all tenants that need loading. */
void subscriptions_after_turn(struct subscriptions *s);
void subscriptions_free(struct subscriptions *s);

#endif
