/* common/admin.c over real sockets on loopback: what is answered, what is refused, what is bounded.
 */
#include "admin.h"

#include <setjmp.h>
#include <stdarg.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "mem.h"
#include "metrics.h"

#define PATIENCE_US     (15 * INT64_C(1000000))
#define CONNECTIONS_MAX 64 /* admin.c's */
#define ANSWER_MAX      65536

static struct {
    struct event_base *base;
    struct event *ticker;
    struct admin *admin;
    const char *reasons;
    char answer[ANSWER_MAX];
    size_t len;
} t;

/* One turn of the loop; false once the condition is true. */
static bool turn_unless(bool cond, const char *text, int64_t end)
{
    if (cond) {
        return false;
    }
    if (clock_mono_us() > end) {
        fail_msg("never came true: %s; answer so far: %s", text, t.answer);
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

static void ready(void *ctx, struct buf *reasons)
{
    assert_ptr_equal(&t, ctx);
    buf_add_str(reasons, t.reasons);
}

static int set_up(void **state)
{
    (void)state;
    const struct timeval tick = {.tv_usec = 2000};
    struct err err = {.code = ERR_NONE};
    t.base = event_base_new();
    t.ticker = event_new(t.base, -1, EV_PERSIST, on_tick, NULL);
    event_add(t.ticker, &tick);
    t.reasons = "";
    t.admin = admin_new(t.base, "127.0.0.1:0", ready, &t, &err);
    return t.admin == NULL ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    admin_free(t.admin);
    event_free(t.ticker);
    event_base_free(t.base);
    return 0;
}

static int client(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)admin_port(t.admin)),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(0, connect(fd, (struct sockaddr *)&addr, sizeof(addr)));
    assert_int_equal(0, fcntl(fd, F_SETFL, O_NONBLOCK));
    return fd;
}

static void put(int fd, const char *text)
{
    /* The server may have closed already: what it says counts. */
    ssize_t n = send(fd, text, strlen(text), MSG_NOSIGNAL);
    assert_true(n > 0 || errno == ECONNRESET || errno == EPIPE);
}

/* True at the end of the stream. */
static bool take(int fd)
{
    ssize_t n = recv(fd, t.answer + t.len, sizeof(t.answer) - 1 - t.len, 0);
    if (n > 0) {
        t.len += (size_t)n;
        t.answer[t.len] = '\0';
    }
    return n == 0 || (n == -1 && errno != EAGAIN);
}

static const char *request(const char *text)
{
    int fd = client();
    t.len = 0;
    t.answer[0] = '\0';
    put(fd, text);
    AWAIT(take(fd));
    close(fd);
    return t.answer;
}

static const char *get(const char *method, const char *path)
{
    char text[512];
    assert_true(snprintf(text, sizeof(text),
                         "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method,
                         path) < (int)sizeof(text));
    return request(text);
}

static const char *body(void)
{
    const char *at = strstr(t.answer, "\r\n\r\n");
    assert_non_null(at);
    return at + 4;
}

static void assert_status(const char *answer, const char *status)
{
    if (strncmp(answer, "HTTP/1.", 7) != 0 || strncmp(answer + 9, status, strlen(status)) != 0) {
        fail_msg("not %s: %s", status, answer);
    }
}

static void test_health_answers_while_the_loop_turns(void **state)
{
    (void)state;
    assert_status(get("GET", "/health"), "200 OK");
    assert_string_equal("ok\n", body());
    assert_non_null(strstr(t.answer, "Cache-Control: no-store\r\n"));
    assert_non_null(strstr(t.answer, "Content-Type: text/plain; charset=utf-8\r\n"));
    assert_status(get("GET", "/health?x=1"), "200 OK");
}

static void test_ready_tells_every_reason(void **state)
{
    (void)state;
    assert_status(get("GET", "/ready"), "200 OK");
    assert_string_equal("ready\n", body());
    t.reasons = "kafka: no assignment\npostgresql: not connected\n";
    assert_status(get("GET", "/ready"), "503 Service Unavailable");
    assert_string_equal(t.reasons, body());
}

