/* Owns the order in which lanes may start: by tenant, then by endpoint, one delivery each, and the
 * lists of lanes that wait for room elsewhere (their host's cap, the worker's reserve). Starts
 * nothing itself; lanes.c does. */
#include "check.h"
#include "lane_internal.h"

void lane_leave_turn(struct lane *lane, int c)
{
    if (lane->in_turn[c]) {
        TAILQ_REMOVE(&lane->tenant->turn[c], lane, turn_link[c]);
        lane->in_turn[c] = false;
    }
}

void lane_unblock(struct lane *lane)
{
    if (lane->blocked_in != NULL) {
        TAILQ_REMOVE(lane->blocked_in, lane, link);
        lane->blocked_in = NULL;
    }
}

static void block(struct lane *lane, struct lane_list *in)
{
    if (lane->blocked_in == NULL) {
        lane->blocked_in = in;
        TAILQ_INSERT_TAIL(in, lane, link);
    }
}

/* Puts the lane where it belongs now: into its tenant's turn, or where it waits for room. */
void lane_take_turn(struct lanes *l, struct lane *lane)
{
    if (lane_waiting(lane) == 0) {
        return;
    }
    if (lane->in_flight >= lane_cap(l, lane)) {
        if (lane->in_flight < lane->limit.limit && !lane->wh->failing) {
            block(lane, &l->starved);
        }
        return; /* its own next end brings it back */
    }
    if (!lane_host_has_room(l, lane)) {
        block(lane, &lane->host->blocked);
        return;
    }
    lane_unblock(lane);
    for (int c = 0; c < CLASSES; c++) {
        struct lane_tenant *t = lane->tenant;
        if (lane->waiting[c].n == 0 || lane->in_turn[c]) {
            continue;
        }
        lane->in_turn[c] = true;
        TAILQ_INSERT_TAIL(&t->turn[c], lane, turn_link[c]);
        if (!t->in_turn[c]) {
            t->in_turn[c] = true;
            TAILQ_INSERT_TAIL(&l->turn[c], t, link[c]);
        }
    }
}

/* The next lane of the class: first tenant, its first lane; the tenant goes to the end. NULL: none.
 */
struct lane *lane_next(struct lanes *l, int c)
{
    struct lane_tenant *t;
    while ((t = TAILQ_FIRST(&l->turn[c])) != NULL) {
        TAILQ_REMOVE(&l->turn[c], t, link[c]);
        struct lane *lane = TAILQ_FIRST(&t->turn[c]);
        t->in_turn[c] = lane != NULL;
        if (lane != NULL) {
            TAILQ_INSERT_TAIL(&l->turn[c], t, link[c]);
            CHECK_MAGIC(lane, LANE_MAGIC);
            lane_leave_turn(lane, c);
            return lane;
        }
    }
    return NULL;
}

/* Below its share the class goes first; otherwise the other one, if it has work. */
int lanes_pick_class(const struct lanes *l)
{
    const bool new_work = !TAILQ_EMPTY(&l->turn[DELIVERY_NEW]);
    const bool retry_work = !TAILQ_EMPTY(&l->turn[DELIVERY_RETRY]);
    if (!new_work || !retry_work) {
        return retry_work ? DELIVERY_RETRY : DELIVERY_NEW;
    }
    const size_t share = (size_t)l->cfg->retry_share;
    return l->in_flight[DELIVERY_RETRY] * 100 < share * (lanes_requests(l) + 1) ? DELIVERY_RETRY
                                                                                : DELIVERY_NEW;
}

/* The first one that still has work; a lane that was emptied meanwhile must not use up the room. */
bool lanes_wake_one(struct lanes *l, struct lane_list *list)
{
    struct lane *lane;
    while ((lane = TAILQ_FIRST(list)) != NULL) {
        lane_unblock(lane);
        if (lane_waiting(lane) > 0) {
            lane_take_turn(l, lane);
            return true;
        }
        lane_rest(l, lane);
    }
    return false;
}
