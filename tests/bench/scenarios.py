"""The measurements, one function each: rig, size -> dict of plain figures. Throughput is measured between two moments inside a run, not from
its start: connections are open, tenants loaded, and the backlog is not yet at its end."""

import collections
import contextlib
import dataclasses
import re
import statistics
import time

from api import measure_api
from fill_log import Volume
from procs import Clock, rss_bytes
from rig import Rig, address
from support.attempts import delays
from support.produce import ProduceTool
from support.stack import free_ports
from support.wait import await_condition

POLL_S = 0.2
MIB = 1024 * 1024
HOSTS = 5000
ENDPOINTS, HEALTHY = 500, 5
DEAD = ("hang", "reset", "status=500", "refuse")


@dataclasses.dataclass
class Size:
    """How much of everything; --quick has a third."""

    bare: int = 60_000
    drain: int = 120_000
    latency_s: int = 15
    latency_warm: int = 20_000
    delay: int = 60_000
    flight: int = 30_000
    hosts: int = 80_000
    handshakes: int = 8_000
    retries: int = 200_000
    dead_s: int = 15
    api_volume: Volume = dataclasses.field(default_factory=Volume)
    api_requests: int = 2_000
    api_floor_s: int = 8


QUICK = Size(bare=20_000, drain=40_000, latency_s=5, latency_warm=6_000, delay=25_000, flight=15_000, hosts=30_000, handshakes=3_000,
             retries=60_000, dead_s=5,
             api_volume=Volume(webhooks=200, per_webhook=1500, heavy=50_000), api_requests=400, api_floor_s=3)


@contextlib.contextmanager
def running(worker):
    worker.start()
    try:
        yield worker
    finally:
        worker.close()


def errors_of(worker) -> list:
    """The three most frequent error texts of attempts, numbers left out."""
    texts = re.findall(r'"error":"([^"]*)"', worker.log_text())
    return collections.Counter(re.sub(r"[0-9]+", "#", text) for text in texts).most_common(3)


DELIVERED = 'nrw_attempts_total{outcome="delivered"}'


def window(rig: Rig, worker, count: int, first: float, last: float, timeout: float, done_by="nrw_journal_entries_total", **actors) -> dict:
    """Figures between `first` and `last` (parts of count) settled deliveries. Fails when a delivery did not end well."""
    who = rig.actors(worker, **actors)
    samples = []
    rss = flight = 0
    deadline = time.monotonic() + timeout
    while True:
        m = worker.metrics()
        done = m.get(done_by, 0)
        samples.append((done, Clock(who), m.get("nrw_connections_opened_total", 0)))
        rss = max(rss, rss_bytes(worker.pid))
        flight = max(flight, int(m.get("nrw_in_flight", 0)))
        if done >= count:
            break
        assert time.monotonic() < deadline, f"{done:.0f} of {count} deliveries after {timeout} s\n{worker.tail(5)}"
        time.sleep(POLL_S)
    bad = {k: v for k, v in m.items() if v > 0 and k.startswith(("nrw_attempts_total", "nrw_attempt_faults", "nrw_dns", "nrw_journal_re"))}
    assert m[DELIVERED] == count == done, f"not all delivered at the first attempt: {bad} {errors_of(worker)}"
    inside = [s for s in samples if first * count <= s[0] <= last * count]
    assert len(inside) >= 2, "too few samples: the run is too short for this machine"
    (done0, clock0, opened0), (done1, clock1, opened1) = inside[0], inside[-1]
    used = clock1.since(clock0)
    n = done1 - done0
    return {
        "deliveries": int(n), "seconds": used["seconds"], "per_s": n / used["seconds"],
        "cpu_us": {name: 1e6 * cpu / n for name, cpu in used["cpu_s"].items()},
        "other_cores": used["other_cores"], "peak_rss_mib": rss / MIB, "peak_in_flight": flight,
        "connections_opened": int(m["nrw_connections_opened_total"]), "new_connections_per_delivery": (opened1 - opened0) / n,
        "longest_turn_ms": 1000 * m.get("nrw_loop_turn_max_seconds", 0),
    }


def with_bare(rig: Rig, size: Size, measure) -> dict:
    """The measurement between two runs of the bare loop; ratios are to their mean."""
    before = rig.bare(size.bare)
    found = measure()
    after = rig.bare(size.bare)
    bare_per_s = statistics.mean((before["requests_per_s"], after["requests_per_s"]))
    bare_cpu = statistics.mean((before["cpu_us_per_request"], after["cpu_us_per_request"]))
    return {**found, "bare_per_s": bare_per_s, "bare_cpu_us": bare_cpu, "ratio": found["per_s"] / bare_per_s,
            "cpu_ratio": found["cpu_us"]["worker"] / bare_cpu}


