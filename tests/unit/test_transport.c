/* worker/transport*.c over plain HTTP against a hostile receiver on the same loop. TLS:
 * test_transport_tls.c. */
#include "transport_fixture.h"

#include <fcntl.h>

static void test_the_request_has_exactly_our_headers_and_bytes(void **state)
{
    struct fixture *f = *state;
    const struct transport_result *r = post(f, &hello);
    char expected[512];
    (void)snprintf(
        expected, sizeof(expected),
        "POST /hook?secret=1 HTTP/1.1\r\nHost: a.example.com:%u\r\n"
        "User-Agent: NetRecon-Webhooks/test\r\nContent-Type: application/json\r\nX-One: 1\r\n"
        "Content-Length: 11\r\n\r\n{\"hello\":1}",
        f->server.port);
    assert_string_equal(f->server.last, expected);
    assert_int_equal(r->fault, TRANSPORT_OK);
    assert_int_equal(r->status, 200);
    assert_string_equal(r->error, "");
    assert_string_equal(r->headers, "Content-Length: 2\r\nX-Name: value\r\n");
    assert_string_equal(r->body, "ok");
    assert_string_equal(r->address, "127.0.0.1");
    assert_int_equal(r->retry_after_s, -1);
    assert_false(r->reused);
    assert_true(r->duration_us > 0);
}

static void test_a_redirect_is_an_answer_and_not_followed(void **state)
{
    struct fixture *f = *state;
    char reply[256];
    (void)snprintf(reply, sizeof(reply),
                   "HTTP/1.1 307 T\r\nLocation: http://127.0.0.1:%u/\r\nContent-Length: 0\r\n\r\n",
                   f->server.port);
    f->server.reply = reply;
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    assert_int_equal(f->result.status, 307);
    assert_int_equal(f->server.requests, 1);
}

static void test_a_refused_connection_is_said_so(void **state)
{
    struct fixture *f = *state;
    char expected[64];
    evconnlistener_disable(f->server.listener);
    close(evconnlistener_get_fd(f->server.listener)); /* the port is free now: nobody listens */
    const int fd = fcntl(0, F_DUPFD_CLOEXEC, 0);      /* the listener closes this one instead */
    assert_int_equal(fd, evconnlistener_get_fd(f->server.listener));
    (void)snprintf(expected, sizeof(expected), "connect to 127.0.0.1:%u refused", f->server.port);
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_CONNECT);
    assert_string_equal(f->result.error, expected);
    assert_string_equal(f->result.address, "127.0.0.1");
    assert_int_equal(f->result.status, 0);
}

static void check_timeout(struct fixture *f, const char *text, int status)
{
    struct request r = hello;
    r.timeout_ms = 300;
    assert_int_equal(post(f, &r)->fault, TRANSPORT_TIMEOUT);
    assert_string_equal(f->result.error, text);
    assert_int_equal(f->result.status, status);
    assert_in_range(f->result.duration_us, 290000, 800000);
}

static void test_a_hanging_endpoint_ends_at_the_timeout(void **state)
{
    struct fixture *f = *state;
    f->server.behaviour = HANG;
    check_timeout(f, "no answer within 300 ms", 0);
}

/* A port whose queue of connections is full: a further one hears nothing. The descriptors are the
 * caller's. */
enum { FULL_FDS = 4 };

static unsigned listen_full(int fds[FULL_FDS])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    for (int i = 0; i < FULL_FDS; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (i > 0 ? SOCK_NONBLOCK : 0), 0);
        assert_true(fds[i] != -1);
        if (i > 0) {
            (void)connect(fds[i], (struct sockaddr *)&at, len);
            continue;
        }
        assert_int_equal(0, bind(fds[0], (struct sockaddr *)&at, len));
        assert_int_equal(0, listen(fds[0], 0));
        assert_int_equal(0, getsockname(fds[0], (struct sockaddr *)&at, &len));
    }
    return ntohs(at.sin_port);
}

static void test_a_connection_without_an_answer_ends_at_the_timeout(void **state)
{
    struct fixture *f = *state;
    struct request r = hello;
    int fds[FULL_FDS];
    r.port = listen_full(fds);
    r.timeout_ms = 300;
    assert_int_equal(post(f, &r)->fault, TRANSPORT_CONNECT);
    assert_non_null(strstr(f->result.error, "no answer within 300 ms"));
    for (int i = 0; i < FULL_FDS; i++) {
        close(fds[i]);
    }
}

