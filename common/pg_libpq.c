/* What pg.c needs of libpq and has no state: the connection's parameters, and errors in our form.
 * Never shows a URL or a row: texts of the parser may quote a password, details of an error may
 * quote a payload. Called by pg.c, and pg_check_url() by main() at boot. */
#include "pg_libpq.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "log.h"
#include "pg.h"
#include "pg_hosts.h"

#define CONNECT_TIMEOUT_S     "5"
#define CONNECT_TIMEOUT_MAX_S 60 /* also where the URL says "for ever" */

struct err pg_fault(enum err_code code, const char *what, const char *text)
{
    struct err err = {.code = ERR_NONE};
    (void)err_set(&err, code, "PostgreSQL: %s%s%s", what, *text == '\0' ? "" : ": ", text);
    err.retriable = true;
    err.ours = true;
    return err;
}

static bool is_retriable(const char *sqlstate)
{
    /* connection, rollback, resources, locks, operator, system; 25006: a standby that was the
     * primary */
    static const char *const classes[] = {"08", "40", "53", "55", "57", "58", "25006"};
    for (size_t i = 0; i < sizeof(classes) / sizeof(*classes); i++) {
        if (strncmp(sqlstate, classes[i], strlen(classes[i])) == 0) {
            return true;
        }
    }
    return false;
}

void pg_refusal(struct err *ret, const PGresult *res, int at, bool commit)
{
    const char *sqlstate = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    const char *constraint = PQresultErrorField(res, PG_DIAG_CONSTRAINT_NAME);
    sqlstate = sqlstate == NULL ? "" : sqlstate;
    message = message == NULL ? PQresultErrorMessage(res) : message;
    *ret = (struct err){.code = ERR_NONE};
    (void)err_set(ret, ERR_DB, "PostgreSQL refused statement %d%s: %s %s%s%s", at,
                  commit ? " (at commit)" : "", sqlstate, message,
                  constraint == NULL ? "" : ", constraint ", constraint == NULL ? "" : constraint);
    size_t len = strnlen(sqlstate, sizeof(ret->sqlstate) - 1);
    memcpy(ret->sqlstate, sqlstate, len);
    ret->sqlstate[len] = '\0';
    ret->ours = true;
    ret->retriable = is_retriable(sqlstate);
}

bool pg_check_url(const char *url, struct err *err)
{
    PQconninfoOption *options = NULL;
    if (strncmp(url, "postgresql://", 13) == 0 || strncmp(url, "postgres://", 11) == 0) {
        options = PQconninfoParse(url, NULL);
    }
    if (options == NULL) {
        return err_set(err, ERR_INVALID,
                       "the database URL is not "
                       "postgresql://[user[:password]@]host[:port]/database[?option=value] "
                       "(not shown: it may hold a password)");
    }
    PQconninfoFree(options);
    return true;
}

static void on_notice(void *ctx, const char *message)
{
    const char *name = ctx;
    log_debug("pg.notice", F_STR("name", name), F_STR("text", message));
}

PGconn *pg_connect_start(const char *url, const struct pg_place *place, char *name)
{
    /* What stands before dbname is a default that the URL overrides, what stands behind it
     * overrides the URL, unless it is "". gssencmode: looking for Kerberos tickets may block. */
    const struct {
        const char *keyword;
        const char *value;
    } options[] = {
        {"application_name", name},
        {"client_encoding", "UTF8"},
        {"connect_timeout", CONNECT_TIMEOUT_S},
        {"gssencmode", "disable"},
        {"keepalives", "1"},
        {"keepalives_idle", "30"},
        {"keepalives_interval", "5"},
        {"keepalives_count", "3"},
        {"tcp_user_timeout", "10000"},
        {"dbname", url},
        {"host", place->host},
        {"hostaddr", place->hostaddr},
        {"port", place->port},
        {NULL, NULL},
    };
    enum { N = sizeof(options) / sizeof(*options) };
    const char *keywords[N];
    const char *values[N];
    for (size_t i = 0; i < N; i++) {
        keywords[i] = options[i].keyword;
        values[i] = options[i].value;
    }
    PGconn *conn = PQconnectStartParams(keywords, values, 1);
    CHECK(conn != NULL); /* no memory */
    PQsetNoticeProcessor(conn, on_notice, name);
    return conn;
}

int64_t pg_connect_timeout_ms(PGconn *conn)
{
    long seconds = 0;
    PQconninfoOption *options = PQconninfo(conn);
    for (const PQconninfoOption *o = options; o != NULL && o->keyword != NULL; o++) {
        if (strcmp(o->keyword, "connect_timeout") == 0 && o->val != NULL) {
            seconds = strtol(o->val, NULL, 10);
        }
    }
    PQconninfoFree(options);
    return (seconds <= 0 || seconds > CONNECT_TIMEOUT_MAX_S ? CONNECT_TIMEOUT_MAX_S : seconds) *
           1000;
}
