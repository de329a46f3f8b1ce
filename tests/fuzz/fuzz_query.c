/* Any text as a query, taken apart as server.c does. What passes is within its bounds; what does
 * not is one answer, 400, that names a parameter. */
#include <stdint.h>
#include <stdlib.h>

#include "../unit/call_fixture.h"
#include "query.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"page", "per_page", "event", "since", "n", NULL};
    static const char *const choices[] = {"alert.created", "scan.failed", NULL};
    struct caught caught = {0};
    int64_t when = 0;
    char *query = mem_dupn((const char *)data, size);
    struct call *c = fixture_call(NULL, EVHTTP_REQ_GET, "", 0, query, &caught);
    query_allow(c, names);
    const struct page page = query_page(c);
    const int64_t n = query_int(c, "n", 5, -9, 9);
    const char *choice = query_choice(c, "event", choices);
    (void)query_time(c, "since", &when);
    CHECK(n >= -9 && n <= 9 && page.per_page >= 1 && page.per_page <= PAGE_MAX);
    CHECK(choice == NULL || strcmp(choice, choices[0]) == 0 || strcmp(choice, choices[1]) == 0);
    if (query_ok(c)) {
        CHECK(page.page >= 1 && page.page * page.per_page <= PAGE_REACH);
        CHECK(page.offset == (page.page - 1) * page.per_page);
        call_reply(c, 204, NULL);
    } else {
        CHECK(caught.status == 400);
        CHECK(json_array_size(json_object_get(caught.body, "errors")) > 0);
    }
    CHECK(caught.answers == 1);
    caught_done(&caught);
    free(query);
    return 0;
}
