/* Any bytes as JSON: what json_scan accepts, jansson accepts, with as many members. */
#include <jansson.h>
#include <stdint.h>

#include "check.h"
#include "json_scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct json_member members[JSON_SCAN_MEMBERS];
    size_t n = 0;
    if (json_scan((const char *)data, len, members, &n)) {
        json_error_t why;
        json_t *root =
            json_loadb((const char *)data, len,
                       JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &why);
        CHECK(root != NULL && json_is_object(root) && json_object_size(root) == n);
        for (size_t i = 0; i < n; i++) {
            const json_t *v = json_object_getn(root, members[i].name, members[i].name_len);
            CHECK(v != NULL && json_is_object(v) == (members[i].kind == JSON_SCAN_OBJECT));
            CHECK(members[i].kind != JSON_SCAN_STRING ||
                  json_string_length(v) == members[i].value_len);
        }
        json_decref(root);
    }
    return 0;
}
