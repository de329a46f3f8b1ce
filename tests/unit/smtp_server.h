/* A mail server for one test program: on its loop, on loopback, polite unless told otherwise. A
 * script says what it answers to a command instead of the usual: a text, "" to hang, "!" to close.
 * Speaks STARTTLS and smtps with a certificate made for the run. Each test program includes it
 * once. */
#ifndef NRW_TEST_SMTP_SERVER_H
#define NRW_TEST_SMTP_SERVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "clock.h"
#include "mem.h"

#define SMTP_SERVER_MAYBE __attribute__((unused))
#define SMTP_SERVER_HOST                                                                           \
    "mail.localhost" /* libcurl takes it for 127.0.0.1, smtp.c for a stranger */
#define SMTP_SERVER_MAILS    64
#define SMTP_SERVER_SESSIONS 64
#define SMTP_SERVER_SCRIPT   8
#define SMTP_SERVER_TEXT     300

struct smtp_server;

struct smtp_session {
    struct smtp_server *server;
    struct bufferevent *bev; /* NULL: over */
    SSL *ssl;
    struct evbuffer *in, *out; /* plain text */
    bool in_mail, in_data, in_auth, authenticated;
    int recipients;
    char to[SMTP_SERVER_TEXT];
    struct evbuffer *mail;
};

struct smtp_server {
    struct event_base *base;
    struct evconnlistener *listener;
    uint16_t port;
    struct {
        const char *command, *answer; /* command "": the greeting; ".": the end of a mail */
    } script[SMTP_SERVER_SCRIPT];
    bool no_starttls, implicit_tls, demand_auth;
    const char *credentials; /* base64 of AUTH PLAIN that is right */
    SSL_CTX *tls;

    int connections, quits, hung, auths, tls_sessions, mails;
    bool foreign_mail; /* more than one recipient, or outside the dialogue */
    char ehlo[SMTP_SERVER_TEXT], from[SMTP_SERVER_TEXT];
    struct {
        char to[SMTP_SERVER_TEXT];
        char *text; /* as received, dot-unstuffed */
        char message_id[SMTP_SERVER_TEXT];
    } mail[SMTP_SERVER_MAILS];
    struct smtp_session sessions[SMTP_SERVER_SESSIONS];
};

/* --- TLS -------------------------------------------------------------------------------- */

/* Writes the certificate, its own authority, to path. */
SMTP_SERVER_MAYBE static SSL_CTX *smtp_server_tls(const char *path)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
    X509_set_pubkey(cert, key);
    X509_NAME *name = X509_get_subject_name(cert);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"nrw test", -1, -1,
                               0);
    X509_set_issuer_name(cert, name);
    X509_EXTENSION *san =
        X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:" SMTP_SERVER_HOST);
    X509_add_ext(cert, san, -1);
    X509_EXTENSION_free(san);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(1, PEM_write_X509(f, cert));
    assert_int_equal(0, fclose(f));
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    assert_int_equal(1, SSL_CTX_use_certificate(ctx, cert));
    assert_int_equal(1, SSL_CTX_use_PrivateKey(ctx, key));
    X509_free(cert), EVP_PKEY_free(key);
    return ctx;
}

