/* Encodes parameter arrays and decodes scalars in PostgreSQL's binary format
 * (src/backend/utils/adt/arrayfuncs.c, array_recv). Pure memory; the journal, subscriptions and the
 * suspect look-up use it. */
#include "pgarray.h"

#include <endian.h>
#include <string.h>

#include "check.h"
#include "utf8.h"

/* PostgreSQL counts from 2000-01-01. */
#define EPOCH_2000_US INT64_C(946684800000000)

static const struct {
    Oid array;
    Oid element;
} oids[] = {
    [PGARRAY_UUID] = {2951, 2950}, [PGARRAY_TEXT] = {1009, 25}, [PGARRAY_BYTEA] = {1001, 17},
    [PGARRAY_INT2] = {1005, 21},   [PGARRAY_INT4] = {1007, 23}, [PGARRAY_INT8] = {1016, 20},
    [PGARRAY_TIME] = {1185, 1184},
};

#define HEADER_BYTES 20 /* dimensions, flags, element type, length, lower bound */

void pgarray_init(struct pgarray *a, enum pgarray_type type, size_t max_bytes)
{
    *a = (struct pgarray){.type = type};
    buf_init(&a->buf, max_bytes);
    pgarray_reset(a);
}

void pgarray_done(struct pgarray *a)
{
    buf_done(&a->buf);
}

void pgarray_reset(struct pgarray *a)
{
    buf_reset(&a->buf);
    a->n = 0;
    a->has_null = false;
    static const char header[HEADER_BYTES];
    buf_add(&a->buf, header, HEADER_BYTES); /* filled by pgarray_param */
}

void pgarray_add_null(struct pgarray *a)
{
    buf_add_be32(&a->buf, UINT32_MAX);
    a->has_null = true;
    a->n++;
}

void pgarray_add_uuid(struct pgarray *a, const struct uuid *id)
{
    CHECK(a->type == PGARRAY_UUID);
    buf_add_be32(&a->buf, sizeof(id->b));
    buf_add(&a->buf, id->b, sizeof(id->b));
    a->n++;
}

void pgarray_add_int(struct pgarray *a, int64_t v)
{
    if (a->type == PGARRAY_INT2) {
        CHECK(v >= INT16_MIN && v <= INT16_MAX);
        buf_add_be32(&a->buf, 2);
        buf_add_be16(&a->buf, (uint16_t)v);
    } else if (a->type == PGARRAY_INT4) {
        CHECK(v >= INT32_MIN && v <= INT32_MAX);
        buf_add_be32(&a->buf, 4);
        buf_add_be32(&a->buf, (uint32_t)v);
    } else {
        CHECK(a->type == PGARRAY_INT8);
        buf_add_be32(&a->buf, 8);
        buf_add_be64(&a->buf, (uint64_t)v);
    }
    a->n++;
}

void pgarray_add_time(struct pgarray *a, int64_t wall_us)
{
    CHECK(a->type == PGARRAY_TIME);
    buf_add_be32(&a->buf, 8);
    buf_add_be64(&a->buf, (uint64_t)(wall_us - EPOCH_2000_US));
    a->n++;
}

void pgarray_add_bytes(struct pgarray *a, const void *data, size_t len)
{
    CHECK(a->type == PGARRAY_TEXT || a->type == PGARRAY_BYTEA);
    CHECK(len <= INT32_MAX);
    buf_add_be32(&a->buf, (uint32_t)len);
    buf_add(&a->buf, data, len);
    a->n++;
}

struct pg_param pgarray_param(struct pgarray *a)
{
    CHECK(buf_ok(&a->buf));
    const uint32_t header[HEADER_BYTES / 4] = {
        htobe32(1), htobe32(a->has_null ? 1 : 0), htobe32(oids[a->type].element), htobe32(a->n),
        htobe32(1),
    };
    memcpy(a->buf.data, header, sizeof(header));
    return (struct pg_param){
        .type = oids[a->type].array, .data = a->buf.data, .len = (int)a->buf.len, .binary = true};
}

static const char *fixed(const PGresult *r, int row, int col, int len)
{
    CHECK(!PQgetisnull(r, row, col) && PQgetlength(r, row, col) == len);
    return PQgetvalue(r, row, col);
}

struct uuid pgvalue_uuid(const PGresult *r, int row, int col)
{
    struct uuid id;
    memcpy(id.b, fixed(r, row, col, sizeof(id.b)), sizeof(id.b));
    return id;
}

int64_t pgvalue_int8(const PGresult *r, int row, int col)
{
    uint64_t v;
    memcpy(&v, fixed(r, row, col, sizeof(v)), sizeof(v));
    return (int64_t)be64toh(v);
}

int64_t pgvalue_time_us(const PGresult *r, int row, int col)
{
    return pgvalue_int8(r, row, col) + EPOCH_2000_US;
}

bool pgvalue_bool(const PGresult *r, int row, int col)
{
    return *fixed(r, row, col, 1) != 0;
}

/* Length of the well-formed character at s, 0 when it is none. */
static size_t utf8_len(const char *s, size_t left)
{
    bool valid = true;
    const size_t n = (unsigned char)*s < 0x80 ? 1 : utf8_sequence(s, left, &valid);
    return valid ? n : 0;
}

size_t pgarray_clean_text(const char *in, size_t len, char *out, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        const size_t width = utf8_len(in + i, len - i);
        const char *piece = in + i;
        size_t piece_len = width;
        if (width == 0) {
            piece = "\xef\xbf\xbd";
            piece_len = 3;
        } else if (width == 1 && ((unsigned char)*piece < 0x20 || *piece == 0x7f)) {
            piece = " ";
        }
        if (n + piece_len >= size) {
            break;
        }
        memcpy(out + n, piece, piece_len);
        n += piece_len;
        i += width == 0 ? 1 : width;
    }
    out[n] = '\0';
    return n;
}
