/* Webhooks: the handlers of /api/v1/integrations/webhooks and /{webhook_id}. A webhook of another
 * tenant, and a deleted one, is never found. A change reaches the workers by the table's own
 * trigger. */
#ifndef NRW_WEBHOOKS_H
#define NRW_WEBHOOKS_H

#include "call.h"

void webhooks_create(struct call *c);        /* webhook_create.c */
void webhooks_list(struct call *c);          /* webhooks.c       */
void webhooks_get(struct call *c);           /* webhooks.c       */
void webhooks_update(struct call *c);        /* webhook_update.c */
void webhooks_delete(struct call *c);        /* webhook_update.c */
void webhooks_rotate_secret(struct call *c); /* webhook_rotate.c */

#endif
