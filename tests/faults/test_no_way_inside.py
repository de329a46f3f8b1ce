"""No request reaches an address that the policy denies, whatever URL, DNS, redirect or environment say.

127.77.0.0/16 stands for the public network: the worker is allowed to go there and nowhere else, so that no packet leaves this machine.
Everything else of 127.0.0.0/8, ::1 and this machine's own addresses, a private one among them, are the inside, and canaries listen there on
the receiver's port.
"""

import concurrent.futures
import re
import time
import uuid

import pytest
from support.inside import ADDRESSES, DENIED_BY_OPERATOR, LOOPBACK, SPELLINGS, url_of
from support.listeners import Canary, own_addresses, private_address
from support.produce import envelope
from support.sink import Sink
from support.tenant import Webhook
from support.wait import await_condition

PUBLIC = "127.77.0.1"
SETTINGS = {"allow_cidrs": "127.77.0.0/16", "deny_cidrs": "127.77.13.0/24", "send_timeout": "3s", "connect_timeout": "1s"}

def public_many(n):
    return [f"127.77.{1 + i // 250}.{1 + i % 250}" for i in range(n)]


# What the test's DNS server says, and what the customer reads.
NAMES = {
    "private-only": (["127.0.0.1"], LOOPBACK),
    "one-private-last": ([PUBLIC, "127.0.0.1"], LOOPBACK),
    "one-private-first": (["127.0.0.1", PUBLIC], LOOPBACK),
    "one-private-of-100": ([*public_many(99), "127.0.0.1"], LOOPBACK),
    "private-in-the-other-family": ([PUBLIC, "::1"], "::1.*loopback"),
    "aaaa-only-private": (["fd00::1"], "unique local"),
    "aaaa-only-loopback": (["::1"], "loopback"),
    "cname-to-inside": (["cname inside.example.net"], LOOPBACK),
    "cname-chain": (["cname cname-to-inside-2.example.net"], LOOPBACK),
    "too-many": (public_many(300), "more addresses"),
}


@pytest.fixture
def outside(tmp_path):
    """The receiver on the public stand-in, and canaries on the same port everywhere else."""
    sink = Sink(tmp_path / "outside", listen=f"{PUBLIC}:0")
    port = int(sink.address.rsplit(":", 1)[1])
    loopback = {"127.0.0.1", "127.0.0.2", DENIED_BY_OPERATOR}
    canary = Canary(*loopback, "::1", *own_addresses(), port=port)
    assert loopback <= set(canary.addresses), "the canaries could not listen"
    canary.touch()
    yield sink, canary
    canary.close()
    sink.close()


@pytest.fixture
def private():
    try:
        with private_address() as address:
            yield address
    except LookupError as error:
        pytest.skip(str(error))


def insert_unusable(stack, tenant, url):
    """A webhook that a careless API let through. Its secret is never looked at, because its URL comes first."""
    webhook_id = uuid.uuid4()
    stack.query("insert into webhooks (id, tenant_id, url, secret, events) values (%s, %s, %s, 'x', '{*}')", webhook_id, tenant.id, url)
    return Webhook(stack, tenant.id, webhook_id, url, "")


def refused(webhook, event_id, pattern):
    """None, or what is wrong with how this delivery ended."""
    rows = webhook.attempts(event_id)
    if len(rows) != 1:
        return f"{webhook.url}: {len(rows)} rows, pending {[(row['reason'], row['next_attempt']) for row in webhook.pending(event_id)]}"
    row = rows[0]
    if row["outcome"] != "failed" or row["status_code"] is not None or not re.search(pattern, row["error"] or ""):
        return f"{webhook.url}: {row['outcome']} {row['status_code']} {row['error']!r}, wanted {pattern!r}"
    return None


