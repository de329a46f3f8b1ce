/* What is written of a delivery: its journal entry, made of how it ended. Policy only: no I/O, no
 * clock. `done` is the caller's to set. */
#ifndef NRW_DELIVERY_ENTRY_H
#define NRW_DELIVERY_ENTRY_H

#include "delivery.h"

/* An attempt was made and judged. Points into d->result. */
void delivery_entry_attempt(struct delivery *d);
/* None was made, and d->outcome.delay_us says when it is due again. */
void delivery_entry_spilled(struct delivery *d);
/* None will be made: a pending row goes; of a new one only the event stays, for a replay. */
void delivery_entry_cancelled(struct delivery *d);

#endif