/* The answer, or the connection, may have been there in time: nobody looked. */
static void test_a_deadline_that_passed_while_this_process_was_stopped_is_our_fault(void **state)
{
    struct fixture *f = *state;
    int fds[FULL_FDS];
    const unsigned ports[] = {0, listen_full(fds)};
    f->server.behaviour = HANG;
    for (unsigned i = 0; i < 2; i++) {
        const struct timespec stop = {.tv_sec = 1, .tv_nsec = 200000000};
        struct request r = hello;
        struct endpoint e;
        r.port = ports[i];
        r.timeout_ms = 1000; /* the stop ends little after it */
        (void)start(f, &r, &e, on_result);
        turn(f);
        turn(f);
        nanosleep(&stop, NULL);
        await_results(f, i + 1);
        assert_int_equal(f->result.fault, TRANSPORT_OURS);
        assert_non_null(strstr(f->result.error, "this worker was stopped for 1"));
        free(e.url);
    }
    for (int i = 0; i < FULL_FDS; i++) {
        close(fds[i]);
    }
}

static void test_slow_headers_end_at_the_timeout(void **state)
{
    struct fixture *f = *state;
    f->server.behaviour = LORIS;
    f->server.reply =
        "HTTP/1.1 200 OK\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    check_timeout(f, "no answer within 300 ms", 0);
}

static void test_a_body_that_stalls_ends_at_the_timeout(void **state)
{
    struct fixture *f = *state;
    f->server.reply = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc";
    check_timeout(f, "answer not complete within 300 ms", 200);
    assert_string_equal(f->result.body, "abc");
}

static void test_answers_that_are_none_are_broken(void **state)
{
    static const struct {
        enum behaviour behaviour;
        const char *reply, *error;
    } rows[] = {
        {RESET, NULL, "no valid answer: Recv failure: Connection reset by peer"},
        {ANSWER_CLOSE, "", "no valid answer: Empty reply from server"},
        {ANSWER_CLOSE, "\x7f\x01garbage\n\n",
         "no valid answer: Received HTTP/0.9 when not allowed"},
        {ANSWER_CLOSE, "SSH-2.0-OpenSSH_9.2\r\n",
         "no valid answer: Received HTTP/0.9 when not allowed"},
        {ANSWER_CLOSE, "HTTP/1.1 200 OK\r\nX-Cut: 1\r\n",
         "connection closed within the answer's headers"},
        {ANSWER_CLOSE, "HTTP/1.1 100 Continue\r\n\r\n", "no valid answer: Empty reply from server"},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        f->server.behaviour = rows[i].behaviour;
        f->server.reply = rows[i].reply;
        assert_int_equal(post(f, &hello)->fault, TRANSPORT_BROKEN);
        assert_string_equal(f->result.error, rows[i].error);
    }
}

static void test_the_status_decides_when_the_peer_cuts_the_body(void **state)
{
    struct fixture *f = *state;
    f->server.behaviour = ANSWER_CLOSE;
    f->server.reply = "HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\nabc";
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    assert_int_equal(f->result.status, 503);
    assert_string_equal(f->result.body, "abc");
}

static void test_an_endless_body_is_cut_and_the_status_decides(void **state)
{
    struct fixture *f = *state;
    f->server.behaviour = ENDLESS;
    f->server.reply = "HTTP/1.1 201 Created\r\n\r\n";
    f->server.again = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    assert_int_equal(f->result.status, 201);
    assert_int_equal(f->result.body_len, LIMIT_RESPONSE_KEPT);
    assert_memory_equal(f->result.body, f->server.again, 64);
    assert_true(TAILQ_FIRST(&f->t->idle)->body_bytes <=
                (size_t)LIMIT_RESPONSE_READ + TRANSPORT_BUFFER);
}

