/* The wording of the three mails and their assembly. The facts become one `struct content` (title,
 * table, numbered steps), which is written twice: as plain text and as HTML. Everything from
 * outside passes pgarray_clean_text() on its way into the content and mime_add_html() or
 * quoted-printable on its way out. Sends nothing, reads no clock; called by mailer.c. */
#include "mail.h"

#include <stdio.h>
#include <string.h>

#include "bounds.h"
#include "check.h"
#include "clock.h"
#include "pgarray.h"

#define VALUE_MAX      260
#define PARAGRAPH_MAX  600
#define URL_SHOWN      200
#define HOST_SHOWN     48 /* of the subject's 78 characters */
#define ROWS_MAX       8
#define STEPS_MAX      3
#define BODY_MAX       32768u
#define TEXT_WIDTH     72u
#define LABEL_WIDTH    15
#define DISABLED_AFTER "5 days"

struct row {
    const char *label;
    char value[VALUE_MAX];
};

struct content {
    char subject[79];
    char title[64];
    char intro[PARAGRAPH_MAX];
    char news[PARAGRAPH_MAX]; /* "" = none */
    struct row rows[ROWS_MAX];
    unsigned rows_n;
    const char *steps[STEPS_MAX];
    unsigned steps_n;
    char next[PARAGRAPH_MAX];
    const char *link;
};

/* --- single values ---------------------------------------------------------------------- */

static void clean(char *out, size_t size, const char *text)
{
    (void)pgarray_clean_text(text, strlen(text), out, size);
}

/* Without user info, query and fragment; what is not printable ASCII cannot come from a registered
 * URL and is shown as '?'. */
static void show_url(const char *url, char out[URL_SHOWN + 4])
{
    const size_t len = strcspn(url, "?#");
    const char *authority = strstr(url, "://");
    size_t from = 0;
    size_t n = 0;
    if (authority != NULL && (size_t)(authority - url) < len) {
        const size_t start = (size_t)(authority - url) + 3;
        const size_t end = start + strcspn(url + start, "/?#");
        for (; n < start && n < URL_SHOWN; n++) {
            out[n] = url[n];
        }
        from = start;
        for (size_t i = start; i < end; i++) {
            from = url[i] == '@' ? i + 1 : from;
        }
    }
    for (; from < len && n < URL_SHOWN; from++) {
        out[n++] = url[from];
    }
    for (size_t i = 0; i < n; i++) {
        if (out[i] <= ' ' || out[i] > '~') {
            out[i] = '?';
        }
    }
    memcpy(out + n, from < len ? "..." : "", from < len ? 4 : 1);
}

/* For the subject. The end of a long name says more than its beginning. */
static void show_host(const char *shown_url, char out[HOST_SHOWN + 1])
{
    const char *scheme = strstr(shown_url, "://");
    const char *host = scheme != NULL ? scheme + 3 : shown_url;
    const size_t len = strcspn(host, "/");
    if (len <= HOST_SHOWN) {
        memcpy(out, host, len);
        out[len] = '\0';
        return;
    }
    const size_t kept = HOST_SHOWN - 3;
    (void)snprintf(out, HOST_SHOWN + 1, "...%.*s", (int)kept, host + len - kept);
}

