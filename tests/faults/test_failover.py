"""PostgreSQL as a primary and its standby, named together in NRW_DATABASE_URL, as deploy/README.md says: worker and API find the one that takes
writes, whoever refuses, is silent or only reads; and find the other one when it is promoted."""

import contextlib
import socket
import subprocess
import time

import psycopg
import pytest
from support import ledger
from support.paths import ROOT, clean_environment
from support.postgres import Postgres
from support.produce import SPREAD, ProduceTool, envelope
from support.stack import free_ports
from support.tenant import Tenant
from support.wait import await_condition

pytestmark = pytest.mark.slow

RATE = 200
FAILOVER_S = 30  # from the promotion on
TIMEOUTS_S = 15  # connect_timeout is 5 s, and shared by all hosts


class Pair:
    """primary and its synchronous standby, and what a test asks of a stack: of the one that takes writes now."""

    def __init__(self, stack, primary: Postgres, standby: Postgres):
        self.primary, self.standby = primary, standby
        self.writes = primary
        # Another index than the stack's: it belongs to this database.
        self.redis_url = stack.worker_environment["NRW_REDIS_URL"].removesuffix("/0") + "/7"
        self.worker_environment = stack.worker_environment

    def url(self, *first: int) -> str:
        """first: ports in front of both servers'; the standby stands before the primary."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in (*first, self.standby.port, self.primary.port))
        return f"postgresql://postgres@{hosts}/netrecon?target_session_attrs=read-write"

    def settings(self, *first: int) -> dict[str, str]:
        return {"database_url": self.url(*first), "redis_url": self.redis_url}

    def connect(self) -> psycopg.Connection:
        return self.writes.connect("netrecon", options="-c timezone=UTC")

    def query(self, sql: str, *parameters) -> list[tuple]:
        with self.connect() as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def promote(self) -> None:
        self.standby.promote()
        self.writes = self.standby


@pytest.fixture
def pair(stack):
    with contextlib.ExitStack() as servers:
        primary = servers.enter_context(Postgres())
        primary.create_database("netrecon")
        standby = servers.enter_context(primary.standby())
        with primary.connect() as connection:  # what is answered is on both
            connection.execute("alter system set synchronous_standby_names = '*'")
            connection.execute("select pg_reload_conf()")
            await_condition(lambda: connection.execute("select sync_state from pg_stat_replication").fetchall() == [("sync",)], 30, "it follows")
        pair = Pair(stack, primary, standby)
        subprocess.run([ROOT / "schema" / "apply"], env={**clean_environment(), "NRW_DATABASE_URL": pair.url(*free_ports(1))}, check=True,
                       timeout=60, stdout=subprocess.DEVNULL)
        yield pair


@pytest.fixture
def tenant(pair):
    return Tenant(pair)


def ours(server: Postgres) -> set[str]:
    """Names of our programs' connections there."""
    with server.connect() as connection:
        return {name for name, in connection.execute("select application_name from pg_stat_activity where application_name like 'nrw%'")}


def test_both_programs_find_the_server_that_takes_writes(pair, tenant, sink, subscribe, producer, start_worker, start_api):
    """First a port where nobody listens, then the standby, then the primary."""
    settings = pair.settings(*free_ports(1))
    webhook, = subscribe()
    start_worker(**settings)
    api = start_api(**settings)
    assert len(ours(pair.primary)) > 4 and ours(pair.standby) == set()
    event = producer.one(envelope(tenant.id))
    assert sink.wait(1)[0]["event_id"] == event
    client = api.jwt_client(tenant.id)
    assert [found["id"] for found in client.get().json()["data"]] == [str(webhook.id)]
    assert client.patch(str(webhook.id), {"description": "written"}).status_code == 200
    await_condition(lambda: webhook.attempts(event), 10, "the delivery log has it")


def test_a_silent_server_in_front_costs_one_timeout_and_no_more(pair, tenant, sink, subscribe, producer, start_worker, start_api):
    """A machine that hangs: its kernel takes connections, and nothing answers. Its place is the first, where libpq looks each time."""
    subscribe()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = pair.settings(silent.getsockname()[1], *free_ports(1))
        programs = [start(ready=False, **settings) for start in (start_worker, start_api)]
        for program in programs:
            program.ready(TIMEOUTS_S)
            assert "no connection in time" in program.wait_log("pg.connect_failed")["error"]
        event = producer.one(envelope(tenant.id))
        assert sink.wait(1)[0]["event_id"] == event


def test_a_standby_that_is_promoted_takes_over_under_load(pair, topic, tenant, sink, subscribe, start_worker, start_api):
    """The primary dies with what it had in hand; every event is delivered once and logged."""
    settings = pair.settings(*free_ports(1))
    webhooks = subscribe(2)
    worker = start_worker(**settings)
    api = start_api(**settings)
    client = api.jwt_client(tenant.id)
    load = ProduceTool(topic, tenant.id, *SPREAD, count=1_000_000, rate=RATE)
    try:
        sink.wait(2 * RATE)
        pair.primary.kill9()
        for program in (worker, api):
            await_condition(lambda program=program: program.get("/ready").status_code == 503, 10, "it says that it is not ready")
        assert client.get().status_code == 503
        pair.promote()
        began = time.monotonic()
        for program in (worker, api):
            program.ready(FAILOVER_S)
        print(f"\nready again {time.monotonic() - began:.1f} s after the promotion")
        sink.wait(len(sink.ledger()) + 2 * RATE, timeout=FAILOVER_S)
        assert client.get().status_code == 200
    finally:
        acked = load.stop()
    topic.await_settled(worker.group, timeout=60)
    assert len(ours(pair.standby)) > 4
    ledger.check(pair, sink, topic, webhooks, acked, duplicates_max=0, what="PostgreSQL failed over")
