/* The answer: what is read and kept of it, and the verdict (fault and text) on a finished transfer.
 * Pure bookkeeping on struct transfer: opens nothing, frees nothing. The callbacks are libcurl's,
 * answer_judge is transport.c's. The texts go to the customer: they name the address and what
 * happened, never a header, a body or a URL. */
#include "transport_internal.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "check.h"
#include "clock.h"

void answer_reset(struct transfer *x)
{
    x->status = 0;
    x->in_fields = x->headers_end = x->too_large = x->cut = false;
    x->retry_after_s = x->retry_at_s = x->date_s = -1;
    x->header_bytes = x->headers_len = x->body_bytes = x->body_len = 0;
}

/* Seconds since 1970, -1 when it is no HTTP date. */
static int64_t parse_date(const char *value)
{
    const time_t at = curl_getdate(value, NULL);
    return at >= 0 ? (int64_t)at : -1;
}

/* delay-seconds or an HTTP date (RFC 9110 10.2.3); neither counts when it is something else. */
static void parse_retry_after(struct transfer *x, const char *value)
{
    char *end = NULL;
    if (isdigit((unsigned char)*value)) {
        errno = 0;
        const long long s = strtoll(value, &end, 10);
        if (*end == '\0') {
            x->retry_after_s = errno == 0 ? s : INT64_MAX;
            return;
        }
    }
    x->retry_at_s = parse_date(value);
}

/* False: another field, or an empty or long value. */
static bool field_value(const char *line, size_t len, const char *name, char out[64])
{
    const size_t name_len = strlen(name);
    if (len <= name_len || strncasecmp(line, name, name_len) != 0) {
        return false;
    }
    line += name_len, len -= name_len;
    while (len > 0 && isspace((unsigned char)*line)) {
        line++, len--;
    }
    while (len > 0 && isspace((unsigned char)line[len - 1])) {
        len--;
    }
    if (len == 0 || len >= 64) {
        return false;
    }
    memcpy(out, line, len);
    out[len] = '\0';
    return true;
}

static void see_field(struct transfer *x, const char *line, size_t len)
{
    char value[64];
    if (x->retry_after_s < 0 && x->retry_at_s < 0 &&
        field_value(line, len, "retry-after:", value)) {
        parse_retry_after(x, value);
    } else if (x->date_s < 0 && field_value(line, len, "date:", value)) {
        x->date_s = parse_date(value);
    }
}

/* A date is meant by the clock that wrote it, which the answer's own Date shows; this machine's may
 * be wrong. */
static int64_t retry_after(const struct transfer *x)
{
    if (x->retry_at_s < 0) {
        return x->retry_after_s;
    }
    const int64_t now_s = x->date_s >= 0 ? x->date_s : clock_wall_us() / 1000000;
    return x->retry_at_s > now_s ? x->retry_at_s - now_s : 0;
}

static size_t keep(char *to, size_t *len, size_t max, const char *data, size_t n)
{
    const size_t part = n < max - *len ? n : max - *len;
    memcpy(to + *len, data, part);
    *len += part;
    return part;
}

static void see_status_line(struct transfer *x, const char *line, size_t len)
{
    const char *blank = memchr(line, ' ', len);
    int status = 0; /* libcurl has checked the line: three digits follow */
    for (const char *p = blank; p != NULL && ++p < line + len && isdigit((unsigned char)*p);) {
        status = status < 100 ? status * 10 + (*p - '0') : status;
    }
    x->status = status;
    x->headers_len = 0; /* of a 1xx before */
    x->retry_after_s = x->retry_at_s = x->date_s = -1;
    x->in_fields = true;
}

size_t answer_header(char *line, size_t size, size_t n, void *ctx)
{
    struct transfer *x = ctx;
    CHECK_MAGIC(x, TRANSFER_MAGIC);
    const size_t len = size * n;
    x->header_bytes += len;
    if (x->header_bytes > LIMIT_RESPONSE_HEADERS) {
        x->too_large = true;
        return 0;
    }
    if (x->headers_end) {
        return len; /* trailers are counted, not kept */
    }
    if (!x->in_fields) {
        see_status_line(x, line, len);
    } else if (line[0] == '\r' || line[0] == '\n') {
        x->headers_end = x->status >= 200;
        x->in_fields = false;
    } else {
        see_field(x, line, len);
        (void)keep(x->headers, &x->headers_len, sizeof(x->headers), line, len);
    }
    return len;
}

size_t answer_body(char *data, size_t size, size_t n, void *ctx)
{
    struct transfer *x = ctx;
    CHECK_MAGIC(x, TRANSFER_MAGIC);
    const size_t len = size * n;
    x->body_bytes += len;
    (void)keep(x->body, &x->body_len, sizeof(x->body), data, len);
    if (x->body_bytes > LIMIT_RESPONSE_READ) {
        x->cut = true;
        return 0;
    }
    return len;
}

#define PEER_TEXT (NETGUARD_TEXT + 10)

