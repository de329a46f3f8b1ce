/* A private Redis for one test: its own folder, unix socket only (and a loopback port when asked),
 * gone with the program (PR_SET_PDEATHSIG) and its folder with redis_server_stop(). Where Redis is
 * not installed, the tests that call redis_server_start() are skipped, and it is said. */
#ifndef NRW_TEST_REDIS_SERVER_H
#define NRW_TEST_REDIS_SERVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "err.h"
#include "mem.h"

#define REDIS_SERVER_PATIENCE_US (20 * INT64_C(1000000))
#define REDIS_SERVER_MAYBE       __attribute__((unused))

REDIS_SERVER_MAYBE static struct {
    char dir[64];
    char socket[96];
    char port[8];           /* "0": none */
    const char *persist[5]; /* further arguments */
    pid_t pid;
    redisContext *admin; /* blocking, as the default user: the hand that breaks things */
} redis_server;

REDIS_SERVER_MAYBE static const char *redis_server_program(void)
{
    static const char *const places[] = {"/usr/bin/redis-server", "/usr/local/bin/redis-server",
                                         "/usr/bin/redis-check-rdb"}; /* the same file in Debian */
    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
        if (access(places[i], X_OK) == 0) {
            return places[i];
        }
    }
    print_message("[  NOTE  ] no redis-server: tests with a server are skipped\n");
    skip();
    return NULL;
}

REDIS_SERVER_MAYBE static long long redis_server_take(redisReply *reply, const char *what)
{
    if (reply == NULL || reply->type == REDIS_REPLY_ERROR) {
        fail_msg("%s: %s", what, reply == NULL ? redis_server.admin->errstr : reply->str);
        return 0;
    }
    long long value = reply->type == REDIS_REPLY_STRING ? atoll(reply->str) : reply->integer;
    if (reply->type == REDIS_REPLY_NIL) {
        value = -1;
    }
    freeReplyObject(reply);
    return value;
}
#define REDIS_SERVER_DO(...)                                                                       \
    redis_server_take(redisCommand(redis_server.admin, __VA_ARGS__), #__VA_ARGS__)

/* A process on the socket that answers PING, loading or not; then the admin connection. */
REDIS_SERVER_MAYBE static void redis_server_run(void)
{
    const char *program = redis_server_program();
    redis_server.pid = fork();
    assert_true(redis_server.pid != -1);
    if (redis_server.pid == 0) {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        (void)dup2(null, STDOUT_FILENO);
        (void)dup2(null, STDERR_FILENO);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        const char *argv[] = {"redis-server",
                              "--port",
                              redis_server.port,
                              "--bind",
                              "127.0.0.1",
                              "--unixsocket",
                              redis_server.socket,
                              "--dir",
                              redis_server.dir,
                              "--save",
                              "",
                              redis_server.persist[0],
                              redis_server.persist[1],
                              redis_server.persist[2],
                              redis_server.persist[3],
                              NULL};
        char *copy[16] = {NULL};
        for (int i = 0; argv[i] != NULL && i < 15; i++) {
            copy[i] = mem_dup(argv[i]);
        }
        execv(program, copy);
        _exit(127);
    }
    for (int64_t end = clock_mono_us() + REDIS_SERVER_PATIENCE_US;;) {
        redis_server.admin = redisConnectUnix(redis_server.socket);
        if (redis_server.admin->err == 0) {
            break;
        }
        assert_true(clock_mono_us() < end);
        redisFree(redis_server.admin);
        const struct timespec ts = {.tv_nsec = 2000000};
        nanosleep(&ts, NULL);
    }
}

REDIS_SERVER_MAYBE static void redis_server_start(void)
{
    (void)redis_server_program();
    (void)signal(SIGPIPE, SIG_IGN);
    strncpy(redis_server.dir, "/tmp/nrw-test-redis-XXXXXX", sizeof(redis_server.dir) - 1);
    assert_non_null(mkdtemp(redis_server.dir));
    assert_true(snprintf(redis_server.socket, sizeof(redis_server.socket), "%s/sock",
                         redis_server.dir) > 0);
    if (redis_server.port[0] == '\0') {
        redis_server.port[0] = '0';
    }
    redis_server_run();
}

REDIS_SERVER_MAYBE static void redis_server_kill(void)
{
    redisFree(redis_server.admin);
    kill(redis_server.pid, SIGKILL);
    waitpid(redis_server.pid, NULL, 0);
    redis_server.pid = 0;
    (void)unlink(redis_server.socket);
}

REDIS_SERVER_MAYBE static int redis_server_remove_entry(const char *path, const struct stat *st,
                                                        int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

/* Usable as cmocka's teardown: also after a test that failed. */
REDIS_SERVER_MAYBE static int redis_server_stop(void **state)
{
    (void)state;
    if (redis_server.pid > 0) {
        redis_server_kill();
    }
    if (redis_server.dir[0] != '\0') {
        nftw(redis_server.dir, redis_server_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    }
    memset(&redis_server, 0, sizeof(redis_server));
    return 0;
}

#endif
