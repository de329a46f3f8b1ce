/* Addresses of PostgreSQL and Redis as this machine resolves them: in a network and with files of
 * its own (namespaces), against a DNS server on the same loop, at port 53, because nothing else can
 * be said in a resolv.conf. Where the kernel grants no namespaces, these tests are skipped, and it
 * is said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "clock.h"
#include "store_address.h"

#define LEN(a)       (sizeof(a) / sizeof(*(a)))
#define TYPE_A       1
#define TYPE_AAAA    28
#define RCODE_SERVER 2
#define RCODE_NX     3
#define AWAIT_US     INT64_C(15000000)
#define ASKED_MAX    64
#define HOSTS_MAX    4

static bool own_network; /* and own files */

struct fixture {
    struct event_base *base;
    struct event *tick;
    int udp;
    struct event *udp_event;
    bool silent;
    char asked[ASKED_MAX][64]; /* names of the A queries */
    unsigned n_asked;
    unsigned calls;
    unsigned n;
    struct store_host hosts[HOSTS_MAX]; /* names are not kept */
    int64_t longest_turn_us;
};

/* --- the server ------------------------------------------------------------------------- */

/* What DNS knows. A name that is not here does not exist. */
static const struct record {
    const char *name;
    unsigned n4, n6; /* 198.51.100.1 ..., 2001:db8::1 ...; none: it has no address */
    bool broken;
    bool mute6; /* no word about IPv6 */
} records[] = {
    {.name = "redis.prod.svc.cluster.local", .n4 = 1},
    {.name = "postgres.data.svc.cluster.local", .n4 = 1},
    {.name = "db.example.com", .n4 = 2, .n6 = 2},
    {.name = "six.example.com", .n6 = 1},
    {.name = "many.example.com", .n4 = STORE_ADDRESSES_MAX + 1},
    {.name = "full.example.com", .n4 = STORE_ADDRESSES_MAX},
    {.name = "empty.example.com"},
    {.name = "cache.prod.svc.cluster.local"},
    {.name = "cache.svc.cluster.local", .n4 = 1},
    {.name = "broken.example.com", .broken = true},
    {.name = "half.example.com", .n4 = 1, .mute6 = true},
    {.name = "here.test", .n4 = 1}, /* and in the hosts file */
};

static size_t read_name(const uint8_t *question, size_t size, char name[64])
{
    size_t at = 12;
    size_t n = 0;

    while (question[at] != 0) {
        const size_t len = question[at];
        assert_true(n + len + 1 < 64 && at + len + 5 < size);
        memcpy(name + n, question + at + 1, len);
        n += len;
        name[n++] = '.';
        at += len + 1;
    }
    name[n > 0 ? n - 1 : 0] = '\0';
    return at + 1;
}

static size_t put_records(uint8_t *at, unsigned n, bool a)
{
    const uint8_t *begin = at;

    for (unsigned i = 1; i <= n; i++) {
        const uint8_t head[] = {0xc0, 12, 0,         a ? TYPE_A : TYPE_AAAA, 0, 1, 0, 0, 0,
                                60,   0,  a ? 4 : 16};
        const uint8_t v4[4] = {198, 51, 100, (uint8_t)i};
        const uint8_t v6[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = (uint8_t)i};

        memcpy(at, head, sizeof(head));
        at += sizeof(head);
        memcpy(at, a ? v4 : v6, a ? 4 : 16);
        at += a ? 4 : 16;
    }
    return (size_t)(at - begin);
}

/* Its length; 0: there is none. */
static size_t answer(struct fixture *f, uint8_t m[1024], size_t len)
{
    char name[64];
    const size_t end = read_name(m, len, name);
    const bool a = m[end + 1] == TYPE_A;
    const struct record *found = NULL;

    if (a && f->n_asked < ASKED_MAX) {
        memcpy(f->asked[f->n_asked++], name, sizeof(name));
    }
    for (size_t i = 0; i < LEN(records); i++) {
        found = strcmp(records[i].name, name) == 0 ? &records[i] : found;
    }
    if (f->silent || (found != NULL && found->mute6 && !a)) {
        return 0;
    }
    m[2] = 0x81;
    m[3] = (uint8_t)(0x80 | (found == NULL ? RCODE_NX : found->broken ? RCODE_SERVER : 0));
    memset(m + 6, 0, 6); /* no records */
    if (found == NULL) {
        return end + 4;
    }
    m[7] = (uint8_t)(a ? found->n4 : found->n6);
    return end + 4 + put_records(m + end + 4, m[7], a);
}

