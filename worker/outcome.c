/* The policy of the retry promise and nothing else: no I/O, no clock, no state. delivery's JUDGE
 * step asks. */
#include "outcome.h"

#include "check.h"

#define HOUR_US INT64_C(3600000000)

static const char *const kind_names[] = {
    [OUTCOME_DELIVERED] = "delivered", [OUTCOME_RETRY] = "retry",
    [OUTCOME_EXHAUSTED] = "exhausted", [OUTCOME_GONE] = "gone",
    [OUTCOME_OURS] = "ours",           [OUTCOME_TEST_FAILED] = "test_failed",
};
static const char *const row_names[] = {
    [OUTCOME_DELIVERED] = "delivered",
    [OUTCOME_RETRY] = "failed",
    [OUTCOME_EXHAUSTED] = "exhausted",
    [OUTCOME_GONE] = "gone",
    [OUTCOME_OURS] = NULL,
    [OUTCOME_TEST_FAILED] = "test_failed",
};
static const char *const fault_names[] = {
    [TRANSPORT_OK] = "status",       [TRANSPORT_TIMEOUT] = "timeout",
    [TRANSPORT_CONNECT] = "connect", [TRANSPORT_TLS] = "tls",
    [TRANSPORT_BROKEN] = "broken",   [TRANSPORT_TOO_LARGE] = "too_large",
    [TRANSPORT_DENIED] = "denied",   [TRANSPORT_OURS] = "ours",
};

const char *outcome_name(enum outcome_kind kind)
{
    return kind_names[kind];
}

const char *outcome_row(enum outcome_kind kind)
{
    return row_names[kind];
}

const char *transport_fault_name(enum transport_fault fault)
{
    return fault_names[fault];
}

static enum outcome_kind kind_of(const struct attempt_result *r, unsigned attempt, unsigned final)
{
    if (r->fault == TRANSPORT_OURS) {
        return OUTCOME_OURS;
    }
    if (r->fault == TRANSPORT_OK && r->status >= 200 && r->status <= 299) {
        return OUTCOME_DELIVERED;
    }
    if (r->fault == TRANSPORT_OK && r->status == 410) {
        return OUTCOME_GONE;
    }
    return attempt >= final ? OUTCOME_EXHAUSTED : OUTCOME_RETRY;
}

/* How many attempts are left decides, not the number: a redeliver's attempts 6 to 10 have the times
 * of 1 to 5. ms[n] is the delay before attempt n + 1 of a round. */
static int64_t scheduled_us(const struct config *cfg, unsigned left)
{
    const unsigned row = left < LIMIT_ATTEMPTS ? LIMIT_ATTEMPTS - left : 1;
    return cfg->retry_delays.ms[row] * 1000;
}

/* Retry-After counts on 429 and 503 only, and only within [the scheduled delay, one hour]. */
static int64_t delay_us(const struct attempt_result *r, int64_t scheduled)
{
    if (r->retry_after_s < 0 || (r->status != 429 && r->status != 503)) {
        return scheduled;
    }
    const int64_t asked =
        r->retry_after_s > HOUR_US / 1000000 ? HOUR_US : r->retry_after_s * 1000000;
    return asked > scheduled ? asked : scheduled;
}

static int64_t jittered(int64_t delay, uint32_t random)
{
    return delay + (int64_t)((double)delay * 0.1 * ((double)random / (double)UINT32_MAX));
}

struct outcome outcome_judge(const struct config *cfg, const struct attempt_result *result,
                             unsigned attempt, unsigned final, uint32_t random)
{
    CHECK(attempt >= 1 && attempt <= final);
    struct outcome o = {.kind = kind_of(result, attempt, final)};
    if (o.kind == OUTCOME_RETRY) {
        o.delay_us = jittered(delay_us(result, scheduled_us(cfg, final - attempt)), random);
    } else if (o.kind == OUTCOME_OURS) {
        o.delay_us = jittered(cfg->own_fault_delay * 1000, random);
    }
    return o;
}

struct outcome outcome_of_test(const struct config *cfg, const struct attempt_result *result,
                               uint32_t random)
{
    const struct outcome o = outcome_judge(cfg, result, 1, 1, random);
    const bool final = o.kind != OUTCOME_DELIVERED && o.kind != OUTCOME_OURS;
    return final ? (struct outcome){.kind = OUTCOME_TEST_FAILED} : o;
}
