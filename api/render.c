/* Owns how a column looks in an answer. Pure. */
#include "render.h"

#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "check.h"
#include "clock.h"
#include "pgarray.h"
#include "utf8.h"

static json_t *made(json_t *value)
{
    CHECK(value != NULL);
    return value;
}

json_t *render_id(const struct uuid *id)
{
    char text[UUID_TEXT + 1];
    uuid_format(id, text);
    return made(json_string(text));
}

json_t *render_wall_time(int64_t wall_us)
{
    char text[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(wall_us, text);
    return made(json_string(text));
}

json_t *render_uuid(const PGresult *r, int row, int col)
{
    if (PQgetisnull(r, row, col)) {
        return json_null();
    }
    const struct uuid id = pgvalue_uuid(r, row, col);
    return render_id(&id);
}

json_t *render_text(const PGresult *r, int row, int col)
{
    if (PQgetisnull(r, row, col)) {
        return json_null();
    }
    return made(json_stringn(PQgetvalue(r, row, col), (size_t)PQgetlength(r, row, col)));
}

json_t *render_int(const PGresult *r, int row, int col)
{
    return PQgetisnull(r, row, col) ? json_null() : made(json_integer(pgvalue_int8(r, row, col)));
}

json_t *render_bool(const PGresult *r, int row, int col)
{
    return PQgetisnull(r, row, col) ? json_null() : json_boolean(pgvalue_bool(r, row, col));
}

json_t *render_time(const PGresult *r, int row, int col)
{
    return PQgetisnull(r, row, col) ? json_null() : render_wall_time(pgvalue_time_us(r, row, col));
}

json_t *render_bytes_as_text(const PGresult *r, int row, int col)
{
    static const char replacement[] = "\xEF\xBF\xBD";
    if (PQgetisnull(r, row, col)) {
        return json_null();
    }
    const char *in = PQgetvalue(r, row, col);
    const size_t len = (size_t)PQgetlength(r, row, col);
    struct buf out;
    buf_init(&out, len * (sizeof(replacement) - 1) + 1);
    for (size_t i = 0; i < len;) {
        bool valid = true;
        const bool ascii = (unsigned char)in[i] < 0x80;
        const size_t n = ascii ? 1 : utf8_sequence(in + i, len - i, &valid);
        if (!valid || in[i] == '\0') {
            buf_add_str(&out, replacement);
        } else {
            buf_add(&out, in + i, n);
        }
        i += n;
    }
    CHECK(buf_ok(&out));
    json_t *text = made(json_stringn(out.data != NULL ? out.data : "", out.len));
    buf_done(&out);
    return text;
}

json_t *render_texts(const PGresult *r, int row, int col)
{
    if (PQgetisnull(r, row, col)) {
        return json_null();
    }
    json_t *list = made(json_array());
    const char *p = PQgetvalue(r, row, col);
    const char *end = p + PQgetlength(r, row, col);
    while (p < end) {
        const char *blank = memchr(p, ' ', (size_t)(end - p));
        const char *stop = blank != NULL ? blank : end;
        CHECK(json_array_append_new(list, made(json_stringn(p, (size_t)(stop - p)))) == 0);
        p = stop + 1;
    }
    return list;
}

void render_add(json_t *object, const char *name, json_t *value)
{
    CHECK(json_object_set_new(object, name, value) == 0);
}
