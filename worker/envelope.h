/* The envelope of the product page, validated and never re-serialised (platform.md section 2). */
#ifndef NRW_ENVELOPE_H
#define NRW_ENVELOPE_H

#include <stddef.h>
#include <stdint.h>

#include "bounds.h"
#include "err.h"
#include "ids.h"

struct envelope {
    struct uuid id;
    struct uuid tenant_id;
    int64_t timestamp_us;
    char type[LIMIT_EVENT_TYPE + 1];
    size_t type_len;
};

/* The `reason` header of a dead letter; literals. */
#define ENVELOPE_EMPTY     "empty"     /* no value: a tombstone                                   */
#define ENVELOPE_TOO_LARGE "too_large" /* more than LIMIT_EVENT_BYTES */
#define ENVELOPE_NOT_JSON                                                                          \
    "not_json" /* not strict UTF-8 JSON, a member given twice, a number beyond                     \
                * double, a lone surrogate, or nested deeper than LIMIT_JSON_DEPTH */
#define ENVELOPE_BAD_MEMBER                                                                        \
    "bad_member" /* a member of the contract is missing or has the wrong shape */

/* body: any bytes. False: *ret_reason is one of the literals above and err->text names member and
 * value; *ret untouched. */
bool envelope_decode(const void *body, size_t len, struct envelope *ret, const char **ret_reason,
                     struct err *err) MUST_CHECK;

#endif
