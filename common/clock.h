/* Two clocks, never mixed: `mono` measures inside this process, `wall` is written into rows. */
#ifndef NRW_CLOCK_H
#define NRW_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t clock_mono_us(void);
int64_t clock_cpu_us(void);  /* what this thread has computed: does not go while it waits */
int64_t clock_wall_us(void); /* microseconds since 1970-01-01T00:00:00Z */

#define CLOCK_RFC3339_SIZE sizeof("2026-03-15T10:30:00.000000Z")
/* "2026-03-15T10:30:00.123456Z"; years 1970-9999, outside is clamped. */
void clock_format_rfc3339(int64_t wall_us, char out[CLOCK_RFC3339_SIZE]);
/* Strict RFC 3339 date-time (any offset, fraction of any length, 'T'/'t'/' ' and 'Z'/'z' as the RFC
 * allows, second 60 accepted as in the RFC). text need not be NUL-terminated. ret_wall_us may be
 * NULL. */
_Bool clock_parse_rfc3339(const char *text, size_t len, int64_t *ret_wall_us);

#endif
