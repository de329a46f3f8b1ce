/* When a connection that failed is tried again, and how often that is told: what pg.c and redis.c
 * have in common. */
#ifndef NRW_BACKOFF_H
#define NRW_BACKOFF_H

#include <stdbool.h>
#include <stdint.h>

/* Zero-initialise before use. */
struct backoff {
    int ms;         /* the last pause; 0: the next one is the shortest     */
    unsigned tries; /* failed ones since the owner last set it to 0        */
    int64_t told_us;
};

/* The next pause: 100 ms ... 5 s, doubling, with a quarter of jitter. */
int64_t backoff_next_us(struct backoff *b);
/* Counts a failed try. True: it is to be told, which is once per outage and then every 30 s. */
bool backoff_failed(struct backoff *b);

#endif
