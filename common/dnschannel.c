/* Owns the ares_channel, its sockets' events and the sockets themselves: they are opened here, so
 * that errno is seen and that none blocks or outlives an exec. It does not know who asks what, and
 * starts no query. Called by resolver.c and store_address.c. */
#include "dnschannel.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "check.h"
#include "mem.h"

#define CHANNEL_MAGIC 0x6368616eu
#define TRIES         2
#define TRY_MIN_MS    10
#define TRY_MAX_MS    30000

struct watch {
    LIST_ENTRY(watch) link;
    ares_socket_t fd;
    struct event *event;
};

struct dnschannel {
    unsigned magic;
    struct event_base *base;
    enum dnschannel_names names;
    ares_channel ares;
    void (*after)(void *ctx);
    void *after_ctx;
    uint64_t faults;
    int fault_errno;
    LIST_HEAD(, watch) watches;
};

static ares_socket_t socket_open(int domain, int type, int protocol, void *ctx)
{
    struct dnschannel *c = ctx;
    int fd = socket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);

    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM ||
                   errno == EPERM)) {
        c->faults++;
        c->fault_errno = errno;
    }
    return fd;
}

static int socket_close(ares_socket_t fd, void *ctx)
{
    (void)ctx;
    return close(fd);
}

static int socket_connect(ares_socket_t fd, const struct sockaddr *sa, ares_socklen_t len,
                          void *ctx)
{
    (void)ctx;
    return connect(fd, sa, len);
}

static ares_ssize_t socket_recv(ares_socket_t fd, void *data, size_t len, int flags,
                                struct sockaddr *from, ares_socklen_t *from_len, void *ctx)
{
    (void)ctx;
    return recvfrom(fd, data, len, flags, from, from_len);
}

static ares_ssize_t socket_send(ares_socket_t fd, const struct iovec *iov, int n, void *ctx)
{
    struct iovec *items = mem_alloc((size_t)n * sizeof(*items)); /* sendmsg wants them not const */
    struct msghdr msg = {.msg_iov = items, .msg_iovlen = (size_t)n};
    ssize_t sent;
    int saved;

    (void)ctx;
    memcpy(items, iov, (size_t)n * sizeof(*items));
    sent = sendmsg(fd, &msg, MSG_NOSIGNAL);
    saved = errno;
    free(items);
    errno = saved;
    return sent;
}

static const struct ares_socket_functions socket_functions = {
    socket_open, socket_close, socket_connect, socket_recv, socket_send};

static void on_socket(evutil_socket_t fd, short what, void *ctx)
{
    struct dnschannel *c = ctx;

    CHECK_MAGIC(c, CHANNEL_MAGIC);
    ares_process_fd(c->ares, what & EV_READ ? fd : ARES_SOCKET_BAD,
                    what & EV_WRITE ? fd : ARES_SOCKET_BAD);
    c->after(c->after_ctx);
}

static struct watch *find_watch(const struct dnschannel *c, ares_socket_t fd)
{
    struct watch *w;

    LIST_FOREACH(w, &c->watches, link)
    {
        if (w->fd == fd) {
            return w;
        }
    }
    return NULL;
}

static void on_socket_state(void *ctx, ares_socket_t fd, int readable, int writable)
{
    struct dnschannel *c = ctx;
    int what = EV_PERSIST | (readable ? EV_READ : 0) | (writable ? EV_WRITE : 0);
    struct watch *w = find_watch(c, fd);

    CHECK_MAGIC(c, CHANNEL_MAGIC);
    if (w != NULL) {
        event_free(w->event);
        LIST_REMOVE(w, link);
        free(w);
    }
    if (readable || writable) {
        w = mem_zero(1, sizeof(*w));
        w->fd = fd;
        w->event = event_new(c->base, fd, (short)what, on_socket, c);
        CHECK(w->event != NULL && event_add(w->event, NULL) == 0);
        LIST_INSERT_HEAD(&c->watches, w, link);
    }
}

