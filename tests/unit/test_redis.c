/* common/redis.c against a real Redis that each test starts for itself (redis_server.h). */
#include "redis.h"

#include <event2/event.h>
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "metrics_page.h"
#include "no_lookups.h"
#include "redis_server.h"
#include "redis_url.h"

#define PATIENCE_US      (15 * INT64_C(1000000))
#define COUNT_OF_SECONDS "nrw_redis_seconds_count{connection=\"unit-test\"}"
#define LOST             "nrw_redis_connections_lost_total{connection=\"unit-test\"}"
#define REPLIES_MAX      5000
#define LEN(a)           (int)(sizeof(a) / sizeof(*(a)))

/* --- one connection under test ---------------------------------------------------------- */

struct world;
struct answer {
    struct world *w;
    int calls;
    int order;
    bool got_reply;
    long long integer;
    char text[64];
    struct err err;
};

struct world {
    struct event_base *base;
    struct event *ticker;
    struct redis *r;
    int ups;
    int downs;
    int answers;
    int answers_at_down;
    bool inside;
    struct err why;
    int messages;
    char message[64];
    struct answer a[REPLIES_MAX];
};

static bool turn_unless(struct world *w, bool cond, const char *text, int64_t end)
{
    if (cond) {
        return false;
    }
    if (clock_mono_us() > end) {
        fail_msg("never came true: %s", text);
    }
    assert_int_equal(0, event_base_loop(w->base, EVLOOP_ONCE));
    return true;
}
#define AWAIT(w, cond)                                                                             \
    for (int64_t end_ = clock_mono_us() + PATIENCE_US; turn_unless(w, cond, #cond, end_);) {       \
    }

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void on_up(void *ctx)
{
    struct world *w = ctx;
    assert_true(redis_is_up(w->r));
    w->ups++;
}

static void on_down(void *ctx, const struct err *why)
{
    struct world *w = ctx;
    assert_false(redis_is_up(w->r));
    w->downs++;
    w->why = *why;
    w->answers_at_down = w->answers;
}

static void on_message(void *ctx, const char *text, size_t len)
{
    struct world *w = ctx;
    w->messages++;
    assert_true(len < sizeof(w->message));
    memcpy(w->message, text, len + 1);
}

static void on_answer(void *ctx, const struct redisReply *reply, const struct err *err)
{
    struct answer *a = ctx;
    assert_false(a->w->inside);
    a->calls++;
    a->order = a->w->answers++;
    a->got_reply = reply != NULL;
    a->err = *err;
    assert_int_equal(reply != NULL, err->code == ERR_NONE);
    if (reply != NULL) {
        a->integer = reply->integer;
        strncpy(a->text, reply->str == NULL ? "" : reply->str, sizeof(a->text) - 1);
    } else {
        assert_true(err->ours);
    }
}

static struct world *world_new(void)
{
    struct world *w = mem_zero(1, sizeof(*w));
    const struct timeval tick = {.tv_usec = 5000};
    w->base = event_base_new();
    w->ticker = event_new(w->base, -1, EV_PERSIST, on_tick, NULL);
    event_add(w->ticker, &tick);
    return w;
}

static void world_connect(struct world *w, const char *url, int stall_ms)
{
    const struct redis_handlers handlers = {.up = on_up, .down = on_down, .ctx = w};
    struct err err = {.code = ERR_NONE};
    w->r = redis_new(w->base, url, "unit-test", stall_ms, &handlers, &err);
    if (w->r == NULL) {
        fail_msg("%s", err.text);
    }
}

static struct world *world_up(const char *parameters, int stall_ms)
{
    char url[200];
    assert_true(snprintf(url, sizeof(url), "unix://%s%s", redis_server.socket, parameters) > 0);
    struct world *w = world_new();
    world_connect(w, url, stall_ms);
    AWAIT(w, w->ups == 1);
    return w;
}

static void world_free(struct world *w)
{
    redis_free(w->r);
    event_free(w->ticker);
    event_base_free(w->base);
    free(w);
}

static bool command(struct world *w, int at, int argc, const char *const *argv)
{
    size_t lens[8];
    assert_true(argc <= LEN(lens));
    for (int i = 0; i < argc; i++) {
        lens[i] = strlen(argv[i]);
    }
    w->a[at].w = w;
    w->inside = true;
    bool sent = redis_command(w->r, argc, argv, lens, on_answer, &w->a[at]);
    w->inside = false;
    return sent;
}
#define COMMAND(w, at, ...)                                                                        \
    command(w, at, LEN(((const char *const[]){__VA_ARGS__})), (const char *const[]){__VA_ARGS__})
#define RUN(w, at, ...) (assert_true(COMMAND(w, at, __VA_ARGS__)), await_answer(w, at), &(w)->a[at])

static void await_answer(struct world *w, int at)
{
    AWAIT(w, w->a[at].calls > 0);
    assert_int_equal(1, w->a[at].calls);
}

/* --- URLs ------------------------------------------------------------------------------- */

static void test_each_form_of_url_is_understood(void **state)
{
    (void)state;
    static const struct {
        const char *url, *host, *path, *user, *password;
        int port, db;
        bool tls;
        const char *ca_file;
    } rows[] = {
        {"redis://h", "h", NULL, NULL, NULL, 6379, 0, false, NULL},
        {"redis://h/", "h", NULL, NULL, NULL, 6379, 0, false, NULL},
        {"redis://h:1/7", "h", NULL, NULL, NULL, 1, 7, false, NULL},
        {"redis://:p%40ss%3a@10.0.0.1:65535", "10.0.0.1", NULL, NULL, "p@ss:", 65535, 0, false,
         NULL},
        {"redis://u:p@[::1]:6380/15", "::1", NULL, "u", "p", 6380, 15, false, NULL},
        {"redis://u:a@b:c@h", "h", NULL, "u", "a@b:c", 6379, 0, false, NULL},
        {"redis://:@h", "h", NULL, NULL, NULL, 6379, 0, false, NULL},
        {"unix:///run/r.sock", NULL, "/run/r.sock", NULL, NULL, 0, 0, false, NULL},
        {"unix:///r?db=3&password=%26x&user=u", NULL, "/r", "u", "&x", 0, 3, false, NULL},
        {"unix:///r?password=p", NULL, "/r", NULL, "p", 0, 0, false, NULL},
        {"rediss://h", "h", NULL, NULL, NULL, 6379, 0, true, NULL},
        {"rediss://u:p@h:6380/2", "h", NULL, "u", "p", 6380, 2, true, NULL},
        {"rediss://h?ca_file=/a%20b", "h", NULL, NULL, NULL, 6379, 0, true, "/a b"},
        {"rediss://[::1]/?ca_file=a", "::1", NULL, NULL, NULL, 6379, 0, true, "a"},
        {"rediss://:p@h:1/7?ca_file=/c", "h", NULL, NULL, "p", 1, 7, true, "/c"},
    };
    for (int i = 0; i < LEN(rows); i++) {
        struct redis_url u = {.port = -1};
        struct err err = {.code = ERR_NONE};
        if (!redis_url_parse(rows[i].url, &u, &err)) {
            fail_msg("%s: %s", rows[i].url, err.text);
        }
        const char *const want[] = {rows[i].host, rows[i].path, rows[i].user, rows[i].password,
                                    rows[i].ca_file};
        const char *const got[] = {u.host, u.path, u.user, u.password, u.ca_file};
        for (int k = 0; k < LEN(want); k++) {
            assert_int_equal(want[k] == NULL, got[k] == NULL);
            if (want[k] != NULL) {
                assert_string_equal(want[k], got[k]);
            }
        }
        assert_int_equal(rows[i].port, u.port);
        assert_int_equal(rows[i].db, u.db);
        assert_int_equal(rows[i].tls, u.tls);
        redis_url_done(&u);
    }
}

static void test_a_malformed_url_is_refused_without_showing_the_password(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "secret",
        "http://h",
        "redis://",
        "redis://:secret@",
        "redis://secret@h",
        "redis://secret:@h",
        "redis://:secret%4@h",
        "redis://:secret%zz@h",
        "redis://:secret%00@h",
        "redis://:secret@h:",
        "redis://:secret@h:0",
        "redis://:secret@h:65536",
        "redis://:secret@h:99999999999999999999",
        "redis://:secret@h:6379x",
        "redis://:secret@[::1",
        "redis://:secret@[]",
        "redis://:secret@[::1]x",
        "redis://:secret@h/x",
        "redis://:secret@h/-1",
        "redis://:secret@h/99999999999",
        "redis://:secret@h?db=1",
        "redis://:secret@h/1?db=1",
        "redis://:secret@h#1",
        "redis://:secret@h?ca_file=/c",
        "rediss://:secret@",
        "rediss://:secret@h/x?ca_file=/c",
        "rediss://:secret@h?",
        "rediss://:secret@h?ca_file",
        "rediss://:secret@h?ca_file=",
        "rediss://:secret@h?ca_file=%",
        "rediss://:secret@h?ca_file=/c&db=1",
        "rediss://:secret@h?db=1",
        "rediss://:secret@h?ca_file=/c#1",
        "rediss://:secret@h#1",
        "unix://relative?password=secret",
        "unix:///",
        "unix:///p?password=secret&what=1",
        "unix:///p?user=secret",
        "unix:///p?password=secret&db=",
        "unix:///p?password=secret&db=x",
        "unix:///p?password=secret%",
        "unix:///p?",
        "unix:///p#secret",
    };
    for (int i = 0; i < LEN(bad); i++) {
        struct redis_url u;
        struct err err = {.code = ERR_NONE};
        if (redis_url_parse(bad[i], &u, &err)) {
            fail_msg("%s was taken", bad[i]);
        }
        assert_int_equal(ERR_INVALID, err.code);
        assert_null(strstr(err.text, "secret"));
        assert_null(redis_new(NULL, bad[i], "x", 1, NULL, &err));
    }
}

