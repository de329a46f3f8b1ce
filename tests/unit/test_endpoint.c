/* URLs: what is accepted and its canonical form, what is refused, and that the refusal tells the
 * customer why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "endpoint.h"

struct fixture {
    struct netguard *guard; /* the built-in policy */
    struct netguard *open;  /* loopback allowed    */
};

static int set_up(void **state)
{
    static struct fixture f;

    f.guard = netguard_new("", "", NULL);
    f.open = netguard_new("127.0.0.0/8,::1/128", "", NULL);
    *state = &f;
    return f.guard == NULL || f.open == NULL;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    netguard_free(f->guard);
    netguard_free(f->open);
    return 0;
}

/* Parsed from a heap copy without a NUL, so that the sanitizer sees a read past the end. */
static bool parse(const char *url, size_t len, bool http, const struct netguard *g,
                  struct endpoint *ret, struct err *err)
{
    char *copy = malloc(len > 0 ? len : 1);
    bool ok;

    assert_non_null(copy);
    memcpy(copy, url, len);
    memset(err, 0, sizeof(*err));
    ok = endpoint_parse(copy, len, http, g, ret, err);
    free(copy);
    return ok;
}

static void accept_len(const char *url, size_t len, const struct netguard *g, const char *canonical)
{
    struct endpoint e = {0};
    struct endpoint again = {0};
    struct err err;

    if (!parse(url, len, true, g, &e, &err)) {
        fail_msg("%s refused: %s", url, err.text);
    }
    if (strcmp(e.url, canonical) != 0) {
        fail_msg("%s became %s, not %s", url, e.url, canonical);
    }
    assert_true(parse(e.url, strlen(e.url), true, g, &again, &err));
    assert_string_equal(again.url, e.url);
    assert_string_equal(again.host, e.host);
    assert_string_equal(again.display, e.display);
    assert_int_equal(again.port, e.port);
    assert_int_equal(again.is_address, e.is_address);
    assert_memory_equal(&again.address, &e.address, sizeof(e.address));
    endpoint_done(&e);
    endpoint_done(&again);
}

static void refuse_len(const char *url, size_t len, const struct netguard *g, enum err_code code,
                       const char *says)
{
    struct endpoint e = {.port = 7};
    struct err err;

    if (parse(url, len, true, g, &e, &err)) {
        fail_msg("%s accepted as %s", url, e.url);
    }
    if (err.code != code || strstr(err.text, says) == NULL) {
        fail_msg("%s: code %d, \"%s\", wanted \"%s\"", url, (int)err.code, err.text, says);
    }
    assert_int_equal(e.port, 7); /* untouched */
    assert_null(e.url);
    assert_true(strlen(err.text) < sizeof(err.text) - 1); /* not cut */
    for (const char *p = err.text; *p != '\0'; p++) {
        assert_in_range(*p, 0x20, 0x7e);
    }
}

