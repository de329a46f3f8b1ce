"""What a tenant asks for - a test, a redelivery, a replay - on the real stack, while the webhook is paused, failing or busy, and while
workers die. The rows are written as the API writes them (support/asked.py)."""

import collections
import datetime as dt
import hashlib
import itertools
import json
import time
import uuid

import pytest
from support import asked, attempts, bulk
from support.attempts import await_no_pending, delays, hold
from support.produce import SPREAD, ProduceTool, envelope
from support.wait import PATIENCE, await_condition, in_time

TEST_ANSWERS_S = 2 * PATIENCE
SETTLED = {"send_timeout": "1s", "spill_after": "100ms"}  # a replay waits 2 s on top of these for the first attempts of young events
LATELY = dt.datetime.now(dt.timezone.utc) - dt.timedelta(hours=1)
STANDINGS = {
    "active": {"active": True},
    "paused": {"active": False},
    "failing": {"status": "failing", "failing_since": LATELY},
    "disabled": {"status": "disabled", "disabled_at": LATELY, "disabled_reason": "410"},
    "paused and failing": {"active": False, "status": "failing", "failing_since": LATELY},
}


@pytest.fixture(autouse=True)
def nothing_left_behind(stack):
    """Workers of a test take whatever is due, also what an earlier test that failed has left."""
    stack.query("delete from pending_deliveries")
    stack.query("delete from replay_jobs")


def now():
    return dt.datetime.now(dt.timezone.utc)


def standing(webhook):
    """All that a test must not change."""
    return webhook.stack.query("select active, status, failing_since, disabled_at, disabled_reason, version from webhooks where id = %s", webhook.id)[0]


def await_attempt(webhook, event_id, timeout=20):
    """The row that the API would answer with, when it is there and nothing is pending any more."""
    await_condition(lambda: webhook.attempts(event_id) and not webhook.pending(event_id), timeout, "the test was made and written")
    row, = webhook.attempts(event_id)
    return row


def await_job(stack, job_id, state="done", timeout=60):
    await_condition(lambda: asked.job(stack, job_id)["state"] == state, timeout, lambda: f"the job is {state}: {asked.job(stack, job_id)}")
    return asked.job(stack, job_id)


def put_events(stack, tenant, n, at, step=dt.timedelta(milliseconds=10)):
    """n events that were taken in before, as a worker would have left them: id -> sha256 of the bytes."""
    bodies = {}
    with stack.connect() as connection, connection.transaction():
        with connection.cursor().copy("copy events (id, received_at, tenant_id, event_type, payload, kafka_partition, kafka_offset) "
                                      "from stdin (format binary)") as copy:
            copy.set_types(["uuid", "timestamptz", "uuid", "text", "bytea", "int4", "int8"])
            for i in range(n):
                body = json.dumps(envelope(tenant.id, data={"n": i}), indent=1).encode()  # not as anybody would serialise it again
                event_id = uuid.UUID(json.loads(body)["id"])
                copy.write_row((event_id, at + i * step, tenant.id, "alert.created", body, 0, i))
                bodies[str(event_id)] = hashlib.sha256(body).hexdigest()
    return bodies


def check_requests(sink, path, bodies, attempt=1):
    """Each event arrived, with its own bytes and its own id. Returns how many arrived more than once."""
    lines = sink.ledger(path)
    got = collections.Counter(line["event_id"] for line in lines)
    assert got.keys() == bodies.keys(), f"missing {len(bodies.keys() - got.keys())}, unexpected {len(got.keys() - bodies.keys())}"
    for line in lines:
        assert line["body_sha256"] == bodies[line["event_id"]], "other bytes"
        assert (line["sig_netrecon"], line["sig_standard"]) == ("good", "good")
        assert attempt is None or line["attempt"] == attempt
    return sum(n - 1 for n in got.values())


# ---- tests ----


@pytest.mark.parametrize("name", STANDINGS)
def test_a_test_is_answered_within_two_seconds_whatever_the_webhooks_standing(stack, tenant, subscribe, sink, worker, name):
    webhook, = subscribe(1)
    webhook.update(**STANDINGS[name])
    before = standing(webhook)
    began = time.monotonic()
    event_id = asked.test(webhook, "backup.failed")
    row = await_attempt(webhook, event_id)
    took = time.monotonic() - began
    in_time(took < TEST_ANSWERS_S, f"{took:.2f} s")
    assert (row["outcome"], row["attempt"], row["status_code"], row["next_attempt_at"]) == ("delivered", 1, 200, None)
    line, = sink.ledger("/hook-1")
    assert (line["event_id"], line["attempt"], line["sig_netrecon"], line["sig_standard"]) == (str(event_id), 1, "good", "good")
    if "failing" in name:  # it works again
        assert standing(webhook)[:3] == (before[0], "active", None)
    else:
        assert standing(webhook) == before
    print(f"\n{name}: answered after {1000 * took:.0f} ms", end="")


