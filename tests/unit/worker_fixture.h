/* What the tests of worker/ share: a seeded generator, ids, settings, events, and the proof that a
 * CHECK is there. Each test program includes it once. */
#ifndef NRW_WORKER_FIXTURE_H
#define NRW_WORKER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "buf.h"
#include "clock.h"
#include "config.h"
#include "event.h"
#include "log.h"

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

/* splitmix64: the same seed gives the same test on every machine. */
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 … n-1 */
static inline size_t random_below(uint64_t *state, size_t n)
{
    return (size_t)(random_next(state) % n);
}

static inline struct uuid id_of(uint8_t kind, unsigned n)
{
    struct uuid id = {{kind, 0, 0, 0, 0, 0, 0x40, 0, 0x80}};
    id.b[12] = (uint8_t)(n >> 24);
    id.b[13] = (uint8_t)(n >> 16);
    id.b[14] = (uint8_t)(n >> 8);
    id.b[15] = (uint8_t)n;
    return id;
}

/* The defaults of config.def, plus what must be set. */
static inline void settings_defaults(struct config *cfg)
{
    char *const env[] = {
        (char[]){"NRW_DATABASE_URL=postgresql:///unused"},
        (char[]){"NRW_KAFKA_BROKERS=127.0.0.1:1"},
        (char[]){"NRW_KEYRING=k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="},
        NULL,
    };
    struct buf problems;
    buf_init(&problems, 4096);
    if (!config_load(cfg, CONFIG_WORKER, env, &problems)) {
        fail_msg("%s", buf_cstr(&problems));
    }
    buf_done(&problems);
}

static inline void settings_set(config_str *field, const char *value)
{
    free(*field);
    *field = strdup(value);
    assert_non_null(*field);
}

/* An event of the tenant, type alert.created; NULL tracker: not from Kafka. */
static inline struct nrw_event *event_make(struct event_account *account, struct tracker *t,
                                           int64_t offset, unsigned n)
{
    static const char type[] = "alert.created";
    static const char payload[] = "{\"id\": 1}";
    struct nrw_event *ev =
        nrw_event_new(account, type, sizeof(type) - 1, payload, sizeof(payload) - 1);
    ev->id = id_of(0xe0, n);
    ev->tenant_id = id_of(0x70, 0);
    ev->offset = offset;
    ev->received_at_us = INT64_C(1773570600000000) + n; /* 2026-03-15T10:30:00Z */
    if (t != NULL) {
        ev->tracker = t;
        ev->partition = tracker_partition(t);
        ev->slot = tracker_open(t, offset, 1);
    }
    return ev;
}

/* False when done; otherwise one more turn, or the end of patience. */
static inline bool turn_unless(bool done, const char *what, int64_t until_mono_us,
                               void (*turn)(void))
{
    if (done) {
        return false;
    }
    if (clock_mono_us() > until_mono_us) {
        fail_msg("never came true: %s", what);
    }
    turn();
    return true;
}

/* Turns the loop until cond holds; the program defines `static void turn(void)`, one turn as
 * worker.c makes it. */
#define AWAIT_TURNS(cond)                                                                          \
    for (int64_t end_ = clock_mono_us() + 20 * INT64_C(1000000);                                   \
         turn_unless((cond), #cond, end_, turn);) {                                                \
    }

/* A broken rule must end the process: fn is run in a child. */
static inline void assert_aborts_at(void (*fn)(void), const char *name)
{
    const pid_t pid = fork();
    assert_true(pid != -1);
    if (pid == 0) {
        const struct rlimit no_core = {0, 0};
        (void)setrlimit(RLIMIT_CORE, &no_core);
        const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        (void)dup2(null, STDERR_FILENO);
        (void)signal(SIGABRT, SIG_DFL); /* cmocka's own handler would report it */
        fn();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(pid, waitpid(pid, &status, 0));
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT) {
        fail_msg("%s was let through", name);
    }
}
#define assert_aborts(fn) assert_aborts_at(fn, #fn)

#endif
