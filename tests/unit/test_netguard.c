/* The address policy over the whole corpus of special networks: each is tested at its first, middle
 * and last address and just outside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "netguard.h"

enum outside { NONE, OPEN, SHUT };

struct network {
    const char *prefix;
    enum outside below, above; /* the neighbours */
    const char *reason;        /* contained in the reason of the first address */
};

static const struct network corpus[] = {
    {"0.0.0.0/8", NONE, OPEN, "0.0.0.0/8"},
    {"10.0.0.0/8", OPEN, OPEN, "10.0.0.0/8 private"},
    {"100.64.0.0/10", OPEN, OPEN, "100.64.0.0/10"},
    {"127.0.0.0/8", OPEN, OPEN, "127.0.0.0/8 loopback"},
    {"168.63.129.16/32", OPEN, OPEN, "cloud"},
    {"169.254.0.0/16", OPEN, OPEN, "169.254.0.0/16 link-local"},
    {"172.16.0.0/12", OPEN, OPEN, "private"},
    {"192.0.0.0/24", OPEN, OPEN, "192.0.0.0/24"},
    {"192.0.2.0/24", OPEN, OPEN, "documentation"},
    {"192.31.196.0/24", OPEN, OPEN, "AS112"},
    {"192.52.193.0/24", OPEN, OPEN, "AMT"},
    {"192.88.99.0/24", OPEN, OPEN, "6to4"},
    {"192.168.0.0/16", OPEN, OPEN, "private"},
    {"192.175.48.0/24", OPEN, OPEN, "AS112"},
    {"198.18.0.0/15", OPEN, OPEN, "benchmarking"},
    {"198.51.100.0/24", OPEN, OPEN, "documentation"},
    {"203.0.113.0/24", OPEN, OPEN, "documentation"},
    {"224.0.0.0/4", OPEN, SHUT, "multicast"},
    {"240.0.0.0/4", SHUT, NONE, "reserved"},
    {"255.255.255.255/32", SHUT, NONE, "broadcast"},
    {"::/128", NONE, SHUT, "unspecified"},
    {"::1/128", SHUT, SHUT, "loopback"},
    {"::/96", NONE, SHUT, "unspecified"},
    {"::ffff:0:0:0/96", SHUT, SHUT, "IPv4-translated"},
    {"64:ff9b::/96", SHUT, SHUT, "NAT64"},
    {"64:ff9b:1::/48", SHUT, SHUT, "NAT64"},
    {"100::/64", SHUT, SHUT, "discard"},
    {"100:0:0:1::/64", SHUT, SHUT, "dummy"},
    {"5f00::/16", SHUT, SHUT, "segment routing"},
    {"fc00::/7", SHUT, SHUT, "unique local"},
    {"fe80::/10", SHUT, SHUT, "link-local"},
    {"fec0::/10", SHUT, SHUT, "site-local"},
    {"ff00::/8", SHUT, NONE, "multicast"},
    {"2001::/23", OPEN, OPEN, "Teredo"},
    {"2001::/32", OPEN, SHUT, "Teredo"},
    {"2001:1::/32", SHUT, SHUT, "2001::/23"},
    {"2001:2::/48", SHUT, SHUT, "benchmarking"},
    {"2001:3::/32", SHUT, SHUT, "2001::/23"},
    {"2001:4:112::/48", SHUT, SHUT, "2001::/23"},
    {"2001:10::/28", SHUT, SHUT, "ORCHID"},
    {"2001:20::/28", SHUT, SHUT, "ORCHIDv2"},
    {"2001:30::/28", SHUT, SHUT, "2001::/23"},
    {"2001:db8::/32", OPEN, OPEN, "documentation"},
    {"2002::/16", OPEN, OPEN, "6to4"},
    {"2620:4f:8000::/48", OPEN, OPEN, "AS112"},
    {"3fff::/20", OPEN, OPEN, "documentation"},
    /* what is not 2000::/3: both halves */
    {"::/3", NONE, OPEN, "unspecified"},
    {"4000::/2", OPEN, SHUT, "outside 2000::/3"},
    {"8000::/1", SHUT, NONE, "outside 2000::/3"},
};

