/* Turns a row of the table into a usable webhook: URL parsed and judged, secrets opened into
 * signers, event patterns into a mask. Plain secrets live only inside this function's frame and the
 * signers. Called by subscriptions. */
#include "webhook.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "check.h"
#include "event_types.h"
#include "log.h"
#include "mem.h"

static struct signer *open_secret(const struct keyring *keys, const char *column,
                                  const struct webhook_row *row, const void *blob, size_t len,
                                  struct err *err)
{
    char plain[LIMIT_SECRET];
    size_t plain_len = 0;
    const struct seal_aad aad = {.column = column, .row = row->id, .tenant = row->tenant_id};
    if (!seal_open(keys, &aad, blob, len, plain, &plain_len, err)) {
        return NULL;
    }
    struct signer *s = signer_new(plain, plain_len, err);
    OPENSSL_cleanse(plain, sizeof(plain));
    return s;
}

static void set_fault(struct webhook *wh, enum webhook_fault fault, const struct err *err)
{
    wh->fault = fault;
    (void)snprintf(wh->fault_text, sizeof(wh->fault_text), "%s", err->text);
    log_warn(fault == WEBHOOK_BAD_URL ? "webhook.bad_url" : "webhook.no_secret",
             F_UUID("webhook", &wh->id), F_UUID("tenant", &wh->tenant_id), F_ERR(err));
}

struct webhook *webhook_new(const struct webhook_row *row, bool allow_http,
                            const struct netguard *guard, const struct keyring *keys)
{
    struct webhook *wh = mem_zero(1, sizeof(*wh));
    wh->magic = WEBHOOK_MAGIC;
    wh->refs = 1;
    wh->id = row->id;
    wh->tenant_id = row->tenant_id;
    wh->version = row->version;
    wh->url = mem_dupn(row->url, row->url_len);
    wh->failing = row->failing;
    wh->inactive = row->inactive;
    wh->mask = event_patterns_mask(row->events, row->events_len);

    struct err err = {0};
    if (!endpoint_parse(row->url, row->url_len, allow_http, guard, &wh->endpoint, &err)) {
        set_fault(wh, WEBHOOK_BAD_URL, &err);
        return wh;
    }
    wh->signer = open_secret(keys, "webhooks.secret", row, row->secret, row->secret_len, &err);
    if (wh->signer != NULL && row->previous_secret != NULL) {
        wh->previous = open_secret(keys, "webhooks.previous_secret", row, row->previous_secret,
                                   row->previous_secret_len, &err);
        wh->previous_until_us = row->previous_until_us;
    }
    if (wh->signer == NULL || (row->previous_secret != NULL && wh->previous == NULL)) {
        set_fault(wh, WEBHOOK_NO_SECRET, &err);
    }
    return wh;
}

struct webhook *webhook_ref(struct webhook *wh)
{
    CHECK_MAGIC(wh, WEBHOOK_MAGIC);
    wh->refs++;
    return wh;
}

void webhook_unref(struct webhook *wh)
{
    if (wh == NULL) {
        return;
    }
    CHECK_MAGIC(wh, WEBHOOK_MAGIC);
    if (--wh->refs > 0) {
        return;
    }
    free(wh->url);
    endpoint_done(&wh->endpoint);
    signer_free(wh->signer);
    wh->signer = NULL;
    signer_free(wh->previous);
    wh->previous = NULL;
    wh->magic = 0;
    free(wh);
}
