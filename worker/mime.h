/* The few pieces of RFC 5322, 2045 and 2047 that a mail needs: addresses, dates, bodies. Pure. */
#ifndef NRW_MIME_H
#define NRW_MIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"

#define MIME_ADDRESS_MAX 254 /* RFC 5321: a path of 256 with its angle brackets */
#define MIME_NAME_MAX    128

/* local@domain and nothing else: local a dot-atom of at most 64 characters, domain LDH labels. No
 * quoted local part, no comment, no address literal, no non-ASCII. What passes can neither end a
 * header line nor an SMTP command. */
bool mime_address_ok(const char *text);
const char *mime_domain_of(const char *address); /* of an address that is ok; points into it */

struct mime_mailbox {
    char address[MIME_ADDRESS_MAX + 1];
    char name[MIME_NAME_MAX + 1]; /* "" = none; no controls */
};
/* "address" or "Name <address>", the name bare or in double quotes. False: *ret untouched. */
bool mime_mailbox_parse(const char *text, struct mime_mailbox *ret);

/* "Name <address>"; a name that is more than letters, digits, '-' and blanks becomes RFC 2047
 * encoded words, folded. */
void mime_add_mailbox(struct buf *out, const struct mime_mailbox *box);

/* "Sun, 15 Mar 2026 10:30:00 +0000" */
void mime_add_date(struct buf *out, int64_t wall_us);

/* text with '\n' ends of line as quoted-printable: CRLF, lines of at most 76 characters, ends with
 * CRLF. "=" is always encoded, so a boundary that begins with "=_" never occurs. */
void mime_add_quoted_printable(struct buf *out, const char *text, size_t len);

/* & < > " ' as entities. */
void mime_add_html(struct buf *out, const char *text);

#endif