static void test_urls_are_stored_in_canonical_form(void **state)
{
    static const struct {
        const char *url, *canonical;
    } rows[] = {
        {"https://example.com", "https://example.com/"},
        {"https://example.com/", "https://example.com/"},
        {"HTTPS://Example.COM/Hook", "https://example.com/Hook"},
        {"https://example.com.", "https://example.com/"},
        {"https://example.com:443/a", "https://example.com/a"},
        {"https://example.com:0443/a", "https://example.com/a"},
        {"https://example.com:8443/a", "https://example.com:8443/a"},
        {"https://example.com:80/", "https://example.com:80/"},
        {"http://example.com:80/", "http://example.com/"},
        {"http://example.com:443/", "http://example.com:443/"},
        {"https://example.com:65535/", "https://example.com:65535/"},
        {"https://example.com:1024/", "https://example.com:1024/"},
        {"https://example.com?x=1", "https://example.com/?x=1"},
        {"https://example.com/?", "https://example.com/?"},
        {"https://example.com/a?b?c/../d", "https://example.com/a?b?c/../d"},
        {"https://example.com/%2e%2E/%41%7a%2f%00", "https://example.com/%2e%2E/%41%7a%2f%00"},
        {"https://example.com/a/./b/../c", "https://example.com/a/c"},
        {"https://example.com//a//b", "https://example.com//a//b"},
        {"https://example.com/@x:y", "https://example.com/@x:y"},
        {"https://b\xc3\xbc"
         "cher.example/",
         "https://xn--bcher-kva.example/"},
        {"https://B\xc3\x9c"
         "CHER.example/",
         "https://xn--bcher-kva.example/"},
        {"https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"},
        {"https://a\xe3\x80\x82"
         "com/",
         "https://a.com/"},                              /* ideographic full stop */
        {"https://\xef\xbd\x81.com/", "https://a.com/"}, /* fullwidth a */
        {"https://8.8.8.8/", "https://8.8.8.8/"},
        {"https://0x08080808/", "https://8.8.8.8/"},
        {"https://010.8.8.8/", "https://8.8.8.8/"},
        {"https://134744072/", "https://8.8.8.8/"},
        {"https://8.8.2056/", "https://8.8.8.8/"},
        {"https://8.526344:8443/", "https://8.8.8.8:8443/"},
        {"https://\xef\xbc\x98.8.8.8/", "https://8.8.8.8/"}, /* fullwidth 8 */
        {"https://[2606:4700:0:0::1111]/", "https://[2606:4700::1111]/"},
        {"https://[2606:4700::ABCD]:8443/x?y", "https://[2606:4700::abcd]:8443/x?y"},
        {"https://[::ffff:8.8.8.8]/", "https://8.8.8.8/"},
        {"https://[::ffff:808:808]/", "https://8.8.8.8/"},
        {"https://1.2.3.example/", "https://1.2.3.example/"},
        {"https://0x.com/", "https://0x.com/"},
        {"https://1e100.net/", "https://1e100.net/"},
        {"https://localhost.example.com/", "https://localhost.example.com/"},
        {"https://notlocal.notinternal/", "https://notlocal.notinternal/"},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        accept_len(rows[i].url, strlen(rows[i].url), f->guard, rows[i].canonical);
    }
}

static void test_the_fields_describe_the_url(void **state)
{
    static const char name[] = "https://Hooks.Example.com:8443/a/b?token=secret";
    static const char v6[] = "http://[2606:4700::1]/x?q";
    struct fixture *f = *state;
    struct endpoint e = {0};
    struct err err;

    assert_true(parse(name, strlen(name), false, f->guard, &e, &err));
    assert_string_equal(e.url, "https://hooks.example.com:8443/a/b?token=secret");
    assert_string_equal(e.display, "https://hooks.example.com:8443/a/b");
    assert_string_equal(e.host, "hooks.example.com");
    assert_int_equal(e.port, 8443);
    assert_true(e.tls);
    assert_false(e.is_address);
    endpoint_done(&e);
    assert_null(e.url);

    assert_true(parse(v6, strlen(v6), true, f->guard, &e, &err));
    assert_string_equal(e.display, "http://[2606:4700::1]/x");
    assert_string_equal(e.host, "2606:4700::1");
    assert_int_equal(e.port, 80);
    assert_false(e.tls);
    assert_true(e.is_address);
    assert_int_equal(e.address.ss_family, AF_INET6);
    assert_int_equal(((struct sockaddr_in6 *)&e.address)->sin6_port, htons(80));
    endpoint_done(&e);
}

struct refusal {
    const char *url;
    enum err_code code;
    const char *says;
};

static void refuse_all(const struct netguard *g, const struct refusal *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        refuse_len(rows[i].url, strlen(rows[i].url), g, rows[i].code, rows[i].says);
    }
}

