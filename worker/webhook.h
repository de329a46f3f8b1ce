/* One version of a customer's webhook as the worker sees it: immutable, reference counted (a
 * tenant's list, lanes and deliveries hold it; a newer version replaces it without touching what is
 * under way). */
#ifndef NRW_WEBHOOK_H
#define NRW_WEBHOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "endpoint.h"
#include "ids.h"
#include "netguard.h"
#include "seal.h"
#include "sign.h"

#define WEBHOOK_MAGIC 0x57484f4fu

enum webhook_fault {
    WEBHOOK_USABLE,
    WEBHOOK_BAD_URL, /* the URL breaks the policy: each delivery is a failed attempt that says so */
    WEBHOOK_NO_SECRET, /* the secret does not open: a fault of ours, no attempt is made or counted
                        */
};

struct webhook {
    unsigned magic;
    unsigned refs;
    struct uuid id;
    struct uuid tenant_id;
    int64_t version;
    uint32_t mask; /* of event_types.h */
    char *url;     /* as the row has it; where requests go is `endpoint` */
    bool failing;
    bool inactive; /* paused or disabled: nothing is sent but tests */
    /* When last_success_at was written last: the one member that changes. */
    int64_t success_noted_mono_us;
    enum webhook_fault fault;
    char fault_text[240];
    struct endpoint endpoint; /* set unless WEBHOOK_BAD_URL    */
    struct signer *signer;    /* set unless WEBHOOK_NO_SECRET  */
    struct signer *previous;  /* NULL outside a rotation window */
    int64_t previous_until_us;
};

/* The row as the database has it; everything borrowed. */
struct webhook_row {
    struct uuid id;
    struct uuid tenant_id;
    int64_t version;
    const char *url;
    size_t url_len;
    const void *secret; /* sealed */
    size_t secret_len;
    const void *previous_secret; /* sealed; NULL when there is none */
    size_t previous_secret_len;
    int64_t previous_until_us;
    const char *events; /* patterns separated by blanks */
    size_t events_len;
    bool failing;
    bool inactive;
};

/* Always returns a webhook with one reference; what is wrong with the row is in `fault`. */
struct webhook *webhook_new(const struct webhook_row *row, bool allow_http,
                            const struct netguard *guard, const struct keyring *keys);
struct webhook *webhook_ref(struct webhook *wh);
void webhook_unref(struct webhook *wh); /* NULL is fine */

#endif
