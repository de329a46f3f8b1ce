/* Encoders of a mail's headers and bodies, and the one judge of addresses. Owner addresses and
 * names come from outsiders: nothing that passes here can begin a header line, an SMTP command, a
 * MIME part or an HTML element. Knows nothing of webhooks; called by mail.c (which says what the
 * mail says), mailer.c (addresses) and smtp.c. */
#include "mime.h"

#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "pgarray.h"

#define LOCAL_MAX  64
#define DOMAIN_MAX 253
#define LABEL_MAX  63
#define QP_LINE    76
#define WORD_BYTES_MAX                                                                             \
    45 /* 60 of base64 and "=?UTF-8?B?" "?=": 72 of the 75 that RFC 2047 allows */
#define US_PER_S  INT64_C(1000000)
#define S_PER_DAY INT64_C(86400)

/* --- addresses -------------------------------------------------------------------------- */

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool local_ok(const char *s, size_t len)
{
    if (len == 0 || len > LOCAL_MAX || s[0] == '.' || s[len - 1] == '.') {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        const bool dot = s[i] == '.' && s[i - 1] != '.'; /* never the first one */
        if (!is_alnum(s[i]) && !dot &&
            (s[i] == '.' || strchr("!#$%&'*+-/=?^_`{|}~", s[i]) == NULL)) {
            return false;
        }
    }
    return true;
}

static bool domain_ok(const char *s)
{
    if (strlen(s) > DOMAIN_MAX) {
        return false;
    }
    for (;;) {
        size_t n = 0;
        while (is_alnum(s[n]) || (s[n] == '-' && n > 0)) {
            n++;
        }
        if (n == 0 || n > LABEL_MAX || s[n - 1] == '-') {
            return false;
        }
        if (s[n] != '.') {
            return s[n] == '\0';
        }
        s += n + 1;
    }
}

bool mime_address_ok(const char *text)
{
    const char *at = strchr(text, '@');
    return at != NULL && strlen(text) <= MIME_ADDRESS_MAX && local_ok(text, (size_t)(at - text)) &&
           domain_ok(at + 1);
}

const char *mime_domain_of(const char *address)
{
    return strchr(address, '@') + 1;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Blanks around the name and one pair of quotes are dropped. False: controls, stray quotes, bad
 * UTF-8 or too long. */
static bool name_ok(const char *s, size_t len, char ret[MIME_NAME_MAX + 1])
{
    while (len > 0 && blank(s[0])) {
        s++, len--;
    }
    while (len > 0 && blank(s[len - 1])) {
        len--;
    }
    if (len >= 2 && s[0] == '"' && s[len - 1] == '"') {
        s++, len -= 2;
    }
    if (len > MIME_NAME_MAX || memchr(s, '"', len) != NULL) {
        return false;
    }
    char cleaned[MIME_NAME_MAX + 1];
    const bool same =
        pgarray_clean_text(s, len, cleaned, sizeof(cleaned)) == len && memcmp(s, cleaned, len) == 0;
    if (same) {
        memcpy(ret, cleaned, len + 1);
    }
    return same;
}

bool mime_mailbox_parse(const char *text, struct mime_mailbox *ret)
{
    struct mime_mailbox box = {.name = ""};
    const char *open = strrchr(text, '<');
    const char *address = open != NULL ? open + 1 : text;
    size_t len = strlen(address);
    if (open != NULL) {
        if (len == 0 || address[len - 1] != '>' ||
            !name_ok(text, (size_t)(open - text), box.name)) {
            return false;
        }
        len--;
    }
    if (len > MIME_ADDRESS_MAX) {
        return false;
    }
    memcpy(box.address, address, len);
    box.address[len] = '\0';
    if (!mime_address_ok(box.address)) {
        return false;
    }
    *ret = box;
    return true;
}

/* --- headers ---------------------------------------------------------------------------- */

static void add_base64(struct buf *out, const unsigned char *s, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < len; i += 3) {
        const size_t n = len - i < 3 ? len - i : 3;
        const unsigned v = (unsigned)s[i] << 16 | (n > 1 ? (unsigned)s[i + 1] << 8 : 0) |
                           (n > 2 ? (unsigned)s[i + 2] : 0);
        char quad[] = {digits[v >> 18], digits[v >> 12 & 63], '=', '='};
        if (n > 1) {
            quad[2] = digits[v >> 6 & 63];
        }
        if (n > 2) {
            quad[3] = digits[v & 63];
        }
        buf_add(out, quad, sizeof(quad));
    }
}