struct addr {
    int family;
    unsigned len; /* bytes */
    uint8_t b[16];
};

static struct addr addr_of(const char *text)
{
    struct addr a = {.family = strchr(text, ':') != NULL ? AF_INET6 : AF_INET};

    a.len = a.family == AF_INET ? 4 : 16;
    if (inet_pton(a.family, text, a.b) != 1) {
        fail_msg("the test itself is wrong: %s", text);
    }
    return a;
}

static void fill(const struct addr *a, struct sockaddr_storage *ss)
{
    memset(ss, 0, sizeof(*ss));
    if (a->family == AF_INET) {
        struct sockaddr_in in = {.sin_family = AF_INET};

        memcpy(&in.sin_addr, a->b, 4);
        memcpy(ss, &in, sizeof(in));
    } else {
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

        memcpy(&in6.sin6_addr, a->b, 16);
        memcpy(ss, &in6, sizeof(in6));
    }
}

static bool allowed(const struct netguard *g, const struct addr *a, const char **ret_reason)
{
    struct sockaddr_storage ss;

    fill(a, &ss);
    return netguard_allows(g, (struct sockaddr *)&ss, ret_reason);
}

static void expect(const struct netguard *g, const struct addr *a, bool open, const char *what)
{
    struct sockaddr_storage ss;
    char text[NETGUARD_TEXT];

    fill(a, &ss);
    netguard_format((struct sockaddr *)&ss, text);
    if (allowed(g, a, NULL) != open) {
        fail_msg("%s of %s should be %s", text, what, open ? "allowed" : "denied");
    }
}

static void expect_text(const struct netguard *g, const char *text, bool open)
{
    struct addr a = addr_of(text);

    expect(g, &a, open, text);
}

static struct netguard *guard(const char *allow, const char *deny)
{
    struct err err = {0};
    struct netguard *g = netguard_new(allow, deny, &err);

    if (g == NULL) {
        fail_msg("%s", err.text);
    }
    return g;
}

/* One up or down; false when there is nothing there. */
static bool step(struct addr *a, int by)
{
    for (unsigned i = a->len; i-- > 0;) {
        a->b[i] = (uint8_t)(a->b[i] + by);
        if (a->b[i] != (by > 0 ? 0x00 : 0xff)) {
            return true;
        }
    }
    return false;
}

static void set_host_bits(struct addr *a, unsigned from)
{
    for (unsigned bit = from; bit < a->len * 8; bit++) {
        a->b[bit / 8] |= (uint8_t)(0x80u >> (bit % 8));
    }
}

static void check_network(const struct netguard *g, const struct network *n)
{
    char text[64];
    struct addr first;
    struct addr middle;
    struct addr last;
    const char *reason = NULL;
    unsigned bits;

    assert_true(snprintf(text, sizeof(text), "%s", n->prefix) > 0);
    bits = (unsigned)strtoul(strchr(text, '/') + 1, NULL, 10);
    *strchr(text, '/') = '\0';
    first = addr_of(text);
    middle = first;
    last = first;
    set_host_bits(&middle, bits + 1);
    set_host_bits(&last, bits);
    assert_false(allowed(g, &first, &reason));
    if (reason == NULL || strstr(reason, n->reason) == NULL) {
        fail_msg("%s is denied for \"%s\", not \"%s\"", n->prefix, reason, n->reason);
    }
    expect(g, &middle, false, n->prefix);
    expect(g, &last, false, n->prefix);
    assert_int_equal(step(&first, -1), n->below != NONE);
    if (n->below != NONE) {
        expect(g, &first, n->below == OPEN, n->prefix);
    }
    assert_int_equal(step(&last, +1), n->above != NONE);
    if (n->above != NONE) {
        expect(g, &last, n->above == OPEN, n->prefix);
    }
}

