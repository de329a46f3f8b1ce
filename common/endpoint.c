/* Turns the URL that a customer typed into the one canonical form that is stored, vetted and handed
 * to libcurl, or says why not. First our own narrow reading refuses whatever two parsers could
 * understand differently, then libcurl's parser (the code that will connect) takes it apart, then
 * the host it found is judged again. It does not resolve names. Called by the API when a webhook is
 * registered and by the worker when it loads one. Texts of failures are read by customers: bytes
 * that are not printable ASCII are escaped, and parts that may be secret (user name, path, query)
 * are not repeated. */
#include "endpoint.h"

#include <arpa/inet.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "buf.h"
#include "check.h"
#include "mem.h"

#define LABEL_MAX 63
#define SHOWN_MAX 72 /* characters of a value in an error text */

struct slice {
    const char *s;
    size_t len;
};

/* The URL as our own reading cut it; nothing here is a copy. */
struct cut {
    bool tls;
    bool bracketed;
    struct slice host;  /* without brackets */
    struct slice port;  /* s NULL when absent */
    struct slice tail;  /* path and query, may be empty */
    struct slice query; /* with its '?', s NULL when absent */
};

struct shown {
    char text[SHOWN_MAX + sizeof("\\xff...")];
};

static struct shown show(struct slice in)
{
    static const char hex[] = "0123456789abcdef";
    struct shown out;
    size_t n = 0;

    for (size_t i = 0; i < in.len; i++) {
        unsigned char c = (unsigned char)in.s[i];

        if (n >= SHOWN_MAX) {
            memcpy(out.text + n, "...", 3);
            n += 3;
            break;
        }
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            out.text[n++] = (char)c;
        } else {
            out.text[n++] = '\\';
            out.text[n++] = 'x';
            out.text[n++] = hex[c >> 4];
            out.text[n++] = hex[c & 15];
        }
    }
    out.text[n] = '\0';
    return out;
}

static struct shown show_str(const char *s)
{
    return show((struct slice){s, strlen(s)});
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_ascii(struct slice in)
{
    for (size_t i = 0; i < in.len; i++) {
        if ((unsigned char)in.s[i] >= 0x80) {
            return false;
        }
    }
    return true;
}

/* ---- our own reading ---- */

static bool check_bytes(const char *url, size_t len, struct err *err)
{
    if (len == 0) {
        return err_set(err, ERR_INVALID,
                       "the URL is empty; give one like https://example.com/hook");
    }
    if (len > LIMIT_URL) {
        return err_set(err, ERR_INVALID, "the URL has %zu bytes, more than the %d allowed", len,
                       LIMIT_URL);
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)url[i];

        if (c <= 0x20 || c == 0x7f) {
            return err_set(err, ERR_INVALID,
                           "the URL contains a blank or control character (0x%02x at position "
                           "%zu); percent-encode it",
                           c, i + 1);
        }
        if (c == '\\') {
            return err_set(err, ERR_INVALID,
                           "the URL contains a backslash at position %zu; use / or %%5C", i + 1);
        }
        if (c == '#') {
            return err_set(
                err, ERR_INVALID,
                "the URL contains a fragment (#...), which is never sent; remove it or use %%23");
        }
    }
    return true;
}

static bool cut_scheme(const char *url, size_t len, bool allow_http, struct cut *c,
                       size_t *ret_rest, struct err *err)
{
    if (len >= 8 && strncasecmp(url, "https://", 8) == 0) {
        c->tls = true;
        *ret_rest = 8;
        return true;
    }
    if (len >= 7 && strncasecmp(url, "http://", 7) == 0) {
        if (!allow_http) {
            return err_set(err, ERR_DENIED,
                           "the URL starts with http://; only https:// is allowed");
        }
        *ret_rest = 7;
        return true;
    }
    return err_set(err, ERR_INVALID,
                   "the URL must start with https://%s and a host, like https://example.com/hook",
                   allow_http ? " or http://" : "");
}

static bool cut_port(struct slice text, struct cut *c, struct err *err)
{
    size_t digits = 0;

    if (text.len == 0) {
        return true;
    }
    if (text.s[0] != ':') {
        return err_set(err, ERR_INVALID, "the URL has \"%s\" behind the address in brackets",
                       show(text).text);
    }
    c->port = (struct slice){text.s + 1, text.len - 1};
    while (digits < c->port.len && is_digit(c->port.s[digits])) {
        digits++;
    }
    if (digits == 0 || digits < c->port.len || digits > 5) {
        return err_set(err, ERR_INVALID, "the port \"%s\" is not a number from 1 to 65535",
                       show(c->port).text);
    }
    return true;
}

