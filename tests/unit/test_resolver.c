/* The resolver against a small DNS server of our own on the same loop, which answers by the first
 * label of the name: v4 v6 both nx empty servfail silent half (A answered, AAAA silent) mixed (A
 * empty, AAAA SERVFAIL) cname many toomany tcp ttl0 "nX-" in front of the label makes further names
 * of the same kind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "clock.h"
#include "resolver.h"

#define TYPE_A        1
#define TYPE_NS       2
#define TYPE_CNAME    5
#define TYPE_AAAA     28
#define RCODE_OK      0
#define RCODE_SERVER  2
#define RCODE_NX      3
#define RCODE_REFUSED 5
#define AWAIT_US      INT64_C(10000000)
#define SEEN_MAX      4096

struct seen {
    char name[64];
    unsigned type;
};

struct lookup {
    struct fixture *f;
    struct resolver_query *query;
    unsigned calls;
    unsigned n, n4, n6;
    struct sockaddr_storage first;
    struct err err;
    struct lookup *cancel; /* cancelled by the call-back of this one */
    const char *next_host; /* looked up by it                        */
    struct lookup *next;
};

struct fixture {
    struct event_base *base;
    struct event *tick;
    int udp, tcp, conn;
    struct event *udp_event, *tcp_event, *conn_event;
    char servers[32];
    bool silent;   /* answers nothing                    */
    bool rootless; /* refuses to speak of the root       */
    unsigned hits; /* messages that came                 */
    struct seen seen[SEEN_MAX];
    unsigned n_seen;
    struct resolver *r;
    int64_t longest_turn_us;
};

/* ---- the server ---- */

struct message {
    uint8_t b[8192];
    size_t len;
};

static void put16(struct message *m, unsigned v)
{
    m->b[m->len++] = (uint8_t)(v >> 8);
    m->b[m->len++] = (uint8_t)v;
}

static void put_record(struct message *m, unsigned name, unsigned type, unsigned ttl,
                       const void *data, unsigned len)
{
    put16(m, name);
    put16(m, type);
    put16(m, 1);
    put16(m, 0);
    put16(m, ttl);
    put16(m, len);
    memcpy(m->b + m->len, data, len);
    m->len += len;
    m->b[7] = (uint8_t)(m->b[7] + 1); /* ANCOUNT; the tests with more than 255 set it themselves */
}

static void put_addresses(struct message *m, unsigned name, unsigned type, unsigned ttl, unsigned n)
{
    for (unsigned i = 1; i <= n; i++) {
        uint8_t v4[4] = {198, 51, (uint8_t)(i >> 8), (uint8_t)i};
        uint8_t v6[16] = {0x20, 0x01, 0x0d, 0xb8, [14] = (uint8_t)(i >> 8), [15] = (uint8_t)i};

        put_record(m, name, type, ttl, type == TYPE_A ? v4 : v6, type == TYPE_A ? 4 : 16);
    }
}

/* Addresses: number, TTL of the A and of the AAAA records. RCODE of each. */
struct kind {
    const char *name;
    unsigned n4, ttl4, n6, ttl6;
    uint8_t rcode4, rcode6;
};
static const struct kind kinds[] = {
    {.name = "v4", .n4 = 1, .ttl4 = 60},
    {.name = "v6", .n6 = 1, .ttl6 = 60},
    {.name = "both", .n4 = 2, .ttl4 = 3600, .n6 = 2, .ttl6 = 3600},
    {.name = "half", .n4 = 1, .ttl4 = 60},
    {.name = "ttl0", .n4 = 1, .ttl4 = 0, .n6 = 1, .ttl6 = 3600},
    {.name = "many", .n4 = 100, .ttl4 = 60},
    {.name = "toomany", .n4 = 200, .ttl4 = 60, .n6 = 57, .ttl6 = 60},
    {.name = "tcp", .n4 = 100, .ttl4 = 60, .n6 = 100, .ttl6 = 60},
    {.name = "cname", .n4 = 1, .ttl4 = 60},
    {.name = "empty"},
    {.name = "nx", .rcode4 = RCODE_NX, .rcode6 = RCODE_NX},
    {.name = "servfail", .rcode4 = RCODE_SERVER, .rcode6 = RCODE_SERVER},
    {.name = "mixed", .rcode6 = RCODE_SERVER},
};

static const struct kind *find_kind(const char *name)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return &kinds[i];
        }
    }
    return NULL;
}