@pytest.mark.parametrize("name", STANDINGS)
def test_a_test_that_fails_leaves_the_standing_alone_and_nothing_behind(stack, tenant, subscribe, sink, start_worker, name):
    answers = {"status=500": 500, "status=410": 410, "status=503&retry_after=1": 503, "hang": None}
    webhooks = subscribe(len(answers))
    start_worker(send_timeout="700ms", retry_delays=delays(0.1))
    for webhook, (behaviour, status) in zip(webhooks, answers.items()):
        webhook.update(url=webhook.url + "?" + behaviour, **STANDINGS[name])
        before = standing(webhook)
        row = await_attempt(webhook, asked.test(webhook))
        assert (row["outcome"], row["status_code"], row["attempt"], row["next_attempt_at"]) == ("test_failed", status, 1, None)
        assert row["error"]
        assert standing(webhook) == before
    hold(1, lambda: len(sink.ledger()) == len(answers), "one attempt each, no retry")
    assert stack.query("select count(*) from notifications where tenant_id = %s", tenant.id)[0][0] == 0


def test_a_test_does_not_wait_behind_a_hanging_request_of_a_failing_webhook(tenant, subscribe, sink, start_worker, producer):
    webhook, = subscribe(1, "hang")
    webhook.update(**STANDINGS["failing"])
    start_worker(send_timeout="4s")
    producer.many(tenant.id, 50)
    sink.wait(1, "/hook-1")
    event_id = asked.test(webhook)
    sink.wait(1, "/hook-1", timeout=2, event_id=str(event_id))


def test_a_test_right_after_a_change_meets_the_changed_webhook(stack, tenant, subscribe, sink, worker):
    webhook, = subscribe(1, "status=500")
    sink.secret("/moved", webhook.secret)
    for n in range(20):
        path = f"/moved/{n}"
        webhook.update(url=sink.url(path))
        event_id = asked.test(webhook)
        assert await_attempt(webhook, event_id)["outcome"] == "delivered"
        assert len(sink.ledger(path)) == 1


def test_a_test_without_redis_is_made_by_the_sweep(stack, tenant, subscribe, sink, start_worker):
    webhook, = subscribe(1)
    worker = start_worker()
    stack.redis_stop()
    await_condition(lambda: worker.metric("nrw_redis_up") == 0, 20, "Redis is away")
    assert await_attempt(webhook, asked.test(webhook, hint=False))["outcome"] == "delivered"


# ---- redeliveries ----


def test_a_redelivery_of_an_exhausted_delivery_is_attempts_6_to_10_on_the_same_schedule(stack, topic, tenant, subscribe, sink, producer, start_worker):
    webhook, = subscribe(1, "status=500")
    schedule = (0.3, 0.5, 0.7, 0.9)
    start_worker(retry_delays=delays(*schedule))
    event_id, = producer.many(tenant.id, 1)
    await_condition(lambda: len(webhook.attempts(event_id)) == 5 and not webhook.pending(), 20, "given up")
    assert asked.redeliver(webhook, event_id) == 6
    await_condition(lambda: len(webhook.attempts(event_id)) == 10 and not webhook.pending(), 20, "given up again")
    rows = webhook.attempts(event_id)
    assert [row["attempt"] for row in rows] == list(range(1, 11))
    assert [row["outcome"] for row in rows] == (["failed"] * 4 + ["exhausted"]) * 2
    for made, following, delay in zip(rows[5:], rows[6:], schedule):
        ended = made["started_at"] + dt.timedelta(milliseconds=made["response_time_ms"])
        assert delay - 0.001 <= (following["started_at"] - ended).total_seconds() < delay * 1.1 + 2 * PATIENCE
    lines = sink.ledger("/hook-1")
    assert [line["attempt"] for line in lines] == list(range(1, 11))
    assert len({(line["event_id"], line["delivery_id"], line["body_sha256"]) for line in lines}) == 1
    sink.set("/hook-1", "status=204")
    assert asked.redeliver(webhook, event_id) == 11
    await_condition(lambda: not webhook.pending(), 20, "delivered at last")
    assert [(row["attempt"], row["outcome"]) for row in webhook.attempts(event_id)][10:] == [(11, "delivered")]
    assert standing(webhook)[1] == "active"


# ---- replays ----


