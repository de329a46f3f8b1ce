"""More clients than the API has room for, clients that never finish, and a SIGTERM in the middle of it."""

import concurrent.futures
import resource
import selectors
import signal
import socket
import threading
import time
import uuid

import pytest
from support import contract
from support.api import WEBHOOKS
from support.wait import PATIENCE, await_condition
from support.wire import Wire

EVENT_TYPES = "/api/v1/integrations/event-types"
MIB = 1024 * 1024
HEAD = b"POST /api/v1/integrations/webhooks HTTP/1.1\r\nHost: x\r\n"


class Crowd:
    """with Crowd(port, idle=…, headers=…, bodies=…): so many connections that say nothing, or one byte a second of a request that does
    not end. What the server closes is opened again."""

    def __init__(self, port: int, idle: int = 0, headers: int = 0, bodies: int = 0):
        self._port = port
        self._kinds = [b""] * idle + [HEAD + b"X: "] * headers + [HEAD + b"Content-Length: 60000\r\n\r\n"] * bodies
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.reopened = 0

    def __enter__(self) -> "Crowd":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
        self._selector = selectors.DefaultSelector()
        for kind in self._kinds:
            self._open(kind)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def _open(self, kind: bytes) -> None:
        one = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        one.setblocking(False)
        one.send(kind) if kind else None
        self._selector.register(one, selectors.EVENT_READ, kind)

    def _run(self) -> None:
        drip = time.monotonic() + 1
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.1):  # closed, or an answer before it is
                self._selector.unregister(key.fileobj)
                key.fileobj.close()
                self.reopened += 1
                self._open(key.data)
            if time.monotonic() >= drip:
                drip += 1
                for key in self._selector.get_map().values():
                    try:
                        if key.data:
                            key.fileobj.send(b"a")
                    except OSError:
                        pass  # seen by select()


