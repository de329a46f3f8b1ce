/* Owns the meaning of an outcome for the three tables: the attempt's row, the pending row, the
 * webhook's standing. delivery's RECORD step calls it, and so does what ends a delivery without an
 * attempt. */
#include "delivery_entry.h"

#define SUCCESS_EVERY_US INT64_C(60000000)

/* What somebody asked for is told apart until it was tried: given back, it keeps its reason. */
static const char *pending_reason(const struct delivery *d)
{
    if (d->outcome.kind == OUTCOME_RETRY) {
        return event_reason_name(EVENT_RETRY);
    }
    const bool asked_for = d->class == DELIVERY_RETRY && d->ev->retry.reason >= EVENT_REDELIVER;
    return event_reason_name(asked_for ? d->ev->retry.reason : EVENT_SPILL);
}

/* The pending row after an attempt that ended like this, or that was not made at all. */
static void set_pending(struct delivery *d)
{
    const bool retry = d->class == DELIVERY_RETRY;
    struct journal_entry *e = &d->entry;
    switch (d->outcome.kind) {
    case OUTCOME_RETRY:
    case OUTCOME_OURS:
        e->pending = retry ? JOURNAL_PENDING_MOVE : JOURNAL_PENDING_PUT;
        e->pending_delay_us = d->outcome.delay_us;
        e->pending_reason = pending_reason(d);
        e->pending_attempt = d->outcome.kind == OUTCOME_RETRY ? d->attempt + 1 : d->attempt;
        return;
    case OUTCOME_DELIVERED:
    case OUTCOME_EXHAUSTED:
    case OUTCOME_GONE:
    case OUTCOME_TEST_FAILED:
        e->pending = retry ? JOURNAL_PENDING_DELETE : JOURNAL_PENDING_KEEP;
        return;
    }
}

/* A write per success would be one more per delivery; to the minute is what its reader needs. */
static bool is_news(struct webhook *wh, int64_t now_mono_us)
{
    if (wh->success_noted_mono_us != 0 &&
        now_mono_us - wh->success_noted_mono_us < SUCCESS_EVERY_US) {
        return false;
    }
    wh->success_noted_mono_us = now_mono_us;
    return true;
}

static enum journal_standing standing_of(const struct delivery *d)
{
    switch (d->outcome.kind) {
    case OUTCOME_EXHAUSTED:
        return JOURNAL_STANDING_EXHAUSTED;
    case OUTCOME_GONE:
        return JOURNAL_STANDING_GONE;
    case OUTCOME_DELIVERED:
        return is_news(d->wh, d->started_mono_us) ? JOURNAL_STANDING_SUCCEEDED_NOTED
                                                  : JOURNAL_STANDING_SUCCEEDED;
    case OUTCOME_RETRY:
    case OUTCOME_OURS:
    case OUTCOME_TEST_FAILED:
        return JOURNAL_STANDING_KEEP;
    }
    return JOURNAL_STANDING_KEEP;
}

static struct journal_entry blank_entry(const struct delivery *d)
{
    return (struct journal_entry){.ev = d->ev,
                                  .delivery_id = d->id,
                                  .webhook_id = d->wh->id,
                                  .url = d->wh->url,
                                  .attempt = d->attempt,
                                  .lease_us = d->ev->is_retry ? d->ev->retry.lease_us : 0};
}

void delivery_entry_attempt(struct delivery *d)
{
    const struct attempt_result *r = &d->result;
    struct journal_entry *e = &d->entry;
    *e = blank_entry(d);
    e->outcome = outcome_row(d->outcome.kind);
    e->started_at_us = d->started_wall_us;
    e->response_time_us = r->duration_us;
    e->status_code = r->status;
    e->error = r->error;
    e->headers = r->kept;
    e->headers_len = r->headers_len;
    e->body = r->kept != NULL ? r->kept + r->headers_len : NULL;
    e->body_len = r->body_len;
    e->standing = standing_of(d);
    set_pending(d);
}

void delivery_entry_spilled(struct delivery *d)
{
    d->entry = blank_entry(d);
    set_pending(d);
}

void delivery_entry_cancelled(struct delivery *d)
{
    d->entry = blank_entry(d);
    d->entry.pending = d->class == DELIVERY_RETRY ? JOURNAL_PENDING_DELETE : JOURNAL_PENDING_KEEP;
}
