/* The body of a request that creates or changes a webhook, read and judged: the registration gate.
 * What passes it may be stored as it is. */
#ifndef NRW_WEBHOOK_INPUT_H
#define NRW_WEBHOOK_INPUT_H

#include <stdbool.h>

#include "call.h"
#include "pgarray.h"
#include "webhook_secret.h"

enum webhook_input_kind {
    WEBHOOK_CREATE, /* url and events must be there */
    WEBHOOK_PATCH,  /* nothing must                 */
};

/* What a patch does not name stays as it is. */
struct webhook_input {
    char *url; /* canonical (endpoint.h); NULL: not given */
    bool has_events;
    struct pgarray events;
    bool has_active;
    bool active;
    bool has_description;
    char *description;            /* NULL: null */
    struct webhook_secret secret; /* len 0: not given */
};

/* False: answered, and ret needs no webhook_input_done(). */
bool webhook_input_read(struct call *c, enum webhook_input_kind kind,
                        struct webhook_input *ret) MUST_CHECK;
void webhook_input_done(struct webhook_input *in); /* cleanses */

#endif
