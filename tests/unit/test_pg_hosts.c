/* The lists that libpq gets in place of a URL's: what is looked up, and what becomes of the
 * answers. The look-up itself is played (link seam); test_store_address has the real one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pg_hosts.h"
#include "store_address.h"

#define LEN(a)    (sizeof(a) / sizeof(*(a)))
#define NAMES_MAX 8

static struct {
    char asked[256]; /* names, space-separated */
    unsigned n;
    struct store_host hosts[NAMES_MAX];
    store_lookup_fn *fn;
    void *ctx;
    unsigned cancels;
} lookup;

bool store_address_is_given(const char *host)
{
    struct in6_addr address;
    return inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1;
}

const char *store_address_pick(const struct store_host *host, unsigned turn)
{
    return host->addresses[turn];
}

struct store_lookup *store_lookup_new(struct event_base *base, const char *const *names, unsigned n,
                                      store_lookup_fn *fn, void *ctx)
{
    size_t len = 0;

    assert_null(base);
    assert_true(n <= NAMES_MAX);
    memset(&lookup, 0, sizeof(lookup));
    lookup.n = n;
    lookup.fn = fn;
    lookup.ctx = ctx;
    for (unsigned i = 0; i < n; i++) {
        len += (size_t)snprintf(lookup.asked + len, sizeof(lookup.asked) - len, "%s%s",
                                i > 0 ? " " : "", names[i]);
    }
    return (struct store_lookup *)&lookup;
}

void store_lookup_cancel(struct store_lookup *l)
{
    lookup.cancels += l != NULL;
}

/* "1,2 - 3": the addresses of each name; - is none. */
static void play(const char *answers)
{
    for (unsigned i = 0; i < lookup.n; i++) {
        struct store_host *host = &lookup.hosts[i];
        const size_t len = strcspn(answers, " ");

        for (size_t at = 0; at < len && *answers != '-';) {
            const size_t one = strcspn(answers + at, ", ");
            memcpy(host->addresses[host->n++], answers + at, one);
            at += one + 1;
        }
        if (host->n == 0) {
            (void)err_set(&host->err, ERR_DNS, "name %u: unknown", i + 1);
            host->err.ours = host->err.retriable = true;
        }
        answers += len + (answers[len] == ' ');
    }
    lookup.fn(lookup.ctx, lookup.hosts, lookup.n);
}

static struct {
    unsigned calls;
    bool found;
    char host[256], hostaddr[256], port[256];
    struct err err;
} result;

static void on_place(void *ctx, const struct pg_place *place, const struct err *err)
{
    assert_ptr_equal(&result, ctx);
    result.calls++;
    result.found = place != NULL;
    result.err = *err;
    if (place != NULL) {
        assert_true(snprintf(result.host, sizeof(result.host), "%s", place->host) >= 0);
        assert_true(snprintf(result.hostaddr, sizeof(result.hostaddr), "%s", place->hostaddr) >= 0);
        assert_true(snprintf(result.port, sizeof(result.port), "%s", place->port) >= 0);
    }
}

static void find_from(struct pg_hosts *h, unsigned first, const char *answers)
{
    memset(&result, 0, sizeof(result));
    pg_hosts_find(h, NULL, first, on_place, &result);
    assert_int_equal(0, result.calls);
    play(answers);
    assert_int_equal(1, result.calls);
}

static void find(struct pg_hosts *h, const char *answers)
{
    find_from(h, 0, answers);
}

static void test_what_needs_no_look_up_has_none(void **state)
{
    static const struct {
        const char *url, *host, *hostaddr, *port;
    } rows[] = {
        {"postgresql://u@/db", "", "", ""},
        {"postgresql:///db?host=/run/postgresql", "/run/postgresql", "", ""},
        {"postgresql:///db?host=@abstract", "@abstract", "", ""},
        {"postgresql://u@127.0.0.1:5433/db", "127.0.0.1", "", ""},
        {"postgresql://u@[::1]/db", "::1", "", ""},
        {"postgresql://u@127.0.0.1,[2001:db8::1]:5433/db", "127.0.0.1,2001:db8::1", ",",
         "5432,5433"},
        {"postgresql://u@db.example.com/db?hostaddr=192.0.2.1", "db.example.com", "192.0.2.1", ""},
        {"postgresql:///db?host=a,b&hostaddr=192.0.2.1,192.0.2.2", "a,b", "192.0.2.1,192.0.2.2",
         ""},
        {"postgresql:///db?hostaddr=192.0.2.1,192.0.2.2", ",", "192.0.2.1,192.0.2.2", ""},
        /* libpq says what is wrong with these, and reads that file */
        {"postgresql://u@a,b,c/db?hostaddr=192.0.2.1,192.0.2.2", "", "", ""},
        {"postgresql://u@a,b,c/db?port=1,2", "", "", ""},
        {"postgresql://u@a/db?hostaddr=,", "", "", ""},
        {"postgresql://u@a/db?service=there", "", "", ""},
        {"mysql://a", "", "", ""},
        {"", "", "", ""},
    };

    (void)state;
    for (size_t i = 0; i < LEN(rows); i++) {
        struct pg_hosts *h = pg_hosts_new(rows[i].url);
        memset(&lookup, 0, sizeof(lookup));
        memset(&result, 0, sizeof(result));
        pg_hosts_find(h, NULL, 0, on_place, &result);
        assert_int_equal(1, result.calls); /* at once */
        assert_int_equal(0, lookup.n);
        assert_true(result.found && result.err.code == ERR_NONE);
        assert_string_equal(rows[i].host, result.host);
        assert_string_equal(rows[i].hostaddr, result.hostaddr);
        assert_string_equal(rows[i].port, result.port);
        pg_hosts_free(h);
    }
}