static void test_metrics_are_the_rendered_page(void **state)
{
    (void)state;
    metrics_counter("t_admin_total", NULL, "T.")->value = 3;
    assert_status(get("GET", "/metrics"), "200 OK");
    assert_string_equal("# HELP t_admin_total T.\n# TYPE t_admin_total counter\nt_admin_total 3\n",
                        body());
    assert_non_null(strstr(t.answer, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert_non_null(strstr(t.answer, "Cache-Control: no-store\r\n"));
}

static void test_head_has_the_length_and_no_body(void **state)
{
    (void)state;
    assert_status(get("HEAD", "/health"), "200 OK");
    assert_non_null(strstr(t.answer, "Content-Length: 3\r\n"));
    assert_string_equal("", body());
}

static void test_a_connection_serves_several_requests(void **state)
{
    (void)state;
    (void)request("GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
                  "HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n"
                  "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    const char *second = strstr(t.answer + 1, "HTTP/1.1 200 OK");
    assert_non_null(second);
    const char *third = strstr(second + 1, "HTTP/1.1 200 OK");
    assert_non_null(third);
    assert_non_null(strstr(third, "\r\n\r\nready\n"));
}

static void test_other_paths_and_methods_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *method, *path, *status;
    } rows[] = {
        {"GET", "/", "404 "},          {"GET", "/healthz", "404 "},  {"GET", "/health/", "404 "},
        {"GET", "//metrics", "400 "},  {"HEAD", "/nothing", "404 "}, {"GET", "/%68ealth", "404 "},
        {"POST", "/health", "405 "},   {"PUT", "/metrics", "405 "},  {"DELETE", "/", "405 "},
        {"OPTIONS", "/ready", "405 "}, {"TRACE", "/ready", "405 "},  {"PATCH", "/ready", "405 "},
        {"CONNECT", "x:1", "400 "},    {"BREW", "/health", "405 "},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        assert_status(get(rows[i].method, rows[i].path), rows[i].status);
        if (strcmp(rows[i].status, "405 ") == 0) {
            assert_non_null(strstr(t.answer, "Allow: GET, HEAD\r\n"));
        }
    }
}

static void test_large_or_broken_requests_are_refused(void **state)
{
    (void)state;
    char *text = mem_alloc(20000);
    int n = snprintf(text, 100, "GET /health HTTP/1.1\r\nHost: x\r\nX-Large: ");
    memset(text + n, 'x', 9000);
    memcpy(text + n + 9000, "\r\n\r\n", 5);
    assert_status(request(text), "431 ");
    n = snprintf(text, 100, "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1025\r\n\r\n");
    memset(text + n, 'x', 1025);
    text[n + 1025] = '\0';
    assert_status(request(text), "413 ");
    free(text);
    assert_status(request("nonsense\r\n\r\n"), "400 ");
    assert_status(get("GET", "/health"), "200 OK");
}

enum { CLIENTS = CONNECTIONS_MAX + 20 };

static void await_first_byte(int fd)
{
    t.len = 0;
    t.answer[0] = '\0';
    AWAIT(take(fd) || t.len > 0);
}

/* Requests that are still coming in keep their connection; test_httpd.c has the cap itself. */
static void test_more_than_64_clients_are_served_one_after_the_other(void **state)
{
    (void)state;
    int fds[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        fds[i] = client();
        put(fds[i], "GET /health HTTP/1.1\r\nHost: x\r\n");
        assert_int_equal(0,
                         event_base_loop(t.base, EVLOOP_ONCE)); /* or the backlog is full at once */
    }
    for (int i = 0; i < CLIENTS; i++) {
        put(fds[i], "\r\n");
        await_first_byte(fds[i]);
        assert_status(t.answer, "200 OK");
        close(fds[i]);
    }
    for (int i = 0; i < 3 * CONNECTIONS_MAX; i++) { /* closed ones are not counted for ever */
        assert_status(get("GET", "/health"), "200 OK");
    }
}

static void test_a_silent_client_is_closed_after_10_s(void **state)
{
    (void)state;
    int fd = client();
    put(fd, "GET /health HT");
    int64_t start = clock_mono_us();
    t.len = 0;
    AWAIT(take(fd));
    assert_in_range(clock_mono_us() - start, 9000000, 13000000);
    close(fd);
}

static void test_free_closes_open_connections(void **state)
{
    (void)state;
    int fd = client();
    put(fd, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    await_first_byte(fd);
    admin_free(t.admin), t.admin = NULL;
    admin_free(NULL);
    AWAIT(take(fd));
    close(fd);
}

static void test_a_bad_address_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *listen;
        enum err_code code;
    } rows[] = {
        {"", ERR_INVALID},
        {"127.0.0.1", ERR_INVALID},
        {"[::1]", ERR_INVALID},
        {"::1:80", ERR_INVALID},
        {"localhost:80", ERR_INVALID},
        {"127.0.0.1:66000", ERR_INVALID},
        {"127.0.0.1:x", ERR_INVALID},
        {"127.0.0.1:", ERR_INVALID},
        {"192.0.2.1:9464", ERR_IO},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct err err = {.code = ERR_NONE};
        assert_null(admin_new(t.base, rows[i].listen, ready, &t, &err));
        assert_int_equal(rows[i].code, err.code);
        assert_non_null(strstr(err.text, rows[i].listen));
    }
    char taken[32];
    struct err err = {.code = ERR_NONE};
    assert_true(snprintf(taken, sizeof(taken), "127.0.0.1:%u", admin_port(t.admin)) > 0);
    assert_null(admin_new(t.base, taken, ready, &t, &err));
    assert_int_equal(ERR_IO, err.code);
}

static void test_it_listens_on_ipv6(void **state)
{
    (void)state;
    struct err err = {.code = ERR_NONE};
    struct admin *a = admin_new(t.base, "[::1]:0", ready, &t, &err);
    if (a == NULL) {
        print_message("[  NOTE  ] no IPv6 loopback here: %s\n", err.text);
        skip();
    }
    assert_true(admin_port(a) > 0);
    admin_free(a);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_health_answers_while_the_loop_turns),
        TEST(test_ready_tells_every_reason),
        TEST(test_metrics_are_the_rendered_page),
        TEST(test_head_has_the_length_and_no_body),
        TEST(test_a_connection_serves_several_requests),
        TEST(test_other_paths_and_methods_are_refused),
        TEST(test_large_or_broken_requests_are_refused),
        TEST(test_more_than_64_clients_are_served_one_after_the_other),
        TEST(test_a_silent_client_is_closed_after_10_s),
        TEST(test_free_closes_open_connections),
        TEST(test_a_bad_address_is_named),
        TEST(test_it_listens_on_ipv6),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
