/* The request: libcurl's options, set once per handle; what changes, set for each transfer; and the
 * gates where the address policy sees every connection. Owns no memory; called by transport.c, and
 * back by libcurl. Reasons: practices 5 and 6, measurements.
 *
 * Names never reach libcurl's resolver: the vetted address is pinned in its DNS cache before each
 * transfer, and when the pin is gone the resolver-start gate refuses. That cache is swept by the
 * end of one transfer a second and shard, not by each (the sweep walks all of it). libcurl repeats
 * a POST by itself, at most five times, when a kept connection dies before any byte of the answer:
 * each repetition passes the same gates; transfer.sends counts them. */
#include "transport_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"

/* Second gate: the address that connect() will get. */
static curl_socket_t on_open_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *to)
{
    (void)purpose;
    struct transfer *x = ctx;
    CHECK_MAGIC(x, TRANSFER_MAGIC);
    netguard_format(&to->addr, x->peer);
    const char *reason = NULL;
    if (!netguard_allows(x->t->guard, &to->addr, &reason)) {
        x->denied = reason;
        return CURL_SOCKET_BAD;
    }
    const int fd = socket(to->family, to->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, to->protocol);
    if (fd == -1) {
        x->socket_errno = errno;
        return CURL_SOCKET_BAD;
    }
    struct transport *t = x->t;
    t->stats.connections_opened++;
    if (++t->connections >= t->connections_max) {
        t->crowded = true;
    }
    return fd;
}

static bool parse_address(const char *text, struct sockaddr_storage *ret)
{
    struct sockaddr_in *v4 = (void *)ret;
    struct sockaddr_in6 *v6 = (void *)ret;
    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        ret->ss_family = AF_INET;
        return true;
    }
    ret->ss_family = AF_INET6;
    return inet_pton(AF_INET6, text, &v6->sin6_addr) == 1;
}

/* Third gate: before each request, on new and kept connections alike. */
// NOLINTNEXTLINE(readability-non-const-parameter): libcurl's signature
static int on_before_request(void *ctx, char *peer, char *local, int peer_port, int local_port)
{
    (void)local;
    (void)peer_port;
    (void)local_port;
    struct transfer *x = ctx;
    CHECK_MAGIC(x, TRANSFER_MAGIC);
    struct sockaddr_storage address;
    const char *reason = "not an address";
    (void)snprintf(x->peer, sizeof(x->peer), "%s", peer);
    if (!parse_address(peer, &address) ||
        !netguard_allows(x->t->guard, (struct sockaddr *)&address, &reason)) {
        x->denied = reason;
        return CURL_PREREQFUNC_ABORT;
    }
    x->sends++;
    return CURL_PREREQFUNC_OK;
}

/* Called only when the name is not in libcurl's DNS cache; also for address literals, which need no
 * look-up. */
static int on_resolver_start(void *resolver, void *reserved, void *ctx)
{
    (void)resolver;
    (void)reserved;
    struct transfer *x = ctx;
    CHECK_MAGIC(x, TRANSFER_MAGIC);
    if (x->endpoint->is_address) {
        return 0;
    }
    x->unpinned = true;
    return 1;
}

/* Called when TCP is connected and TLS begins: what a timeout then says (CURLINFO_CONNECT_TIME
 * includes TLS in 7.88). */
static CURLcode on_tls_start(CURL *easy, void *ssl_ctx, void *ctx)
{
    (void)easy;
    (void)ssl_ctx;
    struct transfer *x = ctx;
    CHECK_MAGIC(x, TRANSFER_MAGIC);
    x->tls_started = true;
    return CURLE_OK;
}

static void set(bool *ok, CURLcode code)
{
    *ok = *ok && code == CURLE_OK;
}

