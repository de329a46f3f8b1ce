/* The end of the process after a bug: what was logged before gets out, the failed expression
 * follows on stderr as one JSON line, then abort() leaves a core for the debugger. Allocates
 * nothing: it also runs when memory is gone. Called by the CHECK macros only. */
#include "check.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buf.h"
#include "clock.h"
#include "log.h"

#define LAST_WORDS_US 1000000
#define EXPR_MAX      256 /* its end is cut; with escapes it fits the room below */

_Noreturn void check_failed(const char *expr, const char *file, int line, const char *func)
{
    static volatile int failing;
    if (failing++) { /* a check failed while this function was at work */
        abort();
    }
    log_flush_blocking(LAST_WORDS_US);

    /* cap == max: a borrowed buffer that never grows; the last byte is buf_cstr's */
    char room[2048];
    struct buf b = {.data = room, .cap = sizeof(room) - 1, .max = sizeof(room) - 1};
    char now[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(clock_wall_us(), now);
    buf_add_fmt(&b, "{\"time\":\"%s\",\"level\":\"error\",\"event\":\"bug\",\"where\":\"%s:%d\",",
                now, file, line);
    buf_add_fmt(&b, "\"function\":\"%s\",\"failed\":", func);
    buf_add_json_string(&b, expr, strnlen(expr, EXPR_MAX));
    buf_add_str(&b, "}\n");
    ssize_t ignored = write(STDERR_FILENO, b.data, b.len); /* nothing left to do if it fails */
    (void)ignored;
    abort();
}