static bool cut_authority(struct slice a, struct cut *c, struct err *err)
{
    const char *end;

    if (memchr(a.s, '@', a.len) != NULL) {
        return err_set(
            err, ERR_INVALID,
            "the URL contains a user name or password (...@host); remove it and verify the "
            "signature of the requests instead");
    }
    if (memchr(a.s, '%', a.len) != NULL) {
        return err_set(
            err, ERR_INVALID,
            "the host \"%s\" contains %%; percent-encoding and zones are not allowed there",
            show(a).text);
    }
    c->bracketed = a.len > 0 && a.s[0] == '[';
    if (c->bracketed) {
        end = memchr(a.s, ']', a.len);
        if (end == NULL) {
            return err_set(err, ERR_INVALID, "the host \"%s\" lacks its closing bracket",
                           show(a).text);
        }
        c->host = (struct slice){a.s + 1, (size_t)(end - a.s) - 1};
        end++;
    } else {
        end = memchr(a.s, ':', a.len);
        if (end == NULL) {
            end = a.s + a.len;
        }
        c->host = (struct slice){a.s, (size_t)(end - a.s)};
    }
    if (c->host.len == 0) {
        return err_set(err, ERR_INVALID,
                       "the URL has no host; give one like https://example.com/hook");
    }
    return cut_port((struct slice){end, a.len - (size_t)(end - a.s)}, c, err);
}

static bool cut_url(const char *url, size_t len, bool allow_http, struct cut *c, struct err *err)
{
    size_t start = 0;
    size_t end;

    if (!check_bytes(url, len, err) || !cut_scheme(url, len, allow_http, c, &start, err)) {
        return false;
    }
    for (end = start; end < len && url[end] != '/' && url[end] != '?'; end++) {
    }
    if (!cut_authority((struct slice){url + start, end - start}, c, err)) {
        return false;
    }
    c->tail = (struct slice){url + end, len - end};
    if (!is_ascii(c->tail)) {
        return err_set(
            err, ERR_INVALID,
            "the path or query contains characters outside ASCII; percent-encode them as UTF-8");
    }
    c->query.s = c->tail.len > 0 ? memchr(c->tail.s, '?', c->tail.len) : NULL;
    if (c->query.s != NULL) {
        c->query.len = c->tail.len - (size_t)(c->query.s - c->tail.s);
    }
    return true;
}

/* ---- libcurl's reading ---- */

struct parts {
    CURLU *handle;
    char *host; /* ASCII; with brackets when IPv6 */
    char *path;
    char *port;
};

static void parts_done(struct parts *p)
{
    curl_free(p->host);
    curl_free(p->path);
    curl_free(p->port);
    curl_url_cleanup(p->handle);
}

/* libidn2 reads the host in the encoding of the locale, and a daemon runs in "C": lend this thread
 * UTF-8 for the call. */
static CURLUcode get_ascii_host(struct parts *p, bool idn)
{
    CURLUcode rc;

    if (!idn) {
        return curl_url_get(p->handle, CURLUPART_HOST, &p->host, 0);
    }
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (utf8 == (locale_t)0) {
        return CURLUE_BAD_HOSTNAME;
    }
    locale_t old = uselocale(utf8);
    rc = curl_url_get(p->handle, CURLUPART_HOST, &p->host, CURLU_PUNYCODE);
    uselocale(old);
    freelocale(utf8);
    return rc;
}

static bool parts_parse(const char *url, size_t len, const struct cut *c, struct parts *p,
                        struct err *err)
{
    char *copy = mem_dupn(url, len);
    CURLUcode rc;
    bool idn = !is_ascii(c->host);

    p->handle = curl_url();
    rc = p->handle == NULL ? CURLUE_OUT_OF_MEMORY
                           : curl_url_set(p->handle, CURLUPART_URL, copy, CURLU_DISALLOW_USER);
    free(copy);
    if (rc == CURLUE_OK) {
        rc = get_ascii_host(p, idn);
        if (rc != CURLUE_OK && idn) {
            return err_set(
                err, ERR_INVALID,
                "the host \"%s\" is not a valid international name; write it in its xn-- form",
                show(c->host).text);
        }
    }
    if (rc == CURLUE_OK) {
        rc = curl_url_get(p->handle, CURLUPART_PATH, &p->path, 0);
    }
    if (rc == CURLUE_OK) {
        rc = curl_url_get(p->handle, CURLUPART_PORT, &p->port, CURLU_DEFAULT_PORT);
    }
    if (rc != CURLUE_OK) {
        return err_set(err, ERR_INVALID, "the URL with host \"%s\" is not valid: %s",
                       show(c->host).text, curl_url_strerror(rc));
    }
    return true;
}

/* ---- judging the host ---- */

