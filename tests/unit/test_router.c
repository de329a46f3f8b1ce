/* The table of routes: every row is found by its own path and by no other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "router.h"
#include "scopes.h"

#define ID_1     "3f2b8c1e-5d47-4a90-9c3e-7b1a2d4e6f80"
#define ID_2     "46801c34-dc36-5817-9956-f95e95c75fcd"
#define WEBHOOKS "/api/v1/integrations/webhooks"

/* A path of this route, with ID_1 and ID_2 in it. */
static void path_of(const struct route *route, char *out, size_t size)
{
    static const char *const ids[] = {ID_1, ID_2};
    size_t n = 0;
    size_t used = 0;
    for (const char *p = route->path; *p != '\0'; p++) {
        assert_true(used + sizeof(ID_1) < size);
        if (*p == '{' && n < sizeof(ids) / sizeof(*ids)) {
            used += (size_t)snprintf(out + used, size - used, "%s", ids[n++]);
            p++;
        } else {
            out[used++] = *p;
        }
    }
    out[used] = '\0';
}

static void every_route_is_found_by_its_path(void **state)
{
    struct uuid first;
    (void)state;
    assert_true(uuid_parse(ID_1, UUID_TEXT, &first));
    for (unsigned i = 0; i < routes_n; i++) {
        char path[256];
        char allow[ROUTER_ALLOW_SIZE];
        struct uuid ids[2] = {{{0}}};
        path_of(&routes[i], path, sizeof(path));
        assert_ptr_equal(router_find(routes[i].method, path, ids, allow), &routes[i]);
        if (strstr(routes[i].path, "{}") != NULL) {
            assert_true(uuid_equal(&ids[0], &first));
        }
        strncat(path, "/", sizeof(path) - strlen(path) - 1);
        assert_ptr_equal(router_find(routes[i].method, path, ids, allow), &routes[i]);
        strncat(path, "x", sizeof(path) - strlen(path) - 1);
        assert_null(router_find(routes[i].method, path, ids, allow));
    }
}

static void reading_needs_the_scope_to_read_and_all_else_that_to_write(void **state)
{
    (void)state;
    for (unsigned i = 0; i < routes_n; i++) {
        const bool reads = routes[i].method == EVHTTP_REQ_GET;
        if (strncmp(routes[i].path, "/api/v1/", 8) == 0) {
            assert_int_equal(routes[i].scope, reads ? SCOPE_WEBHOOKS_READ : SCOPE_WEBHOOKS_WRITE);
        } else {
            assert_int_equal(routes[i].scope, ROUTE_OPEN);
            assert_true(reads);
        }
        assert_true(!reads || routes[i].body == BODY_NONE);
        for (unsigned j = 0; j < i; j++) {
            assert_string_not_equal(routes[i].name, routes[j].name);
        }
    }
}

static void other_methods_are_told_which_there_are(void **state)
{
    static const struct {
        enum evhttp_cmd_type method;
        const char *path;
        const char *allow;
    } rows[] = {
        {EVHTTP_REQ_PUT, WEBHOOKS, "POST, GET, HEAD"},
        {EVHTTP_REQ_DELETE, WEBHOOKS, "POST, GET, HEAD"},
        {EVHTTP_REQ_POST, WEBHOOKS "/" ID_1, "GET, HEAD, PATCH, DELETE"},
        {EVHTTP_REQ_GET, WEBHOOKS "/" ID_1 "/rotate-secret", "POST"},
        {EVHTTP_REQ_HEAD, WEBHOOKS "/" ID_1 "/rotate-secret", "POST"},
        {EVHTTP_REQ_POST, "/openapi.json", "GET, HEAD"},
        {EVHTTP_REQ_GET, "/nothing", ""},
        {EVHTTP_REQ_GET, "", ""},
        {EVHTTP_REQ_GET, WEBHOOKS "x", ""},
        {EVHTTP_REQ_GET, WEBHOOKS "//" ID_1, ""},
        {EVHTTP_REQ_GET, WEBHOOKS "/" ID_1 "//", ""},
        {EVHTTP_REQ_GET, WEBHOOKS "/3f2b8c1e5d474a909c3e7b1a2d4e6f80", ""},
        {EVHTTP_REQ_GET, WEBHOOKS "/{}", ""},
        {EVHTTP_REQ_GET, "/api/v1/integrations/Webhooks", ""},
        {EVHTTP_REQ_GET, WEBHOOKS "/%33f2b8c1e-5d47-4a90-9c3e-7b1a2d4e6f80", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char allow[ROUTER_ALLOW_SIZE];
        struct uuid ids[2];
        assert_null(router_find(rows[i].method, rows[i].path, ids, allow));
        assert_string_equal(allow, rows[i].allow);
    }
}

static void head_finds_what_get_finds(void **state)
{
    char allow[ROUTER_ALLOW_SIZE];
    struct uuid ids[2];
    (void)state;
    assert_ptr_equal(router_find(EVHTTP_REQ_HEAD, WEBHOOKS "/" ID_1, ids, allow),
                     router_find(EVHTTP_REQ_GET, WEBHOOKS "/" ID_1, ids, allow));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_route_is_found_by_its_path),
        cmocka_unit_test(reading_needs_the_scope_to_read_and_all_else_that_to_write),
        cmocka_unit_test(other_methods_are_told_which_there_are),
        cmocka_unit_test(head_finds_what_get_finds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
