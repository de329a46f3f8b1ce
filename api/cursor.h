/* Where a reader of the delivery log goes on: a position in its order (started_at descending,
 * delivery_id, attempt), as an opaque text. It names no webhook and grants nothing: every request
 * is judged by its own credentials, and any position is one that anybody may ask for. */
#ifndef NRW_CURSOR_H
#define NRW_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ids.h"

#define CURSOR_BYTES (1 + 8 + 16 + 2) /* version, time, delivery, attempt; big-endian */
#define CURSOR_TEXT  36               /* characters of base64url */

struct cursor {
    int64_t started_at_us; /* since 1970, to the end of 9999; cursor_format() clamps */
    struct uuid delivery_id;
    uint16_t attempt; /* 1 … 32767 */
};

void cursor_format(const struct cursor *cursor, char out[CURSOR_TEXT + 1]); /* with its NUL */
/* Takes exactly what cursor_format() writes; text: any bytes. False: ret is untouched. */
bool cursor_parse(const char *text, size_t len, struct cursor *ret);

#endif
