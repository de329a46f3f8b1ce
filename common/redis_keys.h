/* Names in Redis: the index of deadlines that the worker owns and the API adds to. One hash tag, so
 * that a script may touch all of them on a cluster too. The scripts are schema/redis/, compiled in
 * as scripts.h. */
#ifndef NRW_REDIS_KEYS_H
#define NRW_REDIS_KEYS_H

#define REDIS_KEY_DUE       "{nrw}:due"       /* sorted set: delivery id, ms when it is due       */
#define REDIS_KEY_LEASED    "{nrw}:leased"    /* sorted set: delivery id, ms when its lease ends  */
#define REDIS_KEY_EPOCH     "{nrw}:epoch"     /* the run of Redis in which the index is complete  */
#define REDIS_KEY_PULSE     "{nrw}:pulse"     /* written to see whether Redis takes writes        */
#define REDIS_KEY_REBUILD   "{nrw}:rebuild"   /* lock: one worker rebuilds                        */
#define REDIS_KEY_RECONCILE "{nrw}:reconcile" /* lock: one worker reconciles, once in a while */

/* Wake-up channel, a hint only: the message is the ms until something is due. */
#define REDIS_CHANNEL_WAKE "{nrw}:wake"

#endif
