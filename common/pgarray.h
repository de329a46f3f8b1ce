/* One-dimensional PostgreSQL arrays in binary form, as parameters of `… FROM unnest($1, $2, …)`,
 * and the readers for binary results. */
#ifndef NRW_PGARRAY_H
#define NRW_PGARRAY_H

#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "ids.h"
#include "pg.h"

enum pgarray_type {
    PGARRAY_UUID,
    PGARRAY_TEXT,
    PGARRAY_BYTEA,
    PGARRAY_INT2,
    PGARRAY_INT4,
    PGARRAY_INT8,
    PGARRAY_TIME
};

struct pgarray {
    enum pgarray_type type;
    struct buf buf;
    uint32_t n;
    bool has_null;
};

void pgarray_init(struct pgarray *a, enum pgarray_type type, size_t max_bytes);
void pgarray_done(struct pgarray *a);
void pgarray_reset(struct pgarray *a); /* no elements, memory kept */
void pgarray_add_null(struct pgarray *a);
void pgarray_add_uuid(struct pgarray *a, const struct uuid *id);
void pgarray_add_int(struct pgarray *a, int64_t v); /* INT2, INT4, INT8; CHECKs the range   */
void pgarray_add_time(struct pgarray *a, int64_t wall_us); /* microseconds since 1970 */
void pgarray_add_bytes(struct pgarray *a, const void *data,
                       size_t len); /* TEXT (valid UTF-8, no NUL) and BYTEA */
/* The finished array; valid until the next change. CHECKs that nothing overflowed. */
struct pg_param pgarray_param(struct pgarray *a);

/* Scalars of binary results; CHECK the length, because the SQL is ours. */
struct uuid pgvalue_uuid(const PGresult *r, int row, int col);
int64_t pgvalue_int8(const PGresult *r, int row, int col);
int64_t pgvalue_time_us(const PGresult *r, int row, int col);
bool pgvalue_bool(const PGresult *r, int row, int col);

/* Text for a text column: invalid UTF-8 becomes U+FFFD, NUL and other controls become blanks; at
 * most size-1 bytes, whole characters, NUL-terminated. Returns the length. */
size_t pgarray_clean_text(const char *in, size_t len, char *out, size_t size);

#endif