static void test_a_body_of_exactly_the_limit_is_read_to_its_end(void **state)
{
    struct fixture *f = *state;
    char *reply = mem_zero(1, (size_t)LIMIT_RESPONSE_READ + 256);
    const int head =
        snprintf(reply, 256, "HTTP/1.1 200 OK\r\nContent-Length: %u\r\n\r\n", LIMIT_RESPONSE_READ);
    memset(reply + head, 'b', (size_t)LIMIT_RESPONSE_READ);
    f->server.reply = reply;
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    assert_true(f->result.reused);
    free(reply);
}

static void test_headers_without_end_are_too_large(void **state)
{
    static const struct {
        const char *reply, *again;
    } rows[] = {
        {"HTTP/1.1 200 OK\r\n",
         "X-Again: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"},
        {"HTTP/1.1 200 OK\r\nX-Line: ",
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
        {"HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
         "X-Trailer: aaaaaaaaaaaaaaaaaaaaa\r\n"},
    };
    struct fixture *f = *state;
    f->server.behaviour = ENDLESS;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        f->server.reply = rows[i].reply;
        f->server.again = rows[i].again;
        assert_int_equal(post(f, &hello)->fault, TRANSPORT_TOO_LARGE);
        assert_string_equal(f->result.error, "response headers above 32768 bytes");
        assert_true(f->result.headers_len <= (size_t)LIMIT_RESPONSE_HEADERS_KEPT);
    }
}

static void test_headers_of_an_interim_answer_are_forgotten(void **state)
{
    struct fixture *f = *state;
    f->server.reply = "HTTP/1.1 103 Early Hints\r\nRetry-After: 7\r\nX-Early: 1\r\n\r\n"
                      "HTTP/1.1 204 No Content\r\nX-Final: 1\r\n\r\n";
    assert_int_equal(post(f, &hello)->status, 204);
    assert_string_equal(f->result.headers, "X-Final: 1\r\n");
    assert_int_equal(f->result.retry_after_s, -1);
}

static void test_retry_after_is_read_in_both_forms(void **state)
{
    static const struct {
        const char *value;
        int64_t least, most;
    } rows[] = {
        {"120", 120, 120},
        {" 0 ", 0, 0},
        {"99999999999999999999", INT64_MAX, INT64_MAX},
        {"-5", -1, -1},
        {"soon", -1, -1},
        {"12x", -1, -1},
        {"", -1, -1},
        {"Wed, 21 Oct 2015 07:28:00 GMT", 0, 0},
        {"DATE", 58, 60},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char date[64];
        char reply[256];
        const time_t at = time(NULL) + 60;
        struct tm tm;
        assert_true(strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&at, &tm)) >
                    0);
        const char *value = strcmp(rows[i].value, "DATE") == 0 ? date : rows[i].value;
        (void)snprintf(reply, sizeof(reply),
                       "HTTP/1.1 429 X\r\nretry-after:%s\r\nContent-Length: 0\r\n\r\n", value);
        f->server.reply = reply;
        (void)post(f, &hello);
        assert_true(f->result.retry_after_s >= rows[i].least);
        assert_true(f->result.retry_after_s <= rows[i].most);
    }
}

/* Whatever this machine's clock says: the endpoint meant its own. */
static void test_a_retry_after_date_counts_from_the_answers_own_date(void **state)
{
    static const struct {
        const char *headers;
        int64_t expected;
    } rows[] = {
        {"Date: Wed, 21 Oct 2015 07:28:00 GMT\r\nRetry-After: Wed, 21 Oct 2015 07:29:30 GMT", 90},
        {"Retry-After: Fri, 31 Dec 2049 23:59:59 GMT\r\ndate:Fri, 31 Dec 2049 23:59:39 GMT", 20},
        {"Date: Wed, 21 Oct 2015 07:28:00 GMT\r\nRetry-After: Wed, 21 Oct 2015 07:27:59 GMT", 0},
        {"Date: Wed, 21 Oct 2015 07:28:00 GMT\r\nRetry-After: 7", 7},
        {"Date: today\r\nRetry-After: Wed, 21 Oct 2015 07:29:30 GMT", 0},
        {"Retry-After: 7\r\nRetry-After: Fri, 31 Dec 2049 23:59:59 GMT", 7},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char reply[256];
        (void)snprintf(reply, sizeof(reply), "HTTP/1.1 503 X\r\n%s\r\nContent-Length: 0\r\n\r\n",
                       rows[i].headers);
        f->server.reply = reply;
        (void)post(f, &hello);
        assert_int_equal(f->result.retry_after_s, rows[i].expected);
    }
}