static void test_tls_is_refused_with_the_way_to_have_it(void **state)
{
    (void)state;
    if (NRW_REDIS_TLS) {
        skip();
    }
    struct err err = {.code = ERR_NONE};
    assert_null(redis_new(NULL, "rediss://:secret@h:6380/0", "x", 1, NULL, &err));
    assert_int_equal(ERR_INVALID, err.code);
    assert_non_null(strstr(err.text, "stunnel"));
    assert_null(strstr(err.text, "secret"));
}

static void test_authorities_that_cannot_be_read_are_refused_by_name(void **state)
{
    (void)state;
    if (!NRW_REDIS_TLS) {
        skip();
    }
    static const char *const files[] = {"/absent.crt", "/dev/null"};
    for (int i = 0; i < LEN(files); i++) {
        char url[64];
        struct err err = {.code = ERR_NONE};
        assert_true(snprintf(url, sizeof(url), "rediss://:secret@h?ca_file=%s", files[i]) > 0);
        assert_null(redis_new(NULL, url, "x", 1, NULL, &err));
        assert_int_equal(ERR_INVALID, err.code);
        assert_non_null(strstr(err.text, files[i]));
        assert_null(strstr(err.text, "secret"));
    }
}

/* --- commands --------------------------------------------------------------------------- */

