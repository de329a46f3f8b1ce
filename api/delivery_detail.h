/* GET …/webhooks/{id}/deliveries/{delivery_id}: one delivery with its payload, what is sent with it
 * and what was answered. */
#ifndef NRW_DELIVERY_DETAIL_H
#define NRW_DELIVERY_DETAIL_H

#include "call.h"

void deliveries_get(struct call *c);

#endif