def test_no_denied_address_is_ever_connected_to(stack, topic, tenant, outside, dns, producer, start_worker, monkeypatch):
    sink, canary = outside
    port = canary.port
    wanted = {}  # webhook id -> (webhook, pattern)

    def note(webhook, pattern):
        wanted[webhook.id] = (webhook, pattern)

    for address, reason in ADDRESSES.items():
        note(insert_unusable(stack, tenant, url_of(address, port)), re.escape(reason))
    for url, pattern in SPELLINGS.items():
        note(insert_unusable(stack, tenant, url.format(port=port)), pattern)
    # The same addresses as answers of a DNS server, then its tricks.
    dns.answers["inside.example.net"] = ["127.0.0.1"]
    dns.answers["cname-to-inside-2.example.net"] = ["cname inside.example.net"]
    names = {f"a{i}.example.net": ([address], re.escape(reason)) for i, (address, reason) in enumerate(ADDRESSES.items())}
    names.update({f"{name}.example.net": value for name, value in NAMES.items()})
    dns.answers.update({name: answer for name, (answer, _) in names.items()})
    turn = iter(range(1_000_000))
    dns.answers["rebinding.example.net"] = lambda: [PUBLIC if next(turn) == 0 else "127.0.0.1"]
    dns.answers["public.example.net"] = [PUBLIC]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for webhook, pattern in pool.map(lambda item: (tenant.webhook(f"http://{item[0]}:{port}/"), item[1][1]), names.items()):
            note(webhook, pattern)
    inside = f"http%3A%2F%2F127.0.0.1%3A{port}%2Fredirected"
    redirects = [tenant.webhook(sink.url(f"/redirect-{status}", f"redirect={inside}&status={status}"))
                 for status in (301, 302, 303, 307, 308)]
    good = [tenant.webhook(sink.url("/literal")), tenant.webhook(f"http://public.example.net:{port}/named"),
            tenant.webhook(f"http://rebinding.example.net:{port}/rebinding")]
    with monkeypatch.context() as environment:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            environment.setenv(name, f"http://127.0.0.1:{port}")
        worker = start_worker(dns_servers=dns.address, ready=False, **SETTINGS)
    worker.ready()
    first = producer.one(envelope(tenant.id))
    topic.await_settled(worker.group)

    problems = [problem for webhook, pattern in wanted.values() if (problem := refused(webhook, first, pattern))]
    print(f"\n{len(wanted)} denied webhooks, canaries on {', '.join(canary.addresses)} port {port}: {len(canary.hits)} connections; "
          f"{sum(dns.asked.values())} DNS questions")
    assert not canary.hits, canary.hits
    assert not problems, "\n".join(problems)
    for webhook in redirects:
        row, = webhook.attempts(first)
        assert row["outcome"] == "failed" and "redirects are not followed" in row["error"]
    # What is allowed was reached, directly, and nobody else was: the receiver saw these paths and no other.
    assert {line["path"] for line in sink.ledger()} == {"/literal", "/named", "/rebinding", *(f"/redirect-{s}" for s in
                                                                                               (301, 302, 303, 307, 308))}
    assert {row["outcome"] for webhook in good for row in webhook.attempts()} == {"delivered"}
    assert dns.asked[("rebinding.example.net", "A")] == 1, "it was looked up between vet and connect"

    # The name that was public and is private now.
    events = []

    def rebound():
        events.append(producer.one(envelope(tenant.id)))
        topic.await_settled(worker.group)
        return [row for row in good[2].attempts(events[-1]) if row["outcome"] == "failed"]

    row, = await_condition(rebound, 20, "the second answer is used")
    assert re.search(LOOPBACK, row["error"])
    assert not canary.hits, canary.hits


def test_a_private_address_of_this_machine_is_never_connected_to(stack, topic, tenant, private, outside, dns, producer, start_worker):
    """A neighbour in the private network, where somebody does listen: by address, by name, by redirect, by a name that moves there."""
    sink, canary = outside
    port = canary.port
    canary.listen(private)
    assert private in canary.addresses, "no canary could listen on the private address: the test would prove nothing"
    canary.touch()
    reason = re.escape(private) + ".*private"
    answer = [PUBLIC]
    dns.answers["private.example.net"] = [private]
    dns.answers["both.example.net"] = [PUBLIC, private]
    dns.answers["moves.example.net"] = lambda: list(answer)
    denied = [insert_unusable(stack, tenant, url_of(private, port)), tenant.webhook(f"http://private.example.net:{port}/"),
              tenant.webhook(f"http://both.example.net:{port}/")]
    redirect = tenant.webhook(sink.url("/redirect", f"redirect=http%3A%2F%2F{private}%3A{port}%2F&status=307"))
    moves = tenant.webhook(f"http://moves.example.net:{port}/moves")
    worker = start_worker(dns_servers=dns.address, **SETTINGS)

    def outcome():
        event = producer.one(envelope(tenant.id))
        topic.await_settled(worker.group)
        return event, moves.attempts(event)[0]

    first, row = outcome()
    assert row["outcome"] == "delivered"
    assert not [problem for webhook in denied if (problem := refused(webhook, first, reason))]
    assert "redirects are not followed" in redirect.attempts(first)[0]["error"]
    answer[:] = [private]
    row = await_condition(lambda: (lambda row: row if row["outcome"] == "failed" else None)(outcome()[1]), 20, "the new answer is used")
    assert re.search(reason, row["error"])
    assert not canary.hits, canary.hits