static void test_commands_are_answered_once_and_in_order(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = world_up("", 5000);
    for (int i = 0; i < 1000; i++) {
        assert_true(COMMAND(w, i, "INCR", "n"));
    }
    assert_int_equal(0, w->answers);
    const double measured = metrics_page_value(COUNT_OF_SECONDS);
    AWAIT(w, w->answers == 1000);
    assert_int_equal(1000, (int)(metrics_page_value(COUNT_OF_SECONDS) - measured));
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(i + 1, w->a[i].integer);
        assert_int_equal(i, w->a[i].order);
        assert_int_equal(1, w->a[i].calls);
    }
    world_free(w);
}

static void pass_something_large(struct world *w)
{
    const size_t size = 1500000;
    char *big = mem_alloc(size + 1);
    memset(big, 'x', size);
    big[size] = '\0';
    assert_true(RUN(w, 0, "SET", "big", big)->got_reply);
    assert_int_equal(size, RUN(w, 1, "STRLEN", "big")->integer);
    assert_true(RUN(w, 2, "GET", "big")->got_reply);
    assert_int_equal('x', w->a[2].text[0]);
    assert_true(RUN(w, 3, "DEL", "big")->got_reply);
    free(big);
}

static void test_large_arguments_and_replies_pass_whole(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = world_up("", 5000);
    pass_something_large(w);
    world_free(w);
}