static void test_a_denied_address_is_never_connected_to(void **state)
{
    static const struct {
        struct request request;
        const char *error;
    } rows[] = {
        {{.host = "10.1.2.3", .port = 80}, "10.1.2.3"},
        {{.host = "[::ffff:127.0.0.1]"}, "127.0.0.1"},
        {{.host = "[::1]"}, "::1"},
        {{.host = "inside.example.com", .pin = "169.254.169.254"}, "169.254.169.254"},
        {{.host = "inside.example.com", .pin = "127.0.0.1"}, "127.0.0.1"},
        {{.host = "inside.example.com", .pin = "::1"}, "::1"},
    };
    struct fixture *f = *state;
    struct err err = {0};
    struct netguard *strict = netguard_new("", "", &err);
    f->t->guard = strict;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        assert_int_equal(post(f, &rows[i].request)->fault, TRANSPORT_DENIED);
        assert_non_null(strstr(f->result.error, rows[i].error));
    }
    assert_int_equal(f->server.connections, 0);
    struct transport_stats stats;
    transport_stats(f->t, &stats);
    assert_int_equal(stats.denied, sizeof(rows) / sizeof(*rows));
    assert_int_equal(stats.connections_opened, 0);
    netguard_free(strict);
}

static void test_a_kept_connection_is_vetted_before_each_request(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    struct netguard *strict = netguard_new("127.0.0.0/8", "127.0.0.1/32", &err);
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    f->t->guard = strict;
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_DENIED);
    assert_int_equal(f->server.requests, 1);
    f->t->guard = f->guard;
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    netguard_free(strict);
}

static void test_libcurl_never_resolves_a_name(void **state)
{
    struct fixture *f = *state;
    struct endpoint e;
    struct transfer *x = start(f, &hello, &e, on_result);
    assert_int_equal(curl_easy_setopt(x->easy, CURLOPT_RESOLVE, NULL),
                     CURLE_OK); /* the pin is lost */
    await_results(f, 1);
    assert_int_equal(f->result.fault, TRANSPORT_OURS);
    assert_string_equal(f->result.error, "the name was not resolved");
    assert_int_equal(lookups, 0);
    free(e.url);
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
}

/* The pin outlives the DNS cache's limit of a sweep by others, and a new pin replaces the old one.
 */
static void test_the_newest_pin_is_used(void **state)
{
    struct fixture *f = *state;
    struct request r = hello;
    f->server.behaviour = ANSWER_CLOSE;
    r.pin = "127.0.0.2"; /* nobody listens there */
    assert_int_equal(post(f, &r)->fault, TRANSPORT_CONNECT);
    assert_string_equal(f->result.address, "127.0.0.2");
    r.pin = "127.0.0.1";
    assert_int_equal(post(f, &r)->fault, TRANSPORT_OK);
    r.pin = "127.0.0.2";
    assert_int_equal(post(f, &r)->fault, TRANSPORT_CONNECT);
}

static void test_pins_stay_few(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < f->t->n_shards; i++) {
        f->t->shards[i].swept_us = clock_mono_us();
        f->t->shards[i].pins = TRANSPORT_PINS_MAX; /* the next one sweeps */
    }
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    unsigned swept = 0;
    for (unsigned i = 0; i < f->t->n_shards; i++) {
        swept += f->t->shards[i].pins == 0;
    }
    assert_int_equal(swept, 1);
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
}

static void test_proxies_of_the_environment_are_ignored(void **state)
{
    static const char *const names[] = {"http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY",
                                        "all_proxy"};
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        assert_int_equal(setenv(names[i], "http://127.0.0.9:9", 1), 0);
    }
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        assert_int_equal(unsetenv(names[i]), 0);
    }
}

