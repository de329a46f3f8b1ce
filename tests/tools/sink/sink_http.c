/* HTTP/1.1 request heads out of bytes (RFC 9112), strict on purpose: a sender that is sloppy should
 * be seen. Owns nothing; the slices point into the caller's bytes. It does not read bodies;
 * sink_conn.c does. */
#include <string.h>
#include <strings.h>

#include "sink.h"

bool http_next_header(struct slice *rest, struct slice *ret_name, struct slice *ret_value)
{
    if (rest->len == 0)
        return false;
    const char *end = memmem(rest->p, rest->len, "\r\n", 2);
    size_t len = end == NULL ? rest->len : (size_t)(end - rest->p);
    const char *colon = memchr(rest->p, ':', len);
    if (colon == NULL) {
        *ret_name = (struct slice){rest->p, len};
        *ret_value = (struct slice){NULL, 0};
    } else {
        const char *v = colon + 1;
        const char *v_end = rest->p + len;
        while (v < v_end && (*v == ' ' || *v == '\t'))
            v++;
        while (v_end > v && (v_end[-1] == ' ' || v_end[-1] == '\t'))
            v_end--;
        *ret_name = (struct slice){rest->p, (size_t)(colon - rest->p)};
        *ret_value = (struct slice){v, (size_t)(v_end - v)};
    }
    size_t step = len + (end != NULL ? 2 : 0);
    rest->p += step;
    rest->len -= step;
    return true;
}

static bool token_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_token(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (!token_char(s.p[i]))
            return false;
    }
    return s.len > 0;
}

static bool is_text(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

/* "POST /path?query HTTP/1.1"; an absolute URL as the target is cut down to its path. */
static const char *parse_request_line(struct slice line, struct request *r)
{
    const char *space = memchr(line.p, ' ', line.len);
    if (space == NULL)
        return "request line";
    r->method = (struct slice){line.p, (size_t)(space - line.p)};
    struct slice rest = {space + 1, line.len - r->method.len - 1};
    const char *second = memchr(rest.p, ' ', rest.len);
    if (second == NULL || !is_token(r->method))
        return "request line";
    struct slice target = {rest.p, (size_t)(second - rest.p)};
    struct slice version = {second + 1, rest.len - target.len - 1};
    if (slice_is(version, "HTTP/1.0")) {
        r->close = true;
    } else if (!slice_is(version, "HTTP/1.1")) {
        return "HTTP version";
    }
    if (target.len > 7 && memcmp(target.p, "http://", 7) == 0) {
        const char *slash = memchr(target.p + 7, '/', target.len - 7);
        size_t skip = slash == NULL ? target.len : (size_t)(slash - target.p);
        target = slash == NULL ? SLICE("/") : (struct slice){slash, target.len - skip};
    }
    if (target.len == 0 || target.p[0] != '/' || !is_text(target))
        return "request target";
    const char *mark = memchr(target.p, '?', target.len);
    r->path = (struct slice){target.p, mark == NULL ? target.len : (size_t)(mark - target.p)};
    if (mark != NULL)
        r->query = (struct slice){mark + 1, target.len - r->path.len - 1};
    return NULL;
}

/* Headers that are only kept. The first of several wins. */
static bool keep_header(struct request *r, struct slice name, struct slice value)
{
#define KEEP(text, member)                                                                         \
    {                                                                                              \
        SLICE_INIT(text), offsetof(struct request, member)                                         \
    }
    static const struct {
        struct slice name;
        size_t offset;
    } known[] = {
        KEEP("x-netrecon-event", event),
        KEEP("x-netrecon-delivery", delivery_id),
        KEEP("x-netrecon-attempt", attempt),
        KEEP("x-netrecon-signature", sig_netrecon),
        KEEP("x-netrecon-signature-previous", sig_previous),
        KEEP("webhook-id", event_id),
        KEEP("webhook-timestamp", timestamp),
        KEEP("webhook-signature", sig_standard),
        KEEP("user-agent", user_agent),
        KEEP("content-type", content_type),
        KEEP("traceparent", traceparent),
    };
#undef KEEP
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        if (name.len != known[i].name.len || strncasecmp(name.p, known[i].name.p, name.len) != 0)
            continue;
        struct slice *to = (struct slice *)(void *)((char *)r + known[i].offset);
        if (to->p == NULL)
            *to = value;
        return true;
    }
    return false;
}

/* Headers that decide how the request is read. Returns a status, or 0. */
static int frame_header(struct request *r, struct slice name, struct slice value)
{
    if (slice_is_nocase(name, "content-length")) {
        uint64_t n;
        if (!slice_number(value, UINT64_MAX / 16, &n) || (r->has_length && n != r->body_len))
            return 400;
        r->body_len = n;
        r->has_length = true;
        return n > SINK_BODY_MAX ? 413 : 0;
    }
    if (slice_is_nocase(name, "transfer-encoding"))
        return 411; /* the worker knows the length of what it signs; chunked would be a bug */
    if (slice_is_nocase(name, "expect")) {
        r->expect_continue = slice_is_nocase(value, "100-continue");
    } else if (slice_is_nocase(name, "connection") && slice_is_nocase(value, "close")) {
        r->close = true;
    }
    return 0;
}

static int parse_headers(struct request *r, const char **ret_why)
{
    struct slice rest = r->head;
    struct slice name;
    struct slice value;
    size_t n = 0;
    while (http_next_header(&rest, &name, &value)) {
        *ret_why = "header line";
        if (++n > SINK_HEADERS_MAX)
            return 431;
        if (value.p == NULL || !is_token(name) || !is_text(value))
            return 400;
        if (keep_header(r, name, value))
            continue;
        *ret_why = "message length";
        int status = frame_header(r, name, value);
        if (status != 0)
            return status;
    }
    *ret_why = "no Content-Length";
    return slice_is(r->method, "POST") && !r->has_length ? 411 : 0;
}

enum http_result http_parse_head(const char *data, size_t len, struct request *ret, size_t *ret_len,
                                 int *ret_status, const char **ret_why)
{
    const char *end = memmem(data, len, "\r\n\r\n", 4);
    if (end == NULL ? len > SINK_HEAD_MAX : (size_t)(end - data) > SINK_HEAD_MAX) {
        *ret_status = 431;
        *ret_why = "head too large";
        return HTTP_BAD;
    }
    if (end == NULL)
        return HTTP_MORE;
    *ret = (struct request){0};
    const char *line_end = memmem(data, len, "\r\n", 2);
    *ret_why = parse_request_line((struct slice){data, (size_t)(line_end - data)}, ret);
    *ret_status = 400;
    if (*ret_why != NULL)
        return HTTP_BAD;
    ret->head = (struct slice){line_end + 2, 0};
    if (line_end != end)
        ret->head.len = (size_t)(end + 2 - ret->head.p);
    *ret_status = parse_headers(ret, ret_why);
    if (*ret_status != 0)
        return HTTP_BAD;
    *ret_len = (size_t)(end + 4 - data);
    return HTTP_DONE;
}