def test_nothing_inside_can_be_registered(stack, topic, tenant, outside, dns, producer, start_api, start_worker):
    """An address is refused when it is registered; a name is not looked up then, and the worker refuses what it leads to."""
    sink, canary = outside
    port = canary.port
    client = start_api(allow_cidrs=SETTINGS["allow_cidrs"], deny_cidrs=SETTINGS["deny_cidrs"]).client(tenant.id)
    mine = client.create(sink.url("/mine"))
    wanted = {url_of(address, port): re.escape(reason) for address, reason in ADDRESSES.items()}
    wanted.update({url.format(port=port): pattern for url, pattern in SPELLINGS.items()})
    problems = []
    for url, pattern in wanted.items():
        for answer in (client.post(body={"url": url, "events": ["*"]}), client.patch(mine["id"], {"url": url})):
            errors = answer.json().get("errors", [])
            if answer.status_code != 422 or [error["pointer"] for error in errors] != ["/url"] or not re.search(pattern, errors[0]["detail"]):
                problems.append(f"{url}: {answer.status_code} {answer.text}, wanted {pattern!r}")
    assert not problems, "\n".join(problems)
    assert [webhook["url"] for webhook in client.get().json()["data"]] == [mine["url"]]

    dns.answers["inside.example.net"] = ["127.0.0.1"]
    named = client.create(f"http://inside.example.net:{port}/")
    assert not dns.asked
    worker = start_worker(dns_servers=dns.address, **SETTINGS)
    event = producer.one(envelope(tenant.id))
    topic.await_settled(worker.group)
    assert refused(Webhook(stack, tenant.id, uuid.UUID(named["id"]), named["url"], ""), event, LOOPBACK) is None
    assert [line["path"] for line in sink.ledger()] == ["/mine"]
    assert not canary.hits, canary.hits


def test_keepalive_connection_is_vetted_again(stack, topic, tenant, outside, dns, producer, start_worker):
    sink, canary = outside
    answer = [PUBLIC]
    dns.answers["flip.example.net"] = lambda: list(answer)
    webhook = tenant.webhook(f"http://flip.example.net:{canary.port}/flip")
    worker = start_worker(dns_servers=dns.address, **SETTINGS)
    for n in (1, 2, 3):
        producer.one(envelope(tenant.id))
        sink.wait(n, "/flip")
    assert len({line["conn"] for line in sink.ledger("/flip")}) == 1, "the connection was not kept: the test would prove nothing"

    def outcome_of_one_more():
        event = producer.one(envelope(tenant.id))
        await_condition(lambda: webhook.attempts(event), 10, "the attempt is recorded")
        return webhook.attempts(event)[0]

    answer[:] = ["127.0.0.1"]
    flipped_at = time.monotonic()
    row = await_condition(lambda: (lambda row: row if row["outcome"] == "failed" else None)(outcome_of_one_more()), 20,
                          "the new answer is used")
    print(f"\nthe old answer was good for another {time.monotonic() - flipped_at:.1f} s")
    assert re.search(LOOPBACK, row["error"])
    seen = len(sink.ledger("/flip"))
    for _ in range(3):
        assert outcome_of_one_more()["outcome"] == "failed"
    assert len(sink.ledger("/flip")) == seen, "the kept connection was used again"
    # The deny list decides about kept connections, too: back outside, all is well again.
    answer[:] = [PUBLIC]
    await_condition(lambda: outcome_of_one_more()["outcome"] == "delivered", 20, "the name is outside again")
    assert not canary.hits, canary.hits
