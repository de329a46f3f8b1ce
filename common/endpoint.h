/* A customer's URL, parsed once into its canonical form (practices 6.2). The API uses it when a
 * webhook is registered, the worker again when it loads the row: what is stored is never trusted.
 * Refused: anything but https (and http where allowed); userinfo, fragment, backslash, control
 * characters, blanks, non-ASCII outside the host; a zone id; port 0; a port other than 80, 443 or
 * >= 1024; hosts that are not LDH names after IDNA; names of one label; names below .localhost,
 * .local, .internal, .home.arpa, and "localhost"; names whose last label is all digits or hex
 * (0x…): those are addresses in disguise; more than LIMIT_URL bytes. One trailing dot of the host
 * is dropped. An IP literal in any spelling is normalised and judged by netguard at once.
 * Implemented on libcurl's CURLU so that parser and client are the same code. */
#ifndef NRW_ENDPOINT_H
#define NRW_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "bounds.h"
#include "err.h"
#include "netguard.h"

struct endpoint {
    char *url;                 /* canonical, what libcurl gets                               */
    char *display;             /* without query: for logs, mails, metrics-free places         */
    char host[LIMIT_HOST + 1]; /* lower case, no brackets                                     */
    uint16_t port;
    bool tls;
    bool is_address; /* host is an IP literal: `address` is set, nothing to resolve */
    struct sockaddr_storage address;
};

/* url need not be NUL-terminated. False: ERR_INVALID or ERR_DENIED with a text fit for the
 * customer; *ret untouched. */
bool endpoint_parse(const char *url, size_t len, bool allow_http, const struct netguard *guard,
                    struct endpoint *ret, struct err *err) MUST_CHECK;
void endpoint_done(struct endpoint *e);

#endif