static void test_the_largest_body_goes_whole_and_without_expect(void **state)
{
    /* libcurl would say Expect above 1 MiB */
    static const size_t sizes[] = {LIMIT_EVENT_BYTES, LIMIT_EVENT_BYTES - 1, 1100UL * 1024};
    struct fixture *f = *state;
    char *body = mem_alloc(sizes[2]);
    for (size_t i = 0; i < sizes[2]; i++) {
        body[i] = (char)('a' + i % 23);
    }
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        struct request r = hello;
        r.body = body;
        r.body_len = sizes[i];
        assert_int_equal(post(f, &r)->fault, TRANSPORT_OK);
        assert_null(strstr(f->server.last, "Expect"));
        const char *got = strstr(f->server.last, "\r\n\r\n") + 4;
        assert_int_equal(f->server.last_len - (size_t)(got - f->server.last), sizes[i]);
        assert_memory_equal(got, body, sizes[i]);
    }
    free(body);
}

static void test_nothing_of_one_request_reaches_the_next(void **state)
{
    struct fixture *f = *state;
    struct request first = {
        .host = "tenant-a.example.com", .body = "secret-a", .header = "X-Secret-A: a"};
    f->server.reply = "HTTP/1.1 500 X\r\nRetry-After: 9\r\nSet-Cookie: a=secret-a; Path=/\r\n"
                      "Content-Length: 8\r\n\r\nanswer-a";
    const struct transfer *used = TAILQ_FIRST(&f->t->idle);
    assert_null(used);
    (void)post(f, &first);
    used = TAILQ_FIRST(&f->t->idle);
    f->server.reply = "HTTP/1.1 204 No Content\r\n\r\n";
    static const char *const hosts[] = {"tenant-b.example.com", "tenant-a.example.com"};
    for (size_t i = 0; i < 2; i++) {
        struct request second = {.host = hosts[i]};
        (void)post(f, &second);
        assert_ptr_equal(TAILQ_FIRST(&f->t->idle), used); /* the same handle served both */
        assert_null(strcasestr(f->server.last, "secret-a"));
        assert_null(strcasestr(f->server.last, "cookie"));
        assert_non_null(strstr(f->server.last, "Content-Length: 0\r\n"));
        assert_int_equal(f->result.status, 204);
        assert_string_equal(f->result.headers, "");
        assert_string_equal(f->result.body, "");
        assert_int_equal(f->result.retry_after_s, -1);
    }
    f->server.behaviour = RESET;
    (void)post(f, &first);
    assert_int_equal(f->result.status, 0);
    assert_string_equal(f->result.body, "");
}

static void test_a_line_break_in_a_header_is_never_sent(void **state)
{
    struct fixture *f = *state;
    struct request r = hello;
    r.header = "X-One: 1\r\nX-Forged: 2";
    assert_int_equal(post(f, &r)->fault, TRANSPORT_OURS);
    assert_int_equal(f->server.connections, 0);
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_the_request_has_exactly_our_headers_and_bytes),
        T(test_a_redirect_is_an_answer_and_not_followed),
        T(test_a_refused_connection_is_said_so),
        T(test_a_hanging_endpoint_ends_at_the_timeout),
        T(test_a_connection_without_an_answer_ends_at_the_timeout),
        T(test_a_deadline_that_passed_while_this_process_was_stopped_is_our_fault),
        T(test_slow_headers_end_at_the_timeout),
        T(test_a_body_that_stalls_ends_at_the_timeout),
        T(test_answers_that_are_none_are_broken),
        T(test_the_status_decides_when_the_peer_cuts_the_body),
        T(test_an_endless_body_is_cut_and_the_status_decides),
        T(test_a_body_of_exactly_the_limit_is_read_to_its_end),
        T(test_headers_without_end_are_too_large),
        T(test_headers_of_an_interim_answer_are_forgotten),
        T(test_retry_after_is_read_in_both_forms),
        T(test_a_retry_after_date_counts_from_the_answers_own_date),
        T(test_a_denied_address_is_never_connected_to),
        T(test_a_kept_connection_is_vetted_before_each_request),
        T(test_libcurl_never_resolves_a_name),
        T(test_the_newest_pin_is_used),
        T(test_pins_stay_few),
        T(test_proxies_of_the_environment_are_ignored),
        T(test_the_largest_body_goes_whole_and_without_expect),
        T(test_nothing_of_one_request_reaches_the_next),
        T(test_a_line_break_in_a_header_is_never_sent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
