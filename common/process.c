/* Owns the limits and signals of the process itself; what ends it is each program's. Both programs
 * call it once at start. */
#include "process.h"

#include <signal.h>
#include <sys/resource.h>

#include "log.h"

void process_prepare(int64_t descriptors_wanted)
{
    (void)signal(SIGPIPE, SIG_IGN);
    const struct rlimit no_core = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &no_core);
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
