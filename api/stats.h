/* GET …/webhooks/{id}/stats: how its attempts went, hour by hour. */
#ifndef NRW_STATS_H
#define NRW_STATS_H

#include "call.h"

void stats_get(struct call *c);

#endif