# A backlog that waits on purpose: what is measured is sending it, not writing it aside.
WAITING = {"spill_after": "1m", "lane_queue_max": 1_000_000}


def drain_of(rig: Rig, urls: list[str], count: int, first: float, timeout: float = 120, actors: dict | None = None, **settings) -> dict:
    tenant = rig.tenants(urls)
    topic = rig.topic()
    rig.fill(topic, tenant, len(urls), count)
    rig.settle()
    with running(rig.worker(topic, **settings)) as worker:
        found = window(rig, worker, count, first, 0.97, timeout, **(actors or {}))
    topic.delete()
    return found


def drain(rig: Rig, size: Size) -> dict:
    """A backlog for eight tenants with one webhook each, all of which are at one receiver."""
    urls = [f"http://127.0.0.1:{rig.port}/drain/{i}" for i in range(8)]
    return with_bare(rig, size, lambda: drain_of(rig, urls, size.drain, 0.1))


def latency(rig: Rig, size: Size) -> dict:
    """1 000 events a second: from the producer's call to the receiver, the broker's acknowledgement and both ways included."""
    tenant = rig.tenants([f"http://127.0.0.1:{rig.port}/latency/{i}" for i in range(4)])
    topic = rig.topic()
    with running(rig.worker(topic)) as worker:
        worker.ready()
        # A broker that has just started compiles its way of taking single messages first.
        rig.trickle(topic, tenant, 4, size.latency_warm, 2000)
        await_condition(lambda: worker.metric("nrw_journal_entries_total") >= size.latency_warm, 60, "warm")
        rig.sink.reset_counters()
        before = Clock(rig.actors(worker))
        rig.trickle(topic, tenant, 4, 1000 * size.latency_s, 1000)
        used = Clock(rig.actors(worker)).since(before)
        await_condition(lambda: rig.sink.stats()["requests"] >= 1000 * size.latency_s, 30, "all received")
        found = rig.sink.stats()["latency_us"]
    topic.delete()
    return {"events": found["n"], "per_s": found["n"] / used["seconds"], "p50_ms": found["p50"] / 1000, "p90_ms": found["p90"] / 1000,
            "p99_ms": found["p99"] / 1000, "max_ms": found["max"] / 1000, "other_cores": used["other_cores"],
            "cpu_us": {name: 1e6 * cpu / found["n"] for name, cpu in used["cpu_s"].items()}}


def delay(rig: Rig, size: Size) -> dict:
    """A backlog for 100 webhooks, each at its own address, that take 100 ms to answer."""
    urls = [f"http://{address(i)}:{rig.port}/delay?delay=100ms" for i in range(100)]
    return drain_of(rig, urls, size.delay, 0.15, lane_concurrency_start=64, **WAITING)


def flight(rig: Rig, size: Size) -> dict:
    """The same with 2 s: as many requests in flight as the worker allows itself."""
    urls = [f"http://{address(i)}:{rig.port}/flight?delay=2s" for i in range(100)]
    return drain_of(rig, urls, size.flight, 0.15, lane_concurrency_start=64, **WAITING)


def hosts_at(rig: Rig, size: Size, address: str | None, scheme: str, port: int, **more) -> dict:
    server = rig.name_server(address)
    try:
        urls = [f"{scheme}://h{i}.bench.test:{port}/h" for i in range(HOSTS)]
        # Each host is met for the first time in the first third or so: a look-up, a connection, a tenant to load.
        return drain_of(rig, urls, size.hosts, 0.4, **{**WAITING, **more})
    finally:
        rig.end(server)


def hosts_many(rig: Rig, size: Size) -> dict:
    """5 000 webhooks on 5 000 names, each at its own address."""
    return with_bare(rig, size, lambda: hosts_at(rig, size, None, "http", rig.port))


def hosts_one(rig: Rig, size: Size) -> dict:
    """5 000 webhooks on 5 000 names at one address."""
    return with_bare(rig, size, lambda: hosts_at(rig, size, "127.0.0.1", "http", rig.port))


def hosts_tls(rig: Rig, size: Size) -> dict:
    """The same over TLS, connections kept; nginx answers."""
    front = rig.tls_front(keep_alive=True)
    try:
        return with_bare(rig, size, lambda: hosts_at(rig, size, "127.0.0.1", "https", rig.tls_port, actors={"nginx": front},
                                                     ca_file=rig.tls_authority()))
    finally:
        rig.end(front)


