/* What the tests of worker/ add to pg_server.h: the tables of schema/, short names, and
 * expectations in SQL. */
#ifndef NRW_TEST_PG_FIXTURE_H
#define NRW_TEST_PG_FIXTURE_H

#include "pg_server.h"

#include <string.h>

/* As cmocka's group setup. */
static inline int start_server_with_schema(void **state)
{
    static const char apply[] = NRW_SOURCE_DIR "/schema/apply";
    if (pg_server_start(state) != 0 || pg_server.postmaster == 0) {
        return pg_server.postmaster == 0 ? 0 : -1;
    }
    char url[160];
    int status = 0;
    pg_server_url(url, sizeof(url), "postgres");
    const pid_t pid = fork();
    if (pid == 0) { /* as ourselves: the server's user need not be able to read the sources */
        (void)freopen("/dev/null", "w", stdout);
        execl(apply, apply, "--database-url", url, (char *)NULL);
        _exit(127);
    }
    assert_true(pid != -1 && waitpid(pid, &status, 0) == pid);
    assert_int_equal(0, status);
    (void)pg_server_sql("SET client_min_messages = warning");
    return 0;
}

/* The first value as a number; 0 when there is none. */
static inline long sql(const char *text)
{
    return pg_server_sql(text);
}

/* The only value must be this text. */
static inline void sql_is(const char *expected, const char *text)
{
    PGresult *res = PQexec(pg_server.admin, text);
    const char *got = PQntuples(res) == 1 ? PQgetvalue(res, 0, 0) : PQerrorMessage(pg_server.admin);
    if (PQntuples(res) != 1 || strcmp(expected, got) != 0) {
        fail_msg("%s\n  gives %d rows: %s\n  not: %s", text, PQntuples(res), got, expected);
    }
    PQclear(res);
}

/* A lock on the table, held beside what sql() does. PQfinish() lets it go. */
static inline PGconn *pg_lock(const char *table)
{
    char url[160];
    char text[80];
    pg_server_url(url, sizeof(url), "postgres");
    pg_server_format(text, sizeof(text), "BEGIN; LOCK %s", table);
    PGconn *holder = PQconnectdb(url);
    PGresult *res = PQexec(holder, text);
    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        fail_msg("%s: %s", text, PQerrorMessage(holder));
    }
    PQclear(res);
    return holder;
}

/* How many wait for a lock. */
static inline long pg_lock_waiters(void)
{
    return sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'");
}

#endif
