-- Retention leaves the payload of what is still to be sent. An event older than the retention (a producer's dead clock, an archive that was
-- produced again) lies in the default partition from the start, and the hourly clean-up took its payload before its deliveries had ended.

create or replace function nrw_drop_expired_partitions(retention_days integer default 30)
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
                       'select ctid from only %1$s old where received_at < $1 %2$s order by received_at limit 5000))',
                       (select p.oid::regclass from pg_partition_tree(base) t join pg_class p on p.oid = t.relid
                        where t.parentrelid = base and pg_get_expr(p.relpartbound, p.oid) = 'DEFAULT'),
                       case when base = 'events'::regclass then
                           'and not exists (select from pending_deliveries p where p.event_id = old.id and p.tenant_id = old.tenant_id'
                           ' and p.received_at = old.received_at)' end) using cutoff;
        get diagnostics rows = row_count;
        if rows > 0 then
            relation := (select relname from pg_class where oid = base) || '_default';
            return next;
        end if;
    end loop;
end $$;
