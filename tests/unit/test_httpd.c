/* common/httpd.c over real sockets on loopback: the cap, the deadlines, the drain. */
#include "httpd.h"

#include <setjmp.h>
#include <stdarg.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <event2/buffer.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "mem.h"

#define PATIENCE_US (15 * INT64_C(1000000))
#define MAX         4
#define GET         "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#define REQUEST_MS  600
#define IDLE_MS     3000
#define ANSWER_MS   2000
#define LARGE       ((size_t)32 * 1024 * 1024) /* more than the kernel buffers */
#define UNREAD_MAX  (2 * LARGE) /* two clients may leave so much unread, and not three */

static struct {
    struct event_base *base;
    struct event *ticker;
    struct httpd *httpd;
    struct evhttp_request *held; /* the newest one, when hold is set */
    bool hold;
    unsigned requests;
    unsigned most;
} t;

/* One turn of the loop; false once the condition is true. */
static bool turn_unless(bool cond, const char *text, int64_t end)
{
    if (t.httpd != NULL && httpd_connections(t.httpd) > t.most) {
        t.most = httpd_connections(t.httpd);
    }
    if (cond) {
        return false;
    }
    if (clock_mono_us() > end) {
        fail_msg("never came true: %s", text);
    }
    assert_int_equal(0, event_base_loop(t.base, EVLOOP_ONCE));
    return true;
}
#define AWAIT(cond)                                                                                \
    for (int64_t end_ = clock_mono_us() + PATIENCE_US; turn_unless(cond, #cond, end_);) {          \
    }

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void reply(struct evhttp_request *req)
{
    assert_true(evbuffer_add(evhttp_request_get_output_buffer(req), "ok", 2) == 0);
    evhttp_send_reply(req, HTTP_OK, "OK", NULL);
}

static void on_request(void *ctx, struct evhttp_request *req)
{
    assert_ptr_equal(&t, ctx);
    t.requests++;
    if (t.hold) {
        t.held = req;
    } else {
        reply(req);
    }
}

static int set_up(void **state)
{
    (void)state;
    const struct timeval tick = {.tv_usec = 2000};
    struct err err = {.code = ERR_NONE};
    memset(&t, 0, sizeof(t));
    t.base = event_base_new();
    t.ticker = event_new(t.base, -1, EV_PERSIST, on_tick, NULL);
    event_add(t.ticker, &tick);
    const struct httpd_config cfg = {
        .listen = "127.0.0.1:0",
        .connections_max = MAX,
        .unread_max = UNREAD_MAX,
        .limits = {.target_max = 1024, .headers_max = 4096, .headers_n = 20, .body_max = 4096},
        .idle_timeout_ms = IDLE_MS,
        .request_timeout_ms = REQUEST_MS,
        .answer_timeout_ms = ANSWER_MS};
    t.httpd = httpd_new(t.base, &cfg, on_request, &t, &err);
    return t.httpd == NULL ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    httpd_free(t.httpd);
    event_free(t.ticker);
    event_base_free(t.base);
    return 0;
}

static int client(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)httpd_port(t.httpd)),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(0, connect(fd, (struct sockaddr *)&addr, sizeof(addr)));
    assert_int_equal(0, fcntl(fd, F_SETFL, O_NONBLOCK));
    return fd;
}

static void put(int fd, const char *text)
{
    ssize_t n = send(fd, text, strlen(text), MSG_NOSIGNAL);
    assert_true(n > 0 || errno == ECONNRESET || errno == EPIPE);
}

/* 1 something to read, 0 nothing yet, -1 the server has closed. */
static int peek(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK);
    if (n == -1 && errno == EAGAIN) {
        return 0;
    }
    return n == 1 ? 1 : -1;
}

static void drop_input(int fd)
{
    char bytes[4096];
    while (recv(fd, bytes, sizeof(bytes), 0) > 0) {
    }
}

static void test_the_longest_idle_connection_makes_room_for_a_new_one(void **state)
{
    (void)state;
    int fds[MAX];
    for (int i = 0; i < MAX; i++) {
        fds[i] = client();
        put(fds[i], GET);
        AWAIT(peek(fds[i]) == 1);
        drop_input(fds[i]);
    }
    put(fds[0], GET); /* the first one is not the longest idle any more */
    AWAIT(peek(fds[0]) == 1);
    drop_input(fds[0]);
    int late = client();
    put(late, GET);
    AWAIT(peek(late) == 1);
    assert_int_equal(-1, peek(fds[1]));
    assert_int_equal(0, peek(fds[0]));
    close(late);
    for (int i = 0; i < MAX; i++) {
        close(fds[i]);
    }
}

static void test_requests_on_their_way_are_not_pushed_out_and_the_cap_holds(void **state)
{
    (void)state;
    int fds[3 * MAX];
    for (int i = 0; i < 3 * MAX; i++) {
        fds[i] = client();
        put(fds[i], "GET / HTTP/1.1\r\nHost: x\r\n");
    }
    for (int i = 0; i < 3 * MAX; i++) { /* in the order in which they came */
        put(fds[i], "\r\n");
        AWAIT(peek(fds[i]) != 0);
        close(fds[i]);
    }
    AWAIT(t.requests == 3 * MAX);
    assert_true(t.most <= MAX);
}

