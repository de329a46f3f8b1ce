/* The outbox of e-mails: rows of `notifications`, claimed with SKIP LOCKED by whichever worker
 * comes first, rendered, sent by SMTP and marked. One mail at a time and worker. Never lost: a mail
 * server that is down is tried again for at least MAILER_PATIENCE. Never twice, but for one case:
 * when a worker dies (or PostgreSQL stays away for longer than a claim) between the server's
 * acceptance and the mark, the mail goes out again with the same Message-ID. Dropped, counted and
 * logged: no usable owner address, a deleted webhook, a recipient that the server does not know
 * (three tries), anything that still fails after MAILER_PATIENCE. */
#ifndef NRW_MAILER_H
#define NRW_MAILER_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "err.h"
#include "pg.h"

struct mailer;

#define MAILER_PATIENCE                                                                            \
    "7 days" /* longer than a webhook may fail (P4): by then its state is told by another mail */
#define MAILER_ADDRESS_TRIES   3
#define MAILER_CONSOLE_URL_MAX 400

/* Borrowed for the call. Durations of 0 are the defaults. */
struct mailer_config {
    const char
        *smtp_url; /* see smtp.h; "": mails stay in the outbox, and nrw_outbox_waiting says so */
    const char *mail_from;   /* address, or "Name <address>"; needed when smtp_url is set */
    const char *console_url; /* http(s) base of the link to the settings page, "" = no link */
    const char *ca_file;
    int64_t poll_ms;            /* how often the outbox is looked at without a hint; 5 s         */
    int64_t retry_ms;           /* first pause of a row, doubling up to 1 h; 30 s                */
    int64_t pause_ms;           /* first pause of this worker when the server cannot be used,
                                 * doubling up to 5 min; 5 s                                     */
    int64_t claim_ms;           /* how long a row is one worker's; more than timeout_ms; 2 min   */
    int64_t connect_timeout_ms; /* 10 s                                                          */
    int64_t timeout_ms;         /* one mail; 60 s                                                */
};

/* pg: borrowed for life. NULL: a setting is wrong, err says which. */
struct mailer *mailer_new(struct event_base *base, const struct mailer_config *cfg, struct pg *pg,
                          struct err *err) MUST_CHECK;
void mailer_hint(struct mailer *m); /* a row was just committed here: look now */

/* Claims nothing any more; idle once the mail in hand is marked. For an orderly end, so that it
 * causes no repeat. */
void mailer_stop(struct mailer *m);
bool mailer_is_idle(const struct mailer *m);

/* Breaks off. pg must have been freed (or its units answered) before. */
void mailer_free(struct mailer *m);

#endif
