-- Tenants, keys, webhooks, the events and attempts of the delivery log, and what the worker needs to pick up where it stopped.
-- Writers: the account service (tenants), the API (api_keys, webhooks, pending_deliveries), the worker (everything else).
-- Hot path: events and attempts, one row each per first-try success. Nothing there but what a query needs: no foreign key (webhooks
-- are deleted softly), no index that no query uses. Partitions are made by 0002_partitions.sql, never by hand.

create table tenants (
    id          uuid primary key,
    name        text not null check (octet_length(name) <= 1024),
    owner_email text check (octet_length(owner_email) <= 320), -- null: nobody to write to, mails are counted and dropped
    created_at  timestamptz not null default now()
);

-- The key itself (nr_live_ + 48 hex) is shown once and never stored.
create table api_keys (
    id           uuid primary key default gen_random_uuid(),
    tenant_id    uuid not null references tenants,
    name         text not null check (octet_length(name) <= 1024),
    key_sha256   bytea not null unique check (octet_length(key_sha256) = 32),
    scopes       text[] not null default '{}' check (cardinality(scopes) <= 64),
    created_at   timestamptz not null default now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
) with (fillfactor = 80); -- last_used_at is updated in place
create index api_keys_tenant on api_keys (tenant_id);

create sequence webhooks_version;

create table webhooks (
    id                    uuid primary key default gen_random_uuid(),
    tenant_id             uuid not null references tenants,
    url                   text not null check (octet_length(url) between 1 and 2048),
    description           text check (octet_length(description) <= 4096),
    secret                bytea not null check (octet_length(secret) between 1 and 1024), -- sealed, see common/seal.h
    previous_secret       bytea check (octet_length(previous_secret) between 1 and 1024),
    previous_secret_until timestamptz,
    events                text[] not null check (cardinality(events) between 1 and 100),
    active                boolean not null default true, -- the owner's switch; status is ours
    status                text not null default 'active' check (status in ('active', 'failing', 'disabled')),
    failing_since         timestamptz,
    last_success_at       timestamptz,
    disabled_at           timestamptz,
    disabled_reason       text check (octet_length(disabled_reason) <= 1024),
    version               bigint not null,
    created_at            timestamptz not null default now(),
    updated_at            timestamptz not null default now(),
    deleted_at            timestamptz,
    constraint webhooks_previous_secret_ends check ((previous_secret is null) = (previous_secret_until is null))
) with (fillfactor = 80); -- last_success_at is updated in place
-- What a worker loads for a tenant, and what it compares every 30 s in case a notification was lost.
create index webhooks_tenant on webhooks (tenant_id) where deleted_at is null;
create index webhooks_updated on webhooks (updated_at);

-- A change that a worker's cache must see takes a new version. What is listed as bookkeeping is not such a change; a column
-- added later is one until it is listed here.
create function nrw_webhooks_stamp() returns trigger
    language plpgsql set search_path from current as $$
declare
    before webhooks;
begin
    if tg_op = 'UPDATE' then
        if new.id <> old.id or new.tenant_id <> old.tenant_id then
            raise exception 'webhook % keeps its id and its tenant: its secrets are sealed to both', old.id
                using errcode = 'integrity_constraint_violation';
        end if;
        new.version := old.version;
        new.updated_at := old.updated_at;
        before := old;
        before.last_success_at := new.last_success_at; -- bookkeeping
        if before is not distinct from new then
            return new;
        end if;
    end if;
    new.version := nextval('webhooks_version');
    new.updated_at := clock_timestamp();
    return new;
end $$;

create function nrw_webhooks_notify() returns trigger
    language plpgsql set search_path from current as $$
begin
    if tg_op = 'DELETE' then -- a version above every version that a cache can hold of it
        perform pg_notify('nrw_webhooks', old.id || ' ' || nextval('webhooks_version') || ' ' || old.tenant_id);
    else
        perform pg_notify('nrw_webhooks', new.id || ' ' || new.version || ' ' || new.tenant_id);
    end if;
    return null;