static void on_udp(evutil_socket_t fd, short what, void *ctx)
{
    struct fixture *f = ctx;
    uint8_t m[1024];
    struct sockaddr_storage from;
    socklen_t from_len = sizeof(from);
    ssize_t len;

    (void)what;
    while ((len = recvfrom(fd, m, sizeof(m), MSG_DONTWAIT, (struct sockaddr *)&from, &from_len)) >
           0) {
        const size_t size = answer(f, m, (size_t)len);
        if (size > 0) {
            assert_int_equal(sendto(fd, m, size, 0, (struct sockaddr *)&from, from_len), size);
        }
    }
}

/* --- the machine ------------------------------------------------------------------------ */

static void write_file(const char *path, const char *text)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd != -1);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

/* From here on the program alone sees its files, and writing to one in /etc is writing to them. */
static void shadow(const char *folder, const char *name)
{
    char ours[96];
    char theirs[96];

    assert_true(snprintf(ours, sizeof(ours), "%s/%s", folder, name) > 0);
    assert_true(snprintf(theirs, sizeof(theirs), "/etc/%s", name) > 0);
    write_file(ours, "");
    assert_int_equal(0, mount(ours, theirs, "none", MS_BIND, NULL));
}

static void raise_loopback(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_int_equal(0, ioctl(fd, SIOCGIFFLAGS, &request));
    request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
    assert_int_equal(0, ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

static int start_machine(void **state)
{
    char folder[] = "/tmp/nrw-test-names-XXXXXX";
    char map[32];
    const uid_t uid = geteuid();

    (void)state;
    if (unshare(CLONE_NEWNS | CLONE_NEWNET | (uid == 0 ? 0 : CLONE_NEWUSER)) != 0) {
        print_message("[  NOTE  ] no namespaces: tests with a DNS server are skipped\n");
        return 0;
    }
    if (uid != 0) {
        assert_true(snprintf(map, sizeof(map), "0 %u 1", uid) > 0);
        write_file("/proc/self/uid_map", map);
    }
    assert_int_equal(0, mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL));
    assert_non_null(mkdtemp(folder));
    assert_int_equal(0, mount("none", folder, "tmpfs", 0, NULL)); /* goes with this program */
    shadow(folder, "resolv.conf");
    shadow(folder, "hosts");
    shadow(folder, "nsswitch.conf");
    assert_int_equal(0, umount2(folder, MNT_DETACH));
    assert_int_equal(0, rmdir(folder));
    raise_loopback();
    own_network = true;
    return 0;
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct sockaddr_in in = {
        .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval tick = {.tv_usec = 5000};

    *state = f;
    f->base = event_base_new();
    f->tick = event_new(f->base, -1, EV_PERSIST, on_tick, NULL);
    assert_int_equal(0, event_add(f->tick, &tick));
    if (own_network) {
        f->udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        assert_int_equal(0, bind(f->udp, (struct sockaddr *)&in, sizeof(in)));
        f->udp_event = event_new(f->base, f->udp, EV_READ | EV_PERSIST, on_udp, f);
        assert_int_equal(0, event_add(f->udp_event, NULL));
        write_file("/etc/nsswitch.conf", "hosts: files dns\n");
        write_file("/etc/resolv.conf", "nameserver 127.0.0.1\n");
        write_file("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"
                                 "192.0.2.1 here.test here\n192.0.2.2 here.test\n");
    }
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    if (f->udp_event != NULL) {
        event_free(f->udp_event);
        close(f->udp);
    }
    event_free(f->tick);
    event_base_free(f->base);
    free(f);
    return 0;
}

/* --- one look-up ------------------------------------------------------------------------ */

static void on_found(void *ctx, const struct store_host *hosts, unsigned n)
{
    struct fixture *f = ctx;

    f->calls++;
    f->n = n;
    assert_true(n <= HOSTS_MAX);
    memcpy(f->hosts, hosts, n * sizeof(*hosts));
}

static struct store_lookup *begin(struct fixture *f, unsigned n, const char *const *names)
{
    if (!own_network) {
        skip();
    }
    f->calls = f->n_asked = 0;
    struct store_lookup *l = store_lookup_new(f->base, names, n, on_found, f);
    assert_int_equal(0, f->calls); /* never from inside */
    return l;
}

static void turn(struct fixture *f)
{
    const int64_t began = clock_mono_us();

    assert_int_equal(0, event_base_loop(f->base, EVLOOP_ONCE | EVLOOP_NONBLOCK));
    const int64_t took = clock_mono_us() - began;
    f->longest_turn_us = took > f->longest_turn_us ? took : f->longest_turn_us;
    assert_int_equal(0, event_base_loop(f->base, EVLOOP_ONCE));
}

static void look_up(struct fixture *f, unsigned n, const char *const *names)
{
    (void)begin(f, n, names);
    for (const int64_t end = clock_mono_us() + AWAIT_US; f->calls == 0;) {
        assert_true(clock_mono_us() < end);
        turn(f);
    }
    assert_int_equal(1, f->calls);
    assert_int_equal(n, f->n);
}

/* Space-separated, or what is wrong. */
static const char *text_of(const struct store_host *host)
{
    static char text[STORE_ADDRESSES_MAX * (INET6_ADDRSTRLEN + 1)];
    size_t len = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < host->n; i++) {
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", i > 0 ? " " : "",
                                host->addresses[i]);
    }
    assert_int_equal(host->n == 0, host->err.code != ERR_NONE);
    assert_true(host->n > 0 || (host->err.ours && host->err.retriable));
    return host->n > 0 ? text : host->err.text;
}