/* One part of inet_aton's grammar: 0x hexadecimal, 0 octal, else decimal. *s moves behind it. */
static bool parse_number(const char **s, uint64_t *ret)
{
    unsigned base = 10;
    uint64_t v = 0;
    const char *p = *s;

    if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
        base = 16;
        p += 2;
        if (!is_hex(*p)) {
            return false;
        }
    } else if (p[0] == '0') {
        base = 8;
    } else if (!is_digit(*p)) {
        return false;
    }
    for (; is_hex(*p); p++) {
        unsigned digit = is_digit(*p) ? (unsigned)(*p - '0') : (unsigned)((*p | 0x20) - 'a') + 10;

        if (digit >= base || v > UINT32_MAX) {
            return false;
        }
        v = v * base + digit;
    }
    *s = p;
    *ret = v;
    return true;
}

/* Every spelling that inet_aton (and so getaddrinfo, and libcurl) takes for an IPv4 address. */
static bool parse_ipv4(const char *s, struct in_addr *ret)
{
    uint64_t part[4];
    unsigned n = 0;
    uint32_t value = 0;

    for (;;) {
        if (n == 4 || !parse_number(&s, &part[n])) {
            return false;
        }
        n++;
        if (*s == '\0') {
            break;
        }
        if (*s++ != '.') {
            return false;
        }
    }
    for (unsigned i = 0; i + 1 < n; i++) {
        if (part[i] > 255) {
            return false;
        }
        value |= (uint32_t)part[i] << (24 - 8 * i);
    }
    if (part[n - 1] >> (8 * (5 - n)) != 0) { /* the last part fills what is left */
        return false;
    }
    ret->s_addr = htonl(value | (uint32_t)part[n - 1]);
    return true;
}

/* "256.1.1.1", "1.2.3.4.5", "08.8.8.8", "a.0x7f": no address, but some resolver may think
 * otherwise. */
static bool ends_in_number(const char *host)
{
    const char *dot = strrchr(host, '.');
    const char *label = dot != NULL ? dot + 1 : host;
    size_t digits = strspn(label, "0123456789");

    if (label[digits] == '\0') {
        return true;
    }
    return label[0] == '0' && label[1] == 'x' &&
           label[2 + strspn(label + 2, "0123456789abcdef")] == '\0';
}

static bool below(const char *host, const char *domain)
{
    size_t host_len = strlen(host);
    size_t len = strlen(domain);

    if (host_len < len || strcmp(host + host_len - len, domain) != 0) {
        return false;
    }
    return host_len == len || host[host_len - len - 1] == '.';
}

static bool check_labels(const char *host, struct err *err)
{
    const char *label = host;

    if (strlen(host) > LIMIT_HOST) {
        return err_set(err, ERR_INVALID, "the host \"%s\" is longer than %d characters",
                       show_str(host).text, LIMIT_HOST);
    }
    for (;;) {
        size_t len = strcspn(label, ".");
        size_t good = strspn(label, "abcdefghijklmnopqrstuvwxyz0123456789-");

        if (good < len) {
            return err_set(err, ERR_INVALID,
                           "the host \"%s\" may only have letters, digits, hyphens and dots",
                           show_str(host).text);
        }
        if (len == 0 || len > LABEL_MAX || label[0] == '-' || label[len - 1] == '-') {
            return err_set(err, ERR_INVALID,
                           "each part of the host \"%s\" must have 1 to %d characters and no "
                           "hyphen at its ends",
                           show_str(host).text, LABEL_MAX);
        }
        if (label[len] == '\0') {
            return true;
        }
        label += len + 1;
    }
}

static bool check_name(const char *host, struct err *err)
{
    static const char *const inside[] = {"localhost", "local", "internal", "home.arpa"};

    if (!check_labels(host, err)) {
        return false;
    }
    if (ends_in_number(host)) {
        return err_set(err, ERR_INVALID, "the host \"%s\" is neither a name nor a valid IP address",
                       show_str(host).text);
    }
    for (size_t i = 0; i < sizeof(inside) / sizeof(*inside); i++) {
        if (below(host, inside[i])) {
            return err_set(err, ERR_DENIED,
                           "the host \"%s\" is a name of a private network; use one that is public",
                           show_str(host).text);
        }
    }
    if (strchr(host, '.') == NULL) {
        return err_set(err, ERR_INVALID, "the host \"%s\" must be a full name like example.com",
                       show_str(host).text);
    }
    return true;
}

static void set_ipv4(struct endpoint *e, struct in_addr addr)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(e->port), .sin_addr = addr};

    e->is_address = true;
    memcpy(&e->address, &in, sizeof(in));
}

