/* Pure bookkeeping of ranges; the journal sends them. */
#include "bisect.h"

#include "check.h"

void bisect_begin(struct bisect *b, size_t n)
{
    CHECK(n <= (size_t)1 << 30);
    b->n = 0;
    if (n > 0) {
        b->todo[b->n++] = (struct bisect_range){0, n};
    }
}

bool bisect_current(const struct bisect *b, size_t *ret_first, size_t *ret_end)
{
    if (b->n == 0) {
        return false;
    }
    *ret_first = b->todo[b->n - 1].first;
    *ret_end = b->todo[b->n - 1].end;
    return true;
}

void bisect_good(struct bisect *b)
{
    CHECK(b->n > 0);
    b->n--;
}

bool bisect_bad(struct bisect *b)
{
    CHECK(b->n > 0);
    const struct bisect_range r = b->todo[--b->n];
    if (r.end - r.first == 1) {
        return true;
    }
    const size_t middle = r.first + (r.end - r.first) / 2;
    CHECK(b->n + 2 <= BISECT_DEPTH);
    b->todo[b->n++] = (struct bisect_range){middle, r.end};
    b->todo[b->n++] = (struct bisect_range){r.first, middle};
    return false;
}
