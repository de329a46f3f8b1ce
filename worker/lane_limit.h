/* How many requests one endpoint can take: additive increase, multiplicative decrease (ARCHITECTURE
 * 7, practices 2.2). Pure arithmetic. */
#ifndef NRW_LANE_LIMIT_H
#define NRW_LANE_LIMIT_H

#include <stdint.h>

struct lane_limit {
    unsigned limit; /* 1 … max */
    unsigned max;
    unsigned successes;  /* since the limit last moved */
    int64_t cut_mono_us; /* requests that started until then have been judged already */
};

void lane_limit_init(struct lane_limit *l, unsigned start, unsigned max);
/* A whole window of successes raises the limit by one. */
void lane_limit_success(struct lane_limit *l);
/* Timeout, connect error, 429 or 503 of a request started at started_mono_us: halves the limit,
 * never below 1, once for all requests that were in flight together. */
void lane_limit_overload(struct lane_limit *l, int64_t started_mono_us, int64_t now_mono_us);

#endif
