/* Owns the address policy: the tables of special networks, the operator's two lists, and the one
 * decision made of them. It does not resolve names and opens no socket. Called when a URL is parsed
 * (endpoint), when DNS answers are vetted (delivery), and twice by the transport, when a socket is
 * opened and before a request goes out. The tables are text, parsed at creation, so that what is
 * enforced and what is shown to people cannot differ. */
#include "netguard.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "mem.h"

#define PREFIX_LIST_MAX 256
#define PREFIX_TEXT     64 /* longer than any "address/bits" */

struct prefix {
    sa_family_t family;
    unsigned bits;
    uint8_t addr[16]; /* network order; IPv4 uses the first 4 */
    const char *name; /* a literal */
};

struct prefix_list {
    struct prefix *items;
    size_t n;
};

struct netguard {
    struct prefix_list deny;    /* operator */
    struct prefix_list allow;   /* operator */
    struct prefix_list special; /* built in */
};

/* Sources: IANA special-purpose address registries and the IPv6 address space registry. The first
 * match names the reason, so a narrow network stands before the wide one that contains it. */
static const char *const special[] = {
    "0.0.0.0/8 this network",
    "10.0.0.0/8 private",
    "100.64.0.0/10 shared address space",
    "127.0.0.0/8 loopback",
    "168.63.129.16/32 cloud platform address",
    "169.254.0.0/16 link-local",
    "172.16.0.0/12 private",
    "192.0.0.0/24 IETF protocol assignments",
    "192.0.2.0/24 documentation",
    "192.31.196.0/24 AS112",
    "192.52.193.0/24 AMT",
    "192.88.99.0/24 6to4 relay",
    "192.168.0.0/16 private",
    "192.175.48.0/24 AS112",
    "198.18.0.0/15 benchmarking",
    "198.51.100.0/24 documentation",
    "203.0.113.0/24 documentation",
    "224.0.0.0/4 multicast",
    "255.255.255.255/32 broadcast",
    "240.0.0.0/4 reserved",
    "::/128 unspecified",
    "::1/128 loopback",
    "::/96 IPv4-compatible",
    "::ffff:0:0:0/96 IPv4-translated",
    "64:ff9b::/96 NAT64",
    "64:ff9b:1::/48 local NAT64",
    "100::/64 discard-only",
    "100:0:0:1::/64 dummy prefix",
    "5f00::/16 segment routing",
    "fc00::/7 unique local",
    "fe80::/10 link-local",
    "fec0::/10 site-local",
    "ff00::/8 multicast",
    "2001::/32 Teredo",
    "2001:2::/48 benchmarking",
    "2001:10::/28 ORCHID",
    "2001:20::/28 ORCHIDv2",
    "2001::/23 IETF protocol assignments",
    "2001:db8::/32 documentation",
    "2002::/16 6to4",
    "2620:4f:8000::/48 AS112",
    "3fff::/20 documentation",
};

static const uint8_t mapped_head[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool bits_equal(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    unsigned bytes = bits / 8;
    unsigned rest = bits % 8;

    if (memcmp(a, b, bytes) != 0) {
        return false;
    }
    return rest == 0 || ((a[bytes] ^ b[bytes]) >> (8 - rest)) == 0;
}

static const struct prefix *list_match(const struct prefix_list *list, sa_family_t family,
                                       const uint8_t *addr)
{
    for (size_t i = 0; i < list->n; i++) {
        const struct prefix *p = &list->items[i];

        if (p->family == family && bits_equal(p->addr, addr, p->bits)) {
            return p;
        }
    }
    return NULL;
}

/* Decimal digits only: no sign, no blank, at most three. */
static bool parse_bits(const char *s, unsigned max, unsigned *ret)
{
    size_t len = strlen(s);
    unsigned v = 0;

    if (len == 0 || len > 3) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9') {
            return false;
        }
        v = v * 10 + (unsigned)(s[i] - '0');
    }
    if (v > max) {
        return false;
    }
    *ret = v;
    return true;
}

static bool host_bits_zero(const struct prefix *p)
{
    unsigned total = p->family == AF_INET ? 32 : 128;

    for (unsigned bit = p->bits; bit < total; bit++) {
        if (p->addr[bit / 8] & (0x80u >> (bit % 8))) {
            return false;
        }
    }
    return true;
}

static bool parse_prefix(const char *text, size_t len, struct prefix *ret, struct err *err)
{
    char copy[PREFIX_TEXT];
    struct prefix p = {0};
    char *slash;

    if (len >= sizeof(copy)) {
        return err_set(err, ERR_INVALID, "\"%.40s...\" is too long for address/bits", text);
    }
    memcpy(copy, text, len);
    copy[len] = '\0';
    slash = strchr(copy, '/');
    if (slash == NULL) {
        return err_set(err, ERR_INVALID, "\"%s\" is not address/bits (like 10.0.0.0/8)", copy);
    }
    *slash = '\0';
    p.family = strchr(copy, ':') != NULL ? AF_INET6 : AF_INET;
    if (inet_pton(p.family, copy, p.addr) != 1) {
        return err_set(err, ERR_INVALID, "\"%s\" is not an IP address", copy);
    }
    if (!parse_bits(slash + 1, p.family == AF_INET ? 32 : 128, &p.bits)) {
        return err_set(err, ERR_INVALID, "\"%s\" is not a prefix length of %s", slash + 1, copy);
    }
    if (!host_bits_zero(&p)) {
        return err_set(err, ERR_INVALID, "%s/%u has bits set behind the prefix", copy, p.bits);
    }
    /* v4-mapped addresses are judged as IPv4, so a network of them must be one of IPv4. */
    if (p.family == AF_INET6 && p.bits >= 96 && memcmp(p.addr, mapped_head, 12) == 0) {
        memmove(p.addr, p.addr + 12, 4);
        p.family = AF_INET;
        p.bits -= 96;
    }
    *ret = p;
    return true;
}

