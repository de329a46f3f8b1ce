-- Daily partitions (UTC days) of events and attempts: creation ahead, retention, and the number for the alert.
-- Called by schema/apply, and every hour by any worker. Each call is one short transaction. Nothing waits longer than lock_timeout for a
-- lock: who wants a lock in vain makes the writers behind him wait in vain, too. What was not done is done by the next call.

-- The partitions that nrw_ensure_partitions made.
create view nrw_partitions as
select p.oid::regclass as parent, c.oid::regclass as partition, n.nspname as schema_name, c.relname as name,
       to_date(right(c.relname, 8), 'YYYYMMDD') as day
from pg_class p
join pg_inherits i on i.inhparent = p.oid and not i.inhdetachpending
join pg_class c on c.oid = i.inhrelid
join pg_namespace n on n.oid = c.relnamespace
where p.oid in ('events'::regclass, 'attempts'::regclass) and c.relname ~ '^(events|attempts)_[0-9]{8}$';

-- One partition. The default partition is locked for it (ATTACH needs that anyhow: it proves that no row there belongs to the new
-- partition), its rows of that day move over. The parent keeps taking rows: ATTACH locks it in SHARE UPDATE EXCLUSIVE only.
create function nrw_create_partition(parent regclass, day date) returns void
    language plpgsql set search_path from current as $$
declare
    schema_name text := (select relnamespace::regnamespace from pg_class where oid = parent);
    base text := (select relname from pg_class where oid = parent);
    part text := format('%s.%I', schema_name, base || to_char(day, '_YYYYMMDD'));
    rest text := format('%s.%I', schema_name, base || '_default');
    since text := to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00';
    until text := to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00';
begin
    execute format('create table %s (like %s including all)', part, parent);
    execute format('lock table %s in access exclusive mode', rest);
    execute format('with moved as (delete from only %s where received_at >= %L and received_at < %L returning *) '
                   'insert into %s select * from moved', rest, since, until, part);
    execute format('alter table %s attach partition %s for values from (%L) to (%L)', parent, part, since, until);
end $$;

-- Creates what is missing from yesterday to days_ahead days ahead; returns how many were created. When the default partition is busy for
-- longer than lock_timeout, warns and leaves the rest of that table to the next call.
create function nrw_ensure_partitions(days_ahead integer default 8) returns integer
    language plpgsql set search_path from current set lock_timeout = '5s' as $$
declare
    today date := (clock_timestamp() at time zone 'UTC')::date;
    base regclass;
    missing date;
    created integer := 0;
begin
    if days_ahead is null or days_ahead not between 0 and 60 then
        raise exception 'days_ahead is %, must be 0 to 60', days_ahead using errcode = 'invalid_parameter_value';
    end if;
    begin
        perform pg_advisory_xact_lock(hashtext('nrw_partitions'), 'events'::regclass::oid::integer);
    exception when lock_not_available then
        raise warning 'another session is making partitions for more than 5 s';
        return 0;
    end;
    perform set_config('lock_timeout', '1s', true);
    -- events before attempts, as in every batch of the journal: the same order cannot deadlock.
    foreach base in array array['events', 'attempts']::regclass[] loop
        for missing in
            select d::date from generate_series(today - 1, today + days_ahead, interval '1 day') d
            where not exists (select from nrw_partitions p where p.parent = base and p.day = d::date) order by d
        loop
            begin
                perform nrw_create_partition(base, missing);
                created := created + 1;
            exception when lock_not_available or deadlock_detected then
                raise warning 'partitions of % from % on wait for the next call: %', base, missing, sqlerrm;
                exit;
            end;
        end loop;
    end loop;
    return created;
end $$;

-- Days ahead of today (UTC) that have their partitions without a gap, the lesser of both tables; -1: today has none. Alert below 3.
create function nrw_partition_days_ahead() returns integer
    language sql stable set search_path from current as $$
    with today as (select (clock_timestamp() at time zone 'UTC')::date as day),
         horizon as (select t.day + n as day, n from today t, generate_series(0, 366) n)
    select min(h.n) - 1 from horizon h
    where (select count(*) from nrw_partitions p where p.day = h.day) < 2;
$$;

-- One bounded piece of retention; call it again until it returns no row. First up to 10 expired partitions of one table, whole (rows is null);
-- when there are none, up to 5 000 expired rows of each default partition. One table per call, because a drop locks the parent in
-- ACCESS EXCLUSIVE until the commit, and waiting for the next table's lock meanwhile would stop the writers. The files are unlinked after
-- the locks are gone. (DETACH CONCURRENTLY is not possible beside a default partition.)
create function nrw_drop_expired_partitions(retention_days integer default 30)
    returns table (relation text, rows bigint)
    language plpgsql set search_path from current set lock_timeout = '1s' as $$
declare
    cutoff timestamptz := clock_timestamp() - make_interval(days => retention_days);
    base regclass;
    expired record;
begin
    if retention_days is null or retention_days not between 1 and 3650 then
        raise exception 'retention_days is %, must be 1 to 3650', retention_days using errcode = 'invalid_parameter_value';
    end if;
    if not pg_try_advisory_xact_lock(hashtext('nrw_partitions'), 'events'::regclass::oid::integer) then
        return; -- another session is at it
    end if;
    -- A partition ends with its day: it is expired when the day after it began before the cutoff.
    foreach base in array array['attempts', 'events']::regclass[] loop
        for expired in
            select p.partition::text as partition, p.name from nrw_partitions p
            where p.parent = base and (p.day + 1)::timestamp at time zone 'UTC' <= cutoff order by p.day limit 10
        loop
            begin
                execute format('drop table %s', expired.partition);
                relation := expired.name;
                rows := null;
                return next;
            exception when lock_not_available or deadlock_detected then
                raise warning 'retention waits for the next call, % is busy: %', expired.name, sqlerrm;
                return;
            end;
        end loop;
        if relation is not null then
            return;
        end if;
    end loop;
    foreach base in array array['attempts', 'events']::regclass[] loop
        execute format('delete from only %1$s where ctid = any (array('
                       'select ctid from only %1$s where received_at < $1 order by received_at limit 5000))',
                       (select p.oid::regclass from pg_partition_tree(base) t join pg_class p on p.oid = t.relid
                        where t.parentrelid = base and pg_get_expr(p.relpartbound, p.oid) = 'DEFAULT')) using cutoff;
        get diagnostics rows = row_count;
        if rows > 0 then
            relation := (select relname from pg_class where oid = base) || '_default';
            return next;
        end if;
    end loop;
end $$;
