/* Owns the pauses between two tries and the silence between two complaints. Has no timer and writes
 * no log: its users do, and know when a connection is steady enough to begin anew. Called by pg.c
 * and redis.c. */
#include "backoff.h"

#include <event2/util.h>
#include <sys/param.h>

#include "clock.h"

#define MIN_MS        100
#define MAX_MS        4000 /* and a quarter of jitter: never above 5 s */
#define TELL_EVERY_US (30 * INT64_C(1000000))

int64_t backoff_next_us(struct backoff *b)
{
    uint16_t random;

    evutil_secure_rng_get_bytes(&random, sizeof(random));
    b->ms = b->ms == 0 ? MIN_MS : MIN(b->ms * 2, MAX_MS);
    return (b->ms + random % (b->ms / 4 + 1)) * INT64_C(1000);
}

bool backoff_failed(struct backoff *b)
{
    const int64_t now = clock_mono_us();

    if (b->tries++ > 0 && now - b->told_us < TELL_EVERY_US) {
        return false;
    }
    b->told_us = now;
    return true;
}