/* text: between the brackets. */
static bool set_ipv6(struct endpoint *e, const char *text, struct err *err)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(e->port)};

    if (inet_pton(AF_INET6, text, &in6.sin6_addr) != 1) {
        return err_set(err, ERR_INVALID, "the host \"[%s]\" is not a valid IPv6 address",
                       show_str(text).text);
    }
    /* the same peer in a second spelling: one canonical form */
    if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
        struct in_addr v4;

        memcpy(&v4, in6.sin6_addr.s6_addr + 12, sizeof(v4));
        set_ipv4(e, v4);
        return true;
    }
    e->is_address = true;
    memcpy(&e->address, &in6, sizeof(in6));
    return true;
}

static bool vet_address(struct endpoint *e, const struct cut *c, const struct netguard *guard,
                        struct err *err)
{
    const struct sockaddr *sa = (const struct sockaddr *)&e->address;
    const char *reason = "";

    netguard_format(sa, e->host);
    if (netguard_allows(guard, sa, &reason)) {
        return true;
    }
    return err_set(err, ERR_DENIED,
                   "the host \"%s\" is the address %s, which webhooks may not reach (%s)",
                   show(c->host).text, e->host, reason);
}

/* found: libcurl's host, changed in place. Sets host, is_address, address. */
static bool judge_host(char *found, const struct cut *c, const struct netguard *guard,
                       struct endpoint *e, struct err *err)
{
    struct in_addr v4;
    size_t len = strlen(found);

    for (size_t i = 0; i < len; i++) {
        if (found[i] >= 'A' && found[i] <= 'Z') {
            found[i] = (char)(found[i] | 0x20);
        }
    }
    if (c->bracketed) {
        if (len < 2 || found[0] != '[' || found[len - 1] != ']') {
            return err_set(err, ERR_INVALID, "the host \"%s\" is not a valid IPv6 address",
                           show_str(found).text);
        }
        found[len - 1] = '\0';
        return set_ipv6(e, found + 1, err) && vet_address(e, c, guard, err);
    }
    bool dot = len > 1 && found[len - 1] == '.';
    if (dot) {
        found[--len] = '\0';
    }
    if (parse_ipv4(found, &v4)) {
        if (dot) {
            return err_set(err, ERR_INVALID, "the address \"%s\" ends in a dot; remove it",
                           show(c->host).text);
        }
        set_ipv4(e, v4);
        return vet_address(e, c, guard, err);
    }
    if (!check_name(found, err)) {
        return false;
    }
    memcpy(e->host, found, len + 1); /* check_labels: at most LIMIT_HOST */
    return true;
}

/* ---- the result ---- */

static bool set_port(const char *text, struct endpoint *e, struct err *err)
{
    unsigned long port = strtoul(text, NULL, 10); /* digits, from libcurl */

    if (port == 0 || port > UINT16_MAX || (port < 1024 && port != 80 && port != 443)) {
        return err_set(err, ERR_DENIED,
                       "the port %lu is not allowed; use 443, 80 or one from 1024 to 65535", port);
    }
    e->port = (uint16_t)port;
    return true;
}

static bool build(const struct cut *c, const char *path, struct endpoint *e, struct err *err)
{
    struct buf b;
    bool ipv6 = e->is_address && e->address.ss_family == AF_INET6;

    buf_init(&b, LIMIT_URL);
    buf_add_fmt(&b, ipv6 ? "%s://[%s]" : "%s://%s", e->tls ? "https" : "http", e->host);
    if (e->port != (e->tls ? 443 : 80)) {
        buf_add_fmt(&b, ":%u", (unsigned)e->port);
    }
    buf_add_str(&b, path);
    e->display = mem_dup(buf_cstr(&b));
    buf_add(&b, c->query.s, c->query.len);
    bool fits = buf_ok(&b);
    e->url = mem_dup(buf_cstr(&b));
    buf_done(&b);
    return fits ||
           err_set(err, ERR_INVALID,
                   "the URL in its normal form has more than the %d bytes allowed", LIMIT_URL);
}

bool endpoint_parse(const char *url, size_t len, bool allow_http, const struct netguard *guard,
                    struct endpoint *ret, struct err *err)
{
    struct cut c = {0};
    struct parts p = {0};
    struct endpoint e = {0};
    bool ok = cut_url(url, len, allow_http, &c, err) && parts_parse(url, len, &c, &p, err);

    CHECK(!ok || (p.host != NULL && p.port != NULL));
    e.tls = c.tls;
    ok = ok && set_port(p.port, &e, err) && judge_host(p.host, &c, guard, &e, err) &&
         build(&c, p.path, &e, err);
    parts_done(&p);
    if (!ok) {
        endpoint_done(&e);
        return false;
    }
    *ret = e;
    return true;
}

void endpoint_done(struct endpoint *e)
{
    free(e->url);
    e->url = NULL;
    free(e->display);
    e->display = NULL;
}
