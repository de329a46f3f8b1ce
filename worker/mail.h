/* What the mails to an account's owner say. Pure, so that tests can hold it against golden text. */
#ifndef NRW_MAIL_H
#define NRW_MAIL_H

#include <stdbool.h>
#include <stdint.h>

#include "buf.h"
#include "mime.h"

#define MAIL_BYTES_MAX 65536u /* for mail_render's buffer: always enough */
#define MAIL_COUNT_MAX 1000   /* counts above this are "more than"      */

enum mail_kind {
    MAIL_FAILING,  /* a delivery failed five times                       */
    MAIL_DISABLED, /* five days without a success                        */
    MAIL_GONE,     /* the endpoint answered 410                          */
};

/* Texts are valid UTF-8 of any length and content: the mail shows them cut and escaped. */
struct mail_facts {
    enum mail_kind kind;
    const char *url; /* as stored; the mail shows it without user info, query and fragment */
    const char *webhook_id;
    const char *tenant_name;
    int64_t failing_us;  /* when it was marked as failing; 0: it was not               */
    int64_t disabled_us; /* when it was disabled; not read for MAIL_FAILING            */
    int status_code;     /* what the endpoint answered last; 0: nothing                */
    const char *error;   /* why there was no answer; "" = not known                    */
    int64_t waiting;     /* deliveries that will be tried again, counted to MAIL_COUNT_MAX + 1 */
    int64_t exhausted;   /* deliveries given up in the last 24 h, likewise             */
    bool exhausted_more; /* not all were counted: at least so many                     */
    bool recovered;      /* the webhook is active (again) while this is written        */
    const char *link;    /* of the settings page, checked by the caller; "" = none     */
};

/* A whole RFC 5322 message: headers, multipart/alternative of text/plain and text/html, 7-bit,
 * CRLF. to: mime_address_ok(). message_id: letters, digits, '-', '.' and one '@', without the angle
 * brackets. now_us: for Date. */
void mail_render(const struct mail_facts *facts, const struct mime_mailbox *from, const char *to,
                 const char *message_id, int64_t now_us, struct buf *out);

#endif