static void test_addresses_in_disguise_are_denied(void **state)
{
    static const struct refusal rows[] = {
        {"http://127.0.0.1/", ERR_DENIED, "127.0.0.0/8 loopback"},
        {"http://2130706433/", ERR_DENIED, "is the address 127.0.0.1"},
        {"http://0x7f.1/", ERR_DENIED, "\"0x7f.1\" is the address 127.0.0.1"},
        {"http://0X7F.1/", ERR_DENIED, "127.0.0.1"},
        {"http://0177.0.0.1/", ERR_DENIED, "127.0.0.1"},
        {"http://127.1/", ERR_DENIED, "127.0.0.1"},
        {"http://0/", ERR_DENIED, "0.0.0.0"},
        {"http://0x0/", ERR_DENIED, "0.0.0.0"},
        {"http://00/", ERR_DENIED, "0.0.0.0"},
        {"http://0x7f000001/", ERR_DENIED, "127.0.0.1"},
        {"http://017700000001/", ERR_DENIED, "127.0.0.1"},
        {"http://0x7f.0x0.0x0.0x1/", ERR_DENIED, "127.0.0.1"},
        {"http://169.254.169.254/latest/meta-data", ERR_DENIED, "169.254.0.0/16 link-local"},
        {"http://0xa9.0xfe.43518/", ERR_DENIED, "169.254.169.254"},
        {"http://4294967295/", ERR_DENIED, "255.255.255.255"},
        /* circled digits 1 2 7, circled l of localhost, fullwidth digits and stops */
        {"http://\xe2\x91\xa0\xe2\x91\xa1\xe2\x91\xa6.0.0.1/", ERR_DENIED, "127.0.0.1"},
        {"http://\xe2\x93\x9bocalhost/", ERR_DENIED, "private network"},
        {"http://\xef\xbc\x91\xef\xbc\x92\xef\xbc\x97.0.0.1/", ERR_DENIED, "127.0.0.1"},
        {"http://127\xe3\x80\x82"
         "0\xe3\x80\x82"
         "0\xe3\x80\x82"
         "1/",
         ERR_DENIED, "127.0.0.1"},
        {"http://\xef\xbc\x90x7f.1/", ERR_DENIED, "127.0.0.1"},
        {"http://10.0\xc2\xad.0.1/", ERR_DENIED, "10.0.0.1"}, /* soft hyphen */
        {"http://[::1]/", ERR_DENIED, "::1/128 loopback"},
        {"http://[0:0:0:0:0:0:0:1]/", ERR_DENIED, "loopback"},
        {"http://[::ffff:7f00:1]/", ERR_DENIED, "127.0.0.0/8 loopback"},
        {"http://[::ffff:127.0.0.1]/", ERR_DENIED, "127.0.0.0/8 loopback"},
        {"http://[::127.0.0.1]/", ERR_DENIED, "IPv4-compatible"},
        {"http://[64:ff9b::7f00:1]/", ERR_DENIED, "NAT64"},
        {"http://[fd00:ec2::254]/", ERR_DENIED, "unique local"},
        {"http://[2002:7f00:1::]/", ERR_DENIED, "6to4"},
        {"http://[::]/", ERR_DENIED, "unspecified"},
    };
    struct fixture *f = *state;

    refuse_all(f->guard, rows, sizeof(rows) / sizeof(*rows));
}

static void test_what_is_neither_name_nor_address_is_refused(void **state)
{
    static const struct refusal rows[] = {
        {"http://256.1.1.1/", ERR_INVALID, "\"256.1.1.1\" is neither"},
        {"http://1.2.3.4.5/", ERR_INVALID, "neither"},
        {"http://08.8.8.8/", ERR_INVALID, "neither"},
        {"http://0x100000001/", ERR_INVALID, "neither"},
        {"http://4294967296/", ERR_INVALID, "neither"},
        {"http://1.2.3.256/", ERR_INVALID, "neither"},
        {"http://1.2.65536/", ERR_INVALID, "neither"},
        {"http://1.16777216/", ERR_INVALID, "neither"},
        {"http://99999999999999999999999999/", ERR_INVALID, "neither"},
        {"http://0xffffffffffffffffff/", ERR_INVALID, "neither"},
        {"http://example.123/", ERR_INVALID, "neither"},
        {"http://example.0x1f/", ERR_INVALID, "neither"},
        {"http://example.0x/", ERR_INVALID, "neither"},
        {"http://example.\xef\xbc\x91\xef\xbc\x92/", ERR_INVALID, "neither"},
        {"http://8.8.8.8./", ERR_INVALID, "ends in a dot"},
        {"http://134744072./", ERR_INVALID, "ends in a dot"},
        {"http://1..2/", ERR_INVALID, "each part"},
        {"http://[8.8.8.8]/", ERR_INVALID, "8.8.8.8"},
        {"http://[2606:4700::g]/", ERR_INVALID, "2606:4700::g"},
        {"http://[2606::4700::1]/", ERR_INVALID, "2606::4700::1"},
        {"http://[2606:4700::1/", ERR_INVALID, "bracket"},
        {"http://[2606:4700::1]x/", ERR_INVALID, "behind"},
        {"http://[2606:4700::1]8443/", ERR_INVALID, "behind"},
        {"http://[]/", ERR_INVALID, "no host"},
        {"http://[::1%25eth0]/", ERR_INVALID, "zones"},
        {"http://[fe80::1%eth0]/", ERR_INVALID, "zones"},
        {"http://2606:4700::1/", ERR_INVALID, "port"},
    };
    struct fixture *f = *state;

    refuse_all(f->guard, rows, sizeof(rows) / sizeof(*rows));
}

