/* What an attempt means: one table from (fault, status) to what happens next (platform.md sections
 * 3 and 4). */
#ifndef NRW_OUTCOME_H
#define NRW_OUTCOME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bounds.h"
#include "config.h"
#include "transport.h"

enum outcome_kind {
    OUTCOME_DELIVERED,   /* 2xx                                                       */
    OUTCOME_RETRY,       /* failed, the next attempt has a time                       */
    OUTCOME_EXHAUSTED,   /* failed, and it was the last one                           */
    OUTCOME_GONE,        /* 410: the endpoint wants nothing any more                  */
    OUTCOME_OURS,        /* our fault: not an attempt; the same number is due again   */
    OUTCOME_TEST_FAILED, /* a test that was not answered by 2xx; none follows */
};

struct outcome {
    enum outcome_kind kind;
    int64_t delay_us; /* until the next attempt; RETRY and OURS, else 0. Relative, because the
                       * stores' clocks decide and this worker's wall clock does not (R28) */
};

/* How an attempt ended, from whichever step. Owns `kept`. */
struct attempt_result {
    enum transport_fault fault;
    long status;
    int64_t duration_us;
    int64_t retry_after_s; /* -1 when absent */
    bool reused;
    char error[LIMIT_ERROR_TEXT];
    char *kept; /* headers, then body; NULL when both are empty */
    uint16_t headers_len;
    uint16_t body_len;
};

/* attempt: 1 … final, the attempt that exhausts the delivery (LIMIT_ATTEMPTS, more after a
 * redeliver, whose round of LIMIT_ATTEMPTS has the times of the first one). random: 0 … UINT32_MAX
 * picks the jitter of 0 … +10 % (never earlier than promised, R27). */
struct outcome outcome_judge(const struct config *cfg, const struct attempt_result *result,
                             unsigned attempt, unsigned final, uint32_t random);

/* A test has one attempt and means nothing for the webhook: DELIVERED, TEST_FAILED or OURS. */
struct outcome outcome_of_test(const struct config *cfg, const struct attempt_result *result,
                               uint32_t random);

const char *outcome_name(enum outcome_kind kind); /* for logs and metrics                        */
const char *outcome_row(enum outcome_kind kind);  /* attempts.outcome; NULL for OURS: no such row */
const char *transport_fault_name(enum transport_fault fault);

#endif
