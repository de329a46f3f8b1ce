/* worker/smtp.c against a mail server on the same loop: what it says, what it makes of the answers,
 * and that it never blocks. The server cannot answer while libcurl waits inside a call, so a
 * blocking QUIT shows as a long turn. */
#include "smtp_server.h"

#include <signal.h>

#include "smtp.h"

#define PATIENCE_US (20 * INT64_C(1000000))
#define COUNT(a)    (sizeof(a) / sizeof(*(a)))
#define MESSAGE                                                                                    \
    "Subject: x\r\nMessage-ID: <1@example.com>\r\n\r\n.a line that begins with a dot\r\n"

struct world {
    struct event_base *base;
    struct event *ticker;
    struct smtp_server server;
    struct smtp *smtp;
    char ca_file[64];
    bool hasty; /* short timeouts: not where TLS is, which takes its time under valgrind */
    int done, rested;
    struct smtp_result result;
    int64_t longest_turn_us;
};

static bool turn_unless(struct world *w, bool cond, const char *text, int64_t end)
{
    if (cond) {
        return false;
    }
    const int64_t before = clock_mono_us();
    if (before > end) {
        fail_msg("never came true: %s", text);
    }
    assert_int_equal(0, event_base_loop(w->base, EVLOOP_ONCE));
    const int64_t took = clock_mono_us() - before;
    w->longest_turn_us = took > w->longest_turn_us ? took : w->longest_turn_us;
    return true;
}
#define AWAIT(w, cond)                                                                             \
    for (int64_t end_ = clock_mono_us() + PATIENCE_US; turn_unless(w, cond, #cond, end_);) {       \
    }

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void on_done(void *ctx, const struct smtp_result *result)
{
    struct world *w = ctx;
    w->done++;
    w->result = *result;
}

static void on_rested(void *ctx)
{
    struct world *w = ctx;
    w->rested++;
}

/* url: "%u" stands for the port. */
static void use(struct world *w, const char *url)
{
    char text[300];
    const char *mark = strstr(url, "%u");
    (void)snprintf(text, sizeof(text), "%.*s%u%s", (int)(mark - url), url, (unsigned)w->server.port,
                   mark + 2);
    const struct smtp_config cfg = {.url = text,
                                    .from = "noreply@netrecon.example",
                                    .ca_file = w->ca_file,
                                    .connect_timeout_ms = w->hasty ? 500 : 8000,
                                    .timeout_ms = w->hasty ? 700 : 10000};
    struct err err = {.code = ERR_NONE};
    smtp_free(w->smtp);
    w->smtp = smtp_new(w->base, &cfg, &err);
    if (w->smtp == NULL) {
        fail_msg("%s", err.text);
    }
}

static int setup(void **state)
{
    struct world *w = mem_zero(1, sizeof(*w));
    const struct timeval tick = {.tv_usec = 5000};
    w->base = event_base_new();
    w->ticker = event_new(w->base, -1, EV_PERSIST, on_tick, NULL);
    event_add(w->ticker, &tick);
    (void)snprintf(w->ca_file, sizeof(w->ca_file), "/tmp/nrw-test-smtp-XXXXXX");
    close(mkstemp(w->ca_file));
    w->server.tls = smtp_server_tls(w->ca_file);
    smtp_server_start(&w->server, w->base);
    use(w, "smtp://127.0.0.1:%u");
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    smtp_free(w->smtp);
    smtp_server_done(&w->server);
    SSL_CTX_free(w->server.tls);
    event_free(w->ticker);
    event_base_free(w->base);
    unlink(w->ca_file);
    free(w);
    return 0;
}

static enum smtp_outcome send_one(struct world *w)
{
    const int before = w->done;
    smtp_send(w->smtp, "owner@example.com", MESSAGE, strlen(MESSAGE), on_done, w);
    assert_int_equal(before, w->done); /* never from inside the call */
    AWAIT(w, w->done > before);
    assert_int_equal(before + 1, w->done);
    assert_true(smtp_is_free(w->smtp));
    return w->result.outcome;
}

/* libcurl waits in slices of a second. */
#define assert_never_blocked(w) assert_in_range((w)->longest_turn_us, 0, 900000)

/* --- promises --------------------------------------------------------------------------- */

static void test_a_mail_arrives_as_it_was_given(void **state)
{
    struct world *w = *state;
    assert_int_equal(SMTP_SENT, send_one(w));
    assert_string_equal("", w->result.text);
    assert_int_equal(1, w->server.mails);
    assert_string_equal(MESSAGE, w->server.mail[0].text);
    assert_string_equal("TO:<owner@example.com>", w->server.mail[0].to);
    assert_string_equal("netrecon.example", w->server.ehlo);
    assert_int_equal(0, strncmp(w->server.from, "FROM:<noreply@netrecon.example>", 31));
    assert_int_equal(0, w->server.tls_sessions); /* loopback */
}

static void test_mails_that_follow_each_other_share_a_connection_that_ends_with_quit(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(SMTP_SENT, send_one(w));
    }
    assert_int_equal(1, w->server.connections);
    assert_true(smtp_rest(w->smtp, on_rested, w));
    AWAIT(w, w->rested == 1 && smtp_server_sessions(&w->server) == 0);
    assert_int_equal(1, w->server.quits);
    assert_false(smtp_rest(w->smtp, on_rested, w));
    assert_int_equal(SMTP_SENT, send_one(w));
    assert_int_equal(2, w->server.connections);
    assert_int_equal(6, w->server.mails);
    assert_false(w->server.foreign_mail);
    assert_never_blocked(w);
}

