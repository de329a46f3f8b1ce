/* Parameters of a statement that are one value. What they point to is borrowed for the call. */
#ifndef NRW_PARAMS_H
#define NRW_PARAMS_H

#include "ids.h"
#include "pg.h"

#define OID_UUID 2950

static inline struct pg_param param_uuid(const struct uuid *id)
{
    return (struct pg_param){.type = OID_UUID, .data = id->b, .len = sizeof(id->b), .binary = true};
}

/* NULL is SQL's; the statement casts it to its type. */
static inline struct pg_param param_text(const char *text)
{
    return (struct pg_param){.data = text};
}

#endif
