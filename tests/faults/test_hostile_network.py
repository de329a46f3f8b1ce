"""Resolvers that do not answer, endpoints that stall, trickle, flood or break: each costs its own attempt and nobody else anything."""

import os
import re
import statistics
import time

import pytest
from support import ledger
from support.dns import HANG
from support.listeners import Flood
from support.produce import SPREAD, ProduceTool, envelope, produce_many
from support.wait import PATIENCE, await_condition, in_time

TURN_MAX_S = 0.05
TRIES = 3  # a loop turn is measured on a machine that may be busy with something else
SEND_TIMEOUT_S = 2.0
TOLERANCE_S = 0.5
LIMIT_RESPONSE_READ = 64 * 1024
LIMIT_RESPONSE_KEPT = 4 * 1024
SOCKET_BUFFERS = 1024 * 1024  # what the kernels hold on both sides of an answer that nobody reads


@pytest.mark.slow
def test_hanging_resolver_never_blocks_the_loop(stack, topic, tenant, sink, subscribe, dns, start_worker):
    dns.default = HANG
    names = [tenant.webhook(f"http://hook-{i}.example.net:8080/x") for i in range(20)]
    hanging = subscribe(5, "hang")
    healthy, = subscribe(1)
    path = healthy.url.removeprefix(sink.base)
    acked, turns = [], []
    group = None
    while not turns or (turns[-1] >= TURN_MAX_S and len(turns) < TRIES):
        # The gauge is a maximum since the start: each try is a new process.
        worker = start_worker(group=group, dns_servers=dns.address, send_timeout="5s", drain_timeout="1s")
        group = worker.group
        raise_priority(worker.pid)
        before = len(sink.ledger(path))
        produced_at = time.monotonic()
        acked += ProduceTool(topic, tenant.id, *SPREAD, count=100, rate=50).wait()
        sink.wait(before + 100, path, timeout=10)
        in_time(time.monotonic() - produced_at < (4 + TOLERANCE_S) * PATIENCE, "the healthy endpoint had to wait for a stranger")
        # All look-ups have given up (2 s), all requests have been cut (5 s).
        topic.await_settled(worker.group, timeout=60)
        turns.append(worker.metric("nrw_loop_turn_max_seconds"))
        assert worker.metric("nrw_dns_failures_total") > 0
        assert worker.stop() == 0
    print(f"\nlongest turn of the loop, per try: {[f'{1000 * turn:.1f} ms' for turn in turns]}")
    assert turns[-1] < TURN_MAX_S
    assert dns.asked, "nobody asked the test's resolver"
    # A fault of ours is nobody's attempt: no row in the log, a pending row for the same attempt.
    assert not [row for webhook in names for row in webhook.attempts()]
    pending = [row for webhook in names for row in webhook.pending()]
    assert len(pending) == len(acked) * len(names)
    assert {(row["reason"], row["next_attempt"]) for row in pending} == {("spill", 1)}
    assert {row["outcome"] for webhook in hanging for row in webhook.attempts()} == {"failed"}
    assert {row["outcome"] for row in healthy.attempts()} == {"delivered"}
    ledger.check(stack, sink, topic, [healthy, *hanging], acked, pending_max=len(acked) * len(hanging), what="hanging resolver")


