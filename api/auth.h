/* Who asks, and may they? A request carries either a token (Authorization: Bearer, jwt.h) or an API
 * key (X-API-Key, looked up by its SHA-256). */
#ifndef NRW_AUTH_H
#define NRW_AUTH_H

#include "call.h"

/* Fills c->who and calls `then`, at once or after a query. Answers 401 (with WWW-Authenticate), 403
 * or 400 itself. A route with SCOPE_NONE is open: `then` is called without looking. */
void auth_check(struct call *c, void (*then)(struct call *c));

#endif