static void test_urls_that_two_parsers_read_differently_are_refused(void **state)
{
    static const struct refusal rows[] = {
        {"http://example.com\\@10.0.0.1/", ERR_INVALID, "backslash"},
        {"http:\\\\10.0.0.1/", ERR_INVALID, "backslash"},
        {"http://example.com/a\\b", ERR_INVALID, "backslash"},
        {"http:/127.0.0.1/", ERR_INVALID, "must start with"},
        {"http:///127.0.0.1/", ERR_INVALID, "no host"},
        {"http:127.0.0.1/", ERR_INVALID, "must start with"},
        {"//example.com/", ERR_INVALID, "must start with"},
        {"example.com", ERR_INVALID, "https://example.com/hook"},
        {"example.com/https://x", ERR_INVALID, "must start with"},
        {"http://", ERR_INVALID, "no host"},
        {"https://", ERR_INVALID, "no host"},
        {"https:///", ERR_INVALID, "no host"},
        {"https://?x", ERR_INVALID, "no host"},
        {"https://:443/", ERR_INVALID, "no host"},
        {"ftp://example.com/", ERR_INVALID, "must start with"},
        {"file:///etc/passwd", ERR_INVALID, "must start with"},
        {"gopher://example.com/", ERR_INVALID, "must start with"},
        {"httpss://example.com/", ERR_INVALID, "must start with"},
        {"http://127.0.0.1%2f@x.com/", ERR_INVALID, "user name"},
        {"http://user@example.com/", ERR_INVALID, "user name"},
        {"http://u:hunter2@example.com/", ERR_INVALID, "user name"},
        {"http://@example.com/", ERR_INVALID, "user name"},
        {"http://u@h@h2.com/", ERR_INVALID, "user name"},
        {"http://example.com#@10.0.0.1/", ERR_INVALID, "fragment"},
        {"http://example.com/#", ERR_INVALID, "fragment"},
        {"http://ex%61mple.com/", ERR_INVALID, "percent-encoding"},
        {"http://%31%32%37.0.0.1/", ERR_INVALID, "percent-encoding"},
        {"http://example.com%00.evil.com/", ERR_INVALID, "percent-encoding"},
        {"http://exa mple.com/", ERR_INVALID, "0x20"},
        {" http://example.com/", ERR_INVALID, "position 1"},
        {"http://example.com/ ", ERR_INVALID, "0x20"},
        {"http://example.com/\r\nHost: x", ERR_INVALID, "0x0d"},
        {"http://exam\tple.com/", ERR_INVALID, "0x09"},
        {"http://example.com/\x7f", ERR_INVALID, "0x7f"},
        {"http://example.com/\xc3\xbc", ERR_INVALID, "percent-encode"},
        {"http://example.com/?\xc3\xbc", ERR_INVALID, "percent-encode"},
        {"", ERR_INVALID, "empty"},
    };
    struct fixture *f = *state;

    refuse_all(f->guard, rows, sizeof(rows) / sizeof(*rows));
    refuse_len("http://example.com/\0x", 21, f->guard, ERR_INVALID, "0x00");
    refuse_len("http://example.com\0.evil.com/", 29, f->guard, ERR_INVALID, "0x00");
}