static void expect(struct fixture *f, const char *name, const char *expected)
{
    look_up(f, 1, &name);
    assert_string_equal(expected, text_of(&f->hosts[0]));
}

static void expect_asked(const struct fixture *f, unsigned n, const char *const *names)
{
    assert_int_equal(n, f->n_asked);
    for (unsigned i = 0; i < n; i++) {
        assert_string_equal(names[i], f->asked[i]);
    }
}
#define EXPECT_ASKED(f, ...)                                                                       \
    expect_asked(f, LEN(((const char *const[]){__VA_ARGS__})), (const char *const[]){__VA_ARGS__})

/* --- the tests -------------------------------------------------------------------------- */

static void test_the_hosts_file_comes_before_dns(void **state)
{
    struct fixture *f = *state;

    expect(f, "here.test", "192.0.2.1 192.0.2.2");
    expect(f, "here", "192.0.2.1");
    assert_int_equal(0, f->n_asked);
    look_up(f, 1, (const char *const[]){"localhost"});
    assert_int_equal(2, f->hosts[0].n);
    assert_string_equal("127.0.0.1", store_address_pick(&f->hosts[0], 0));
    assert_string_equal("::1", store_address_pick(&f->hosts[0], 1));
    assert_int_equal(0, f->n_asked);
}

static void test_nsswitch_says_whether_dns_comes_first(void **state)
{
    struct fixture *f = *state;

    if (own_network) {
        write_file("/etc/nsswitch.conf", "passwd: files\nhosts: dns files\n");
    }
    expect(f, "here.test", "198.51.100.1");
    expect(f, "here", "192.0.2.1"); /* DNS does not know it */
}

static void test_dns_gives_every_address(void **state)
{
    struct fixture *f = *state;

    look_up(f, 1, (const char *const[]){"db.example.com"});
    assert_int_equal(4, f->hosts[0].n);
    assert_string_equal("198.51.100.1", store_address_pick(&f->hosts[0], 0));
    assert_string_equal("198.51.100.2", store_address_pick(&f->hosts[0], 1));
    assert_string_equal("2001:db8::1", store_address_pick(&f->hosts[0], 2));
    assert_string_equal("2001:db8::2", store_address_pick(&f->hosts[0], 3));
    assert_string_equal("198.51.100.1", store_address_pick(&f->hosts[0], 4));
    expect(f, "six.example.com", "2001:db8::1");
    look_up(f, 1, (const char *const[]){"full.example.com"});
    assert_int_equal(STORE_ADDRESSES_MAX, f->hosts[0].n);
    look_up(f, 1, (const char *const[]){"many.example.com"});
    assert_int_equal(STORE_ADDRESSES_MAX, f->hosts[0].n);
}

