/* The address policy: which network addresses a webhook may reach. Complete list and reasons:
 * practices 6.1. IPv4: everything but the special-purpose ranges and cloud wire addresses. IPv6:
 * only 2000::/3, less its special ranges. v4-mapped (::ffff:0:0/96) is unmapped and judged as IPv4;
 * NAT64, 6to4, Teredo, v4-compatible are denied. Order: deny list (operator) > allow list
 * (operator) > built-in policy. Immutable after creation. */
#ifndef NRW_NETGUARD_H
#define NRW_NETGUARD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "err.h"

struct netguard;

/* allow, deny: comma-separated "address/bits" ("" = none), at most 256 entries each; host bits must
 * be zero. */
struct netguard *netguard_new(const char *allow, const char *deny, struct err *err) MUST_CHECK;
void netguard_free(struct netguard *g);

/* True when sa (AF_INET or AF_INET6; anything else is denied) may be connected to. Otherwise
 * *ret_reason (may be NULL) is a literal that names the range, for example "169.254.0.0/16
 * link-local". A scope id other than 0 is denied. */
bool netguard_allows(const struct netguard *g, const struct sockaddr *sa, const char **ret_reason);

/* "10.1.2.3" or "fd00::1", for error texts. */
#define NETGUARD_TEXT INET6_ADDRSTRLEN
void netguard_format(const struct sockaddr *sa, char out[NETGUARD_TEXT]);

#endif
