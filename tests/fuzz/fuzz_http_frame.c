/* Any bytes as what a client sends. The frame reads them alike in one piece and in pieces of every
 * size; and a real httpd on loopback, which gets them too, answers as many requests as the frame
 * has found, and never with a page of evhttp's own: the two agree where a request ends. */
#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "http_frame.h"
#include "httpd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define QUIET_TURNS 3
#define INPUT_MAX   16384

static const struct frame_limits limits = {
    .target_max = 64, .headers_max = 512, .headers_n = 8, .body_max = 256};

struct found {
    unsigned requests;
    enum frame_fault fault;
    size_t took;
};

static struct {
    struct event_base *base;
    struct httpd *httpd;
    unsigned requests;
    unsigned refusals;
    enum frame_fault fault;
} t;

static struct found read_all(const char *data, size_t size, size_t step)
{
    struct found found = {0};
    struct frame f;
    frame_begin(&f);
    while (found.took < size && f.fault == FRAME_GOOD) {
        const size_t n = step < size - found.took ? step : size - found.took;
        found.took += frame_feed(&f, &limits, data + found.took, n);
        if (f.done) {
            found.requests++;
            frame_begin(&f);
        }
    }
    found.fault = f.fault;
    return found;
}

static void on_request(void *ctx, struct evhttp_request *req)
{
    (void)ctx;
    t.requests++;
    /* Without a body, so that nothing of the input is in it. */
    evhttp_send_reply(req, HTTP_NOCONTENT, "No Content", NULL);
}

static void on_refusal(void *ctx, enum frame_fault fault, struct buf *headers, struct buf *body)
{
    (void)ctx;
    (void)headers;
    (void)body;
    t.refusals++;
    t.fault = fault;
}

static void set_up(void)
{
    struct err err = {0};
    const struct httpd_config cfg = {.listen = "127.0.0.1:0",
                                     .connections_max = 10000,
                                     .unread_max = SIZE_MAX,
                                     .limits = limits,
                                     .refusal = on_refusal,
                                     .idle_timeout_ms = 60000,
                                     .request_timeout_ms = 60000,
                                     .answer_timeout_ms = 60000};
    t.base = event_base_new();
    CHECK(t.base != NULL);
    t.httpd = httpd_new(t.base, &cfg, on_request, NULL, &err);
    CHECK(t.httpd != NULL);
}

/* -1: this address had a connection of that port already. */
static int try_connect(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)httpd_port(t.httpd)),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    /* An address of its own: the ports of one would not last. */
    static uint32_t n;
    const struct sockaddr_in from = {.sin_family = AF_INET,
                                     .sin_addr.s_addr = htonl(0x7f010000u + n++ % 0xffffu)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd != -1 && bind(fd, (const struct sockaddr *)&from, sizeof(from)) == 0);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
        close(fd);
        return -1;
    }
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    const struct linger reset = {.l_onoff = 1, .l_linger = 0}; /* no TIME_WAIT */
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
    return fd;
}

static int connected(void)
{
    int fd = -1;
    for (int tries = 0; fd == -1; tries++) {
        CHECK(tries < 100);
        fd = try_connect();
    }
    return fd;
}

/* What the server makes of it, until nothing moves any more. True: it has closed. */
static bool serve(const uint8_t *data, size_t size)
{
    const int fd = connected();
    char answer[4096];
    size_t sent = 0;
    bool closed = false;
    for (int quiet = 0; quiet < QUIET_TURNS && !closed; quiet++) {
        if (sent < size) {
            const ssize_t n = send(fd, data + sent, size - sent, MSG_NOSIGNAL);
            sent += n > 0 ? (size_t)n : 0;
        }
        CHECK(event_base_loop(t.base, EVLOOP_NONBLOCK) != -1);
        const ssize_t n = recv(fd, answer, sizeof(answer) - 1, 0);
        closed = n == 0 || (n == -1 && errno != EAGAIN);
        if (n > 0) {
            answer[n] = '\0';
            CHECK(strstr(answer, "<HTML>") == NULL);
            quiet = -1;
        }
    }
    close(fd);
    (void)event_base_loop(t.base, EVLOOP_NONBLOCK);
    return closed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX) {
        return 0;
    }
    if (t.base == NULL) {
        set_up();
    }
    const struct found whole = read_all((const char *)data, size, size > 0 ? size : 1);
    for (size_t step = 1; step < 8; step += 3) {
        const struct found pieces = read_all((const char *)data, size, step);
        CHECK(pieces.requests == whole.requests && pieces.fault == whole.fault &&
              pieces.took == whole.took);
    }
    t.requests = 0;
    t.refusals = 0;
    t.fault = FRAME_GOOD;
    const bool closed = serve(data, size);
    CHECK(t.requests <= whole.requests);
    CHECK(t.requests == whole.requests || closed); /* one of them asked for that */
    CHECK(t.refusals <= 1 && (t.refusals == 0 || t.fault == whole.fault));
    CHECK(whole.fault == FRAME_GOOD || closed);
    return 0;
}