static void show_time(int64_t wall_us, char out[VALUE_MAX])
{
    static const char *const months[] = {"January",   "February", "March",    "April",
                                         "May",       "June",     "July",     "August",
                                         "September", "October",  "November", "December"};
    char t[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(wall_us, t);
    const int month = (t[5] - '0') * 10 + t[6] - '0';
    const char *day = t[8] == '0' ? t + 9 : t + 8;
    (void)snprintf(out, VALUE_MAX, "%.*s %s %.4s, %.5s UTC", (int)(t + 10 - day), day,
                   months[month - 1], t, t + 11);
}

static const char *reason_phrase(int status)
{
    static const struct {
        int status;
        const char *phrase;
    } known[] = {
        {301, "Moved Permanently"},
        {302, "Found"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {410, "Gone"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {500, "Internal Server Error"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        if (known[i].status == status) {
            return known[i].phrase;
        }
    }
    return "";
}

static void show_answer(const struct mail_facts *facts, char out[VALUE_MAX])
{
    char error[LIMIT_ERROR_TEXT + 1];
    if (facts->status_code > 0) {
        const char *phrase = reason_phrase(facts->status_code);
        (void)snprintf(out, VALUE_MAX, "%d%s%s", facts->status_code, phrase[0] != '\0' ? " " : "",
                       phrase);
        return;
    }
    clean(error, sizeof(error), facts->error);
    (void)snprintf(out, VALUE_MAX, "none%s%s", error[0] != '\0' ? ": " : "", error);
}

/* What a person should look at first, by what the endpoint answered. */
static const char *first_step(int status)
{
    static const struct {
        int from, to;
        const char *step;
    } steps[] = {
        {0, 0,
         "Check that the endpoint is running and can be reached from NetRecon: name, network, "
         "firewall and certificate."},
        {300, 399,
         "The endpoint redirects, and redirects are not followed: enter its final address in the "
         "settings."},
        {401, 401,
         "The endpoint asks for a login: let it accept requests that carry NetRecon's signature."},
        {403, 403,
         "The endpoint forbids the request: look for a firewall or a login in front of it."},
        {404, 405,
         "The endpoint does not take POST requests at this address: check the path in the "
         "settings."},
        {410, 410, "Check whether the address in the settings is still the right one."},
        {413, 413, "The endpoint finds the events too large: let it accept bodies of 256 KiB."},
        {429, 429, "The endpoint says that it gets too many requests: raise its limit."},
        {400, 499, "The endpoint rejects the events: look into its log to see why."},
        {500, 599, "The endpoint has an error of its own: look into its log."},
        {200, 299, "The endpoint's answer was not complete: look into its log."},
    };
    for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
        if (status >= steps[i].from && status <= steps[i].to) {
            return steps[i].step;
        }
    }
    return "The endpoint's answer is not one that HTTP knows: look into its log.";
}

/* "1 delivery…", "1,204 deliveries…"; n may end at MAIL_COUNT_MAX + 1. */
static void show_count(int64_t n, bool more, const char *tail, char out[VALUE_MAX])
{
    const bool capped = n > MAIL_COUNT_MAX;
    const int shown = capped ? MAIL_COUNT_MAX : (int)n;
    const char *about = more ? "at least " : "";
    about = capped ? "more than " : about;
    const char *noun = shown == 1 ? "delivery" : "deliveries";
    if (shown >= 1000) {
        (void)snprintf(out, VALUE_MAX, "%s%d,%03d %s%s", about, shown / 1000, shown % 1000, noun,
                       tail);
    } else {
        (void)snprintf(out, VALUE_MAX, "%s%d %s%s", about, shown, noun, tail);
    }
}

/* --- content ---------------------------------------------------------------------------- */

static char *add_row(struct content *c, const char *label)
{
    struct row *row = &c->rows[c->rows_n++];
    row->label = label;
    row->value[0] = '\0';
    return row->value;
}

static void fill_counts(struct content *c, const struct mail_facts *facts)
{
    if (facts->kind == MAIL_FAILING) {
        show_count(facts->waiting, false, facts->waiting > 0 ? ", to be tried again" : "",
                   add_row(c, "Waiting"));
    }
    if (facts->exhausted > 0) {
        show_count(facts->exhausted, facts->exhausted_more, " in the last 24 hours",
                   add_row(c, "Given up"));
    }
}

static void fill_rows(struct content *c, const struct mail_facts *facts, const char *url)
{
    clean(add_row(c, "Account"), VALUE_MAX, facts->tenant_name);
    (void)snprintf(add_row(c, "Webhook"), VALUE_MAX, "%s", url);
    clean(add_row(c, "Webhook ID"), VALUE_MAX, facts->webhook_id);
    if (facts->failing_us > 0) {
        show_time(facts->failing_us, add_row(c, "Failing since"));
    }
    if (facts->kind != MAIL_FAILING) {
        show_time(facts->disabled_us, add_row(c, "Disabled"));
    }
    show_answer(facts, add_row(c, "Last answer"));
    fill_counts(c, facts);
}

static void fill_failing(struct content *c, const char *host)
{
    (void)snprintf(c->subject, sizeof(c->subject), "Webhook to %s is failing", host);
    (void)snprintf(c->title, sizeof(c->title), "Your webhook is failing");
    (void)snprintf(
        c->intro, sizeof(c->intro),
        "NetRecon could not deliver an event to your endpoint in %d attempts and has marked the "
        "webhook as failing.",
        LIMIT_ATTEMPTS);
    c->steps[c->steps_n++] =
        "Let the endpoint answer with a 2xx status, then send a test from the webhook's settings.";
    c->steps[c->steps_n++] = "Replay the deliveries that were given up.";
    (void)snprintf(c->next, sizeof(c->next),
                   "NetRecon keeps sending. The first success makes the webhook active again, "
                   "without any action "
                   "of yours. After " DISABLED_AFTER
                   " without a success it will be disabled, and we will write to "
                   "you once more.");
}

static void fill_disabled(struct content *c, const char *host, bool gone)
{
    (void)snprintf(c->subject, sizeof(c->subject), "Webhook to %s has been disabled", host);
    (void)snprintf(c->title, sizeof(c->title), "Your webhook has been disabled");
    (void)snprintf(
        c->intro, sizeof(c->intro), "%s",
        gone ? "Your endpoint answered 410 Gone, which asks senders to stop. NetRecon has "
               "disabled the webhook. If that is what you want, there is nothing to do."
             : "NetRecon could not deliver anything to your endpoint for " DISABLED_AFTER
               " and has disabled the webhook.");
    c->steps[c->steps_n++] = "Make the webhook active again in its settings and send a test.";
    c->steps[c->steps_n++] =
        "Replay what was missed. Events are kept for a limited time: please do not wait long.";
    (void)snprintf(
        c->next, sizeof(c->next),
        "Nothing is sent to this endpoint until you make the webhook active again. Your other "
        "webhooks are not affected.");
}

static void fill(struct content *c, const struct mail_facts *facts)
{
    char url[URL_SHOWN + 4];
    char host[HOST_SHOWN + 1];
    memset(c, 0, sizeof(*c));
    show_url(facts->url, url);
    show_host(url, host);
    fill_rows(c, facts, url);
    c->steps[c->steps_n++] = first_step(facts->status_code);
    if (facts->kind == MAIL_FAILING) {
        fill_failing(c, host);
    } else {
        fill_disabled(c, host, facts->kind == MAIL_GONE);
    }
    if (facts->recovered) {
        (void)snprintf(c->news, sizeof(c->news),
                       "Meanwhile the webhook is active again. What follows is how it was before.");
    }
    c->link = facts->link;
}

/* --- plain text ------------------------------------------------------------------------- */

/* Words in lines of at most TEXT_WIDTH, the further lines indented; a longer word gets a line of
 * its own. */
static void add_wrapped(struct buf *b, const char *text, const char *first, size_t indent)
{
    buf_add_str(b, first);
    size_t column = strlen(first);
    bool start = true;
    while (*text != '\0') {
        const size_t n = strcspn(text, " ");
        if (!start && column + 1 + n > TEXT_WIDTH) {
            buf_add_fmt(b, "\n%*s", (int)indent, "");
            column = indent;
        } else if (!start) {
            buf_add_str(b, " ");
            column++;
        }
        buf_add(b, text, n);
        column += n, text += n;
        text += *text == ' ';
        start = false;
    }
    buf_add_str(b, "\n");
}

static void write_text(const struct content *c, struct buf *b)
{
    add_wrapped(b, c->title, "", 0);
    buf_add_str(b, "\n");
    if (c->news[0] != '\0') {
        add_wrapped(b, c->news, "", 0);
        buf_add_str(b, "\n");
    }
    add_wrapped(b, c->intro, "", 0);
    buf_add_str(b, "\n");
    for (unsigned i = 0; i < c->rows_n; i++) {
        char label[LABEL_WIDTH + 3];
        (void)snprintf(label, sizeof(label), "  %-*s", LABEL_WIDTH, c->rows[i].label);
        add_wrapped(b, c->rows[i].value, label, LABEL_WIDTH + 2);
    }
    buf_add_str(b, "\nWhat to do now\n");
    for (unsigned i = 0; i < c->steps_n; i++) {
        char number[16];
        (void)snprintf(number, sizeof(number), "  %u. ", i + 1);
        add_wrapped(b, c->steps[i], number, strlen(number));
    }
    if (c->link[0] != '\0') {
        buf_add_fmt(b, "\nSettings of this webhook:\n%s\n", c->link);
    } else {
        buf_add_str(b,
                    "\nThe settings are in NetRecon under Settings > Integrations > Webhooks.\n");
    }
    buf_add_str(b, "\nWhat happens next\n");
    add_wrapped(b, c->next, "  ", 2);
    buf_add_str(
        b, "\n-- \nNetRecon Webhooks. This mail was sent automatically to the account's owner.\n");
}

/* --- HTML ------------------------------------------------------------------------------- */

#define FONT "font-family:-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"

static void add_element(struct buf *b, const char *open, const char *text, const char *close)
{
    buf_add_str(b, open);
    mime_add_html(b, text);
    buf_add_str(b, close);
}

static void write_html_link(const struct content *c, struct buf *b)
{
    if (c->link[0] == '\0') {
        buf_add_str(b, "<p>The settings are in NetRecon under Settings &gt; Integrations &gt; "
                       "Webhooks.</p>\n");
        return;
    }
    add_element(
        b, "<p style=\"margin:24px 0\"><a href=\"", c->link,
        "\"\nstyle=\"background:#1a5fb4;color:#ffffff;text-decoration:none;padding:10px 18px;"
        "border-radius:6px;display:inline-block\">Open the webhook's settings</a></p>\n");
}

static void write_html(const struct content *c, struct buf *b)
{
    buf_add_str(b, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                   "<meta name=\"viewport\" content=\"width=device-width\">\n");
    add_element(b, "<title>", c->title, "</title>\n</head>\n");
    buf_add_str(b,
                "<body style=\"margin:0;padding:24px;background:#f4f5f7;color:#1f2328;" FONT
                ";font-size:15px;line-height:1.5\">\n"
                "<div style=\"max-width:600px;margin:0 auto;padding:24px 28px;background:#ffffff;"
                "border:1px solid #d9dce1;border-radius:8px\">\n");
    add_element(b, "<h1 style=\"margin:0 0 16px;font-size:20px\">", c->title, "</h1>\n");
    if (c->news[0] != '\0') {
        add_element(b, "<p style=\"padding:10px 14px;background:#e6f4ea;border-radius:6px\">",
                    c->news, "</p>\n");
    }
    add_element(b, "<p>", c->intro, "</p>\n");
    buf_add_str(
        b,
        "<table role=\"presentation\" cellpadding=\"0\" cellspacing=\"0\" style=\"width:100%\">\n");
    for (unsigned i = 0; i < c->rows_n; i++) {
        add_element(b,
                    "<tr><td style=\"padding:4px 16px 4px "
                    "0;color:#656d76;white-space:nowrap;vertical-align:top\">",
                    c->rows[i].label, "</td>\n");
        add_element(b, "<td style=\"padding:4px 0;width:100%;word-break:break-word\">",
                    c->rows[i].value, "</td></tr>\n");
    }
    buf_add_str(b, "</table>\n<h2 style=\"margin:24px 0 8px;font-size:16px\">What to do now</h2>\n"
                   "<ol style=\"margin:0;padding-left:22px\">\n");
    for (unsigned i = 0; i < c->steps_n; i++) {
        add_element(b, "<li>", c->steps[i], "</li>\n");
    }
    buf_add_str(b, "</ol>\n");
    write_html_link(c, b);
    add_element(b, "<h2 style=\"margin:24px 0 8px;font-size:16px\">What happens next</h2>\n<p>",
                c->next, "</p>\n");
    buf_add_str(b, "<p style=\"margin:24px 0 0;color:#656d76;font-size:13px\">NetRecon Webhooks. "
                   "This mail was sent "
                   "automatically to the account's owner.</p>\n</div>\n</body>\n</html>\n");
}

/* --- the message ------------------------------------------------------------------------ */

static void add_part(struct buf *out, const char *message_id, const char *type,
                     void (*write)(const struct content *c, struct buf *b), const struct content *c)
{
    struct buf body;
    buf_init(&body, BODY_MAX);
    write(c, &body);
    buf_add_fmt(out, "--=_%.36s\r\nContent-Type: %s; charset=utf-8\r\n", message_id, type);
    buf_add_str(out, "Content-Transfer-Encoding: quoted-printable\r\n\r\n");
    CHECK(buf_ok(&body)); /* every value is cut before it gets here */
    mime_add_quoted_printable(out, body.data, body.len);
    buf_done(&body);
}

void mail_render(const struct mail_facts *facts, const struct mime_mailbox *from, const char *to,
                 const char *message_id, int64_t now_us, struct buf *out)
{
    struct content c;
    fill(&c, facts);
    buf_add_str(out, "From: ");
    mime_add_mailbox(out, from);
    buf_add_fmt(out, "\r\nTo: %s\r\nSubject: %s\r\nDate: ", to, c.subject);
    mime_add_date(out, now_us);
    buf_add_fmt(out,
                "\r\nMessage-ID: <%s>\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n",
                message_id);
    buf_add_fmt(out, "Content-Type: multipart/alternative; boundary=\"=_%.36s\"\r\n\r\n",
                message_id);
    add_part(out, message_id, "text/plain", write_text, &c);
    add_part(out, message_id, "text/html", write_html, &c);
    buf_add_fmt(out, "--=_%.36s--\r\n", message_id);
}