def tls_connect(rig: Rig, size: Size) -> dict:
    """One TLS connection for each delivery, against the same deliveries over kept ones: what a handshake costs."""
    server = rig.name_server("127.0.0.1")
    urls = [f"https://h{i}.bench.test:{rig.tls_port}/c" for i in range(8)]
    both = []
    try:
        for keep_alive in (True, False):
            front = rig.tls_front(keep_alive)
            try:
                count = size.handshakes * (10 if keep_alive else 1)
                both.append(drain_of(rig, urls, count, 0.1, actors={"nginx": front}, ca_file=rig.tls_authority(), **WAITING))
            finally:
                rig.end(front)
    finally:
        rig.end(server)
    kept, new = both
    assert new["connections_opened"] >= size.handshakes, "connections were kept"
    return {**new, "handshake_us": {name: new["cpu_us"][name] - kept["cpu_us"][name] for name in ("worker", "nginx")}}


def retries(rig: Rig, size: Size) -> dict:
    """What an outage leaves: second attempts, all of them overdue, to eight webhooks at one receiver. Redis begins empty."""
    rig.tenants([f"http://127.0.0.1:{rig.port}/retries/{i}" for i in range(8)])
    rig.overdue(size.retries)
    rig.settle()
    topic = rig.topic()
    with running(rig.worker(topic)) as worker:
        # What is given back because its endpoint has enough to do is journaled, too.
        found = window(rig, worker, size.retries // 8 * 8, 0.1, 0.97, 180, DELIVERED)
        found["given_back"] = worker.metric("nrw_spills_total") / size.retries
    topic.delete()
    return found


def dead_urls(rig: Rig):
    """Each on a host of its own."""
    closed, = free_ports(1)
    for i in range(ENDPOINTS - HEALTHY):
        kind = DEAD[i % len(DEAD)]
        yield f"http://{address(i)}:{closed}/dead" if kind == "refuse" else f"http://{address(i)}:{rig.port}/dead?{kind}"


def dead(rig: Rig, size: Size) -> dict:
    """Five healthy endpoints with 500 events a second together, alone and beside 495 that hang, reset, refuse or answer 500 and get 200 events
    a second together, with all their attempts."""
    healthy = rig.healthy_sink()
    topic = rig.topic()
    root = rig.tenants([*(healthy.url(f"/healthy-{i}") for i in range(HEALTHY)), *dead_urls(rig)])

    def measure(seconds: int) -> dict:
        healthy.reset_counters()
        before, made = Clock(rig.actors(worker)), worker.metric("nrw_attempts_total")
        ProduceTool(topic, root, count=500 * seconds, rate=500, tenants=HEALTHY).wait()
        used, made = Clock(rig.actors(worker)).since(before), worker.metric("nrw_attempts_total") - made
        await_condition(lambda: healthy.stats()["requests"] >= 500 * seconds, 30, "all received")
        latency_us = healthy.stats()["latency_us"]
        return {"p50_ms": latency_us["p50"] / 1000, "p99_ms": latency_us["p99"] / 1000, "attempts_per_s": made / used["seconds"],
                "worker_cores": used["cpu_s"]["worker"] / used["seconds"], "other_cores": used["other_cores"]}

    try:
        with running(rig.worker(topic, retry_delays=delays(1), send_timeout="2s", connect_timeout="2s")) as worker:
            worker.ready()
            # As in latency(): connections, tenants, and a broker that has just started.
            ProduceTool(topic, root, count=size.latency_warm, rate=2000, tenants=HEALTHY).wait()
            await_condition(lambda: healthy.stats()["requests"] >= size.latency_warm, 60, "warm")
            alone = measure(size.dead_s)
            sick = ProduceTool(topic, root, count=1_000_000, rate=200, tenants=ENDPOINTS)
            await_condition(lambda: worker.metric("nrw_retries_loaded_total") >= 1000, 60, "the dead ones have retries, too")
            beside = measure(size.dead_s)
            sick.stop()
            rss = rss_bytes(worker.pid)
    finally:
        healthy.close()
    topic.delete()
    return {"alone": alone, "beside": beside, "p99_ratio": beside["p99_ms"] / alone["p99_ms"], "rss_mib": rss / MIB,
            "dead_attempts_per_s": beside["attempts_per_s"] - alone["attempts_per_s"],
            "other_cores": max(alone["other_cores"], beside["other_cores"])}


def api(rig: Rig, size: Size) -> dict:
    """The REST API reads a log of millions of attempts."""
    return measure_api(rig, size.api_volume, size.api_requests, size.api_floor_s)


# latency late: the broker has warmed up; api last: it leaves much behind
ALL = {fn.__name__: fn for fn in (drain, delay, flight, hosts_many, hosts_one, hosts_tls, tls_connect, retries, dead, latency, api)}
