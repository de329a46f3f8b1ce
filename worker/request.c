/* Writes and signs the headers of one attempt; sends nothing, keeps nothing. delivery's SIGN step
 * calls it. */
#include "request.h"

#include <inttypes.h>
#include <stdio.h>

#include "check.h"

/* Both signatures with the newest secret, and with the one before it during a rotation. */
static bool sign(struct request *r, const struct nrw_event *ev, const struct webhook *wh,
                 const char *event_id, int64_t now_wall_us, struct err *err)
{
    char netrecon[SIGN_NETRECON_SIZE];
    char standard[SIGN_STANDARD_SIZE];
    char before[SIGN_STANDARD_SIZE];
    const int64_t now_s = now_wall_us / 1000000;
    if (!signer_netrecon(wh->signer, ev->payload, ev->payload_len, netrecon, err) ||
        !signer_standard(wh->signer, event_id, now_s, ev->payload, ev->payload_len, standard,
                         err)) {
        return false;
    }
    (void)snprintf(r->netrecon, sizeof(r->netrecon), "X-NetRecon-Signature: %s", netrecon);
    (void)snprintf(r->standard, sizeof(r->standard), "webhook-signature: %s", standard);
    r->previous[0] = '\0';
    if (wh->previous == NULL || now_wall_us >= wh->previous_until_us) {
        return true;
    }
    if (!signer_netrecon(wh->previous, ev->payload, ev->payload_len, netrecon, err) ||
        !signer_standard(wh->previous, event_id, now_s, ev->payload, ev->payload_len, before,
                         err)) {
        return false;
    }
    (void)snprintf(r->previous, sizeof(r->previous), "X-NetRecon-Signature-Previous: %s", netrecon);
    (void)snprintf(r->standard, sizeof(r->standard), "webhook-signature: %s %s", standard, before);
    return true;
}

static void add(struct request *r, const char *line)
{
    CHECK(r->http.n_headers < TRANSPORT_HEADERS_MAX);
    r->http.headers[r->http.n_headers++] = line;
}

bool request_build(struct request *ret, const struct nrw_event *ev, const struct webhook *wh,
                   const struct uuid *delivery_id, unsigned attempt, int64_t now_wall_us,
                   struct err *err)
{
    struct request *r = ret;
    char event_id[UUID_TEXT + 1];
    char id[UUID_TEXT + 1];
    uuid_format(&ev->id, event_id);
    uuid_format(delivery_id, id);
    if (!sign(r, ev, wh, event_id, now_wall_us, err)) {
        return false;
    }
    (void)snprintf(r->event, sizeof(r->event), "X-NetRecon-Event: %s", ev->type);
    (void)snprintf(r->delivery, sizeof(r->delivery), "X-NetRecon-Delivery: %s", id);
    (void)snprintf(r->attempt, sizeof(r->attempt), "X-NetRecon-Attempt: %u", attempt);
    (void)snprintf(r->id, sizeof(r->id), "webhook-id: %s", event_id);
    (void)snprintf(r->timestamp, sizeof(r->timestamp), "webhook-timestamp: %" PRId64,
                   now_wall_us / 1000000);
    r->http = (struct transport_request){
        .endpoint = &wh->endpoint, .body = ev->payload, .body_len = ev->payload_len};
    const char *const lines[] = {r->event, r->delivery,  r->attempt, r->netrecon,
                                 r->id,    r->timestamp, r->standard};
    for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
        add(r, lines[i]);
    }
    if (r->previous[0] != '\0') {
        add(r, r->previous);
    }
    if (ev->traceparent[0] != '\0') {
        (void)snprintf(r->traceparent, sizeof(r->traceparent), "traceparent: %s", ev->traceparent);
        add(r, r->traceparent);
    }
    return true;
}
