/* Parameters of statements. Each borrows what it is made of until the statement was handed over. */
#ifndef NRW_PARAM_H
#define NRW_PARAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "ids.h"
#include "pg.h"

struct pg_param param_null(void); /* its type follows from the SQL */
struct pg_param param_uuid(const struct uuid *id);
struct pg_param param_text(const char *text);    /* NULL: SQL NULL */
struct pg_param param_time(const char *rfc3339); /* NULL or "": SQL NULL */
struct pg_param param_bytes(const struct buf *bytes);
struct pg_param param_bool(bool value);

#define PARAM_INT_SIZE sizeof("-9223372036854775808")
struct pg_param param_int(int64_t value, char room[PARAM_INT_SIZE]); /* bigint */

#endif
