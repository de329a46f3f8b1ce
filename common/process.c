/* Owns the limits and signals of the process itself; what ends it is each program's. Both programs
 * call it once at start. */
#include "process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "log.h"

/* The limit counts for files alone: what a core_pattern pipes to a program (systemd-coredump,
 * apport) ignores it, and gets then what the filter lets through, which is no memory. */
static void forbid_core_dumps(void)
{
    const struct rlimit no_core = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &no_core);
    const int fd = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);
    if (fd == -1 || write(fd, "0", 1) != 1) {
        log_warn("process.core_dumps", F_STR("effect", "a piped core dump would hold secrets"));
    }
    if (fd != -1) {
        (void)close(fd);
    }
}

void process_prepare(int64_t descriptors_wanted)
{
    (void)signal(SIGPIPE, SIG_IGN);
    forbid_core_dumps();
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) == -1) {
        return;
    }
    lim.rlim_cur = lim.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &lim); /* lowering nothing: cannot make it worse */
    if (lim.rlim_cur != RLIM_INFINITY && (int64_t)lim.rlim_cur < descriptors_wanted) {
        log_warn("process.few_descriptors", F_INT("limit", lim.rlim_cur),
                 F_INT("wanted", descriptors_wanted));
    }
}