static void test_the_one_to_be_tried_first_stands_first(void **state)
{
    static const struct {
        unsigned first;
        const char *host, *hostaddr, *port;
    } rows[] = {
        {0, "a,a,b,/run", "192.0.2.1,192.0.2.2,192.0.2.3,", "1,1,2,3"},
        {1, "a,b,/run,a", "192.0.2.2,192.0.2.3,,192.0.2.1", "1,2,3,1"},
        {3, "/run,a,a,b", ",192.0.2.1,192.0.2.2,192.0.2.3", "3,1,1,2"},
        {4, "a,a,b,/run", "192.0.2.1,192.0.2.2,192.0.2.3,", "1,1,2,3"},
        {UINT32_MAX, "/run,a,a,b", ",192.0.2.1,192.0.2.2,192.0.2.3", "3,1,1,2"},
    };
    struct pg_hosts *h = pg_hosts_new("postgresql:///db?host=a,b,/run&port=1,2,3");

    (void)state;
    for (size_t i = 0; i < LEN(rows); i++) {
        find_from(h, rows[i].first, "192.0.2.1,192.0.2.2 192.0.2.3");
        assert_string_equal(rows[i].host, result.host);
        assert_string_equal(rows[i].hostaddr, result.hostaddr);
        assert_string_equal(rows[i].port, result.port);
    }
    pg_hosts_free(h);
}

static void test_each_url_becomes_lists_of_one_length(void **state)
{
    static const struct {
        const char *url, *asked, *answers, *host, *hostaddr, *port;
    } rows[] = {
        {"postgres://u@db/x", "db", "192.0.2.1", "db", "192.0.2.1", ""},
        {"postgres://u@db:5433/x", "db", "192.0.2.1", "db", "192.0.2.1", ""},
        {"postgres://u@db:5433/x", "db", "192.0.2.1,::1", "db,db", "192.0.2.1,::1", ""},
        {"postgres://u@a:1,b:2/x", "a b", "192.0.2.1,192.0.2.2 192.0.2.3", "a,a,b",
         "192.0.2.1,192.0.2.2,192.0.2.3", "1,1,2"},
        {"postgres://u@a,b/x?port=7", "a b", "192.0.2.1 192.0.2.3", "a,b", "192.0.2.1,192.0.2.3",
         ""},
        {"postgres://u@a,b:2/x", "a b", "192.0.2.1 -", "a", "192.0.2.1", "5432"},
        {"postgres://u@a:1,b:2/x", "a b", "- 192.0.2.3", "b", "192.0.2.3", "2"},
        {"postgres://u@/x?host=/run,b", "b", "192.0.2.3", "/run,b", ",192.0.2.3", ""},
        {"postgres://u@/x?host=/run,b&port=1,2", "b", "-", "/run", "", "1"},
        {"postgres://u@192.0.2.9,b/x", "b", "192.0.2.3", "192.0.2.9,b", ",192.0.2.3", "5432,5432"},
        {"postgres://u@a,b/x?hostaddr=,192.0.2.9", "a", "::1", "a,b", "::1,192.0.2.9", "5432,5432"},
        {"postgres://u@a,b/x?hostaddr=,192.0.2.9", "a", "-", "b", "192.0.2.9", "5432"},
        {"postgres://u@a,a/x", "a a", "::1 ::2", "a,a", "::1,::2", "5432,5432"},
    };

    (void)state;
    for (size_t i = 0; i < LEN(rows); i++) {
        struct pg_hosts *h = pg_hosts_new(rows[i].url);
        assert_non_null(h);
        for (int again = 0; again < 2; again++) {
            find(h, rows[i].answers);
            assert_string_equal(rows[i].asked, lookup.asked);
            assert_true(result.found);
            assert_string_equal(rows[i].host, result.host);
            assert_string_equal(rows[i].hostaddr, result.hostaddr);
            assert_string_equal(rows[i].port, result.port);
            assert_int_equal(strchr(rows[i].answers, '-') == NULL, result.err.code == ERR_NONE);
        }
        pg_hosts_free(h);
        assert_int_equal(0, lookup.cancels);
    }
}

