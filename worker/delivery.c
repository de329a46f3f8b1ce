/* Owns the step table: one delivery from its turn in the lane to its durable outcome. Reads top to
 * bottom in the order of the steps. lanes starts deliveries; resolver, transport and journal call
 * back here, store their answer and resume the table. */
#include "delivery.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "clock.h"
#include "delivery_entry.h"
#include "delivery_metrics.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"
#include "request.h"

#define DELIVERIES_MAGIC 0x44454c53u

enum next { NEXT, WAIT, END };

struct deliveries {
    unsigned magic;
    const struct config *cfg;
    const struct netguard *guard;
    struct resolver *resolver;
    struct transport *transport;
    struct journal *journal;
    struct deliveries_handlers on;
    size_t open[2];  /* by class */
    uint64_t jitter; /* state of the jitter generator */
    struct delivery_metrics metrics;
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
    d->ended_in = d->step;
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

/* The request is over, or never was: the endpoint is free for the next one. */
static void leave_lane(struct delivery *d)
{
    if (d->started) {
        d->started = false;
        d->all->on.left_lane(d->all->on.ctx, d);
    }
}

static bool lease_is_over(const struct delivery *d)
{
    return d->class == DELIVERY_RETRY && clock_mono_us() >= d->ev->retry.lease_until_mono_us;
}

/* Too late to start: the lease may be somebody else's by now (a paused process, a long queue).
 * Nothing is written; the schedule hands it out again. */
static enum next lease_over(struct delivery *d)
{
    log_info("delivery.lease_over", F_UUID("delivery", &d->id), F_INT("attempt", d->attempt));
    d->result.fault = TRANSPORT_OURS;
    leave_lane(d);
    return go(d, DELIVERY_FINISH);
}

static enum next step_resolve(struct delivery *d)
{
    d->started_mono_us = clock_mono_us();
    if (lease_is_over(d)) {
        return lease_over(d);
    }
    d->started_wall_us = clock_wall_us();
    if (d->wh->fault == WEBHOOK_BAD_URL) {
        return fail(d, TRANSPORT_DENIED, d->wh->fault_text);
    }
    if (d->wh->fault == WEBHOOK_NO_SECRET) {
        return go(d, DELIVERY_SIGN); /* where it fails: no need to look anything up */
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

static void sent(void *ctx, const struct transport_result *result);

/* Signing and sending are one step in time - nothing may come between the timestamp and the request
 * - but two in the table, so that a signing fault is visible as what it is. */
static enum next step_sign(struct delivery *d)
{
    struct request r;
    struct err err = {0};
    if (d->wh->fault == WEBHOOK_NO_SECRET) {
        return fail(d, TRANSPORT_OURS, d->wh->fault_text);
    }
    if (!request_build(&r, d->ev, d->wh, &d->id, d->attempt, clock_wall_us(), &err)) {
        return fail(d, TRANSPORT_OURS, err.text);
    }
    /* The promise is one deadline from the look-up to the last byte: what the look-up took is gone.
     */
    const int64_t left_ms =
        d->all->cfg->send_timeout - (clock_mono_us() - d->started_mono_us) / 1000;
    r.http.timeout_ms = left_ms > 0 ? left_ms : 1;
    r.http.address = &d->address;
    set_step(d, DELIVERY_SEND);
    d->transfer = transport_send(d->all->transport, &r.http, sent, d); /* copies the headers */
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
    d->ended_in = DELIVERY_SEND;
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
    d->outcome = nrw_event_is_test(d->ev) ? outcome_of_test(all->cfg, &d->result, next_random(all))
                                          : outcome_judge(all->cfg, &d->result, d->attempt,
                                                          d->final_attempt, next_random(all));
    delivery_metrics_attempt(&all->metrics, d);
    log_attempt(d);
    return go(d, DELIVERY_RECORD);
}

/* --- RECORD and FINISH --- */

static void recorded(struct journal_entry *e, enum journal_end end);

static void record(struct delivery *d)
{
    d->entry.done = recorded;
    journal_add(d->all->journal, &d->entry);
}

/* Its row is durable: the index of deadlines may follow. */
static void tell_schedule(const struct delivery *d)
{
    const struct deliveries_handlers *on = &d->all->on;
    switch (d->entry.pending) {
    case JOURNAL_PENDING_PUT:
    case JOURNAL_PENDING_MOVE:
        on->due(on->ctx, &d->id, d->entry.pending_delay_us);
        return;
    case JOURNAL_PENDING_DELETE:
        on->ended(on->ctx, &d->id);
        return;
    case JOURNAL_PENDING_KEEP:
        return;
    }
}

static void recorded(struct journal_entry *e, enum journal_end end)
{
    struct delivery *d = (struct delivery *)((char *)e - offsetof(struct delivery, entry));
    CHECK_MAGIC(d, DELIVERY_MAGIC);
    CHECK(d->step == DELIVERY_RECORD);
    if (end == JOURNAL_COMMITTED) {
        tell_schedule(d);
    } else if (d->class == DELIVERY_NEW) {
        d->all->on.rejected(d->all->on.ctx, d);
        return;
    } /* a rejected retry still has its pending row: it comes back when the lease is over */
    set_step(d, DELIVERY_FINISH);
    run(d);
}

static enum next step_record(struct delivery *d)
{
    delivery_entry_attempt(d);
    leave_lane(d); /* while the row is written */
    record(d);
    return WAIT;
}

static void release(struct delivery *d)
{
    d->all->open[d->class]--;
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

struct delivery *delivery_new(struct deliveries *all, struct nrw_event *ev, struct webhook *wh)
{
    CHECK_MAGIC(all, DELIVERIES_MAGIC);
    struct delivery *d = mem_zero(1, sizeof(*d));
    d->magic = DELIVERY_MAGIC;
    d->class = ev->is_retry ? DELIVERY_RETRY : DELIVERY_NEW;
    d->step = DELIVERY_QUEUED;
    d->all = all;
    d->ev = nrw_event_ref(ev);
    d->wh = webhook_ref(wh);
    d->id = uuid_of_delivery(&ev->id, &wh->id);
    d->attempt = ev->is_retry ? ev->retry.attempt : 1;
    d->final_attempt = ev->is_retry ? ev->retry.final_attempt : LIMIT_ATTEMPTS;
    all->open[d->class]++;
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
    d->started = true;
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

void delivery_spill(struct delivery *d, int64_t delay_us)
{
    CHECK_MAGIC(d, DELIVERY_MAGIC);
    CHECK(d->step == DELIVERY_QUEUED);
    if (lease_is_over(d)) { /* giving it back would take it from whoever has it now */
        delivery_drop(d, false);
        return;
    }
    d->outcome = (struct outcome){.kind = OUTCOME_OURS, .delay_us = delay_us};
    delivery_entry_spilled(d);
    set_step(d, DELIVERY_RECORD); /* straight to the journal */
    record(d);
}

void delivery_cancel(struct delivery *d)
{
    CHECK_MAGIC(d, DELIVERY_MAGIC);
    CHECK(d->step == DELIVERY_QUEUED);
    if (d->class == DELIVERY_NEW && d->ev->row_committed) {
        delivery_drop(d, true); /* its event is there to be replayed */
        return;
    }
    delivery_entry_cancelled(d);
    set_step(d, DELIVERY_RECORD);
    record(d);
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
    return all->open[DELIVERY_NEW] + all->open[DELIVERY_RETRY];
}

size_t deliveries_retries(const struct deliveries *all)
{
    return all->open[DELIVERY_RETRY];
}

static double open_deliveries(void *ctx)
{
    return (double)deliveries_open(ctx);
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
    delivery_metrics_register(&all->metrics);
    metrics_gauge_fn("nrw_deliveries_open", NULL, "deliveries in memory", open_deliveries, all);
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
