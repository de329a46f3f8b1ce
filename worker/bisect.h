/* Finds the bad elements of a batch [0, n) by halves. The caller sends the range that
 * bisect_current() names and reports how it went; ranges come in order, and each element is in
 * exactly one range that ended well or alone in one that ended badly. */
#ifndef NRW_BISECT_H
#define NRW_BISECT_H

#include <stdbool.h>
#include <stddef.h>

#define BISECT_DEPTH 32

struct bisect {
    struct bisect_range {
        size_t first, end;
    } todo[BISECT_DEPTH]; /* a stack: the next range is on top */
    unsigned n;
};

void bisect_begin(struct bisect *b, size_t n); /* n <= 2^30 */
bool bisect_current(const struct bisect *b, size_t *ret_first,
                    size_t *ret_end); /* false: all done */
void bisect_good(struct bisect *b);
/* The current range failed on its data. True: it is a single element, which is now given up; false:
 * it was split. */
bool bisect_bad(struct bisect *b);

#endif
