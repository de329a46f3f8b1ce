-- The outbox of e-mails to account owners, and the replay jobs that tenants start.

-- Written in the transaction that changes a webhook's status, sent later by whichever worker claims it (for update skip locked). The row's id
-- is the mail's Message-ID, so that the one repeat a crash between "sent" and "marked" can cause is recognised by the mail system.
create table notifications (
    id            uuid primary key default gen_random_uuid(),
    kind          text not null check (kind in ('webhook_failing', 'webhook_disabled')),
    tenant_id     uuid not null,
    webhook_id    uuid not null,
    transition_at timestamptz not null, -- webhooks.failing_since or disabled_at: names the transition
    reason        text check (octet_length(reason) <= 1024),
    status_code   smallint,             -- what the endpoint answered last
    error         text,
    state         text not null default 'pending' check (state in ('pending', 'sent', 'dropped')),
    tries         integer not null default 0,
    next_try_at   timestamptz not null default now(),
    claimed_until timestamptz,
    last_error    text,                 -- of the mail server, or why it was dropped
    created_at    timestamptz not null default now(),
    finished_at   timestamptz,
    constraint notifications_one_per_transition unique (webhook_id, kind, transition_at)
) with (fillfactor = 80);
create index notifications_due on notifications (next_try_at) where state = 'pending';

-- A job walks its source in the order (cursor_at, cursor_id) and turns what it selects into pending deliveries; the cursor moves in the same
-- transaction, so a crash neither repeats nor skips. finished rows are small and are kept.
create table replay_jobs (
    id            uuid primary key default gen_random_uuid(),
    tenant_id     uuid not null references tenants,
    webhook_id    uuid not null references webhooks on delete cascade,
    since         timestamptz not null,
    until         timestamptz not null,
    selection     text not null check (selection in ('failed', 'missed', 'all')),
    events        text[] check (cardinality(events) between 1 and 100), -- null: whatever the webhook subscribes to
    state         text not null default 'queued' check (state in ('queued', 'running', 'done', 'cancelled', 'failed')),
    cursor_at     timestamptz, -- null: not begun
    cursor_id     uuid,
    scanned       bigint not null default 0,
    enqueued      bigint not null default 0,
    delivered     bigint not null default 0,
    failed        bigint not null default 0,
    error         text,
    leased_until  timestamptz, -- the worker that runs it renews this
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    finished_at   timestamptz,
    constraint replay_jobs_window check (since < until),
    constraint replay_jobs_cursor check ((cursor_at is null) = (cursor_id is null))
) with (fillfactor = 70);
create index replay_jobs_webhook on replay_jobs (webhook_id, created_at desc);
create index replay_jobs_open on replay_jobs (created_at) where state in ('queued', 'running');
