/* Well-formed UTF-8 (Unicode 15, table 3-7): no overlong form, no surrogate, nothing above
 * U+10FFFF. */
#ifndef NRW_UTF8_H
#define NRW_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Looks at the sequence that starts at text[0] >= 0x80; at least one byte is there. Returns how
 * many bytes it takes; *ret_valid false: they stand for one U+FFFD (a maximal subpart, as
 * Unicode 3.9 recommends). */
size_t utf8_sequence(const char *text, size_t left, bool *ret_valid);
bool utf8_is_valid(const char *text, size_t len);

#endif