static void smtp_session_tls(struct smtp_session *c)
{
    c->ssl = SSL_new(c->server->tls);
    SSL_set_bio(c->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_accept_state(c->ssl);
}

/* --- a session -------------------------------------------------------------------------- */

static void smtp_session_end(struct smtp_session *c)
{
    if (c->bev != NULL) {
        bufferevent_free(c->bev);
        evbuffer_free(c->in), evbuffer_free(c->out), evbuffer_free(c->mail);
        SSL_free(c->ssl);
        *c = (struct smtp_session){.server = c->server};
    }
}

static void smtp_session_flush(struct smtp_session *c)
{
    if (c->ssl == NULL) {
        bufferevent_write_buffer(c->bev, c->out);
        return;
    }
    if (SSL_is_init_finished(c->ssl)) {
        const size_t len = evbuffer_get_length(c->out);
        if (len > 0) {
            (void)SSL_write(c->ssl, evbuffer_pullup(c->out, -1), (int)len);
            evbuffer_drain(c->out, len);
        }
    }
    char *bytes = NULL;
    const long n = BIO_get_mem_data(SSL_get_wbio(c->ssl), &bytes);
    if (n > 0) {
        bufferevent_write(c->bev, bytes, (size_t)n);
        (void)BIO_reset(SSL_get_wbio(c->ssl));
    }
}

static void smtp_session_say(struct smtp_session *c, const char *text)
{
    evbuffer_add_printf(c->out, "%s\r\n", text);
    smtp_session_flush(c);
}

/* True when the script has dealt with the command (the session may be over). */
static bool smtp_session_scripted(struct smtp_session *c, const char *command)
{
    for (int i = 0; i < SMTP_SERVER_SCRIPT; i++) {
        const char *wanted = c->server->script[i].command;
        const char *answer = c->server->script[i].answer;
        if (wanted == NULL || strcasecmp(wanted, command) != 0) {
            continue;
        }
        if (strcmp(answer, "!") == 0) {
            smtp_session_end(c);
        } else if (answer[0] == '\0') {
            c->server->hung++;
        } else {
            smtp_session_say(c, answer);
        }
        return true;
    }
    return false;
}

static void smtp_session_keep_mail(struct smtp_session *c)
{
    struct smtp_server *s = c->server;
    assert_true(s->mails < SMTP_SERVER_MAILS);
    evbuffer_add(c->mail, "", 1);
    char *text = mem_dup((const char *)evbuffer_pullup(c->mail, -1));
    evbuffer_drain(c->mail, evbuffer_get_length(c->mail));
    s->foreign_mail = s->foreign_mail || c->recipients != 1;
    s->mail[s->mails].text = text;
    (void)snprintf(s->mail[s->mails].to, SMTP_SERVER_TEXT, "%s", c->to);
    const char *id = strstr(text, "\r\nMessage-ID: ");
    assert_non_null(id);
    id += strlen("\r\nMessage-ID: ");
    (void)snprintf(s->mail[s->mails].message_id, SMTP_SERVER_TEXT, "%.*s", (int)strcspn(id, "\r"),
                   id);
    s->mails++;
    c->recipients = 0;
}

/* The mail is kept before the script has its say: a server that drops the connection here has
 * accepted it. */
static void smtp_session_data(struct smtp_session *c, const char *line)
{
    if (strcmp(line, ".") != 0) {
        evbuffer_add_printf(c->mail, "%s\r\n", line[0] == '.' ? line + 1 : line);
        return;
    }
    c->in_data = c->in_mail = false;
    const char *refusal = NULL;
    for (int i = 0; i < SMTP_SERVER_SCRIPT; i++) {
        if (c->server->script[i].command != NULL &&
            strcmp(c->server->script[i].command, ".") == 0) {
            refusal = c->server->script[i].answer;
        }
    }
    if (refusal == NULL || refusal[0] < '4' || refusal[0] > '5') {
        smtp_session_keep_mail(c);
    }
    if (!smtp_session_scripted(c, ".")) {
        smtp_session_say(c, "250 2.0.0 queued");
    }
}

static void smtp_session_ehlo(struct smtp_session *c, const char *name)
{
    (void)snprintf(c->server->ehlo, SMTP_SERVER_TEXT, "%s", name);
    evbuffer_add_printf(c->out, "250-test\r\n250-SIZE 1000000\r\n");
    if (c->server->demand_auth) {
        evbuffer_add_printf(c->out, "250-AUTH PLAIN\r\n");
    }
    if (c->ssl == NULL && !c->server->no_starttls && c->server->tls != NULL) {
        evbuffer_add_printf(c->out, "250-STARTTLS\r\n");
    }
    smtp_session_say(c, "250 ENHANCEDSTATUSCODES");
}

static void smtp_session_credentials(struct smtp_session *c, const char *given)
{
    c->in_auth = false;
    c->server->auths++;
    c->authenticated = strcmp(given, c->server->credentials) == 0;
    smtp_session_say(c, c->authenticated ? "235 2.7.0 welcome" : "535 5.7.8 wrong password");
}

static void smtp_session_rcpt(struct smtp_session *c, const char *argument)
{
    c->recipients++;
    (void)snprintf(c->to, sizeof(c->to), "%s", argument);
    smtp_session_say(c, "250 2.1.5 ok");
}

static void smtp_session_command(struct smtp_session *c, const char *line)
{
    char verb[16];
    const size_t n = strcspn(line, " ");
    const char *argument = line[n] == ' ' ? line + n + 1 : "";
    (void)snprintf(verb, sizeof(verb), "%.*s", (int)n, line);
    c->server->quits += strcasecmp(verb, "QUIT") == 0;
    if (smtp_session_scripted(c, verb)) {
        return;
    }
    if (strcasecmp(verb, "EHLO") == 0) {
        smtp_session_ehlo(c, argument);
    } else if (strcasecmp(verb, "STARTTLS") == 0) {
        smtp_session_say(c, "220 2.0.0 go");
        smtp_session_tls(c);
    } else if (strcasecmp(verb, "AUTH") == 0) {
        c->in_auth = true;
        smtp_session_say(c, "334 ");
    } else if (c->server->demand_auth && !c->authenticated && strcasecmp(verb, "QUIT") != 0) {
        smtp_session_say(c, "530 5.7.0 authentication required");
    } else if (strcasecmp(verb, "MAIL") == 0) {
        (void)snprintf(c->server->from, SMTP_SERVER_TEXT, "%s", argument);
        smtp_session_say(c, c->in_mail ? "503 5.5.1 nested MAIL" : "250 2.1.0 ok");
        c->in_mail = true;
    } else if (strcasecmp(verb, "RSET") == 0) {
        c->in_mail = false;
        c->recipients = 0;
        smtp_session_say(c, "250 2.0.0 ok");
    } else if (strcasecmp(verb, "RCPT") == 0) {
        smtp_session_rcpt(c, argument);
    } else if (strcasecmp(verb, "DATA") == 0) {
        c->in_data = true;
        smtp_session_say(c, "354 go on");
    } else if (strcasecmp(verb, "QUIT") == 0) {
        smtp_session_say(c, "221 2.0.0 bye");
    } else {
        smtp_session_say(c, "500 5.5.1 what?");
    }
}

static void smtp_session_decrypt(struct smtp_session *c)
{
    struct evbuffer *raw = bufferevent_get_input(c->bev);
    const size_t len = evbuffer_get_length(raw);
    if (len > 0) {
        (void)BIO_write(SSL_get_rbio(c->ssl), evbuffer_pullup(raw, -1), (int)len);
        evbuffer_drain(raw, len);
    }
    const bool before = SSL_is_init_finished(c->ssl);
    char bytes[4096];
    for (int n = 1; n > 0;) {
        n = SSL_read(c->ssl, bytes, sizeof(bytes));
        if (n > 0) {
            evbuffer_add(c->in, bytes, (size_t)n);
        }
    }
    c->server->tls_sessions += !before && SSL_is_init_finished(c->ssl);
    smtp_session_flush(c);
}

static void smtp_session_readable(struct bufferevent *bev, void *ctx)
{
    struct smtp_session *c = ctx;
    if (c->ssl != NULL) {
        smtp_session_decrypt(c);
    } else {
        evbuffer_add_buffer(c->in, bufferevent_get_input(bev));
    }
    char *line = NULL;
    while (c->bev != NULL &&
           (line = evbuffer_readln(c->in, NULL, EVBUFFER_EOL_CRLF_STRICT)) != NULL) {
        if (c->in_data) {
            smtp_session_data(c, line);
        } else if (c->in_auth) {
            smtp_session_credentials(c, line);
        } else {
            smtp_session_command(c, line);
        }
        free(line);
    }
}

static void smtp_session_event(struct bufferevent *bev, short what, void *ctx)
{
    (void)bev, (void)what;
    smtp_session_end(ctx);
}

static void smtp_server_accept(struct evconnlistener *listener, evutil_socket_t fd,
                               struct sockaddr *from, int len, void *ctx)
{
    (void)listener, (void)from, (void)len;
    struct smtp_server *s = ctx;
    struct smtp_session *c = s->sessions;
    while (c->bev != NULL) {
        c++;
    }
    assert_true(c < s->sessions + SMTP_SERVER_SESSIONS);
    s->connections++;
    *c = (struct smtp_session){
        .server = s, .in = evbuffer_new(), .out = evbuffer_new(), .mail = evbuffer_new()};
    c->bev = bufferevent_socket_new(s->base, fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(c->bev, smtp_session_readable, NULL, smtp_session_event, c);
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
    if (s->implicit_tls) {
        smtp_session_tls(c);
    }
    if (!smtp_session_scripted(c, "")) {
        smtp_session_say(c, "220 test ESMTP");
    }
}

/* --- the server ------------------------------------------------------------------------- */

/* On the port that it had before, if it had one. */
SMTP_SERVER_MAYBE static void smtp_server_start(struct smtp_server *s, struct event_base *base)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(s->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    s->base = base;
    s->listener = evconnlistener_new_bind(base, smtp_server_accept, s,
                                          LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE, 16,
                                          (struct sockaddr *)&at, sizeof(at));
    assert_non_null(s->listener);
    assert_int_equal(0,
                     getsockname(evconnlistener_get_fd(s->listener), (struct sockaddr *)&at, &len));
    s->port = ntohs(at.sin_port);
}

SMTP_SERVER_MAYBE static void smtp_server_stop(struct smtp_server *s)
{
    if (s->listener != NULL) {
        evconnlistener_free(s->listener), s->listener = NULL;
    }
    for (int i = 0; i < SMTP_SERVER_SESSIONS; i++) {
        smtp_session_end(&s->sessions[i]);
    }
}

SMTP_SERVER_MAYBE static void smtp_server_done(struct smtp_server *s)
{
    smtp_server_stop(s);
    for (int i = 0; i < s->mails; i++) {
        free(s->mail[i].text), s->mail[i].text = NULL;
    }
}

SMTP_SERVER_MAYBE static int smtp_server_sessions(const struct smtp_server *s)
{
    int n = 0;
    for (int i = 0; i < SMTP_SERVER_SESSIONS; i++) {
        n += s->sessions[i].bev != NULL;
    }
    return n;
}

/* answer NULL: as usual again. */
SMTP_SERVER_MAYBE static void smtp_server_answers(struct smtp_server *s, const char *command,
                                                  const char *answer)
{
    int i = 0;
    while (s->script[i].command != NULL && strcmp(s->script[i].command, "-") != 0 &&
           strcmp(s->script[i].command, command) != 0) {
        i++;
        assert_true(i < SMTP_SERVER_SCRIPT);
    }
    s->script[i].command = answer != NULL ? command : "-";
    s->script[i].answer = answer;
}

#endif
