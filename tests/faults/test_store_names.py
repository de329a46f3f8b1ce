"""PostgreSQL and Redis are given by name: a DNS server that does not answer costs what needs it, and nothing else."""

import contextlib
import socket
import time
import urllib.parse

import pytest
from support.dns import HANG, SERVFAIL
from support.produce import SPREAD, ProduceTool
from support.wait import PATIENCE, await_condition

SILENCE_S = 8  # longer than a look-up and the first pauses
LOOK_UP_S = 5  # common/store_address.h
PAUSE_S = 5  # the longest one between two tries
AT_ONCE_S = 1.0
BLOCKED_S = 2.0  # getaddrinfo() waits 5 s for one server, twice; what is less than this the machine may have done


@pytest.fixture(params=("worker", "api"))
def start(request, names):
    """start(…) starts one of the two programs with the names of the test; it need not be ready."""
    starting = request.getfixturevalue(f"start_{request.param}")
    return lambda **settings: starting(ready=False, around=names.around, **settings)


def by_name(url: str, name: str) -> str:
    assert "@127.0.0.1:" in url
    return url.replace("@127.0.0.1:", f"@{name}:")


@pytest.fixture
def redis_url(stack):
    return stack.exports["NRW_REDIS_URL"]


def stays_awake(program, seconds: float = SILENCE_S) -> None:
    """For so long /health answers at once, every time."""
    slowest, until = 0.0, time.monotonic() + seconds

    def over():
        nonlocal slowest
        began = time.monotonic()
        assert program.get("/health").status_code == 200
        slowest = max(slowest, time.monotonic() - began)
        return time.monotonic() >= until

    await_condition(over, seconds * 4, "the end of the silence")
    turn = program.metric("nrw_loop_turn_max_seconds")
    print(f"\n/health at worst after {1000 * slowest:.0f} ms, longest turn of the loop {1000 * turn:.0f} ms")
    assert slowest < AT_ONCE_S * PATIENCE
    assert turn < BLOCKED_S * PATIENCE


@pytest.mark.slow
def test_redis_that_cannot_be_resolved_holds_nothing_else_up(stack, names, start, redis_url):
    names.dns.default = HANG
    program = start(redis_url=by_name(redis_url, "redis.example.test"))
    program.ready()  # PostgreSQL is there
    stays_awake(program)
    found = program.wait_log("redis.connect_failed", timeout=LOOK_UP_S + 2)
    assert "redis.example.test: no DNS server answered in time" in found["error"]
    assert program.metric("nrw_redis_up") == 0 and program.metric("nrw_pg_up") == 1
    assert program.metric("nrw_pg_connections_lost_total") == 0
    assert ("redis.example.test", "A") in names.dns.asked and ("redis.example.test", "AAAA") in names.dns.asked
    names.dns.answers["redis.example.test"] = ["127.0.0.1"]
    await_condition(lambda: program.metric("nrw_redis_up") == 1, LOOK_UP_S + PAUSE_S + 2, "Redis is connected")


@pytest.mark.slow
def test_events_are_delivered_while_redis_cannot_be_resolved(topic, tenant, sink, subscribe, names, start_worker, redis_url):
    names.dns.default = HANG
    subscribe(1)
    worker = start_worker(around=names.around, redis_url=by_name(redis_url, "redis.example.test"))
    load = ProduceTool(topic, tenant.id, *SPREAD, count=400, rate=50)
    stays_awake(worker)
    load.wait()
    sink.wait(400, timeout=10)
    assert worker.metric("nrw_redis_up") == 0 and worker.metric("nrw_pg_connections_lost_total") == 0


@pytest.mark.slow
def test_postgres_that_cannot_be_resolved_is_told_and_awaited(stack, names, start):
    names.dns.default = HANG
    program = start(database_url=by_name(stack.database_url, "pg.example.test"))
    stays_awake(program)
    found = program.wait_log("pg.connect_failed", timeout=LOOK_UP_S + 2)
    assert "pg.example.test: no DNS server answered in time" in found["error"]
    assert program.get("/ready").status_code == 503
    names.dns.answers["pg.example.test"] = ["127.0.0.1"]
    program.ready(timeout=LOOK_UP_S + PAUSE_S + 2)


