/* What a lane has learned of its endpoint's pace, and what follows from that: whether it keeps up,
 * how many retries it may hold, and when that which finds no room should come back. Moves nothing.
 * Called by lanes.c. */
#include <event2/util.h>

#include "clock.h"
#include "lane_internal.h"

#define LOOK_MAX_US     100000 /* a longer turn says something of this worker, not of an endpoint */
#define ENDS_TO_KNOW    16     /* so many ends make an estimate of the rate */
#define UNKNOWN_STEP_US 2000   /* until then: quick, so that nobody waits for what is not so */
#define BACK_MIN_US     1000000
#define BACK_MAX_US     INT64_C(3600000000)

void lane_ended(struct lane *lane, int64_t now_mono_us)
{
    if (lane->left_mono_us > lane->busy_mono_us) { /* two ends of one busy time */
        lane->between_us += (now_mono_us - lane->left_mono_us - lane->between_us) / 8;
        lane->ends++;
    }
    lane->left_mono_us = now_mono_us;
}

/* One more request would not be too many for its endpoint. */
bool lane_has_room(const struct lanes *l, const struct lane *lane)
{
    return lane->in_flight < lane_own_cap(lane) && lane_host_has_room(l, lane);
}

/* Whom do full lanes wait for? All that may start now has started: where there is room all the
 * same, for this worker. Where there is none, for the endpoint while this worker has nothing to do,
 * and not while it computes: to write things aside would be only more to do. What one turn says is
 * little, so the time of one kind is set off against the other, and time in which the lane was not
 * full counts as time with room. An endpoint that is found stuck is so until its lane has fallen to
 * half. */
void lanes_look_at_full(struct lanes *l)
{
    if (TAILQ_EMPTY(&l->full)) {
        l->looked_mono_us = 0;
        return;
    }
    const int64_t spill_us = l->cfg->spill_after * 1000;
    const int64_t now = clock_mono_us();
    const int64_t cpu_us = clock_cpu_us();
    const int64_t gone_us = l->looked_mono_us != 0 ? now - l->looked_mono_us : 0;
    const int64_t past_us = gone_us < LOOK_MAX_US ? gone_us : LOOK_MAX_US;
    const int64_t waited_us = past_us - 2 * (cpu_us - l->looked_cpu_us);
    struct lane *lane;
    l->looked_mono_us = now;
    l->looked_cpu_us = cpu_us;
    TAILQ_FOREACH(lane, &l->full, full_link)
    {
        lane->spare = lane_has_room(l, lane);
        if (lane->stuck_us < spill_us && past_us > 0) {
            lane->stuck_us += lane->spare ? -past_us : waited_us;
            lane->stuck_us = lane->stuck_us > 0 ? lane->stuck_us : 0;
        }
    }
}

bool lane_stuck(const struct lanes *l, const struct lane *lane)
{
    return lane->was_full && lane->stuck_us >= l->cfg->spill_after * 1000;
}

/* Keeps up: what waits will be sent before it would have to be spilled, and there is not always
 * more of it than the lane can hold: a loud tenant's endpoint may be quick, and everybody would run
 * at its speed. A lane that has just got busy has the benefit of the doubt for as long as a
 * delivery may wait. */
bool lane_keeps_up(const struct lanes *l, const struct lane *lane)
{
    const int64_t spill_us = l->cfg->spill_after * 1000;
    const int64_t now = clock_mono_us();
    if (lane_stuck(l, lane)) {
        return false;
    }
    if (lane->ends < ENDS_TO_KNOW) {
        return now - lane->busy_mono_us < spill_us;
    }
    const int64_t since =
        lane->left_mono_us > lane->busy_mono_us ? lane->left_mono_us : lane->busy_mono_us;
    return now - since < spill_us && (int64_t)lane_waiting(lane) * lane->between_us < spill_us;
}

/* Twice what may be in flight, or what an endpoint of this speed takes in half the time that a
 * delivery may wait. */
size_t lane_room_for_retries(const struct lanes *l, const struct lane *lane)
{
    const size_t cap = lane_own_cap(lane);
    if (lane->ends < ENDS_TO_KNOW) {
        return 2 * cap;
    }
    const int64_t between_us = lane->between_us > 0 ? lane->between_us : 1;
    const size_t soon = (size_t)(l->cfg->spill_after * 1000 / 2 / between_us);
    const size_t most = (size_t)l->cfg->lane_queue_max / 2;
    return soon < 2 * cap ? 2 * cap : soon < most ? soon : most;
}

/* The next free moment at the rate at which this endpoint works, so that a backlog is not fetched
 * and given back over and over. What would have to wait for more than an hour comes at any time of
 * the next one's second half: an endpoint that is dead has its whole backlog looked at once in so
 * long.
 */
int64_t lane_next_moment(struct lane *lane)
{
    const int64_t now = clock_mono_us();
    const int64_t step = lane->ends < ENDS_TO_KNOW ? UNKNOWN_STEP_US : lane->between_us;
    const int64_t from =
        lane->moment_mono_us > now + BACK_MIN_US ? lane->moment_mono_us : now + BACK_MIN_US;
    int64_t back_us = from + step - now;
    if (back_us <= BACK_MAX_US) {
        lane->moment_mono_us = from + step;
    } else {
        uint32_t random;
        evutil_secure_rng_get_bytes(&random, sizeof(random));
        back_us = BACK_MAX_US - (int64_t)random % (BACK_MAX_US / 2);
    }
    lane->put_off |= back_us > LANE_PUT_OFF_US;
    return back_us;
}
