/* A private PostgreSQL for one test program: initdb into a folder of its own, unix socket only, no
 * fsync; gone with the program (PR_SET_PDEATHSIG) and its folder with pg_server_stop(). Where
 * initdb is not installed, the tests that call pg_server_needed() are skipped, and it is said.
 * Usable as cmocka's group setup and teardown. */
#ifndef NRW_TEST_PG_SERVER_H
#define NRW_TEST_PG_SERVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <grp.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "err.h"
#include "mem.h"

#define PG_SERVER_PATIENCE_US (30 * INT64_C(1000000))
#define PG_SERVER_SOCKET      ".s.PGSQL.5432"
#define PG_SERVER_MAYBE       __attribute__((unused))

PG_SERVER_MAYBE static struct {
    char dir[64];
    char bin[256];
    pid_t postmaster;
    PGconn *admin; /* blocking: the hand that breaks things */
} pg_server;

/* snprintf that must fit. */
PG_SERVER_MAYBE static void pg_server_format(char *out, size_t size, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
static void pg_server_format(char *out, size_t size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(out, size, fmt, args);
    va_end(args);
    assert_true(n >= 0 && (size_t)n < size);
}

PG_SERVER_MAYBE static pid_t pg_server_spawn(const char *const argv[])
{
    const struct passwd *user = geteuid() == 0 ? getpwnam("postgres") : NULL;
    pid_t pid = fork();
    assert_true(pid != -1);
    if (pid > 0) {
        return pid;
    }
    int log = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if ((user != NULL &&
         (setgroups(0, NULL) != 0 || setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0)) ||
        chdir(pg_server.dir) != 0 || dup2(log, STDOUT_FILENO) == -1 ||
        dup2(log, STDERR_FILENO) == -1) {
        _exit(126);
    }
    prctl(PR_SET_PDEATHSIG, SIGQUIT); /* after setuid, which clears it */
    char *copy[32] = {NULL};
    for (int i = 0; argv[i] != NULL && i < 31; i++) {
        copy[i] = mem_dup(argv[i]);
    }
    execv(copy[0], copy);
    _exit(127);
}

PG_SERVER_MAYBE static void pg_server_pause_ms(long ms)
{
    const struct timespec ts = {.tv_nsec = ms * 1000000};
    nanosleep(&ts, NULL);
}

PG_SERVER_MAYBE static void pg_server_connect_admin(void)
{
    char url[128];
    pg_server_format(url, sizeof(url), "host=%s user=postgres dbname=postgres", pg_server.dir);
    for (int64_t end = clock_mono_us() + PG_SERVER_PATIENCE_US;; pg_server_pause_ms(10)) {
        PQfinish(pg_server.admin);
        pg_server.admin = PQconnectdb(url);
        if (PQstatus(pg_server.admin) == CONNECTION_OK) {
            return;
        }
        if (clock_mono_us() > end) {
            fail_msg("PostgreSQL does not start: %s", PQerrorMessage(pg_server.admin));
        }
    }
}

PG_SERVER_MAYBE static long pg_server_sql(const char *text)
{
    PGresult *res = PQexec(pg_server.admin, text);
    ExecStatusType status = PQresultStatus(res);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        fail_msg("%s: %s", text, PQerrorMessage(pg_server.admin));
    }
    long value = PQntuples(res) > 0 ? strtol(PQgetvalue(res, 0, 0), NULL, 10) : 0;
    PQclear(res);
    return value;
}

PG_SERVER_MAYBE static bool pg_server_find(void)
{
    glob_t found;
    bool ok = glob("/usr/lib/postgresql/*/bin/initdb", 0, NULL, &found) == 0;
    if (ok) {
        const char *path = found.gl_pathv[found.gl_pathc - 1];
        pg_server_format(pg_server.bin, sizeof(pg_server.bin), "%.*s",
                         (int)(strrchr(path, '/') - path), path);
    } else {
        print_message(
            "[  NOTE  ] no /usr/lib/postgresql/*/bin/initdb: tests with a server are skipped\n");
    }
    globfree(&found);
    return ok;
}

/* Runs the server over the folder that is there; also again, after pg_server_kill(). */
PG_SERVER_MAYBE static void pg_server_launch(void)
{
    char data[128];
    char postgres[300];
    char sockets[160];
    pg_server_format(data, sizeof(data), "%s/data", pg_server.dir);
    pg_server_format(postgres, sizeof(postgres), "%s/postgres", pg_server.bin);
    pg_server_format(sockets, sizeof(sockets), "unix_socket_directories=%s", pg_server.dir);
    pg_server.postmaster = pg_server_spawn((const char *const[]){
        postgres, "-D", data, "-c", "listen_addresses=", "-c", sockets, "-c", "fsync=off", "-c",
        "max_connections=20", "-c", "shared_buffers=16MB", NULL});
    pg_server_connect_admin();
}

/* As a crash would. */
PG_SERVER_MAYBE static void pg_server_kill(void)
{
    kill(pg_server.postmaster, SIGQUIT);
    waitpid(pg_server.postmaster, NULL, 0);
}

PG_SERVER_MAYBE static int pg_server_start(void **state)
{
    (void)state;
    if (!pg_server_find()) {
        return 0;
    }
    strncpy(pg_server.dir, "/tmp/nrw-test-pg-XXXXXX", sizeof(pg_server.dir) - 1);
    assert_non_null(mkdtemp(pg_server.dir));
    if (geteuid() == 0) {
        const struct passwd *user = getpwnam("postgres");
        assert_non_null(user);
        assert_int_equal(0, chown(pg_server.dir, user->pw_uid, user->pw_gid));
    }
    char data[128];
    char initdb[300];
    int status;
    pg_server_format(data, sizeof(data), "%s/data", pg_server.dir);
    pg_server_format(initdb, sizeof(initdb), "%s/initdb", pg_server.bin);
    pid_t pid =
        pg_server_spawn((const char *const[]){initdb, "-D", data, "-U", "postgres", "-A", "trust",
                                              "-N", "-E", "UTF8", "--no-locale", NULL});
    assert_int_equal(pid, waitpid(pid, &status, 0));
    assert_int_equal(0, status);
    pg_server_launch();
    return 0;
}

PG_SERVER_MAYBE static int pg_server_remove_entry(const char *path, const struct stat *st, int type,
                                                  struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

PG_SERVER_MAYBE static int pg_server_stop(void **state)
{
    (void)state;
    PQfinish(pg_server.admin);
    if (pg_server.postmaster > 0) {
        pg_server_kill();
        nftw(pg_server.dir, pg_server_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    }
    return 0;
}

/* The text form of the URL for pg_new(). */
PG_SERVER_MAYBE static void pg_server_url(char *out, size_t size, const char *user)
{
    pg_server_format(out, size, "postgresql://%s@/postgres?host=%s", user, pg_server.dir);
}

PG_SERVER_MAYBE static void pg_server_needed(void)
{
    if (pg_server.postmaster == 0) {
        skip();
    }
}

#endif