static void peer_text(const struct transfer *x, char out[PEER_TEXT])
{
    const bool v6 = strchr(x->peer, ':') != NULL;
    (void)snprintf(out, PEER_TEXT, "%s%s%s:%u", v6 ? "[" : "", x->peer, v6 ? "]" : "",
                   (unsigned)x->endpoint->port);
}

static void span_text(int64_t ms, char out[32])
{
    if (ms % 1000 == 0) {
        (void)snprintf(out, 32, "%lld s", (long long)(ms / 1000));
    } else {
        (void)snprintf(out, 32, "%lld ms", (long long)ms);
    }
}

/* libcurl's words, on one line of plain characters. */
static void curl_text(struct transfer *x, CURLcode code, const char *prefix,
                      char out[LIMIT_ERROR_TEXT])
{
    const char *text = x->error[0] != '\0' ? x->error : curl_easy_strerror(code);
    static const char *const certificate[] = {"SSL certificate problem: ", "SSL: "};
    for (size_t i = 0; code == CURLE_PEER_FAILED_VERIFICATION && i < 2; i++) {
        const size_t len = strlen(certificate[i]);
        text += strncmp(text, certificate[i], len) == 0 ? len : 0;
    }
    (void)snprintf(out, LIMIT_ERROR_TEXT, "%s: %.200s", prefix, text);
    for (char *p = out; *p != '\0'; p++) {
        *p = isprint((unsigned char)*p) ? *p : '?';
    }
}

static enum transport_fault judge_denied(const struct transfer *x, char out[LIMIT_ERROR_TEXT])
{
    (void)snprintf(out, LIMIT_ERROR_TEXT, "address %s may not be called (%s)", x->peer, x->denied);
    return TRANSPORT_DENIED;
}

static enum transport_fault judge_connect(struct transfer *x, char out[LIMIT_ERROR_TEXT])
{
    /* what this machine lacks, not the endpoint */
    static const int ours[] = {ENETUNREACH, EADDRNOTAVAIL, EADDRINUSE, ENOBUFS, ENOMEM,
                               EMFILE,      ENFILE,        EACCES,     EPERM,   EAFNOSUPPORT};
    if (x->denied != NULL) {
        return judge_denied(x, out);
    }
    if (x->socket_errno != 0) {
        (void)snprintf(out, LIMIT_ERROR_TEXT, "no socket for the connection: %s",
                       strerror(x->socket_errno));
        return TRANSPORT_OURS;
    }
    long number = 0;
    CHECK(curl_easy_getinfo(x->easy, CURLINFO_OS_ERRNO, &number) == CURLE_OK);
    char peer[PEER_TEXT];
    peer_text(x, peer);
    if (number == ECONNREFUSED) {
        (void)snprintf(out, LIMIT_ERROR_TEXT, "connect to %s refused", peer);
    } else {
        (void)snprintf(out, LIMIT_ERROR_TEXT, "connect to %s: %s", peer,
                       number != 0 ? strerror((int)number) : "failed");
    }
    for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++) {
        if (number == ours[i]) {
            return TRANSPORT_OURS;
        }
    }
    return TRANSPORT_CONNECT;
}

/* The answer may have come in time, but libcurl looks at the clock first; or the machine stood
 * still, and nothing could come. */
static bool was_stopped(const struct transfer *x, char out[LIMIT_ERROR_TEXT])
{
    const int64_t turn_us = clock_mono_us() - x->t->turned_us;
    if (turn_us < TRANSPORT_STOPPED_US) {
        return false;
    }
    (void)snprintf(out, LIMIT_ERROR_TEXT, "this worker was stopped for %lld ms",
                   (long long)(turn_us / 1000));
    return true;
}

static enum transport_fault judge_timeout(struct transfer *x, char out[LIMIT_ERROR_TEXT])
{
    char peer[PEER_TEXT];
    char span[32];
    if (was_stopped(x, out)) {
        return TRANSPORT_OURS;
    }
    peer_text(x, peer);
    if (x->sends > 0) {
        span_text(x->timeout_ms, span);
        (void)snprintf(out, LIMIT_ERROR_TEXT, "%s within %s",
                       x->status >= 200 ? "answer not complete" : "no answer", span);
        return TRANSPORT_TIMEOUT;
    }
    span_text(x->connect_ms, span);
    if (x->tls_started) {
        (void)snprintf(out, LIMIT_ERROR_TEXT, "TLS handshake with %s not done within %s", peer,
                       span);
        return TRANSPORT_TIMEOUT;
    }
    (void)snprintf(out, LIMIT_ERROR_TEXT, "connect to %s: no answer within %s", peer, span);
    return TRANSPORT_CONNECT;
}

static enum transport_fault judge_unpinned(struct transfer *x, char out[LIMIT_ERROR_TEXT])
{
    if (x->sends > 0) { /* a repetition after the pin went: the endpoint hung, then closed */
        (void)snprintf(out, LIMIT_ERROR_TEXT, "connection closed without an answer");
        return TRANSPORT_BROKEN;
    }
    (void)snprintf(out, LIMIT_ERROR_TEXT, "the name was not resolved");
    return TRANSPORT_OURS;
}

