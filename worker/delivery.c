/* Owns the step table: one delivery from its turn in the lane to its durable outcome. Reads top to
 * bottom in the order of the steps. lanes starts deliveries; resolver, transport and journal call
 * back here, store their answer and resume the table. */
#include "delivery.h"

#include <inttypes.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"

#define DELIVERIES_MAGIC 0x44454c53u
#define OUTCOMES         5
#define FAULTS           8

enum next { NEXT, WAIT, END };

struct deliveries {
    unsigned magic;
    const struct config *cfg;
    const struct netguard *guard;
    struct resolver *resolver;
    struct transport *transport;
    struct journal *journal;
    struct deliveries_handlers on;
    size_t open;
    uint64_t jitter; /* state of the jitter generator */
    struct counter *outcomes[OUTCOMES];
    struct counter *faults[FAULTS];
    struct counter *reused;
    struct histogram *seconds;
    struct histogram *latency;
};

static void run(struct delivery *d);

/* The only place where a step changes. */
static void set_step(struct delivery *d, enum delivery_step step)
{
    static const char *const names[] = {"QUEUED", "RESOLVE", "SIGN",  "SEND",
                                        "JUDGE",  "RECORD",  "FINISH"};
    log_debug("delivery.step", F_UUID("delivery", &d->id), F_STR("from", names[d->step]),
              F_STR("to", names[step]));
    d->step = step;
}

static enum next go(struct delivery *d, enum delivery_step step)
{
    set_step(d, step);
    return NEXT;
}

/* Ends the attempt before or instead of an answer. */
static enum next fail(struct delivery *d, enum transport_fault fault, const char *text)
{
    d->result.fault = fault;
    d->result.status = 0;
    d->result.retry_after_s = -1;
    d->result.duration_us = clock_mono_us() - d->started_mono_us;
    (void)snprintf(d->result.error, sizeof(d->result.error), "%s", text);
    return go(d, DELIVERY_JUDGE);
}

/* --- RESOLVE --- */

/* Every address has to pass; one that does not is an attack or a mistake (practices 6.1). */
static enum next vet_and_pick(struct delivery *d, const struct sockaddr_storage *addresses,
                              unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const char *reason = NULL;
        const struct sockaddr *sa = (const struct sockaddr *)&addresses[i];
        if (!netguard_allows(d->all->guard, sa, &reason)) {
            char address[NETGUARD_TEXT];
            char text[LIMIT_ERROR_TEXT];
            netguard_format(sa, address);
            (void)snprintf(text, sizeof(text), "address %s is not allowed (%s)", address, reason);
            return fail(d, TRANSPORT_DENIED, text);
        }
    }
    d->address =
        addresses[(d->attempt - 1) % n]; /* another address at each attempt, should one be dead */
    return go(d, DELIVERY_SIGN);
}

static void resolved(void *ctx, const struct sockaddr_storage *addresses, unsigned n,
                     const struct err *err)
{
    struct delivery *d = ctx;
    CHECK_MAGIC(d, DELIVERY_MAGIC);
    const bool later =
        d->query != NULL; /* an answer from the cache comes while step_resolve() is still running */
    d->query = NULL;
    if (n > 0) {
        (void)vet_and_pick(d, addresses, n);
    } else {
        (void)fail(d, err->ours ? TRANSPORT_OURS : TRANSPORT_CONNECT, err->text);
    }
    if (later) {
        run(d);
    }
}

static enum next step_resolve(struct delivery *d)
{
    d->started_mono_us = clock_mono_us();
    d->started_wall_us = clock_wall_us();
    if (d->wh->fault == WEBHOOK_BAD_URL) {
        return fail(d, TRANSPORT_DENIED, d->wh->fault_text);
    }
    if (d->wh->fault == WEBHOOK_NO_SECRET) {
        return fail(d, TRANSPORT_OURS, d->wh->fault_text);
    }
    if (d->wh->endpoint.is_address) {
        return vet_and_pick(d, &d->wh->endpoint.address, 1);
    }
    struct resolver_query *q = resolver_lookup(d->all->resolver, d->wh->endpoint.host, resolved, d);
    if (q == NULL) {
        return NEXT; /* resolved() was called and has set the step */
    }
    d->query = q;
    return WAIT;
}