/* Sets what the answer holds; false: no answer. */
static bool answer_address(struct message *m, const char *name, unsigned type, bool over_tcp)
{
    const struct kind *k = find_kind(name);
    bool a = type == TYPE_A;
    unsigned owner = 0xc00c;

    if (k == NULL || (strcmp(name, "half") == 0 && !a)) {
        return false;
    }
    m->b[3] |= a ? k->rcode4 : k->rcode6;
    if (strcmp(name, "tcp") == 0 && !over_tcp) {
        m->b[2] |= 2; /* TC */
        return true;
    }
    if (strcmp(name, "cname") == 0) {
        owner = 0xc000u + (unsigned)m->len + 12;
        put_record(m, 0xc00c, TYPE_CNAME, 1, "\5alias\4test", 12);
    }
    put_addresses(m, owner, type, a ? k->ttl4 : k->ttl6, a ? k->n4 : k->n6);
    return true;
}

/* Dotted name of the question; returns the offset behind the question. */
static size_t read_question(const struct message *q, char name[64], unsigned *ret_type)
{
    size_t at = 12;
    size_t n = 0;

    while (q->b[at] != 0) {
        size_t len = q->b[at];

        assert_true(n + len + 1 < 64 && at + len < q->len);
        memcpy(name + n, q->b + at + 1, len);
        n += len;
        name[n++] = '.';
        at += len + 1;
    }
    name[n > 0 ? n - 1 : 0] = '\0';
    *ret_type = (unsigned)q->b[at + 1] << 8 | q->b[at + 2];
    return at + 5;
}

static bool answer(struct fixture *f, const struct message *q, bool over_tcp, struct message *m)
{
    char name[64];
    char kind[64];
    const char *dash;
    unsigned type;

    m->len = read_question(q, name, &type);
    memcpy(m->b, q->b, m->len);
    memset(m->b + 6, 0, 6); /* no records yet */
    m->b[2] = 0x81;
    m->b[3] = 0x80;
    f->hits++;
    if (f->n_seen < SEEN_MAX) {
        memcpy(f->seen[f->n_seen].name, name, sizeof(name));
        f->seen[f->n_seen++].type = type;
    }
    if (f->silent) {
        return false;
    }
    if (type == TYPE_NS && f->rootless) {
        m->b[3] |= RCODE_REFUSED;
        return true;
    }
    if (type == TYPE_NS) {
        put_record(m, 0xc00c, TYPE_NS, 60, "\1a\4root", 8);
        return true;
    }
    dash = strchr(name, '-');
    assert_true(snprintf(kind, sizeof(kind), "%s", dash != NULL ? dash + 1 : name) > 0);
    kind[strcspn(kind, ".")] = '\0';
    return answer_address(m, kind, type, over_tcp);
}

static void on_udp(evutil_socket_t fd, short what, void *ctx)
{
    struct fixture *f = ctx;
    struct message q;
    struct message m;
    struct sockaddr_storage from;
    socklen_t from_len = sizeof(from);
    ssize_t len;

    (void)what;
    while ((len = recvfrom(fd, q.b, sizeof(q.b), MSG_DONTWAIT, (struct sockaddr *)&from,
                           &from_len)) > 0) {
        q.len = (size_t)len;
        if (answer(f, &q, false, &m)) {
            assert_int_equal(sendto(fd, m.b, m.len, 0, (struct sockaddr *)&from, from_len), m.len);
        }
    }
}

/* On loopback a question comes in one piece; two may come together. */
static void on_conn(evutil_socket_t fd, short what, void *ctx)
{
    struct fixture *f = ctx;
    struct message in = {0};
    struct message q;
    struct message m;
    ssize_t len = recv(fd, in.b, sizeof(in.b), 0);

    (void)what;
    if (len <= 0) {
        event_free(f->conn_event);
        f->conn_event = NULL;
        close(fd);
        return;
    }
    for (size_t at = 0; at + 2 < (size_t)len; at += q.len + 2) {
        uint8_t head[2];

        q.len = (size_t)in.b[at] << 8 | in.b[at + 1];
        assert_true(at + 2 + q.len <= (size_t)len);
        memcpy(q.b, in.b + at + 2, q.len);
        if (answer(f, &q, true, &m)) {
            head[0] = (uint8_t)(m.len >> 8);
            head[1] = (uint8_t)m.len;
            assert_int_equal(send(fd, head, 2, 0), 2);
            assert_int_equal(send(fd, m.b, m.len, 0), m.len);
        }
    }
}

