/* Tells the workers through Redis that a pending row is due, so that they need not find it by
 * themselves. Only a hint: without Redis the row is found a little later (schedule.h of the
 * worker).
 */
#ifndef NRW_HINTS_H
#define NRW_HINTS_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "err.h"
#include "ids.h"

struct hints;

struct hints *hints_new(struct event_base *base, const char *redis_url, struct err *err) MUST_CHECK;
/* The pending row of this delivery is committed and due in delay_ms. */
void hints_due(struct hints *h, const struct uuid *delivery_id, int64_t delay_ms);
void hints_free(struct hints *h);

#endif
