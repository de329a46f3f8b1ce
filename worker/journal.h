/* What happened, made durable: entries collect and go to PostgreSQL in batches, one transaction a
 * batch (one unit of pg.h). Every batch is idempotent, so one whose answer was lost is simply sent
 * again: rows that are there refuse it (that is cheaper than asking for each), and then it goes in
 * a form that leaves them alone. A batch that the server refuses because of its data is bisected
 * until the bad entry stands alone (R37): that entry is written once more without the outsider's
 * bytes, and when even that is refused it is handed back as rejected. All other failures are ours:
 * the batch waits for the connection and is sent again. */
#ifndef NRW_JOURNAL_H
#define NRW_JOURNAL_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "event.h"
#include "ids.h"

struct journal;
struct journal_entry;

/* What becomes of the pending row. MOVE and DELETE touch it only while it still stands at
 * `attempt`: an owner that was overtaken changes nothing (R26). A MOVE keeps the row's final
 * attempt and its replay job. */
enum journal_pending {
    JOURNAL_PENDING_KEEP,
    JOURNAL_PENDING_PUT,    /* a first attempt failed or was spilled           */
    JOURNAL_PENDING_MOVE,   /* a retry failed, or is given back (same attempt) */
    JOURNAL_PENDING_DELETE, /* a retry ended for good                          */
};

/* What the outcome means for the webhook. Each transition happens once, whoever comes first, and
 * writes its row of `notifications` in the same transaction. */
enum journal_standing {
    JOURNAL_STANDING_KEEP,
    JOURNAL_STANDING_EXHAUSTED,       /* active -> failing, mail             */
    JOURNAL_STANDING_SUCCEEDED,       /* failing -> active                   */
    JOURNAL_STANDING_SUCCEEDED_NOTED, /* and last_success_at moves on anyhow */
    JOURNAL_STANDING_GONE,            /* -> disabled, mail                   */
};

enum journal_end {
    JOURNAL_COMMITTED,
    JOURNAL_REJECTED, /* PostgreSQL does not take this entry; err text was logged */
};
typedef void journal_fn(struct journal_entry *e, enum journal_end end);

/* Embedded in its owner; everything it points to stays valid until `done`. */
struct journal_entry {
    journal_fn *done;
    struct journal_entry *next; /* the journal's */
    struct nrw_event *ev;
    struct uuid delivery_id;
    struct uuid webhook_id;
    unsigned attempt;

    /* attempts row; outcome NULL: none is written */
    const char *outcome;
    int64_t started_at_us;
    int64_t response_time_us;
    long status_code;    /* 0: none            */
    const char *error;   /* NULL or "": none   */
    const char *headers; /* kept, any bytes    */
    size_t headers_len;
    const char *body; /* kept, any bytes    */
    size_t body_len;

    /* pending_deliveries row */
    enum journal_pending pending;
    const char *pending_reason; /* PUT, MOVE: pending_deliveries.reason                         */
    unsigned pending_attempt;   /* PUT, MOVE: the number of the next attempt                    */
    int64_t pending_delay_us;   /* PUT, MOVE: due so long after the commit, by PostgreSQL's clock */
    /* MOVE, DELETE: only while the row has this leased_until; 0: whatever it has */
    int64_t lease_us;

    /* webhooks row and outbox */
    enum journal_standing standing;
    const char *url; /* EXHAUSTED, GONE: while the webhook has this one */

    bool bare; /* the journal's: written without the outsider's bytes */
};

struct journal *journal_new(struct event_base *base, const struct config *cfg);
void journal_add(struct journal *j, struct journal_entry *e);
bool journal_up(const struct journal *j);
size_t journal_waiting(const struct journal *j); /* entries not committed */
/* Once per turn: sends a batch when it is large or old enough. */
void journal_after_turn(struct journal *j);
/* Entries without an answer are forgotten: `done` does not come. */
void journal_free(struct journal *j);

#endif
