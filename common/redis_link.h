/* The bytes between this side and one Redis server: hiredis connects, buffers and parses; over TLS
 * where the URL says rediss:// (redis_tls.h). Waits for nothing. Private to redis.c, which drives
 * it from the loop. */
#ifndef NRW_REDIS_LINK_H
#define NRW_REDIS_LINK_H

#include <event2/event.h>
#include <hiredis/hiredis.h>
#include <stdbool.h>

#include "err.h"
#include "redis_url.h"

struct redis_tls;
struct store_lookup;

/* err.code is ERR_NONE when the connection is on its way. */
typedef void redis_link_fn(void *ctx, const struct err *err);

struct redis_link {
    unsigned magic;
    const struct redis_url *url; /* borrowed for life */
    struct store_lookup *lookup; /* NULL: none is open */
    unsigned turn;               /* which of the host's addresses is tried next; may be moved on */
    redis_link_fn *opened;
    void *ctx;
    struct redis_tls *tls; /* NULL: in the clear */
    /* NULL: closed. Others put commands in, take replies out and watch its descriptor; its bytes
     * move through the functions below only. */
    redisContext *conn;
};

enum redis_step {
    REDIS_STEP_DONE,   /* commands may go out                        */
    REDIS_STEP_READ,   /* go on when the descriptor can be read      */
    REDIS_STEP_WRITE,  /* go on when it can be written               */
    REDIS_STEP_FAILED, /* err says why; what is left is to close it  */
};

/* False: the URL wants TLS, and this build has none or cannot read the CA file; nothing is to be
 * freed then. */
bool redis_link_init(struct redis_link *l, const struct redis_url *url, struct err *err) MUST_CHECK;
void redis_link_done(struct redis_link *l); /* closes */

/* Looks the URL's host up, where it is a name, and begins to connect. fn is called exactly once,
 * unless closed before: before this returns where there is no name, else from the loop. Then go on
 * when the descriptor can be written, or close what has failed. */
void redis_link_open(struct redis_link *l, struct event_base *base, redis_link_fn *fn, void *ctx);
/* Until REDIS_STEP_DONE: looks whether TCP is connected, then shakes hands over TLS. */
enum redis_step redis_link_go_on(struct redis_link *l, struct err *err) MUST_CHECK;
/* What is awaited meanwhile, for an error's text; "" while it is TCP. */
const char *redis_link_stage(const struct redis_link *l);
void redis_link_close(struct redis_link *l);

/* What has arrived goes to hiredis' reader, at most 16 KiB and the rest of a TLS record. False:
 * the connection is lost. */
bool redis_link_read(struct redis_link *l, struct err *err) MUST_CHECK;
/* As much as the socket takes. *done: all of it. False: the connection is lost. */
bool redis_link_write(struct redis_link *l, bool *done, struct err *err) MUST_CHECK;

/* "Redis: what: text"; text may be "". Retriable (time or an operator repairs it) and ours. */
struct err redis_fault(enum err_code code, const char *what, const char *text);

#endif
