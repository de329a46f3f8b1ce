/* The rooms that every request may use; owned by service.c, borrowed for life by everybody else. */
#ifndef NRW_API_H
#define NRW_API_H

#include <event2/event.h>
#include <stdbool.h>

#include "config.h"

struct api {
    const struct config *cfg;
    struct event_base *base;
    struct keyring *keys;   /* seals webhook secrets */
    struct netguard *guard; /* judges addresses in URLs */
    struct jwt_keys *jwt;   /* verifies tokens */
    struct store *store;    /* PostgreSQL */
    struct hints *hints;    /* tells sleeping workers that something is due */
    bool stopping;          /* what is there is still answered, nothing more is to come */
};

#endif
