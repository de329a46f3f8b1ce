"""Workers join and leave the consumer group while events flow: partitions move, nothing is lost, nothing is stuck."""

import random
import time

import pytest
from support import ledger
from support.produce import SPREAD, ProduceTool
from support.wait import await_condition

RATE = 800
STORM_S = 30
STORM_STEP_S = 3
# A member that dies is gone soon enough for a test; a busy machine does not look dead.
KAFKA = {"session.timeout.ms": "10000", "heartbeat.interval.ms": "500"}
STRATEGIES = ("range,roundrobin", "cooperative-sticky")


@pytest.fixture
def topic(stack):
    topic = stack.topic(partitions=6)
    yield topic
    topic.delete()


def has_partitions(worker):
    return worker.metric("nrw_assigned_partitions") > 0


def await_share(*workers):
    await_condition(lambda: all(has_partitions(worker) for worker in workers), 30,
                    lambda: f"each member has partitions: {[worker.metric('nrw_assigned_partitions') for worker in workers]}")


def await_flow(sink, n=1500):
    seen = len(sink.ledger())
    sink.wait(seen + n, timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_workers_join_and_leave_under_load(stack, topic, tenant, sink, subscribe, start_worker, strategy):
    webhooks = subscribe(2)
    options = {"kafka": {**KAFKA, "partition.assignment.strategy": strategy}}
    first = start_worker(**options)
    options["group"] = first.group
    producing = ProduceTool(topic, tenant.id, *SPREAD, count=1_000_000, rate=RATE)
    await_flow(sink)
    second = start_worker(**options)
    third = start_worker(**options)
    await_share(first, second, third)
    await_flow(sink)
    assert second.stop() == 0
    await_share(first, third)
    await_flow(sink)
    assert first.stop() == 0
    await_share(third)
    await_flow(sink)
    acked = producing.stop()
    topic.await_settled(third.group)
    assert third.metric("nrw_assigned_partitions") == topic.partitions
    ledger.check(stack, sink, topic, webhooks, acked, duplicates_max=0, what=strategy)


@pytest.mark.slow
def test_rebalance_storm(stack, topic, tenant, sink, subscribe, start_worker):
    """A member starts or stops every three seconds; both its partitions and those of the others move each time."""
    webhooks = subscribe(2)
    dice = random.Random(1)
    first = start_worker(kafka=KAFKA)
    others = [start_worker(kafka=KAFKA, group=first.group, ready=False)]
    guard = ledger.OffsetGuard(stack, topic, first.group, webhooks)
    producing = ProduceTool(topic, tenant.id, *SPREAD, count=1_000_000, rate=RATE)
    steps = verified = 0
    end = time.monotonic() + STORM_S
    while ledger.until(end):
        step_end = time.monotonic() + STORM_STEP_S
        worker = dice.choice(others)
        if worker.running:
            assert worker.stop() == 0
        else:
            worker.start()
        if len(others) < 3:
            others.append(start_worker(kafka=KAFKA, group=first.group, ready=False))
        steps += 1
        verified += guard.verify()
        await_condition(lambda step_end=step_end: not ledger.until(step_end), STORM_STEP_S * 2, "the next step is due")
    acked = producing.stop()
    topic.await_settled(first.group, timeout=60)
    print(f"\n{steps} steps, {first.metric('nrw_rebalances_total'):.0f} rebalance events at the first worker, "
          f"{verified} deliveries below committed offsets were found in PostgreSQL")
    # Endpoints answer at once: every drain ends in time, so nothing is sent twice.
    ledger.check(stack, sink, topic, webhooks, acked, duplicates_max=0, what="storm")
