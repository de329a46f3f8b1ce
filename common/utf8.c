/* The one table of UTF-8. Pure; escaping (buf), PostgreSQL's texts (pgarray) and the JSON scanner
 * use it. */
#include "utf8.h"

#include <stdint.h>

struct utf8_lead {
    uint8_t lo, hi;           /* range of the first byte                                    */
    uint8_t next_lo, next_hi; /* of the second: shuts out overlong, surrogate and > U+10FFFF */
    uint8_t len;
};
static const struct utf8_lead utf8_leads[] = {
    {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
    {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
    {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
};

size_t utf8_sequence(const char *text, size_t left, bool *ret_valid)
{
    const uint8_t *s = (const uint8_t *)text;
    *ret_valid = false;
    for (size_t i = 0; i < sizeof(utf8_leads) / sizeof(*utf8_leads); i++) {
        const struct utf8_lead *lead = &utf8_leads[i];
        if (s[0] < lead->lo || s[0] > lead->hi) {
            continue;
        }
        if (left < 2 || s[1] < lead->next_lo || s[1] > lead->next_hi) {
            return 1;
        }
        size_t n = 2;
        while (n < lead->len && n < left && (s[n] & 0xc0) == 0x80) {
            n++;
        }
        *ret_valid = n == lead->len;
        return n;
    }
    return 1;
}

bool utf8_is_valid(const char *text, size_t len)
{
    bool valid = true;
    for (size_t i = 0; i < len && valid;) {
        i += (unsigned char)text[i] < 0x80 ? 1 : utf8_sequence(text + i, len - i, &valid);
    }
    return valid;
}
