/* The test receiver: a webhook endpoint that checks both signatures, keeps a ledger and misbehaves
 * on demand. This file owns the options, the process and the loop; tests/tools/sink/ has the parts.
 * Not installed, never in production. The turn of the loop is the contract: read and decide, write
 * the ledger, and only then send. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"
#include "mem.h"
#include "sink/sink.h"

#define LEDGER_MAX    ((size_t)16 * 1024 * 1024)
#define EVENTS_A_TURN 1024
#define SIGNAL_MAGIC  0x7369676eu
/* with its newline and NUL, and one more byte that shows that a secret is too long */
#define SECRET_LINE_SIZE ((int)SECRETS_SECRET_MAX + 3)

static const char usage[] =
    "usage: sink --listen 127.0.0.1:18080 [options]\n"
    "  --listen ADDRESS:PORT             may be given often; port 0 takes a free one; loopback "
    "only\n"
    "  --listen-range ADDRESS:PORT/N     N consecutive IPv4 addresses on one port\n"
    "  --listen-exposed ADDRESS:PORT     any address, for a container on a network of its own\n"
    "  --ledger FILE                     one JSON line per request, written before its answer\n"
    "  --secret PATH_PREFIX=SECRET       may be given often, also for one prefix (rotation)\n"
    "  --secret-file PATH_PREFIX=FILE    the same from the first line of FILE\n"
    "  --store-bodies DIR                each distinct body as DIR/<sha256>; the ledger then has "
    "all headers\n"
    "  --latency                         histogram of now - data.produced_at_us, in the stats\n"
    "  --count-only                      no ledger, no signature check\n"
    "  --pid-file FILE\n"
    "Behaviour by the query of the URL: status=503 body=BYTES delay=100ms hang loris=header|body "
    "endless endless_headers\n"
    "  endless_1xx reset reset_after[=BODY_BYTES] close close_after redirect=URL "
    "retry_after=SECONDS fail_first=N\n"
    "  fail_status=500 garbage stall gone tick=1s\n"
    "Control: POST /_control/set?path=/x&BEHAVIOUR (path=* is every path), POST "
    "/_control/clear[?path=/x],\n"
    "  POST /_control/secret?prefix=/x[&replace=1] (body = secret), POST /_control/reset,\n"
    "  GET /_control/stats, GET /_control/health\n";

struct options {
    const char *ledger, *pid_file;
    bool listens; /* seen one */
};

enum option_id {
    OPT_LISTEN = 256,
    OPT_RANGE,
    OPT_EXPOSED,
    OPT_LEDGER,
    OPT_SECRET,
    OPT_SECRET_FILE,
    OPT_BODIES,
    OPT_LATENCY,
    OPT_COUNT,
    OPT_PID
};

static const struct option long_options[] = {
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"listen-range", required_argument, NULL, OPT_RANGE},
    {"listen-exposed", required_argument, NULL, OPT_EXPOSED},
    {"ledger", required_argument, NULL, OPT_LEDGER},
    {"secret", required_argument, NULL, OPT_SECRET},
    {"secret-file", required_argument, NULL, OPT_SECRET_FILE},
    {"store-bodies", required_argument, NULL, OPT_BODIES},
    {"latency", no_argument, NULL, OPT_LATENCY},
    {"count-only", no_argument, NULL, OPT_COUNT},
    {"pid-file", required_argument, NULL, OPT_PID},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

/* Fills line with the first line of the file; one that does not fit is cut, which secrets_add
 * refuses as too long. */
static bool read_line(const char *name, char *line, int size, struct err *err)
{
    FILE *f = fopen(name, "re");
    if (f == NULL)
        return err_set(err, ERR_IO, "%s: %s", name, strerror(errno));
    line[0] = '\0';
    bool ok = fgets(line, size, f) != NULL || !ferror(f);
    (void)fclose(f);
    line[strcspn(line, "\n")] = '\0';
    return ok || err_set(err, ERR_IO, "%s: cannot read", name);
}

/* text: /PATH_PREFIX=SECRET, or with from_file /PATH_PREFIX=FILE. */
static bool add_secret(struct sink *s, const char *text, bool from_file, struct err *err)
{
    char line[SECRET_LINE_SIZE];
    const char *equals = strchr(text, '=');
    if (equals == NULL || text[0] != '/')
        return err_set(err, ERR_INVALID, "--secret wants /PATH_PREFIX=SECRET");
    const char *secret = equals + 1;
    if (from_file) {
        if (!read_line(secret, line, sizeof(line), err))
            return false;
        secret = line;
    }
    struct slice prefix = {text, (size_t)(equals - text)};
    if (!secrets_add(&s->secrets, prefix, (struct slice){secret, strlen(secret)}, false)) {
        return err_set(err, ERR_LIMIT, "--secret for %.*s: empty, too long, or too many",
                       (int)prefix.len, prefix.p);
    }
    return true;
}

