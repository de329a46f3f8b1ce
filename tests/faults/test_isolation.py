"""Nobody waits for a stranger, on the real stack: dead endpoints, a loud tenant and the backlog of an outage, and meanwhile the latency of
those who have nothing to do with it. Faults of this side cost nobody an attempt."""

import os
import resource
import threading
import time
import uuid

import pytest
import redis
from support import attempts, bulk
from support.attempts import await_no_pending, delays
from support.dns import HANG, SERVFAIL, DnsServer
from support.produce import SPREAD, ProduceTool, produce_many
from support.sink import Sink
from support.stack import free_ports
from support.wait import PATIENCE, await_condition

TRIES = 3  # latencies are measured on a machine that may be busy with something else
FACTOR = 2
FLOOR_US = 20_000
ROWS = int(os.environ.get("FAULT_ROWS", "20000"))


@pytest.fixture(autouse=True)
def nothing_left_behind(stack):
    """Workers of a test take whatever is due, also what an earlier test that failed has left."""
    stack.query("delete from pending_deliveries")
    stack.query("update notifications set state = 'dropped' where state = 'pending'")


def raise_priority(*pids):
    """Latencies here are about what the worker does, not about who else has the processor. Only root may."""
    for pid in pids:
        try:
            os.setpriority(os.PRIO_PROCESS, pid, -15)
        except PermissionError:
            return


@pytest.fixture
def quick(tmp_path):
    """A receiver of healthy endpoints that measures how old an event is when it comes."""
    sink = Sink(tmp_path / "quick", "--latency", ledger=False)
    raise_priority(sink.process.pid)
    yield sink
    sink.close()


def latency(sink):
    found = sink.stats()["latency_us"]
    sink.reset_counters()
    return found


def shown(found):
    return f"n {found['n']}, p50 {found['p50'] / 1000:.1f} ms, p99 {found['p99'] / 1000:.1f} ms, max {found['max'] / 1000:.0f} ms"


class Watch(threading.Thread):
    """Samples a function until stop(), which fails with what it found wrong. The function returns a dict of numbers; highest() is the
    maximum of each."""

    def __init__(self, sample, every_s: float = 0.1):
        super().__init__(daemon=True)
        self._sample, self._every_s = sample, every_s
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self.samples: list[dict] = []
        self.start()

    def run(self):
        try:
            while not self._ended.wait(self._every_s):
                self.samples.append(self._sample())
        except BaseException as error:  # pylint: disable=broad-except; raised again by stop()
            self._error = error

    def stop(self) -> dict:
        self._ended.set()
        self.join(30)
        if self._error is not None:
            raise self._error
        assert self.samples, "nothing was sampled"
        return {name: max(sample[name] for sample in self.samples) for name in self.samples[0]}


def process_numbers(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        rss = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))
    return {"rss_mib": rss, "fds": len(os.listdir(f"/proc/{pid}/fd"))}


# ---- the backlog of an outage ----