static void on_tcp(evutil_socket_t fd, short what, void *ctx)
{
    struct fixture *f = ctx;

    (void)what;
    assert_null(f->conn_event);
    f->conn = accept(fd, NULL, NULL);
    assert_true(f->conn >= 0);
    f->conn_event = event_new(f->base, f->conn, EV_READ | EV_PERSIST, on_conn, f);
    assert_int_equal(event_add(f->conn_event, NULL), 0);
}

static unsigned asked(const struct fixture *f, const char *name, unsigned type)
{
    unsigned n = 0;

    for (unsigned i = 0; i < f->n_seen; i++) {
        n += strcmp(f->seen[i].name, name) == 0 && f->seen[i].type == type;
    }
    return n;
}

/* ---- the loop ---- */

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    (void)ctx;
}

static void turn(struct fixture *f)
{
    int64_t start = clock_mono_us();
    int64_t took;

    assert_true(event_base_loop(f->base, EVLOOP_ONCE) >= 0); /* the tick ends it after 5 ms */
    took = clock_mono_us() - start;
    f->longest_turn_us = took > f->longest_turn_us ? took : f->longest_turn_us;
}

static void await_call(struct fixture *f, const struct lookup *l)
{
    int64_t until = clock_mono_us() + AWAIT_US;

    while (l->calls == 0) {
        assert_true(clock_mono_us() < until);
        turn(f);
    }
    assert_int_equal(l->calls, 1);
}

static void start_lookup(struct fixture *f, const char *host, struct lookup *l);

static void on_answer(void *ctx, const struct sockaddr_storage *addresses, unsigned n,
                      const struct err *err)
{
    struct lookup *l = ctx;

    l->calls++;
    l->query = NULL;
    l->n = n;
    l->err = *err;
    assert_int_equal(n == 0, err->code != ERR_NONE);
    for (unsigned i = 0; i < n; i++) {
        l->n4 += addresses[i].ss_family == AF_INET;
        l->n6 += addresses[i].ss_family == AF_INET6;
        assert_true(l->n6 == 0 || addresses[i].ss_family == AF_INET6); /* IPv4 first */
    }
    if (n > 0) {
        l->first = addresses[0];
    }
    if (l->cancel != NULL) {
        resolver_cancel(l->cancel->query);
    }
    if (l->next_host != NULL) {
        start_lookup(l->f, l->next_host, l->next);
    }
}

static void start_lookup(struct fixture *f, const char *host, struct lookup *l)
{
    char copy[300];
    unsigned before = l->calls;
    struct resolver_query *q;

    assert_true(snprintf(copy, sizeof(copy), "%s", host) > 0);
    l->f = f;
    q = resolver_lookup(f->r, copy, on_answer, l);
    memset(copy, 'x', sizeof(copy)); /* borrowed for the call only */
    assert_int_equal(q == NULL, l->calls != before);
    l->query = q;
}

static struct lookup look_up(struct fixture *f, const char *host)
{
    struct lookup l = {0};

    start_lookup(f, host, &l);
    await_call(f, &l);
    return l;
}

static void open_resolver_at(struct fixture *f, const char *servers, int64_t timeout_ms,
                             unsigned cache_max)
{
    struct resolver_config cfg = {
        .servers = servers, .timeout_ms = timeout_ms, .cache_max = cache_max};
    struct err err = {0};

    f->r = resolver_new(f->base, &cfg, &err);
    if (f->r == NULL) {
        fail_msg("%s", err.text);
    }
}

static void open_resolver(struct fixture *f, int64_t timeout_ms, unsigned cache_max)
{
    open_resolver_at(f, f->servers, timeout_ms, cache_max);
}

static unsigned open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(dir);
    while (readdir(dir) != NULL) {
        n++;
    }
    closedir(dir);
    return n;
}

