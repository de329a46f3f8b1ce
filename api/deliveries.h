/* GET …/webhooks/{id}/deliveries: the delivery log, one row for each attempt, newest first. */
#ifndef NRW_DELIVERIES_H
#define NRW_DELIVERIES_H

#include "call.h"

void deliveries_list(struct call *c);

#endif