static void test_the_search_domains_of_a_pod_are_walked(void **state)
{
    struct fixture *f = *state;

    if (own_network) {
        write_file("/etc/resolv.conf",
                   "search prod.svc.cluster.local svc.cluster.local cluster.local\n"
                   "nameserver 127.0.0.1\noptions ndots:5\n");
    }
    expect(f, "redis", "198.51.100.1");
    EXPECT_ASKED(f, "redis.prod.svc.cluster.local");
    expect(f, "postgres.data", "198.51.100.1");
    EXPECT_ASKED(f, "postgres.data.prod.svc.cluster.local", "postgres.data.svc.cluster.local");
    expect(f, "postgres.data.svc", "198.51.100.1");
    EXPECT_ASKED(f, "postgres.data.svc.prod.svc.cluster.local",
                 "postgres.data.svc.svc.cluster.local", "postgres.data.svc.cluster.local");
    expect(f, "postgres.data.svc.cluster.local", "198.51.100.1");
    look_up(f, 1, (const char *const[]){"db.example.com"});
    assert_int_equal(4, f->hosts[0].n);
    EXPECT_ASKED(f, "db.example.com.prod.svc.cluster.local", "db.example.com.svc.cluster.local",
                 "db.example.com.cluster.local", "db.example.com");
    look_up(f, 1, (const char *const[]){"db.example.com."});
    assert_int_equal(4, f->hosts[0].n);
    EXPECT_ASKED(f, "db.example.com");
    expect(f, "cache", "198.51.100.1"); /* in the first domain it exists without an address */
    expect(f, "nobody", "nobody: the name does not exist");
}

static void test_an_error_names_the_host_and_the_reason(void **state)
{
    struct fixture *f = *state;

    expect(f, "nobody.test", "nobody.test: the name does not exist");
    assert_int_equal(ERR_DNS, f->hosts[0].err.code);
    expect(f, "empty.example.com", "empty.example.com: the name has no address");
    look_up(f, 1, (const char *const[]){"broken.example.com"});
    assert_non_null(
        strstr(text_of(&f->hosts[0]), "broken.example.com: no DNS server gave a usable answer"));
    if (own_network) {
        write_file("/etc/resolv.conf", "nameserver 127.0.0.9\n"); /* where nobody listens */
    }
    look_up(f, 1, (const char *const[]){"db.example.com"});
    assert_non_null(
        strstr(text_of(&f->hosts[0]), "db.example.com: no DNS server gave a usable answer"));
}

static void test_silent_dns_ends_within_the_time_and_holds_nobody_up(void **state)
{
    struct fixture *f = *state;
    const int64_t began = clock_mono_us();

    f->silent = true;
    look_up(f, 2, (const char *const[]){"db.example.com", "here.test"});
    const int64_t took = clock_mono_us() - began;
    assert_string_equal("db.example.com: no DNS server answered in time", text_of(&f->hosts[0]));
    assert_int_equal(ERR_TIMEOUT, f->hosts[0].err.code);
    assert_string_equal("192.0.2.1 192.0.2.2", text_of(&f->hosts[1]));
    assert_true(took < (STORE_LOOKUP_MS + 500) * INT64_C(1000));
    assert_true(f->longest_turn_us < 500000); /* a blocking one takes seconds */
}

static void test_half_an_answer_is_enough(void **state)
{
    struct fixture *f = *state;

    expect(f, "half.example.com", "198.51.100.1");
}

static void test_a_machine_without_descriptors_is_told(void **state)
{
    struct fixture *f = *state;
    struct rlimit before;
    const int next = fcntl(0, F_DUPFD_CLOEXEC, 0);

    if (!own_network) {
        skip();
    }
    assert_int_equal(0, close(next));
    assert_int_equal(0, getrlimit(RLIMIT_NOFILE, &before));
    const struct rlimit few = {.rlim_cur = (rlim_t)next, .rlim_max = before.rlim_max};
    assert_int_equal(0, setrlimit(RLIMIT_NOFILE, &few));
    look_up(f, 1, (const char *const[]){"db.example.com"});
    assert_int_equal(0, setrlimit(RLIMIT_NOFILE, &before));
    assert_string_equal("db.example.com: no socket for a DNS query: Too many open files",
                        text_of(&f->hosts[0]));
}