static int bind_loopback(int type, uint16_t port)
{
    struct sockaddr_in in = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    if (bind(fd, (struct sockaddr *)&in, sizeof(in)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_in in = {0};
    socklen_t len = sizeof(in);

    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    return ntohs(in.sin_port);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct timeval tv = {.tv_usec = 5000};

    assert_non_null(f);
    f->base = event_base_new();
    f->tick = event_new(f->base, -1, EV_PERSIST, on_tick, NULL);
    event_add(f->tick, &tv);
    do { /* one port free for both */
        f->udp = bind_loopback(SOCK_DGRAM, 0);
        f->tcp = bind_loopback(SOCK_STREAM, port_of(f->udp));
    } while (f->tcp < 0 && close(f->udp) == 0);
    assert_int_equal(listen(f->tcp, 8), 0);
    assert_true(
        snprintf(f->servers, sizeof(f->servers), "127.0.0.1:%u", (unsigned)port_of(f->udp)) > 0);
    f->udp_event = event_new(f->base, f->udp, EV_READ | EV_PERSIST, on_udp, f);
    f->tcp_event = event_new(f->base, f->tcp, EV_READ | EV_PERSIST, on_tcp, f);
    event_add(f->udp_event, NULL);
    event_add(f->tcp_event, NULL);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    resolver_free(f->r);
    if (f->conn_event != NULL) {
        event_free(f->conn_event);
        close(f->conn);
    }
    event_free(f->udp_event);
    event_free(f->tcp_event);
    event_free(f->tick);
    event_base_free(f->base);
    close(f->udp);
    close(f->tcp);
    free(f);
    return 0;
}

/* ---- answers ---- */

static void test_all_addresses_of_both_families_come_ipv4_first(void **state)
{
    struct fixture *f = *state;
    struct lookup l;
    struct sockaddr_in in;

    open_resolver(f, 2000, 100);
    l = look_up(f, "v4.test");
    assert_int_equal(l.n4, 1);
    assert_int_equal(l.n6, 0);
    memcpy(&in, &l.first, sizeof(in));
    assert_int_equal(ntohl(in.sin_addr.s_addr), 0xc6330001); /* 198.51.0.1 */
    assert_int_equal(in.sin_port, 0);
    l = look_up(f, "v6.test");
    assert_int_equal(l.n4, 0);
    assert_int_equal(l.n6, 1);
    l = look_up(f, "both.test");
    assert_int_equal(l.n4, 2);
    assert_int_equal(l.n6, 2);
    l = look_up(f, "cname.test"); /* AAAA: the alias, and nothing behind it */
    assert_int_equal(l.n4, 1);
    assert_int_equal(l.n6, 0);
}

static void test_no_address_of_a_long_answer_is_kept_from_the_caller(void **state)
{
    struct fixture *f = *state;
    struct lookup l;

    open_resolver(f, 2000, 100);
    l = look_up(f, "many.test");
    assert_int_equal(l.n4, 100);
    l = look_up(f, "tcp.test");
    assert_int_equal(l.n4, 100);
    assert_int_equal(l.n6, 100);
}

static void test_an_answer_beyond_the_limit_fails_as_the_customers(void **state)
{
    struct fixture *f = *state;
    struct lookup l;

    open_resolver(f, 2000, 100);
    l = look_up(f, "toomany.test");
    assert_int_equal(l.n, 0);
    assert_int_equal(l.err.code, ERR_LIMIT);
    assert_false(l.err.ours);
}

static void test_names_without_address_fail_as_the_customers(void **state)
{
    static const char *const names[] = {"nx.test", "empty.test"};
    struct fixture *f = *state;

    open_resolver(f, 2000, 100);
    f->rootless = true;
    for (size_t i = 0; i < 2; i++) {
        struct lookup l = look_up(f, names[i]);

        assert_int_equal(l.err.code, ERR_DNS);
        assert_false(l.err.ours);
        assert_non_null(strstr(l.err.text, names[i]));
    }
}

static void test_localhost_is_asked_of_the_server_like_any_name(void **state)
{
    struct fixture *f = *state;
    struct lookup l;

    open_resolver(f, 300, 100);
    l = look_up(f, "nx.localhost");
    assert_int_equal(l.err.code, ERR_DNS);
    assert_int_equal(asked(f, "nx.localhost", TYPE_A), 1);
    l = look_up(f, "localhost"); /* in /etc/hosts; our server is silent about it */
    assert_int_equal(l.n, 0);
    assert_true(asked(f, "localhost", TYPE_A) > 0);
}

static void test_impossible_names_fail_as_the_customers(void **state)
{
    static const char *const names[] = {
        "a..b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.test"};
    struct fixture *f = *state;

    open_resolver(f, 300, 100);
    for (size_t i = 0; i < 2; i++) {
        struct lookup l = look_up(f, names[i]);

        assert_int_equal(l.err.code, ERR_INVALID);
        assert_false(l.err.ours);
    }
}

/* ---- sharing and caching ---- */

static void test_equal_lookups_share_one_query(void **state)
{
    struct fixture *f = *state;
    struct lookup l[3] = {{0}, {0}, {0}};
    struct resolver_stats stats;

    open_resolver(f, 2000, 100);
    for (unsigned i = 0; i < 3; i++) {
        start_lookup(f, "both.test", &l[i]);
        assert_non_null(l[i].query);
    }
    resolver_stats(f->r, &stats);
    assert_int_equal(stats.open, 1);
    for (unsigned i = 0; i < 3; i++) {
        await_call(f, &l[i]);
        assert_int_equal(l[i].n, 4);
    }
    assert_int_equal(asked(f, "both.test", TYPE_A), 1);
    assert_int_equal(asked(f, "both.test", TYPE_AAAA), 1);
    resolver_stats(f->r, &stats);
    assert_int_equal(stats.queries, 1);
    assert_int_equal(stats.open, 0);
}

static void test_a_cached_answer_calls_back_before_return(void **state)
{
    struct fixture *f = *state;
    struct lookup l = {0};
    struct resolver_stats stats;

    open_resolver(f, 2000, 100);
    look_up(f, "both.test");
    look_up(f, "nx.test");
    start_lookup(f, "both.test", &l);
    assert_null(l.query);
    assert_int_equal(l.n, 4);
    memset(&l, 0, sizeof(l));
    start_lookup(f, "nx.test", &l); /* that it does not exist is kept, too */
    assert_null(l.query);
    assert_int_equal(l.err.code, ERR_DNS);
    assert_non_null(strstr(l.err.text, "nx.test"));
    assert_int_equal(asked(f, "nx.test", TYPE_A), 1);
    resolver_stats(f->r, &stats);
    assert_int_equal(stats.cache_hits, 2);
    assert_int_equal(stats.cached, 2);
    assert_int_equal(stats.failures, 1);
}

static void test_an_answer_lives_as_long_as_its_shortest_ttl(void **state)
{
    static const char *const names[] = {"ttl0.test",
                                        "cname.test"}; /* 0 is kept 1 s, and so is this alias */
    struct fixture *f = *state;

    open_resolver(f, 2000, 100);
    for (size_t i = 0; i < 2; i++) {
        int64_t start = clock_mono_us();
        int64_t until = start + AWAIT_US;

        look_up(f, names[i]);
        while (asked(f, names[i], TYPE_A) < 2) {
            assert_true(clock_mono_us() < until);
            look_up(f, names[i]);
            turn(f);
        }
        assert_true(clock_mono_us() - start >= 1000000);
    }
}

static void test_the_cache_forgets_the_least_recently_used(void **state)
{
    struct fixture *f = *state;
    struct resolver_stats stats;
    struct lookup l = {0};

    open_resolver(f, 2000, 2);
    look_up(f, "n1-v4.test");
    look_up(f, "n2-v4.test");
    look_up(f, "n1-v4.test"); /* used again */
    look_up(f, "n3-v4.test"); /* pushes n2 out */
    resolver_stats(f->r, &stats);
    assert_int_equal(stats.cached, 2);
    start_lookup(f, "n1-v4.test", &l);
    assert_null(l.query);
    look_up(f, "n2-v4.test");
    assert_int_equal(asked(f, "n2-v4.test", TYPE_A), 2);
    assert_int_equal(asked(f, "n1-v4.test", TYPE_A), 1);
}

static void test_a_call_back_may_look_up_and_cancel(void **state)
{
    struct fixture *f = *state;
    struct lookup l[4] = {{0}, {0}, {0}, {0}};

    open_resolver(f, 2000, 1); /* each answer pushes the one before out of the cache */
    l[0].cancel = &l[1];
    l[0].next_host = "v6.test";
    l[0].next = &l[2];
    l[2].next_host = "v6.test"; /* from the cache by now */
    l[2].next = &l[3];
    start_lookup(f, "v4.test", &l[0]);
    start_lookup(f, "v4.test", &l[1]);
    await_call(f, &l[2]);
    await_call(f, &l[3]);
    assert_int_equal(l[0].calls, 1);
    assert_int_equal(l[1].calls, 0);
    assert_int_equal(l[3].n6, 1);
}

static void test_thousands_of_names_at_once_are_all_answered(void **state)
{
    enum { NAMES = 3000 };
    struct fixture *f = *state;
    struct lookup *l = calloc(NAMES, sizeof(*l));
    struct resolver_stats stats;

    assert_non_null(l);
    open_resolver(f, 8000, NAMES);
    for (unsigned i = 0; i < NAMES; i++) {
        char name[32];

        assert_true(snprintf(name, sizeof(name), "n%u-both.test", i) > 0);
        start_lookup(f, name, &l[i]);
    }
    for (unsigned i = 0; i < NAMES; i++) {
        await_call(f, &l[i]);
        assert_int_equal(l[i].n, 4);
    }
    resolver_stats(f->r, &stats);
    assert_int_equal(stats.queries, NAMES);
    assert_int_equal(stats.cached, NAMES);
    assert_int_equal(stats.failures, 0);
    free(l);
}

/* ---- whose fault ---- */

static void test_silence_ends_in_time_and_is_ours(void **state)
{
    struct fixture *f = *state;
    int64_t start;
    int64_t took;
    struct lookup l;
    struct resolver_stats stats;

    open_resolver(f, 400, 100);
    f->silent = true;
    start = clock_mono_us();
    l = look_up(f, "v4.test");
    took = clock_mono_us() - start;
    assert_in_range(took, 400000 / 2, 400000 + 1000000);
    assert_int_equal(l.err.code, ERR_TIMEOUT);
    assert_true(l.err.ours);
    assert_true(l.err.retriable);
    assert_true(f->longest_turn_us < 1000000);
    assert_true(asked(f, "v4.test", TYPE_A) >= 2); /* it tried again */
    f->silent = false;
    l = look_up(f, "v4.test"); /* a fault of ours is not remembered */
    assert_int_equal(l.n, 1);
    resolver_stats(f->r, &stats);
    assert_int_equal(stats.ours, 1);
    assert_int_equal(stats.failures, 1);
}

static void test_those_who_wait_for_their_turn_end_in_time_too(void **state)
{
    enum { NAMES = 3000 };
    struct fixture *f = *state;
    struct lookup *l = calloc(NAMES, sizeof(*l));
    struct resolver_stats stats;

    assert_non_null(l);
    open_resolver(f, 400, NAMES);
    f->silent = true;
    for (unsigned i = 0; i < NAMES; i++) {
        char name[32];

        assert_true(snprintf(name, sizeof(name), "n%u-v4.test", i) > 0);
        start_lookup(f, name, &l[i]);
    }
    for (unsigned i = 0; i < NAMES; i++) {
        await_call(f, &l[i]);
        assert_true(l[i].err.ours);
    }
    resolver_stats(f->r, &stats);
    assert_int_equal(stats.open, 0);
    assert_int_equal(stats.ours, NAMES);
    assert_true(stats.queries < NAMES); /* the last ones never had their turn */
    assert_true(f->longest_turn_us < 1000000);
    free(l);
}

static void test_servfail_is_the_customers_when_the_resolver_works_otherwise(void **state)
{
    struct fixture *f = *state;
    struct lookup l;

    open_resolver(f, 60000, 100);    /* the verdict must not wait for a time-out */
    l = look_up(f, "servfail.test"); /* nothing else is asked, but the root is known */
    assert_int_equal(l.err.code, ERR_DNS);
    assert_false(l.err.ours);
    assert_int_equal(asked(f, "", TYPE_NS), 1);
}

static void test_servfail_is_the_customers_while_another_name_resolves(void **state)
{
    struct fixture *f = *state;
    struct lookup fails = {0};
    struct lookup works = {0};

    f->rootless = true;
    open_resolver(f, 2000, 100);
    start_lookup(f, "servfail.test", &fails);
    start_lookup(f, "v4.test", &works);
    await_call(f, &fails);
    await_call(f, &works);
    assert_false(fails.err.ours);
    assert_int_equal(works.n, 1);
}

static void test_servfail_is_ours_when_nothing_resolves(void **state)
{
    struct fixture *f = *state;
    struct lookup l;

    f->rootless = true;
    open_resolver(f, 2000, 100);
    l = look_up(f, "servfail.test");
    assert_int_equal(l.n, 0);
    assert_true(l.err.ours);
    assert_true(asked(f, "", TYPE_NS) >= 1);
}

static void test_silence_about_one_name_is_the_customers(void **state)
{
    struct fixture *f = *state;
    struct lookup l;

    open_resolver(f, 400, 100);
    l = look_up(f, "silent.test"); /* the root was asked in the meantime */
    assert_int_equal(l.n, 0);
    assert_false(l.err.ours);
    assert_int_equal(asked(f, "", TYPE_NS), 1);

    f->rootless = true;
    memset(&l, 0, sizeof(l));
    start_lookup(f, "n2-silent.test", &l);
    assert_int_equal(look_up(f, "v4.test").n, 1);
    await_call(f, &l);
    assert_false(l.err.ours);
}

static void test_half_an_answer_is_used_and_half_a_refusal_is_the_customers(void **state)
{
    struct fixture *f = *state;
    struct lookup l;

    f->rootless = true;
    open_resolver(f, 400, 100);
    l = look_up(f, "half.test");
    assert_int_equal(l.n4, 1);
    assert_int_equal(l.n6, 0);
    l = look_up(f, "mixed.test");
    assert_int_equal(l.n, 0);
    assert_false(l.err.ours);
}

static void test_a_server_that_is_not_there_is_ours(void **state)
{
    struct fixture *f = *state;
    int fd = bind_loopback(SOCK_DGRAM, 0);
    char servers[32];
    struct lookup l;

    assert_true(snprintf(servers, sizeof(servers), "127.0.0.1:%u", (unsigned)port_of(fd)) > 0);
    close(fd);
    open_resolver_at(f, servers, 2000, 100);
    l = look_up(f, "v4.test");
    assert_int_equal(l.n, 0);
    assert_true(l.err.ours);
}

static void test_a_second_server_answers_when_the_first_is_gone(void **state)
{
    struct fixture *f = *state;
    int fd = bind_loopback(SOCK_DGRAM, 0);
    char servers[64];
    struct lookup l;

    assert_true(snprintf(servers, sizeof(servers), "127.0.0.1:%u,%s", (unsigned)port_of(fd),
                         f->servers) > 0);
    open_resolver_at(f, servers, 1000, 100); /* the first one hears and never answers */
    l = look_up(f, "v4.test");
    assert_int_equal(l.n, 1);
    close(fd);
}

static void test_a_dead_first_server_does_not_turn_the_customers_fault_into_ours(void **state)
{
    struct fixture *f = *state;
    int fd = bind_loopback(SOCK_DGRAM, 0);
    char servers[64];
    struct lookup l;

    assert_true(snprintf(servers, sizeof(servers), "127.0.0.1:%u,%s", (unsigned)port_of(fd),
                         f->servers) > 0);
    open_resolver_at(f, servers, 1000, 100);
    l = look_up(f, "silent.test"); /* the root is asked early enough to reach the second server */
    assert_int_equal(l.n, 0);
    assert_false(l.err.ours);
    close(fd);
}

static void test_no_free_descriptor_is_ours_even_if_others_resolve(void **state)
{
    struct fixture *f = *state;
    struct rlimit old;
    struct rlimit tight;
    struct lookup l;
    int next = fcntl(f->udp, F_DUPFD_CLOEXEC, 0);

    open_resolver(f, 500, 100);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    tight = old;
    tight.rlim_cur = (rlim_t)next;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    l = look_up(f, "v4.test");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(l.err.code, ERR_IO);
    assert_true(l.err.ours);
    assert_non_null(strstr(l.err.text, "Too many open files"));
    l = look_up(f, "v4.test");
    assert_int_equal(l.n, 1);
}

/* ---- lifetimes ---- */

static void test_a_cancelled_lookup_never_calls_back(void **state)
{
    struct fixture *f = *state;
    struct lookup gone = {0};
    struct lookup stays = {0};
    struct lookup later = {0};

    open_resolver(f, 300, 100);
    start_lookup(f, "v4.test", &gone);
    start_lookup(f, "v4.test", &stays);
    resolver_cancel(gone.query);
    await_call(f, &stays);
    start_lookup(f, "silent.test", &gone);
    resolver_cancel(gone.query);
    start_lookup(f, "n2-silent.test", &later);
    await_call(f, &later);
    assert_int_equal(gone.calls, 0);
}

static void test_free_with_open_queries_calls_nobody_back(void **state)
{
    struct fixture *f = *state;
    struct lookup l[400] = {{0}};
    unsigned fds = open_fds();

    open_resolver(f, 2000, 100);
    f->silent = true;
    for (unsigned i = 0; i < 400; i++) { /* some are asked, some wait for their turn */
        char name[32];

        assert_true(snprintf(name, sizeof(name), "n%u-v4.test", i / 2) > 0);
        start_lookup(f, name, &l[i]);
    }
    while (f->hits == 0) {
        turn(f);
    }
    resolver_free(f->r);
    f->r = NULL;
    assert_int_equal(open_fds(), fds);
    turn(f);
    for (unsigned i = 0; i < 400; i++) {
        assert_int_equal(l[i].calls, 0);
    }
}

static void test_free_between_answer_and_call_back_is_clean(void **state)
{
    struct fixture *f = *state;
    struct lookup l = {0};

    open_resolver(f, 300, 100);
    start_lookup(f, "a..b", &l); /* fails at once, calls back from the loop */
    resolver_free(f->r);
    f->r = NULL;
    turn(f);
    assert_int_equal(l.calls, 0);
}

static void test_sockets_are_given_back_after_each_kind_of_end(void **state)
{
    static const char *const names[] = {"both", "nx", "servfail", "silent", "tcp", "half"};
    struct fixture *f = *state;
    unsigned fds;
    int64_t until;

    open_resolver(f, 300, 0); /* caches nothing */
    fds = open_fds();
    for (unsigned round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
            char name[32];

            assert_true(snprintf(name, sizeof(name), "n%u-%s.test", round, names[i]) > 0);
            look_up(f, name);
        }
    }
    until = clock_mono_us() + AWAIT_US;
    while (open_fds() != fds) { /* c-ares may finish a query later than we do */
        assert_true(clock_mono_us() < until);
        turn(f);
    }
}

static void test_bad_server_lists_are_refused(void **state)
{
    static const char *const lists[] = {"localhost", "127.0.0.1:x", "300.1.1.1",
                                        "dns.example.com:53"};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
        struct resolver_config cfg = {.servers = lists[i], .timeout_ms = 1000, .cache_max = 1};
        struct err err = {0};
        struct resolver *r = resolver_new(f->base, &cfg, &err);

        if (r != NULL) {
            fail_msg("%s accepted", lists[i]);
        }
        assert_int_equal(err.code, ERR_INVALID);
        assert_non_null(strstr(err.text, lists[i]));
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_all_addresses_of_both_families_come_ipv4_first),
        TEST(test_no_address_of_a_long_answer_is_kept_from_the_caller),
        TEST(test_an_answer_beyond_the_limit_fails_as_the_customers),
        TEST(test_names_without_address_fail_as_the_customers),
        TEST(test_localhost_is_asked_of_the_server_like_any_name),
        TEST(test_impossible_names_fail_as_the_customers),
        TEST(test_equal_lookups_share_one_query),
        TEST(test_a_cached_answer_calls_back_before_return),
        TEST(test_an_answer_lives_as_long_as_its_shortest_ttl),
        TEST(test_the_cache_forgets_the_least_recently_used),
        TEST(test_a_call_back_may_look_up_and_cancel),
        TEST(test_thousands_of_names_at_once_are_all_answered),
        TEST(test_silence_ends_in_time_and_is_ours),
        TEST(test_those_who_wait_for_their_turn_end_in_time_too),
        TEST(test_servfail_is_the_customers_when_the_resolver_works_otherwise),
        TEST(test_servfail_is_the_customers_while_another_name_resolves),
        TEST(test_servfail_is_ours_when_nothing_resolves),
        TEST(test_silence_about_one_name_is_the_customers),
        TEST(test_half_an_answer_is_used_and_half_a_refusal_is_the_customers),
        TEST(test_a_server_that_is_not_there_is_ours),
        TEST(test_a_second_server_answers_when_the_first_is_gone),
        TEST(test_a_dead_first_server_does_not_turn_the_customers_fault_into_ours),
        TEST(test_no_free_descriptor_is_ours_even_if_others_resolve),
        TEST(test_a_cancelled_lookup_never_calls_back),
        TEST(test_free_with_open_queries_calls_nobody_back),
        TEST(test_free_between_answer_and_call_back_is_clean),
        TEST(test_sockets_are_given_back_after_each_kind_of_end),
        TEST(test_bad_server_lists_are_refused),
    };

    return cmocka_run_group_tests_name("resolver", tests, NULL, NULL);
}
