"""The worker dies, or is asked to go, while it works."""

import os
import random

import pytest
from support import ledger
from support.produce import SPREAD, produce_many
from support.wait import await_condition

EVENTS = 20_000
KILLS = 10
LANE_CONCURRENCY = 64
JOURNAL_BATCH_MAX = 1000


@pytest.mark.slow
def test_no_event_lost_when_the_worker_is_killed_ten_times(stack, topic, tenant, sink, subscribe, start_worker):
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(2**32)))
    print(f"\nFAULT_SEED={seed}")
    webhooks = subscribe(3)
    acked = produce_many(topic, tenant.id, EVENTS, *SPREAD)
    total = EVENTS * len(webhooks)
    moments = sorted(random.Random(seed).sample(range(total // 100, total * 95 // 100), KILLS))
    # A static member comes back to its partitions at once; with a dynamic one each kill costs a session timeout.
    worker = start_worker(kafka={"group.instance.id": "one"}, lane_concurrency=LANE_CONCURRENCY, journal_batch_max=JOURNAL_BATCH_MAX)
    exposure = ledger.Exposure(stack, sink, webhooks)
    for moment in moments:
        await_condition(lambda moment=moment: sink.stats()["requests"] >= moment, 60, f"{moment} requests")
        worker.kill9()
        exposure.note()
        worker.start()
    topic.await_settled(worker.group, timeout=120)
    skipped = worker.metric("nrw_duplicates_skipped_total")
    print(f"received and not durable at each kill: {exposure.at_kills}, together {exposure.total}; the last process skipped {skipped:.0f}")
    found = ledger.check(stack, sink, topic, webhooks, acked, duplicates_max=exposure.total, what=f"{KILLS} kills")
    # What was in flight is itself bounded: the lanes' requests, and the entries of two batches (one on its way, one gathering).
    bound = LANE_CONCURRENCY * len(webhooks) + 2 * JOURNAL_BATCH_MAX
    assert max(exposure.at_kills) <= bound, f"{max(exposure.at_kills)} deliveries were exposed to a kill, more than {bound}"
    assert sum(found.rows.values()) == total
    assert sum(found.delivered.values()) - found.duplicates == sum(found.rows.values())


@pytest.mark.slow
def test_sigterm_under_load_exits_0_without_a_duplicate(stack, topic, tenant, sink, subscribe, start_worker):
    # Answers take longer than leaving the group: only a worker that waits for them ends without loose ends.
    webhooks = subscribe(2, "delay=600ms") + subscribe(1)
    acked = produce_many(topic, tenant.id, 6000, *SPREAD)
    # Nothing is spilled here, so that what is under way at the SIGTERM is requests and nothing else.
    settings = {"lane_concurrency": 1024, "lane_concurrency_start": 1024, "host_concurrency": 4096, "lane_queue_max": 100000, "spill_after": "60s"}
    first = start_worker(**settings)
    sink.wait(4000)
    assert first.metric("nrw_in_flight") > 0
    assert first.stop() == 0
    taken = len(sink.ledger())
    assert taken < len(acked) * len(webhooks), "it had nothing left to do: the SIGTERM was not under load"
    rows = len(ledger.logged(stack, webhooks))
    assert rows == taken, f"{taken} requests received, {rows} durable when it had ended"
    second = start_worker(group=first.group, **settings)
    topic.await_settled(second.group, timeout=60)
    ledger.check(stack, sink, topic, webhooks, acked, duplicates_max=0, what="SIGTERM")