/* More than a socket takes, and many TLS records. The server is that of
 * tests/system/test_wire_redis.py. */
static void test_large_arguments_and_replies_pass_whole_over_tls(void **state)
{
    (void)state;
    const char *url = getenv("NRW_TEST_REDIS_TLS_URL");
    if (url == NULL) {
        skip();
        return;
    }
    struct world *w = world_new();
    world_connect(w, url, 5000);
    AWAIT(w, w->ups == 1);
    pass_something_large(w);
    assert_int_equal(0, w->downs);
    world_free(w);
}

static void test_a_refusal_is_told_and_the_connection_stays(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = world_up("", 5000);
    const struct answer *a = RUN(w, 0, "NOSUCHCOMMAND");
    assert_false(a->got_reply);
    assert_int_equal(ERR_DENIED, a->err.code);
    assert_non_null(strstr(a->err.text, "unknown command"));
    assert_string_equal("PONG", RUN(w, 1, "PING")->text);
    assert_int_equal(0, w->downs);
    world_free(w);
}

static void test_outstanding_commands_are_bounded(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = world_up("", 60000);
    int n = 0;
    while (n < REPLIES_MAX && COMMAND(w, n, "PING")) {
        n++;
    }
    assert_int_equal(4096, n);
    AWAIT(w, w->answers == n);
    assert_true(RUN(w, n, "PING")->got_reply);
    world_free(w);
}

static void test_outstanding_bytes_are_bounded(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = world_up("", 60000);
    const size_t size = 2000000;
    char *big = mem_alloc(size + 1);
    memset(big, 'x', size);
    big[size] = '\0';
    int n = 0;
    while (n < 100 && COMMAND(w, n, "SET", "big", big)) {
        n++;
    }
    free(big);
    assert_in_range(n, 10, 17);
    AWAIT(w, w->answers == n);
    assert_true(RUN(w, n, "PING")->got_reply);
    world_free(w);
}

static void test_free_answers_what_is_outstanding(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = world_up("", 5000);
    for (int i = 0; i < 10; i++) {
        assert_true(COMMAND(w, i, "PING"));
    }
    redis_free(w->r), w->r = NULL;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(1, w->a[i].calls);
        assert_int_equal(ERR_IO, w->a[i].err.code);
    }
    assert_int_equal(0, w->downs);
    world_free(w);
}

static void test_free_works_in_every_state(void **state)
{
    (void)state;
    redis_server_start();
    for (int turns = 0; turns < 8; turns++) {
        char url[200];
        assert_true(snprintf(url, sizeof(url), "unix://%s", redis_server.socket) > 0);
        struct world *w = world_new();
        world_connect(w, url, 1000);
        for (int i = 0; i < turns; i++) {
            event_base_loop(w->base, EVLOOP_NONBLOCK);
        }
        world_free(w);
    }
}

/* --- scripts ---------------------------------------------------------------------------- */

static const char script_text[] = "return tonumber(redis.call('INCRBY', KEYS[1], ARGV[1]))";

