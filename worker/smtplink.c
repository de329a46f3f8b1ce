/* libcurl connects, encrypts and authenticates (CONNECT_ONLY on its multi_socket interface); the
 * mail itself goes through curl_easy_send() and curl_easy_recv(). Two things that libcurl 7.88
 * would do to the loop otherwise:
 * - Its own upload of a mail waits inside the call for the answer to the final dot, and for the
 * answer to QUIT, as long as the server likes (measured). A connect-only connection it closes
 * without a word.
 * - It resolves names in a thread of its own and joins that thread when a transfer ends first.
 * QUICK_EXIT leaves the thread behind instead: one for each look-up that hangs, of a name that the
 * operator chose. The resolver of common/ is not used because a mail server's name may stand in
 * /etc/hosts or need a search domain, and the address policy is for outsiders' URLs. Owns libcurl's
 * handles, their descriptors and events; called by smtp.c. */
#include "smtplink.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "check.h"
#include "mem.h"
#include "mime.h"
#include "pgarray.h"

#define LINK_MAGIC 0x6c696e6bu

enum link_state { LINK_CLOSED, LINK_CONNECTING, LINK_UP };

struct smtplink {
    unsigned magic;
    enum link_state state;
    struct event_base *base;
    struct smtplink_handlers on;
    char *url; /* without user info */
    char *user;
    char *password;
    char *ca_file;
    bool demand_tls;
    long connect_timeout_ms;

    CURLM *multi; /* the handles live from open to close */
    CURL *easy;
    struct event *timer;
    struct event *readable, *writable; /* while up */
    char error[CURL_ERROR_SIZE];
    char line[SMTP_TEXT]; /* the server's last one while connecting */
};

static struct smtplink *link_of(void *ctx)
{
    struct smtplink *l = ctx;
    CHECK_MAGIC(l, LINK_MAGIC);
    return l;
}

/* --- libcurl's sockets and timer -------------------------------------------------------- */

static void run(struct smtplink *l, curl_socket_t fd, int mask);

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    run(link_of(ctx), CURL_SOCKET_TIMEOUT, 0);
}

static void on_socket(evutil_socket_t fd, short what, void *ctx)
{
    int mask = (what & EV_READ) != 0 ? CURL_CSELECT_IN : 0;
    mask |= (what & EV_WRITE) != 0 ? CURL_CSELECT_OUT : 0;
    run(link_of(ctx), fd, mask);
}

static int on_curl_timer(CURLM *multi, long timeout_ms, void *ctx)
{
    (void)multi;
    struct smtplink *l = link_of(ctx);
    if (timeout_ms < 0) {
        (void)event_del(l->timer); /* fails only for an event that is not registered */
    } else {
        const struct timeval tv = {.tv_sec = timeout_ms / 1000,
                                   .tv_usec = timeout_ms % 1000 * 1000};
        CHECK(event_add(l->timer, &tv) == 0);
    }
    return 0;
}

/* Also for descriptors that are not connections (its resolver's). socket_ctx: the event. */
static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    (void)easy;
    struct smtplink *l = link_of(ctx);
    if (socket_ctx != NULL) {
        event_free(socket_ctx);
    }
    struct event *ev = NULL;
    if (what != CURL_POLL_REMOVE) {
        const int mask = ((what & CURL_POLL_IN) != 0 ? EV_READ : 0) |
                         ((what & CURL_POLL_OUT) != 0 ? EV_WRITE : 0) | EV_PERSIST;
        ev = event_new(l->base, fd, (short)mask, on_socket, l);
        CHECK(ev != NULL && event_add(ev, NULL) == 0);
    }
    CHECK(curl_multi_assign(l->multi, fd, ev) == CURLM_OK);
    return 0;
}

static curl_socket_t on_open(void *ctx, curlsocktype purpose, struct curl_sockaddr *to)
{
    (void)ctx, (void)purpose;
    const int fd = socket(to->family, to->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, to->protocol);
    return fd == -1 ? CURL_SOCKET_BAD : fd;
}