/* --- SIGN and SEND --- */

struct request_headers {
    char event[sizeof("X-NetRecon-Event: ") + LIMIT_EVENT_TYPE];
    char delivery[sizeof("X-NetRecon-Delivery: ") + UUID_TEXT];
    char attempt[sizeof("X-NetRecon-Attempt: ") + 10];
    char netrecon[sizeof("X-NetRecon-Signature: ") + SIGN_NETRECON_SIZE];
    char previous[sizeof("X-NetRecon-Signature-Previous: ") + SIGN_NETRECON_SIZE];
    char id[sizeof("webhook-id: ") + UUID_TEXT];
    char timestamp[sizeof("webhook-timestamp: ") + 20];
    char standard[sizeof("webhook-signature: ") + 2 * SIGN_STANDARD_SIZE];
    char traceparent[sizeof("traceparent: ") + EVENT_TRACEPARENT];
};

static bool in_rotation(const struct delivery *d)
{
    return d->wh->previous != NULL && d->started_wall_us < d->wh->previous_until_us;
}

/* Both signatures with the newest secret, and with the one before it while the window is open
 * (platform.md section 3). */
static bool sign(const struct delivery *d, struct request_headers *h, const char *event_id,
                 int64_t now_s, struct err *err)
{
    const struct nrw_event *ev = d->ev;
    char netrecon[SIGN_NETRECON_SIZE];
    char standard[SIGN_STANDARD_SIZE];
    if (!signer_netrecon(d->wh->signer, ev->payload, ev->payload_len, netrecon, err) ||
        !signer_standard(d->wh->signer, event_id, now_s, ev->payload, ev->payload_len, standard,
                         err)) {
        return false;
    }
    (void)snprintf(h->netrecon, sizeof(h->netrecon), "X-NetRecon-Signature: %s", netrecon);
    (void)snprintf(h->standard, sizeof(h->standard), "webhook-signature: %s", standard);
    h->previous[0] = '\0';
    if (!in_rotation(d)) {
        return true;
    }
    char old[SIGN_STANDARD_SIZE];
    if (!signer_netrecon(d->wh->previous, ev->payload, ev->payload_len, netrecon, err) ||
        !signer_standard(d->wh->previous, event_id, now_s, ev->payload, ev->payload_len, old,
                         err)) {
        return false;
    }
    (void)snprintf(h->previous, sizeof(h->previous), "X-NetRecon-Signature-Previous: %s", netrecon);
    (void)snprintf(h->standard, sizeof(h->standard), "webhook-signature: %s %s", standard, old);
    return true;
}

static void sent(void *ctx, const struct transport_result *result);

static void add_header(struct transport_request *req, const char *line)
{
    CHECK(req->n_headers < TRANSPORT_HEADERS_MAX);
    req->headers[req->n_headers++] = line;
}

/* Signing and sending are one step in time - nothing may come between the timestamp and the request
 * - but two in the table, so that a signing fault is visible as what it is. */
static enum next step_sign(struct delivery *d)
{
    struct request_headers h;
    struct err err = {0};
    char event_id[UUID_TEXT + 1];
    char delivery_id[UUID_TEXT + 1];
    const int64_t now_s = clock_wall_us() / 1000000;
    uuid_format(&d->ev->id, event_id);
    uuid_format(&d->id, delivery_id);
    if (!sign(d, &h, event_id, now_s, &err)) {
        return fail(d, TRANSPORT_OURS, err.text);
    }
    (void)snprintf(h.event, sizeof(h.event), "X-NetRecon-Event: %s", d->ev->type);
    (void)snprintf(h.delivery, sizeof(h.delivery), "X-NetRecon-Delivery: %s", delivery_id);
    (void)snprintf(h.attempt, sizeof(h.attempt), "X-NetRecon-Attempt: %u", d->attempt);
    (void)snprintf(h.id, sizeof(h.id), "webhook-id: %s", event_id);
    (void)snprintf(h.timestamp, sizeof(h.timestamp), "webhook-timestamp: %" PRId64, now_s);