static void eval(struct world *w, int at, const struct redis_script *s)
{
    static const char *const argv[] = {"counter", "5"};
    static const size_t lens[] = {7, 1};
    w->a[at].w = w;
    w->inside = true;
    assert_true(redis_eval(w->r, s, 1, 2, argv, lens, on_answer, &w->a[at]));
    w->inside = false;
}

static void test_a_script_that_the_server_forgot_is_sent_again_and_runs_once(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = world_up("", 5000);
    struct redis_script s;
    redis_script_init(&s, "count", script_text);
    for (int i = 0; i < 6; i++) {
        if (i % 2 == 0) {
            REDIS_SERVER_DO("SCRIPT FLUSH");
        }
        eval(w, i, &s);
        await_answer(w, i);
        assert_int_equal(5 * (i + 1), w->a[i].integer);
    }
    /* several in one pipeline that none of them can find */
    REDIS_SERVER_DO("SCRIPT FLUSH");
    for (int i = 6; i < 16; i++) {
        eval(w, i, &s);
    }
    AWAIT(w, w->answers == 16);
    assert_int_equal(80, REDIS_SERVER_DO("GET counter"));
    world_free(w);
}

static void test_a_failing_script_names_itself(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = world_up("", 5000);
    struct redis_script s;
    redis_script_init(&s, "count", script_text);
    REDIS_SERVER_DO("SET counter word");
    for (int i = 0; i < 2; i++) { /* by its text, then by its hash */
        eval(w, i, &s);
        await_answer(w, i);
        assert_int_equal(ERR_DENIED, w->a[i].err.code);
        assert_non_null(strstr(w->a[i].err.text, "Redis: count: "));
    }
    world_free(w);
}

/* --- logging in ------------------------------------------------------------------------- */

static void test_password_user_and_database_of_the_url_are_used(void **state)
{
    (void)state;
    redis_server_start();
    REDIS_SERVER_DO("ACL SETUSER ann on >p%%40:%%20ss ~* &* +@all");
    REDIS_SERVER_DO("CONFIG SET requirepass letmein");
    struct world *w = world_up("?user=ann&password=p%2540%3A%2520ss&db=5", 5000);
    assert_string_equal("ann", RUN(w, 0, "ACL", "WHOAMI")->text);
    assert_true(RUN(w, 1, "SET", "here", "1")->got_reply);
    REDIS_SERVER_DO("SELECT 5");
    assert_int_equal(1, REDIS_SERVER_DO("GET here"));
    world_free(w);
    w = world_up("?password=letmein", 5000);
    assert_string_equal("default", RUN(w, 0, "ACL", "WHOAMI")->text);
    world_free(w);
}

static void test_a_user_with_few_rights_is_up(void **state)
{
    (void)state;
    redis_server_start();
    REDIS_SERVER_DO("ACL SETUSER bob on >pw ~a +get");
    struct world *w = world_up("?user=bob&password=pw", 5000);
    assert_true(RUN(w, 0, "GET", "a")->got_reply);
    assert_int_equal(ERR_DENIED, RUN(w, 1, "GET", "b")->err.code);
    world_free(w);
}

/* Refused: no up, and no ten tries a second. Then the operator repairs it. */
static void test_a_wrong_password_is_not_up_until_it_is_right(void **state)
{
    (void)state;
    redis_server_start();
    REDIS_SERVER_DO("ACL SETUSER ann on >right ~* +@all");
    char url[200];
    assert_true(
        snprintf(url, sizeof(url), "unix://%s?user=ann&password=later", redis_server.socket) > 0);
    struct world *w = world_new();
    world_connect(w, url, 1000);
    const int64_t end = clock_mono_us() + 700000;
    AWAIT(w, clock_mono_us() > end);
    assert_int_equal(0, w->ups);
    assert_false(COMMAND(w, 0, "PING"));
    long long connections =
        REDIS_SERVER_DO("EVAL %s 0", "return tonumber(string.match(redis.call('INFO', 'stats'), "
                                     "'total_connections_received:(%d+)'))");
    assert_in_range(connections, 3, 6); /* the admin's, and the tries of 100, 200, 400 ms */
    REDIS_SERVER_DO("ACL SETUSER ann >later");
    AWAIT(w, w->ups == 1);
    world_free(w);
}

