/* Any bytes as a cursor: what is taken is written back as the same text, and no other text is. The
 * input is judged as it is, and its first bytes as what a cursor is made of. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base64.h"
#include "check.h"
#include "cursor.h"
#include "mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge(const char *text, size_t len)
{
    char *exact = mem_dupn(text, len);
    struct cursor cursor;
    if (cursor_parse(exact, len, &cursor)) {
        char again[CURSOR_TEXT + 1];
        CHECK(cursor.started_at_us >= 0 && cursor.attempt >= 1 && cursor.attempt <= 32767);
        cursor_format(&cursor, again);
        CHECK(len == CURSOR_TEXT && memcmp(again, text, len) == 0);
    }
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char bytes[CURSOR_BYTES] = {1};
    char text[BASE64_SIZE(CURSOR_BYTES)];
    judge((const char *)data, size);
    memcpy(bytes + 1, data, size < CURSOR_BYTES - 1 ? size : CURSOR_BYTES - 1);
    judge(text, base64url_encode(bytes, sizeof(bytes), text));
    return 0;
}