static enum transport_fault judge_too_large(char out[LIMIT_ERROR_TEXT])
{
    (void)snprintf(out, LIMIT_ERROR_TEXT, "response headers above %u bytes",
                   LIMIT_RESPONSE_HEADERS);
    return TRANSPORT_TOO_LARGE;
}

/* By libcurl's code alone; all that are not listed are TRANSPORT_BROKEN. */
static const struct {
    CURLcode code;
    enum transport_fault fault;
    const char *prefix;
} faults[] = {
    {CURLE_SSL_CONNECT_ERROR, TRANSPORT_TLS, "TLS"},
    {CURLE_PEER_FAILED_VERIFICATION, TRANSPORT_TLS, "certificate"},
    {CURLE_SSL_CERTPROBLEM, TRANSPORT_TLS, "TLS"},
    {CURLE_SSL_CIPHER, TRANSPORT_TLS, "TLS"},
    {CURLE_SSL_ISSUER_ERROR, TRANSPORT_TLS, "certificate"},
    {CURLE_SSL_INVALIDCERTSTATUS, TRANSPORT_TLS, "certificate"},
    {CURLE_SSL_CLIENTCERT, TRANSPORT_TLS, "TLS"},
    {CURLE_SSL_CACERT_BADFILE, TRANSPORT_OURS, "own certificate authorities"},
    {CURLE_SSL_ENGINE_NOTFOUND, TRANSPORT_OURS, "own TLS"},
    {CURLE_SSL_ENGINE_INITFAILED, TRANSPORT_OURS, "own TLS"},
    {CURLE_SSL_ENGINE_SETFAILED, TRANSPORT_OURS, "own TLS"},
    {CURLE_OUT_OF_MEMORY, TRANSPORT_OURS, "own memory"},
    {CURLE_FAILED_INIT, TRANSPORT_OURS, "own HTTP client"},
    {CURLE_URL_MALFORMAT, TRANSPORT_OURS, "own HTTP client"},
    {CURLE_NOT_BUILT_IN, TRANSPORT_OURS, "own HTTP client"},
    {CURLE_BAD_FUNCTION_ARGUMENT, TRANSPORT_OURS, "own HTTP client"},
    {CURLE_SETOPT_OPTION_SYNTAX, TRANSPORT_OURS, "own HTTP client"},
};

static enum transport_fault judge_code(struct transfer *x, CURLcode code,
                                       char out[LIMIT_ERROR_TEXT])
{
    for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++) {
        if (faults[i].code == code) {
            curl_text(x, code, faults[i].prefix, out);
            return faults[i].fault;
        }
    }
    if (x->headers_end) {
        return TRANSPORT_OK; /* only the rest of the body is missing: the status has been said */
    }
    if (code == CURLE_OK) {
        (void)snprintf(out, LIMIT_ERROR_TEXT, "connection closed within the answer's headers");
    } else {
        curl_text(x, code, "no valid answer", out);
    }
    return TRANSPORT_BROKEN;
}

static enum transport_fault judge(struct transfer *x, CURLcode code, char out[LIMIT_ERROR_TEXT])
{
    /* libcurl says "out of memory" for one header line above 100 KB */
    if (x->too_large || (code == CURLE_OUT_OF_MEMORY && x->sends > 0 && !x->headers_end)) {
        return judge_too_large(out);
    }
    if (x->denied != NULL) {
        return judge_denied(x, out);
    }
    if (code == CURLE_COULDNT_CONNECT) {
        return judge_connect(x, out);
    }
    if (code == CURLE_OPERATION_TIMEDOUT) {
        return judge_timeout(x, out);
    }
    if (x->unpinned) {
        return judge_unpinned(x, out);
    }
    return judge_code(x, code, out);
}

void answer_judge(struct transfer *x, CURLcode code, struct transport_result *ret)
{
    ret->error[0] = '\0';
    if (x->refused != NULL) {
        (void)snprintf(ret->error, sizeof(ret->error), "not sent: %s", x->refused);
        ret->fault = TRANSPORT_OURS;
    } else {
        ret->fault = judge(x, code, ret->error);
    }
    long connections = 0;
    CHECK(x->easy == NULL ||
          curl_easy_getinfo(x->easy, CURLINFO_NUM_CONNECTS, &connections) == CURLE_OK);
    ret->status = x->status >= 200 ? x->status : 0;
    ret->duration_us = clock_mono_us() - x->started_us;
    ret->retry_after_s = retry_after(x);
    ret->headers = x->headers, ret->headers_len = x->headers_len;
    ret->body = x->body, ret->body_len = x->body_len;
    ret->reused = x->sends > 0 && connections == 0;
    memcpy(ret->address, x->peer, sizeof(ret->address));
}
