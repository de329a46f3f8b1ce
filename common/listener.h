/* A listening TCP socket on the address of a setting. */
#ifndef NRW_LISTENER_H
#define NRW_LISTENER_H

#include <event2/event.h>
#include <event2/listener.h>

#include "err.h"

/* listen: "address:port" or "[address]:port", of IPv4 or IPv6, no names; port 0 takes a free one.
 * Has no callback yet: evhttp sets its own. NULL: ERR_INVALID, or ERR_IO when it cannot be bound;
 * err names the address. */
struct evconnlistener *listener_new(struct event_base *base, const char *listen,
                                    struct err *err) MUST_CHECK;
unsigned listener_port(struct evconnlistener *listener); /* the one that was bound */

#endif