static void set_limits(CURL *e, bool *ok)
{
    set(ok, curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https"));
    set(ok, curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L));
    set(ok, curl_easy_setopt(e, CURLOPT_PROXY, "")); /* not from the environment */
    set(ok, curl_easy_setopt(e, CURLOPT_NOPROXY, "*"));
    set(ok, curl_easy_setopt(e, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L));
    set(ok, curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L));
    set(ok, curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L));
    set(ok, curl_easy_setopt(e, CURLOPT_BUFFERSIZE, TRANSPORT_BUFFER));
    set(ok, curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, TRANSPORT_UPLOAD_BUFFER));
    set(ok, curl_easy_setopt(e, CURLOPT_MAXAGE_CONN, TRANSPORT_IDLE_S));
    set(ok, curl_easy_setopt(e, CURLOPT_MAXLIFETIME_CONN, TRANSPORT_LIFETIME_S));
    set(ok, curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L));
    set(ok, curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 0L));
}

static void set_tls(CURL *e, const struct transport *t, bool *ok)
{
    set(ok, curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2));
    set(ok, curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L));
    set(ok, curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L));
    set(ok, curl_easy_setopt(e, CURLOPT_CAINFO, t->ca_file));
    set(ok, curl_easy_setopt(e, CURLOPT_CAPATH,
                             NULL)); /* or the CA file is parsed for each handshake */
    set(ok, curl_easy_setopt(e, CURLOPT_CA_CACHE_TIMEOUT, 24L * 3600));
    /* libcurl keeps sessions per handle, and our handles are shared by all hosts: no hits, much
     * memory. */
    set(ok, curl_easy_setopt(e, CURLOPT_SSL_SESSIONID_CACHE, 0L));
}

static void set_callbacks(CURL *e, struct transfer *x, bool *ok)
{
    set(ok, curl_easy_setopt(e, CURLOPT_PRIVATE, x));
    set(ok, curl_easy_setopt(e, CURLOPT_ERRORBUFFER, x->error));
    set(ok, curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, answer_header));
    set(ok, curl_easy_setopt(e, CURLOPT_HEADERDATA, x));
    set(ok, curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, answer_body));
    set(ok, curl_easy_setopt(e, CURLOPT_WRITEDATA, x));
    set(ok, curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, on_open_socket));
    set(ok, curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, x));
    set(ok, curl_easy_setopt(e, CURLOPT_CLOSESOCKETFUNCTION, transport_close_socket));
    set(ok, curl_easy_setopt(e, CURLOPT_CLOSESOCKETDATA, x->t)); /* outlives the transfer */
    set(ok, curl_easy_setopt(e, CURLOPT_PREREQFUNCTION, on_before_request));
    set(ok, curl_easy_setopt(e, CURLOPT_PREREQDATA, x));
    set(ok, curl_easy_setopt(e, CURLOPT_SSL_CTX_FUNCTION, on_tls_start));
    set(ok, curl_easy_setopt(e, CURLOPT_SSL_CTX_DATA, x));
    set(ok, curl_easy_setopt(e, CURLOPT_RESOLVER_START_FUNCTION, on_resolver_start));
    set(ok, curl_easy_setopt(e, CURLOPT_RESOLVER_START_DATA, x));
}

/* Copies a line behind the others; NULL when it has a line break (it would forge a header) or there
 * is no room. */
static char *add_line(struct transfer *x, size_t *used, const char *line)
{
    const size_t len = strcspn(line, "\r\n");
    if (line[len] != '\0' || len >= sizeof(x->text) - *used) {
        return NULL;
    }
    char *copy = x->text + *used;
    memcpy(copy, line, len + 1);
    *used += len + 1;
    return copy;
}

bool transfer_init(struct transfer *x, struct transport *t)
{
    x->magic = TRANSFER_MAGIC;
    x->t = t;
    x->easy = curl_easy_init();
    if (x->easy == NULL) {
        return false;
    }
    bool ok = true;
    set_limits(x->easy, &ok);
    set_tls(x->easy, t, &ok);
    set_callbacks(x->easy, x, &ok);
    set(&ok, curl_easy_setopt(x->easy, CURLOPT_POST, 1L));
    set(&ok, curl_easy_setopt(x->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1));
    set(&ok, curl_easy_setopt(x->easy, CURLOPT_USERAGENT, t->user_agent));
    return ok;
}