end $$;

create trigger webhooks_stamp_insert before insert on webhooks
    for each row execute function nrw_webhooks_stamp();
create trigger webhooks_stamp_update before update on webhooks
    for each row when (old.* is distinct from new.*) execute function nrw_webhooks_stamp();
create trigger webhooks_notify_insert_delete after insert or delete on webhooks
    for each row execute function nrw_webhooks_notify();
create trigger webhooks_notify_update after update on webhooks
    for each row when (old.version <> new.version) execute function nrw_webhooks_notify();

-- received_at is the Kafka message's timestamp: the same when the event is consumed again, so that ON CONFLICT DO NOTHING sees it.
create table events (
    id              uuid not null,
    received_at     timestamptz not null,
    tenant_id       uuid not null,
    event_type      text not null,
    payload         bytea not null, -- the producer's bytes
    traceparent     text,
    kafka_partition integer,
    kafka_offset    bigint,
    primary key (received_at, id)
) partition by range (received_at);

-- The delivery log: append-only. received_at is the event's, started_at this attempt's.
create table attempts (
    received_at      timestamptz not null,
    delivery_id      uuid not null,
    attempt          smallint not null check (attempt >= 1),
    event_id         uuid not null,
    webhook_id       uuid not null,
    tenant_id        uuid not null,
    event_type       text not null,
    started_at       timestamptz not null,
    response_time_ms integer,
    outcome          text not null check (outcome in ('delivered', 'failed', 'exhausted', 'gone', 'test_failed')),
    status_code      smallint,    -- null: no answer, error tells why
    error            text,
    next_attempt_at  timestamptz, -- null: none follows
    response_headers bytea,
    response_body    bytea,       -- the first 4 KiB, any bytes
    primary key (received_at, delivery_id, attempt)
) partition by range (received_at);
create index attempts_webhook on attempts (webhook_id, started_at desc, delivery_id, attempt);

-- lz4 costs a fraction of pglz' CPU on the payloads that are long enough to be compressed; a server built without it keeps pglz.
do $$
begin
    alter table events alter column payload set compression lz4;
    alter table attempts alter column response_body set compression lz4;
exception when feature_not_supported then
    raise notice 'this server has no lz4: payloads are compressed with pglz';
end $$;

-- A timestamp outside the partitions that exist is stored all the same: a producer's wrong clock is never an outage.
create table events_default (like events including all);
alter table events attach partition events_default default;
create table attempts_default (like attempts including all);
alter table attempts attach partition attempts_default default;

-- A delivery that must be tried (again). Deleted on the terminal outcome, so it is small, and every page of it is hot.
create table pending_deliveries (
    delivery_id     uuid primary key,
    received_at     timestamptz not null, -- of the event: finds its payload
    event_id        uuid not null,
    webhook_id      uuid not null,
    tenant_id       uuid not null,
    event_type      text not null,
    next_attempt    smallint not null check (next_attempt >= 1),
    final_attempt   smallint not null default 5, -- failing this one exhausts it; higher after a redeliver or replay
    next_attempt_at timestamptz not null,
    reason          text not null check (reason in ('retry', 'spill', 'redeliver', 'replay', 'test')),
    leased_until    timestamptz, -- no index: taking and giving back a lease stays a HOT update
    replay_job_id   uuid,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now()
) with (
    fillfactor = 70,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_threshold = 5000, autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);
create index pending_deliveries_due on pending_deliveries (next_attempt_at);
create index pending_deliveries_webhook on pending_deliveries (webhook_id); -- pause, delete, and "how many are waiting"

-- Highest offset whose outcome was journaled. After an assignment, offsets up to here may have been delivered already.
create table consumer_progress (
    consumer_group   text not null,
    topic            text not null,
    partition        integer not null,
    journaled_offset bigint not null,
    updated_at       timestamptz not null default now(),
    primary key (consumer_group, topic, partition)
) with (fillfactor = 20, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);
