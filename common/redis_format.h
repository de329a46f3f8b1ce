/* Commands as Redis reads them; pure. Private to redis.c. */
#ifndef NRW_REDIS_FORMAT_H
#define NRW_REDIS_FORMAT_H

#include <stddef.h>

#include "buf.h"
#include "redis.h"

/* Each fills `out` from its beginning; the caller has bounded what goes in. */
void redis_format(struct buf *out, int argc, const char *const *argv, const size_t *argv_len);
void redis_format_evalsha(struct buf *out, const struct redis_script *s, int n_keys, int argc,
                          const char *const *argv, const size_t *argv_len);
/* Makes the EVAL of what redis_format_evalsha() gave for the same script and argc. */
void redis_format_eval(struct buf *out, const struct redis_script *s, int argc, const char *evalsha,
                       size_t len);

#endif
