/* Which handler answers: one table of method, path, scope and function (routes in router.c). */
#ifndef NRW_ROUTER_H
#define NRW_ROUTER_H

#include <event2/http.h>
#include <stdbool.h>

#include "ids.h"

struct call;

/* What a route does with a request's body. */
enum route_body { BODY_NONE, BODY_OPTIONAL, BODY_REQUIRED };

#define ROUTE_OPEN 0u

struct route {
    const char *name; /* operationId of openapi.yaml; in logs and metrics */
    enum evhttp_cmd_type method;
    const char *path; /* "{}" stands for a UUID */
    unsigned scope;   /* scopes.h; ROUTE_OPEN: for everybody */
    enum route_body body;
    void (*handle)(struct call *c);
};

extern const struct route routes[];
extern const unsigned routes_n;

#define ROUTER_ALLOW_SIZE 64

/* path: as it came, without the query. HEAD finds the route of GET. Fills ids with the path's
 * UUIDs. NULL: there is no such path (ret_allow ""), or not with this method (ret_allow: the
 * methods for the header Allow). */
const struct route *router_find(enum evhttp_cmd_type method, const char *path, struct uuid *ids,
                                char ret_allow[ROUTER_ALLOW_SIZE]);

#endif
