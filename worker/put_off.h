/* Pending rows that are due while their endpoint has enough to do: put off without being leased or
 * loaded, and brought forward when the endpoint takes more than waits for it. A row that was due
 * and is put off gets the reason 'spill' (what somebody asked for keeps its own), so that those
 * which wait for their schedule ('retry') are told apart: they are never brought forward. */
#ifndef NRW_PUT_OFF_H
#define NRW_PUT_OFF_H

#include <stddef.h>
#include <stdint.h>

#include "ids.h"
#include "pg.h"

struct put_off;

struct put_off_handlers {
    /* Its row is durable: claimed, and due again in delay_us / brought forward, due now. */
    void (*later)(void *ctx, const struct uuid *id, int64_t delay_us);
    void (*due)(void *ctx, const struct uuid *id, int64_t delay_us);
    /* No row of this webhook is put off so far any more. */
    void (*none_left)(void *ctx, const struct uuid *webhook_id);
    void *ctx;
};

/* pg: borrowed for life. */
struct put_off *put_off_new(struct pg *pg, const struct put_off_handlers *handlers);
/* Claimed, not leased: due again in delay_us. What cannot be written stays due. */
void put_off_add(struct put_off *p, const struct uuid *id, int64_t delay_us);
/* Up to n rows of the webhook that were put off for more than a minute from now become due. */
void put_off_bring_forward(struct put_off *p, const struct uuid *webhook_id, size_t n);
void put_off_after_turn(struct put_off *p); /* writes what has collected; once per turn */
void put_off_free(struct put_off *p);       /* after its pg */

#endif
