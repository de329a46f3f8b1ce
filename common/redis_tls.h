/* TLS to one Redis server: the certificate is verified against a file of authorities and against
 * the host of the URL (which is also sent as SNI, unless it is an address); TLS 1.2 or later. Needs
 * hiredis 1.0 or later with its hiredis_ssl when it is built (NRW_REDIS_TLS 1). Private to
 * redis_link.c. */
#ifndef NRW_REDIS_TLS_H
#define NRW_REDIS_TLS_H

#include <hiredis/hiredis.h>
#include <stdbool.h>

#include "err.h"
#include "redis_link.h"
#include "redis_url.h"

struct redis_tls;

/* url: rediss://, borrowed for life. NULL: ERR_INVALID; this build has no TLS, or the file of
 * authorities cannot be used. */
struct redis_tls *redis_tls_new(const struct redis_url *url, struct err *err) MUST_CHECK;
void redis_tls_free(struct redis_tls *t); /* NULL is fine; forgotten before */

/* A step of the handshake on a connected conn, which hiredis reads and writes through TLS from the
 * first one on. ERR_DENIED: the certificate is not accepted. */
enum redis_step redis_tls_go_on(struct redis_tls *t, redisContext *conn,
                                struct err *err) MUST_CHECK;
bool redis_tls_begun(const struct redis_tls *t);
void redis_tls_forget(struct redis_tls *t); /* before conn is freed */

/* Decrypted bytes are left, which no event will tell of. */
bool redis_tls_has_more(const struct redis_tls *t);
/* OpenSSL's words for the read or write that just failed, or the server's last ones, or
 * `otherwise`. Leaves OpenSSL's queue of errors empty. */
const char *redis_tls_reason(struct redis_tls *t, const char *otherwise);

#endif