/* One byte in time would stretch a time-out that only counts silence. */
static void test_a_trickling_request_ends_at_its_deadline(void **state)
{
    (void)state;
    int fd = client();
    const int64_t began = clock_mono_us();
    int64_t next = 0;
    put(fd, "GET / HTTP/1.1\r\nHost: x\r\nX: ");
    while (peek(fd) == 0) {
        if (clock_mono_us() > next) {
            put(fd, "a");
            next = clock_mono_us() + 50000;
        }
        assert_true(clock_mono_us() < began + PATIENCE_US);
        assert_int_equal(0, event_base_loop(t.base, EVLOOP_ONCE));
    }
    assert_int_equal(-1, peek(fd));
    assert_in_range(clock_mono_us() - began, REQUEST_MS * 1000, REQUEST_MS * 1000 + 1000000);
    close(fd);
}

static void test_an_idle_connection_is_closed_in_time(void **state)
{
    (void)state;
    int fd = client();
    const int64_t began = clock_mono_us();
    AWAIT(peek(fd) == -1);
    assert_in_range(clock_mono_us() - began, IDLE_MS * 1000, IDLE_MS * 1000 + 1000000);
    close(fd);
    AWAIT(httpd_connections(t.httpd) == 0);
}

static void test_an_answer_has_no_deadline_of_the_connection(void **state)
{
    (void)state;
    t.hold = true;
    int fd = client();
    put(fd, GET);
    AWAIT(t.held != NULL);
    const int64_t until = clock_mono_us() + (IDLE_MS + 500) * INT64_C(1000);
    AWAIT(clock_mono_us() > until);
    assert_int_equal(0, peek(fd));
    reply(t.held);
    AWAIT(peek(fd) == 1);
    close(fd);
}

static void test_a_client_that_left_is_answered_without_harm(void **state)
{
    (void)state;
    t.hold = true;
    int fd = client();
    put(fd, GET);
    AWAIT(t.held != NULL);
    close(fd);
    const int64_t until = clock_mono_us() + 300000;
    AWAIT(clock_mono_us() > until);
    reply(t.held);
    AWAIT(httpd_connections(t.httpd) == 0);
}

static void reply_large(struct evhttp_request *req)
{
    char *bytes = mem_zero(1, LARGE);
    assert_true(evbuffer_add(evhttp_request_get_output_buffer(req), bytes, LARGE) == 0);
    free(bytes);
    evhttp_send_reply(req, HTTP_OK, "OK", NULL);
}

static void test_an_answer_that_is_taken_byte_by_byte_ends_at_its_deadline(void **state)
{
    (void)state;
    t.hold = true;
    int fd = client();
    put(fd, GET);
    AWAIT(t.held != NULL);
    reply_large(t.held);
    const int64_t began = clock_mono_us();
    char byte;
    while (httpd_connections(t.httpd) > 0) {
        (void)recv(fd, &byte, 1, 0);
        assert_true(clock_mono_us() < began + PATIENCE_US);
        assert_int_equal(0, event_base_loop(t.base, EVLOOP_ONCE));
    }
    assert_in_range(clock_mono_us() - began, ANSWER_MS * 1000, ANSWER_MS * 1000 + 1000000);
    close(fd);
}

static int client_with_large_answer(void)
{
    int fd = client();
    put(fd, GET);
    t.held = NULL;
    AWAIT(t.held != NULL);
    reply_large(t.held);
    AWAIT(peek(fd) == 1);
    return fd;
}

/* Reads some, so that the server can write some. */
static void read_some(int fd, size_t bytes)
{
    char piece[4096];
    for (size_t got = 0; got < bytes;) {
        const ssize_t n = recv(fd, piece, sizeof(piece), 0);
        assert_true(n > 0 || (n == -1 && errno == EAGAIN));
        got += n > 0 ? (size_t)n : 0;
        assert_int_equal(0, event_base_loop(t.base, EVLOOP_NONBLOCK));
    }
}

/* Its answer is younger, but some of the other one was taken since. */
static void test_when_too_much_is_unread_the_client_that_reads_least_gives_way(void **state)
{
    (void)state;
    t.hold = true;
    int reading = client_with_large_answer();
    int stuck = client_with_large_answer();
    read_some(reading, LARGE / 4);
    assert_int_equal(2, httpd_connections(t.httpd));
    int last = client_with_large_answer();
    AWAIT(httpd_connections(t.httpd) == 2);
    drop_input(stuck);
    assert_int_equal(-1, peek(stuck));
    read_some(reading, LARGE / 4);
    read_some(last, LARGE / 4);
    close(reading), close(stuck), close(last);
}

