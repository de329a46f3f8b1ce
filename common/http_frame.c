/* Owns the grammar: one step per kind of byte, and each step takes exactly what RFC 9112 calls
 * well-formed and this service needs. Knows no route and no answer. httpd.c feeds it. */
#include "http_frame.h"

#include <string.h>
#include <strings.h>

#include "check.h"

#define METHOD_MIN    3 /* evhttp takes no first line shorter than that of "GET /" */
#define LENGTH_DIGITS 10
#define CHUNK_DIGITS  8

/* In the order of a request. */
enum step {
    METHOD,
    TARGET,
    VERSION,
    LINE_LF,
    HEADER, /* the first byte of a line */
    NAME,
    VALUE,
    VALUE_LF,
    HEAD_LF,
    BODY,
    CHUNK_SIZE,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_CR,
    CHUNK_LF,
    LAST_CR,
    LAST_LF
};

enum header { OTHER, HOST, LENGTH, ENCODING, EXPECT };

static const struct {
    int status;
    const char *text;
} faults[] = {
    [FRAME_GOOD] = {200, ""},
#define FRAME_FAULT(name, status, text) [FRAME_##name] = {status, text},
#include "http_frame.def"
#undef FRAME_FAULT
};

int frame_status(enum frame_fault fault)
{
    return faults[fault].status;
}

const char *frame_text(enum frame_fault fault)
{
    return faults[fault].text;
}

void frame_begin(struct frame *f)
{
    *f = (struct frame){.fault = FRAME_GOOD, .step = METHOD};
}

static void enter(struct frame *f, enum step step)
{
    f->step = (int)step;
    f->n = 0;
}

/* --- characters ------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_alnum(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_one_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

/* RFC 9110, 5.6.2. */
static bool is_token(char c)
{
    return is_alnum(c) || is_one_of(c, "!#$%&'*+-.^_`|~");
}

