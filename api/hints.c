/* Owns the API's connection to Redis and one script, add.lua. What cannot be sent is forgotten: the
 * row in PostgreSQL is what counts, and the workers look for rows that nobody told them of.
 * test_send, redeliver and replays call it after their commit. */
#include "hints.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"
#include "redis.h"
#include "redis_keys.h"
#include "scripts.h"

#define HINTS_MAGIC 0x48494e54u
#define STALL_MS    2000

struct hints {
    unsigned magic;
    struct redis *redis;
    struct redis_script add;
    struct counter *sent, *lost;
};

static void answered(void *ctx, const struct redisReply *reply, const struct err *err)
{
    struct hints *h = ctx;
    CHECK_MAGIC(h, HINTS_MAGIC);
    if (reply == NULL) {
        h->lost->value++;
        log_warn("hints.refused", F_ERR(err));
        return;
    }
    h->sent->value++;
}

static void on_down(void *ctx, const struct err *why)
{
    (void)ctx;
    log_warn("hints.connection_lost", F_ERR(why));
}

static double is_up(void *ctx)
{
    return redis_is_up(((struct hints *)ctx)->redis) ? 1 : 0;
}

struct hints *hints_new(struct event_base *base, const char *redis_url, struct err *err)
{
    struct hints *h = mem_zero(1, sizeof(*h));
    h->magic = HINTS_MAGIC;
    redis_script_init(&h->add, "add", script_add);
    const struct redis_handlers on = {.down = on_down, .ctx = h};
    h->redis = redis_new(base, redis_url, "nrw-api", STALL_MS, &on, err);
    if (h->redis == NULL) {
        free(h);
        return NULL;
    }
    h->sent = metrics_counter("nrw_hints_total", "result=\"sent\"",
                              "due deliveries told to the workers through Redis");
    h->lost = metrics_counter("nrw_hints_total", "result=\"lost\"",
                              "due deliveries told to the workers through Redis");
    metrics_gauge_fn("nrw_redis_up", NULL,
                     "1 while Redis is connected, and takes a worker's writes", is_up, h);
    return h;
}

void hints_due(struct hints *h, const struct uuid *delivery_id, int64_t delay_ms)
{
    CHECK_MAGIC(h, HINTS_MAGIC);
    char id[UUID_TEXT + 1];
    char delay[24];
    uuid_format(delivery_id, id);
    (void)snprintf(delay, sizeof(delay), "%lld", (long long)delay_ms);
    /* The run id only matters for the answer, which nobody here needs. */
    const char *const argv[] = {
        REDIS_KEY_DUE, REDIS_KEY_LEASED, REDIS_KEY_EPOCH, "", REDIS_CHANNEL_WAKE, id, delay};
    size_t len[sizeof(argv) / sizeof(*argv)];
    for (size_t i = 0; i < sizeof(argv) / sizeof(*argv); i++) {
        len[i] = strlen(argv[i]);
    }
    if (!redis_eval(h->redis, &h->add, 3, (int)(sizeof(argv) / sizeof(*argv)), argv, len, answered,
                    h)) {
        h->lost->value++;
    }
}

void hints_free(struct hints *h)
{
    if (h == NULL) {
        return;
    }
    CHECK_MAGIC(h, HINTS_MAGIC);
    redis_free(h->redis), h->redis = NULL;
    h->magic = 0;
    free(h);
}
