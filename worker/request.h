/* The header lines of one attempt: what platform.md section 3 promises. */
#ifndef NRW_REQUEST_H
#define NRW_REQUEST_H

#include <stdint.h>

#include "bounds.h"
#include "err.h"
#include "event.h"
#include "ids.h"
#include "sign.h"
#include "transport.h"
#include "webhook.h"

/* Memory of the lines; `http.headers` points into it until the next call. */
struct request {
    char event[sizeof("X-NetRecon-Event: ") + LIMIT_EVENT_TYPE];
    char delivery[sizeof("X-NetRecon-Delivery: ") + UUID_TEXT];
    char attempt[sizeof("X-NetRecon-Attempt: ") + 10];
    char netrecon[sizeof("X-NetRecon-Signature: ") + SIGN_NETRECON_SIZE];
    char previous[sizeof("X-NetRecon-Signature-Previous: ") + SIGN_NETRECON_SIZE];
    char id[sizeof("webhook-id: ") + UUID_TEXT];
    char timestamp[sizeof("webhook-timestamp: ") + 20];
    char standard[sizeof("webhook-signature: ") + 2 * SIGN_STANDARD_SIZE];
    char traceparent[sizeof("traceparent: ") + EVENT_TRACEPARENT];
    struct transport_request http;
};

/* Signs ev's payload for wh at now_wall_us, with the secret before as well while its window is
 * open. Fills http's endpoint, body and headers; address and timeout are the caller's. False:
 * ERR_CRYPTO (ours). */
bool request_build(struct request *ret, const struct nrw_event *ev, const struct webhook *wh,
                   const struct uuid *delivery_id, unsigned attempt, int64_t now_wall_us,
                   struct err *err) MUST_CHECK;

#endif
