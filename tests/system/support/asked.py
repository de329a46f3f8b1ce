"""What the API writes when somebody asks for a delivery: a test, a redelivery, a replay, the end of a replay. A row, an entry in Redis, a
wake-up; the rest is the worker's."""

import datetime as dt
import json
import uuid

import redis
from support.paths import ROOT
from support.produce import envelope

ADD = (ROOT / "schema" / "redis" / "add.lua").read_text()
KEYS = ("{nrw}:due", "{nrw}:leased", "{nrw}:epoch")
OPEN = ("queued", "running")


def wake(stack, *delivery_ids) -> None:
    """As schema/redis/add.lua wants it."""
    with redis.Redis.from_url(stack.exports["NRW_REDIS_URL"], decode_responses=True) as client:
        pairs = [word for delivery in delivery_ids for word in (str(delivery), "0")]
        client.eval(ADD, len(KEYS), *KEYS, client.info("server")["run_id"], "{nrw}:wake", *pairs)


def test(webhook, event: str = "alert.created", hint: bool = True) -> uuid.UUID:
    """The id of the test's event."""
    body = envelope(webhook.tenant_id, event)
    event_id = uuid.UUID(body["id"])
    with webhook.stack.connect() as connection, connection.transaction():
        connection.execute("insert into events (id, received_at, tenant_id, event_type, payload) values (%s, now(), %s, %s, %s)",
                           (event_id, webhook.tenant_id, event, json.dumps(body).encode()))
        connection.execute(
            "insert into pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type, next_attempt, "
            "final_attempt, next_attempt_at, reason) values (%s, now(), %s, %s, %s, %s, 1, 1, now(), 'test')",
            (webhook.delivery_id(event_id), event_id, webhook.id, webhook.tenant_id, event))
    if hint:
        wake(webhook.stack, webhook.delivery_id(event_id))
    return event_id


def redeliver(webhook, event_id) -> int:
    """The number of the next attempt."""
    delivery = webhook.delivery_id(event_id)
    (number,), = webhook.stack.query(
        "insert into pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type, next_attempt, "
        "final_attempt, next_attempt_at, reason) select delivery_id, received_at, event_id, webhook_id, tenant_id, event_type, "
        "attempt + 1, attempt + 5, now(), 'redeliver' from attempts where delivery_id = %s order by attempt desc limit 1 "
        "returning next_attempt", delivery)
    wake(webhook.stack, delivery)
    return number


def replay(webhook, status: str, since: dt.datetime, until: dt.datetime, events=None) -> uuid.UUID:
    """The job's id."""
    return webhook.stack.query("insert into replay_jobs (tenant_id, webhook_id, since, until, selection, events) values (%s, %s, %s, %s, %s, %s) "
                               "returning id", webhook.tenant_id, webhook.id, since, until, status, events)[0][0]


def job(stack, job_id) -> dict:
    names = ("state", "scanned", "enqueued", "delivered", "failed", "error", "cursor_at", "leased_until", "finished_at")
    return dict(zip(names, stack.query(f"select {', '.join(names)} from replay_jobs where id = %s", job_id)[0]))


def cancel(stack, job_id) -> None:
    with stack.connect() as connection, connection.transaction():
        connection.execute("update replay_jobs set state = 'cancelled', finished_at = now(), updated_at = now() where id = %s and state = any(%s)",
                           (job_id, list(OPEN)))
        connection.execute("delete from pending_deliveries where replay_job_id = %s and (leased_until is null or leased_until < now())", (job_id,))
