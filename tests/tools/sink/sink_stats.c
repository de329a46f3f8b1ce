/* Event-to-receiver latency for benches: the producer's wall time out of the body, and a log-linear
 * histogram with 64 steps per power of two (an error under 1.6 %). Owns no memory of its own.
 * sink_handle.c adds, sink_control.c reads. */
#include <string.h>

#include "sink.h"

static size_t bucket_of(uint64_t us)
{
    if (us < 64)
        return (size_t)us;
    unsigned exponent = 63u - (unsigned)__builtin_clzll(us); /* >= 6 */
    size_t i = ((size_t)exponent - 5) * 64 + (size_t)(us >> (exponent - 6) & 63);
    return i < LATENCY_BUCKETS ? i : LATENCY_BUCKETS - 1;
}

static uint64_t bucket_top(size_t i)
{
    if (i < 64)
        return i;
    unsigned exponent = (unsigned)(i / 64) + 5;
    return ((i % 64 + 64 + 1) << (exponent - 6)) - 1;
}

void latency_add(struct latency *l, uint64_t us)
{
    l->buckets[bucket_of(us)]++;
    l->n++;
    if (us > l->max)
        l->max = us;
}

uint64_t latency_quantile(const struct latency *l, double q)
{
    uint64_t rank = (uint64_t)(q * (double)l->n);
    uint64_t seen = 0;
    for (size_t i = 0; i < LATENCY_BUCKETS; i++) {
        seen += l->buckets[i];
        if (seen > rank)
            return bucket_top(i) < l->max ? bucket_top(i) : l->max;
    }
    return l->max;
}

uint64_t latency_produced_at(struct slice body)
{
    static const char key[] = "\"produced_at_us\":";
    const char *at = body.len == 0 ? NULL : memmem(body.p, body.len, key, sizeof(key) - 1);
    if (at == NULL)
        return 0;
    struct slice number = {at + sizeof(key) - 1, 0};
    const char *end = body.p + body.len;
    while (number.p < end && *number.p == ' ')
        number.p++;
    while (number.p + number.len < end && number.p[number.len] >= '0' &&
           number.p[number.len] <= '9')
        number.len++;
    uint64_t us;
    return slice_number(number, INT64_MAX, &us) ? us : 0;
}