static void test_what_comes_while_an_answer_is_written_is_not_hoarded(void **state)
{
    (void)state;
    t.hold = true;
    int fd = client();
    put(fd, GET);
    AWAIT(t.held != NULL);
    reply_large(t.held);
    static const char flood[65536];
    size_t sent = 0;
    const int64_t until = clock_mono_us() + ANSWER_MS * INT64_C(500);
    while (clock_mono_us() < until) {
        const ssize_t n = send(fd, flood, sizeof(flood), MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        assert_true(sent < LARGE); /* the kernel's buffers, and a request of ours */
        assert_int_equal(0, event_base_loop(t.base, EVLOOP_ONCE));
    }
    close(fd);
    AWAIT(httpd_connections(t.httpd) == 0);
}

/* RFC 9112, 9.6: the end of what a client sends is not the end of what it reads. */
static void test_a_client_that_will_ask_nothing_more_gets_its_whole_answer(void **state)
{
    (void)state;
    t.hold = true;
    int fd = client();
    put(fd, GET);
    AWAIT(t.held != NULL);
    assert_int_equal(0, shutdown(fd, SHUT_WR));
    reply_large(t.held);
    static char bytes[1 << 20];
    size_t got = 0;
    for (ssize_t n = -1; n != 0;) {
        n = recv(fd, bytes, sizeof(bytes), 0);
        assert_true(n >= 0 || errno == EAGAIN);
        got += n > 0 ? (size_t)n : 0;
        assert_int_equal(0, event_base_loop(t.base, EVLOOP_ONCE));
    }
    assert_true(got > LARGE);
    close(fd);
    AWAIT(httpd_connections(t.httpd) == 0);
}

static void test_a_refusal_can_be_read_by_a_client_that_sends_on(void **state)
{
    (void)state;
    static const char flood[65536];
    int fd = client();
    put(fd, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n");
    for (size_t sent = 0; sent < LARGE;) {
        const ssize_t n = send(fd, flood, sizeof(flood), MSG_NOSIGNAL);
        assert_true(n > 0 || errno == EAGAIN);
        sent += n > 0 ? (size_t)n : 0;
        assert_int_equal(0, event_base_loop(t.base, EVLOOP_ONCE));
    }
    AWAIT(peek(fd) == 1);
    char answer[16] = "";
    assert_int_equal(12, recv(fd, answer, 12, 0));
    assert_string_equal("HTTP/1.1 413", answer);
    drop_input(fd);
    const int64_t began = clock_mono_us();
    AWAIT(httpd_connections(t.httpd) == 0); /* although the client stays */
    assert_true(clock_mono_us() < began + 3000000);
    assert_int_equal(0, t.requests);
    close(fd);
}

static void test_drain_refuses_new_connections_at_once(void **state)
{
    (void)state;
    t.hold = true;
    int busy = client();
    put(busy, GET);
    AWAIT(t.held != NULL);
    httpd_drain(t.httpd);
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)httpd_port(t.httpd)),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(-1, connect(late, (struct sockaddr *)&addr, sizeof(addr)));
    assert_int_equal(ECONNREFUSED, errno);
    close(late);
    httpd_drain(t.httpd); /* a second signal */
    reply(t.held);
    AWAIT(httpd_connections(t.httpd) == 0);
    close(busy);
}

static void test_drain_answers_what_is_there_and_closes(void **state)
{
    (void)state;
    t.hold = true;
    int busy = client();
    put(busy, GET);
    AWAIT(t.held != NULL);
    int idle = client();
    AWAIT(httpd_connections(t.httpd) == 2);
    httpd_drain(t.httpd);
    AWAIT(peek(idle) == -1);
    reply(t.held);
    AWAIT(peek(busy) == 1);
    drop_input(busy);
    AWAIT(peek(busy) == -1);
    AWAIT(httpd_connections(t.httpd) == 0);
    close(busy);
    close(idle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
        TEST(test_the_longest_idle_connection_makes_room_for_a_new_one),
        TEST(test_requests_on_their_way_are_not_pushed_out_and_the_cap_holds),
        TEST(test_a_trickling_request_ends_at_its_deadline),
        TEST(test_an_idle_connection_is_closed_in_time),
        TEST(test_an_answer_has_no_deadline_of_the_connection),
        TEST(test_a_client_that_left_is_answered_without_harm),
        TEST(test_an_answer_that_is_taken_byte_by_byte_ends_at_its_deadline),
        TEST(test_when_too_much_is_unread_the_client_that_reads_least_gives_way),
        TEST(test_what_comes_while_an_answer_is_written_is_not_hoarded),
        TEST(test_a_client_that_will_ask_nothing_more_gets_its_whole_answer),
        TEST(test_a_refusal_can_be_read_by_a_client_that_sends_on),
        TEST(test_drain_refuses_new_connections_at_once),
        TEST(test_drain_answers_what_is_there_and_closes),
#undef TEST
    };
    (void)signal(SIGPIPE, SIG_IGN); /* as process_prepare() has it */
    return cmocka_run_group_tests_name("httpd", tests, NULL, NULL);
}
