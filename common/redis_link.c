/* One connection to Redis below the commands: connect, TLS, bytes in and out, and the words for
 * what breaks. Owns the hiredis context. Knows no command, no timer and no event: redis.c has
 * those. hiredis gets an address and never a host name, which it would ask for with a blocking
 * getaddrinfo(): each try looks the name up anew (store_address.c). Certificates are compared with
 * the name. */
#include "redis_link.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"
#include "redis_tls.h"
#include "store_address.h"

#define LINK_MAGIC 0x726c696eu

struct err redis_fault(enum err_code code, const char *what, const char *text)
{
    struct err err = {.code = ERR_NONE};
    (void)err_set(&err, code, "Redis: %s%s%s", what, *text == '\0' ? "" : ": ", text);
    err.retriable = true;
    err.ours = true;
    return err;
}

bool redis_link_init(struct redis_link *l, const struct redis_url *url, struct err *err)
{
    *l = (struct redis_link){.magic = LINK_MAGIC, .url = url};
    if (!url->tls) {
        return true;
    }
    l->tls = redis_tls_new(url, err);
    return l->tls != NULL;
}

void redis_link_done(struct redis_link *l)
{
    redis_link_close(l);
    redis_tls_free(l->tls), l->tls = NULL;
    l->magic = 0;
}

/* address: NULL for a unix socket. */
static void connect_to(struct redis_link *l, const char *address)
{
    struct err err = {.code = ERR_NONE};
    l->conn = address == NULL ? redisConnectUnixNonBlock(l->url->path)
                              : redisConnectNonBlock(address, l->url->port);
    CHECK(l->conn != NULL); /* no memory */
    if (l->conn->err != 0) {
        err = redis_fault(ERR_IO, "cannot connect", l->conn->errstr);
        l->opened(l->ctx, &err);
        return;
    }
    (void)fcntl(l->conn->fd, F_SETFD, FD_CLOEXEC); /* cannot fail on an open descriptor */
    if (address != NULL) { /* hiredis 1.0 and later leave it to their async layer */
        const int on = 1;
        (void)setsockopt(l->conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    l->opened(l->ctx, &err);
}

static void on_found(void *ctx, const struct store_host *host, unsigned n)
{
    struct redis_link *l = ctx;
    CHECK_MAGIC(l, LINK_MAGIC);
    CHECK(n == 1);
    l->lookup = NULL;
    if (host->n == 0) {
        struct err err = redis_fault(host->err.code, "cannot connect", host->err.text);
        l->opened(l->ctx, &err);
        return;
    }
    connect_to(l, store_address_pick(host, l->turn));
}

void redis_link_open(struct redis_link *l, struct event_base *base, redis_link_fn *fn, void *ctx)
{
    const char *host = l->url->host;
    CHECK(l->conn == NULL && l->lookup == NULL);
    l->opened = fn;
    l->ctx = ctx;
    if (host == NULL || store_address_is_given(host)) {
        connect_to(l, host);
    } else {
        l->lookup = store_lookup_new(base, &host, 1, on_found, l);
    }
}

enum redis_step redis_link_go_on(struct redis_link *l, struct err *err)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(l->conn->fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1) {
        error = errno;
    }
    if (error != 0) {
        *err = redis_fault(ERR_IO, "cannot connect", strerror(error));
        return REDIS_STEP_FAILED;
    }
    return l->tls != NULL ? redis_tls_go_on(l->tls, l->conn, err) : REDIS_STEP_DONE;
}

const char *redis_link_stage(const struct redis_link *l)
{
    return l->tls != NULL && redis_tls_begun(l->tls) ? "the TLS handshake has no end" : "";
}

void redis_link_close(struct redis_link *l)
{
    store_lookup_cancel(l->lookup), l->lookup = NULL;
    if (l->tls != NULL) {
        redis_tls_forget(l->tls);
    }
    if (l->conn != NULL) {
        redisFree(l->conn), l->conn = NULL;
    }
}

/* hiredis says of TLS only that it failed. */
static bool lost(const struct redis_link *l, const char *what, struct err *err)
{
    const char *why = l->conn->errstr;
    *err = redis_fault(ERR_IO, what, l->tls != NULL ? redis_tls_reason(l->tls, why) : why);
    return false;
}

/* The queue of errors is the thread's, and OpenSSL takes what somebody else left there for a
 * failure of this connection. */
static void clear_queue(const struct redis_link *l)
{
    if (l->tls != NULL) {
        ERR_clear_error();
    }
}

bool redis_link_read(struct redis_link *l, struct err *err)
{
    do {
        clear_queue(l);
        if (redisBufferRead(l->conn) != REDIS_OK) {
            return lost(l, "connection lost", err);
        }
    } while (l->tls != NULL && redis_tls_has_more(l->tls)); /* which the loop would not tell of */
    return true;
}

bool redis_link_write(struct redis_link *l, bool *done, struct err *err)
{
    int all = 0;
    clear_queue(l);
    if (redisBufferWrite(l->conn, &all) != REDIS_OK) {
        return lost(l, "cannot send", err);
    }
    *done = all != 0;
    return true;
}
