/* The running API: boots, serves until SIGTERM, drains. */
#ifndef NRW_SERVICE_H
#define NRW_SERVICE_H

#include "config.h"

int service_run(const struct config *cfg); /* the exit status */

#endif