def test_each_replay_delivers_what_it_selects_with_the_same_bytes_and_the_same_id(stack, topic, tenant, subscribe, sink, producer, start_worker):
    webhook, = subscribe(1, "status=500")
    start_worker(retry_delays=delays(0.1), **SETTLED)
    began = now() - dt.timedelta(seconds=1)
    failed = producer.many(tenant.id, 3)
    await_condition(lambda: len(webhook.attempts()) == 15 and not webhook.pending(), 30, "three deliveries were given up")
    sink.set("/hook-1", "status=200")
    delivered = producer.many(tenant.id, 4)
    await_condition(lambda: len(webhook.attempts()) == 19, 20, "four were delivered")
    missed = put_events(stack, tenant, 5, now())
    ended = now() + dt.timedelta(seconds=1)
    sent = {line["event_id"]: line["body_sha256"] for line in sink.ledger("/hook-1")} | missed
    for status, events, number in (("failed", failed, 6), ("missed", missed, 1), ("all", [*failed, *delivered, *missed], None)):
        before = len(sink.ledger("/hook-1"))
        asked_at = time.monotonic()
        job = await_job(stack, asked.replay(webhook, status, began, ended))
        took = time.monotonic() - asked_at
        await_condition(lambda: not webhook.pending(), 20, "all has ended")
        lines = sink.ledger("/hook-1")[before:]
        assert collections.Counter(line["event_id"] for line in lines) == collections.Counter(map(str, events)), status
        assert all(line["body_sha256"] == sent[line["event_id"]] for line in lines)
        assert {(line["sig_netrecon"], line["sig_standard"]) for line in lines} == {("good", "good")}
        assert number is None or {line["attempt"] for line in lines} == {number}
        assert all(line["delivery_id"] == str(webhook.delivery_id(line["event_id"])) for line in lines)
        assert (job["scanned"], job["enqueued"], job["error"]) == (12, len(events), None)
        print(f"\n{status}: {len(events)} of 12 events enqueued after {took:.1f} s", end="")
    counted, = stack.query("select sum(delivered)::int, sum(failed)::int from replay_jobs")
    assert counted == (20, 0), "what a replay made counts for its job"


def test_paused_time_is_replayed(stack, topic, tenant, subscribe, sink, producer, start_worker):
    webhook, = subscribe(1)
    worker = start_worker(**SETTLED)
    before = producer.many(tenant.id, 5)
    sink.wait(5, "/hook-1")
    began = now()
    webhook.update(active=False)
    await_condition(lambda: worker.metric("nrw_notifications_total") >= 1, 20, "the worker knows")
    paused = producer.many(tenant.id, 50)
    topic.await_settled(worker.group)
    assert stack.query("select count(*) from events where id = any(%s::uuid[])", paused)[0][0] == 50, "settled means durable"
    assert worker.metric("nrw_events_kept_total") == 50
    ended = now()
    webhook.update(active=True)
    job = await_job(stack, asked.replay(webhook, "missed", began - dt.timedelta(minutes=1), ended))
    sink.wait(55, "/hook-1")
    await_condition(lambda: not webhook.pending(), 20, "all has ended")
    assert job["enqueued"] == 50
    assert collections.Counter(line["event_id"] for line in sink.ledger("/hook-1")) == collections.Counter(before + paused)
    found = attempts.check(stack, sink, topic, [webhook], before + paused, what="paused time")
    assert found.duplicates == 0


def test_what_a_pause_cancels_in_the_lanes_is_replayed(stack, topic, tenant, subscribe, sink, producer, start_worker):
    webhook, = subscribe(1, "delay=300ms")
    worker = start_worker(lane_concurrency=2, lane_concurrency_start=2, send_timeout="2s", spill_after="5s")
    began = now()
    events = producer.many(tenant.id, 60)
    await_condition(lambda: worker.metric("nrw_lanes_waiting") > 40, 10, "they wait")
    webhook.update(active=False)
    topic.await_settled(worker.group)
    assert worker.metric("nrw_cancelled_total") > 30
    assert stack.query("select count(*) from events where id = any(%s::uuid[])", events)[0][0] == 60
    stack.query("delete from pending_deliveries where webhook_id = %s", webhook.id)  # as the API does
    sink.clear("/hook-1")
    webhook.update(active=True, url=sink.url("/hook-1"))
    await_job(stack, asked.replay(webhook, "missed", began - dt.timedelta(minutes=1), now()))
    await_no_pending(stack, [webhook])
    attempts.check(stack, sink, topic, [webhook], events, what="cancelled in the lanes")


