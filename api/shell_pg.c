/* Owns the one connection of a command. keys.c and secrets.c call it. */
#include "shell_pg.h"

#include <stdio.h>
#include <string.h>

#include "pg.h"
#include "shell.h"

/* A process has one command: its name stands in front of what is told. */
static const char *command_name = "";

PGresult *shell_pg_query(PGconn *conn, const char *sql, int n, const char *const *values,
                         const int *lengths, const int *formats, bool binary)
{
    PGresult *res = PQexecParams(conn, sql, n, NULL, values, lengths, formats, binary);
    const ExecStatusType status = PQresultStatus(res);
    if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK) {
        return res;
    }
    const char *message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    (void)fprintf(stderr, "%s: PostgreSQL: %s\n", command_name,
                  message != NULL ? message : PQerrorMessage(conn));
    PQclear(res);
    return NULL;
}

/* NULL, and stderr says why. */
static PGconn *connect_to(const char *url)
{
    static const char *const keywords[] = {"application_name", "client_encoding", "connect_timeout",
                                           "dbname", NULL};
    const char *const values[] = {"netrecon-webhooks-api", "UTF8", "10", url, NULL};
    PGconn *conn = PQconnectdbParams(keywords, values, 1);
    if (PQstatus(conn) == CONNECTION_OK) {
        PGresult *res =
            shell_pg_query(conn, "set statement_timeout = '30s'", 0, NULL, NULL, NULL, false);
        PQclear(res);
        if (res != NULL) {
            return conn;
        }
    } else {
        (void)fprintf(stderr, "%s: PostgreSQL: %s", command_name, PQerrorMessage(conn));
    }
    PQfinish(conn);
    return NULL;
}

static int run(const struct config *cfg, int (*command)(PGconn *, const struct config *, void *),
               void *ctx)
{
    struct err err = {0};
    if (!pg_check_url(cfg->database_url, &err)) {
        (void)fprintf(stderr, "NRW_DATABASE_URL: %s\n", err.text);
        return 2;
    }
    PGconn *conn = connect_to(cfg->database_url);
    const int code = conn == NULL ? 1 : command(conn, cfg, ctx);
    PQfinish(conn);
    return code;
}

int shell_pg_run(const char *name, int (*command)(PGconn *, const struct config *, void *),
                 void *ctx)
{
    struct config cfg;
    command_name = name;
    const int code = shell_config(&cfg, CONFIG_API) ? run(&cfg, command, ctx) : 2;
    config_free(&cfg);
    return code;
}