static bool set_headers(struct transfer *x, const struct transport_request *req)
{
    static const char *const fixed[TRANSPORT_FIXED_HEADERS] = {"Content-Type: application/json",
                                                               "Accept:", "Expect:"};
    CHECK(req->n_headers <= TRANSPORT_HEADERS_MAX);
    size_t used = 0;
    const unsigned n = TRANSPORT_FIXED_HEADERS + req->n_headers;
    for (unsigned i = 0; i < n; i++) {
        const bool is_fixed = i < TRANSPORT_FIXED_HEADERS;
        x->nodes[i].data =
            add_line(x, &used, is_fixed ? fixed[i] : req->headers[i - TRANSPORT_FIXED_HEADERS]);
        x->nodes[i].next = i + 1 < n ? &x->nodes[i + 1] : NULL;
        if (x->nodes[i].data == NULL) {
            x->refused = "a request header has a line break or is too long";
            return false;
        }
    }
    return curl_easy_setopt(x->easy, CURLOPT_HTTPHEADER, x->nodes) == CURLE_OK;
}

/* First gate's result: the one address that the caller vetted. The `+` form is keyed by host, so
 * that connections are kept by name (measurements), and it replaces what an earlier transfer
 * pinned. */
static bool set_pin(struct transfer *x, const struct transport_request *req)
{
    const struct endpoint *e = req->endpoint;
    struct curl_slist *list = NULL;
    if (!e->is_address) {
        char address[NETGUARD_TEXT];
        netguard_format((const struct sockaddr *)req->address, address);
        const bool v6 = req->address->ss_family == AF_INET6;
        const int len = snprintf(x->pin, sizeof(x->pin), v6 ? "+%s:%u:[%s]" : "+%s:%u:%s", e->host,
                                 (unsigned)e->port, address);
        CHECK(len > 0 && (size_t)len < sizeof(x->pin));
        x->pin_node = (struct curl_slist){.data = x->pin, .next = NULL};
        list = &x->pin_node;
    }
    struct shard *s = x->shard;
    long keep_s = -1; /* neither expires nor sweeps */
    if (++s->pins > TRANSPORT_PINS_MAX) {
        keep_s = 1;
    } else if (x->started_us - s->swept_us >= TRANSPORT_SWEEP_US) {
        keep_s = TRANSPORT_PIN_S;
    }
    if (keep_s > 0) {
        s->pins = 0, s->swept_us = x->started_us;
    }
    return curl_easy_setopt(x->easy, CURLOPT_RESOLVE, list) == CURLE_OK &&
           curl_easy_setopt(x->easy, CURLOPT_DNS_CACHE_TIMEOUT, keep_s) == CURLE_OK;
}

void transfer_prepare(struct transfer *x, const struct transport_request *req)
{
    CURL *e = x->easy;
    bool ok = set_headers(x, req) && set_pin(x, req);
    set(&ok, curl_easy_setopt(e, CURLOPT_URL, req->endpoint->url));
    /* a NULL body would make libcurl read standard input */
    set(&ok, curl_easy_setopt(e, CURLOPT_POSTFIELDS, req->body_len > 0 ? req->body : ""));
    set(&ok, curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)req->body_len));
    set(&ok, curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)req->timeout_ms));
    set(&ok, curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)x->connect_ms));
    if (!ok && x->refused == NULL) {
        x->refused = "libcurl does not take the request";
    }
}

void transfer_forget(struct transfer *x)
{
    bool ok = true;
    set(&ok, curl_easy_setopt(x->easy, CURLOPT_POSTFIELDS, ""));
    set(&ok, curl_easy_setopt(x->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)0));
    set(&ok, curl_easy_setopt(x->easy, CURLOPT_HTTPHEADER, NULL));
    set(&ok, curl_easy_setopt(x->easy, CURLOPT_RESOLVE, NULL));
    CHECK(ok);
}