/* -1: none. */
static int hex_of(char c)
{
    if (is_digit(c)) {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool is_control(char c)
{
    const unsigned char u = (unsigned char)c;
    return u < 0x20 || u == 0x7f;
}

/* --- the first line --------------------------------------------------------------------- */

static enum frame_fault on_method(struct frame *f, char c)
{
    if (c == ' ' && f->n >= METHOD_MIN) {
        f->method[f->n] = '\0';
        enter(f, TARGET);
        /* Its address would be a host: evhttp reads it so, whatever it is. */
        return strcmp(f->method, "CONNECT") == 0 ? FRAME_METHOD : FRAME_GOOD;
    }
    if (!is_token(c) || f->n == FRAME_METHOD_MAX) {
        return FRAME_METHOD;
    }
    f->method[f->n++] = c;
    return FRAME_GOOD;
}

/* percent: 0 outside of %xx, 1 before its first digit, 2 before its second, 3 that and the first
 * was 0. %00 would end a C string early in whatever decodes it. */
static bool takes_percent(struct frame *f, char c)
{
    const int hex = hex_of(c);
    if (hex == -1 || (f->percent == 3 && hex == 0)) {
        return false;
    }
    if (f->percent == 1) {
        f->percent = hex == 0 ? 3 : 2;
    } else {
        f->percent = 0;
    }
    return true;
}

/* The origin form only, this is no proxy; and "//" would read as a host. */
static enum frame_fault on_target(struct frame *f, const struct frame_limits *limits, char c)
{
    if (c == ' ' && f->n > 0 && f->percent == 0) {
        enter(f, VERSION);
        return FRAME_GOOD;
    }
    if (f->n == limits->target_max) {
        return FRAME_TARGET_LONG;
    }
    if (c <= ' ' || c > '~' || is_one_of(c, "\\\"<>^`{|}#") ||
        (f->n <= 1 && (c == '/') != (f->n == 0))) {
        return FRAME_TARGET;
    }
    if (f->percent != 0) {
        if (!takes_percent(f, c)) {
            return FRAME_TARGET;
        }
    } else if (c == '%') {
        f->percent = 1;
    }
    f->n++;
    return FRAME_GOOD;
}

static enum frame_fault on_version(struct frame *f, char c)
{
    static const char start[] = "HTTP/1.";
    const unsigned at = f->n++;
    if (at < sizeof(start) - 1) {
        return c == start[at] ? FRAME_GOOD : FRAME_VERSION;
    }
    if (at == sizeof(start) - 1) {
        f->is_1_1 = c == '1';
        return c == '0' || c == '1' ? FRAME_GOOD : FRAME_VERSION;
    }
    if (c != '\r') {
        return c == '\n' ? FRAME_LINE_END : FRAME_VERSION;
    }
    enter(f, LINE_LF);
    return FRAME_GOOD;
}

/* --- headers ---------------------------------------------------------------------------- */

static enum frame_fault on_name(struct frame *f, char c)
{
    static const char *const names[] = {[HOST] = "host",
                                        [LENGTH] = "content-length",
                                        [ENCODING] = "transfer-encoding",
                                        [EXPECT] = "expect"};
    if (c != ':') {
        if (!is_token(c)) {
            return FRAME_HEADER_NAME;
        }
        if (f->n < FRAME_NAME_MAX) {
            f->name[f->n] = c;
        }
        f->n++;
        return FRAME_GOOD;
    }
    f->header = OTHER;
    f->name[f->n <= FRAME_NAME_MAX ? f->n : 0] = '\0';
    for (int i = HOST; i <= EXPECT; i++) {
        if (strcasecmp(f->name, names[i]) == 0) {
            f->header = i;
        }
    }
    enter(f, VALUE);
    return FRAME_GOOD;
}

static enum frame_fault on_header(struct frame *f, const struct frame_limits *limits, char c)
{
    if (c == '\r') {
        enter(f, HEAD_LF);
        return FRAME_GOOD;
    }
    if (c == ' ' || c == '\t') {
        return FRAME_HEADER_FOLDED; /* RFC 9112, 5.2: may be refused, and few read it alike */
    }
    if (c == '\n') {
        return FRAME_LINE_END;
    }
    if (++f->headers > limits->headers_n) {
        return FRAME_HEADERS_LARGE;
    }
    f->headers_bytes++;
    enter(f, NAME);
    return c == ':' ? FRAME_HEADER_NAME : on_name(f, c);
}

static enum frame_fault on_value(struct frame *f, char c)
{
    if (c == '\r') {
        f->step = VALUE_LF; /* n stays */
        return FRAME_GOOD;
    }
    if (is_control(c) && c != '\t') {
        return c == '\n' ? FRAME_LINE_END : FRAME_HEADER_VALUE;
    }
    if (f->header != OTHER && (f->n > 0 || c != ' ')) {
        if (f->n < FRAME_VALUE_MAX) {
            f->value[f->n] = c;
        }
        f->n++;
    }
    return FRAME_GOOD;
}

static enum frame_fault judge_length(struct frame *f)
{
    if (++f->lengths > 1 || f->n < 1 || f->n > LENGTH_DIGITS) {
        return FRAME_LENGTH;
    }
    for (const char *c = f->value; *c != '\0'; c++) {
        if (!is_digit(*c)) {
            return FRAME_LENGTH;
        }
        f->body = f->body * 10 + (size_t)(*c - '0');
    }
    return f->encodings > 0 ? FRAME_ENCODING : FRAME_GOOD;
}

static enum frame_fault judge_host(struct frame *f)
{
    for (const char *c = f->value; *c != '\0'; c++) {
        if (!is_alnum(*c) && !is_one_of(*c, "-._~:[]%!$&'()*+;=")) {
            return FRAME_HOST;
        }
    }
    return ++f->hosts > 1 ? FRAME_HOST : FRAME_GOOD;
}

/* A value that matters, without the blanks around it. Of one that is too long the end is not known,
 * and what is judged would not be what others read. */
static enum frame_fault judge_value(struct frame *f)
{
    if (f->n > FRAME_VALUE_MAX) {
        return FRAME_HEADERS_LARGE;
    }
    while (f->n > 0 && f->value[f->n - 1] == ' ') {
        f->n--;
    }
    f->value[f->n] = '\0';
    switch ((enum header)f->header) {
    case OTHER:
        return FRAME_GOOD;
    case HOST:
        return judge_host(f);
    case LENGTH:
        return judge_length(f);
    case ENCODING:
        return ++f->encodings > 1 || f->lengths > 0 || !f->is_1_1 ||
                       strcasecmp(f->value, "chunked") != 0
                   ? FRAME_ENCODING
                   : FRAME_GOOD;
    case EXPECT:
        f->odd_expectations += strcasecmp(f->value, "100-continue") != 0 ? 1 : 0;
        return FRAME_GOOD;
    }
    return FRAME_GOOD;
}

static enum frame_fault on_value_lf(struct frame *f, char c)
{
    if (c != '\n') {
        return FRAME_LINE_END;
    }
    const enum frame_fault fault = judge_value(f);
    enter(f, HEADER);
    return fault;
}

/* Those of which evhttp reads a body. */
static bool takes_body(const char *method)
{
    static const char *const methods[] = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
        if (strcmp(method, methods[i]) == 0) {
            return true;
        }
    }
    return false;
}

static enum frame_fault on_head_lf(struct frame *f, const struct frame_limits *limits, char c)
{
    if (c != '\n') {
        return FRAME_LINE_END;
    }
    if (f->is_1_1 && f->hosts == 0) {
        return FRAME_HOST;
    }
    if ((f->encodings > 0 || f->body > 0) && !takes_body(f->method)) {
        return FRAME_BODY_NOT_TAKEN;
    }
    if (f->body > limits->body_max) {
        return FRAME_BODY_LARGE;
    }
    if (f->is_1_1 && f->odd_expectations > 0) {
        return FRAME_EXPECT;
    }
    f->left = f->body;
    f->done = f->encodings == 0 && f->body == 0;
    enter(f, f->encodings > 0 ? CHUNK_SIZE : BODY);
    return FRAME_GOOD;
}

/* --- chunks ----------------------------------------------------------------------------- */

static enum frame_fault on_chunk_size(struct frame *f, char c)
{
    const int hex = hex_of(c);
    if (hex == -1 || f->n == CHUNK_DIGITS) {
        if (c != '\r' || f->n == 0) {
            return FRAME_CHUNK; /* an extension, too: nobody here could use one */
        }
        enter(f, CHUNK_SIZE_LF);
        return FRAME_GOOD;
    }
    f->left = f->left * 16 + (size_t)hex;
    f->n++;
    return FRAME_GOOD;
}

static enum frame_fault on_chunk_size_lf(struct frame *f, const struct frame_limits *limits, char c)
{
    if (c != '\n') {
        return FRAME_CHUNK;
    }
    f->body += f->left;
    enter(f, f->left == 0 ? LAST_CR : CHUNK_DATA);
    return f->body > limits->body_max ? FRAME_BODY_LARGE : FRAME_GOOD;
}

static enum frame_fault expect_byte(struct frame *f, char c, char wanted, enum step next,
                                    enum frame_fault fault)
{
    enter(f, next);
    return c == wanted ? FRAME_GOOD : fault;
}

/* --- all of it -------------------------------------------------------------------------- */

static enum frame_fault on_byte(struct frame *f, const struct frame_limits *limits, char c)
{
    switch ((enum step)f->step) {
    case METHOD:
        return on_method(f, c);
    case TARGET:
        return on_target(f, limits, c);
    case VERSION:
        return on_version(f, c);
    case LINE_LF:
        return expect_byte(f, c, '\n', HEADER, FRAME_LINE_END);
    case HEADER:
        return on_header(f, limits, c);
    case NAME:
        return on_name(f, c);
    case VALUE:
        return on_value(f, c);
    case VALUE_LF:
        return on_value_lf(f, c);
    case HEAD_LF:
        return on_head_lf(f, limits, c);
    case CHUNK_SIZE:
        return on_chunk_size(f, c);
    case CHUNK_SIZE_LF:
        return on_chunk_size_lf(f, limits, c);
    case CHUNK_CR:
        return expect_byte(f, c, '\r', CHUNK_LF, FRAME_CHUNK);
    case CHUNK_LF:
        return expect_byte(f, c, '\n', CHUNK_SIZE, FRAME_CHUNK);
    case LAST_CR:
        return expect_byte(f, c, '\r', LAST_LF, FRAME_TRAILER);
    case LAST_LF:
        f->done = c == '\n';
        return f->done ? FRAME_GOOD : FRAME_TRAILER;
    case BODY:
    case CHUNK_DATA:
        break; /* skip() */
    }
    CHECK(false);
    return FRAME_DISAGREED;
}

/* The bytes of a body are not looked at. */
static size_t skip(struct frame *f, size_t len)
{
    const size_t n = f->left < len ? f->left : len;
    f->left -= n;
    if (f->left == 0) {
        f->done = f->step == BODY;
        enter(f, CHUNK_CR);
    }
    return n;
}

size_t frame_feed(struct frame *f, const struct frame_limits *limits, const char *data, size_t len)
{
    CHECK(!f->done && f->fault == FRAME_GOOD);
    size_t at = 0;
    while (at < len && !f->done) {
        if (f->step == BODY || f->step == CHUNK_DATA) {
            at += skip(f, len - at);
            continue;
        }
        if (f->step >= NAME && f->step <= VALUE_LF && ++f->headers_bytes > limits->headers_max) {
            f->fault = FRAME_HEADERS_LARGE;
        } else {
            f->fault = on_byte(f, limits, data[at]);
        }
        if (f->fault != FRAME_GOOD) {
            f->done = false;
            break;
        }
        at++;
    }
    return at;
}