static void test_a_quit_without_an_answer_does_not_block_the_loop(void **state)
{
    struct world *w = *state;
    smtp_server_answers(&w->server, "QUIT", "!");
    assert_int_equal(SMTP_SENT, send_one(w));
    assert_true(smtp_rest(w->smtp, on_rested, w));
    AWAIT(w, w->rested == 1);
    assert_int_equal(SMTP_SENT, send_one(w));
    smtp_server_answers(&w->server, "QUIT", "");
    assert_true(smtp_rest(w->smtp, on_rested, w));
    AWAIT(w, w->server.hung == 1);
    smtp_free(w->smtp), w->smtp = NULL;
    AWAIT(w, smtp_server_sessions(&w->server) == 0);
    assert_never_blocked(w);
}

static void test_a_connection_that_the_server_closed_is_not_opened_again_to_say_quit(void **state)
{
    struct world *w = *state;
    assert_int_equal(SMTP_SENT, send_one(w));
    smtp_server_stop(&w->server);
    smtp_server_start(&w->server, w->base);
    if (smtp_rest(w->smtp, on_rested, w)) {
        AWAIT(w, w->rested == 1);
    }
    assert_int_equal(1, w->server.connections);
    assert_int_equal(SMTP_SENT, send_one(w));
    assert_never_blocked(w);
}

static void test_a_kept_connection_that_died_costs_no_mail(void **state)
{
    struct world *w = *state;
    assert_int_equal(SMTP_SENT, send_one(w));
    for (int i = 0; i < SMTP_SERVER_SESSIONS; i++) {
        smtp_session_end(&w->server.sessions[i]);
    }
    const int64_t noticed = clock_mono_us() + 50000;
    AWAIT(w, clock_mono_us() > noticed);
    assert_false(smtp_rest(w->smtp, on_rested, w));
    assert_int_equal(SMTP_SENT, send_one(w));
    assert_int_equal(2, w->server.mails);
}

static void test_each_answer_has_its_outcome_and_its_words(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *command, *answer;
        enum smtp_outcome outcome;
        const char *says;
    } rows[] = {
        {"", "554 5.3.2 no service", SMTP_UNAVAILABLE, "554 5.3.2 no service"},
        {"", "421 4.3.2 too many connections", SMTP_UNAVAILABLE, "421"},
        {"", "!", SMTP_UNAVAILABLE, ""},
        {"EHLO", "!", SMTP_UNAVAILABLE, ""},
        {"MAIL", "550 5.7.60 may not send as this sender", SMTP_UNAVAILABLE, "5.7.60"},
        {"MAIL", "451 4.3.0 try later", SMTP_UNAVAILABLE, "4.3.0"},
        {"RCPT", "550 5.1.1 <owner@example.com>: user unknown", SMTP_BAD_ADDRESS, "user unknown"},
        {"RCPT", "550 5.2.1 mailbox disabled", SMTP_BAD_ADDRESS, "5.2.1"},
        {"RCPT", "550-5.1.1 user\r\n550 5.1.1 unknown", SMTP_BAD_ADDRESS, "unknown"},
        {"RCPT", "554 5.7.1 relay access denied", SMTP_REFUSED, "relay access denied"},
        {"RCPT", "550 relay not permitted", SMTP_REFUSED, "relay not permitted"},
        {"RCPT", "450 4.2.0 greylisted", SMTP_REFUSED, "greylisted"},
        {"RCPT", "421 4.7.0 too much", SMTP_UNAVAILABLE, "421"},
        {"RCPT", "!", SMTP_UNAVAILABLE, ""},
        {"DATA", "451 4.3.0 no", SMTP_REFUSED, "451"},
        {".", "554 5.7.1 spam", SMTP_REFUSED, "spam"},
        {".", "452 4.3.1 disk full", SMTP_REFUSED, "disk full"},
        {".", "!", SMTP_UNAVAILABLE, ""},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        smtp_server_answers(&w->server, rows[i].command, rows[i].answer);
        if (rows[i].command[0] == '\0' || strcmp(rows[i].command, "EHLO") == 0) {
            use(w, "smtp://127.0.0.1:%u"); /* a new connection */
        }
        const enum smtp_outcome outcome = send_one(w);
        if (outcome != rows[i].outcome || strstr(w->result.text, rows[i].says) == NULL ||
            w->result.text[0] == '\0') {
            fail_msg("%s after %s: outcome %d, %s", rows[i].answer, rows[i].command, (int)outcome,
                     w->result.text);
        }
        smtp_server_answers(&w->server, rows[i].command, NULL);
        assert_int_equal(SMTP_SENT, send_one(w)); /* and the next mail does not suffer */
    }
    assert_never_blocked(w);
}