static void test_a_server_that_is_gone_is_followed_by_the_next_one(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(53)};
    const int mute = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
    if (own_network) {
        assert_int_equal(0, bind(mute, (struct sockaddr *)&in, sizeof(in)));
        write_file("/etc/resolv.conf", "search prod.svc.cluster.local svc.cluster.local\n"
                                       "nameserver 127.0.0.2\nnameserver 127.0.0.1\n");
    }
    expect(f, "postgres.data", "198.51.100.1");
    close(mute);
}

static void test_the_files_are_read_for_each_look_up(void **state)
{
    struct fixture *f = *state;

    expect(f, "moved.test", "moved.test: the name does not exist");
    write_file("/etc/hosts", "192.0.2.9 moved.test\n");
    expect(f, "moved.test", "192.0.2.9");
    expect(f, "redis", "redis: the name does not exist");
    write_file("/etc/resolv.conf", "search prod.svc.cluster.local\nnameserver 127.0.0.1\n");
    expect(f, "redis", "198.51.100.1");
}

static void test_several_names_are_answered_in_their_order(void **state)
{
    struct fixture *f = *state;

    look_up(f, 4,
            (const char *const[]){"nobody.test", "six.example.com", "here.test",
                                  "redis.prod.svc.cluster.local"});
    assert_int_equal(0, f->hosts[0].n);
    assert_string_equal("2001:db8::1", text_of(&f->hosts[1]));
    assert_string_equal("192.0.2.1 192.0.2.2", text_of(&f->hosts[2]));
    assert_string_equal("198.51.100.1", text_of(&f->hosts[3]));
}

static void test_a_cancelled_look_up_calls_nobody(void **state)
{
    struct fixture *f = *state;

    store_lookup_cancel(begin(f, 1, (const char *const[]){"here.test"})); /* has its answer */
    store_lookup_cancel(begin(f, 1, (const char *const[]){"db.example.com"}));
    f->silent = true;
    struct store_lookup *l =
        begin(f, 2, (const char *const[]){"db.example.com", "six.example.com"});
    for (int i = 0; i < 3; i++) {
        turn(f);
    }
    store_lookup_cancel(l);
    for (int i = 0; i < 20; i++) {
        turn(f);
    }
    assert_int_equal(0, f->calls);
    store_lookup_cancel(NULL);
}

static void test_an_address_in_any_spelling_is_no_name(void **state)
{
    static const char *const given[] = {"127.0.0.1",   "127.1",      "::1",
                                        "2001:db8::1", "fe80::1%lo", "0x7f000001"};
    static const char *const names[] = {"localhost", "db.example.com", "1.2.3.4.5", "256.1.1.1",
                                        "a"};

    (void)state;
    for (size_t i = 0; i < LEN(given); i++) {
        assert_true(store_address_is_given(given[i]));
    }
    for (size_t i = 0; i < LEN(names); i++) {
        assert_false(store_address_is_given(names[i]));
    }
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_the_hosts_file_comes_before_dns),
        T(test_nsswitch_says_whether_dns_comes_first),
        T(test_dns_gives_every_address),
        T(test_the_search_domains_of_a_pod_are_walked),
        T(test_an_error_names_the_host_and_the_reason),
        T(test_silent_dns_ends_within_the_time_and_holds_nobody_up),
        T(test_half_an_answer_is_enough),
        T(test_a_machine_without_descriptors_is_told),
        T(test_a_server_that_is_gone_is_followed_by_the_next_one),
        T(test_the_files_are_read_for_each_look_up),
        T(test_several_names_are_answered_in_their_order),
        T(test_a_cancelled_look_up_calls_nobody),
        T(test_an_address_in_any_spelling_is_no_name),
    };
    return cmocka_run_group_tests(tests, start_machine, NULL);
}
