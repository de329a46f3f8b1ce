"""One webhook from its creation to its end, as its owner sees it, and its secrets, which nobody sees twice."""

import base64
import contextlib
import pathlib

import pytest
from support import contract
from support.api import make_api_key, make_token
from support.attempts import hold
from support.produce import envelope
from support.sink import Sink
from support.wait import await_condition

SECRET = "the owner's secret, typed once"


@pytest.fixture
def sink(tmp_path):
    sink = Sink(tmp_path / "sink", store_bodies=True)
    yield sink
    sink.close()


class Owner:
    """Asks with a token and an API key in turn, holds each answer against the contract, and keeps it."""

    def __init__(self, stack, api, tenant):
        self.key, self.token = make_api_key(stack, tenant.id), make_token(tenant.id)
        self.credentials = [{"X-API-Key": self.key}, {"Authorization": f"Bearer {self.token}"}]
        self.client = api.client(tenant.id)
        self.client.session.headers.pop("X-API-Key")
        self.answers = []

    def ask(self, method: str, path: str = "", status: int = 200, **options) -> dict | None:
        self.credentials.reverse()
        answer = self.client.request(method, path, headers=self.credentials[0], **options)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        contract.check(answer, contract.operation_of(answer))
        self.answers.append(f"{answer.headers}{answer.text}")
        return answer.json() if answer.content else None


@contextlib.contextmanager
def told(worker):
    """What is changed inside is known to the worker afterwards."""
    before = worker.metric("nrw_notifications_total")
    yield
    await_condition(lambda: worker.metric("nrw_notifications_total") > before, 10, "the worker was told")


def pending(stack, hook) -> int:
    return stack.query("select count(*) from pending_deliveries where webhook_id = %s", hook["id"])[0][0]


def create(owner, sink) -> dict:
    hook = owner.ask("POST", status=201, json={"url": sink.url("/story"), "events": ["alert.*"], "secret": SECRET})
    assert hook.pop("secret") == SECRET
    sink.secret("/story", SECRET)
    assert owner.ask("GET", hook["id"]) == hook and owner.ask("GET")["data"] == [hook]
    return hook


def try_and_look(owner, sink, hook, tenant, producer) -> dict:
    """The request that brought the event."""
    test = owner.ask("POST", f"{hook['id']}/test", json={"event": "alert.resolved"})
    assert test["success"] and sink.wait(1, "/story")[0]["delivery_id"] == test["delivery_id"]
    event = producer.one(envelope(tenant.id))
    line = sink.wait(2, "/story")[1]
    assert (line["event_id"], line["sig_netrecon"], line["sig_standard"]) == (event, "good", "good")

    def log():
        return [(row["delivery_id"], row["status"], row["status_code"])
                for row in owner.ask("GET", f"{hook['id']}/deliveries?page=1&per_page=25")["data"]]

    await_condition(lambda: log() == [(line["delivery_id"], "delivered", 200), (test["delivery_id"], "delivered", 200)], 10,
                    lambda: f"both are in the log: {log()}")
    detail = owner.ask("GET", f"{hook['id']}/deliveries/{line['delivery_id']}")
    assert detail["request"]["body"].encode() == sink.body_of(line) and len(detail["attempts"]) == 1
    assert owner.ask("GET", f"{hook['id']}/stats")["totals"]["delivered"] == 2
    return line




def rotate(owner, sink, hook, tenant, producer, worker) -> str:
    """The new secret."""
    with told(worker):
        answer = owner.ask("POST", f"{hook['id']}/rotate-secret", json={"overlap_hours": 1})
    assert answer["secret_rotation"]["previous_valid_until"] > answer["updated_at"]
    sink.secret("/story", answer["secret"])
    producer.one(envelope(tenant.id))
    line = sink.wait(3, "/story")[2]
    assert (line["sig_netrecon"], line["sig_standard"]) == ("good", "good"), "signed with the new one"
    assert "x-netrecon-signature-previous" in sink.headers_of(line) and sink.headers_of(line)["webhook-signature"].count("v1,") == 2
    return answer["secret"]


