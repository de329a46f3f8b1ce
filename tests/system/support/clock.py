"""A wall clock that is wrong, for one process: a small library for LD_PRELOAD. Only CLOCK_REALTIME and what reads it is shifted.

libfaketime does not do: librdkafka waits until a wall time on condition variables, which the kernel compares with the right time, so
that with its clock an hour back every wait ends at once and with its clock ahead none ever does. Here these waits are shifted back.
"""

import pathlib
import shutil
import subprocess

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static time_t offset(void)
{
    static time_t seconds;
    static int known;
    if (!known) {
        const char *text = getenv("CLOCK_OFFSET_S");
        seconds = text == NULL ? 0 : atol(text);
        known = 1;
    }
    return seconds;
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
    long r = syscall(SYS_clock_gettime, id, ts);
    if (r == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        ts->tv_sec += offset();
    return (int)r;
}

int timespec_get(struct timespec *ts, int base)
{
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, ts) == 0 ? base : 0;
}

int gettimeofday(struct timeval *tv, void *zone)
{
    struct timespec ts;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &ts);
    tv->tv_sec = ts.tv_sec;
    tv->tv_usec = ts.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *ret)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (ret != NULL)
        *ret = ts.tv_sec;
    return ts.tv_sec;
}

static struct timespec right(const struct timespec *until)
{
    struct timespec ts = *until;
    ts.tv_sec -= offset();
    return ts;
}

/* An older version has the same name and another layout. */
int pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until)
{
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    struct timespec ts = right(until);
    if (real == NULL)
        real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    return real(c, m, &ts);
}

int cnd_timedwait(cnd_t *c, mtx_t *m, const struct timespec *until)
{
    static int (*real)(cnd_t *, mtx_t *, const struct timespec *);
    struct timespec ts = right(until);
    if (real == NULL)
        real = dlsym(RTLD_NEXT, "cnd_timedwait");
    return real(c, m, &ts);
}
"""


def build(folder: pathlib.Path) -> pathlib.Path | None:
    """The library, or None without a compiler. A process preloads it and has CLOCK_OFFSET_S set."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source = folder / "clock.c"
    source.write_text(SOURCE)
    library = folder / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
    return library