/* Every line that the server says to libcurl. */
static size_t on_line(char *data, size_t size, size_t n, void *ctx)
{
    struct smtplink *l = link_of(ctx);
    size_t len = size * n;
    while (len > 0 && (data[len - 1] == '\n' || data[len - 1] == '\r')) {
        len--;
    }
    (void)pgarray_clean_text(data, len, l->line, sizeof(l->line));
    return size * n;
}

/* --- the handles ------------------------------------------------------------------------ */

static void set(bool *ok, CURLcode code)
{
    *ok = *ok && code == CURLE_OK;
}

static bool set_options(struct smtplink *l)
{
    CURL *e = l->easy;
    bool ok = true;
    set(&ok, curl_easy_setopt(e, CURLOPT_CONNECT_ONLY, 1L));
    set(&ok, curl_easy_setopt(e, CURLOPT_URL, l->url));
    set(&ok, curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "smtp,smtps"));
    set(&ok, curl_easy_setopt(e, CURLOPT_PROXY, "")); /* not from the environment */
    set(&ok, curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L));
    set(&ok, curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L));
    set(&ok, curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, l->connect_timeout_ms));
    set(&ok, curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, l->connect_timeout_ms));
    set(&ok, curl_easy_setopt(e, CURLOPT_USE_SSL,
                              (long)(l->demand_tls ? CURLUSESSL_ALL : CURLUSESSL_NONE)));
    set(&ok, curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2));
    set(&ok, curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L));
    set(&ok, curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L));
    set(&ok, curl_easy_setopt(e, CURLOPT_CAINFO, l->ca_file));
    set(&ok, curl_easy_setopt(e, CURLOPT_CAPATH, NULL));
    set(&ok, curl_easy_setopt(e, CURLOPT_USERNAME, l->user));
    set(&ok, curl_easy_setopt(e, CURLOPT_PASSWORD, l->password));
    set(&ok, curl_easy_setopt(e, CURLOPT_ERRORBUFFER, l->error));
    set(&ok, curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, on_open));
    set(&ok, curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_line));
    set(&ok, curl_easy_setopt(e, CURLOPT_HEADERDATA, l));
    return ok;
}

static void open_handles(struct smtplink *l)
{
    l->multi = curl_multi_init();
    l->easy = curl_easy_init();
    CHECK(l->multi != NULL && l->easy != NULL); /* without memory */
    CHECK(curl_multi_setopt(l->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket) == CURLM_OK);
    CHECK(curl_multi_setopt(l->multi, CURLMOPT_SOCKETDATA, l) == CURLM_OK);
    CHECK(curl_multi_setopt(l->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer) == CURLM_OK);
    CHECK(curl_multi_setopt(l->multi, CURLMOPT_TIMERDATA, l) == CURLM_OK);
    CHECK(set_options(l));
    CHECK(curl_multi_add_handle(l->multi, l->easy) ==
          CURLM_OK); /* its timer starts it, in the next turn */
}

static void free_event(struct event **ev)
{
    if (*ev != NULL) {
        event_free(*ev), *ev = NULL;
    }
}

void smtplink_close(struct smtplink *l)
{
    CHECK_MAGIC(l, LINK_MAGIC);
    if (l->state == LINK_CLOSED) {
        return;
    }
    l->state = LINK_CLOSED;
    free_event(&l->readable);
    free_event(&l->writable);
    CHECK(curl_multi_remove_handle(l->multi, l->easy) == CURLM_OK);
    curl_easy_cleanup(l->easy), l->easy = NULL;
    CHECK(curl_multi_cleanup(l->multi) == CURLM_OK);
    l->multi = NULL;
    (void)event_del(l->timer); /* fails only for an event that is not registered */
}

/* --- connecting ------------------------------------------------------------------------- */

