/* Housekeeping of the database, by one worker at a time and never on the hot connections:
 * partitions ahead, retention, webhooks that failed for NRW_DISABLE_AFTER without a success, what
 * is left of cancelled replays, gauges that only the database knows. */
#ifndef NRW_UPKEEP_H
#define NRW_UPKEEP_H

#include <event2/event.h>

#include "config.h"
#include "pg.h"

struct upkeep;

struct upkeep *upkeep_new(struct event_base *base, const struct config *cfg);
struct pg *upkeep_pg(const struct upkeep *u); /* its connection, shared with mailer and replays */
void upkeep_free(struct upkeep *u);

#endif
