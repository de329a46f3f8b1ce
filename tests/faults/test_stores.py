"""PostgreSQL or Kafka goes away, or refuses something, while events flow."""

import os
import time
import uuid

import pytest
from confluent_kafka.admin import NewTopic
from support import ledger
from support.produce import SPREAD, ProduceTool, envelope
from support.wait import await_condition

FAULT_S = float(os.environ.get("FAULT_SECONDS", "60"))
KAFKA_AWAY_S = min(15.0, FAULT_S)
RATE = 300
# A member that does not poll or send heartbeats for ten seconds is out: the outage is longer.
IMPATIENT = {"session.timeout.ms": "10000", "max.poll.interval.ms": "10000"}


@pytest.fixture
def load(topic, tenant):
    """Events at an even rate; load.stop() returns what was acknowledged."""
    producing = ProduceTool(topic, tenant.id, *SPREAD, count=1_000_000, rate=RATE)
    yield producing
    if producing.process.poll() is None:
        producing.stop()


def await_time(seconds, invariant):
    """The fault lasts that long, and the invariant holds all the time."""
    end = time.monotonic() + seconds

    def over():
        invariant()
        return not ledger.until(end)

    await_condition(over, seconds + 30, "the fault has lasted long enough")


def flow(sink, n=500):
    sink.wait(len(sink.ledger()) + n, timeout=60)


@pytest.mark.slow
def test_postgres_stopped_under_load(stack, topic, tenant, sink, subscribe, start_worker, load):
    webhooks = subscribe(2)
    worker = start_worker(kafka=IMPATIENT, deliveries_max=1000)
    pid = worker.pid
    flow(sink)
    rebalances = worker.metric("nrw_rebalances_total")
    stack.pg_stop()
    await_condition(lambda: worker.get("/ready").status_code == 503, 10, "the worker says that it is not ready")

    def stays():
        assert worker.running and worker.pid == pid
        assert worker.metric("nrw_rebalances_total") == rebalances
        assert worker.metric("nrw_events_open") <= 1000, "intake went on without a delivery log"

    await_time(FAULT_S, stays)
    seen = len(sink.ledger())
    stack.pg_start()
    sink.wait(seen + 500, timeout=60)
    acked = load.stop()
    topic.await_settled(worker.group, timeout=120)
    stays()
    assert not worker.log_lines("kafka.revoking"), "the outage cost the member its partitions"
    assert worker.metric("nrw_pauses_total") >= 1
    ledger.check(stack, sink, topic, webhooks, acked, duplicates_max=0, what=f"PostgreSQL away for {FAULT_S:.0f} s")


@pytest.mark.slow
def test_postgres_killed(stack, topic, tenant, sink, subscribe, start_worker, load):
    webhooks = subscribe(2)
    worker = start_worker(kafka=IMPATIENT)
    pid = worker.pid
    guard = ledger.OffsetGuard(stack, topic, worker.group, webhooks)
    verified = 0
    for _ in range(4):
        flow(sink)
        stack.pg_kill()
        stack.pg_start()
        stack.await_pg()
        verified += guard.verify()
    flow(sink)
    acked = load.stop()
    topic.await_settled(worker.group, timeout=60)
    assert worker.running and worker.pid == pid
    assert not worker.log_lines("kafka.revoking")
    print(f"\n{verified} deliveries below committed offsets were found after the crashes")
    ledger.check(stack, sink, topic, webhooks, acked, duplicates_max=0, what="PostgreSQL killed 4 times")


@pytest.mark.slow
def test_kafka_restarted_under_load(real_kafka, stack, topic, tenant, sink, subscribe, start_worker, load):
    webhooks = subscribe(2)
    worker = start_worker()
    pid = worker.pid
    flow(sink)
    stack.kafka_stop()
    await_time(KAFKA_AWAY_S, lambda: worker.metric("nrw_loop_turn_max_seconds"))
    assert worker.running
    seen = len(sink.ledger())
    stack.kafka_start()
    sink.wait(seen + 500, timeout=90)
    acked = load.stop()
    topic.await_settled(worker.group, timeout=90)
    assert worker.running and worker.pid == pid
    # An assignment that is lost with the broker may cost what was committed by nobody; the suspect look-up skips what is durable.
    ledger.check(stack, sink, topic, webhooks, acked, duplicates_max=0, what=f"Kafka away for {KAFKA_AWAY_S:.0f} s")