static void test_hosts_must_be_public_dns_names(void **state)
{
    static const struct refusal rows[] = {
        {"http://localhost/", ERR_DENIED, "\"localhost\""},
        {"http://LOCALHOST./", ERR_DENIED, "private network"},
        {"http://a.localhost/", ERR_DENIED, "private network"},
        {"http://printer.local/", ERR_DENIED, "private network"},
        {"http://local./", ERR_DENIED, "private network"},
        {"http://metadata.google.internal/", ERR_DENIED, "private network"},
        {"http://router.home.arpa/", ERR_DENIED, "private network"},
        {"http://home.arpa/", ERR_DENIED, "private network"},
        {"http://intranet/", ERR_INVALID, "full name"},
        {"http://intranet./", ERR_INVALID, "full name"},
        {"http://example..com/", ERR_INVALID, "each part"},
        {"http://example.com../", ERR_INVALID, "each part"},
        {"http://.example.com/", ERR_INVALID, "each part"},
        {"http://./", ERR_INVALID, "each part"},
        {"http://-a.example.com/", ERR_INVALID, "hyphen"},
        {"http://a-.example.com/", ERR_INVALID, "hyphen"},
        {"http://a_b.example.com/", ERR_INVALID, "letters, digits"},
        {"http://a\xe2\x84\x80"
         "b.com/",
         ERR_INVALID, "\"a"}, /* U+2100 maps to a/c */
        {"http://\xff\xfe.com/", ERR_INVALID, "\\xff\\xfe.com"},
        {"http://a\xc3.com/", ERR_INVALID, "xn--"},
        {"http://\xe2\x80\xae"
         "moc.example/",
         ERR_INVALID, "\\xe2\\x80\\xae"}, /* right-to-left override */
    };
    struct fixture *f = *state;

    refuse_all(f->guard, rows, sizeof(rows) / sizeof(*rows));
}

static void test_only_ports_of_web_servers_are_allowed(void **state)
{
    static const struct refusal rows[] = {
        {"http://example.com:0/", ERR_DENIED, "port 0"},
        {"http://example.com:22/", ERR_DENIED, "port 22 is not allowed; use 443"},
        {"http://example.com:25/", ERR_DENIED, "port 25"},
        {"http://example.com:1023/", ERR_DENIED, "port 1023"},
        {"http://example.com:65536/", ERR_INVALID, "example.com"},
        {"http://example.com:70000/", ERR_INVALID, "example.com"},
        {"http://example.com:/", ERR_INVALID, "port"},
        {"http://example.com:80:81/", ERR_INVALID, "\"80:81\""},
        {"http://example.com:+80/", ERR_INVALID, "\"+80\""},
        {"http://example.com:-1/", ERR_INVALID, "\"-1\""},
        {"http://example.com:0x50/", ERR_INVALID, "\"0x50\""},
        {"http://example.com:000080/", ERR_INVALID, "\"000080\""},
        {"http://[2606:4700::1]:22/", ERR_DENIED, "port 22"},
    };
    struct fixture *f = *state;

    refuse_all(f->guard, rows, sizeof(rows) / sizeof(*rows));
}

static void test_http_needs_permission(void **state)
{
    struct fixture *f = *state;
    struct endpoint e = {0};
    struct err err;
    const char *url = "http://example.com/";

    assert_false(parse(url, strlen(url), false, f->guard, &e, &err));
    assert_int_equal(err.code, ERR_DENIED);
    assert_non_null(strstr(err.text, "https://"));
    assert_true(parse(url, strlen(url), true, f->guard, &e, &err));
    endpoint_done(&e);
}

