/* Owns the lag timer and the alarm. worker.c and service.c call watchdog_turn() in each turn. */
#include "watchdog.h"

#include <event2/event_struct.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"

#define TICK_US    20000
#define SLOW_US    50000
#define ALARM_S    10
#define ALARMS_MAX 3

struct watchdog {
    struct event tick;
    int64_t due_mono_us;
    struct gauge *turn_max;
    struct counter *slow;
};

/* Shared with the signal handler: turns counts up in the loop, the handler compares. */
static volatile sig_atomic_t turns;
static volatile sig_atomic_t turns_seen;
static volatile sig_atomic_t alarms;
static volatile sig_atomic_t leaving;

static void on_alarm(int sig)
{
    (void)sig;
    if (turns != turns_seen) {
        turns_seen = turns;
        alarms = 0;
        return;
    }
    alarms = alarms + 1;
    if (leaving) {
        static const char line[] = "{\"level\":\"warn\",\"event\":\"loop.left_late\",\"error\":\"a "
                                   "library did not end within 10 s\"}\n";
        (void)!write(STDERR_FILENO, line, sizeof(line) - 1);
        _exit(0);
    }
    if (alarms >= ALARMS_MAX) {
        static const char line[] = "{\"level\":\"error\",\"event\":\"loop.stuck\",\"error\":\"no "
                                   "turn of the loop ended for 30 s\"}\n";
        (void)!write(STDERR_FILENO, line, sizeof(line) - 1);
        abort();
    }
}

void watchdog_turn(struct watchdog *w)
{
    (void)w;
    turns = turns == SIG_ATOMIC_MAX ? 0 : turns + 1;
}

static void start_alarms(void)
{
    const struct itimerval every = {.it_interval = {.tv_sec = ALARM_S},
                                    .it_value = {.tv_sec = ALARM_S}};
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
}

void watchdog_leave(struct watchdog *w)
{
    (void)w;
    turns_seen = turns;
    leaving = 1;
    start_alarms(); /* anew: the whole 10 s */
}

static void arm(struct watchdog *w)
{
    const struct timeval tv = {.tv_usec = TICK_US};
    w->due_mono_us = clock_mono_us() + TICK_US;
    event_add(&w->tick, &tv);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    struct watchdog *w = ctx;
    (void)fd;
    (void)what;
    const int64_t late_us = clock_mono_us() - w->due_mono_us;
    if ((double)late_us / 1e6 > w->turn_max->value) {
        w->turn_max->value = (double)late_us / 1e6;
    }
    if (late_us > SLOW_US) {
        w->slow->value++;
        log_warn("loop.slow_turn", F_MS("late_ms", late_us));
    }
    arm(w);
}

struct watchdog *watchdog_new(struct event_base *base)
{
    struct watchdog *w = mem_zero(1, sizeof(*w));
    w->turn_max = metrics_gauge("nrw_loop_turn_max_seconds", NULL,
                                "longest time for which the loop did not come round");
    w->slow = metrics_counter("nrw_loop_slow_turns_total", NULL,
                              "times that the loop did not come round for more than 50 ms");
    event_assign(&w->tick, base, -1, 0, on_tick, w);
    arm(w);

    struct sigaction act = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigemptyset(&act.sa_mask);
    CHECK(sigaction(SIGALRM, &act, NULL) == 0);
    start_alarms();
    return w;
}

void watchdog_free(struct watchdog *w)
{
    if (w == NULL) {
        return;
    }
    const struct itimerval off = {0};
    (void)setitimer(ITIMER_REAL, &off, NULL); /* cannot fail with valid arguments */
    event_del(&w->tick);
    free(w);
}
