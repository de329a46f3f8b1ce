/* What the API tells of itself: the event types with their samples, the contract, and whether it
 * lives. */
#ifndef NRW_REFERENCE_H
#define NRW_REFERENCE_H

#include <stdbool.h>

#include "buf.h"

struct call;

void reference_event_types(struct call *c);
void reference_openapi(struct call *c);
void reference_health(struct call *c);
void reference_ready(struct call *c);

#endif
