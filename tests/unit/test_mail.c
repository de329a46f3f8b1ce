/* worker/mail.c and mime.c: what the mails say, word for word, and that no data of an outsider can
 * be more than data. */
#include "mail.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

#define COUNT(a)   (sizeof(a) / sizeof(*(a)))
#define MESSAGE_ID "0b0e3b4e-7c51-4a56-9a4c-0d2a3b4c5d6e@netrecon.example"
#define BOUNDARY   "=_0b0e3b4e-7c51-4a56-9a4c-0d2a3b4c5d6e"
#define LINK                                                                                       \
    "https://console.example.com/settings/integrations/webhooks/"                                  \
    "6f1d2c3b-1111-4222-8333-444455556666"

static int64_t at(const char *text)
{
    int64_t us = 0;
    assert_true(clock_parse_rfc3339(text, strlen(text), &us));
    return us;
}

static struct mail_facts usual(void)
{
    return (struct mail_facts){
        .kind = MAIL_FAILING,
        .url = "https://hooks.example.com/netrecon?token=hunter2",
        .webhook_id = "6f1d2c3b-1111-4222-8333-444455556666",
        .tenant_name = "M\xc3\xbcller & S\xc3\xb6hne GmbH",
        .failing_us = at("2026-03-05T10:30:00Z"),
        .disabled_us = at("2026-03-10T10:31:59Z"),
        .status_code = 503,
        .error = "",
        .waiting = 204,
        .exhausted = 17,
        .link = LINK,
    };
}

static char message[MAIL_BYTES_MAX + 1];

static const char *render(const struct mail_facts *facts)
{
    struct mime_mailbox from;
    struct buf out;
    assert_true(mime_mailbox_parse("NetRecon <noreply@netrecon.example>", &from));
    buf_init(&out, MAIL_BYTES_MAX);
    mail_render(facts, &from, "owner@example.com", MESSAGE_ID, at("2026-03-15T10:31:00Z"), &out);
    assert_true(buf_ok(&out));
    memcpy(message, buf_cstr(&out), out.len + 1);
    assert_int_equal(out.len, strlen(message)); /* no NUL */
    buf_done(&out);
    return message;
}