static void on_readable(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct smtplink *l = link_of(ctx);
    l->on.readable(l->on.ctx);
}

static void on_writable(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    struct smtplink *l = link_of(ctx);
    l->on.writable(l->on.ctx);
}

static void give_up(struct smtplink *l, const char *what)
{
    char line[SMTP_TEXT];
    memcpy(line, l->line, sizeof(line));
    smtplink_close(l);
    l->on.failed(l->on.ctx, what, line);
}

static void come_up(struct smtplink *l)
{
    curl_socket_t fd = CURL_SOCKET_BAD;
    if (curl_easy_getinfo(l->easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK ||
        fd == CURL_SOCKET_BAD) {
        give_up(l, "the server closed the connection");
        return;
    }
    l->readable = event_new(l->base, fd, EV_READ | EV_PERSIST, on_readable, l);
    l->writable = event_new(l->base, fd, EV_WRITE, on_writable, l);
    CHECK(l->readable != NULL && l->writable != NULL && event_add(l->readable, NULL) == 0);
    l->state = LINK_UP;
    l->on.up(l->on.ctx);
}

static void run(struct smtplink *l, curl_socket_t fd, int mask)
{
    int running = 0;
    int left = 0;
    CHECK(curl_multi_socket_action(l->multi, fd, mask, &running) == CURLM_OK);
    const CURLMsg *msg = curl_multi_info_read(l->multi, &left);
    if (msg == NULL) {
        return;
    }
    CHECK(msg->msg == CURLMSG_DONE && l->state == LINK_CONNECTING);
    const CURLcode code = msg->data.result;
    if (code == CURLE_OK) {
        come_up(l);
    } else {
        give_up(l, l->error[0] != '\0' ? l->error : curl_easy_strerror(code));
    }
}

/* --- bytes ------------------------------------------------------------------------------ */

void smtplink_open(struct smtplink *l)
{
    CHECK_MAGIC(l, LINK_MAGIC);
    CHECK(l->state == LINK_CLOSED);
    l->state = LINK_CONNECTING;
    l->error[0] = l->line[0] = '\0';
    open_handles(l);
}

bool smtplink_is_up(const struct smtplink *l)
{
    return l->state == LINK_UP;
}

void smtplink_want_write(struct smtplink *l)
{
    CHECK(l->state == LINK_UP);
    CHECK(event_add(l->writable, NULL) == 0);
}

static enum smtplink_io io_of(CURLcode code, const char **ret_why)
{
    if (code == CURLE_OK || code == CURLE_AGAIN) {
        return code == CURLE_OK ? SMTPLINK_DONE : SMTPLINK_AGAIN;
    }
    *ret_why = curl_easy_strerror(code);
    return SMTPLINK_BROKEN;
}

enum smtplink_io smtplink_write(struct smtplink *l, const char *data, size_t len, size_t *ret_n,
                                const char **ret_why)
{
    CHECK(l->state == LINK_UP);
    return io_of(curl_easy_send(l->easy, data, len, ret_n), ret_why);
}

enum smtplink_io smtplink_read(struct smtplink *l, char *data, size_t room, size_t *ret_n,
                               const char **ret_why)
{
    CHECK(l->state == LINK_UP && room > 0);
    const enum smtplink_io io = io_of(curl_easy_recv(l->easy, data, room, ret_n), ret_why);
    if (io == SMTPLINK_DONE && *ret_n == 0) {
        *ret_why = "the server closed the connection";
        return SMTPLINK_BROKEN;
    }
    return io;
}

/* --- the URL ---------------------------------------------------------------------------- */

static bool is_loopback(const char *host)
{
    struct in_addr v4;
    return strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
           (inet_pton(AF_INET, host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127);
}

/* A part of the URL in our own memory; NULL: it has none, or one that does not decode (*ok false).
 */
static char *take_part(CURLU *u, CURLUPart part, unsigned flags, bool *ok)
{
    char *text = NULL;
    const CURLUcode rc = curl_url_get(u, part, &text, flags);
    char *copy = rc == CURLUE_OK ? mem_dup(text) : NULL;
    *ok = *ok && (rc == CURLUE_OK || rc == CURLUE_NO_USER || rc == CURLUE_NO_PASSWORD ||
                  rc == CURLUE_NO_QUERY || rc == CURLUE_NO_FRAGMENT);
    if (text != NULL) {
        OPENSSL_cleanse(text, strlen(text));
    }
    curl_free(text);
    return copy;
}

/* The path is the name for EHLO. */
static bool set_name(CURLU *u, const char *path, const char *from)
{
    char probe[MIME_ADDRESS_MAX + 1];
    if (strcmp(path, "/") == 0) {
        return curl_url_set(u, CURLUPART_PATH, mime_domain_of(from), 0) == CURLUE_OK;
    }
    const int len = snprintf(probe, sizeof(probe), "x@%s", path + 1);
    return len > 0 && (size_t)len < sizeof(probe) && mime_address_ok(probe);
}

static bool parse_url(struct smtplink *l, CURLU *u, const char *from)
{
    bool ok = true;
    char *scheme = take_part(u, CURLUPART_SCHEME, 0, &ok);
    char *host = take_part(u, CURLUPART_HOST, 0, &ok);
    char *path = take_part(u, CURLUPART_PATH, 0, &ok);
    char *query = take_part(u, CURLUPART_QUERY, 0, &ok);
    char *fragment = take_part(u, CURLUPART_FRAGMENT, 0, &ok);
    l->user = take_part(u, CURLUPART_USER, CURLU_URLDECODE, &ok);
    l->password = take_part(u, CURLUPART_PASSWORD, CURLU_URLDECODE, &ok);
    ok = ok && query == NULL && fragment == NULL && host[0] != '\0' &&
         (strcmp(scheme, "smtp") == 0 || strcmp(scheme, "smtps") == 0) &&
         (l->user != NULL || l->password == NULL) && set_name(u, path, from) &&
         curl_url_set(u, CURLUPART_USER, NULL, 0) == CURLUE_OK &&
         curl_url_set(u, CURLUPART_PASSWORD, NULL, 0) == CURLUE_OK;
    if (ok) {
        l->demand_tls = !is_loopback(host);
        l->url = take_part(u, CURLUPART_URL, 0, &ok);
    }
    free(scheme), free(host), free(path), free(query), free(fragment);
    return ok;
}

static bool take_url(struct smtplink *l, const char *url, const char *from)
{
    CURLU *u = curl_url();
    CHECK(u != NULL); /* without memory */
    const bool ok = curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK &&
                    parse_url(l, u, from);
    curl_url_cleanup(u);
    return ok;
}

struct smtplink *smtplink_new(struct event_base *base, const struct smtp_config *cfg,
                              const struct smtplink_handlers *handlers, struct err *err)
{
    struct smtplink *l = mem_zero(1, sizeof(*l));
    l->magic = LINK_MAGIC;
    l->base = base;
    l->on = *handlers;
    l->ca_file = mem_dup(cfg->ca_file);
    l->connect_timeout_ms = (long)cfg->connect_timeout_ms;
    l->timer = evtimer_new(base, on_timer, l);
    CHECK(l->timer != NULL);
    if (!take_url(l, cfg->url, cfg->from)) {
        err_set(err, ERR_INVALID,
                "the mail server's URL is not smtp://[user:password@]host[:port][/name] or "
                "smtps://...");
        smtplink_free(l);
        return NULL;
    }
    return l;
}

void smtplink_free(struct smtplink *l)
{
    if (l == NULL) {
        return;
    }
    smtplink_close(l);
    if (l->password != NULL) {
        OPENSSL_cleanse(l->password, strlen(l->password));
    }
    event_free(l->timer), l->timer = NULL;
    free(l->url), free(l->user), free(l->password), free(l->ca_file);
    l->magic = 0;
    free(l);
}
