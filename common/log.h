/* JSON lines on stdout: {"time":…,"level":…,"event":…, fields…}. The event name is a literal, so it
 * can be grepped. Never give it a payload, a secret, an Authorization header or a URL query. */
#ifndef NRW_LOG_H
#define NRW_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "ids.h"

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

enum log_field_type { LOG_STR, LOG_STRN, LOG_INT, LOG_UUID, LOG_MS };

struct log_field {
    const char *name;
    enum log_field_type type;
    size_t len;
    union {
        const char *str; /* NULL is written as null */
        int64_t num;
        const struct uuid *uuid;
    } v;
};

#define F_STR(n, s) ((struct log_field){.name = (n), .type = LOG_STR, .v.str = (s)})
#define F_STRN(n, s, l)                                                                            \
    ((struct log_field){.name = (n), .type = LOG_STRN, .len = (l), .v.str = (s)})
#define F_INT(n, i)  ((struct log_field){.name = (n), .type = LOG_INT, .v.num = (int64_t)(i)})
#define F_UUID(n, u) ((struct log_field){.name = (n), .type = LOG_UUID, .v.uuid = (u)})
/* a duration given in microseconds, written as milliseconds with three decimals */
#define F_MS(n, us) ((struct log_field){.name = (n), .type = LOG_MS, .v.num = (int64_t)(us)})
#define F_ERR(e)    F_STR("error", (e)->text)

#define LOG_AT_(level, event, ...)                                                                 \
    do {                                                                                           \
        if (log_enabled(level)) {                                                                  \
            const struct log_field log_fields_[] = {__VA_ARGS__};                                  \
            log_write((level), (event), log_fields_, sizeof(log_fields_) / sizeof(*log_fields_));  \
        }                                                                                          \
    } while (0)
#define log_debug(event, ...) LOG_AT_(LOG_LEVEL_DEBUG, event, __VA_ARGS__)
#define log_info(event, ...)  LOG_AT_(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_warn(event, ...)  LOG_AT_(LOG_LEVEL_WARN, event, __VA_ARGS__)
#define log_error(event, ...) LOG_AT_(LOG_LEVEL_ERROR, event, __VA_ARGS__)
/* each needs at least one field: lines without a value help nobody */

void log_init(enum log_level threshold, int fd); /* fd borrowed for the process's life */
_Bool log_enabled(enum log_level level);
void log_write(enum log_level level, const char *event, const struct log_field *f, size_t n);

/* Lines collect in a buffer of at most 1 MiB. log_flush() writes what the fd takes without blocking
 * the loop (poll before write, at most PIPE_BUF at a time to pipes and ttys); when the buffer is
 * full, lines are dropped and counted, and the count is logged when there is room again. Called
 * once per turn. */
void log_flush(void);
void log_flush_blocking(int64_t timeout_us); /* at exit */
uint64_t log_dropped_total(void);

#endif