def test_a_worker_killed_in_the_middle_of_a_replay_loses_and_repeats_nothing_but_what_was_in_flight(stack, tenant, subscribe, sink, start_worker):
    webhook, = subscribe(1, "delay=50ms")
    at = now() - dt.timedelta(hours=1)
    bodies = put_events(stack, tenant, 3000, at)
    workers = [start_worker(send_timeout="2s", spill_after="200ms") for _ in range(2)]
    job_id = asked.replay(webhook, "missed", at, now() - dt.timedelta(minutes=1))
    in_flight = 0
    for step, worker in zip(itertools.count(400, 500), [*workers, *workers]):
        await_condition(lambda: asked.job(stack, job_id)["enqueued"] > step or asked.job(stack, job_id)["state"] == "done", 60, "it goes on")
        in_flight += int(worker.metric("nrw_in_flight")) + 200  # and what is answered and not written
        worker.kill9()
        worker.start()
    job = await_job(stack, job_id, timeout=90)
    await_no_pending(stack, [webhook], 90)
    assert (job["scanned"], job["enqueued"]) == (3000, 3000), "the cursor neither skipped nor repeated"
    repeated = check_requests(sink, "/hook-1", bodies)
    assert repeated <= in_flight
    assert stack.query("select count(*), count(distinct delivery_id) from attempts where webhook_id = %s", webhook.id) == [(3000, 3000)]
    assert asked.job(stack, job_id)["delivered"] == 3000
    print(f"\n3000 events, four kills: {repeated} delivered twice", end="")


def test_a_cancelled_replay_sends_nothing_more(stack, tenant, subscribe, sink, start_worker):
    webhook, = subscribe(1, "delay=100ms")
    at = now() - dt.timedelta(hours=1)
    put_events(stack, tenant, 2500, at)
    start_worker(send_timeout="2s", spill_after="200ms", lane_concurrency=4, lane_concurrency_start=4)
    job_id = asked.replay(webhook, "all", at, now() - dt.timedelta(minutes=1))
    sink.wait(20, "/hook-1")
    pending = stack.query("select count(*) from pending_deliveries where replay_job_id = %s", job_id)[0][0]
    assert 0 < pending <= 1000, "bounded, whatever the job's size"
    asked.cancel(stack, job_id)
    await_condition(lambda: not webhook.pending(), 40, "what was in a worker's hands has ended or was deleted")
    sent = len(sink.ledger("/hook-1"))
    hold(2, lambda: len(sink.ledger("/hook-1")) == sent and not webhook.pending(), "it goes on")
    assert sent < 1000
    assert asked.job(stack, job_id)["state"] == "cancelled"


def test_a_replay_ends_with_the_webhook_that_is_paused(stack, tenant, subscribe, sink, start_worker):
    webhook, = subscribe(1, "delay=100ms")
    at = now() - dt.timedelta(hours=1)
    put_events(stack, tenant, 2500, at)
    start_worker(lane_concurrency=4, lane_concurrency_start=4)
    job_id = asked.replay(webhook, "all", at, now() - dt.timedelta(minutes=1))
    sink.wait(20, "/hook-1")
    webhook.update(active=False)
    job = await_job(stack, job_id, "cancelled", 20)
    assert "paused" in job["error"]


@pytest.mark.slow
def test_a_replay_of_thousands_does_not_hold_up_new_events(stack, topic, tenant, subscribe, sink, start_worker):
    replayed, = subscribe(1, "delay=20ms")
    fresh, = bulk.webhooks(stack, [(bulk.tenants(stack, [uuid.uuid4()])[0].id, sink.url("/fresh"))])
    sink.secret("/fresh", fresh.secret)
    at = now() - dt.timedelta(hours=1)
    bodies = put_events(stack, tenant, 6000, at)
    worker = start_worker(send_timeout="2s", requests_max=200)

    def p99_of(n):
        before = len(sink.ledger("/fresh"))
        ProduceTool(topic, fresh.tenant_id, *SPREAD, count=n, rate=200).wait(60)
        sink.wait(before + n, "/fresh", timeout=30)
        waits = sorted(line["waited_ms"] for line in worker.log_lines("delivery.attempt", webhook=str(fresh.id))[-n:])
        return waits[int(0.99 * n)]

    p99_of(50)  # the tenant is in memory, the connections are there
    alone = p99_of(400)
    job_id = asked.replay(replayed, "missed", at, now() - dt.timedelta(minutes=1))
    sink.wait(100, "/hook-1")
    beside = p99_of(1000)
    during = asked.job(stack, job_id)
    await_job(stack, job_id, timeout=120)
    await_no_pending(stack, [replayed], 60)
    assert check_requests(sink, "/hook-1", bodies, None) == 0
    assert during["enqueued"] < 6000, "the replay was over before the new events were: nothing was compared"
    print(f"\np99 of the wait before a first attempt: alone {alone:.1f} ms, beside a replay {beside:.1f} ms", end="")
    assert beside < max(2 * alone, 100 * PATIENCE)