def percentile_99(client, n: int = 300) -> float:
    took = []
    for _ in range(n):
        began = time.monotonic()
        assert client.get(EVENT_TYPES).status_code == 200
        took.append(time.monotonic() - began)
    return sorted(took)[n * 99 // 100]


@pytest.mark.slow
def test_a_thousand_idle_and_two_hundred_slow_clients_hold_up_nobody(tenant, api):
    client = api.client(tenant.id)
    alone = percentile_99(client)
    with Crowd(api.api_port, idle=1000, headers=100, bodies=100) as crowd:
        await_condition(lambda: api.metric("nrw_api_connections") >= 1200, 10, "1200 connections")
        until = time.monotonic() + 12  # past NRW_API_REQUEST_TIMEOUT: the slow ones are closed and come again
        while time.monotonic() < until:
            crowded = percentile_99(client)
            assert crowded < 5 * alone + 0.1, f"{crowded} s, {alone} s alone"
        assert crowd.reopened >= 200
        assert api.memory() < 150 * MIB
    await_condition(lambda: api.metric("nrw_api_connections") <= 1, 10, "the crowd is gone")


def test_at_the_cap_of_connections_new_clients_are_served(tenant, start_api):
    api = start_api(api_connections=32, api_request_timeout="2s")
    with Crowd(api.api_port, idle=64):
        for _ in range(10):
            began = time.monotonic()
            with Wire(api.api_port) as wire:
                wire.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert wire.answer().status == 200
            assert time.monotonic() - began < 8
            assert api.metric("nrw_api_connections") <= 32


def test_at_the_cap_slow_requests_give_way_at_their_deadline(tenant, start_api):
    api = start_api(api_connections=32, api_request_timeout="2s")
    with Crowd(api.api_port, headers=16, bodies=16):
        for _ in range(3):
            began = time.monotonic()
            with Wire(api.api_port) as wire:
                wire.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert wire.answer().status == 200
            assert time.monotonic() - began < 8


@pytest.mark.slow  # a sanitizer keeps what is freed for a while
def test_clients_that_do_not_read_their_answers_cost_no_memory(tenant, api):
    client = api.client(tenant.id)
    assert client.get(EVENT_TYPES).status_code == 200
    before = api.memory()
    request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    wires = [Wire(api.api_port, receive_buffer=2048) for _ in range(100)]
    for wire in wires:
        wire.socket.setblocking(False)
        for _ in range(200):  # pipelined until the server reads no more
            try:
                wire.socket.send(request * 50)
            except BlockingIOError:
                break
    assert percentile_99(client, 50) < 2
    assert api.memory() - before < 100 * MIB
    for wire in wires:
        wire.vanish()
    await_condition(lambda: api.metric("nrw_api_connections") <= 1, 20, "they are gone")


@pytest.fixture
def large_detail(stack, tenant, api):
    """The path of a delivery's detail at its largest: a whole payload, 100 attempts and their answers, all of which JSON makes six times as long."""
    client = api.client(tenant.id)
    webhook_id = client.create("https://hooks.example.com/netrecon")["id"]
    event_id, delivery_id = uuid.uuid4(), uuid.uuid4()
    with stack.connect() as connection, connection.transaction():
        connection.execute("insert into events (id, received_at, tenant_id, event_type, payload) values (%s, now(), %s, 'alert.created', %s)",
                           (event_id, tenant.id, b"\x01" * 262144))
        connection.execute("insert into attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id, event_type, started_at, "
                           "response_time_ms, outcome, status_code, response_headers, response_body) select now(), %s, n, %s, %s, %s, "
                           "'alert.created', now(), 1, 'failed', 500, %s, %s from generate_series(1, 100) n",
                           (delivery_id, event_id, webhook_id, tenant.id, b"\x01" * 2048, b"\x01" * 4096))
    return f"{WEBHOOKS}/{webhook_id}/deliveries/{delivery_id}"


def test_the_largest_detail_has_the_answers_of_its_newest_attempts(tenant, api, large_detail):
    answer = contract.check(api.client(tenant.id).get(large_detail), "getDelivery")
    assert [attempt["attempt"] for attempt in answer.json()["attempts"]] == list(range(1, 101))
    assert [attempt["attempt"] for attempt in answer.json()["attempts"] if attempt["response"]] == list(range(81, 101))
    assert len(answer.content) < 3 * MIB


@pytest.mark.slow
def test_large_answers_that_nobody_reads_cost_memory_up_to_their_bound(tenant, api, large_detail):
    """400 of 2.4 MB each, of which 32 MiB may wait; the rest of the bound is for what is being made, rounded up and not yet let go."""
    client = api.client(tenant.id)
    assert client.get(large_detail).status_code == 200
    key, before, most = client.session.headers["X-API-Key"], api.memory(), 0
    request = f"GET {large_detail} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()
    wires = []
    for n in range(400):
        wires.append(Wire(api.api_port, receive_buffer=2048))
        wires[-1].send(request)
        if n % 20 == 0:
            assert percentile_99(client, 5) < 5
            most = max(most, api.memory())
    await_condition(lambda: api.metric("nrw_api_requests_open") == 0, 20, "all are answered")
    assert max(most, api.memory()) - before < 256 * MIB
    answer = client.get(large_detail)
    assert answer.status_code == 200 and answer.json()["attempts"]
    for wire in wires:
        wire.vanish()
    await_condition(lambda: api.metric("nrw_api_connections") <= 1, 20, "they are gone")


def test_sigterm_with_idle_connections_ends_within_a_second(tenant, api):
    client = api.client(tenant.id)
    assert client.get(EVENT_TYPES).status_code == 200  # kept alive
    wires = [Wire(api.api_port) for _ in range(200)]
    await_condition(lambda: api.metric("nrw_api_connections") >= 200, 10, "200 connections")
    began = time.monotonic()
    api.wait_exit(signal.SIGTERM)
    assert time.monotonic() - began < PATIENCE
    for wire in wires:
        assert wire.answer() is None
        wire.socket.close()


def test_sigterm_under_load_leaves_no_half_answer(tenant, api):
    key = api.client(tenant.id).session.headers["X-API-Key"]
    request = f"GET {EVENT_TYPES} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()
    stopped = threading.Event()

    def hammer(_) -> tuple[int, int]:
        """Until nobody listens any more. answer() fails on half an answer."""
        answered = closed = 0
        while not stopped.is_set():
            try:
                wire = Wire(api.api_port)
            except (ConnectionRefusedError, ConnectionResetError):
                return answered, closed
            with wire:
                for _ in range(20):
                    wire.send(request)
                    answer = wire.answer()
                    if answer is None:
                        closed += 1
                        break
                    assert answer.status in (200, 503), answer
                    answered += 1
                    if answer.headers.get("connection") == "close":
                        assert wire.answer() is None
                        break
        return answered, closed

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        running = [pool.submit(hammer, i) for i in range(16)]
        await_condition(lambda: api.metric("nrw_api_requests_total") > 500, 20, "some load")
        try:
            api.wait_exit(signal.SIGTERM)
        finally:
            stopped.set()
        results = [one.result() for one in running]
    assert sum(answered for answered, _ in results) > 500
    assert api.log_lines("api.exit", why="stopped", code=0)


def test_sigterm_waits_for_a_request_and_refuses_new_clients_meanwhile(stack, tenant, api):
    key = api.client(tenant.id).session.headers["X-API-Key"]
    request = f"GET {EVENT_TYPES} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()
    with Wire(api.api_port) as wire:
        with stack.connect(superuser=True) as connection, connection.transaction():
            connection.execute("lock table api_keys in access exclusive mode")
            wire.send(request)
            await_condition(lambda: api.metric("nrw_api_requests_open") == 1, 10, "an open request")
            api.process.send_signal(signal.SIGTERM)
            api.wait_log("api.stopping")
            with pytest.raises(ConnectionRefusedError):
                Wire(api.api_port)
        answer = wire.answer()
        assert answer.status == 200 and answer.headers["connection"] == "close"
        assert wire.answer() is None
    api.wait_exit()
