/* Two guards over the loop. Lag: a 20 ms timer measures how late it runs; the longest lateness is
 * nrw_loop_turn_max_seconds, and above 50 ms a line is logged (R41). Stuck: when no turn ends for
 * 30 s, SIGALRM's handler writes one line and aborts; a worker that was stopped (SIGSTOP) and goes
 * on does not count as stuck, because its alarms were not delivered meanwhile. */
#ifndef NRW_WATCHDOG_H
#define NRW_WATCHDOG_H

#include <event2/event.h>

struct watchdog;

/* One per process (it owns SIGALRM and ITIMER_REAL). */
struct watchdog *watchdog_new(struct event_base *base);
void watchdog_turn(struct watchdog *w); /* once per turn */
/* The last turn is over and everything is durable: a library that hangs while it is taken apart
 * (librdkafka does when its topic is gone) ends the process with status 0 after 10 s. */
void watchdog_leave(struct watchdog *w);
void watchdog_free(struct watchdog *w);

#endif