/* Each word holds whole characters: a reader may decode them one by one. */
static void add_encoded_words(struct buf *out, const char *text)
{
    size_t left = strlen(text);
    for (bool first = true; left > 0; first = false) {
        size_t n = left < WORD_BYTES_MAX ? left : WORD_BYTES_MAX;
        while (n < left && n > 1 && ((unsigned char)text[n] & 0xc0) == 0x80) {
            n--;
        }
        buf_add_str(out, first ? "=?UTF-8?B?" : "\r\n =?UTF-8?B?");
        add_base64(out, (const unsigned char *)text, n);
        buf_add_str(out, "?=");
        text += n, left -= n;
    }
}

static bool plain_name(const char *s)
{
    if (strlen(s) > QP_LINE / 2) {
        return false; /* so that no line gets long */
    }
    while (is_alnum(*s) || *s == ' ' || *s == '-') {
        s++;
    }
    return *s == '\0';
}

void mime_add_mailbox(struct buf *out, const struct mime_mailbox *box)
{
    if (box->name[0] == '\0') {
        buf_add_str(out, box->address);
        return;
    }
    if (plain_name(box->name)) {
        buf_add_str(out, box->name);
        buf_add_str(out, " <");
    } else {
        add_encoded_words(out, box->name);
        buf_add_str(out, "\r\n <");
    }
    buf_add_str(out, box->address);
    buf_add_str(out, ">");
}

void mime_add_date(struct buf *out, int64_t wall_us)
{
    static const char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    static const char days[][4] = {"Thu", "Fri", "Sat", "Sun",
                                   "Mon", "Tue", "Wed"}; /* 1970-01-01 */
    char t[CLOCK_RFC3339_SIZE];                          /* 2026-03-15T10:30:00 */
    wall_us = wall_us < 0 ? 0 : wall_us;
    clock_format_rfc3339(wall_us, t);
    const int month = (t[5] - '0') * 10 + t[6] - '0';
    buf_add_fmt(out, "%s, %.2s %s %.4s %.8s +0000", days[wall_us / US_PER_S / S_PER_DAY % 7], t + 8,
                months[month - 1], t, t + 11);
}

/* --- bodies ----------------------------------------------------------------------------- */

/* How a byte may stand at column `at`; `last`: a line end follows. */
static bool literal(unsigned char c, size_t at, bool last)
{
    if (c == ' ' || c == '\t') {
        return !last; /* blanks at the end of a line get lost */
    }
    return c > ' ' && c <= '~' && c != '=' &&
           (c != '.' || at > 0); /* no line is "." alone, whatever carries it */
}

void mime_add_quoted_printable(struct buf *out, const char *text, size_t len)
{
    size_t column = 0;
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c == '\n') {
            buf_add_str(out, "\r\n");
            column = 0;
            continue;
        }
        const bool last = i + 1 == len || text[i + 1] == '\n';
        const size_t width = literal(c, column, last) ? 1 : 3;
        if (column + width > QP_LINE - (last ? 0 : 1)) { /* one column is for the "=" */
            buf_add_str(out, "=\r\n");
            column = 0;
        }
        if (literal(c, column, last)) {
            buf_add(out, &c, 1);
            column++;
        } else {
            buf_add_fmt(out, "=%02X", c);
            column += 3;
        }
    }
    if (column > 0) {
        buf_add_str(out, "\r\n");
    }
}

void mime_add_html(struct buf *out, const char *text)
{
    for (;;) {
        const size_t plain = strcspn(text, "&<>\"'");
        buf_add(out, text, plain);
        text += plain;
        switch (*text++) {
        case '\0':
            return;
        case '&':
            buf_add_str(out, "&amp;");
            break;
        case '<':
            buf_add_str(out, "&lt;");
            break;
        case '>':
            buf_add_str(out, "&gt;");
            break;
        case '"':
            buf_add_str(out, "&quot;");
            break;
        default:
            buf_add_str(out, "&#39;");
            break;
        }
    }
}
