/* What a credential may do. One bit each; kept as text[] in api_keys.scopes and as strings in the
 * claim `permissions` of a token. None implies another. */
#ifndef NRW_SCOPES_H
#define NRW_SCOPES_H

#include <stddef.h>

#include "err.h"

enum scope {
    SCOPE_WEBHOOKS_READ = 1,
    SCOPE_WEBHOOKS_WRITE = 2,
};

#define SCOPES_ALL  (SCOPE_WEBHOOKS_READ | SCOPE_WEBHOOKS_WRITE)
#define SCOPES_SIZE sizeof("webhooks_read,webhooks_write")

const char *scope_name(enum scope scope); /* a single bit */

/* One name, exactly. 0: not one of ours (other services of the product have their own). */
unsigned scope_parse(const char *name, size_t len);

/* "name[,name…]", in any order, at least one. An unknown or empty name is an error that quotes it:
 * who types a list means it. */
bool scopes_parse(const char *list, unsigned *ret_scopes, struct err *err) MUST_CHECK;
void scopes_format(unsigned scopes, char out[SCOPES_SIZE]); /* what scopes_parse reads; "" for 0 */

#endif
