"""HTTPS endpoints: what verifies is delivered over a kept connection, what does not is a failed attempt that says why."""

import re

import pytest
from support.listeners import Canary
from support.produce import envelope
from support.tls import Authority, Nginx

GOOD = ("good", "tls13")
# What the customer reads in the delivery log.
BAD = {
    "expired": r"^certificate: .*expired",
    "wrong-host": r"^certificate: .*(no alternative certificate subject name|subject name.*does not match)",
    "self-signed": r"^certificate: .*self.signed",
    "unknown-ca": r"^certificate: .*(unable to get local issuer|unable to get issuer)",
    "tls11": r"^TLS: .*(protocol|version)",
}
OLD = "ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;"


@pytest.fixture
def https(tmp_path, sink):
    folder = tmp_path / "tls"
    authority = Authority(folder)
    for name in (*GOOD, "tls11"):
        authority.certificate(name, f"{name}.example.net")
    authority.certificate("expired", "expired.example.net", expired=True)
    authority.certificate("wrong-host", "other.example.net")
    authority.certificate("self-signed", "self-signed.example.net", self_signed=True)
    stranger = Authority(tmp_path / "stranger", "a CA that nobody trusts")
    stranger.certificate("unknown-ca", "unknown-ca.example.net")
    for suffix in ("crt", "key"):
        (folder / f"unknown-ca.{suffix}").write_bytes((stranger.folder / f"unknown-ca.{suffix}").read_bytes())
    nginx = Nginx(folder, sink.address, {**{name: "" for name in (*GOOD, *BAD)}, "tls13": "ssl_protocols TLSv1.3;", "tls11": OLD})
    nginx.ca_file = authority.file
    yield nginx
    nginx.close()


def test_tls(stack, topic, tenant, sink, https, dns, producer, start_worker):
    hooks = {}
    for name, port in https.port.items():
        dns.answers[f"{name}.example.net"] = ["127.0.0.1"]
        hooks[name] = tenant.webhook(f"https://{name}.example.net:{port}/{name}")
        sink.secret(f"/{name}", hooks[name].secret)
    plain = Canary("127.0.0.1")  # accepts and closes: a TLS hello gets no answer
    hooks["no-tls"] = tenant.webhook(f"https://good.example.net:{plain.port}/no-tls")
    worker = start_worker(dns_servers=dns.address, ca_file=https.ca_file, send_timeout="5s", connect_timeout="2s", allow_http="false")
    events = []
    for n in (1, 2, 3):
        events.append(producer.one(envelope(tenant.id)))
        topic.await_settled(worker.group)
        assert len(sink.ledger()) == n * len(GOOD)
    plain.close()
    print()
    for name, webhook in hooks.items():
        rows = webhook.attempts()
        print(f"{name:12} {rows[0]['outcome']:9} {rows[0]['status_code']!s:5} {rows[0]['error']}")
        assert len(rows) == len(events)
    for name in GOOD:
        lines = sink.ledger(f"/{name}")
        assert {(line["sig_netrecon"], line["sig_standard"]) for line in lines} == {("good", "good")}
        assert {row["outcome"] for row in hooks[name].attempts()} == {"delivered"}
        reused = [line["reused"] for line in worker.log_lines("delivery.attempt", webhook=str(hooks[name].id))]
        assert reused == [0, 1, 1], f"{name}: the connection was not kept: {reused}"
    for name, pattern in {**BAD, "no-tls": r"^(TLS|no valid answer|connect)"}.items():
        for row in hooks[name].attempts():
            assert row["outcome"] == "failed" and row["status_code"] is None
            assert re.search(pattern, row["error"], re.IGNORECASE), f"{name}: {row['error']}"
        assert {row["next_attempt"] for row in hooks[name].pending()} == {2}
    assert {line["path"] for line in sink.ledger()} == {f"/{name}" for name in GOOD}, "an unverified server got an event"
