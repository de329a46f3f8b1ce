/* Owns the rules of what is read at all. evhttp has parsed the request; where its parser is more
 * generous than the RFCs, and a proxy in front may have read something else, the request is refused
 * here. server.c calls it for every request. */
#include "screen.h"

#include <event2/buffer.h>
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>

#include "bounds.h"

static bool refuse(struct screen_verdict *ret, enum problem p, const char *detail)
{
    ret->problem = p;
    (void)snprintf(ret->detail, sizeof(ret->detail), "%s", detail);
    return false;
}

static bool bad(struct screen_verdict *ret, const char *detail)
{
    return refuse(ret, PROBLEM_BAD_REQUEST, detail);
}

/* RFC 9110 5.6.2. */
static bool is_token(const char *s)
{
    static const char others[] = "!#$%&'*+-.^_`|~";
    if (*s == '\0') {
        return false;
    }
    for (; *s != '\0'; s++) {
        const bool alnum =
            (*s >= '0' && *s <= '9') || (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z');
        if (!alnum && strchr(others, *s) == NULL) {
            return false;
        }
    }
    return true;
}

static bool has_control(const char *s)
{
    for (; *s != '\0'; s++) {
        const unsigned char c = (unsigned char)*s;
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return true;
        }
    }
    return false;
}

static bool is_length(const char *s)
{
    const size_t n = strlen(s);
    return n >= 1 && n <= 10 && strspn(s, "0123456789") == n;
}

/* What decides where a request ends, and whose it is: each at most once. */
struct framing {
    unsigned lengths, encodings, hosts;
    const char *length, *encoding, *host;
};

static bool read_headers(struct evhttp_request *req, struct framing *f, struct screen_verdict *ret)
{
    size_t bytes = 0;
    unsigned n = 0;
    struct evkeyval *h;
    TAILQ_FOREACH(h, evhttp_request_get_input_headers(req), next)
    {
        bytes += strlen(h->key) + strlen(h->value);
        if (++n > SCREEN_HEADERS_N || bytes > SCREEN_HEADERS_MAX) {
            return refuse(ret, PROBLEM_HEADERS_TOO_LARGE,
                          "at most 100 headers of 16 KiB together are read");
        }
        if (!is_token(h->key)) {
            return bad(ret, "a header's name has a character that is not allowed there");
        }
        if (has_control(h->value)) {
            return bad(ret, "a header's value has a control character");
        }
        if (strcasecmp(h->key, "Content-Length") == 0) {
            f->lengths++;
            f->length = h->value;
        } else if (strcasecmp(h->key, "Transfer-Encoding") == 0) {
            f->encodings++;
            f->encoding = h->value;
        } else if (strcasecmp(h->key, "Host") == 0) {
            f->hosts++;
            f->host = h->value;
        }
    }
    return true;
}

static bool check_framing(const struct evhttp_request *req, const struct framing *f,
                          struct screen_verdict *ret)
{
    const bool is_1_1 = req->major == 1 && req->minor == 1;
    if (req->major != 1 || (req->minor != 0 && !is_1_1)) {
        return bad(ret, "only HTTP/1.0 and HTTP/1.1 are spoken");
    }
    if (f->lengths > 1 || f->encodings > 1 || (f->lengths > 0 && f->encodings > 0)) {
        return bad(ret, "one Content-Length or one Transfer-Encoding says where the body ends");
    }
    if (f->lengths == 1 && !is_length(f->length)) {
        return bad(ret, "Content-Length must be a number");
    }
    if (f->encodings == 1 && (!is_1_1 || strcasecmp(f->encoding, "chunked") != 0)) {
        return bad(ret, "Transfer-Encoding can only be chunked");
    }
    if (f->hosts > 1 || (is_1_1 && f->hosts == 0)) {
        return bad(ret, "there must be one Host");
    }
    if (f->hosts == 1 && strpbrk(f->host, " \t/\\@?#,") != NULL) {
        return bad(ret, "Host must be a name or an address, and a port");
    }
    return true;
}

/* %00 would end a C string early in whatever decodes it next. Only the origin form is served: this
 * is no proxy. */
static bool check_uri(const char *uri, struct screen_verdict *ret)
{
    if (strlen(uri) > SCREEN_URI_MAX) {
        return refuse(ret, PROBLEM_URI_TOO_LONG,
                      "at most 4096 characters of path and query are read");
    }
    if (uri[0] != '/' || uri[1] == '/') {
        return bad(ret, "the address must be a path");
    }
    if (strpbrk(uri, " \\\"<>^`{|}#") != NULL || has_control(uri) || strstr(uri, "%00") != NULL) {
        return bad(ret, "the address has a character that must not be there");
    }
    for (const char *p = strchr(uri, '%'); p != NULL; p = strchr(p + 1, '%')) {
        static const char hex[] = "0123456789abcdefABCDEF";
        if (p[1] == '\0' || strchr(hex, p[1]) == NULL || p[2] == '\0' ||
            strchr(hex, p[2]) == NULL) {
            return bad(ret, "a % in the address must be followed by two hex digits");
        }
    }
    for (const char *p = uri; *p != '\0'; p++) {
        if ((unsigned char)*p >= 0x80) {
            return bad(ret, "characters outside ASCII must be percent-encoded in the address");
        }
    }
    return true;
}

bool screen_request(struct evhttp_request *req, struct screen_verdict *ret)
{
    struct framing f = {0};
    if (!check_uri(evhttp_request_get_uri(req), ret) || !read_headers(req, &f, ret) ||
        !check_framing(req, &f, ret)) {
        return false;
    }
    if (evbuffer_get_length(evhttp_request_get_input_buffer(req)) > LIMIT_REQUEST_BODY) {
        return refuse(ret, PROBLEM_CONTENT_TOO_LARGE, "a body has at most 64 KiB");
    }
    return true;
}