def raise_priority(pid):
    """The measurement is about what the loop does, not about who else has the processor. Only root may."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, -15)
    except PermissionError:
        pass


# name: behaviour, (status, pattern of the error), does it take the whole time. None as error: delivered.
HOSTILE = {
    "slow header": ("loris=header&tick=50ms", (200, r"^answer not complete within 2 s$"), True),
    "slow body": ("loris=body&tick=50ms", (200, r"^answer not complete within 2 s$"), True),
    "endless body": ("endless", (200, None), False),
    "endless headers": ("endless_headers", (200, r"^response headers above 32768 bytes$"), False),
    "endless 1xx": ("endless_1xx", (None, r"headers above 32768 bytes"), False),
    "reset": ("reset", (None, r"."), False),
    "reset after": ("reset_after=100", (None, r"."), False),
    "close": ("close", (None, r"."), False),
    "garbage": ("garbage", (None, r"."), False),
    "stall": ("stall", (200, r"^answer not complete within 2 s$"), True),
    "hang": ("hang", (None, r"^no answer within 2 s$"), True),
    "slow answer": ("delay=10s", (None, r"^no answer within 2 s$"), True),
    "64 KiB": (f"body={LIMIT_RESPONSE_READ}", (200, None), False),
    "1 MiB": ("body=1048576", (200, None), False),
    "error of 1 MiB": ("status=500&body=1048576", (500, r"^the endpoint answered 500$"), False),
    "redirect": ("redirect=http%3A%2F%2F127.0.0.1%2F", (302, r"redirects are not followed"), False),
}


def test_slow_and_hostile_receivers(stack, topic, tenant, sink, subscribe, producer, start_worker):
    flood = Flood()
    hooks = {name: subscribe(1, query)[0] for name, (query, _, _) in HOSTILE.items()}
    flooded = tenant.webhook(flood.url)
    healthy, = subscribe(1)
    worker = start_worker(send_timeout=f"{SEND_TIMEOUT_S * 1000:.0f}ms", connect_timeout="1s", drain_timeout="3s")
    # The load of the tenant's webhooks is behind us; then all in one turn.
    events = [producer.send(envelope(tenant.id)) for _ in range(3)]
    producer.flush()
    produced_at = time.monotonic()
    path = healthy.url.removeprefix(sink.base)
    sink.wait(len(events), path, timeout=1)
    print(f"\nthe healthy endpoint had its events after {1000 * (time.monotonic() - produced_at):.0f} ms")
    topic.await_settled(worker.group)
    problems = []
    for name, (_, (status, error), slow) in HOSTILE.items():
        rows = hooks[name].attempts()
        took = [row["response_time_ms"] / 1000 for row in rows]
        kept = max(len(row["response_body"] or b"") for row in rows)
        print(f"{name:16} {rows[0]['outcome']:9} {rows[0]['status_code']!s:5} {statistics.mean(took):6.3f} s {kept:5} B  "
              f"{rows[0]['error']}")
        problems += [f"{name}: {problem}" for problem in problems_of(rows, len(events), status, error, slow, kept)]
    flood_rows = flooded.attempts()
    await_condition(lambda: len(flood.sent) == len(events), 10, "the flood's clients are gone")
    print(f"{'flood':16} {flood_rows[0]['outcome']:9} {flood_rows[0]['status_code']!s:5} bytes sent until it was cut: {flood.sent}")
    flood.close()
    assert not problems, "\n".join(problems)
    assert all(sent <= LIMIT_RESPONSE_READ + SOCKET_BUFFERS for sent in flood.sent)
    assert {len(row["response_body"]) for row in flood_rows} == {LIMIT_RESPONSE_KEPT}


def problems_of(rows, n, status, error, slow, kept):
    if len(rows) != n:
        yield f"{len(rows)} rows of {n}"
    for row in rows:
        wanted = "delivered" if error is None else "failed"
        if row["outcome"] != wanted:
            yield f"{row['outcome']}, wanted {wanted}: {row['error']}"
        if row["status_code"] != status:
            yield f"status {row['status_code']}, wanted {status}"
        if error is not None and not re.search(error, row["error"] or ""):
            yield f"error {row['error']!r}, wanted {error}"
        took = row["response_time_ms"] / 1000
        at_least, at_most = (SEND_TIMEOUT_S - TOLERANCE_S, SEND_TIMEOUT_S + TOLERANCE_S) if slow else (0, SEND_TIMEOUT_S / 2)
        if not at_least <= took <= at_most:
            yield f"took {took} s"
    if kept > LIMIT_RESPONSE_KEPT:
        yield f"{kept} bytes of the answer kept"


@pytest.mark.slow
def test_memory_is_bounded_when_everything_stalls(stack, topic, tenant, sink, subscribe, start_worker):
    count, rss_max = 200_000, 128 * 1024 * 1024
    subscribe(3, "hang")
    produce_many(topic, tenant.id, count, *SPREAD)
    # Whoever does not poll or send heartbeats for six seconds is out of the group.
    worker = start_worker(deliveries_max=2000, send_timeout="60s",
                          kafka={"session.timeout.ms": "6000", "max.poll.interval.ms": "6000"})
    rebalances = worker.metric("nrw_rebalances_total")
    await_condition(lambda: worker.metric("nrw_pauses_total") >= 1, 30, "intake is paused")
    end = time.monotonic() + 10
    peaks = []

    def stalled_long_enough():
        metrics = worker.metrics()
        assert metrics["nrw_rebalances_total"] == rebalances
        assert metrics["nrw_assigned_partitions"] == topic.partitions
        peaks.append(metrics["nrw_events_open"])
        return not ledger.until(end)

    await_condition(stalled_long_enough, 30, "ten seconds in the group without an answer from anybody")
    with open(f"/proc/{worker.pid}/status", encoding="ascii") as status:
        rss = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(f"\npeak RSS {rss / 2**20:.1f} MiB, events open {max(peaks):.0f}, requests in flight {sink.stats()['hanging']}")
    assert rss <= rss_max or PATIENCE > 1
    assert not worker.log_lines("kafka.revoking")
    worker.kill9()  # all it could do is wait
