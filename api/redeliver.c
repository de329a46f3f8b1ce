/* Owns the decision whether and how a delivery is attempted again, so that no attempt's number is
 * ever given twice: two attempts of one number would be one row in the log. A worker does the rest.
 * The router calls it. */
#include "redeliver.h"

#include <string.h>

#include "bounds.h"
#include "call.h"
#include "check.h"
#include "hints.h"
#include "param.h"
#include "pgarray.h"
#include "query.h"
#include "render.h"

#define ATTEMPT_MAX 32767 /* the column is a smallint */

#define TEXT_OF_(x) #x
#define TEXT_OF(x)  TEXT_OF_(x)

/* clang-format off */
/* One at a time: whoever comes second sees the row of the first, or what a worker has made of it. In a statement of its own, because the
 * next one's snapshot must be younger than the lock; and so that the next one is planned without reading tables whole. */
static const char lock_sql[] =
    "SELECT pg_advisory_xact_lock(hashtextextended('nrw_asked ' || $1::text, 0)), set_config('enable_seqscan', 'off', true)";

/* $1 webhook, $2 tenant, $3 delivery. A pending row tells what is next; without one the newest attempt does. What a worker changes after
 * the first look is seen by the second one, at the row itself: then nothing is queued, whatever the verdict was. All attempts of a delivery
 * are at the time of its event, which is found by the webhook's index, in the last days' partitions first. */
#define TIME_OF_ATTEMPT "SELECT received_at FROM attempts WHERE webhook_id = $1 AND delivery_id = $3 AND received_at"
static const char redeliver_sql[] =
    "WITH hook AS (SELECT active AND status <> 'disabled' AS active FROM webhooks"
    "  WHERE id = $1 AND tenant_id = $2 AND deleted_at IS NULL),"
    " waiting AS (SELECT event_id, received_at, next_attempt, leased_until > now() IS TRUE OR reason = 'test' AS in_hand"
    "  FROM pending_deliveries WHERE delivery_id = $3 AND webhook_id = $1 AND tenant_id = $2),"
    " found AS (SELECT * FROM (" TIME_OF_ATTEMPT " >= now() - interval '2 days'"
    "  UNION ALL " TIME_OF_ATTEMPT " < now() - interval '2 days' LIMIT 1) t WHERE NOT EXISTS (SELECT FROM waiting)),"
    " finished AS (SELECT event_id, received_at, event_type, attempt FROM attempts"
    "  WHERE received_at = (SELECT received_at FROM found) AND delivery_id = $3 AND webhook_id = $1 AND tenant_id = $2"
    "  ORDER BY attempts.attempt DESC LIMIT 1),"
    " event AS (SELECT event_id, received_at FROM waiting UNION ALL SELECT event_id, received_at FROM finished),"
    " judged AS (SELECT CASE"
    "  WHEN NOT EXISTS (SELECT FROM hook) THEN 'no webhook'"
    "  WHEN NOT EXISTS (SELECT FROM event) THEN 'no delivery'"
    "  WHEN NOT (SELECT active FROM hook) THEN 'inactive'"
    "  WHEN (SELECT in_hand FROM waiting) THEN 'in hand'"
    "  WHEN (SELECT attempt FROM finished) >= " TEXT_OF(ATTEMPT_MAX) " THEN 'used up'"
    "  WHEN NOT EXISTS (SELECT FROM events WHERE tenant_id = $2 AND received_at = (SELECT received_at FROM event)"
    "   AND id = (SELECT event_id FROM event)) THEN 'gone'"
    "  ELSE 'due' END AS verdict),"
    " moved AS (UPDATE pending_deliveries p SET next_attempt_at = now(), reason = 'redeliver', replay_job_id = NULL, updated_at = now()"
    "  FROM waiting w, judged WHERE verdict = 'due' AND p.delivery_id = $3 AND p.next_attempt = w.next_attempt"
    "  AND (p.leased_until IS NULL OR p.leased_until < now()) RETURNING p.event_id, p.next_attempt),"
    " added AS (INSERT INTO pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type,"
    "  next_attempt, final_attempt, next_attempt_at, reason)"
    "  SELECT $3, received_at, event_id, $1, $2, event_type, attempt + 1,"
    "  least(attempt + " TEXT_OF(LIMIT_ATTEMPTS) ", " TEXT_OF(ATTEMPT_MAX) "), now(), 'redeliver' FROM finished, judged"
    "  WHERE verdict = 'due' ON CONFLICT DO NOTHING RETURNING event_id, next_attempt),"
    " queued AS (SELECT * FROM moved UNION ALL SELECT * FROM added)"
    " SELECT verdict, event_id, next_attempt::bigint FROM judged LEFT JOIN queued ON true";
/* clang-format on */

static void refuse(struct call *c, const char *verdict)
{
    if (strcmp(verdict, "no webhook") == 0) {
        call_not_found(c, "webhook");
    } else if (strcmp(verdict, "no delivery") == 0) {
        call_not_found(c, "delivery of this webhook");
    } else if (strcmp(verdict, "inactive") == 0) {
        call_problem(c, PROBLEM_WEBHOOK_INACTIVE,
                     "the webhook is paused or disabled: set active to true first");
    } else if (strcmp(verdict, "gone") == 0) {
        call_problem(c, PROBLEM_PAYLOAD_GONE,
                     "the event of this delivery is not kept any more: payloads are kept for %lld "
                     "days",
                     (long long)(c->api->cfg->retention / 86400000));
    } else if (strcmp(verdict, "used up") == 0) {
        call_problem(c, PROBLEM_ATTEMPTS_USED_UP, "this delivery has had %d attempts", ATTEMPT_MAX);
    } else { /* "in hand"; or "due", and a worker was faster */
        call_problem(c, PROBLEM_IN_PROGRESS,
                     "an attempt of this delivery is under way; look at its outcome first");
    }
}

static void judged(struct call *c, const struct pg_reply *reply)
{
    const PGresult *r = reply->results[1];
    if (PQgetisnull(r, 0, 1)) {
        refuse(c, PQgetvalue(r, 0, 0));
        return;
    }
    hints_due(c->api->hints, &c->ids[1], 0);
    json_t *o = json_object();
    CHECK(o != NULL);
    render_add(o, "delivery_id", render_id(&c->ids[1]));
    render_add(o, "webhook_id", render_id(&c->ids[0]));
    render_add(o, "event_id", render_uuid(r, 0, 1));
    render_add(o, "attempt", render_int(r, 0, 2));
    render_add(o, "state", json_string("queued"));
    call_reply(c, 202, o);
}

void redeliver(struct call *c)
{
    if (!query_none(c)) {
        return;
    }
    const struct pg_param params[] = {param_uuid(&c->ids[0]), param_uuid(&c->who.tenant_id),
                                      param_uuid(&c->ids[1])};
    const struct pg_stmt stmts[] = {
        {.sql = lock_sql, .params = params, .n_params = 1},
        {.sql = redeliver_sql, .params = params, .n_params = 3, .binary_result = true}};
    call_query(c, stmts, 2, judged);
}
