/* GET /health (200 while the loop turns), /ready (200 or 503 with the reasons), /metrics. evhttp,
 * loopback by default, no other method or path, bounded request sizes and idle time. */
#ifndef NRW_ADMIN_H
#define NRW_ADMIN_H

#include <event2/event.h>

#include "buf.h"
#include "err.h"

struct admin;

/* Appends why the process is not ready, one short line per reason; nothing when it is ready. */
typedef void admin_ready_fn(void *ctx, struct buf *reasons);

/* listen: "address:port" ("[::1]:9464" for IPv6; port 0 picks a free one). */
struct admin *admin_new(struct event_base *base, const char *listen, admin_ready_fn *ready,
                        void *ctx, struct err *err) MUST_CHECK;
unsigned admin_port(const struct admin *a);
void admin_free(struct admin *a);

#endif
