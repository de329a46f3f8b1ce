/* The worker put together: which room talks to which, the loop, the end. */
#ifndef NRW_WORKER_H
#define NRW_WORKER_H

#include "config.h"
#include "err.h"

/* Runs until SIGTERM or SIGINT has been served, or until it cannot go on. Returns the exit code: 0
 * after a stop that was asked for, 1 after a fatal fault (logged). cfg is borrowed. */
int worker_run(const struct config *cfg);

#endif