    struct transport_request req = {
        .endpoint = &d->wh->endpoint,
        .address = &d->address,
        .body = d->ev->payload,
        .body_len = d->ev->payload_len,
    };
    const char *const lines[] = {h.event, h.delivery,  h.attempt, h.netrecon,
                                 h.id,    h.timestamp, h.standard};
    for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
        add_header(&req, lines[i]);
    }
    if (h.previous[0] != '\0') {
        add_header(&req, h.previous);
    }
    if (d->ev->traceparent[0] != '\0') {
        (void)snprintf(h.traceparent, sizeof(h.traceparent), "traceparent: %s", d->ev->traceparent);
        add_header(&req, h.traceparent);
    }
    /* The promise is one deadline from the look-up to the last byte: what the look-up took is gone.
     */
    req.timeout_ms = d->all->cfg->send_timeout - (clock_mono_us() - d->started_mono_us) / 1000;
    if (req.timeout_ms < 1) {
        req.timeout_ms = 1;
    }
    set_step(d, DELIVERY_SEND);
    d->transfer = transport_send(d->all->transport, &req, sent, d); /* copies the headers */
    return WAIT;
}

static void keep_answer(struct attempt_result *r, const struct transport_result *t)
{
    r->headers_len = (uint16_t)t->headers_len;
    r->body_len = (uint16_t)t->body_len;
    if (t->headers_len + t->body_len == 0) {
        return;
    }
    r->kept = mem_alloc(t->headers_len + t->body_len);
    if (t->headers_len > 0) {
        memcpy(r->kept, t->headers, t->headers_len);
    }
    if (t->body_len > 0) {
        memcpy(r->kept + t->headers_len, t->body, t->body_len);
    }
}

static void sent(void *ctx, const struct transport_result *result)
{
    struct delivery *d = ctx;
    CHECK_MAGIC(d, DELIVERY_MAGIC);
    CHECK(d->step == DELIVERY_SEND);
    d->transfer = NULL;
    d->result.fault = result->fault;
    d->result.status = result->status;
    d->result.retry_after_s = result->retry_after_s;
    d->result.reused = result->reused;
    d->result.duration_us = clock_mono_us() - d->started_mono_us;
    (void)snprintf(d->result.error, sizeof(d->result.error), "%s", result->error);
    keep_answer(&d->result, result);
    set_step(d, DELIVERY_JUDGE);
    run(d);
}

/* --- JUDGE --- */