static void test_an_operator_can_open_loopback(void **state)
{
    struct fixture *f = *state;

    accept_len("http://127.0.0.1:8080/x", 23, f->open, "http://127.0.0.1:8080/x");
    accept_len("http://0x7f.1:8080/x", 20, f->open, "http://127.0.0.1:8080/x");
    accept_len("http://[::1]:8080/", 18, f->open, "http://[::1]:8080/");
    accept_len("http://[::ffff:127.0.0.1]:8080/", 31, f->open, "http://127.0.0.1:8080/");
    refuse_len("http://10.0.0.1/", 16, f->open, ERR_DENIED, "10.0.0.0/8");
    refuse_len("http://localhost/", 17, f->open, ERR_DENIED, "private network");
}

static char *url_of(const char *head, char fill, size_t total)
{
    char *url = malloc(total + 1);

    assert_non_null(url);
    memset(url, fill, total);
    memcpy(url, head, strlen(head));
    url[total] = '\0';
    return url;
}

static void test_lengths_are_limited(void **state)
{
    static const char label[] =
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"; /* 63 */
    struct fixture *f = *state;
    char host[512];
    char canonical[512];
    char *url = url_of("https://example.com/", 'a', LIMIT_URL);

    accept_len(url, LIMIT_URL, f->guard, url);
    free(url);
    url = url_of("https://example.com/", 'a', LIMIT_URL + 1);
    refuse_len(url, LIMIT_URL + 1, f->guard, ERR_INVALID, "2049 bytes");
    free(url);
    url = url_of("https://example.com?", 'a', LIMIT_URL); /* gains a slash */
    refuse_len(url, LIMIT_URL, f->guard, ERR_INVALID, "normal form");
    free(url);
    url = url_of("https://", 'a', LIMIT_URL);
    refuse_len(url, LIMIT_URL, f->guard, ERR_INVALID, "253");
    free(url);

    assert_true(snprintf(host, sizeof(host), "https://%s.example.com/", label) > 0);
    accept_len(host, strlen(host), f->guard, host);
    assert_true(snprintf(host, sizeof(host), "https://%sa.example.com/", label) > 0);
    refuse_len(host, strlen(host), f->guard, ERR_INVALID, "1 to 63");
    assert_true(snprintf(host, sizeof(host), "https://%s.%s.%s.%.61s./", label, label, label,
                         label) > 0); /* 253 and a dot */
    assert_true(snprintf(canonical, sizeof(canonical), "https://%s.%s.%s.%.61s/", label, label,
                         label, label) > 0);
    accept_len(host, strlen(host), f->guard, canonical);
    assert_true(
        snprintf(host, sizeof(host), "https://%s.%s.%s.%.62s/", label, label, label, label) > 0);
    refuse_len(host, strlen(host), f->guard, ERR_INVALID, "253");
}

static void test_failures_do_not_repeat_secrets(void **state)
{
    static const char *const urls[] = {"https://u:hunter2@example.com/",
                                       "https://10.0.0.1/hunter2",
                                       "https://example.com:22/?token=hunter2",
                                       "ftp://u:hunter2@example.com/",
                                       "https://intranet/hunter2",
                                       "https://example.com/hunter2#"};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(urls) / sizeof(*urls); i++) {
        struct endpoint e = {0};
        struct err err;

        assert_false(parse(urls[i], strlen(urls[i]), true, f->guard, &e, &err));
        assert_null(strstr(err.text, "hunter2"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urls_are_stored_in_canonical_form),
        cmocka_unit_test(test_the_fields_describe_the_url),
        cmocka_unit_test(test_addresses_in_disguise_are_denied),
        cmocka_unit_test(test_what_is_neither_name_nor_address_is_refused),
        cmocka_unit_test(test_urls_that_two_parsers_read_differently_are_refused),
        cmocka_unit_test(test_hosts_must_be_public_dns_names),
        cmocka_unit_test(test_only_ports_of_web_servers_are_allowed),
        cmocka_unit_test(test_http_needs_permission),
        cmocka_unit_test(test_an_operator_can_open_loopback),
        cmocka_unit_test(test_lengths_are_limited),
        cmocka_unit_test(test_failures_do_not_repeat_secrets),
    };

    return cmocka_run_group_tests_name("endpoint", tests, set_up, tear_down);
}
