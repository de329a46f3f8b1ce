/* Owns the form of a cursor. Pure: deliveries.c decides what is before and after a position. */
#include "cursor.h"

#include <endian.h>
#include <string.h>

#include "base64.h"
#include "check.h"

#define VERSION     1
#define ATTEMPT_MAX 32767                       /* a smallint */
#define TIME_MAX_US INT64_C(253402300799999999) /* 9999-12-31T23:59:59.999999Z */

void cursor_format(const struct cursor *cursor, char out[CURSOR_TEXT + 1])
{
    CHECK(cursor->attempt >= 1 && cursor->attempt <= ATTEMPT_MAX);
    unsigned char bytes[CURSOR_BYTES] = {VERSION};
    const int64_t from_1970 = cursor->started_at_us < 0 ? 0 : cursor->started_at_us;
    const uint64_t at = htobe64((uint64_t)(from_1970 > TIME_MAX_US ? TIME_MAX_US : from_1970));
    const uint16_t attempt = htobe16(cursor->attempt);
    memcpy(bytes + 1, &at, sizeof(at));
    memcpy(bytes + 9, cursor->delivery_id.b, sizeof(cursor->delivery_id.b));
    memcpy(bytes + 25, &attempt, sizeof(attempt));
    char text[BASE64_SIZE(CURSOR_BYTES)];
    CHECK(base64url_encode(bytes, sizeof(bytes), text) == CURSOR_TEXT);
    memcpy(out, text, CURSOR_TEXT + 1);
}

bool cursor_parse(const char *text, size_t len, struct cursor *ret)
{
    unsigned char bytes[CURSOR_BYTES];
    size_t n = 0;
    if (len != CURSOR_TEXT || !base64url_decode(text, len, bytes, sizeof(bytes), &n) ||
        n != sizeof(bytes) || bytes[0] != VERSION) {
        return false;
    }
    uint64_t at;
    uint16_t attempt;
    memcpy(&at, bytes + 1, sizeof(at));
    memcpy(&attempt, bytes + 25, sizeof(attempt));
    at = be64toh(at);
    attempt = be16toh(attempt);
    if (at > (uint64_t)TIME_MAX_US || attempt < 1 || attempt > ATTEMPT_MAX) {
        return false;
    }
    ret->started_at_us = (int64_t)at;
    ret->attempt = attempt;
    memcpy(ret->delivery_id.b, bytes + 9, sizeof(ret->delivery_id.b));
    return true;
}
