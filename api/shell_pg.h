/* PostgreSQL for the commands of a shell: one blocking connection. The service never uses it. What
 * fails is told on stderr, with the command's name in front. */
#ifndef NRW_SHELL_PG_H
#define NRW_SHELL_PG_H

#include <libpq-fe.h>

#include "config.h"

/* Reads the settings of the API, connects, runs `command` and returns its exit code; 1 when it
 * cannot connect, 2 when the settings are wrong. name: of the command, for messages. */
int shell_pg_run(const char *name, int (*command)(PGconn *, const struct config *, void *),
                 void *ctx);

/* The result, in text or (binary) in binary form, or NULL: stderr says why. */
PGresult *shell_pg_query(PGconn *conn, const char *sql, int n, const char *const *values,
                         const int *lengths, const int *formats, bool binary);

#endif
