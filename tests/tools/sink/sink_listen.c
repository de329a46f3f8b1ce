/* Listening sockets: many loopback addresses, each its own socket, because a test of 5000 endpoints
 * needs 5000 addresses and a receiver on 0.0.0.0 would be reachable from outside; that is for a
 * container only, and has to be asked for. Owns the listeners; sink.c calls it. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "check.h"
#include "mem.h"
#include "sink.h"

#define ACCEPTS_PER_TURN 256

static bool is_loopback(const struct sockaddr_storage *a)
{
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)a;
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)a;
    return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

static bool parse_address(struct slice host, uint16_t port, struct listener *l)
{
    char text[64];
    bool six = host.len >= 2 && host.p[0] == '[' && host.p[host.len - 1] == ']';
    if (six)
        host = (struct slice){host.p + 1, host.len - 2};
    if (host.len >= sizeof(text))
        return false;
    memcpy(text, host.p, host.len);
    text[host.len] = '\0';
    if (six) {
        struct sockaddr_in6 *a = (struct sockaddr_in6 *)(void *)&l->addr;
        a->sin6_family = AF_INET6;
        a->sin6_port = htons(port);
        l->addr_len = sizeof(*a);
        return inet_pton(AF_INET6, text, &a->sin6_addr) == 1;
    }
    struct sockaddr_in *a = (struct sockaddr_in *)(void *)&l->addr;
    a->sin_family = AF_INET;
    a->sin_port = htons(port);
    l->addr_len = sizeof(*a);
    return inet_pton(AF_INET, text, &a->sin_addr) == 1;
}

static bool open_listener(struct listener *l, struct err *err)
{
    int on = 1;
    l->magic = LISTENER_MAGIC;
    l->fd = socket(l->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0)
        return err_set(err, ERR_IO, "socket: %s", strerror(errno));
    (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    (void)setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on,
                     sizeof(on)); /* inherited by what is accepted */
    struct sockaddr *a = (struct sockaddr *)(void *)&l->addr;
    if (bind(l->fd, a, l->addr_len) != 0 || listen(l->fd, 4096) != 0 ||
        getsockname(l->fd, a, &l->addr_len) != 0) {
        (void)err_set(err, ERR_IO, "cannot listen: %s", strerror(errno));
        (void)close(l->fd);
        return false;
    }
    return true;
}

static bool add_one(struct sink *s, struct listener *l, struct err *err)
{
    if (s->listeners_n == SINK_LISTENERS_MAX)
        return err_set(err, ERR_LIMIT, "more than %u listeners", SINK_LISTENERS_MAX);
    if (!open_listener(l, err))
        return false;
    if (s->listeners == NULL)
        s->listeners = mem_zero(SINK_LISTENERS_MAX, sizeof(*s->listeners));
    s->listeners[s->listeners_n++] = *l;
    return true;
}

bool listen_add(struct sink *s, const char *text, enum listen_kind kind, struct err *err)
{
    const bool range = kind == LISTEN_RANGE;
    struct listener l = {0};
    uint64_t n = 1;
    uint64_t port;
    const char *slash = range ? strchr(text, '/') : NULL;
    size_t len = slash == NULL ? strlen(text) : (size_t)(slash - text);
    const char *colon = memrchr(text, ':', len);
    if (range && (slash == NULL || !slice_number((struct slice){slash + 1, strlen(slash + 1)},
                                                 SINK_LISTENERS_MAX, &n)))
        return err_set(err, ERR_INVALID, "%s: not ADDRESS:PORT/COUNT", text);
    if (colon == NULL ||
        !slice_number((struct slice){colon + 1, (size_t)(text + len - colon - 1)}, 65535, &port) ||
        !parse_address((struct slice){text, (size_t)(colon - text)}, (uint16_t)port, &l))
        return err_set(err, ERR_INVALID, "%s: not ADDRESS:PORT", text);
    if (range && l.addr.ss_family != AF_INET)
        return err_set(err, ERR_INVALID, "%s: a range is IPv4", text);
    for (uint64_t i = 0; i < n; i++) {
        if (kind != LISTEN_EXPOSED && !is_loopback(&l.addr))
            return err_set(err, ERR_DENIED, "%s: only loopback addresses", text);
        l.range_n = i == 0 ? (size_t)n : 0;
        if (!add_one(s, &l, err))
            return err_prefix(err, "%s, address %llu", text, (unsigned long long)i + 1);
        if (range) {
            struct sockaddr_in *a = (struct sockaddr_in *)(void *)&l.addr;
            a->sin_addr.s_addr = htonl(ntohl(a->sin_addr.s_addr) + 1);
        }
    }
    return true;
}

bool listen_start(struct sink *s, struct err *err)
{
    for (size_t i = 0; i < s->listeners_n; i++) {
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &s->listeners[i]};
        if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->listeners[i].fd, &ev) != 0)
            return err_set(err, ERR_IO, "epoll_ctl: %s", strerror(errno));
    }
    return true;
}

/* Out of descriptors: use the spare one to take the connection and drop it, else the loop would
 * spin on it. */
static void refuse(struct sink *s, const struct listener *l)
{
    (void)close(s->spare_fd);
    int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        (void)close(fd);
    s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    s->count.refused++;
}

void listen_accept(struct sink *s, const struct listener *l)
{
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_in6 peer = {0}; /* has the port where sockaddr_in has it */
        socklen_t len = sizeof(peer);
        int fd =
            accept4(l->fd, (struct sockaddr *)(void *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
            refuse(s, l);
            return;
        }
        if (fd < 0)
            return;
        conn_new(s, fd, ntohs(peer.sin6_port));
    }
}

void listen_done(struct sink *s)
{
    for (size_t i = 0; i < s->listeners_n; i++)
        (void)close(s->listeners[i].fd);
    free(s->listeners);
    s->listeners = NULL;
    s->listeners_n = 0;
}

void listen_print_ready(const struct sink *s)
{
    const char *comma = "";
    (void)printf("{\"event\":\"sink.ready\",\"pid\":%d,\"listen\":[", (int)getpid());
    for (size_t i = 0; i < s->listeners_n; i++) {
        const struct listener *l = &s->listeners[i];
        char host[INET6_ADDRSTRLEN];
        bool six = l->addr.ss_family == AF_INET6;
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&l->addr;
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&l->addr;
        const void *address = six ? (const void *)&in6->sin6_addr : (const void *)&in->sin_addr;
        if (l->range_n == 0 || inet_ntop(l->addr.ss_family, address, host, sizeof(host)) == NULL)
            continue;
        (void)printf("%s\"%s%s%s:%u", comma, six ? "[" : "", host, six ? "]" : "",
                     ntohs(in->sin_port));
        if (l->range_n > 1)
            (void)printf("/%zu", l->range_n);
        (void)printf("\"");
        comma = ",";
    }
    (void)printf("]}\n");
    (void)fflush(stdout);
}
