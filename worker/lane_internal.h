/* Shared by lanes.c and lane*.c; nobody else includes it.
 *
 *   lanes.c       deliveries in and out, spilling
 *   lane.c        life of lanes, tenants and hosts
 *   lane_pace.c   what a lane learns of its endpoint's pace, and what follows
 *   lane_turns.c  whose turn it is, and who waits for room */
#ifndef NRW_LANE_INTERNAL_H
#define NRW_LANE_INTERNAL_H

#include <event2/event_struct.h>
#include <sys/queue.h>

#include "lane_limit.h"
#include "lanes.h"
#include "map.h"
#include "metrics.h"

#define LANES_MAGIC 0x4c414e45u
#define LANE_MAGIC  0x4c4e4531u
#define CLASSES     2
/* Back later than this is put off: worth to be brought forward when its endpoint has time. What
 * comes earlier is left alone, or a backlog that moves would be written twice. */
#define LANE_PUT_OFF_US 60000000
#define RESERVE(max)    ((max) - (max) / 5) /* above: only endpoints without a request */

TAILQ_HEAD(lane_list, lane);
TAILQ_HEAD(tenant_list, lane_tenant);
TAILQ_HEAD(age_list, delivery);

/* The lanes of one tenant that may start something, by class. */
struct lane_tenant {
    struct uuid id;
    size_t lanes;
    struct lane_list turn[CLASSES];
    bool in_turn[CLASSES];
    TAILQ_ENTRY(lane_tenant) link[CLASSES];
};

struct lane_host {
    struct uuid key; /* of host and port */
    size_t lanes;
    size_t in_flight;
    struct lane_list blocked; /* lanes that wait for this host's cap */
};

struct fifo {
    struct delivery *head;
    struct delivery **tail;
    size_t n;
};

struct lane {
    unsigned magic;
    struct webhook *wh; /* newest version; one reference */
    struct lane_tenant *tenant;
    struct lane_host *host;
    struct fifo waiting[CLASSES];
    size_t in_flight;
    struct lane_limit limit;
    unsigned ends;          /* how many ends between_us has seen              */
    int64_t between_us;     /* smoothed time between two ends: 1 / throughput */
    int64_t busy_mono_us;   /* since when it has had work without a break     */
    int64_t left_mono_us;   /* when a request last ended                      */
    int64_t moment_mono_us; /* the last one that lane_next_moment() gave away */
    int64_t none_mono_us;   /* when nothing was put off                       */
    int64_t fed_mono_us;    /* when something was brought forward             */
    int64_t stuck_us;       /* while was_full: time without room, less time with room */
    int64_t eased_mono_us;  /* when was_full ended                            */
    bool put_off;           /* pending rows of it may be far from due though they were */
    bool was_full;          /* in lanes.full: full, and above half of that since       */
    bool spare;             /* while was_full: its endpoint had room when the last turn ended */
    bool idle;              /* in lanes.idle                                  */
    bool in_turn[CLASSES];  /* in tenant->turn                                */
    struct lane_list *blocked_in; /* host->blocked or lanes.starved, or NULL  */
    TAILQ_ENTRY(lane) turn_link[CLASSES];
    TAILQ_ENTRY(lane) link;      /* blocked_in or idle */
    TAILQ_ENTRY(lane) full_link; /* lanes.full         */
};

struct lanes {
    unsigned magic;
    const struct config *cfg;
    struct event spill_timer;
    bool spill_due; /* it has fired: look at the end of the turn */
    struct map by_webhook;
    struct map tenants;
    struct map hosts;
    struct tenant_list turn[CLASSES];
    struct lane_list starved; /* wait until requests fall below the reserve */
    struct lane_list idle;
    size_t idle_n;
    struct age_list ages; /* everything that waits, oldest first */
    size_t in_flight[CLASSES];
    size_t waiting[CLASSES];
    struct lane_list full;  /* lanes that reached NRW_LANE_QUEUE_MAX and did not fall to half yet */
    int64_t looked_mono_us; /* at those of them that have room; 0: there was none */
    int64_t looked_cpu_us;
    struct counter *cancelled, *spilled_wait, *spilled_full, *spilled_crowded, *deferred;
};

/* lane.c */
size_t lanes_requests(const struct lanes *l);
size_t lane_waiting(const struct lane *lane);
bool lane_full(const struct lanes *l, const struct lane *lane);
bool lane_host_has_room(const struct lanes *l, const struct lane *lane);
size_t lane_own_cap(const struct lane *lane);                    /* what its endpoint can take */
size_t lane_cap(const struct lanes *l, const struct lane *lane); /* requests in flight, now */
struct lane *lane_get(struct lanes *l,
                      struct webhook *wh); /* makes it, or takes it from the idle ones */
void lane_set_webhook(struct lanes *l, struct lane *lane, struct webhook *wh);
void lane_rest(struct lanes *l, struct lane *lane); /* if it has no work: may free it */
void lane_free(struct lanes *l, struct lane *lane);

/* lane_pace.c */
void lane_ended(struct lane *lane, int64_t now_mono_us); /* a request has */
bool lane_has_room(const struct lanes *l, const struct lane *lane);
bool lane_stuck(const struct lanes *l, const struct lane *lane);
bool lane_keeps_up(const struct lanes *l, const struct lane *lane);
void lanes_look_at_full(struct lanes *l); /* once per turn, when all has started that may */
size_t lane_room_for_retries(const struct lanes *l, const struct lane *lane);
int64_t lane_next_moment(struct lane *lane); /* in so many us */

/* lane_turns.c */
void lane_take_turn(struct lanes *l, struct lane *lane);
void lane_leave_turn(struct lane *lane, int c);
void lane_unblock(struct lane *lane);
struct lane *lane_next(struct lanes *l, int c);
int lanes_pick_class(const struct lanes *l);
bool lanes_wake_one(struct lanes *l, struct lane_list *list);

#endif