static bool channel_open(struct dnschannel *c, const char *servers, int timeout_ms, struct err *err)
{
    static char lookups[] = "b"; /* DNS, no files */
    const int foreign =
        c->names == DNSCHANNEL_FOREIGN ? ARES_OPT_FLAGS | ARES_OPT_LOOKUPS | ARES_OPT_NOROTATE : 0;
    struct ares_options options = {
        .flags = ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES,
        .timeout = timeout_ms,
        .tries = TRIES,
        .lookups = lookups,
        .sock_state_cb = on_socket_state,
        .sock_state_cb_data = c,
    };
    int rc = ares_init_options(
        &c->ares, &options, foreign | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB);

    if (rc != ARES_SUCCESS) {
        c->ares = NULL;
        return err_set(err, ERR_IO, "cannot start the resolver: %s", ares_strerror(rc));
    }
    ares_set_socket_functions(c->ares, &socket_functions, c);
    if (servers[0] == '\0') {
        return true;
    }
    rc = ares_set_servers_ports_csv(c->ares, servers);
    return rc == ARES_SUCCESS ||
           err_set(err, ERR_INVALID,
                   "\"%.100s\" is not a list of DNS servers (address[:port], comma-separated): %s",
                   servers, ares_strerror(rc));
}

/* At least 1: c-ares falls back to 127.0.0.1. */
static int server_count(const struct dnschannel *c)
{
    struct ares_addr_port_node *servers = NULL;
    int n = 0;

    if (ares_get_servers_ports(c->ares, &servers) == ARES_SUCCESS) {
        for (const struct ares_addr_port_node *s = servers; s != NULL; s = s->next) {
            n++;
        }
        ares_free_data(servers);
    }
    return n > 0 ? n : 1;
}

/* How long c-ares waits for each server is fixed at birth and depends on how many there are: open
 * it once to count. c-ares waits t for each server, then 2t, so that all tries take 3nt; a tenth is
 * left for its rounding. */
static bool channel_open_timed(struct dnschannel *c, const char *servers, int64_t timeout_ms,
                               struct err *err)
{
    int64_t try_ms;

    if (!channel_open(c, servers, 1000, err)) {
        return false;
    }
    try_ms = timeout_ms * 9 / 10 / ((int64_t)server_count(c) * ((1 << TRIES) - 1));
    try_ms = try_ms < TRY_MIN_MS ? TRY_MIN_MS : try_ms > TRY_MAX_MS ? TRY_MAX_MS : try_ms;
    ares_destroy(c->ares);
    return channel_open(c, servers, (int)try_ms, err);
}

struct dnschannel *dnschannel_new(struct event_base *base, enum dnschannel_names names,
                                  const char *servers, int64_t timeout_ms, void (*after)(void *ctx),
                                  void *ctx, struct err *err)
{
    struct dnschannel *c = mem_zero(1, sizeof(*c));

    c->magic = CHANNEL_MAGIC;
    c->base = base;
    c->names = names;
    c->after = after;
    c->after_ctx = ctx;
    LIST_INIT(&c->watches);
    CHECK(ares_library_init(ARES_LIB_INIT_ALL) == ARES_SUCCESS);
    if (!channel_open_timed(c, servers, timeout_ms, err)) {
        dnschannel_free(c);
        return NULL;
    }
    return c;
}

void dnschannel_free(struct dnschannel *c)
{
    if (c == NULL) {
        return;
    }
    CHECK_MAGIC(c, CHANNEL_MAGIC);
    if (c->ares != NULL) {
        ares_destroy(c->ares);
    }
    CHECK(LIST_EMPTY(&c->watches));
    ares_library_cleanup();
    c->magic = 0;
    free(c);
}

ares_channel dnschannel_ares(const struct dnschannel *c)
{
    return c->ares;
}

void dnschannel_tick(struct dnschannel *c)
{
    ares_process_fd(c->ares, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
}

uint64_t dnschannel_faults(const struct dnschannel *c, int *ret_errno)
{
    *ret_errno = c->fault_errno;
    return c->faults;
}
