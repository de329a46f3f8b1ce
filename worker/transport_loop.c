/* libcurl's multi_socket interface on libevent. Owns the shards' timers and the registration of
 * every descriptor of libcurl; knows nothing of requests and answers. Called by transport.c, by the
 * loop, and back by libcurl.
 *
 * Registration is lazy: libcurl drops a descriptor after each answer and takes it again for the
 * next request on the same connection. We keep it registered for reading meanwhile and remove it
 * only when the peer speaks or closes, or when libcurl closes it. libcurl never closes a socket
 * behind our back: CLOSESOCKETFUNCTION is part of each connection. The timer is lazy too: it is
 * armed at the earliest time ever asked for, and re-armed when it fires too early. */
#include "transport_internal.h"

#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"
#include "mem.h"

static void arm_timer(struct shard *s)
{
    if (s->wake_us < 0 || (s->armed_us >= 0 && s->armed_us <= s->wake_us)) {
        return;
    }
    int64_t in_us = s->wake_us - clock_mono_us();
    in_us = in_us < 0 ? 0 : in_us;
    const struct timeval tv = {.tv_sec = in_us / 1000000, .tv_usec = in_us % 1000000};
    CHECK(event_add(&s->timer, &tv) == 0);
    s->armed_us = s->wake_us;
}

/* Follows every call into libcurl that may have ended a transfer or moved a deadline. */
static void settle(struct shard *s)
{
    arm_timer(s);
    transport_touch(s->t, s);
}

static void act(struct shard *s, curl_socket_t fd, int mask)
{
    int running = 0;
    CHECK(curl_multi_socket_action(s->multi, fd, mask, &running) == CURLM_OK);
    settle(s);
}

static int on_curl_timer(CURLM *multi, long timeout_ms, void *ctx)
{
    (void)multi;
    struct shard *s = ctx;
    CHECK_MAGIC(s, SHARD_MAGIC);
    s->wake_us = timeout_ms < 0 ? -1 : clock_mono_us() + (int64_t)timeout_ms * 1000;
    return 0;
}

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    struct shard *s = ctx;
    CHECK_MAGIC(s, SHARD_MAGIC);
    s->armed_us = -1;
    if (s->wake_us >= 0 && s->wake_us <= clock_mono_us()) {
        shard_run(s);
    } else {
        arm_timer(s);
    }
}

static void disarm(struct watch *w)
{
    if (w->armed != 0) {
        (void)event_del(&w->ev); /* fails only for an event that is not registered */
        w->armed = 0;
    }
}

static void on_socket(evutil_socket_t fd, short what, void *ctx)
{
    struct watch *w = ctx;
    CHECK_MAGIC(w, WATCH_MAGIC);
    if (w->want ==
        0) { /* the peer of an idle connection closed it: libcurl finds out before the next use */
        disarm(w);
        return;
    }
    int mask = (what & EV_READ) != 0 ? CURL_CSELECT_IN : 0;
    mask |= (what & EV_WRITE) != 0 ? CURL_CSELECT_OUT : 0;
    act(w->shard, fd, mask);
}

static struct watch *watch_get(struct transport *t, int fd)
{
    CHECK(fd >= 0);
    const size_t i = (size_t)fd;
    if (i >= t->n_watches) {
        const size_t n = (i | 255) + 1;
        t->watches = mem_grow(t->watches, n, sizeof(void *));
        while (t->n_watches < n) {
            t->watches[t->n_watches++] = NULL;
        }
    }
    if (t->watches[i] == NULL) {
        t->watches[i] = mem_zero(1, sizeof(struct watch));
        t->watches[i]->magic = WATCH_MAGIC;
        t->watches[i]->fd = fd;
    }
    return t->watches[i];
}

void transport_watch_free(struct transport *t)
{
    for (size_t i = 0; i < t->n_watches; i++) {
        if (t->watches[i] != NULL) {
            disarm(t->watches[i]);
            free(t->watches[i]);
        }
    }
    free(t->watches);
    t->watches = NULL, t->n_watches = 0;
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    (void)easy;
    (void)socket_ctx;
    struct shard *s = ctx;
    CHECK_MAGIC(s, SHARD_MAGIC);
    struct watch *w = watch_get(s->t, fd);
    w->shard = s;
    w->want = 0;
    if (what != CURL_POLL_REMOVE) {
        w->want = (short)(((what & CURL_POLL_IN) != 0 ? EV_READ : 0) |
                          ((what & CURL_POLL_OUT) != 0 ? EV_WRITE : 0));
    }
    if (w->want == w->armed || (w->want == 0 && w->armed == EV_READ)) {
        return 0;
    }
    disarm(w);
    if (w->want != 0) {
        CHECK(event_assign(&w->ev, s->t->base, fd, (short)(w->want | EV_PERSIST), on_socket, w) ==
              0);
        CHECK(event_add(&w->ev, NULL) == 0);
        w->armed = w->want;
    }
    return 0;
}