def redeliver_and_replay(owner, stack, sink, hook, first) -> None:
    path = f"{hook['id']}/deliveries/{first['delivery_id']}"
    assert owner.ask("POST", f"{path}/redeliver", status=202)["attempt"] == 2
    await_condition(lambda: pending(stack, hook) == 0, 20, "it has come again")
    job = owner.ask("POST", f"{hook['id']}/replay", status=202, json={"since": hook["created_at"], "status": "all"})

    def look():
        return owner.ask("GET", f"{hook['id']}/replays/{job['id']}")

    await_condition(lambda: look()["state"] == "done" and look()["delivered"] == 2, 40, lambda: f"both events, not the test: {look()}")
    assert owner.ask("GET", f"{hook['id']}/replays")["data"] == [look()]
    lines = sink.ledger("/story", event_id=first["event_id"])
    assert [line["attempt"] for line in lines] == [1, 2, 3]
    assert {(line["body_sha256"], line["delivery_id"]) for line in lines} == {(first["body_sha256"], first["delivery_id"])}
    assert [row["attempt"] for row in owner.ask("GET", path)["attempts"]] == [1, 2, 3]


def pause(owner, sink, hook, tenant, producer, worker, first) -> None:
    with told(worker):
        assert owner.ask("PATCH", hook["id"], json={"active": False})["active"] is False
    before = len(sink.ledger("/story"))
    producer.one(envelope(tenant.id))
    await_condition(lambda: worker.metric("nrw_events_kept_total") == 1, 20, "it is kept, not sent")
    owner.ask("POST", f"{hook['id']}/deliveries/{first['delivery_id']}/redeliver", status=409)
    owner.ask("POST", f"{hook['id']}/replay", status=409, json={"since": hook["created_at"]})
    assert owner.ask("POST", f"{hook['id']}/test")["success"], "a test is sent all the same"
    assert len(sink.ledger("/story")) == before + 1


def delete(owner, sink, hook, tenant, producer, worker, first) -> None:
    with told(worker):
        owner.ask("DELETE", hook["id"], status=204)
    for method, path in (("GET", ""), ("POST", "/test"), ("GET", "/deliveries"), ("GET", f"/deliveries/{first['delivery_id']}"), ("GET", "/stats"),
                         ("POST", f"/deliveries/{first['delivery_id']}/redeliver"), ("GET", "/replays"), ("DELETE", "")):
        owner.ask(method, hook["id"] + path, status=404)
    assert owner.ask("GET")["data"] == []
    before = len(sink.ledger("/story"))
    producer.one(envelope(tenant.id))
    hold(1, lambda: len(sink.ledger("/story")) == before, "nothing more is sent")


def test_one_webhook_from_creation_to_deletion(stack, sink, tenant, api, producer, start_worker):
    worker = start_worker(send_timeout="2s", spill_after="200ms")
    owner = Owner(stack, api, tenant)
    hook = create(owner, sink)
    first = try_and_look(owner, sink, hook, tenant, producer)
    secrets = {SECRET, rotate(owner, sink, hook, tenant, producer, worker)}
    redeliver_and_replay(owner, stack, sink, hook, first)
    pause(owner, sink, hook, tenant, producer, worker, first)
    delete(owner, sink, hook, tenant, producer, worker, first)

    shown = [answer for answer in owner.answers if any(secret in answer for secret in secrets)]
    assert len(shown) == 2, "each secret was shown by the answer that made it, and by no later one"
    assert all('"secret":' not in answer for answer in owner.answers if answer not in shown)
    forms = set()
    for secret in {*secrets, owner.key, owner.token}:
        forms |= {secret, base64.b64encode(secret.encode()).decode(), secret.encode().hex(), secret.removeprefix("whsec_")}
    for program in (api, worker):
        assert program.metric("nrw_log_dropped_total") == 0
        told_of = {"log": program.log_text(), "stderr": program.stderr_text(), "metrics": program.get("/metrics").text,
                   "command line": pathlib.Path(f"/proc/{program.pid}/cmdline").read_text()}
        for place, text in told_of.items():
            assert not [form for form in forms if form in text], f"{program.path.name}: {place}"
        limits = pathlib.Path(f"/proc/{program.pid}/limits").read_text()
        assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")] == [["0", "0"]], "no core is dumped"
    with stack.connect() as connection:
        for table in ("webhooks", "attempts", "events", "pending_deliveries", "replay_jobs", "api_keys", "notifications"):
            rows = "\n".join(row[0] for row in connection.execute(f"select t::text from {table} t where tenant_id = %s", (tenant.id,)))
            assert not [form for form in forms if form in rows], f"the table {table}"
