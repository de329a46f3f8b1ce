/* POST …/deliveries/{id}/redeliver: a delivery is attempted again, now.
 *
 * One that waits for its next attempt becomes due at once, and is no replay's any more. A finished
 * one, successful or not, a test or not, gets a new round of LIMIT_ATTEMPTS attempts, numbered on
 * from its last one, with the same payload and ids. 409 while an attempt is under way, or the
 * webhook is paused or disabled; 410 without payload; 404 for what this webhook never had.
 *
 * Asked twice at the same time, one row comes of it: each answer is 202 with the same attempt
 * number, or 409 when the first one's attempt has begun already. */
#ifndef NRW_REDELIVER_H
#define NRW_REDELIVER_H

struct call;

void redeliver(struct call *c);

#endif