static void test_a_server_that_hangs_is_given_up_in_time(void **state)
{
    struct world *w = *state;
    w->hasty = true;
    static const struct {
        const char *command;
        int64_t from_us, to_us;
    } rows[] = {{"", 450000, 3000000},
                {"EHLO", 450000, 3000000},
                {"RCPT", 650000, 3000000},
                {".", 650000, 3000000}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        smtp_server_answers(&w->server, rows[i].command, "");
        use(w, "smtp://127.0.0.1:%u"); /* a new connection */
        const int64_t before = clock_mono_us();
        assert_int_equal(SMTP_UNAVAILABLE, send_one(w));
        assert_in_range(clock_mono_us() - before, rows[i].from_us, rows[i].to_us);
        assert_true(strlen(w->result.text) > 0);
        smtp_server_answers(&w->server, rows[i].command, NULL);
    }
    AWAIT(w, smtp_server_sessions(&w->server) == 0);
    assert_int_equal(SMTP_SENT, send_one(w));
    assert_never_blocked(w);
}

static void test_nobody_listens(void **state)
{
    struct world *w = *state;
    smtp_server_stop(&w->server);
    assert_int_equal(SMTP_UNAVAILABLE, send_one(w));
    assert_true(strlen(w->result.text) > 0);
}

static void test_the_user_of_the_url_is_decoded_and_authenticated(void **state)
{
    struct world *w = *state;
    w->server.demand_auth = true;
    w->server.credentials = "AHVAZXhhbXBsZS5jb20AcDpAL3c="; /* NUL u@example.com NUL p:@/w */
    use(w, "smtp://u%40example.com:p%3a%40%2Fw@127.0.0.1:%u");
    assert_int_equal(SMTP_SENT, send_one(w));
    assert_int_equal(1, w->server.auths);
    use(w, "smtp://u%40example.com:other@127.0.0.1:%u");
    assert_int_equal(SMTP_UNAVAILABLE, send_one(w));
    assert_non_null(strstr(w->result.text, "535"));
    assert_null(strstr(w->result.text, "other"));
    use(w, "smtp://127.0.0.1:%u");
    assert_int_equal(SMTP_UNAVAILABLE, send_one(w));
    assert_non_null(strstr(w->result.text, "530"));
    assert_never_blocked(w);
}

static void test_starttls_is_used_and_the_certificate_checked(void **state)
{
    struct world *w = *state;
    w->server.demand_auth = true;
    w->server.credentials = "AHUAcA==";
    use(w, "smtp://u:p@" SMTP_SERVER_HOST ":%u/worker.example");
    assert_int_equal(SMTP_SENT, send_one(w));
    assert_int_equal(1, w->server.tls_sessions);
    assert_int_equal(1, w->server.auths);
    assert_string_equal("worker.example", w->server.ehlo);
    assert_string_equal(MESSAGE, w->server.mail[0].text);
    assert_true(smtp_rest(w->smtp, on_rested, w));
    AWAIT(w, w->rested == 1);
    assert_int_equal(1, w->server.quits);
    use(w, "smtp://u:p@other.localhost:%u"); /* not the certificate's name */
    assert_int_equal(SMTP_UNAVAILABLE, send_one(w));
    w->server.implicit_tls = true;
    use(w, "smtps://u:p@" SMTP_SERVER_HOST ":%u");
    assert_int_equal(SMTP_SENT, send_one(w));
    assert_int_equal(2, w->server.auths);
    use(w, "smtps://u:p@127.0.0.1:%u"); /* loopback is no reason not to check */
    assert_int_equal(SMTP_UNAVAILABLE, send_one(w));
    assert_int_equal(2, w->server.auths);
    assert_never_blocked(w);
}

