/* One mail at a time to the operator's mail server, on the loop. A connection lives for
 * as long as mails follow each other: it is opened by the first smtp_send() and closed, with QUIT,
 * by smtp_rest(). */
#ifndef NRW_SMTP_H
#define NRW_SMTP_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

struct smtp;

struct smtp_config {
    const char *url;  /* smtp://[user:password@]host[:port][/name] or smtps://…; port 25 and 465
                       * unless given. name: what  EHLO says, by default the domain of `from`. User
                       * and password may be percent-encoded. smtp:// to a  host that is not loopback
                       * demands STARTTLS; without TLS no password is ever sent. */
    const char *from; /* envelope sender: mime_address_ok() */
    const char *ca_file;
    int64_t connect_timeout_ms; /* name, TCP, TLS, EHLO, AUTH */
    int64_t timeout_ms;         /* one mail, all in all       */
};

enum smtp_outcome {
    SMTP_SENT,        /* the server took responsibility                                    */
    SMTP_BAD_ADDRESS, /* it says for good that this recipient does not exist (5.1.x, 5.2.x) */
    SMTP_REFUSED,     /* it does not take this mail, now or for good                       */
    SMTP_UNAVAILABLE, /* it can take no mail: down, busy, TLS or AUTH wrong, sender refused */
};

#define SMTP_TEXT 240
struct smtp_result {
    enum smtp_outcome outcome;
    char text[SMTP_TEXT]; /* libcurl's and the server's words; "" when sent */
};
typedef void smtp_done_fn(void *ctx, const struct smtp_result *result);

/* NULL: err says why (never quoting the URL: it has a password). Connects to nothing. */
struct smtp *smtp_new(struct event_base *base, const struct smtp_config *cfg,
                      struct err *err) MUST_CHECK;

/* Calls back exactly once, later. Only while smtp_is_free(). to: mime_address_ok(). message: CRLF
 * lines, borrowed until then. */
void smtp_send(struct smtp *s, const char *to, const char *message, size_t len, smtp_done_fn *done,
               void *ctx);
bool smtp_is_free(const struct smtp *s); /* neither a mail nor a QUIT is under way */

/* No mail follows for now: says QUIT when there is a connection and calls back once it is closed;
 * false when there is none (no callback). Only while smtp_is_free(). */
bool smtp_rest(struct smtp *s, void (*rested)(void *ctx), void *ctx) MUST_CHECK;

/* Breaks off what is under way, without a callback. */
void smtp_free(struct smtp *s);

#endif
