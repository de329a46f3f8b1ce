/* Any text as a path, and with its bytes in the places of a real path's ids: what is found has the
 * method that was asked for and ids that stand in the path; what is not says which methods are. */
#include <event2/http.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "mem.h"
#include "router.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_up(const char *path)
{
    static const enum evhttp_cmd_type methods[] = {EVHTTP_REQ_GET,    EVHTTP_REQ_HEAD,
                                                   EVHTTP_REQ_POST,   EVHTTP_REQ_PATCH,
                                                   EVHTTP_REQ_DELETE, EVHTTP_REQ_OPTIONS};
    for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
        char allow[ROUTER_ALLOW_SIZE];
        struct uuid ids[2];
        const struct route *route = router_find(methods[i], path, ids, allow);
        CHECK(strlen(allow) < sizeof(allow));
        if (route == NULL) {
            continue;
        }
        CHECK(route->method == methods[i] || methods[i] == EVHTTP_REQ_HEAD);
        const char *at = path;
        size_t n = 0;
        for (const char *p = strstr(route->path, "{}"); p != NULL; p = strstr(p + 2, "{}")) {
            struct uuid id;
            at = path + (p - route->path) + n * (UUID_TEXT - 2);
            CHECK(uuid_parse(at, UUID_TEXT, &id) && uuid_equal(&id, &ids[n]));
            n++;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *path = mem_dupn((const char *)data, size);
    const size_t room = size + 128;
    char *below = mem_alloc(room);
    look_up(path);
    (void)snprintf(below, room, "/api/v1/integrations/webhooks/%s", path);
    look_up(below);
    (void)snprintf(below, room,
                   "/api/v1/integrations/webhooks/3f2b8c1e-5d47-4a90-9c3e-7b1a2d4e6f80/%s", path);
    look_up(below);
    free(below);
    free(path);
    return 0;
}