static void test_a_database_that_does_not_exist_is_not_up(void **state)
{
    (void)state;
    redis_server_start();
    char url[200];
    assert_true(snprintf(url, sizeof(url), "unix://%s?db=99", redis_server.socket) > 0);
    struct world *w = world_new();
    world_connect(w, url, 1000);
    const int64_t end = clock_mono_us() + 300000;
    AWAIT(w, clock_mono_us() > end);
    assert_int_equal(0, w->ups);
    world_free(w);
}

static void test_tcp_with_a_host_name_and_a_port_works(void **state)
{
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    assert_int_equal(0, bind(fd, (struct sockaddr *)&addr, sizeof(addr)));
    assert_int_equal(0, getsockname(fd, (struct sockaddr *)&addr, &len));
    close(fd);
    char url[64];
    struct world *w = world_new();
    assert_true(snprintf(redis_server.port, sizeof(redis_server.port), "%u", ntohs(addr.sin_port)) >
                0);
    assert_true(snprintf(url, sizeof(url), "redis://localhost:%s/3", redis_server.port) > 0);
    world_connect(w, url, 1000); /* before there is a server: refused at first */
    for (int i = 0; i < 5; i++) {
        event_base_loop(w->base, EVLOOP_ONCE);
    }
    assert_int_equal(0, w->ups);
    redis_server_start();
    AWAIT(w, w->ups == 1);
    assert_string_equal("PONG", RUN(w, 0, "PING")->text);
    assert_int_equal(0, names_asked); /* of libc, which would have blocked */
    world_free(w);
}

/* --- faults ----------------------------------------------------------------------------- */

static void test_a_killed_server_answers_all_commands_and_comes_back(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = world_up("", 5000);
    const double lost = metrics_page_value(LOST);
    for (int round = 1; round <= 3; round++) {
        int first = w->answers;
        kill(redis_server.pid, SIGSTOP);
        for (int i = 0; i < 100; i++) {
            w->a[i].calls = 0;
            assert_true(COMMAND(w, i, "PING"));
        }
        event_base_loop(w->base, EVLOOP_ONCE); /* written, never read */
        redis_server_kill();
        AWAIT(w, w->downs == round);
        assert_int_equal(first + 100, w->answers_at_down);
        assert_int_equal(ERR_IO, w->why.code);
        for (int i = 0; i < 100; i++) {
            assert_int_equal(1, w->a[i].calls);
            assert_int_equal(ERR_IO, w->a[i].err.code);
        }
        assert_false(COMMAND(w, 200, "PING"));
        redis_server_run();
        AWAIT(w, w->ups == round + 1);
        w->a[201].calls = 0;
        assert_string_equal("PONG", RUN(w, 201, "PING")->text);
    }
    assert_int_equal(3, (int)(metrics_page_value(LOST) - lost));
    world_free(w);
}

static void test_a_stalled_server_is_given_up(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = world_up("", 300);
    const int64_t idle = clock_mono_us() + 600000;
    AWAIT(w, clock_mono_us() > idle); /* nothing asked: silence is no stall */
    assert_int_equal(0, w->downs);
    kill(redis_server.pid, SIGSTOP);
    const int64_t asked = clock_mono_us();
    assert_true(COMMAND(w, 0, "PING"));
    AWAIT(w, w->downs == 1);
    assert_in_range(clock_mono_us() - asked, 290000, 2000000);
    assert_int_equal(ERR_TIMEOUT, w->a[0].err.code);
    assert_int_equal(1, w->a[0].calls);
    kill(redis_server.pid, SIGCONT);
    AWAIT(w, w->ups == 2);
    assert_string_equal("PONG", RUN(w, 1, "PING")->text);
    world_free(w);
}