int transport_close_socket(void *ctx, curl_socket_t fd)
{
    struct transport *t = ctx;
    CHECK_MAGIC(t, TRANSPORT_MAGIC);
    struct watch *w = watch_get(t, fd);
    disarm(w);
    w->want = 0;
    t->connections--;
    if (t->crowded && t->connections < t->connections_max - t->connections_max / 8) {
        t->crowded =
            false; /* libcurl is told at the end of the turn: not from inside its own callback */
    }
    return close(fd);
}

/* libcurl closes the longest idle connection of a shard when a finished one comes back above this
 * maximum. While there is room a busy shard may use what the others do not. */
void transport_share_connections(struct transport *t)
{
    const unsigned share = (t->connections_max + t->n_shards - 1) / t->n_shards;
    const long max = (long)(t->crowded ? share : t->connections_max);
    for (unsigned i = 0; i < t->n_shards; i++) {
        CHECK(curl_multi_setopt(t->shards[i].multi, CURLMOPT_MAXCONNECTS, max) == CURLM_OK);
    }
}

bool shard_init(struct shard *s, struct transport *t, struct err *err)
{
    s->magic = SHARD_MAGIC;
    s->t = t;
    s->wake_us = s->armed_us = -1;
    CHECK(evtimer_assign(&s->timer, t->base, on_timer, s) == 0);
    s->multi = curl_multi_init();
    if (s->multi == NULL) {
        return err_set(err, ERR_IO, "libcurl: no multi handle (memory or descriptors)");
    }
    CHECK(curl_multi_setopt(s->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket) == CURLM_OK);
    CHECK(curl_multi_setopt(s->multi, CURLMOPT_SOCKETDATA, s) == CURLM_OK);
    CHECK(curl_multi_setopt(s->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer) == CURLM_OK);
    CHECK(curl_multi_setopt(s->multi, CURLMOPT_TIMERDATA, s) == CURLM_OK);
    /* The lanes decide who waits: libcurl's own queue is one FIFO for all hosts (practices 0.3). */
    CHECK(curl_multi_setopt(s->multi, CURLMOPT_MAX_HOST_CONNECTIONS, 0L) == CURLM_OK);
    CHECK(curl_multi_setopt(s->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, 0L) == CURLM_OK);
    CHECK(curl_multi_setopt(s->multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING) == CURLM_OK);
    return true;
}

void shard_done(struct shard *s)
{
    if (s->multi != NULL) {
        CHECK(curl_multi_cleanup(s->multi) == CURLM_OK);
        s->multi = NULL;
    }
    if (s->magic == SHARD_MAGIC) {
        (void)event_del(&s->timer); /* fails only for an event that is not registered */
        s->magic = 0;
    }
}

bool shard_add(struct shard *s, struct transfer *x)
{
    return curl_multi_add_handle(s->multi, x->easy) == CURLM_OK;
}

void shard_run(struct shard *s)
{
    s->wake_us = -1; /* libcurl names the next deadline anew */
    act(s, CURL_SOCKET_TIMEOUT, 0);
}

void shard_remove(struct shard *s, struct transfer *x)
{
    CHECK(curl_multi_remove_handle(s->multi, x->easy) == CURLM_OK);
    arm_timer(s);
}

struct transfer *shard_next_ended(struct shard *s, CURLcode *ret_code)
{
    int left = 0;
    const CURLMsg *msg = curl_multi_info_read(s->multi, &left);
    if (msg == NULL) {
        return NULL;
    }
    CHECK(msg->msg == CURLMSG_DONE);
    const CURLcode code = msg->data.result; /* the message dies with the handle's removal */
    char *private = NULL;
    CHECK(curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &private) == CURLE_OK);
    struct transfer *x = (void *)private;
    CHECK_MAGIC(x, TRANSFER_MAGIC);
    *ret_code = code;
    return x;
}
