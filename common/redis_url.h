/* The URL of a Redis server, taken apart. Private to redis.c. */
#ifndef NRW_REDIS_URL_H
#define NRW_REDIS_URL_H

#include <stdbool.h>

#include "err.h"

struct redis_url {
    char *host; /* name or address without brackets; NULL: a unix socket */
    int port;
    char *path;     /* of the socket; NULL: TCP            */
    char *user;     /* NULL: none                          */
    char *password; /* NULL: none, then user is NULL too   */
    int db;
    bool tls;      /* rediss://                              */
    char *ca_file; /* of it: what is trusted; NULL: not said */
};

/* Forms: see redis_new(); whether this build speaks TLS is not looked at. False: ERR_INVALID, whose
 * text never shows what stands in the URL. */
bool redis_url_parse(const char *url, struct redis_url *ret, struct err *err) MUST_CHECK;
void redis_url_done(struct redis_url *u); /* wipes the password */

#endif
