/* One asynchronous Redis connection on the loop (hiredis), that reconnects by itself. Commands are
 * pipelined and answered in order. hiredis 0.14 has no async command timeout: the oldest command
 * without an answer for stall_ms closes the connection (practices 3). */
#ifndef NRW_REDIS_H
#define NRW_REDIS_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>

#include "err.h"

struct redis;
struct redisReply;

#define REDIS_ARGS_MAX 1100 /* of one command */

struct redis_handlers {
    void (*up)(void *ctx); /* authenticated, database selected; may be NULL */
    void (*down)(void *ctx,
                 const struct err *why); /* after the replies of lost commands; may be NULL */
    void *ctx;
};

/* reply NULL: the connection was lost (the command may or may not have run) or the server answered
 * with an error; err says which (ERR_IO or ERR_DENIED with the server's words; all are `ours`).
 * Borrowed until return. */
typedef void redis_reply_fn(void *ctx, const struct redisReply *reply, const struct err *err);

/* url: redis://[user]:[password]@host[:port][/db], redis://host…,
 * unix:///path/to.sock[?db=N][&password=…][&user=…], or rediss:// with the parts of redis:// and
 * [?ca_file=PATH] (NULL, err: not in this build, which NRW_REDIS_TLS says, or no such file);
 * percent-encoding in user, password and path. A malformed one: NULL, err without the password.
 * Certificate and host name are always verified: redis_tls.h. name: a literal, for log lines and
 * the metrics' label connection. Connects at once and for ever (100 ms … 5 s, doubling, jitter); a
 * host name is looked up first, within 5 s and without blocking (store_address.h). */
struct redis *redis_new(struct event_base *base, const char *url, const char *name, int stall_ms,
                        const struct redis_handlers *handlers, struct err *err) MUST_CHECK;
bool redis_is_up(const struct redis *r);

/* False: not up, nothing was sent, no callback comes. Otherwise fn is called exactly once, later,
 * never from inside this call. argv is borrowed for the call. At most 4096 commands may be without
 * an answer (false above that). */
bool redis_command(struct redis *r, int argc, const char *const *argv, const size_t *argv_len,
                   redis_reply_fn *fn, void *ctx) MUST_CHECK;

/* A Lua script of schema/redis/: EVALSHA, and on NOSCRIPT once more with EVAL (the script cache is
 * lost on restart and failover). */
struct redis_script {
    const char *name; /* for error texts                       */
    const char *text; /* the whole file; borrowed for life     */
    char sha1[41];    /* filled by redis_script_init()         */
};
void redis_script_init(struct redis_script *s, const char *name, const char *text);
/* argv: the n_keys keys, then the arguments. */
bool redis_eval(struct redis *r, const struct redis_script *s, int n_keys, int argc,
                const char *const *argv, const size_t *argv_len, redis_reply_fn *fn,
                void *ctx) MUST_CHECK;

/* A second connection of the same kind that only listens: message is called for each publish on
 * channel. */
struct redis *redis_subscribe(struct event_base *base, const char *url, const char *name,
                              const char *channel,
                              void (*message)(void *ctx, const char *text, size_t len), void *ctx,
                              struct err *err) MUST_CHECK;

/* Outstanding commands get their callback (lost); handlers.down is not called. Not from inside a
 * callback of r. */
void redis_free(struct redis *r);

#endif