static void test_a_certificate_of_a_stranger_is_refused(void **state)
{
    struct world *w = *state;
    SSL_CTX *other = smtp_server_tls("/dev/null");
    SSL_CTX_free(w->server.tls);
    w->server.tls = other;
    use(w, "smtp://u:p@" SMTP_SERVER_HOST ":%u");
    assert_int_equal(SMTP_UNAVAILABLE, send_one(w));
    assert_int_equal(0, w->server.auths + w->server.mails);
    assert_never_blocked(w);
}

static void test_without_tls_a_stranger_gets_neither_mail_nor_password(void **state)
{
    struct world *w = *state;
    w->server.no_starttls = w->server.demand_auth = true;
    w->server.credentials = "AHUAcA==";
    use(w, "smtp://u:p@" SMTP_SERVER_HOST ":%u");
    assert_int_equal(SMTP_UNAVAILABLE, send_one(w));
    assert_int_equal(0, w->server.auths + w->server.mails);
    w->server.no_starttls = false;
    smtp_server_answers(&w->server, "STARTTLS", "454 4.7.0 not now");
    assert_int_equal(SMTP_UNAVAILABLE, send_one(w));
    assert_int_equal(0, w->server.auths + w->server.mails);
    assert_never_blocked(w);
}

static void test_free_is_safe_in_every_state(void **state)
{
    struct world *w = *state;
    for (int turns = 0; turns < 12; turns++) {
        use(w, turns % 2 == 0 ? "smtp://127.0.0.1:%u" : "smtp://" SMTP_SERVER_HOST ":%u");
        smtp_send(w->smtp, "owner@example.com", MESSAGE, strlen(MESSAGE), on_done, w);
        const int done = w->done;
        for (int i = 0; i < turns && w->done == done; i++) {
            assert_int_equal(0, event_base_loop(w->base, EVLOOP_ONCE));
        }
        smtp_free(w->smtp), w->smtp = NULL;
    }
    AWAIT(w, smtp_server_sessions(&w->server) == 0);
    assert_int_equal(0, w->server.quits); /* libcurl would say it, in the middle of a mail */
    smtp_free(NULL);
}

static void test_a_url_is_checked_and_never_shown(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *url;
        bool ok;
    } rows[] = {
        {"smtp://127.0.0.1", true},
        {"smtp://mail.example.com:587", true},
        {"smtps://u:hunter2@mail.example.com:465/worker.example.com", true},
        {"smtp://u%40x:hunter2%25@[::1]:25/", true},
        {"smtp://u@mail.example.com", true},
        {"", false},
        {"mail.example.com:587", false},
        {"http://u:hunter2@mail.example.com", false},
        {"smtp://", false},
        {"smtp://u:hunter2@mail.example.com/a b", false},
        {"smtp://u:hunter2@mail.example.com/a/b", false},
        {"smtp://u:hunter2@mail.example.com/a%0d%0aRCPT", false},
        {"smtp://u:hunter2@mail.example.com/?hunter2", false},
        {"smtp://u:hunter2@mail.example.com/#hunter2", false},
        {"smtp://u:hunter2%0d%0a@mail.example.com", false},
        {"smtp://u:hunter2@mail.example.com:99999", false},
        {"smtp://:hunter2@mail.example.com\r\n", false},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const struct smtp_config cfg = {
            .url = rows[i].url, .from = "a@b.c", .ca_file = "", .timeout_ms = 1};
        struct err err = {.code = ERR_NONE};
        struct smtp *s = smtp_new(w->base, &cfg, &err);
        if ((s != NULL) != rows[i].ok) {
            fail_msg("row %zu: %s", i, rows[i].url);
        }
        assert_int_equal(rows[i].ok ? ERR_NONE : ERR_INVALID, err.code);
        assert_null(strstr(err.text, "hunter2"));
        smtp_free(s);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN); /* as worker.c does */
    const struct CMUnitTest tests[] = {
        TEST(test_a_url_is_checked_and_never_shown),
        TEST(test_a_mail_arrives_as_it_was_given),
        TEST(test_mails_that_follow_each_other_share_a_connection_that_ends_with_quit),
        TEST(test_a_quit_without_an_answer_does_not_block_the_loop),
        TEST(test_a_connection_that_the_server_closed_is_not_opened_again_to_say_quit),
        TEST(test_a_kept_connection_that_died_costs_no_mail),
        TEST(test_each_answer_has_its_outcome_and_its_words),
        TEST(test_a_server_that_hangs_is_given_up_in_time),
        TEST(test_nobody_listens),
        TEST(test_the_user_of_the_url_is_decoded_and_authenticated),
        TEST(test_starttls_is_used_and_the_certificate_checked),
        TEST(test_a_certificate_of_a_stranger_is_refused),
        TEST(test_without_tls_a_stranger_gets_neither_mail_nor_password),
        TEST(test_free_is_safe_in_every_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