static void test_every_special_network_is_denied_and_nothing_next_to_it(void **state)
{
    struct netguard *g = guard("", "");

    (void)state;
    for (size_t i = 0; i < sizeof(corpus) / sizeof(*corpus); i++) {
        check_network(g, &corpus[i]);
    }
    netguard_free(g);
}

static void test_metadata_services_are_denied(void **state)
{
    static const char *const metadata[] = {"169.254.169.254", "169.254.170.2", "100.100.100.200",
                                           "192.0.0.192",     "168.63.129.16", "fd00:ec2::254",
                                           "192.0.0.9",       "192.0.0.10"};
    struct netguard *g = guard("", "");

    (void)state;
    for (size_t i = 0; i < sizeof(metadata) / sizeof(*metadata); i++) {
        expect_text(g, metadata[i], false);
    }
    netguard_free(g);
}

static void test_public_addresses_are_allowed(void **state)
{
    static const char *const public[] = {
        "1.1.1.1",    "8.8.8.8", "93.184.216.34",        "223.255.255.255", "128.0.0.1",
        "172.32.0.1", "2000::",  "2606:4700:4700::1111", "2a00:1450::1",    "3ffe::1"};
    struct netguard *g = guard("", "");

    (void)state;
    for (size_t i = 0; i < sizeof(public) / sizeof(*public); i++) {
        expect_text(g, public[i], true);
    }
    netguard_free(g);
}

static void test_mapped_addresses_are_judged_as_ipv4(void **state)
{
    struct netguard *g = guard("", "");
    struct netguard *self = guard("127.0.0.0/8", "127.0.0.9/32");
    struct netguard *none = guard("", "::/0");
    struct addr a = addr_of("::ffff:10.0.0.1");
    const char *reason = NULL;

    (void)state;
    expect_text(g, "::ffff:127.0.0.1", false);
    expect_text(g, "::ffff:0.0.0.0", false);
    expect_text(g, "::ffff:169.254.169.254", false);
    expect_text(g, "::ffff:255.255.255.255", false);
    expect_text(g, "::ffff:8.8.8.8", true);
    assert_false(allowed(g, &a, &reason));
    assert_string_equal(reason, "10.0.0.0/8 private");
    expect_text(self, "::ffff:127.0.0.1", true);
    expect_text(self, "::ffff:127.0.0.9", false);
    expect_text(none, "::ffff:8.8.8.8", false);
    expect_text(none, "8.8.8.8", true);
    netguard_free(g);
    netguard_free(self);
    netguard_free(none);
}

static void test_allow_list_opens_only_what_it_names(void **state)
{
    struct netguard *g = guard("127.0.0.0/8, 10.1.2.3/32,fd00:1::/32", "");

    (void)state;
    expect_text(g, "127.0.0.1", true);
    expect_text(g, "127.255.255.255", true);
    expect_text(g, "10.1.2.3", true);
    expect_text(g, "10.1.2.4", false);
    expect_text(g, "10.1.2.2", false);
    expect_text(g, "fd00:1:ffff::1", true);
    expect_text(g, "fd00:2::1", false);
    expect_text(g, "::1", false);
    expect_text(g, "169.254.169.254", false);
    netguard_free(g);
}

static void test_deny_list_wins_over_allow_list(void **state)
{
    struct netguard *g = guard("0.0.0.0/0,::/0", "127.0.0.0/8,8.8.8.0/24,2606:4700::/32");
    struct addr a = addr_of("8.8.8.8");
    const char *reason = NULL;

    (void)state;
    assert_false(allowed(g, &a, &reason));
    assert_string_equal(reason, "denied by the operator");
    expect_text(g, "127.0.0.1", false);
    expect_text(g, "::ffff:127.0.0.1", false);
    expect_text(g, "::ffff:8.8.8.8", false);
    expect_text(g, "2606:4700::1", false);
    expect_text(g, "10.0.0.1", true);
    expect_text(g, "8.8.9.1", true);
    expect_text(g, "::1", true);
    netguard_free(g);
}