static void test_the_environment_counts_where_the_url_says_nothing(void **state)
{
    struct pg_hosts *h;

    (void)state;
    setenv("PGHOST", "a,b", 1);
    setenv("PGPORT", "1,2", 1);
    h = pg_hosts_new("postgresql://u@/db");
    find(h, "192.0.2.1,192.0.2.2 -");
    assert_string_equal("a b", lookup.asked);
    assert_string_equal("a,a", result.host);
    assert_string_equal("1,1", result.port);
    pg_hosts_free(h);
    h = pg_hosts_new("postgresql://u@c:5,d:6/db");
    find(h, "192.0.2.1 192.0.2.2");
    assert_string_equal("c d", lookup.asked);
    assert_string_equal("5,6", result.port);
    pg_hosts_free(h);
    setenv("PGHOSTADDR", "192.0.2.1,192.0.2.2", 1);
    h = pg_hosts_new("postgresql://u@/db");
    pg_hosts_find(h, NULL, 1, on_place, &result);
    assert_string_equal("192.0.2.2,192.0.2.1", result.hostaddr);
    assert_string_equal("b,a", result.host);
    pg_hosts_free(h);
    unsetenv("PGHOSTADDR");
    setenv("PGSERVICE", "there", 1);
    h = pg_hosts_new("postgresql://u@/db");
    pg_hosts_find(h, NULL, 0, on_place, &result);
    assert_string_equal("", result.host);
    pg_hosts_free(h);
    unsetenv("PGSERVICE");
    unsetenv("PGPORT");
    unsetenv("PGHOST");
}

static void test_where_none_resolves_the_error_names_each(void **state)
{
    struct pg_hosts *h = pg_hosts_new("postgresql://u@a,b,c/db");

    (void)state;
    find(h, "- - -");
    assert_false(result.found);
    assert_string_equal("name 1: unknown; name 2: unknown; name 3: unknown", result.err.text);
    assert_true(result.err.code == ERR_DNS && result.err.ours && result.err.retriable);
    find(h, "192.0.2.1 - 192.0.2.3");
    assert_string_equal("name 2: unknown", result.err.text);
    pg_hosts_free(h);
    h = pg_hosts_new("postgresql://u@/db?host=a,"); /* the default socket alone cannot be said */
    find(h, "-");
    assert_false(result.found);
    assert_string_equal("name 1: unknown", result.err.text);
    pg_hosts_free(h);
}

static void test_more_than_can_be_said_is_refused(void **state)
{
    enum { NAME = 200000 }; /* six of them are too much */
    char *url = calloc(1, NAME + 100);
    struct pg_hosts *h;

    (void)state;
    strncat(url, "postgresql://u@", 20);
    memset(url + strlen(url), 'a', NAME);
    strncat(url, "/db", 5);
    h = pg_hosts_new(url);
    memset(&result, 0, sizeof(result));
    pg_hosts_find(h, NULL, 0, on_place, &result);
    play("::1,::2,::3,::4,::5,::6");
    assert_int_equal(1, result.calls);
    assert_false(result.found);
    assert_int_equal(ERR_LIMIT, result.err.code);
    pg_hosts_free(h);
    free(url);
}

static void test_an_open_look_up_is_cancelled(void **state)
{
    struct pg_hosts *h = pg_hosts_new("postgresql://u@a/db");

    (void)state;
    pg_hosts_find(h, NULL, 0, on_place, &result);
    pg_hosts_free(h);
    assert_int_equal(1, lookup.cancels);
    pg_hosts_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_needs_no_look_up_has_none),
        cmocka_unit_test(test_the_one_to_be_tried_first_stands_first),
        cmocka_unit_test(test_each_url_becomes_lists_of_one_length),
        cmocka_unit_test(test_the_environment_counts_where_the_url_says_nothing),
        cmocka_unit_test(test_where_none_resolves_the_error_names_each),
        cmocka_unit_test(test_more_than_can_be_said_is_refused),
        cmocka_unit_test(test_an_open_look_up_is_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
