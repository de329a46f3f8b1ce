/* What a Redis server has to prove, and the handshake in which it does. Owns OpenSSL's context; the
 * session belongs to hiredis, which frees it with the connection. hiredis' own redisSSLContext is
 * not used: it does not compare the host name. Called by redis_link.c only. */
#include "redis_tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "check.h"
#include "mem.h"

#if NRW_REDIS_TLS
#include <hiredis/hiredis_ssl.h>
#else /* never reached: redis_tls_new() refuses */
#define redisInitiateSSL(conn, ssl) ((void)(conn), (void)(ssl), REDIS_ERR)
#endif

#define CA_FILE "/etc/ssl/certs/ca-certificates.crt" /* as NRW_CA_FILE's default */

struct redis_tls {
    const struct redis_url *url;
    SSL_CTX *ctx;
    SSL *ssl; /* hiredis'; NULL: no handshake yet */
};

static const char *ca_file(const struct redis_url *url)
{
    return url->ca_file != NULL ? url->ca_file : CA_FILE;
}

struct redis_tls *redis_tls_new(const struct redis_url *url, struct err *err)
{
    if (!NRW_REDIS_TLS) {
        (void)err_set(err, ERR_INVALID,
                      "Redis URL: rediss:// is not spoken here; put stunnel in front "
                      "(deploy/README.md, Redis over TLS) and name its redis:// address");
        return NULL;
    }
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    CHECK(ctx != NULL && SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION); /* a write never waits for a read */
    if (SSL_CTX_load_verify_file(ctx, ca_file(url)) != 1) {
        ERR_clear_error();
        SSL_CTX_free(ctx);
        (void)err_set(err, ERR_INVALID, "Redis URL: no certificates can be read from ca_file %s",
                      ca_file(url));
        return NULL;
    }
    struct redis_tls *t = mem_zero(1, sizeof(*t));
    t->url = url;
    t->ctx = ctx;
    return t;
}

void redis_tls_free(struct redis_tls *t)
{
    if (t == NULL) {
        return;
    }
    CHECK(t->ssl == NULL);
    SSL_CTX_free(t->ctx), t->ctx = NULL;
    free(t);
}

bool redis_tls_begun(const struct redis_tls *t)
{
    return t->ssl != NULL;
}

void redis_tls_forget(struct redis_tls *t)
{
    t->ssl = NULL;
}

bool redis_tls_has_more(const struct redis_tls *t)
{
    return SSL_pending(t->ssl) > 0;
}

static const char *take_reason(const char *otherwise)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return reason != NULL ? reason : otherwise;
}

/* Since TLS 1.3 a server can refuse us after the handshake: it says why and hangs up, and its words
 * may still wait to be read when writing to it fails. */
const char *redis_tls_reason(struct redis_tls *t, const char *otherwise)
{
    const char *reason = take_reason(NULL);
    if (reason == NULL) {
        char byte;
        (void)SSL_peek(t->ssl, &byte, sizeof(byte));
        reason = take_reason(otherwise);
    }
    return reason;
}

/* An address is compared with the certificate's addresses, and is no SNI (RFC 6066, 3). */
static SSL *session_new(const struct redis_tls *t)
{
    SSL *ssl = SSL_new(t->ctx);
    CHECK(ssl != NULL);
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), t->url->host) != 1) {
        CHECK(SSL_set1_host(ssl, t->url->host) == 1 &&
              SSL_set_tlsext_host_name(ssl, t->url->host) == 1);
    }
    ERR_clear_error();
    return ssl;
}

static enum redis_step failed(const struct redis_tls *t, const SSL *ssl, int error, struct err *err)
{
    const long verdict = SSL_get_verify_result(ssl);
    const char *reason = take_reason(error != 0 ? strerror(error) : "the server hung up");
    if (verdict == X509_V_OK) {
        *err = redis_fault(ERR_IO, "TLS handshake failed", reason);
        return REDIS_STEP_FAILED;
    }
    char what[LIMIT_HOST + 48];
    CHECK(snprintf(what, sizeof(what), "the certificate of %s is not accepted", t->url->host) > 0);
    *err = redis_fault(ERR_DENIED, what, X509_verify_cert_error_string(verdict));
    return REDIS_STEP_FAILED;
}

enum redis_step redis_tls_go_on(struct redis_tls *t, redisContext *conn, struct err *err)
{
    ERR_clear_error();
    if (t->ssl == NULL) {
        SSL *ssl = session_new(t);
        if (redisInitiateSSL(conn, ssl) != REDIS_OK) {
            enum redis_step step = failed(t, ssl, errno, err);
            SSL_free(ssl); /* hiredis takes it only when it says so */
            return step;
        }
        t->ssl = ssl;
    }
    errno = 0;
    int done = SSL_do_handshake(t->ssl);
    int error = errno;
    switch (SSL_get_error(t->ssl, done)) {
    case SSL_ERROR_NONE:
        return REDIS_STEP_DONE;
    case SSL_ERROR_WANT_READ:
        return REDIS_STEP_READ;
    case SSL_ERROR_WANT_WRITE:
        return REDIS_STEP_WRITE;
    default:
        return failed(t, t->ssl, error, err);
    }
}
