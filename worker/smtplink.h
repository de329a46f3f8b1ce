/* A connection to the operator's mail server, up to the point where mails can be given to it: name,
 * TCP, TLS or STARTTLS, EHLO and AUTH by libcurl on the loop. Then it carries bytes. Private to
 * smtp.c. */
#ifndef NRW_SMTPLINK_H
#define NRW_SMTPLINK_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>

#include "err.h"
#include "smtp.h"

struct smtplink;

struct smtplink_handlers {
    void (*up)(void *ctx);
    /* It never came up. what: libcurl's words; line: the server's last one, or "". The link is
     * closed. */
    void (*failed)(void *ctx, const char *what, const char *line);
    void (*readable)(void *ctx); /* only while up */
    void (*writable)(void *ctx); /* once after each smtplink_want_write() */
    void *ctx;
};

/* NULL: err says why (never quoting the URL: it has a password). Connects to nothing. */
struct smtplink *smtplink_new(struct event_base *base, const struct smtp_config *cfg,
                              const struct smtplink_handlers *handlers, struct err *err) MUST_CHECK;

void smtplink_open(struct smtplink *l); /* a closed one; calls up or failed, later */
bool smtplink_is_up(const struct smtplink *l);
void smtplink_want_write(struct smtplink *l);

enum smtplink_io { SMTPLINK_DONE, SMTPLINK_AGAIN, SMTPLINK_BROKEN };
/* *ret_n bytes were taken or given when DONE; when BROKEN *ret_why (a literal) says why. */
enum smtplink_io smtplink_write(struct smtplink *l, const char *data, size_t len, size_t *ret_n,
                                const char **ret_why);
enum smtplink_io smtplink_read(struct smtplink *l, char *data, size_t room, size_t *ret_n,
                               const char **ret_why);

/* At once, without QUIT; no handler is called. May be called from any handler. */
void smtplink_close(struct smtplink *l);
void smtplink_free(struct smtplink *l);

#endif
