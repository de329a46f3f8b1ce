/* The adaptive limit of a lane; lanes.c asks and tells. */
#include "lane_limit.h"

void lane_limit_init(struct lane_limit *l, unsigned start, unsigned max)
{
    *l = (struct lane_limit){.limit = start < max ? start : max, .max = max};
}

void lane_limit_success(struct lane_limit *l)
{
    if (++l->successes < l->limit) {
        return;
    }
    l->successes = 0;
    if (l->limit < l->max) {
        l->limit++;
    }
}

void lane_limit_overload(struct lane_limit *l, int64_t started_mono_us, int64_t now_mono_us)
{
    if (started_mono_us <= l->cut_mono_us) {
        return;
    }
    l->successes = 0;
    l->limit = l->limit > 1 ? l->limit / 2 : 1;
    l->cut_mono_us = now_mono_us;
}
