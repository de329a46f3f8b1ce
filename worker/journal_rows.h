/* The rows of one batch as the parameter arrays of its statements. Private to the journal. */
#ifndef NRW_JOURNAL_ROWS_H
#define NRW_JOURNAL_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "journal.h"
#include "pg.h"

struct journal_rows;

#define JOURNAL_STMTS_MAX 4

struct journal_rows *journal_rows_new(const char *group, const char *topic);
void journal_rows_free(struct journal_rows *r);

/* Encodes entries[0..n) in place of what was there. `batch` numbers the sends: an event that
 * several entries share gets one row per send. may_exist: event and attempt rows that are there
 * already are left alone, at a third more of PostgreSQL's time (bench); otherwise they refuse the
 * batch (unique_violation). Returns the statements (borrowed until the next call) and their number,
 * 1..JOURNAL_STMTS_MAX. */
int journal_rows_build(struct journal_rows *r, struct journal_entry *const *entries, size_t n,
                       uint64_t batch, bool may_exist, const struct pg_stmt **ret_stmts);

#endif
