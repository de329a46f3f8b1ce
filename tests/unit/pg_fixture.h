/* A private PostgreSQL for one test program: in a folder of its own, on a unix socket only, dead
 * with its parent. Where initdb is not installed, `server.postmaster` stays 0 and tests begin with
 * NEEDS_SERVER() to skip. Start and stop are cmocka's group set-up and tear-down. */
#ifndef NRW_PG_FIXTURE_H
#define NRW_PG_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

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

#define PATIENCE_US (20 * INT64_C(1000000))
#define SOCKET_NAME ".s.PGSQL.5432"

static struct {
    char dir[64];
    char bin[256];
    pid_t postmaster;
    PGconn *admin; /* blocking: the hand that breaks things */
} server;

#define NEEDS_SERVER()                                                                             \
    do {                                                                                           \
        if (server.postmaster == 0) {                                                              \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

/* PostgreSQL refuses to run as root: as_server becomes its user. */
static inline pid_t spawn_as(const char *const argv[], bool as_server)
{
    const struct passwd *user = as_server && geteuid() == 0 ? getpwnam("postgres") : NULL;
    pid_t pid = fork();
    assert_true(pid != -1);
    if (pid > 0) {
        return pid;
    }
    int log = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if ((user != NULL &&
         (setgroups(0, NULL) != 0 || setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0)) ||
        chdir(server.dir) != 0 || dup2(log, STDOUT_FILENO) == -1 ||
        dup2(log, STDERR_FILENO) == -1) {
        _exit(126);
    }
    prctl(PR_SET_PDEATHSIG, SIGQUIT); /* after setuid, which clears it */
    char *copy[32] = {NULL};
    for (size_t i = 0; argv[i] != NULL && i < sizeof(copy) / sizeof(*copy) - 1; i++) {
        copy[i] = strdup(argv[i]);
    }
    execv(copy[0], copy);
    _exit(127);
}

static inline pid_t spawn(const char *const argv[])
{
    return spawn_as(argv, true);
}

static inline void run_to_end(const char *const argv[], bool as_server)
{
    int status = 0;
    const pid_t pid = spawn_as(argv, as_server);
    assert_int_equal(pid, waitpid(pid, &status, 0));
    if (status != 0) {
        fail_msg("%s ended with wait status %x", argv[0], (unsigned)status);
    }
}

static inline void pause_ms(long ms)
{
    const struct timespec ts = {.tv_nsec = ms * 1000000};
    nanosleep(&ts, NULL);
}

static inline void connect_admin(void)
{
    char url[128];
    snprintf(url, sizeof(url), "host=%s user=postgres dbname=postgres", server.dir);
    for (int64_t end = clock_mono_us() + PATIENCE_US;; pause_ms(10)) {
        PQfinish(server.admin);
        server.admin = PQconnectdb(url);
        if (PQstatus(server.admin) == CONNECTION_OK) {
            return;
        }
        if (clock_mono_us() > end) {
            fail_msg("PostgreSQL does not start: %s", PQerrorMessage(server.admin));
        }
    }
}

static inline PGresult *sql_result(const char *text)
{
    PGresult *res = PQexec(server.admin, text);
    ExecStatusType status = PQresultStatus(res);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        fail_msg("%s: %s", text, PQerrorMessage(server.admin));
    }
    return res;
}

/* The first value as a number; 0 when there is none. */
static inline long sql(const char *text)
{
    PGresult *res = sql_result(text);
    long value = PQntuples(res) > 0 ? strtol(PQgetvalue(res, 0, 0), NULL, 10) : 0;
    PQclear(res);
    return value;
}

/* The first value must be this text. */
static inline void sql_is(const char *expected, const char *text)
{
    PGresult *res = sql_result(text);
    if (PQntuples(res) != 1 || strcmp(expected, PQgetvalue(res, 0, 0)) != 0) {
        fail_msg("%s\n gives %d rows, the first: %s\n         not: %s", text, PQntuples(res),
                 PQntuples(res) > 0 ? PQgetvalue(res, 0, 0) : "", expected);
    }
    PQclear(res);
}

static inline void server_url(char *out, size_t size, const char *user)
{
    snprintf(out, size, "postgresql://%s@/postgres?host=%s", user, server.dir);
}

static inline bool find_server(void)
{
    glob_t found;
    bool ok = glob("/usr/lib/postgresql/*/bin/initdb", 0, NULL, &found) == 0;
    if (ok) {
        const char *path = found.gl_pathv[found.gl_pathc - 1];
        snprintf(server.bin, sizeof(server.bin), "%.*s", (int)(strrchr(path, '/') - path), path);
    } else {
        print_message(
            "[  NOTE  ] no /usr/lib/postgresql/*/bin/initdb: tests with a server are skipped\n");
    }
    globfree(&found);
    return ok;
}

static inline void launch_server(void)
{
    char data[128];
    char postgres[300];
    char sockets[160];
    snprintf(data, sizeof(data), "%s/data", server.dir);
    snprintf(postgres, sizeof(postgres), "%s/postgres", server.bin);
    snprintf(sockets, sizeof(sockets), "unix_socket_directories=%s", server.dir);
    server.postmaster = spawn((const char *const[]){
        postgres, "-D", data, "-c", "listen_addresses=", "-c", sockets, "-c", "fsync=off", "-c",
        "max_connections=20", "-c", "shared_buffers=16MB", NULL});
}

static inline int start_server(void **state)
{
    (void)state;
    if (!find_server()) {
        return 0;
    }
    strncpy(server.dir, "/tmp/nrw-test-pg-XXXXXX", sizeof(server.dir) - 1);
    assert_non_null(mkdtemp(server.dir));
    if (geteuid() == 0) {
        const struct passwd *user = getpwnam("postgres");
        assert_non_null(user);
        assert_int_equal(0, chown(server.dir, user->pw_uid, user->pw_gid));
    }
    char data[128];
    char initdb[300];
    snprintf(data, sizeof(data), "%s/data", server.dir);
    snprintf(initdb, sizeof(initdb), "%s/initdb", server.bin);
    run_to_end((const char *const[]){initdb, "-D", data, "-U", "postgres", "-A", "trust", "-N",
                                     "-E", "UTF8", "--no-locale", NULL},
               true);
    launch_server();
    connect_admin();
    return 0;
}

/* The same with the tables of schema/. */
static inline int start_server_with_schema(void **state)
{
    if (start_server(state) != 0 || server.postmaster == 0) {
        return server.postmaster == 0 ? 0 : -1;
    }
    char url[160];
    server_url(url, sizeof(url), "postgres");
    run_to_end((const char *const[]){NRW_SOURCE_DIR "/schema/apply", "--database-url", url, NULL},
               false);
    sql("SET client_min_messages = warning");
    return 0;
}

/* Immediate: as a crash. */
static inline void kill_server(void)
{
    kill(server.postmaster, SIGQUIT);
    waitpid(server.postmaster, NULL, 0);
}

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static inline int stop_server(void **state)
{
    (void)state;
    PQfinish(server.admin);
    if (server.postmaster > 0) {
        kill_server();
        nftw(server.dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    }
    return 0;
}

#endif