static int hex(char c)
{
    assert_true((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'));
    return c <= '9' ? c - '0' : c - 'A' + 10;
}

/* The part of that type, decoded, with '\n' ends of line. */
static const char *part(const char *type)
{
    static char text[MAIL_BYTES_MAX];
    char head[100];
    (void)snprintf(
        head, sizeof(head),
        "Content-Type: %s; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
        type);
    const char *p = strstr(message, head);
    assert_non_null(p);
    p += strlen(head);
    const char *stop = strstr(p, "--" BOUNDARY);
    assert_non_null(stop);
    size_t n = 0;
    while (p < stop) {
        if (strncmp(p, "=\r\n", 3) == 0) {
            p += 3;
        } else if (*p == '=') {
            text[n++] = (char)(hex(p[1]) << 4 | hex(p[2]));
            p += 3;
        } else if (*p == '\r') {
            p++;
        } else {
            text[n++] = *p++;
        }
    }
    text[n] = '\0';
    return text;
}

/* What RFC 5322 and 2045 ask of every message. */
static void check_form(void)
{
    const char *p = message;
    bool body = false;
    while (*p != '\0') {
        const char *cr = strchr(p, '\r');
        assert_non_null(cr);
        assert_int_equal('\n', cr[1]);
        const size_t len = (size_t)(cr - p);
        assert_null(memchr(p, '\n', len));
        assert_true(len <= (body ? 76u : 320u));
        assert_false(len == 1 && *p == '.');
        for (size_t i = 0; i < len; i++) {
            assert_true((p[i] >= ' ' && p[i] <= '~') || p[i] == '\t');
        }
        assert_true(len == 0 || p[len - 1] != ' '); /* blanks at the end get lost */
        body = body || len == 0;
        p = cr + 2;
    }
    const char *subject = strstr(message, "\r\nSubject: ");
    assert_non_null(subject);
    assert_true(strcspn(subject + 11, "\r") < 78);
    assert_null(strstr(strstr(subject, "\r\n\r\n"), "\r\nSubject: "));
}

/* --- golden ----------------------------------------------------------------------------- */

static void test_the_headers_are_these(void **state)
{
    (void)state;
    const struct mail_facts facts = usual();
    static const char golden[] =
        "From: NetRecon <noreply@netrecon.example>\r\n"
        "To: owner@example.com\r\n"
        "Subject: Webhook to hooks.example.com is failing\r\n"
        "Date: Sun, 15 Mar 2026 10:31:00 +0000\r\n"
        "Message-ID: <" MESSAGE_ID ">\r\n"
        "Auto-Submitted: auto-generated\r\n"
        "MIME-Version: 1.0\r\n"
        "Content-Type: multipart/alternative; boundary=\"" BOUNDARY "\"\r\n"
        "\r\n"
        "--" BOUNDARY "\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n"
        "\r\n"
        "Your webhook is failing\r\n";
    assert_int_equal(0, strncmp(render(&facts), golden, strlen(golden)));
    const char *end = message + strlen(message) - strlen("</html>\r\n--" BOUNDARY "--\r\n");
    assert_string_equal("</html>\r\n--" BOUNDARY "--\r\n", end);
    check_form();
}

static void test_the_failing_mail_reads_like_this(void **state)
{
    (void)state;
    const struct mail_facts facts = usual();
    (void)render(&facts);
    assert_string_equal(
        "Your webhook is failing\n"
        "\n"
        "NetRecon could not deliver an event to your endpoint in 5 attempts and\n"
        "has marked the webhook as failing.\n"
        "\n"
        "  Account        M\xc3\xbcller & S\xc3\xb6hne GmbH\n"
        "  Webhook        https://hooks.example.com/netrecon\n"
        "  Webhook ID     6f1d2c3b-1111-4222-8333-444455556666\n"
        "  Failing since  5 March 2026, 10:30 UTC\n"
        "  Last answer    503 Service Unavailable\n"
        "  Waiting        204 deliveries, to be tried again\n"
        "  Given up       17 deliveries in the last 24 hours\n"
        "\n"
        "What to do now\n"
        "  1. The endpoint has an error of its own: look into its log.\n"
        "  2. Let the endpoint answer with a 2xx status, then send a test from\n"
        "     the webhook's settings.\n"
        "  3. Replay the deliveries that were given up.\n"
        "\n"
        "Settings of this webhook:\n" LINK "\n"
        "\n"
        "What happens next\n"
        "  NetRecon keeps sending. The first success makes the webhook active\n"
        "  again, without any action of yours. After 5 days without a success it\n"
        "  will be disabled, and we will write to you once more.\n"
        "\n"
        "-- \n"
        "NetRecon Webhooks. This mail was sent automatically to the account's owner.\n",
        part("text/plain"));
}

static void test_the_disabled_mail_reads_like_this(void **state)
{
    (void)state;
    struct mail_facts facts = usual();
    facts.kind = MAIL_DISABLED;
    facts.status_code = 0;
    facts.error = "connection refused";
    facts.exhausted = 1000;
    facts.exhausted_more = true;
    facts.link = "";
    assert_non_null(
        strstr(render(&facts), "Subject: Webhook to hooks.example.com has been disabled\r\n"));
    assert_string_equal(
        "Your webhook has been disabled\n"
        "\n"
        "NetRecon could not deliver anything to your endpoint for 5 days and has\n"
        "disabled the webhook.\n"
        "\n"
        "  Account        M\xc3\xbcller & S\xc3\xb6hne GmbH\n"
        "  Webhook        https://hooks.example.com/netrecon\n"
        "  Webhook ID     6f1d2c3b-1111-4222-8333-444455556666\n"
        "  Failing since  5 March 2026, 10:30 UTC\n"
        "  Disabled       10 March 2026, 10:31 UTC\n"
        "  Last answer    none: connection refused\n"
        "  Given up       at least 1,000 deliveries in the last 24 hours\n"
        "\n"
        "What to do now\n"
        "  1. Check that the endpoint is running and can be reached from\n"
        "     NetRecon: name, network, firewall and certificate.\n"
        "  2. Make the webhook active again in its settings and send a test.\n"
        "  3. Replay what was missed. Events are kept for a limited time: please\n"
        "     do not wait long.\n"
        "\n"
        "The settings are in NetRecon under Settings > Integrations > Webhooks.\n"
        "\n"
        "What happens next\n"
        "  Nothing is sent to this endpoint until you make the webhook active\n"
        "  again. Your other webhooks are not affected.\n"
        "\n"
        "-- \n"
        "NetRecon Webhooks. This mail was sent automatically to the account's owner.\n",
        part("text/plain"));
    check_form();
    assert_null(strstr(part("text/html"), "<a "));
}

static void test_the_gone_mail_reads_like_this(void **state)
{
    (void)state;
    struct mail_facts facts = usual();
    facts.kind = MAIL_GONE;
    facts.status_code = 410;
    facts.failing_us = 0;
    facts.exhausted = 0;
    facts.recovered = true;
    (void)render(&facts);
    static const char golden[] =
        "Your webhook has been disabled\n"
        "\n"
        "Meanwhile the webhook is active again. What follows is how it was\n"
        "before.\n"
        "\n"
        "Your endpoint answered 410 Gone, which asks senders to stop. NetRecon\n"
        "has disabled the webhook. If that is what you want, there is nothing to\n"
        "do.\n"
        "\n"
        "  Account        M\xc3\xbcller & S\xc3\xb6hne GmbH\n"
        "  Webhook        https://hooks.example.com/netrecon\n"
        "  Webhook ID     6f1d2c3b-1111-4222-8333-444455556666\n"
        "  Disabled       10 March 2026, 10:31 UTC\n"
        "  Last answer    410 Gone\n"
        "\n"
        "What to do now\n"
        "  1. Check whether the address in the settings is still the right one.\n";
    assert_int_equal(0, strncmp(golden, part("text/plain"), strlen(golden)));
}

static void test_the_html_part_says_the_same(void **state)
{
    (void)state;
    const struct mail_facts facts = usual();
    (void)render(&facts);
    const char *html = part("text/html");
    assert_int_equal(0, strncmp(html, "<!DOCTYPE html>\n<html lang=\"en\">\n", 32));
    static const char html_link[] = "<a href=\"" LINK "\"";
    const char *const needed[] = {
        ">Your webhook is failing</h1>",
        ">M\xc3\xbcller &amp; S\xc3\xb6hne GmbH</td>",
        ">https://hooks.example.com/netrecon</td>",
        ">5 March 2026, 10:30 UTC</td>",
        ">503 Service Unavailable</td>",
        ">204 deliveries, to be tried again</td>",
        "<li>The endpoint has an error of its own: look into its log.</li>",
        html_link,
        "<p>NetRecon keeps sending. The first success",
    };
    for (size_t i = 0; i < COUNT(needed); i++) {
        if (strstr(html, needed[i]) == NULL) {
            fail_msg("missing: %s in\n%s", needed[i], html);
        }
    }
    assert_null(strstr(html, "<img"));
    assert_null(strstr(html, "<script"));
    assert_null(strstr(message, "hunter2"));
}

static const struct people_row {
    int64_t waiting, exhausted;
    bool more;
    int status;
    const char *error;
    const char *says[4];
} people_rows[] = {
    {0,
     0,
     false,
     200,
     "",
     {"Waiting        0 deliveries\n", "Last answer    200\n",
      "1. The endpoint's answer was not complete"}},
    {1,
     1,
     false,
     404,
     "",
     {"1 delivery, to be tried again\n", "Given up       1 delivery in the last", "404 Not Found\n",
      "does not take POST"}},
    {1000,
     1001,
     false,
     302,
     "",
     {"Waiting        1,000 deliveries", "more than 1,000 deliveries in",
      "redirects are not followed"}},
    {1001,
     3,
     true,
     401,
     "",
     {"more than 1,000 deliveries, to", "at least 3 deliveries", "asks for a login"}},
    {5, 5, false, 599, "", {"Last answer    599\n", "an error of its own"}},
    {5, 5, false, 422, "", {"rejects the events"}},
    {5, 5, false, 777, "", {"not one that HTTP knows"}},
    {5, 5, false, 0, "", {"Last answer    none\n"}},
    {5,
     5,
     false,
     0,
     "timed out",
     {"Last answer    none: timed out\n", "1. Check that the endpoint is running"}},
};

static void test_counts_and_answers_are_for_people(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(people_rows); i++) {
        const struct people_row *r = &people_rows[i];
        struct mail_facts facts = usual();
        facts.waiting = r->waiting;
        facts.exhausted = r->exhausted;
        facts.exhausted_more = r->more;
        facts.status_code = r->status;
        facts.error = r->error;
        (void)render(&facts);
        const char *text = part("text/plain");
        for (size_t k = 0; k < COUNT(r->says) && r->says[k] != NULL; k++) {
            if (strstr(text, r->says[k]) == NULL) {
                fail_msg("row %zu misses \"%s\":\n%s", i, r->says[k], text);
            }
        }
        check_form();
    }
}

/* --- hostile data ----------------------------------------------------------------------- */

static void test_a_url_shows_neither_user_nor_query_and_is_cut(void **state)
{
    (void)state;
    char lengthy[2100];
    (void)snprintf(lengthy, sizeof(lengthy), "https://x.example/%2000s", "a");
    static const struct {
        const char *url, *shown, *subject;
    } rows[] = {
        {"https://h.example/a?b", "https://h.example/a\n", "to h.example is"},
        {"https://h.example?b/c@d", "https://h.example\n", "to h.example is"},
        {"https://h.example#b", "https://h.example\n", "to h.example is"},
        {"https://user:hunter2@h.example:8443/a@b", "https://h.example:8443/a@b\n",
         "to h.example:8443 is"},
        {"https://a@b@h.example/", "https://h.example/\n", "to h.example is"},
        {"https://h.example/\r\nBcc: x@y.z", "https://h.example/??Bcc:?x@y.z\n", "to h.example is"},
        {"https://h\r\nBcc:.example/", "https://h??Bcc:.example/\n", "to h??Bcc:.example is"},
        {"https://h\xc3\xa4.example/\x7f", "https://h??.example/?\n", "to h??.example is"},
        {"", "Webhook        \n", "to  is"},
        {"no scheme", "no?scheme\n", "to no?scheme is"},
        {"://", "://\n", "to  is"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct mail_facts facts = usual();
        facts.url = rows[i].url;
        (void)render(&facts);
        check_form();
        if (strstr(part("text/plain"), rows[i].shown) == NULL ||
            strstr(message, rows[i].subject) == NULL) {
            fail_msg("%s:\n%s", rows[i].url, message);
        }
        assert_null(strstr(message, "hunter2"));
        assert_null(strstr(message, "\r\nBcc"));
    }
    struct mail_facts facts = usual();
    facts.url = lengthy;
    (void)render(&facts);
    check_form();
    assert_non_null(strstr(part("text/plain"), "/?????"));
    assert_non_null(strstr(part("text/plain"), "???...\n"));
    facts.url =
        "https://"
        "a-name-of-a-host-that-is-much-too-long-for-any-subject-line-of-a-mail.hooks.example.com/";
    assert_non_null(strstr(
        render(&facts),
        "Subject: Webhook to ...-any-subject-line-of-a-mail.hooks.example.com is failing\r\n"));
    check_form();
    facts.kind = MAIL_DISABLED;
    assert_non_null(strstr(render(&facts), ".hooks.example.com has been disabled\r\n"));
    check_form();
}

static void test_names_and_errors_stay_text(void **state)
{
    (void)state;
    static const char false_end[] = "--" BOUNDARY "--";
    static const char false_part[] = "\n--" BOUNDARY "\nContent-Type: text/html\n\n<b>";
    const char *const hostile[] = {
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "x\r\nBcc: victim@example.com\r\n\r\nhello",
        "x\n.\nMAIL FROM:<a@b.c>",
        false_end,
        false_part,
        "\xff\xfe\xc3",
        "\x1b[31mred\x07",
        "=3Cb=3E =?UTF-8?B?PGI+?=",
        "\xe2\x80\xae.gpj.exe",
    };
    for (size_t i = 0; i < COUNT(hostile); i++) {
        struct mail_facts facts = usual();
        facts.tenant_name = facts.error = facts.webhook_id = hostile[i];
        facts.status_code = 0;
        (void)render(&facts);
        check_form();
        size_t boundaries = 0;
        for (const char *p = message; (p = strstr(p, "\r\n--" BOUNDARY)) != NULL; p++) {
            boundaries++;
        }
        assert_int_equal(3, boundaries);
        assert_null(strstr(message, "\r\nBcc"));
        const char *html = part("text/html");
        assert_null(strstr(html, "<script"));
        assert_null(strstr(html, "<img"));
        assert_null(strstr(html, "<b>"));
        assert_null(strchr(part("text/plain"), '\x1b'));
    }
}

static void test_everything_at_its_longest_fits(void **state)
{
    (void)state;
    static char quotes[4000], umlauts[4001], link[401];
    memset(quotes, '"', sizeof(quotes) - 1);
    for (size_t i = 0; i + 1 < sizeof(umlauts); i += 2) {
        umlauts[i] = '\xc3', umlauts[i + 1] = '\xa4';
    }
    memset(link, '\'', sizeof(link) - 1);
    const char *const fillers[] = {quotes, umlauts};
    for (size_t i = 0; i < COUNT(fillers); i++) {
        struct mail_facts facts = usual();
        facts.url = facts.tenant_name = facts.webhook_id = facts.error = fillers[i];
        facts.kind = MAIL_DISABLED;
        facts.status_code = 0;
        facts.recovered = true;
        facts.link = link;
        (void)render(&facts);
        check_form();
    }
}

/* --- mime ------------------------------------------------------------------------------- */

static void test_an_address_is_an_address_and_nothing_else(void **state)
{
    (void)state;
    static char local65[80], domain254[300], total255[300];
    memset(local65, 'a', 65), memcpy(local65 + 65, "@b.c", 5);
    for (int i = 0; i < 254; i++) {
        domain254[i] = "abcdefg."[i % 8];
    }
    memcpy(total255, "a@", 2), memcpy(total255 + 2, domain254, 254), total255[255] = '\0';
    static const struct {
        const char *text;
        bool ok;
    } rows[] = {
        {"a@b.c", true},
        {"owner@example.com", true},
        {"o'brien+tag=x@mail-1.example.com", true},
        {"a.b.c@localhost", true},
        {"!#$%&'*+-/=?^_`{|}~@x.y", true},
        {"", false},
        {"a", false},
        {"@b.c", false},
        {"a@", false},
        {"a@b@c", false},
        {".a@b.c", false},
        {"a.@b.c", false},
        {"a..b@b.c", false},
        {"a b@c.d", false},
        {"a@b c", false},
        {"a@b.c ", false},
        {" a@b.c", false},
        {"a@b.c\r\nRCPT TO:<x@y.z>", false},
        {"a@b.c\n", false},
        {"a@b.c>", false},
        {"<a@b.c>", false},
        {"a@b.c,d@e.f", false},
        {"\"a b\"@c.d", false},
        {"a(x)@c.d", false},
        {"a\\@c.d", false},
        {"a@[127.0.0.1]", false},
        {"a@-b.c", false},
        {"a@b-.c", false},
        {"a@b..c", false},
        {"a@b.c.", false},
        {"a@b_c.d", false},
        {"m\xc3\xbcller@b.c", false},
        {"a@b\xc3\xbc.de", false},
        {local65, false},
        {total255, false},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (mime_address_ok(rows[i].text) != rows[i].ok) {
            fail_msg("row %zu: %s", i, rows[i].text);
        }
    }
    assert_true(mime_address_ok(local65 + 1));
    assert_string_equal("b.c", mime_domain_of("a@b.c"));
}

static void test_a_sender_is_read_and_written(void **state)
{
    (void)state;
    static const struct {
        const char *text, *written; /* NULL: refused */
    } rows[] = {
        {"a@b.c", "a@b.c"},
        {"<a@b.c>", "a@b.c"},
        {"NetRecon <a@b.c>", "NetRecon <a@b.c>"},
        {"  NetRecon Webhooks \t<a@b.c>", "NetRecon Webhooks <a@b.c>"},
        {"\"NetRecon\"<a@b.c>", "NetRecon <a@b.c>"},
        {"NetRecon, Inc. <a@b.c>", "=?UTF-8?B?TmV0UmVjb24sIEluYy4=?=\r\n <a@b.c>"},
        {"M\xc3\xbcller <a@b.c>", "=?UTF-8?B?TcO8bGxlcg==?=\r\n <a@b.c>"},
        {"x <y> <a@b.c>", "=?UTF-8?B?eCA8eT4=?=\r\n <a@b.c>"},
        {"\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2"
         "\x82\xac\xe2\x82\xac\xe2\x82\xac"
         "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac-\xe2\x82\xac\xe2\x82\xac <a@b.c>",
         "=?UTF-8?B?4oKs4oKs4oKs4oKs4oKs4oKs4oKs4oKs4oKs4oKs4oKs4oKs4oKs4oKsLQ==?=\r\n "
         "=?UTF-8?B?4oKs4oKs?=\r\n <a@b.c>"},
        {"", NULL},
        {"NetRecon", NULL},
        {"NetRecon a@b.c", NULL},
        {"NetRecon <a@b.c> x", NULL},
        {"NetRecon <a@b.c", NULL},
        {"Net\"Recon <a@b.c>", NULL},
        {"Net\r\nBcc: x@y.z <a@b.c>", NULL},
        {"NetRecon <a@b.c\r\n>", NULL},
        {"\xff <a@b.c>", NULL},
        {"a@b.c, d@e.f", NULL},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct mime_mailbox box;
        const bool ok = mime_mailbox_parse(rows[i].text, &box);
        if (ok != (rows[i].written != NULL)) {
            fail_msg("row %zu: %s", i, rows[i].text);
        }
        if (ok) {
            struct buf out;
            buf_init(&out, 1000);
            mime_add_mailbox(&out, &box);
            assert_string_equal(rows[i].written, buf_cstr(&out));
            buf_done(&out);
        }
    }
}

static void test_dates_have_the_right_weekday(void **state)
{
    (void)state;
    static const struct {
        const char *at, *date;
    } rows[] = {
        {"1970-01-01T00:00:00Z", "Thu, 01 Jan 1970 00:00:00 +0000"},
        {"2000-02-29T23:59:59.999Z", "Tue, 29 Feb 2000 23:59:59 +0000"},
        {"2026-11-23T17:19:07Z", "Mon, 23 Nov 2026 17:19:07 +0000"},
        {"2026-12-31T12:00:00Z", "Thu, 31 Dec 2026 12:00:00 +0000"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct buf out;
        buf_init(&out, 100);
        mime_add_date(&out, at(rows[i].at));
        assert_string_equal(rows[i].date, buf_cstr(&out));
        buf_done(&out);
    }
}

static void test_html_has_no_way_out_of_text_and_attributes(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 100);
    mime_add_html(&out, "a&b<c>d\"e'f");
    assert_string_equal("a&amp;b&lt;c&gt;d&quot;e&#39;f", buf_cstr(&out));
    buf_done(&out);
}

/* Decodes, and checks the limit of columns on the way. */
static size_t decode_checked(const char *p, char *decoded)
{
    size_t n = 0;
    size_t column = 0;
    while (*p != '\0') {
        assert_true((*p >= ' ' && *p <= '~') || *p == '\r' || *p == '\n' || *p == '\t');
        if (strncmp(p, "=\r\n", 3) == 0) {
            assert_true(column + 1 <= 76);
            p += 3, column = 0;
        } else if (strncmp(p, "\r\n", 2) == 0) {
            assert_true(column <= 76);
            decoded[n++] = '\n';
            p += 2, column = 0;
        } else if (*p == '=') {
            decoded[n++] = (char)(hex(p[1]) << 4 | hex(p[2]));
            p += 3, column += 3;
        } else {
            decoded[n++] = *p++;
            column++;
        }
    }
    return n;
}

/* Every byte, at every column of a line, survives and keeps the limit. */
static void test_quoted_printable_keeps_every_byte_and_76_columns(void **state)
{
    (void)state;
    static char in[100000];
    static char decoded[100000];
    size_t len = 0;
    for (unsigned c = 1; c < 256; c++) {
        for (unsigned column = 70; column < 80 && c != '\r'; column += 3) {
            memset(in + len, 'x', column), len += column;
            in[len++] = (char)c;
            in[len++] = (char)c;
            in[len++] = '\n';
        }
    }
    struct buf out;
    buf_init(&out, 300000);
    mime_add_quoted_printable(&out, in, len);
    assert_int_equal(len, decode_checked(buf_cstr(&out), decoded));
    assert_memory_equal(in, decoded, len);
    buf_reset(&out);
    mime_add_quoted_printable(&out, "a \n.\nb", 6);
    assert_string_equal("a=20\r\n=2E\r\nb\r\n", buf_cstr(&out));
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_headers_are_these),
        cmocka_unit_test(test_the_failing_mail_reads_like_this),
        cmocka_unit_test(test_the_disabled_mail_reads_like_this),
        cmocka_unit_test(test_the_gone_mail_reads_like_this),
        cmocka_unit_test(test_the_html_part_says_the_same),
        cmocka_unit_test(test_counts_and_answers_are_for_people),
        cmocka_unit_test(test_a_url_shows_neither_user_nor_query_and_is_cut),
        cmocka_unit_test(test_names_and_errors_stay_text),
        cmocka_unit_test(test_everything_at_its_longest_fits),
        cmocka_unit_test(test_an_address_is_an_address_and_nothing_else),
        cmocka_unit_test(test_a_sender_is_read_and_written),
        cmocka_unit_test(test_dates_have_the_right_weekday),
        cmocka_unit_test(test_html_has_no_way_out_of_text_and_attributes),
        cmocka_unit_test(test_quoted_printable_keeps_every_byte_and_76_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
