"""One process after another dies under load: nothing is lost, and an operator is told, each time, by the alert that says what it was.

A real Prometheus scrapes workers and API each second and evaluates the rules of deploy/observability/ without their `for`."""

import pytest
from support import ledger
from support.produce import SPREAD, ProduceTool
from support.prometheus import Prometheus
from support.stack import free_ports
from support.wait import await_condition

RATE = 200
LANE_CONCURRENCY = 16
JOURNAL_BATCH_MAX = 200
TOLD_WITHIN_S = 20
# A member whose coordinator is gone holds its partitions for so long.
KAFKA = {"session.timeout.ms": "8000"}
OURS = {"NrwWorkerDown", "NrwNobodyConsumes", "NrwApiDown", "NrwRedisDown", "NrwPostgresDown"}


@pytest.fixture
def fleet(start_worker, start_api, topic):
    """Two workers and an API, each at an admin port that it has again after it was killed."""
    ports = free_ports(3)
    settings = {"kafka": KAFKA, "lane_concurrency": LANE_CONCURRENCY, "lane_concurrency_start": LANE_CONCURRENCY,
                "journal_batch_max": JOURNAL_BATCH_MAX}
    first = start_worker(name="worker-1", admin_listen=f"127.0.0.1:{ports[0]}", **settings)
    second = start_worker(name="worker-2", group=first.group, admin_listen=f"127.0.0.1:{ports[1]}", ready=False, **settings)
    api = start_api(name="api-1", admin_listen=f"127.0.0.1:{ports[2]}")
    return [first, second, api]


@pytest.fixture
def prometheus(fleet, tmp_path):
    first, second, api = fleet
    server = Prometheus(tmp_path / "prometheus", {"netrecon-webhooks-worker": {"worker-1": first.port, "worker-2": second.port},
                                                  "netrecon-webhooks-api": {"api-1": api.port}})
    await_condition(lambda: server.query("count(up == 1) == 3"), 30, "all three are scraped")
    yield server
    server.close()


@pytest.mark.slow
def test_each_death_is_told_and_nothing_is_lost(real_kafka, stack, topic, tenant, sink, subscribe, fleet, prometheus):
    first, second, api = fleet
    webhooks = subscribe(2)
    load = ProduceTool(topic, tenant.id, *SPREAD, count=1_000_000, rate=RATE)

    def told(*alerts):
        await_condition(lambda: set(alerts) <= prometheus.firing(), TOLD_WITHIN_S, lambda: f"{alerts} of {prometheus.firing()}")
        # While members come and go, nobody may have a partition for a moment: its `for` is what a test does not wait for.
        other = OURS & prometheus.firing() - set(alerts) - {"NrwNobodyConsumes"}
        assert not other, f"{alerts} is what happened, but {other} is told, too"

    def all_well(timeout=60):
        seen = len(sink.ledger())
        sink.wait(seen + RATE, timeout=timeout)
        await_condition(lambda: not OURS & prometheus.firing(), timeout, lambda: f"no alert any more: {OURS & prometheus.firing()}")

    try:
        all_well()
        before = prometheus.firing()

        first.kill9()
        told("NrwWorkerDown")
        first.start()
        all_well()

        api.kill9()
        told("NrwApiDown")
        api.start()
        all_well()

        stack.redis_kill()
        told("NrwRedisDown")
        stack.redis_start()
        all_well()

        stack.pg_kill()
        told("NrwPostgresDown")
        await_condition(lambda: api.get("/ready").status_code == 503, 10, "the API says that it is not ready")
        stack.pg_start()
        stack.await_pg()
        all_well()

        first.kill9()
        second.kill9()
        told("NrwWorkerDown", "NrwNobodyConsumes")
        first.start()
        second.start()
        all_well()

        stack.kafka_kill()
        told("NrwNobodyConsumes")
        stack.kafka_start()
        all_well(timeout=120)
        await_condition(lambda: "NrwFirstAttemptsLateFast" in prometheus.firing(), TOLD_WITHIN_S,
                        "the outages have cost more first attempts than the objective allows")
    finally:
        acked = load.stop()
    topic.await_settled(first.group, timeout=120)
    print(f"\nbefore: {before or 'no alert'}")
    for sample in prometheus.query('count_over_time(ALERTS{alertstate="firing"}[10m])'):
        print(f"{sample['metric']['alertname']} {sample['metric'].get('instance', '')}: {sample['value']:.0f} s")
    exposed = LANE_CONCURRENCY * len(webhooks) + 2 * JOURNAL_BATCH_MAX
    ledger.check(stack, sink, topic, webhooks, acked, duplicates_max=3 * exposed, what="each process killed in turn")
