/* Owns the grammar of plain JSON (RFC 8259) and nothing else: keeps no memory, makes no tree,
 * decodes no escape. Whatever is unusual - escapes in names, lone surrogates, many members, deep
 * nesting, huge numbers - makes it give up, because being right about them is jansson's business.
 * envelope.c calls it; the unit test and the fuzz target hold it against jansson. */
#include "json_scan.h"

#include <stdint.h>
#include <string.h>

#include "utf8.h"

#define DEPTH_MAX    32
#define NAMES_MAX    128 /* of all objects that are open at one time  */
#define DIGITS_MAX   200 /* with two digits of exponent: below 1e300  */
#define EXPONENT_MAX 2

struct name {
    const char *p;
    size_t len;
};

struct scan {
    const char *at;
    const char *end;
    unsigned depth;
    size_t n_names;
    struct name names[NAMES_MAX];
};

static bool value(struct scan *s, struct json_member *ret);

static char peek(const struct scan *s)
{
    if (s->at < s->end) {
        return *s->at;
    }
    return '\0'; /* a NUL is wrong wherever this is asked */
}

static void skip_blanks(struct scan *s)
{
    while (s->at < s->end &&
           (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r')) {
        s->at++;
    }
}

static bool take(struct scan *s, char c)
{
    skip_blanks(s);
    if (peek(s) != c) {
        return false;
    }
    s->at++;
    return true;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Behind the backslash. */
static bool escape(struct scan *s)
{
    const char c = peek(s);
    if (c == '\0' || strchr("\"\\/bfnrtu", c) == NULL) {
        return false;
    }
    s->at++;
    if (c != 'u') {
        return true;
    }
    if (s->end - s->at < 4 || *s->at == 'd' || *s->at == 'D') { /* perhaps a surrogate */
        return false;
    }
    for (int i = 0; i < 4; i++) {
        if (!is_hex(*s->at++)) {
            return false;
        }
    }
    return true;
}

/* Behind the opening quote. */
static bool string(struct scan *s, struct name *ret, bool *ret_escaped)
{
    ret->p = s->at;
    *ret_escaped = false;
    while (s->at < s->end) {
        const unsigned char c = (unsigned char)*s->at;
        bool ok = c >= 0x20;
        if (c == '"') {
            ret->len = (size_t)(s->at++ - ret->p);
            return true;
        }
        if (c == '\\') {
            s->at++;
            *ret_escaped = true;
            ok = escape(s);
        } else if (c >= 0x80) {
            s->at += utf8_sequence(s->at, (size_t)(s->end - s->at), &ok);
        } else {
            s->at++;
        }
        if (!ok) {
            return false;
        }
    }
    return false;
}

static size_t digits(struct scan *s)
{
    const char *from = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9') {
        s->at++;
    }
    return (size_t)(s->at - from);
}

static bool number(struct scan *s)
{
    s->at += *s->at == '-';
    const bool zero = peek(s) == '0';
    const size_t whole = digits(s);
    if (whole == 0 || whole > DIGITS_MAX || (zero && whole > 1)) {
        return false;
    }
    if (peek(s) == '.') {
        s->at++;
        if (digits(s) == 0) {
            return false;
        }
    }
    if (peek(s) != 'e' && peek(s) != 'E') {
        return true;
    }
    s->at++;
    s->at += peek(s) == '+' || peek(s) == '-';
    const size_t n = digits(s);
    return n > 0 && n <= EXPONENT_MAX;
}

static bool word(struct scan *s, const char *text)
{
    const size_t len = strlen(text);
    if ((size_t)(s->end - s->at) < len || memcmp(s->at, text, len) != 0) {
        return false;
    }
    s->at += len;
    return true;
}

/* Behind the opening bracket. */
static bool array(struct scan *s)
{
    struct json_member ignored;
    if (take(s, ']')) {
        return true;
    }
    do {
        if (!value(s, &ignored)) {
            return false;
        }
    } while (take(s, ','));
    return take(s, ']');
}

/* The name of a member, different from those of its object, which begin at `first`. */
static bool new_name(struct scan *s, size_t first, struct json_member *ret)
{
    struct name name;
    bool escaped = false;
    if (!take(s, '"') || !string(s, &name, &escaped) || escaped || s->n_names == NAMES_MAX) {
        return false;
    }
    for (size_t i = first; i < s->n_names; i++) {
        if (s->names[i].len == name.len && memcmp(s->names[i].p, name.p, name.len) == 0) {
            return false;
        }
    }
    s->names[s->n_names++] = name;
    ret->name = name.p;
    ret->name_len = name.len;
    return true;
}

/* Behind the opening brace. members NULL: nobody wants them. */
static bool object(struct scan *s, struct json_member *members, size_t *ret_n)
{
    const size_t first = s->n_names;
    size_t n = 0;
    if (take(s, '}')) {
        *ret_n = 0;
        return true;
    }
    do {
        struct json_member one;
        if ((members != NULL && n == JSON_SCAN_MEMBERS) || !new_name(s, first, &one) ||
            !take(s, ':') || !value(s, &one)) {
            return false;
        }
        if (members != NULL) {
            members[n++] = one;
        }
    } while (take(s, ','));
    s->n_names = first;
    *ret_n = n;
    return take(s, '}');
}

static bool string_value(struct scan *s, struct json_member *ret)
{
    struct name text;
    bool escaped = false;
    if (!string(s, &text, &escaped)) {
        return false;
    }
    if (!escaped) {
        ret->kind = JSON_SCAN_STRING;
        ret->value = text.p;
        ret->value_len = text.len;
    }
    return true;
}

static bool container(struct scan *s, char opening, struct json_member *ret)
{
    size_t ignored = 0;
    if (++s->depth > DEPTH_MAX) {
        return false;
    }
    ret->kind = opening == '{' ? JSON_SCAN_OBJECT : JSON_SCAN_OTHER;
    const bool ok = opening == '{' ? object(s, NULL, &ignored) : array(s);
    s->depth--;
    return ok;
}

static bool value(struct scan *s, struct json_member *ret)
{
    skip_blanks(s);
    const char c = peek(s);
    ret->kind = JSON_SCAN_OTHER;
    ret->value = NULL;
    ret->value_len = 0;
    switch (c) {
    case '"':
        s->at++;
        return string_value(s, ret);
    case '{':
    case '[':
        s->at++;
        return container(s, c, ret);
    case 't':
        return word(s, "true");
    case 'f':
        return word(s, "false");
    case 'n':
        return word(s, "null");
    default:
        return (c == '-' || (c >= '0' && c <= '9')) && number(s);
    }
}

bool json_scan(const char *text, size_t len, struct json_member members[JSON_SCAN_MEMBERS],
               size_t *ret_n)
{
    struct scan s; /* the names are written before they are read */
    s.at = text;
    s.end = text + len;
    s.depth = 0;
    s.n_names = 0;
    if (!take(&s, '{') || !object(&s, members, ret_n)) {
        return false;
    }
    skip_blanks(&s);
    return s.at == s.end;
}
