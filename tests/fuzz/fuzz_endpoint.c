/* Any bytes as a URL, under the built-in policy. What is accepted must be safe to store and to send
 * to: an address is one that the policy allows, a name cannot be taken for an address, and the
 * canonical form parses to itself. */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "endpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check_text(const char *s)
{
    for (; *s != '\0'; s++) {
        CHECK(*s > 0x20 && *s < 0x7f && *s != '\\' && *s != '#');
    }
}

static void check_address(const struct endpoint *e, const struct netguard *guard)
{
    struct in_addr v4;
    struct in6_addr v6;

    CHECK(netguard_allows(guard, (const struct sockaddr *)&e->address, NULL));
    CHECK(inet_pton(AF_INET, e->host, &v4) == 1 || inet_pton(AF_INET6, e->host, &v6) == 1);
}

static void check_name(const char *host)
{
    struct in_addr v4;
    const char *last = strrchr(host, '.');

    CHECK(inet_aton(host, &v4) == 0 && last != NULL);
    CHECK(last[1 + strspn(last + 1, "0123456789")] != '\0');
    for (; *host != '\0'; host++) {
        CHECK(strchr("abcdefghijklmnopqrstuvwxyz0123456789-.", *host) != NULL);
    }
}

static void check_accepted(const struct endpoint *e, const struct netguard *guard)
{
    size_t display_len = strlen(e->display);

    check_text(e->url);
    CHECK(strlen(e->url) <= LIMIT_URL && strlen(e->host) <= LIMIT_HOST);
    CHECK(strncmp(e->url, e->tls ? "https://" : "http://", e->tls ? 8 : 7) == 0);
    CHECK(strncmp(e->url, e->display, display_len) == 0);
    CHECK(e->url[display_len] == '\0' || e->url[display_len] == '?');
    CHECK(memchr(e->display, '?', display_len) == NULL);
    CHECK(e->port == 80 || e->port == 443 || e->port >= 1024);
    if (e->is_address) {
        check_address(e, guard);
    } else {
        check_name(e->host);
    }
}

static void check_canonical(const struct endpoint *e, const struct netguard *guard)
{
    struct endpoint again = {0};

    CHECK(endpoint_parse(e->url, strlen(e->url), true, guard, &again, NULL));
    CHECK(strcmp(again.url, e->url) == 0 && strcmp(again.display, e->display) == 0);
    CHECK(strcmp(again.host, e->host) == 0 && again.port == e->port && again.tls == e->tls);
    CHECK(again.is_address == e->is_address &&
          memcmp(&again.address, &e->address, sizeof(e->address)) == 0);
    endpoint_done(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct netguard *guard;
    struct endpoint e = {0};
    struct err err = {0};

    if (guard == NULL) {
        guard = netguard_new("", "", NULL);
        CHECK(guard != NULL);
    }
    if (endpoint_parse((const char *)data, len, true, guard, &e, &err)) {
        check_accepted(&e, guard);
        check_canonical(&e, guard);
        endpoint_done(&e);
        return 0;
    }
    CHECK(err.code == ERR_INVALID || err.code == ERR_DENIED);
    CHECK(err.text[0] != '\0' && strlen(err.text) < sizeof(err.text) - 1 && e.url == NULL);
    for (const char *s = err.text; *s != '\0'; s++) {
        CHECK(*s >= 0x20 && *s < 0x7f);
    }
    return 0;
}
