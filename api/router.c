/* Owns the table of routes. Knows no handler but by name; server.c asks for every request. */
#include "router.h"

#include <stdio.h>
#include <string.h>

#include "check.h"
#include "deliveries.h"
#include "delivery_detail.h"
#include "redeliver.h"
#include "reference.h"
#include "replays.h"
#include "scopes.h"
#include "stats.h"
#include "test_send.h"
#include "webhooks.h"

#define WEBHOOKS "/api/v1/integrations/webhooks"
#define READ     SCOPE_WEBHOOKS_READ
#define WRITE    SCOPE_WEBHOOKS_WRITE
#define GET      EVHTTP_REQ_GET
#define POST     EVHTTP_REQ_POST
#define PATCH    EVHTTP_REQ_PATCH
#define DELETE   EVHTTP_REQ_DELETE

/* clang-format off */
const struct route routes[] = {
    {"createWebhook",       POST,   WEBHOOKS,                                WRITE,      BODY_REQUIRED, webhooks_create},
    {"listWebhooks",        GET,    WEBHOOKS,                                READ,       BODY_NONE,     webhooks_list},
    {"getWebhook",          GET,    WEBHOOKS "/{}",                          READ,       BODY_NONE,     webhooks_get},
    {"updateWebhook",       PATCH,  WEBHOOKS "/{}",                          WRITE,      BODY_REQUIRED, webhooks_update},
    {"deleteWebhook",       DELETE, WEBHOOKS "/{}",                          WRITE,      BODY_NONE,     webhooks_delete},
    {"rotateWebhookSecret", POST,   WEBHOOKS "/{}/rotate-secret",            WRITE,      BODY_OPTIONAL, webhooks_rotate_secret},
    {"testWebhook",         POST,   WEBHOOKS "/{}/test",                     WRITE,      BODY_OPTIONAL, test_send},
    {"listDeliveries",      GET,    WEBHOOKS "/{}/deliveries",               READ,       BODY_NONE,     deliveries_list},
    {"getDelivery",         GET,    WEBHOOKS "/{}/deliveries/{}",            READ,       BODY_NONE,     deliveries_get},
    {"redeliver",           POST,   WEBHOOKS "/{}/deliveries/{}/redeliver",  WRITE,      BODY_NONE,     redeliver},
    {"createReplay",        POST,   WEBHOOKS "/{}/replay",                   WRITE,      BODY_REQUIRED, replays_create},
    {"listReplays",         GET,    WEBHOOKS "/{}/replays",                  READ,       BODY_NONE,     replays_list},
    {"getReplay",           GET,    WEBHOOKS "/{}/replays/{}",               READ,       BODY_NONE,     replays_get},
    {"cancelReplay",        DELETE, WEBHOOKS "/{}/replays/{}",               WRITE,      BODY_NONE,     replays_cancel},
    {"getStats",            GET,    WEBHOOKS "/{}/stats",                    READ,       BODY_NONE,     stats_get},
    {"listEventTypes",      GET,    "/api/v1/integrations/event-types",      READ,       BODY_NONE,     reference_event_types},
    {"getOpenapi",          GET,    "/openapi.json",                         ROUTE_OPEN, BODY_NONE,     reference_openapi},
    {"getHealth",           GET,    "/health",                               ROUTE_OPEN, BODY_NONE,     reference_health},
    {"getApiHealth",        GET,    "/api/health",                           ROUTE_OPEN, BODY_NONE,     reference_health},
    {"getReady",            GET,    "/ready",                                ROUTE_OPEN, BODY_NONE,     reference_ready},
};
/* clang-format on */
const unsigned routes_n = sizeof(routes) / sizeof(*routes);

/* One trailing slash is the same path: it is easily written and means nothing else. */
static bool matches(const char *pattern, const char *path, struct uuid ids[2])
{
    unsigned n = 0;
    while (*pattern != '\0') {
        if (pattern[0] == '{') {
            const size_t len = strcspn(path, "/");
            CHECK(n < 2);
            if (!uuid_parse(path, len, &ids[n++])) {
                return false;
            }
            pattern += 2;
            path += len;
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *path == '\0' || strcmp(path, "/") == 0;
}

static const char *method_name(enum evhttp_cmd_type method)
{
    switch ((int)method) {
    case GET:
        return "GET, HEAD";
    case POST:
        return "POST";
    case PATCH:
        return "PATCH";
    default:
        return "DELETE";
    }
}

const struct route *router_find(enum evhttp_cmd_type method, const char *path, struct uuid *ids,
                                char ret_allow[ROUTER_ALLOW_SIZE])
{
    const enum evhttp_cmd_type wanted = method == EVHTTP_REQ_HEAD ? GET : method;
    size_t used = 0;
    ret_allow[0] = '\0';
    for (unsigned i = 0; i < routes_n; i++) {
        struct uuid found[2];
        if (!matches(routes[i].path, path, found)) {
            continue;
        }
        if (routes[i].method == wanted) {
            memcpy(ids, found, sizeof(found));
            return &routes[i];
        }
        const int n = snprintf(ret_allow + used, ROUTER_ALLOW_SIZE - used, "%s%s",
                               used > 0 ? ", " : "", method_name(routes[i].method));
        CHECK(n > 0 && used + (size_t)n < ROUTER_ALLOW_SIZE);
        used += (size_t)n;
    }
    return NULL;
}
