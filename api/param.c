/* Owns the types and forms of parameters. Pure; every handler builds its statements with it. */
#include "param.h"

#include <stdio.h>

#include "check.h"

#define OID_BOOL  16
#define OID_BYTEA 17
#define OID_INT8  20
#define OID_TEXT  25
#define OID_UUID  2950
#define OID_TIME  1184 /* timestamptz */

struct pg_param param_null(void)
{
    return (struct pg_param){0};
}

struct pg_param param_uuid(const struct uuid *id)
{
    return (struct pg_param){.type = OID_UUID, .data = id->b, .len = sizeof(id->b), .binary = true};
}

struct pg_param param_text(const char *text)
{
    return (struct pg_param){.type = OID_TEXT, .data = text};
}

/* Of its own type: a cast of a text would be evaluated too late to choose partitions by it. */
struct pg_param param_time(const char *rfc3339)
{
    const bool is_null = rfc3339 == NULL || *rfc3339 == '\0';
    return (struct pg_param){.type = OID_TIME, .data = is_null ? NULL : rfc3339};
}

struct pg_param param_bytes(const struct buf *bytes)
{
    CHECK(buf_ok(bytes) && bytes->data != NULL);
    return (struct pg_param){
        .type = OID_BYTEA, .data = bytes->data, .len = (int)bytes->len, .binary = true};
}

struct pg_param param_bool(bool value)
{
    return (struct pg_param){.type = OID_BOOL, .data = value ? "t" : "f"};
}

struct pg_param param_int(int64_t value, char room[PARAM_INT_SIZE])
{
    (void)snprintf(room, PARAM_INT_SIZE, "%lld", (long long)value);
    return (struct pg_param){.type = OID_INT8, .data = room};
}
