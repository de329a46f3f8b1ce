#!/usr/bin/python3
"""A delivery log of any size, written straight into PostgreSQL as workers would have written it over some days: in the order of time, the
webhooks mixed, one delivery in twenty with a failed attempt before its success. One webhook is much heavier than the others. Only those
that failed first have their event (the payload): events are looked up one at a time, and their number does not matter to that.

The database has the schema (schema/apply). By itself: tests/bench/fill_log.py postgresql://… [--per-webhook N] …
"""

import argparse
import dataclasses
import datetime as dt
import json
import sys
import uuid

import psycopg

TYPES = ("alert.created", "scan.completed", "device.discovered", "cve.matched", "backup.completed")
PAYLOAD_BYTES = 600
RESPONSE_HEADERS = b"Content-Type: text/plain\r\nContent-Length: 2\r\nDate: Thu, 26 Nov 2026 00:00:00 GMT\r\n"
HOUR = dt.timedelta(hours=1)


@dataclasses.dataclass
class Volume:
    """5 million attempts and half a million more."""

    webhooks: int = 1000
    per_webhook: int = 5000
    heavy: int = 500_000
    days: int = 30
    webhooks_per_tenant: int = 100


@dataclasses.dataclass
class Log:
    """What was written. webhooks: id -> tenant."""

    webhooks: dict[uuid.UUID, uuid.UUID]
    heavy: uuid.UUID

    @property
    def ordinary(self) -> list[uuid.UUID]:
        return [webhook for webhook in self.webhooks if webhook != self.heavy]


INSERT = """
with delivery as materialized (
    select failed, e.event_id, gen_random_uuid() as delivery_id,
           %(begin)s::timestamptz + (%(end)s::timestamptz - %(begin)s) * (i::float8 / %(deliveries)s) as received_at,
           case when heavy then %(heavy)s::uuid else (%(webhooks)s::uuid[])[n] end as webhook_id,
           case when heavy then %(heavy_tenant)s::uuid else (%(tenants)s::uuid[])[n] end as tenant_id,
           (%(types)s::text[])[1 + i %% cardinality(%(types)s::text[])] as event_type
    from generate_series(0, %(deliveries)s::bigint - 1) i,
    lateral (select (i * %(heavy_n)s::bigint) %% %(deliveries)s < %(heavy_n)s as heavy, 1 + (i * 7919) %% cardinality(%(webhooks)s) as n,
                    (i + i / cardinality(%(webhooks)s)) %% 20 = 7 as failed, gen_random_uuid() as event_id) e
), event as (
    insert into events (id, received_at, tenant_id, event_type, payload)
    select event_id, received_at, tenant_id, event_type, convert_to(%(payload)s, 'UTF8') from delivery where failed
)
insert into attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id, event_type, started_at, response_time_ms, outcome,
                      status_code, error, next_attempt_at, response_headers, response_body)
select d.received_at, d.delivery_id, a.n, d.event_id, d.webhook_id, d.tenant_id, d.event_type,
       d.received_at + random() * interval '40 ms' + (a.n - 1) * interval '30 s', 5 + (random() ^ 4 * 800)::integer,
       case when a.last then 'delivered' else 'failed' end, case when a.last then 200 else 503 end,
       case when not a.last then 'the endpoint answered 503' end, case when not a.last then d.received_at + interval '30 s' end,
       %(headers)s::bytea, 'ok'
from delivery d, lateral (select n, n = 1 + d.failed::integer as last from generate_series(1, 1 + d.failed::integer) n) a
"""


def _accounts(db, volume: Volume) -> Log:
    ids = {}
    for first in range(0, volume.webhooks, volume.webhooks_per_tenant):
        tenant = uuid.uuid4()
        db.execute("insert into tenants (id, name) values (%s, 'log')", (tenant,))
        ids.update({uuid.uuid4(): tenant for _ in range(first, min(volume.webhooks, first + volume.webhooks_per_tenant))})
    heavy = uuid.uuid4()
    ids[heavy] = tenant
    with db.cursor().copy("copy webhooks (id, tenant_id, url, secret, events, active) from stdin") as rows:
        for webhook, tenant in ids.items():
            rows.write_row((webhook, tenant, "https://hooks.example.com/log", b"\0", ["*"], False))
    return Log(ids, heavy)


def _partitions(db, first: dt.date, last: dt.date) -> None:
    db.execute("select nrw_ensure_partitions()")
    db.execute("select nrw_create_partition(p, d::date) from unnest(array['events', 'attempts']::regclass[]) p,"
               " generate_series(%s::date, %s::date, interval '1 day') d"
               " where not exists (select from nrw_partitions have where have.parent = p and have.day = d::date)", (first, last))


def fill(url: str, volume: Volume, progress=lambda text: None) -> Log:
    """Writes it all up to this moment; returns after VACUUM ANALYZE, as autovacuum leaves a log that has grown over days."""
    payload = json.dumps({"id": str(uuid.uuid4()), "event": "alert.created", "data": {"padding": ""}})
    payload = payload[:-3] + "p" * (PAYLOAD_BYTES - len(payload)) + payload[-3:]
    with psycopg.connect(url, autocommit=True, options="-c timezone=UTC -c synchronous_commit=off") as db:
        log = _accounts(db, volume)
        end = dt.datetime.now(dt.timezone.utc)
        begin = end - volume.days * 24 * HOUR
        _partitions(db, begin.date(), end.date())
        heavy_day = volume.heavy // volume.days
        # One in twenty has a second attempt.
        deliveries = int((volume.webhooks * volume.per_webhook // volume.days + heavy_day) / 1.05)
        for day in range(volume.days):
            at = begin + day * 24 * HOUR
            db.execute(INSERT, {"begin": at, "end": at + 24 * HOUR, "deliveries": deliveries, "heavy_n": int(heavy_day / 1.05),
                                "heavy": log.heavy, "heavy_tenant": log.webhooks[log.heavy], "webhooks": log.ordinary,
                                "tenants": [log.webhooks[webhook] for webhook in log.ordinary], "types": list(TYPES), "payload": payload,
                                "headers": RESPONSE_HEADERS})
            progress(f"day {day + 1} of {volume.days}")
        db.execute("vacuum (analyze) attempts")
        db.execute("vacuum (analyze) events")
        db.execute("analyze webhooks")
    return log


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the database")
    for field in dataclasses.fields(Volume):
        parser.add_argument("--" + field.name.replace("_", "-"), type=int, default=field.default, metavar="N", help=f"default {field.default}")
    options = vars(parser.parse_args())
    log = fill(options.pop("url"), Volume(**options), lambda text: print(text, file=sys.stderr, flush=True))
    print(f"heavy webhook {log.heavy} of tenant {log.webhooks[log.heavy]}; an ordinary one {log.ordinary[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