@pytest.mark.slow
def test_overdue_rows_of_an_outage(stack, topic, tenant, sink, quick, start_worker, tmp_path):
    """FAULT_ROWS=200000 for the whole figure. Claims never exceed what may be sent, no lane is above its cap, new events flow, all are
    served."""
    requests_max, share = 2000, 30
    capped = Sink(tmp_path / "capped", ledger=False)
    failing = Sink(tmp_path / "failing", ledger=False)
    cap, n_slow, n_failing = 8, ROWS // 100, 100
    others = bulk.tenants(stack, [uuid.uuid4() for _ in range(20)])
    many = bulk.webhooks(stack, [(other.id, sink.url(f"/many-{i}")) for i, other in enumerate(others)])
    for i in range(len(many)):
        sink.secret(f"/many-{i}", many[i].secret)
    slow, = bulk.webhooks(stack, [(others[0].id, capped.url("/slow", "delay=10ms"))])
    bad, = bulk.webhooks(stack, [(others[1].id, failing.url("/bad", "status=500&delay=5ms"))], status="failing", failing_since="now")
    bulk.webhooks(stack, [(tenant.id, quick.url("/new"))])
    try:
        began = time.monotonic()
        events = {webhook.id: bulk.overdue(stack, webhook, ROWS // len(many)) for webhook in many}
        bulk.overdue(stack, slow, n_slow)
        bulk.overdue(stack, bad, n_failing, attempt=5)
        total = sum(map(len, events.values())) + n_slow + n_failing
        print(f"\n{total} overdue rows, written in {time.monotonic() - began:.1f} s")
        client = redis.Redis.from_url(stack.exports["NRW_REDIS_URL"])
        client.flushall()  # nobody has told Redis of these rows; now it is known that it does not know them
        worker = start_worker(requests_max=requests_max, retry_share=share, lane_concurrency=cap, lane_concurrency_start=cap,
                              retry_delays=delays(1))
        raise_priority(worker.pid)
        allowed = requests_max * share // 100
        connection = stack.connect()

        def sample():
            leased, = connection.execute("select count(*) from pending_deliveries where leased_until > now()").fetchone()
            return {"leased": leased, "claimed": client.zcard("{nrw}:leased"), "slow": capped.stats()["delayed"],
                    "bad": failing.stats()["delayed"], **process_numbers(worker.pid)}

        began = time.monotonic()
        watch = Watch(sample)
        acked = ProduceTool(topic, tenant.id, *SPREAD, count=1500, rate=150).wait()
        new = latency(quick)
        served = stack.query("select count(*) from attempts where webhook_id = any(%s)", [webhook.id for webhook in many])[0][0]
        print(f"new events meanwhile: {shown(new)}; {served} retries served by then")
        await_no_pending(stack, [*many, slow, bad], 60 + ROWS / 500)
        took = time.monotonic() - began
        highest = watch.stop()
        print(f"all served in {took:.1f} s: {total / took:.0f} retries/s; at most {allowed} allowed; highest {highest}")
        topic.await_settled(worker.group)
        assert len(acked) == 1500 == new["n"]
        assert new["p99"] <= 1_000_000 * PATIENCE, "new events had to wait for the backlog"
        assert highest["leased"] <= allowed
        # An id leaves the set one command after its row: those of one turn of the loop may still be there.
        assert highest["claimed"] <= 2 * allowed
        assert highest["slow"] <= cap and highest["bad"] <= 1 and capped.stats()["max_delayed"] <= cap and failing.stats()["max_delayed"] <= 1
        requests = attempts.by_delivery(sink)
        wanted = {str(webhook.delivery_id(event)) for webhook in many for event in events[webhook.id]}
        assert requests.keys() == wanted and all(len(lines) == 1 and lines[0]["attempt"] == 2 for lines in requests.values())
        assert {(line["sig_netrecon"], line["sig_standard"]) for lines in requests.values() for line in lines} == {("good", "good")}
        rows = dict(stack.query("select outcome, count(*) from attempts where webhook_id = any(%s) group by 1",
                                [webhook.id for webhook in (*many, slow, bad)]))
        assert rows == {"delivered": total - n_failing, "exhausted": n_failing}
        assert highest["rss_mib"] <= 128 or PATIENCE > 1
        connection.close()
        client.close()
    finally:
        capped.close()
        failing.close()


# ---- dead endpoints ----

ENDPOINTS, HEALTHY = 500, 5
SICK = ("hang", "reset", "status=500", "refuse")
SPILL_S, SEND_S = 1.0, 1.0
# Sampled between two turns of the loop, on a busy machine; and the spilled rows have to be written.
UNSETTLED_S = SPILL_S + SEND_S + 1.0 * PATIENCE


def sick_urls(sink, closed):
    """Each endpoint on a host of its own."""
    _, first = sink.listens
    port = first.rpartition(":")[2]
    for i in range(ENDPOINTS - HEALTHY):
        host = f"127.0.{1 + (i + 1) // 256}.{(i + 1) % 256}"
        kind = SICK[i % len(SICK)]
        yield kind, f"http://{host}:{closed}/sick-{i}" if kind == "refuse" else f"http://{host}:{port}/sick-{i}?{kind}"


@pytest.fixture
def hosts(tmp_path):
    """A receiver on 512 addresses."""
    port, = free_ports(1)
    sink = Sink(tmp_path / "hosts", "--listen-range", f"127.0.1.1:{port}/512")
    sink.listens = (sink.address, f"127.0.1.1:{port}")
    yield sink
    sink.close()


@pytest.mark.slow
def test_dead_endpoints_cost_the_healthy_ones_nothing(stack, topic, tenant, quick, hosts, start_worker):
    closed, = free_ports(1)
    urls = list(sick_urls(hosts, closed))
    others = bulk.tenants(stack, [uuid.uuid5(tenant.id, f"tenant-{i}") for i in range(1, 98)])
    healthy = bulk.webhooks(stack, [(tenant.id, quick.url(f"/healthy-{i}")) for i in range(HEALTHY)])
    # The healthy endpoints' own tenant has some that are dead, too, of the kinds that a steady load can be tried five times on.
    near = [url for kind, url in urls if kind != "hang"][:6]
    far = [url for _, url in urls if url not in near]
    sick = bulk.webhooks(stack, [*((tenant.id, url) for url in near), *((others[i % len(others)].id, url) for i, url in enumerate(far))],
                         active=False)
    worker = start_worker(retry_delays=delays(0.3), send_timeout=f"{SEND_S:.0f}s", spill_after=f"{SPILL_S:.0f}s", connect_timeout="1s")
    raise_priority(worker.pid)
    acked = []

    def load(seconds):
        """Healthy tenant: 60 events a second to five endpoints. All together: 30 a second."""
        mine = ProduceTool(topic, tenant.id, *SPREAD, count=60 * seconds, rate=60)
        theirs = ProduceTool(topic, tenant.id, *SPREAD, "--print-tenants") if False else None
        return mine, theirs
