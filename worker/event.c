/* Owns the memory of an event and the moment it settles: the last reference closes its tracker
 * slot. Knows nothing of Kafka or HTTP. Made by intake (and later by retries), held by deliveries.
 */
#include "event.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "event_types.h"
#include "mem.h"

static const char *const reason_names[] = {
    [EVENT_RETRY] = "retry",   [EVENT_SPILL] = "spill", [EVENT_REDELIVER] = "redeliver",
    [EVENT_REPLAY] = "replay", [EVENT_TEST] = "test",
};

const char *event_reason_name(enum event_reason reason)
{
    return reason_names[reason];
}

enum event_reason event_reason_of(const char *name)
{
    for (int r = EVENT_RETRY; r <= EVENT_TEST; r++) {
        if (strcmp(reason_names[r], name) == 0) {
            return (enum event_reason)r;
        }
    }
    return EVENT_RETRY;
}

struct nrw_event *nrw_event_new(struct event_account *account, const char *type, size_t type_len,
                                const void *payload, size_t payload_len)
{
    struct nrw_event *ev = mem_alloc(sizeof(*ev) + type_len + 1 + payload_len);
    memset(ev, 0, sizeof(*ev));
    ev->magic = EVENT_MAGIC;
    ev->refs = 1;
    ev->account = account;

    char *tail = (char *)(ev + 1);
    memcpy(tail, type, type_len);
    tail[type_len] = '\0';
    ev->type = tail;
    ev->type_bit = event_type_bit(type, type_len);

    char *body = tail + type_len + 1;
    if (payload_len > 0) {
        memcpy(body, payload, payload_len);
    }
    ev->payload = body;
    ev->payload_len = payload_len;

    account->events++;
    account->payload_bytes += payload_len;
    return ev;
}

struct nrw_event *nrw_event_ref(struct nrw_event *ev)
{
    CHECK_MAGIC(ev, EVENT_MAGIC);
    ev->refs++;
    return ev;
}

void nrw_event_unref(struct nrw_event *ev)
{
    CHECK_MAGIC(ev, EVENT_MAGIC);
    CHECK(ev->refs > 0);
    if (--ev->refs > 0) {
        return;
    }
    if (ev->tracker != NULL) {
        if (ev->abandoned) {
            tracker_leave(ev->tracker);
        } else {
            tracker_done(ev->tracker, ev->slot);
        }
        ev->tracker = NULL;
    }
    ev->account->events--;
    ev->account->retries -= ev->is_retry;
    ev->account->payload_bytes -= ev->payload_len;
    ev->magic = 0;
    free(ev);
}

void nrw_event_set_retry(struct nrw_event *ev, const struct event_retry *retry)
{
    CHECK_MAGIC(ev, EVENT_MAGIC);
    CHECK(!ev->is_retry);
    ev->is_retry = true;
    ev->retry = *retry;
    ev->account->retries++;
}

bool nrw_event_is_test(const struct nrw_event *ev)
{
    return ev->is_retry && ev->retry.reason == EVENT_TEST;
}

void nrw_event_abandon(struct nrw_event *ev)
{
    CHECK_MAGIC(ev, EVENT_MAGIC);
    ev->abandoned = true;
}