@pytest.fixture
def refuse_event(stack):
    """refuse_event(id): PostgreSQL raises for each attempts row of this event."""
    name = "fault_" + uuid.uuid4().hex[:8]

    def refuse(event_id):
        stack.query(f"create function {name}() returns trigger language plpgsql as $$ begin raise exception 'refused by the test'; end $$")
        stack.query(f"create trigger {name} before insert on attempts for each row when (new.event_id = '{uuid.UUID(event_id)}') "
                    f"execute function {name}()")

    yield refuse
    stack.query(f"drop trigger if exists {name} on attempts")
    stack.query(f"drop function if exists {name}")


def test_bad_row_fails_alone(stack, topic, tenant, sink, subscribe, producer, start_worker, refuse_event):
    webhooks = subscribe(2)
    events = [envelope(tenant.id) for _ in range(300)]
    bad = events[150]["id"]
    refuse_event(bad)
    for event in events:
        producer.send(event, partition=0)
    acked = producer.flush()
    worker = start_worker(journal_linger="200ms")
    topic.await_settled(worker.group)
    letters = topic.read_dlq()
    assert {letter.header("reason") for letter in letters} == {"journal_rejected"}
    sent = next(message for message in topic.read() if bad.encode() in message.value)
    assert {(letter.value, letter.header("partition"), letter.header("offset")) for letter in letters} == {
        (sent.value, str(sent.partition), str(sent.offset))}, "the dead letter is not the message"
    print(f"\n{len(letters)} dead letters of 1 event with {len(webhooks)} webhooks, "
          f"{worker.metric('nrw_journal_rejected_total'):.0f} entries rejected, {worker.metric('nrw_journal_batches_total'):.0f} batches")
    assert worker.metric("nrw_journal_rejected_total") == len(webhooks)
    assert not [row for webhook in webhooks for row in webhook.attempts(bad)]
    ledger.check(stack, sink, topic, webhooks, [event for event in acked if event != bad], duplicates_max=0, unlogged_events={bad},
                 what="one bad row")


def test_dead_letter_failure_keeps_the_event_uncommitted(real_kafka, stack, topic, tenant, sink, subscribe, producer, start_worker):
    webhooks = subscribe(1)
    missing = topic.name + ".missing"
    # How long librdkafka believes that a topic is about to appear: half a minute if nobody tells it.
    worker = start_worker(dlq_topic=missing, kafka={"topic.metadata.propagation.max.ms": "1000"})
    before = [producer.one(envelope(tenant.id), partition=0) for _ in range(5)]
    producer.one(b'{"not": "an event"', partition=0, key="poison")
    after = [producer.one(envelope(tenant.id), partition=0) for _ in range(5)]
    sink.wait(len(before) + len(after))  # what follows is not held up …
    await_condition(lambda: worker.metric("nrw_dead_letter_failures_total") > 0, 60, "the dead letter has failed")
    await_condition(lambda: worker.metric("nrw_dead_letter_failures_total") > 1, 60, "and is tried again")
    assert worker.metric("nrw_dead_letters_waiting") == 1
    assert "not an event" not in worker.log_text(), "a message's content is in the log"
    await_condition(lambda: topic.committed(worker.group)[0] == len(before), 10, "… and the offset stops before the message")
    topic.admin.create_topics([NewTopic(missing, 1, 1)])[missing].result(30)
    try:
        topic.await_settled(worker.group, timeout=60)
        topic.dlq = missing
        letter, = topic.read_dlq()
        assert (letter.value, letter.key, letter.header("reason")) == (b'{"not": "an event"', b"poison", "not_json")
        assert letter.header("offset") == str(len(before))
        ledger.check(stack, sink, topic, webhooks, before + after, duplicates_max=0, what="dead-letter topic missing")
    finally:
        topic.admin.delete_topics([missing])


def test_a_listen_that_was_refused_once_is_asked_again(tenant, sink, subscribe, producer, start_worker, relay):
    """A failover can lead to a server that refuses it for a moment; without it a worker takes no events."""
    subscribe()
    relay.change(b"LISTEN nrw_webhooks", b"LISTEX nrw_webhooks")
    worker = start_worker(ready=False, database_url=relay.url)
    relay.await_done()
    worker.ready()
    assert worker.wait_log("subscriptions.listen_failed")
    event = producer.one(envelope(tenant.id))
    assert sink.wait(1)[0]["event_id"] == event
