"""The test receiver tests/tools/sink does what its query strings say and judges signatures right.

Independent of Kafka and PostgreSQL. Everything else in this folder trusts the ledger of this receiver, so its own tests come
first. NRW_BUILD_DIR names the build folder (default .build/dev).
"""

import base64
import hashlib
import hmac
import json
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import time

import pytest
from support.wait import in_time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("NRW_BUILD_DIR", ROOT / ".build" / "dev"))
SINK = BUILD / "tests" / "sink"
EVENT_ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
DELIVERY_ID = "0b5e3a52-6c0e-5c39-9c53-0d1f4a0a8e11"
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PATIENCE_S = 5


class Sink:
    """A running receiver and its ledger."""

    def __init__(self, folder, *options, ledger=True):
        self.ledger_file = folder / "ledger.jsonl"
        command = [str(SINK), "--listen", "127.0.0.1:0", *options]
        if ledger:
            command += ["--ledger", str(self.ledger_file)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        assert readable, "sink.ready did not come"
        self.ready = json.loads(self.process.stdout.readline())
        host, port = self.ready["listen"][0].rsplit(":", 1)
        self.address = (host, int(port))

    def connect(self):
        return Client(self.address)

    def post(self, target, body=b"{}", headers=()):
        with self.connect() as client:
            client.post(target, body, headers)
            return client.answer()

    def control(self, call, body=b"", method="POST"):
        with self.connect() as client:
            client.send(request("/_control/" + call, body, method=method))
            status, _, answer = client.answer()
        return status, json.loads(answer)

    def stats(self):
        return self.control("stats", method="GET")[1]

    def lines(self):
        return [json.loads(line) for line in self.ledger_file.read_text().splitlines()]

    def last(self):
        return [line for line in self.lines() if "path" in line][-1]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.stdout.close()
        return self.process.wait(PATIENCE_S)


def request(target, body=b"{}", headers=(), method="POST"):
    lines = [f"{method} {target} HTTP/1.1", "Host: sink", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Client:
    """A bare socket: what a real HTTP client hides is what is tested here."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=PATIENCE_S)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def post(self, target, body=b"{}", headers=()):
        self.send(request(target, body, headers))

    def more(self):
        data = self.socket.recv(65536)
        self.buffer += data
        return data

    def until(self, token):
        while token not in self.buffer:
            assert self.more(), f"closed before {token!r}: {self.buffer!r}"
        head, self.buffer = self.buffer.split(token, 1)
        return head

    def answer(self):
        """status, headers, body of one answer with a Content-Length."""
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        while len(self.buffer) < length:
            assert self.more(), "closed inside the body"
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return int(lines[0].split()[1]), headers, body

    def silent(self, seconds=0.15):
        return not select.select([self.socket], [], [], seconds)[0]


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def sink(tmp_path_factory):
    running = Sink(
        tmp_path_factory.mktemp("sink"),
        *("--secret", "/plain=correct horse"),
        *("--secret", f"/whsec={WHSEC}"),
        *("--secret", "/plain/inner=other secret"),
        *("--secret", "/rotated=old secret", "--secret", "/rotated=new secret"),
    )
    yield running
    assert running.stop() == 0


# ---- signatures ----


def sign_netrecon(body, secret):
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def sign_standard(body, secret, event_id=EVENT_ID, timestamp="1780000000"):
    key = secret.encode()
    if secret.startswith("whsec_"):
        key = base64.b64decode(secret[len("whsec_") :])
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signed_headers(body, secret, **changes):
    headers = {
        "X-NetRecon-Event": "alert.created",
        "X-NetRecon-Delivery": DELIVERY_ID,
        "X-NetRecon-Attempt": "3",
        "X-NetRecon-Signature": sign_netrecon(body, secret),
        "webhook-id": EVENT_ID,
        "webhook-timestamp": "1780000000",
        "webhook-signature": sign_standard(body, secret),
        "User-Agent": "NetRecon-Webhooks/0",
        "Content-Type": "application/json",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    headers.update(changes)
    return [(name, value) for name, value in headers.items() if value is not None]


BODY = '{"id":"x", "text":"\\u00e9 é 😀"}'.encode()
OTHER = "0" * 64

SIGNATURES = {
    "secret as typed": ("/plain", "correct horse", {}, "good", "good"),
    "base64 secret": ("/whsec/x", WHSEC, {}, "good", "good"),
    "longest prefix wins": ("/plain/inner/a", "other secret", {}, "good", "good"),
    "shorter prefix's secret is wrong": ("/plain/inner/a", "correct horse", {}, "bad", "bad"),
    "old secret in a rotation": ("/rotated", "old secret", {}, "good", "good"),
    "new secret in a rotation": ("/rotated", "new secret", {}, "good", "good"),
    "wrong secret": ("/plain", "correct house", {}, "bad", "bad"),
    "whsec taken as text is wrong for one header only": (
        "/whsec", WHSEC, {"webhook-signature": "v1," + base64.b64encode(
            hmac.new(WHSEC.encode(), EVENT_ID.encode() + b".1780000000." + BODY, hashlib.sha256).digest()).decode()},
        "good", "bad"),
    "no headers": ("/plain", "correct horse", {"X-NetRecon-Signature": None, "webhook-signature": None},
                   "absent", "absent"),
    "no secret known": ("/nobody", "correct horse", {}, "unchecked", "unchecked"),
    "upper-case hex": ("/plain", "correct horse",
                       {"X-NetRecon-Signature": "sha256=" + sign_netrecon(BODY, "correct horse")[7:].upper()},
                       "bad", "good"),
    "no algorithm": ("/plain", "correct horse",
                     {"X-NetRecon-Signature": sign_netrecon(BODY, "correct horse")[7:]}, "bad", "good"),
    "one of a list": ("/plain", "correct horse",
                      {"webhook-signature": "v1,AAAA v2,xyz " + sign_standard(BODY, "correct horse")}, "good", "good"),
    "none of a list": ("/plain", "correct horse",
                       {"webhook-signature": sign_standard(BODY, "a") + " " + sign_standard(BODY, "b")}, "good", "bad"),
    "timestamp changed": ("/plain", "correct horse", {"webhook-timestamp": "1780000001"}, "good", "bad"),
    "id changed": ("/plain", "correct horse", {"webhook-id": DELIVERY_ID}, "good", "bad"),
    "timestamp missing": ("/plain", "correct horse", {"webhook-timestamp": None}, "good", "bad"),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_is_judged(sink, name):
    path, secret, changes, netrecon, standard = SIGNATURES[name]
    assert sink.post(path, BODY, signed_headers(BODY, secret, **changes))[0] == 200
    line = sink.last()
    assert (line["sig_netrecon"], line["sig_standard"]) == (netrecon, standard)


def test_a_changed_body_is_judged_bad(sink):
    sink.post("/plain", BODY + b" ", signed_headers(BODY, "correct horse"))
    assert (sink.last()["sig_netrecon"], sink.last()["sig_standard"]) == ("bad", "bad")


def test_a_secret_given_at_run_time_counts_from_then_on(sink):
    sink.post("/late", BODY, signed_headers(BODY, "late secret"))
    assert sink.last()["sig_netrecon"] == "unchecked"
    assert sink.control("secret?prefix=/late", b"late secret")[0] == 200
    sink.post("/late", BODY, signed_headers(BODY, "late secret"))
    assert sink.last()["sig_netrecon"] == "good"
    sink.control("secret?prefix=/late&replace=1", b"later secret")
    sink.post("/late", BODY, signed_headers(BODY, "late secret"))
    assert sink.last()["sig_netrecon"] == "bad"


# ---- ledger ----


def test_the_ledger_line_has_everything(sink):
    with sink.connect() as client:
        client.post("/plain?status=201&x=%22", BODY, signed_headers(BODY, "correct horse"))
        assert client.answer()[0] == 201
        first = sink.last()
        client.post("/plain", BODY)
        client.answer()
        port = client.socket.getsockname()[1]
    second = sink.last()
    expected = {
        "method": "POST", "path": "/plain", "query": "status=201&x=%22", "event": "alert.created", "event_id": EVENT_ID,
        "delivery_id": DELIVERY_ID, "attempt": 3, "body_sha256": hashlib.sha256(BODY).hexdigest(), "body_len": len(BODY),
        "sig_netrecon": "good", "sig_standard": "good", "webhook_timestamp": "1780000000", "answer": 201,
        "user_agent": "NetRecon-Webhooks/0", "content_type": "application/json", "port": port,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    assert expected.items() <= first.items()
    assert second["conn"] == first["conn"] and second["seq"] == first["seq"] + 1
    assert second["attempt"] is None and second["event_id"] is None
    assert len(first["t"]) == len("2026-03-15T10:30:00.123456Z")


def test_the_line_is_written_before_the_answer(sink):
    with sink.connect() as client:
        for i in range(200):
            client.post(f"/before/{i}")
            client.answer()
            assert sink.last()["path"] == f"/before/{i}"


def test_an_answer_that_could_not_be_sent_is_noted(sink):
    with sink.connect() as client:
        client.post("/unsent?delay=60s")
        wait_until(lambda: sink.last()["path"] == "/unsent", "ledger line")
    seq = sink.last()["seq"]
    wait_until(lambda: {"seq": seq, "sent": False}.items() <= sink.lines()[-1].items(), "sent: false")


def test_each_distinct_body_is_stored_with_all_headers(tmp_path):
    sink = Sink(tmp_path, "--store-bodies", str(tmp_path / "bodies"))
    body = os.urandom(300000)
    sink.post("/b", body, [("X-Odd", "a  b"), ("x-odd", "é")])
    sink.post("/b", body)
    name = hashlib.sha256(body).hexdigest()
    assert sink.stop() == 0
    assert [f.name for f in (tmp_path / "bodies").iterdir()] == [name]
    assert (tmp_path / "bodies" / name).read_bytes() == body
    assert ["X-Odd", "a  b"] in sink.lines()[0]["headers"]


# ---- behaviour ----


def test_without_a_query_it_answers_200_and_keeps_the_connection(sink):
    with sink.connect() as client:
        for _ in range(3):
            client.post("/x")
            status, headers, body = client.answer()
            assert (status, body) == (200, b"ok") and "connection" not in headers


def test_status_body_and_gone(sink):
    assert sink.post("/x?status=503")[0] == 503
    assert sink.post("/x?gone")[0] == 410
    assert sink.post("/x?body=100000")[2] == b"x" * 100000
    status, headers, _ = sink.post("/x?status=204")
    assert status == 204 and "content-length" not in headers
    assert sink.post("/x?status=abc")[0] == 400
    assert sink.last()["error"] == "bad behaviour in the query"


def test_redirect_and_retry_after(sink):
    status, headers, _ = sink.post("/x?redirect=http%3A%2F%2F127.0.0.2%2Fa%3Fb%26c%0D%0AEvil:1")
    assert (status, headers["location"]) == (302, "http://127.0.0.2/a?b&cEvil:1")
    status, headers, _ = sink.post("/x?retry_after=7")
    assert (status, headers["retry-after"]) == (503, "7")
    status, headers, _ = sink.post("/x?retry_after=8&status=429")
    assert (status, headers["retry-after"]) == (429, "8")


def test_the_first_n_requests_of_each_delivery_fail(sink):
    def statuses(delivery):
        return [sink.post("/f?fail_first=2&fail_status=502", b"{}", [("X-NetRecon-Delivery", delivery)])[0]
                for _ in range(4)]

    assert statuses("a") == [502, 502, 200, 200]
    assert statuses("b") == [502, 502, 200, 200]


def test_many_delayed_answers_wait_side_by_side(sink):
    clients = [sink.connect() for _ in range(300)]
    start = time.monotonic()
    for client in clients:
        client.post("/slow?delay=300ms")
    wait_until(lambda: sink.stats()["delayed"] == 300, "all are delayed")
    assert sink.post("/quick")[0] == 200
    assert clients[0].silent(0)
    assert all(client.answer()[0] == 200 for client in clients)
    took = time.monotonic() - start
    assert took >= 0.3
    in_time(took < 2)
    assert sink.stats()["delayed"] == 0
    for client in clients:
        client.socket.close()


def test_hang_and_stall_say_nothing_more(sink):
    with sink.connect() as hanging, sink.connect() as stalled:
        hanging.post("/x?hang")
        stalled.post("/x?stall")
        assert b"200 OK" in stalled.until(b"\r\n\r\n")
        assert hanging.silent() and stalled.silent()
        assert sink.stats()["hanging"] == 2
    wait_until(lambda: sink.stats()["hanging"] == 0, "closed by the client")
    assert all("sent" not in line for line in sink.lines()[-2:])


@pytest.mark.parametrize("part", ["header", "body"])
def test_loris_sends_one_byte_per_tick(sink, part):
    with sink.connect() as client:
        client.post(f"/x?loris={part}&tick=20ms")
        client.until(b"X-Slow: " if part == "header" else b"\r\n\r\n")
        while len(client.buffer) < 5:
            assert len(client.more()) <= 2
        assert set(client.buffer) == {ord("a")}


@pytest.mark.parametrize("what,sign", [("endless", b"x" * 100), ("endless_headers", b"X-Endless: "),
                                       ("endless_1xx", b"HTTP/1.1 103 ")])
def test_endless_answers_do_not_end_and_do_not_starve_others(sink, what, sign):
    with sink.connect() as client:
        client.post(f"/x?{what}")
        got = 0
        while got < 5_000_000:
            data = client.more()
            got += len(data)
            assert data
            client.buffer = client.buffer[-1000:]
        assert sign in client.buffer
        assert sink.post("/x")[0] == 200


def test_reset_close_and_garbage(sink):
    for what in ("reset", "reset_after"):
        with sink.connect() as client:
            client.post(f"/x?{what}")
            with pytest.raises(ConnectionResetError):
                client.more()
        assert sink.last()["answer"] == what
    with sink.connect() as client:
        client.post("/x?close")
        assert client.more() == b""
    with sink.connect() as client:
        client.post("/x?close_after")
        status, headers, _ = client.answer()
        assert status == 200 and "connection" not in headers and client.more() == b""
    with sink.connect() as client:
        client.post("/x?garbage")
        assert not client.more().startswith(b"HTTP/")
        assert client.more() == b""


def test_reset_after_breaks_in_the_middle_of_the_body(sink):
    with sink.connect() as client:
        client.send(request("/x?reset_after=1000", b"y" * 2000)[:-500])
        with pytest.raises(ConnectionResetError):
            client.more()
    assert 1000 <= sink.last()["body_len"] <= 1500


# ---- HTTP ----


def test_pipelined_and_dribbled_requests_are_all_answered_in_order(sink):
    with sink.connect() as client:
        client.send(b"".join(request(f"/p?status={200 + i}") for i in range(50)))
        assert [client.answer()[0] for _ in range(50)] == [200 + i for i in range(50)]
        for byte in request("/p?status=299"):
            client.send(bytes([byte]))
        assert client.answer()[0] == 299


def test_a_body_of_two_mib_is_taken_and_one_byte_more_is_not(sink):
    body = b"z" * (2 << 20)
    assert sink.post("/big", body)[0] == 200
    assert sink.last()["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert sink.post("/big", body + b"z")[0] == 413


def test_expect_100_continue_is_answered(sink):
    data = request("/e", b"12345", [("Expect", "100-continue")])
    with sink.connect() as client:
        client.send(data[:-5])
        assert client.answer()[0] == 100
        client.send(data[-5:])
        assert client.answer()[0] == 200


BAD_REQUESTS = {
    "chunked": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "no length": (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", 411),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "negative length": (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    "folded header": (b"POST / HTTP/1.1\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n", 400),
    "space before the colon": (b"POST / HTTP/1.1\r\nContent-Length : 0\r\n\r\n", 400),
    "NUL in a header": (b"POST / HTTP/1.1\r\nA: \0\r\nContent-Length: 0\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "nonsense": (b"\x16\x03\x01\r\n\r\n", 400),
    "head of 70 KiB": (b"POST / HTTP/1.1\r\nA: " + b"b" * 70000 + b"\r\n\r\n", 431),
    "endless head": (b"POST / HTTP/1.1\r\nA: " + b"b" * 70000, 431),
    "500 headers": (b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"Content-Length: 0\r\n\r\n", 431),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_request_is_refused_and_closed(sink, name):
    data, status = BAD_REQUESTS[name]
    with sink.connect() as client:
        client.send(data)
        assert client.answer()[0] == status
        assert client.more() == b""
    assert sink.lines()[-1]["answer"] == status


def test_http_1_0_and_connection_close_end_the_connection(sink):
    for data in (b"POST /x HTTP/1.0\r\nContent-Length: 0\r\n\r\n", request("/x", b"", [("Connection", "close")])):
        with sink.connect() as client:
            client.send(data)
            _, headers, _ = client.answer()
            assert headers["connection"] == "close" and client.more() == b""


def test_a_client_that_resets_is_only_forgotten(sink):
    before = sink.stats()["open"]
    client = sink.connect()
    client.send(request("/x", b"y" * 1000)[:-500])
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
    wait_until(lambda: sink.stats()["open"] == before, "connection forgotten")


# ---- control ----


def test_a_path_is_flipped_at_once_and_back(sink):
    assert sink.control("set?path=%2Fflip&status=500&retry_after=3")[0] == 200
    status, headers, _ = sink.post("/flip?status=201")
    assert (status, headers["retry-after"]) == (500, "3")
    assert sink.post("/other")[0] == 200
    sink.control("set?path=*&gone")
    assert sink.post("/other")[0] == 410
    assert sink.post("/flip")[0] == 500
    sink.control("clear?path=/flip")
    assert sink.post("/flip")[0] == 410
    sink.control("clear")
    assert sink.post("/flip?status=201")[0] == 201
    status, answer = sink.control("set?path=/flip&sttus=500")
    assert status == 400 and answer["at"] == "sttus"
    assert sink.control("nonsense")[0] == 404


def test_stats_count_and_reset(tmp_path):
    sink = Sink(tmp_path, "--count-only", "--latency", ledger=False)
    now_us = time.time_ns() // 1000
    for i in range(5):
        body = json.dumps({"data": {"produced_at_us": now_us - 50_000}}).encode()
        sink.post(f"/s/{i % 2}?status=500", body)
    stats = sink.stats()
    assert stats["requests"] == 5 and stats["by_path"] == {"/s/0": 3, "/s/1": 2}
    assert stats["connections"] == 6 and stats["latency_us"]["n"] == 5
    assert 50_000 <= stats["latency_us"]["p50"] <= stats["latency_us"]["max"] < 5_000_000
    assert sink.control("reset")[0] == 200
    stats = sink.stats()
    assert stats["requests"] == 0 and stats["by_path"] == {} and stats["latency_us"]["n"] == 0
    assert sink.control("health", method="GET") == (200, {"ok": True})
    assert sink.stop() == 0


# ---- the process ----


def test_a_range_of_addresses_shares_one_port(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.9.1", 0))
        port = probe.getsockname()[1]
    sink = Sink(tmp_path, "--listen-range", f"127.0.9.1:{port}/600")
    assert sink.ready["listen"][1] == f"127.0.9.1:{port}/600"
    for address in ("127.0.9.1", "127.0.9.255", "127.0.10.0", "127.0.11.88"):
        with Client((address, port)) as client:
            client.post("/range")
            assert client.answer()[0] == 200
    with pytest.raises(ConnectionRefusedError):
        Client(("127.0.11.89", port))
    assert sink.stop() == 0


def test_a_secret_can_come_from_a_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text("from a file\n")
    sink = Sink(tmp_path, "--secret-file", f"/filed={file}")
    assert sink.post("/filed", BODY, signed_headers(BODY, "from a file"))[0] == 200
    assert (sink.last()["sig_netrecon"], sink.last()["sig_standard"]) == ("good", "good")
    assert sink.stop() == 0


@pytest.mark.parametrize("content", [None, "", "\n", "x" * 257], ids=["missing", "empty", "empty-line", "too-long"])
def test_a_file_without_a_secret_is_refused(tmp_path, content):
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    run = subprocess.run([str(SINK), "--listen", "127.0.0.1:0", "--secret-file", f"/p={file}"], capture_output=True, timeout=PATIENCE_S, check=False)
    assert run.returncode == 2 and b"secret" in run.stderr


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "localhost:0", "127.0.0.1", "127.0.0.1:70000"])
def test_it_listens_on_loopback_only(address):
    run = subprocess.run([str(SINK), "--listen", address], capture_output=True, timeout=PATIENCE_S, check=False)
    assert run.returncode == 2 and address.encode() in run.stderr


def test_sigterm_leaves_a_whole_ledger_and_no_pid_file(tmp_path):
    pid_file = tmp_path / "pid"
    sink = Sink(tmp_path, "--pid-file", str(pid_file))
    assert int(pid_file.read_text()) == sink.process.pid
    with sink.connect() as client:
        client.post("/waiting?delay=60s")
        wait_until(lambda: sink.stats()["delayed"] == 1, "delayed")
        assert sink.stop() == 0
    assert [line.get("sent") for line in sink.lines()] == [None, False]
    assert not pid_file.exists()


def test_out_of_descriptors_it_refuses_and_recovers(tmp_path):
    sink = Sink(tmp_path)
    limit = ["prlimit", f"--pid={sink.process.pid}", "--nofile=40:40"]
    subprocess.run(limit, check=True, timeout=PATIENCE_S)
    clients = [sink.connect() for _ in range(60)]
    wait_until(lambda: len([c for c in clients if not c.silent(0)]) >= 20, "surplus connections are dropped")
    for client in clients:
        client.socket.close()
    wait_until(lambda: refused_count(sink) >= 20, "room again")
    assert sink.stop() == 0


def refused_count(sink):
    try:
        return sink.stats()["refused"]
    except (AssertionError, OSError):
        return 0
