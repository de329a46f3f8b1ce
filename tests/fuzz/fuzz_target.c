/* Any address that the frame lets pass: the router finds at most one route for it and names what is
 * allowed, and its parameters are read or noted, in an answer that is JSON whatever they hold. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/call_fixture.h"
#include "buf.h"
#include "http_frame.h"
#include "query.h"
#include "router.h"
#include "screen.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool passes(const char *target, size_t len)
{
    static const char before[] = "GET ";
    static const char after[] = " HTTP/1.0\r\n\r\n";
    struct frame f;
    frame_begin(&f);
    (void)frame_feed(&f, &screen_limits, before, sizeof(before) - 1);
    if (len > 0 && frame_feed(&f, &screen_limits, target, len) != len) {
        return false;
    }
    return frame_feed(&f, &screen_limits, after, sizeof(after) - 1) == sizeof(after) - 1 && f.done;
}

static void find_routes(const char *path)
{
    static const enum evhttp_cmd_type methods[] = {EVHTTP_REQ_GET,    EVHTTP_REQ_HEAD,
                                                   EVHTTP_REQ_POST,   EVHTTP_REQ_PATCH,
                                                   EVHTTP_REQ_DELETE, EVHTTP_REQ_OPTIONS};
    char allow[ROUTER_ALLOW_SIZE];
    struct uuid ids[CALL_IDS_MAX];
    unsigned found = 0;
    for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
        const struct route *route = router_find(methods[i], path, ids, allow);
        found += route != NULL ? 1 : 0;
        CHECK(route == NULL || (route >= routes && route < routes + routes_n));
    }
    CHECK(router_find(EVHTTP_REQ_OPTIONS, path, ids, allow) == NULL);
    CHECK((found == 0) == (allow[0] == '\0')); /* either a method works, or there is no such path */
}

static void read_query(const char *query)
{
    static const char *const names[] = {"page", "per_page", "a", "b", "c", NULL};
    static const char *const choices[] = {"one", "two", NULL};
    struct caught caught = {0};
    struct call *c = fixture_call(NULL, EVHTTP_REQ_GET, "", 0, query, &caught);
    query_allow(c, names);
    const struct page page = query_page(c);
    const int64_t number = query_int(c, "a", 7, -1, 99);
    const char *choice = query_choice(c, "b", choices);
    int64_t when = 0;
    (void)query_time(c, "c", &when);
    CHECK(number >= -1 && number <= 99);
    CHECK(choice == NULL || strcmp(choice, "one") == 0 || strcmp(choice, "two") == 0);
    CHECK(page.page >= 1 && page.per_page >= 1 && page.offset >= 0);
    if (query_ok(c)) {
        CHECK(page.page * page.per_page <= PAGE_REACH);
        call_reply(c, 200, NULL);
    }
    CHECK(caught.answers == 1 && (caught.status == 200 || caught.status == 400));
    caught_done(&caught);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    if (!passes(text, size)) {
        return 0;
    }
    char *target = mem_dupn(text, size);
    char *question = strchr(target, '?');
    if (question != NULL) {
        *question = '\0';
        read_query(question + 1);
    }
    find_routes(target);
    free(target);
    return 0;
}
