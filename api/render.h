/* Values of a binary result as JSON; SQL NULL is null. New references. */
#ifndef NRW_RENDER_H
#define NRW_RENDER_H

#include <jansson.h>
#include <libpq-fe.h>
#include <stdint.h>

#include "ids.h"

json_t *render_uuid(const PGresult *r, int row, int col);
json_t *render_text(const PGresult *r, int row, int col); /* text columns: UTF-8 by the server */
json_t *render_int(const PGresult *r, int row, int col);  /* bigint (cast in the SQL)          */
json_t *render_bool(const PGresult *r, int row, int col);
json_t *render_time(const PGresult *r, int row, int col);
/* Any bytes, as the text that they probably are: what is not UTF-8 becomes U+FFFD. */
json_t *render_bytes_as_text(const PGresult *r, int row, int col);
json_t *render_texts(const PGresult *r, int row, int col); /* text[] joined by blanks in the SQL */

json_t *render_id(const struct uuid *id);
json_t *render_wall_time(int64_t wall_us);

/* Adds and CHECKs; value is taken. */
void render_add(json_t *object, const char *name, json_t *value);

#endif
