/* The parameters of an address, strictly: each at most once, none that the route does not know, so
 * that a misspelt filter is never silently ignored. Errors collect in the call. */
#ifndef NRW_QUERY_H
#define NRW_QUERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "call.h"

/* names: NULL-terminated. Notes every unknown and repeated parameter, and values that are not
 * UTF-8. */
void query_allow(struct call *c, const char *const *names);
/* For requests that take none. False: there were some; answered with 400. */
bool query_none(struct call *c);
/* NULL when absent. Borrowed from the call. */
const char *query_text(const struct call *c, const char *name);
/* def when absent; a bad one is noted and def returned. */
int64_t query_int(struct call *c, const char *name, int64_t def, int64_t min, int64_t max);
/* One of values (NULL-terminated). NULL when absent, or noted as bad. */
const char *query_choice(struct call *c, const char *name, const char *const *values);
/* RFC 3339. False when absent, or noted as bad. */
bool query_time(struct call *c, const char *name, int64_t *ret_wall_us);
/* False: something was noted; answered with 400. */
bool query_ok(struct call *c);

/* --- page/per_page, platform.md 1 and 5 --- */

#define PAGE_DEFAULT 25
#define PAGE_MAX     100
#define PAGE_REACH   10000 /* page * per_page; a cursor goes further where there is one */

struct page {
    int64_t page, per_page, offset;
};
struct page query_page(struct call *c);
/* {"page", "per_page", "total"}, and "total_capped" when counting stopped at PAGE_REACH. */
json_t *page_meta(const struct page *p, int64_t total);

#endif