/* text: comma-separated, blanks around an entry are ignored; "" is the empty list. */
static bool parse_list(const char *text, const char *name, struct prefix_list *ret, struct err *err)
{
    const char *s = text;

    if (text[strspn(text, " \t\n")] == '\0') {
        return true;
    }
    ret->items = mem_zero(PREFIX_LIST_MAX, sizeof(*ret->items));
    for (;;) {
        size_t len;

        s += strspn(s, " \t\n");
        len = strcspn(s, ", \t\n");
        if (ret->n == PREFIX_LIST_MAX) {
            return err_set(err, ERR_LIMIT, "more than %d networks", PREFIX_LIST_MAX);
        }
        if (!parse_prefix(s, len, &ret->items[ret->n], err)) {
            return false;
        }
        ret->items[ret->n++].name = name;
        s += len;
        s += strspn(s, " \t\n");
        if (*s == '\0') {
            return true;
        }
        if (*s != ',') {
            return err_set(err, ERR_INVALID, "networks must be separated by commas, at \"%.40s\"",
                           s);
        }
        s++;
    }
}

static void load_special(struct prefix_list *ret)
{
    size_t n = sizeof(special) / sizeof(*special);

    ret->items = mem_zero(n, sizeof(*ret->items));
    for (ret->n = 0; ret->n < n; ret->n++) {
        const char *row = special[ret->n];

        CHECK(parse_prefix(row, strcspn(row, " "), &ret->items[ret->n], NULL));
        ret->items[ret->n].name = row;
    }
}

struct netguard *netguard_new(const char *allow, const char *deny, struct err *err)
{
    struct netguard *g = mem_zero(1, sizeof(*g));

    load_special(&g->special);
    if (!parse_list(allow, "allowed by the operator", &g->allow, err)) {
        err_prefix(err, "allowed networks");
        netguard_free(g);
        return NULL;
    }
    if (!parse_list(deny, "denied by the operator", &g->deny, err)) {
        err_prefix(err, "denied networks");
        netguard_free(g);
        return NULL;
    }
    return g;
}

void netguard_free(struct netguard *g)
{
    if (g == NULL) {
        return;
    }
    free(g->deny.items);
    free(g->allow.items);
    free(g->special.items);
    free(g);
}

/* NULL: allowed. */
static const char *reason_against(const struct netguard *g, sa_family_t family, const uint8_t *addr)
{
    const struct prefix *p = list_match(&g->deny, family, addr);

    if (p != NULL) {
        return p->name;
    }
    if (list_match(&g->allow, family, addr) != NULL) {
        return NULL;
    }
    p = list_match(&g->special, family, addr);
    if (p != NULL) {
        return p->name;
    }
    if (family == AF_INET6 && (addr[0] & 0xe0) != 0x20) {
        return "outside 2000::/3 global unicast";
    }
    return NULL;
}

static const char *reason_against_ipv6(const struct netguard *g, const struct sockaddr *sa)
{
    struct sockaddr_in6 in6;
    const struct prefix *p;

    memcpy(&in6, sa, sizeof(in6)); /* sa may be less aligned than a sockaddr_in6 */
    if (in6.sin6_scope_id != 0) {
        return "an address with a zone";
    }
    if (memcmp(in6.sin6_addr.s6_addr, mapped_head, 12) != 0) {
        return reason_against(g, AF_INET6, in6.sin6_addr.s6_addr);
    }
    p = list_match(&g->deny, AF_INET6, in6.sin6_addr.s6_addr); /* ::/0 means these as well */
    return p != NULL ? p->name : reason_against(g, AF_INET, in6.sin6_addr.s6_addr + 12);
}

bool netguard_allows(const struct netguard *g, const struct sockaddr *sa, const char **ret_reason)
{
    const char *reason = "not an IP address";

    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;

        memcpy(&in, sa, sizeof(in));
        reason = reason_against(g, AF_INET, (const uint8_t *)&in.sin_addr);
    } else if (sa->sa_family == AF_INET6) {
        reason = reason_against_ipv6(g, sa);
    }
    if (reason != NULL && ret_reason != NULL) {
        *ret_reason = reason;
    }
    return reason == NULL;
}

void netguard_format(const struct sockaddr *sa, char out[NETGUARD_TEXT])
{
    const char *done = NULL;

    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;

        memcpy(&in, sa, sizeof(in));
        done = inet_ntop(AF_INET, &in.sin_addr, out, NETGUARD_TEXT);
    } else if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;

        memcpy(&in6, sa, sizeof(in6));
        done = inet_ntop(AF_INET6, &in6.sin6_addr, out, NETGUARD_TEXT);
    }
    if (done == NULL) {
        out[0] = '?';
        out[1] = '\0';
    }
}
