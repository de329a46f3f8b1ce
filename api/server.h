/* The public port: every request is screened, routed, its credentials checked, and handed to its
 * handler. One log line and one count per request. */
#ifndef NRW_SERVER_H
#define NRW_SERVER_H

#include <stdbool.h>

#include "api.h"
#include "err.h"

struct server;

struct server *server_new(const struct api *api, struct err *err) MUST_CHECK;
unsigned server_port(const struct server *s);
unsigned server_calls(const struct server *s); /* requests without an answer */
void server_drain(struct server *s);           /* takes no new connection */
bool server_is_idle(const struct server *s);   /* no request, and no answer on its way out */
void server_free(struct server *s);            /* no call may be open */

#endif