@pytest.mark.parametrize("answer, text", ((None, "the name does not exist"), (SERVFAIL, "no DNS server gave a usable answer"),
                                          ([], "the name has no address")), ids=("unknown", "servfail", "empty"))
def test_a_name_without_an_address_is_told_and_tried_again(stack, names, start, redis_url, answer, text):
    names.dns.answers.update({"pg.example.test": answer, "redis.example.test": answer})
    program = start(database_url=by_name(stack.database_url, "pg.example.test"), redis_url=by_name(redis_url, "redis.example.test"))
    assert f"pg.example.test: {text}" in program.wait_log("pg.connect_failed")["error"]
    assert f"redis.example.test: {text}" in program.wait_log("redis.connect_failed")["error"]
    names.dns.answers.update({"pg.example.test": ["127.0.0.1"], "redis.example.test": ["127.0.0.1"]})
    program.ready(timeout=PAUSE_S + 2)
    await_condition(lambda: program.metric("nrw_redis_up") == 1, PAUSE_S + 2, "Redis is connected")


def test_the_address_that_answers_is_found_among_several(stack, names, start, redis_url):
    # Nobody listens on 127.0.0.9; ::1 has no such port either.
    for name in ("pg.example.test", "redis.example.test"):
        names.dns.answers[name] = ["127.0.0.9", "::1", "127.0.0.1"]
    hosts, database = by_name(stack.database_url, "gone.example.test").rsplit("/", 1)
    port = hosts.rsplit(":", 1)[1]
    hosts += f",pg.example.test:{port},127.0.0.9:{port}"
    program = start(database_url=f"{hosts}/{database}", redis_url=by_name(redis_url, "redis.example.test")).ready()
    await_condition(lambda: program.metric("nrw_redis_up") == 1, 10, "Redis is connected")


@pytest.mark.slow
def test_an_address_that_hangs_does_not_hide_the_next_one(stack, names, start, redis_url):
    database_url = by_name(stack.database_url, "pg.example.test")
    for name in ("pg.example.test", "redis.example.test"):
        names.dns.answers[name] = ["127.0.0.9", "127.0.0.1"]
    with contextlib.ExitStack() as open_until:
        for url in (database_url, redis_url):
            # The kernel takes connections, and nobody answers.
            open_until.enter_context(socket.create_server(("127.0.0.9", urllib.parse.urlsplit(url).port)))
        program = start(database_url=database_url, redis_url=by_name(redis_url, "redis.example.test"))
        assert "no connection in time" in program.wait_log("pg.connect_failed")["error"]
        assert "no connection in time" in program.wait_log("redis.connect_failed")["error"]
        program.ready(timeout=10)
        await_condition(lambda: program.metric("nrw_redis_up") == 1, 10, "Redis is connected")


def test_a_host_that_was_left_out_is_told_when_the_others_fail(stack, names, start):
    host, database = by_name(stack.database_url, "gone.example.test").rsplit("/", 1)
    program = start(database_url=f"{host},127.0.0.9:9/{database}")
    found = program.wait_log("pg.connect_failed")
    assert "127.0.0.9" in found["error"] and found["not_tried"] == "gone.example.test: the name does not exist"


def test_the_hosts_file_and_search_domains_count(stack, names, start, redis_url):
    names.hosts("127.0.0.1 localhost", "127.0.0.1 redis")
    names.resolv_conf("search apps.svc.cluster.test svc.cluster.test cluster.test", names.server, "options ndots:5")
    names.dns.answers["pg.data.svc.cluster.test"] = ["127.0.0.1"]
    program = start(database_url=by_name(stack.database_url, "pg.data.svc"), redis_url=by_name(redis_url, "redis")).ready()
    await_condition(lambda: program.metric("nrw_redis_up") == 1, 10, "Redis is connected")
    assert not [name for name, _ in names.dns.asked if name.startswith("redis")]


def test_a_program_ends_at_once_while_it_resolves(stack, names, start, redis_url):
    names.dns.default = HANG
    program = start(database_url=by_name(stack.database_url, "pg.example.test"), redis_url=by_name(redis_url, "redis.example.test"))
    await_condition(lambda: ("pg.example.test", "A") in names.dns.asked, 10, "a query for the name")
    began = time.monotonic()
    assert program.stop() == 0
    assert time.monotonic() - began < 4 * PATIENCE