static bool apply_option(struct sink *s, struct options *o, int id, struct err *err)
{
    switch (id) {
    case OPT_LISTEN:
    case OPT_RANGE:
        o->listens = true;
        return listen_add(s, optarg, id == OPT_RANGE ? LISTEN_RANGE : LISTEN_ONE, err);
    case OPT_EXPOSED:
        o->listens = true;
        return listen_add(s, optarg, LISTEN_EXPOSED, err);
    case OPT_SECRET:
    case OPT_SECRET_FILE:
        return add_secret(s, optarg, id == OPT_SECRET_FILE, err);
    case OPT_LEDGER:
        o->ledger = optarg;
        return true;
    case OPT_BODIES:
        s->bodies_dir = optarg;
        if (mkdir(optarg, 0700) != 0 && errno != EEXIST)
            return err_set(err, ERR_IO, "%s: %s", optarg, strerror(errno));
        return true;
    case OPT_LATENCY:
        s->latency_on = true;
        return true;
    case OPT_COUNT:
        s->count_only = true;
        return true;
    case OPT_PID:
        o->pid_file = optarg;
        return true;
    case 'h':
        (void)fputs(usage, stdout);
        exit(0);
    case 'V':
        (void)puts("sink " NRW_VERSION);
        exit(0);
    default:
        return err_set(err, ERR_INVALID, "unknown option; --help lists them");
    }
}

static bool parse_options(struct sink *s, struct options *o, int argc, char **argv, struct err *err)
{
    int id;
    while ((id = getopt_long(argc, argv, "hV", long_options, NULL)) != -1) {
        if (!apply_option(s, o, id, err))
            return false;
    }
    if (optind != argc || !o->listens) {
        return err_set(err, ERR_INVALID,
                       "--listen is needed, and nothing but options; --help lists them");
    }
    if (s->count_only && (o->ledger != NULL || s->bodies_dir != NULL)) {
        return err_set(err, ERR_INVALID,
                       "--count-only goes with neither --ledger nor --store-bodies");
    }
    if (s->bodies_dir != NULL && o->ledger == NULL)
        return err_set(err, ERR_INVALID, "--store-bodies needs --ledger");
    return true;
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool write_pid_file(const char *name, struct err *err)
{
    FILE *f = fopen(name, "we");
    if (f == NULL)
        return err_set(err, ERR_IO, "%s: %s", name, strerror(errno));
    bool ok = fprintf(f, "%d\n", (int)getpid()) > 0;
    ok = fclose(f) == 0 && ok;
    return ok || err_set(err, ERR_IO, "%s: cannot write", name);
}

static bool open_descriptors(struct sink *s, const struct options *o, struct err *err)
{
    static unsigned signal_magic = SIGNAL_MAGIC;
    sigset_t set;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &signal_magic};
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (s->epoll_fd < 0 || s->signal_fd < 0 || s->spare_fd < 0 ||
        epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->signal_fd, &ev) != 0)
        return err_set(err, ERR_IO, "descriptors: %s", strerror(errno));
    if (o->ledger != NULL) {
        s->ledger_fd = open(o->ledger, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (s->ledger_fd < 0)
            return err_set(err, ERR_IO, "%s: %s", o->ledger, strerror(errno));
    }
    if (o->pid_file != NULL && !write_pid_file(o->pid_file, err))
        return false;
    return listen_start(s, err);
}

static void dispatch(struct sink *s, const struct epoll_event *ev)
{
    const unsigned *magic = ev->data.ptr; /* first member of all that is registered */
    if (*magic == CONN_MAGIC) {
        conn_on_event(s, ev->data.ptr, ev->events);
    } else if (*magic == LISTENER_MAGIC) {
        listen_accept(s, ev->data.ptr);
    } else {
        CHECK(*magic == SIGNAL_MAGIC);
        s->stop = true;
    }
}

static void run_turn(struct sink *s, struct epoll_event *events)
{
    int wait_ms =
        s->ready != NULL ? 0 : timers_wait_ms(&s->timers, s->timers.n == 0 ? 0 : clock_mono_us());
    int n = epoll_wait(s->epoll_fd, events, EVENTS_A_TURN, wait_ms);
    for (int i = 0; i < n; i++)
        dispatch(s, &events[i]);
    if (s->timers.n > 0) {
        struct conn *c;
        int64_t now = clock_mono_us();
        while ((c = timers_take_due(&s->timers, now)) != NULL)
            conn_on_timer(s, c);
    }
    conn_run_ready(s);
    ledger_flush(s); /* before any answer of this turn */
    conn_run_staged(s);
    ledger_flush(s); /* what could not be sent */
    conn_free_dead(s);
}

static void sink_done(struct sink *s)
{
    conn_close_all(s);
    ledger_flush(s);
    listen_done(s);
    timers_done(&s->timers);
    paths_done(&s->paths);
    secrets_done(&s->secrets);
    failures_reset(&s->failures);
    buf_done(&s->ledger);
    free(s->scratch);
}

int main(int argc, char **argv)
{
    static struct sink s = {.ledger_fd = -1};
    static struct epoll_event events[EVENTS_A_TURN];
    struct options o = {0};
    struct err err = {0};
    raise_descriptor_limit();
    s.scratch = mem_alloc(SINK_SCRATCH);
    buf_init(&s.ledger, LEDGER_MAX);
    paths_init(&s.paths);
    bool ok = parse_options(&s, &o, argc, argv, &err) && open_descriptors(&s, &o, &err);
    if (ok) {
        listen_print_ready(&s);
        while (!s.stop)
            run_turn(&s, events);
        if (o.pid_file != NULL)
            (void)unlink(o.pid_file);
    } else {
        (void)fprintf(stderr, "sink: %s\n", err.text);
    }
    sink_done(&s);
    return ok ? 0 : 2;
}