/* splitmix64: jitter needs spread, not secrecy. */
static uint32_t next_random(struct deliveries *all)
{
    uint64_t z = (all->jitter += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

/* The customer reads this in the delivery log, also when the answer came but was not a success. */
static void explain_status(struct attempt_result *r)
{
    if (r->error[0] != '\0' || (r->status >= 200 && r->status <= 299)) {
        return;
    }
    const char *why = r->status >= 300 && r->status <= 399 ? " (redirects are not followed)" : "";
    (void)snprintf(r->error, sizeof(r->error), "the endpoint answered %ld%s", r->status, why);
}

/* One wide line per attempt: everything that a question about a delivery needs. */
static void log_attempt(const struct delivery *d)
{
    const struct attempt_result *r = &d->result;
    const enum log_level level =
        d->outcome.kind == OUTCOME_DELIVERED ? LOG_LEVEL_INFO : LOG_LEVEL_WARN;
    LOG_AT_(level, "delivery.attempt", F_UUID("delivery", &d->id), F_UUID("event_id", &d->ev->id),
            F_STR("type", d->ev->type), F_UUID("tenant", &d->ev->tenant_id),
            F_UUID("webhook", &d->wh->id), F_INT("attempt", d->attempt),
            F_STR("outcome", outcome_name(d->outcome.kind)), F_INT("status", r->status),
            F_STR("fault", transport_fault_name(r->fault)), F_MS("took_ms", r->duration_us),
            F_MS("waited_ms", d->started_mono_us - d->ev->taken_mono_us),
            F_INT("reused", r->reused), F_INT("bytes", d->ev->payload_len),
            F_INT("partition", d->ev->partition), F_INT("offset", d->ev->offset),
            F_STR("error", r->error[0] != '\0' ? r->error : NULL));
}

static enum next step_judge(struct delivery *d)
{
    struct deliveries *all = d->all;
    if (d->result.fault == TRANSPORT_OK) {
        explain_status(&d->result);
    }
    d->outcome = outcome_judge(all->cfg, &d->result, d->attempt, clock_wall_us(), next_random(all));
    all->outcomes[d->outcome.kind]->value++;
    all->faults[d->result.fault]->value++;
    all->reused->value += d->result.reused;
    histogram_observe(all->seconds, (double)d->result.duration_us / 1e6);
    if (d->attempt == 1) {
        histogram_observe(all->latency, (double)(d->started_mono_us - d->ev->taken_mono_us) / 1e6);
    }
    log_attempt(d);
    return go(d, DELIVERY_RECORD);
}

/* --- RECORD and FINISH --- */

static void recorded(struct journal_entry *e, enum journal_end end)
{
    struct delivery *d = (struct delivery *)((char *)e - offsetof(struct delivery, entry));
    CHECK_MAGIC(d, DELIVERY_MAGIC);
    CHECK(d->step == DELIVERY_RECORD);
    if (end == JOURNAL_REJECTED) {
        d->all->on.rejected(d->all->on.ctx, d);
        return;
    }
    set_step(d, DELIVERY_FINISH);
    run(d);
}

static enum next step_record(struct delivery *d)
{
    const struct attempt_result *r = &d->result;
    d->entry = (struct journal_entry){
        .done = recorded,
        .ev = d->ev,
        .delivery_id = d->id,
        .webhook_id = d->wh->id,
        .attempt = d->attempt,
        .outcome = outcome_row(d->outcome.kind),
        .started_at_us = d->started_wall_us,
        .response_time_us = r->duration_us,
        .status_code = r->status,
        .error = r->error,
        .next_at_us = d->outcome.next_at_us,
        .headers = r->kept,
        .headers_len = r->headers_len,
        .body = r->kept != NULL ? r->kept + r->headers_len : NULL,
        .body_len = r->body_len,
    };
    if (d->outcome.kind == OUTCOME_RETRY || d->outcome.kind == OUTCOME_OURS) {
        const bool counted = d->outcome.kind == OUTCOME_RETRY;
        d->entry.pending_reason = counted ? "retry" : "spill";
        d->entry.pending_attempt = counted ? d->attempt + 1 : d->attempt;
        d->entry.pending_at_us = d->outcome.next_at_us;
    }
    d->all->on.left_lane(d->all->on.ctx,
                         d); /* the endpoint is free for the next one while the row is written */
    journal_add(d->all->journal, &d->entry);
    return WAIT;
}

static void release(struct delivery *d)
{
    d->all->open--;
    free(d->result.kept);
    d->result.kept = NULL;
    webhook_unref(d->wh);
    d->wh = NULL;
    struct nrw_event *ev = d->ev;
    d->ev = NULL;
    d->magic = 0;
    free(d);
    nrw_event_unref(ev); /* settles the event when this was its last delivery */
}

static enum next step_finish(struct delivery *d)
{
    release(d);
    return END;
}

/* --- the table --- */

static void run(struct delivery *d)
{
    enum next next = NEXT;
    while (next == NEXT) {
        switch (d->step) {
        case DELIVERY_RESOLVE:
            next = step_resolve(d);
            break;
        case DELIVERY_SIGN:
            next = step_sign(d);
            break;
        case DELIVERY_JUDGE:
            next = step_judge(d);
            break;
        case DELIVERY_RECORD:
            next = step_record(d);
            break;
        case DELIVERY_FINISH:
            next = step_finish(d);
            break;
        case DELIVERY_QUEUED: /* only delivery_start() leaves it */
        case DELIVERY_SEND:   /* only sent() leaves it           */
            CHECK(false);
        }
    }
}

struct delivery *delivery_new(struct deliveries *all, struct nrw_event *ev, struct webhook *wh,
                              unsigned attempt)
{
    CHECK_MAGIC(all, DELIVERIES_MAGIC);
    struct delivery *d = mem_zero(1, sizeof(*d));
    d->magic = DELIVERY_MAGIC;
    d->step = DELIVERY_QUEUED;
    d->all = all;
    d->ev = nrw_event_ref(ev);
    d->wh = webhook_ref(wh);
    d->id = uuid_of_delivery(&ev->id, &wh->id);
    d->attempt = attempt;
    all->open++;
    return d;
}

void delivery_start(struct delivery *d, struct webhook *newest)
{
    CHECK_MAGIC(d, DELIVERY_MAGIC);
    CHECK(d->step == DELIVERY_QUEUED);
    if (newest != d->wh) {
        struct webhook *old = d->wh;
        d->wh = webhook_ref(newest);
        webhook_unref(old);
    }
    set_step(d, DELIVERY_RESOLVE);
    run(d);
}

void delivery_drop(struct delivery *d, bool settled)
{
    CHECK_MAGIC(d, DELIVERY_MAGIC);
    CHECK(d->step == DELIVERY_QUEUED);
    if (!settled) {
        nrw_event_abandon(d->ev);
    }
    release(d);
}

void delivery_parked(struct delivery *d)
{
    CHECK_MAGIC(d, DELIVERY_MAGIC);
    CHECK(d->step == DELIVERY_RECORD);
    set_step(d, DELIVERY_FINISH);
    run(d);
}

size_t deliveries_open(const struct deliveries *all)
{
    return all->open;
}

static double open_deliveries(void *ctx)
{
    return (double)((struct deliveries *)ctx)->open;
}

static void register_metrics(struct deliveries *all)
{
    static const char *const outcome_labels[OUTCOMES] = {
        [OUTCOME_DELIVERED] = "outcome=\"delivered\"", [OUTCOME_RETRY] = "outcome=\"retry\"",
        [OUTCOME_EXHAUSTED] = "outcome=\"exhausted\"", [OUTCOME_GONE] = "outcome=\"gone\"",
        [OUTCOME_OURS] = "outcome=\"ours\"",
    };
    static const char *const fault_labels[FAULTS] = {
        [TRANSPORT_OK] = "fault=\"status\"",       [TRANSPORT_TIMEOUT] = "fault=\"timeout\"",
        [TRANSPORT_CONNECT] = "fault=\"connect\"", [TRANSPORT_TLS] = "fault=\"tls\"",
        [TRANSPORT_BROKEN] = "fault=\"broken\"",   [TRANSPORT_TOO_LARGE] = "fault=\"too_large\"",
        [TRANSPORT_DENIED] = "fault=\"denied\"",   [TRANSPORT_OURS] = "fault=\"ours\"",
    };
    for (int i = 0; i < OUTCOMES; i++) {
        all->outcomes[i] =
            metrics_counter("nrw_attempts_total", outcome_labels[i], "attempts by outcome");
    }
    for (int i = 0; i < FAULTS; i++) {
        all->faults[i] = metrics_counter("nrw_attempt_faults_total", fault_labels[i],
                                         "attempts by how they ended");
    }
    all->reused =
        metrics_counter("nrw_connections_reused_total", NULL, "attempts over a kept connection");
    all->seconds = metrics_histogram("nrw_attempt_seconds", NULL,
                                     "duration of an attempt, look-up to last byte",
                                     metrics_seconds_bounds, metrics_seconds_bounds_n);
    all->latency = metrics_histogram("nrw_first_attempt_wait_seconds", NULL,
                                     "from intake to the start of attempt 1",
                                     metrics_seconds_bounds, metrics_seconds_bounds_n);
    metrics_gauge_fn("nrw_deliveries_open", NULL, "deliveries in memory", open_deliveries, all);
}

struct deliveries *deliveries_new(const struct config *cfg, const struct netguard *guard,
                                  struct resolver *resolver, struct transport *transport,
                                  struct journal *journal,
                                  const struct deliveries_handlers *handlers)
{
    struct deliveries *all = mem_zero(1, sizeof(*all));
    all->magic = DELIVERIES_MAGIC;
    all->cfg = cfg;
    all->guard = guard;
    all->resolver = resolver;
    all->transport = transport;
    all->journal = journal;
    all->on = *handlers;
    CHECK(RAND_bytes((unsigned char *)&all->jitter, sizeof(all->jitter)) == 1);
    register_metrics(all);
    return all;
}

void deliveries_free(struct deliveries *all)
{
    if (all == NULL) {
        return;
    }
    CHECK_MAGIC(all, DELIVERIES_MAGIC);
    all->magic = 0;
    free(all);
}