/* Behind a name there may be another master by now. */
static void test_a_read_only_replica_is_left(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = world_up("", 5000);
    REDIS_SERVER_DO("REPLICAOF 127.0.0.1 1");
    const struct answer *a = RUN(w, 0, "SET", "k", "v");
    assert_int_equal(ERR_DENIED, a->err.code);
    assert_non_null(strstr(a->err.text, "READONLY"));
    AWAIT(w, w->downs == 1);
    assert_non_null(strstr(w->why.text, "read-only"));
    REDIS_SERVER_DO("REPLICAOF NO ONE");
    AWAIT(w, w->ups == 2);
    assert_true(RUN(w, 1, "SET", "k", "v")->got_reply);
    world_free(w);
}

/* --- listening -------------------------------------------------------------------------- */

static struct world *listener(const char *channel)
{
    char url[200];
    struct world *w = world_new();
    struct err err = {.code = ERR_NONE};
    assert_true(snprintf(url, sizeof(url), "unix://%s?db=2", redis_server.socket) > 0);
    w->r = redis_subscribe(w->base, url, "unit-test", channel, on_message, w, &err);
    assert_non_null(w->r);
    return w;
}

static void test_a_listener_hears_and_hears_again_after_a_restart(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = listener("news");
    for (int round = 0; round < 3; round++) {
        w->messages = 0;
        AWAIT(w, redis_is_up(w->r));
        assert_int_equal(1, REDIS_SERVER_DO("PUBLISH news hello%d", round));
        AWAIT(w, w->messages == 1);
        char want[16];
        assert_true(snprintf(want, sizeof(want), "hello%d", round) > 0);
        assert_string_equal(want, w->message);
        redis_server_kill();
        AWAIT(w, !redis_is_up(w->r));
        redis_server_run();
    }
    world_free(w);
}

/* A listener never asks for anything by itself, so that silence has to be broken. */
static void test_a_listener_leaves_a_server_that_hangs(void **state)
{
    (void)state;
    redis_server_start();
    struct world *w = listener("news");
    AWAIT(w, redis_is_up(w->r));
    kill(redis_server.pid, SIGSTOP);
    AWAIT(w, !redis_is_up(w->r));
    kill(redis_server.pid, SIGCONT);
    AWAIT(w, redis_is_up(w->r));
    world_free(w);
}

#define TEST(name) cmocka_unit_test_teardown(name, redis_server_stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_form_of_url_is_understood),
        cmocka_unit_test(test_a_malformed_url_is_refused_without_showing_the_password),
        cmocka_unit_test(test_tls_is_refused_with_the_way_to_have_it),
        cmocka_unit_test(test_authorities_that_cannot_be_read_are_refused_by_name),
        TEST(test_commands_are_answered_once_and_in_order),
        TEST(test_large_arguments_and_replies_pass_whole),
        TEST(test_large_arguments_and_replies_pass_whole_over_tls),
        TEST(test_a_refusal_is_told_and_the_connection_stays),
        TEST(test_outstanding_commands_are_bounded),
        TEST(test_outstanding_bytes_are_bounded),
        TEST(test_free_answers_what_is_outstanding),
        TEST(test_free_works_in_every_state),
        TEST(test_a_script_that_the_server_forgot_is_sent_again_and_runs_once),
        TEST(test_a_failing_script_names_itself),
        TEST(test_password_user_and_database_of_the_url_are_used),
        TEST(test_a_user_with_few_rights_is_up),
        TEST(test_a_wrong_password_is_not_up_until_it_is_right),
        TEST(test_a_database_that_does_not_exist_is_not_up),
        TEST(test_tcp_with_a_host_name_and_a_port_works),
        TEST(test_a_killed_server_answers_all_commands_and_comes_back),
        TEST(test_a_stalled_server_is_given_up),
        TEST(test_a_read_only_replica_is_left),
        TEST(test_a_listener_hears_and_hears_again_after_a_restart),
        TEST(test_a_listener_leaves_a_server_that_hangs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