static void test_mapped_networks_in_a_list_mean_ipv4(void **state)
{
    struct netguard *g = guard("::ffff:127.0.0.0/104", "::ffff:8.8.8.0/120");

    (void)state;
    expect_text(g, "127.0.0.1", true);
    expect_text(g, "::ffff:127.0.0.1", true);
    expect_text(g, "8.8.8.8", false);
    netguard_free(g);
}

static void test_a_zone_and_other_families_are_denied(void **state)
{
    struct netguard *g = guard("::/0,0.0.0.0/0", "");
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_scope_id = 2};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    const char *reason = NULL;
    char text[NETGUARD_TEXT];

    (void)state;
    assert_int_equal(inet_pton(AF_INET6, "2606:4700::1", &in6.sin6_addr), 1);
    assert_false(netguard_allows(g, (struct sockaddr *)&in6, &reason));
    assert_non_null(reason);
    in6.sin6_scope_id = 0;
    assert_true(netguard_allows(g, (struct sockaddr *)&in6, NULL));
    assert_false(netguard_allows(g, (struct sockaddr *)&un, &reason));
    netguard_format((struct sockaddr *)&un, text);
    assert_string_equal(text, "?");
    netguard_free(g);
}

static void test_bad_lists_are_refused_with_the_entry_named(void **state)
{
    static const struct {
        const char *list, *named;
    } bad[] = {
        {"10.0.0.1/8", "10.0.0.1/8"},    {"10.0.0.0", "10.0.0.0"},
        {"10.0.0.0/33", "33"},           {"::/129", "129"},
        {"10.0.0.0/", "10.0.0.0"},       {"10.0.0.0/+8", "+8"},
        {"10.0.0.0/8x", "8x"},           {"10.0.0.0/8,", "address/bits"},
        {",10.0.0.0/8", "address/bits"}, {"10.0.0.0/8 ::/0", "::/0"},
        {"localhost/8", "localhost"},    {"fe80::1%eth0/128", "fe80::1%eth0"},
        {"0177.0.0.0/8", "0177.0.0.0"},  {"2001:db8::1/32", "2001:db8::1/32"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct err err = {0};

        assert_null(netguard_new(bad[i].list, "", &err));
        assert_int_equal(err.code, ERR_INVALID);
        if (strstr(err.text, bad[i].named) == NULL ||
            strstr(err.text, "allowed networks") == NULL) {
            fail_msg("\"%s\" gives \"%s\"", bad[i].list, err.text);
        }
        memset(&err, 0, sizeof(err));
        assert_null(netguard_new("", bad[i].list, &err));
        assert_non_null(strstr(err.text, "denied networks"));
    }
}

static void test_lists_have_a_maximum(void **state)
{
    char list[257 * 16] = "";
    struct err err = {0};
    size_t n = 0;

    (void)state;
    for (unsigned i = 0; i < 256; i++) {
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s10.0.%u.0/24", i > 0 ? "," : "", i);
    }
    netguard_free(guard(list, " "));
    assert_true(snprintf(list + n, sizeof(list) - n, ",10.1.0.0/24") > 0);
    assert_null(netguard_new(list, "", &err));
    assert_int_equal(err.code, ERR_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_special_network_is_denied_and_nothing_next_to_it),
        cmocka_unit_test(test_metadata_services_are_denied),
        cmocka_unit_test(test_public_addresses_are_allowed),
        cmocka_unit_test(test_mapped_addresses_are_judged_as_ipv4),
        cmocka_unit_test(test_allow_list_opens_only_what_it_names),
        cmocka_unit_test(test_deny_list_wins_over_allow_list),
        cmocka_unit_test(test_mapped_networks_in_a_list_mean_ipv4),
        cmocka_unit_test(test_a_zone_and_other_families_are_denied),
        cmocka_unit_test(test_bad_lists_are_refused_with_the_entry_named),
        cmocka_unit_test(test_lists_have_a_maximum),
    };

    return cmocka_run_group_tests_name("netguard", tests, NULL, NULL);
}
