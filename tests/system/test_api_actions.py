"""What a customer can set going: a test, a redelivery, a replay. On the real stack, with a worker that does it."""

import concurrent.futures
import datetime as dt
import json
import socket
import threading
import time
import uuid

import pytest
import requests
from support import contract
from support.api import WEBHOOKS, Client, new_id
from support.attempts import await_no_pending, delays, hold
from support.produce import envelope
from support.sink import Sink
from support.stack import free_ports
from support.tenant import Tenant
from support.wait import await_condition, in_time

UTC = dt.timezone.utc
WRITE, READ = ("webhooks_write",), ("webhooks_read",)
# A worker that soon knows what has failed.
BRISK = {"send_timeout": "2s", "spill_after": "200ms", "retry_delays": delays(0.1)}
# Whatever fails is not due again while a test runs.
PATIENT = {**BRISK, "retry_delays": delays(3600)}
ROUTES = (("POST", "{webhook}/test", WRITE), ("POST", "{webhook}/deliveries/{id}/redeliver", WRITE), ("POST", "{webhook}/replay", WRITE),
          ("GET", "{webhook}/replays", READ), ("GET", "{webhook}/replays/{id}", READ), ("DELETE", "{webhook}/replays/{id}", WRITE))


@pytest.fixture(autouse=True)
def nothing_left_behind(stack):
    """Workers of a test take whatever is due, also what an earlier test that failed has left."""
    stack.query("delete from pending_deliveries")
    stack.query("update replay_jobs set state = 'cancelled' where state in ('queued', 'running')")


@pytest.fixture
def sink(tmp_path):
    sink = Sink(tmp_path / "sink", store_bodies=True)
    yield sink
    sink.close()


@pytest.fixture
def client(api, tenant):
    return api.client(tenant.id)


@pytest.fixture
def hook(sink, tenant):
    """A webhook on /hook, whose signatures the receiver checks."""
    webhook = tenant.webhook(sink.url("/hook"))
    sink.secret("/hook", webhook.secret)
    return webhook


def refused(answer, status: int, slug: str) -> dict:
    """The problem, when it is this one."""
    problem = answered(answer, status)
    assert problem["type"] == "/problems/" + slug, problem
    return problem


def answered(answer, status: int) -> dict:
    """The body, when it is as the contract says."""
    assert answer.status_code == status, answer.text
    return contract.check(answer, contract.operation_of(answer)).json()


def ago(**offset) -> str:
    return (dt.datetime.now(UTC) - dt.timedelta(**offset)).isoformat()


def at_once(n: int, call) -> list:
    """The results of n calls that begin together."""
    gate = threading.Barrier(n)

    def one(_):
        gate.wait(10)
        return call()

    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        return list(pool.map(one, range(n)))


def in_background(call) -> concurrent.futures.Future:
    pool = concurrent.futures.ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


def standing(webhook) -> str:
    return webhook.stack.query("select status from webhooks where id = %s", webhook.id)[0][0]


def rows_left(stack, tenant) -> tuple[int, int]:
    """Pending rows and events of the tenant."""
    return stack.query("select (select count(*) from pending_deliveries where tenant_id = %s), (select count(*) from events where tenant_id = %s)",
                       tenant.id, tenant.id)[0]


# ---- who may ----


def test_only_the_owner_with_the_scope_may(stack, api, tenant, hook):
    job = stack.query("insert into replay_jobs (tenant_id, webhook_id, since, until, selection, state, finished_at) "
                      "values (%s, %s, now() - interval '1 hour', now(), 'all', 'done', now()) returning id", tenant.id, hook.id)[0][0]
    stranger = Tenant(stack)
    theirs = stranger.webhook("https://example.com/theirs")
    nobody, owner = Client(api, {}), {scopes: api.client(tenant.id, scopes) for scopes in (READ, WRITE)}
    for method, route, scopes in ROUTES:
        path = route.format(webhook=hook.id, id=job)
        body = {"since": ago(hours=1)} if path.endswith("/replay") else None
        answer = nobody.request(method, path, json=body)
        refused(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        problem = refused(owner[READ if scopes == WRITE else WRITE].request(method, path, json=body), 403, "forbidden")
        assert scopes[0] in problem["detail"]
        refused(api.client(stranger.id, scopes).request(method, path, json=body), 404, "not-found")
        refused(owner[scopes].request(method, route.format(webhook=theirs.id, id=job), json=body), 404, "not-found")
        refused(owner[scopes].request(method, route.format(webhook=new_id(), id=job), json=body), 404, "not-found")
        refused(owner[scopes].request(method, path + "?page=1x&nonsense=1", json=body), 400, "bad-request")
        hook.delete()
        refused(owner[scopes].request(method, path, json=body), 404, "not-found")
        hook.update(deleted_at=None)
    assert rows_left(stack, tenant) == (0, 0) and rows_left(stack, stranger) == (0, 0)
    assert stack.query("select count(*) from replay_jobs where tenant_id = any(%s)", [tenant.id, stranger.id]) == [(1,)]


# ---- test ----


def test_a_test_sends_a_real_event_and_says_what_came_of_it(stack, sink, tenant, hook, client, worker):
    result = answered(client.post(f"{hook.id}/test"), 200)
    line, = sink.ledger("/hook")
    assert result == {"success": True, "status_code": 200, "response_time_ms": result["response_time_ms"], "error": None,
                      "delivery_id": line["delivery_id"]}
    assert 0 <= result["response_time_ms"] < 5000
    assert (line["event"], line["sig_netrecon"], line["sig_standard"]) == ("alert.created", "good", "good")
    types = answered(client.get("/api/v1/integrations/event-types"), 200)["data"]
    for known in types:
        assert answered(client.post(f"{hook.id}/test", {"event": known["event"]}), 200)["success"]
        line = sink.ledger("/hook")[-1]
        sent = json.loads(sink.body_of(line))
        assert sent == {**known["sample"], "id": line["event_id"], "timestamp": sent["timestamp"], "tenant_id": str(tenant.id)}
        assert list(sent) == list(known["sample"]) and uuid.UUID(sent["id"]).version == 4
        assert abs(dt.datetime.fromisoformat(sent["timestamp"]) - dt.datetime.now(UTC)) < dt.timedelta(seconds=20)
        assert line["delivery_id"] == str(hook.delivery_id(sent["id"]))
    rows = hook.attempts()
    assert len(rows) == 1 + len(types) and {row["outcome"] for row in rows} == {"delivered"}
    assert len({row["event_id"] for row in rows}) == len(rows)
    assert rows_left(stack, tenant) == (0, len(rows)), "each is in the log with its payload, none is pending"


def test_what_a_test_may_ask_for(hook, client):
    for body, pointer in (({"event": "alert.deleted"}, "/event"), ({"event": "*"}, "/event"), ({"event": None}, "/event"), ({"event": 1}, "/event"),
                          ({"events": ["alert.created"]}, "/events")):
        problem = refused(client.post(f"{hook.id}/test", body), 422, "invalid")
        assert [error["pointer"] for error in problem["errors"]] == [pointer], problem
    refused(client.post(f"{hook.id}/test", ["alert.created"]), 400, "bad-request")
    refused(client.request("POST", f"{hook.id}/test", data="{}", headers={"Content-Type": "text/plain"}), 415, "unsupported-media-type")


def test_an_endpoint_that_fails_is_an_answer(stack, sink, tenant, client, start_worker):
    start_worker(**BRISK)
    closed = free_ports(1)[0]
    cases = {sink.url("/refuses", "status=401"): (401, "401"), sink.url("/gone", "gone"): (410, "410"),
             sink.url("/moved", "redirect=https://example.com/"): (302, "302"), sink.url("/hangs", "hang"): (None, "within 2 s"),
             f"http://127.0.0.1:{closed}/": (None, "connect"), "http://no-such-host.invalid/": (None, "no-such-host.invalid")}
    for url, (status, word) in cases.items():
        hook = tenant.webhook(url)
        result = answered(client.post(f"{hook.id}/test"), 200)
        assert (result["success"], result["status_code"]) == (False, status), (url, result)
        assert word in result["error"], (url, result)
        row, = hook.attempts()
        assert (row["outcome"], row["attempt"], row["next_attempt_at"], row["error"]) == ("test_failed", 1, None, result["error"])
        assert str(row["delivery_id"]) == result["delivery_id"]
        assert standing(hook) == "active", f"{url}: a failed test changes nothing"
    assert rows_left(stack, tenant) == (0, len(cases)), "none is tried again"


def test_a_test_reaches_a_webhook_of_any_standing(sink, hook, client, worker):
    for columns in ({"active": False}, {"active": True, "status": "disabled", "disabled_at": dt.datetime.now(UTC)},
                    {"status": "failing", "disabled_at": None, "failing_since": dt.datetime.now(UTC)}):
        hook.update(**columns)
        sink.set("/hook", "status=500")
        assert not answered(client.post(f"{hook.id}/test"), 200)["success"]
        assert standing(hook) == columns.get("status", "active"), "a failed test changes nothing"
        sink.clear("/hook")
        assert answered(client.post(f"{hook.id}/test"), 200)["success"]
    await_condition(lambda: standing(hook) == "active", 10, "the failing one is active again")


def test_without_a_worker_nothing_is_left(stack, tenant, hook, start_api):
    api = start_api(test_timeout="1s")
    client = api.client(tenant.id)
    began = time.monotonic()
    answers = at_once(4, lambda: client.post(f"{hook.id}/test"))
    took = time.monotonic() - began
    assert took >= 1
    in_time(took < 5)
    assert sorted(answer.status_code for answer in answers) == [409, 409, 409, 504], "one at a time"
    for answer in answers:
        refused(answer, answer.status_code, "in-progress" if answer.status_code == 409 else "no-answer")
    assert rows_left(stack, tenant) == (0, 0) and hook.attempts() == []


def test_a_test_whose_api_was_killed_does_not_stand_in_the_way(stack, tenant, hook, start_api):
    api = start_api(test_timeout="1s")
    client = api.client(tenant.id)
    waiting = in_background(lambda: client.post(f"{hook.id}/test"))
    await_condition(hook.pending, 10, "the test is pending")
    refused(api.client(tenant.id).post(f"{hook.id}/test"), 409, "in-progress")
    refused(redeliver(api.client(tenant.id), hook, hook.pending()[0]["delivery_id"]), 409, "in-progress")
    api.kill9()
    assert isinstance(waiting.exception(10), requests.ConnectionError)
    assert rows_left(stack, tenant) == (1, 1), "a worker that comes will send it"
    api.start().ready()
    await_condition(lambda: client.post(f"{hook.id}/test").status_code == 504, 10, "the next one is tried")
    assert rows_left(stack, tenant) == (1, 1)


def test_an_attempt_under_way_is_never_taken_back(stack, sink, tenant, hook, start_api, start_worker):
    start_worker()
    client = start_api(test_timeout="1s").client(tenant.id)
    sink.set("/hook", "delay=1500ms")
    assert answered(client.post(f"{hook.id}/test"), 200)["success"], "it ended while the call went on waiting"
    sink.set("/hook", "delay=4s")
    problem = refused(client.post(f"{hook.id}/test"), 504, "no-answer")
    row = await_condition(lambda: hook.attempts()[1:], 10, "its outcome is in the log")[0]
    assert row["outcome"] == "delivered" and str(row["delivery_id"]) in problem["detail"]
    assert rows_left(stack, tenant) == (0, 2)


def test_a_client_that_leaves_changes_nothing(sink, hook, client, api, worker):
    sink.set("/hook", "delay=1s")
    with socket.create_connection(("127.0.0.1", api.api_port)) as raw:
        raw.sendall((f"POST {WEBHOOKS}/{hook.id}/test HTTP/1.1\r\nHost: x\r\nX-API-Key: {client.session.headers['X-API-Key']}\r\n"
                     "Content-Length: 0\r\n\r\n").encode())
        sink.wait(1, "/hook")
    api.wait_log("api.request", route="testWebhook", status=200)
    assert hook.attempts()[0]["outcome"] == "delivered" and api.metric("nrw_api_requests_open") == 0


def test_sigterm_waits_for_a_test(sink, hook, client, api, worker):
    sink.set("/hook", "delay=1s")
    waiting = in_background(lambda: client.post(f"{hook.id}/test"))
    sink.wait(1, "/hook")
    api.stop()
    assert answered(waiting.result(10), 200)["success"]


def test_without_postgres_a_test_ends_in_503_and_is_not_called_undone(stack, sink, hook, client, worker):
    sink.set("/hook", "delay=2s")
    waiting = in_background(lambda: client.post(f"{hook.id}/test"))
    sink.wait(1, "/hook")
    stack.pg_stop()
    refused(waiting.result(20), 503, "outcome-unknown")
    stack.pg_start()
    await_condition(lambda: not hook.pending(), 60, "the worker writes down what came of it")
    assert hook.attempts()[0]["outcome"] == "delivered"


# ---- redeliver ----


def redeliver(client, hook, delivery_id):
    return client.post(f"{hook.id}/deliveries/{delivery_id}/redeliver")


def exhausted(hook, sink, producer) -> tuple[str, uuid.UUID]:
    """An event whose delivery on /hook has failed five times; (event id, delivery id)."""
    sink.set("/hook", "status=500")
    event = producer.one(envelope(hook.tenant_id))
    await_condition(lambda: [row for row in hook.attempts(event) if row["outcome"] == "exhausted"], 20, "it is exhausted")
    return event, hook.delivery_id(event)


def test_an_exhausted_delivery_gets_a_new_round(stack, sink, hook, client, producer, start_worker):
    start_worker(**BRISK)
    event, delivery = exhausted(hook, sink, producer)
    answer = answered(redeliver(client, hook, delivery), 202)
    assert answer == {"delivery_id": str(delivery), "webhook_id": str(hook.id), "event_id": event, "attempt": 6, "state": "queued"}
    sink.wait(10, "/hook")
    await_no_pending(stack, [hook])
    assert [row["outcome"] for row in hook.attempts(event)] == (["failed"] * 4 + ["exhausted"]) * 2
    sink.clear("/hook")
    assert answered(redeliver(client, hook, delivery), 202)["attempt"] == 11
    sink.wait(11, "/hook")
    await_no_pending(stack, [hook])
    assert hook.attempts(event)[-1]["outcome"] == "delivered" and standing(hook) == "active"
    assert answered(redeliver(client, hook, delivery), 202)["attempt"] == 12, "a delivered one, too"
    lines = sink.wait(12, "/hook")
    assert [line["attempt"] for line in lines] == list(range(1, 13))
    assert len({(line["event_id"], line["delivery_id"], line["body_sha256"]) for line in lines}) == 1, "the same bytes and ids"
    assert {(line["sig_netrecon"], line["sig_standard"]) for line in lines} == {("good", "good")}
    await_no_pending(stack, [hook])
    assert [row["attempt"] for row in hook.attempts(event)] == list(range(1, 13))


def test_a_waiting_delivery_is_due_at_once(stack, sink, hook, client, producer, start_worker):
    start_worker(**PATIENT)
    sink.set("/hook", "status=500")
    event = producer.one(envelope(hook.tenant_id))
    await_condition(lambda: hook.pending(event), 20, "it waits for its second attempt")
    for attempt in (2, 3):
        assert answered(redeliver(client, hook, hook.delivery_id(event)), 202)["attempt"] == attempt
        await_condition(lambda: len(hook.attempts(event)) == attempt, 10, "the attempt is made")
    row, = hook.pending(event)
    assert (row["next_attempt"], row["final_attempt"], row["reason"]) == (4, 5, "retry"), "its round goes on"


def test_what_cannot_be_redelivered(stack, sink, tenant, hook, client, producer, start_worker):
    start_worker(**PATIENT)
    other = tenant.webhook(sink.url("/other"), events=["scan.completed"])
    event = producer.one(envelope(tenant.id))
    delivery = hook.delivery_id(event)
    await_condition(lambda: hook.attempts(event), 20, "it is delivered")
    refused(redeliver(client, hook, new_id()), 404, "not-found")
    refused(redeliver(client, other, delivery), 404, "not-found")
    refused(redeliver(client, other, other.delivery_id(event)), 404, "not-found")
    hook.update(active=False)
    refused(redeliver(client, hook, delivery), 409, "webhook-inactive")
    hook.update(active=True, status="disabled")
    refused(redeliver(client, hook, delivery), 409, "webhook-inactive")
    hook.update(status="active")
    # As many attempts as can be counted.
    stack.query("update attempts set attempt = 32765 where delivery_id = %s", delivery)
    sink.set("/hook", "status=500")
    assert answered(redeliver(client, hook, delivery), 202)["attempt"] == 32766
    row = await_condition(lambda: [row for row in hook.pending(event) if row["leased_until"] is None and row["next_attempt"] == 32767], 10,
                          "attempt 32766 has failed")[0]
    assert row["final_attempt"] == 32767
    assert answered(redeliver(client, hook, delivery), 202)["attempt"] == 32767
    await_no_pending(stack, [hook])
    refused(redeliver(client, hook, delivery), 409, "attempts-used-up")
    stack.query("delete from attempts where delivery_id = %s and attempt = 32767", delivery)
    stack.query("delete from events where id = %s", event)
    refused(redeliver(client, hook, delivery), 410, "payload-gone")
    assert hook.pending() == [] and other.pending() == []


def test_an_attempt_under_way_is_not_made_twice(stack, sink, hook, client, producer, start_worker):
    start_worker(**PATIENT)
    event = producer.one(envelope(hook.tenant_id))
    delivery = hook.delivery_id(event)
    await_condition(lambda: hook.attempts(event), 20, "it is delivered")
    sink.set("/hook", "delay=1s")
    answered(redeliver(client, hook, delivery), 202)
    sink.wait(2, "/hook")
    refused(redeliver(client, hook, delivery), 409, "in-progress")
    await_no_pending(stack, [hook])
    waiting = in_background(lambda: client.post(f"{hook.id}/test"))
    test = hook.delivery_id(sink.wait(3, "/hook")[-1]["event_id"])
    refused(redeliver(client, hook, test), 409, "in-progress")
    assert answered(waiting.result(10), 200)["success"]
    assert answered(redeliver(client, hook, test), 202)["attempt"] == 2, "a finished test is a delivery like any other"
    sink.wait(4, "/hook")
    await_no_pending(stack, [hook])
    assert len(sink.ledger("/hook")) == 4


def test_redelivered_by_many_at_once_it_is_sent_once(stack, sink, hook, api, producer, start_worker):
    worker = start_worker(**PATIENT)
    events = producer.many(hook.tenant_id, 10)
    sink.wait(10, "/hook")
    await_condition(lambda: len(hook.attempts()) == 10, 20, "all are delivered")
    worker.stop()
    clients = [api.client(hook.tenant_id) for _ in range(8)]
    for event in events:
        turns = iter(clients)
        answers = at_once(8, lambda: redeliver(next(turns), hook, hook.delivery_id(event)))
        assert {(answer.status_code, answer.json()["attempt"]) for answer in answers} == {(202, 2)}
    assert len(hook.pending()) == 10
    start_worker(group=worker.group, **PATIENT)
    await_no_pending(stack, [hook])
    for event in events:  # and while a worker takes them
        turns = iter(clients)
        answers = at_once(8, lambda: redeliver(next(turns), hook, hook.delivery_id(event)))
        assert {answer.status_code for answer in answers} <= {202, 409} and 202 in {answer.status_code for answer in answers}
    await_no_pending(stack, [hook])
    for event in events:
        numbers = [line["attempt"] for line in sink.ledger("/hook", event_id=event)]
        assert numbers == list(range(1, len(numbers) + 1)), "each attempt was made once"
        assert [row["attempt"] for row in hook.attempts(event)] == numbers


def test_a_worker_that_was_not_told_finds_it(stack, sink, hook, tenant, producer, start_api, start_worker):
    start_worker(retry_reconcile="1s", **PATIENT)
    event = producer.one(envelope(tenant.id))
    await_condition(lambda: hook.attempts(event), 20, "it is delivered")
    api = start_api(redis_url=f"redis://127.0.0.1:{free_ports(1)[0]}/0")  # as when it is killed between the row and the hint
    answered(redeliver(api.client(tenant.id), hook, hook.delivery_id(event)), 202)
    assert api.metric('nrw_hints_total{result="lost"}') == 1
    sink.wait(2, "/hook")
    await_no_pending(stack, [hook])


# ---- replays ----


def replay(client, hook, **body):
    return client.post(f"{hook.id}/replay", {"since": ago(minutes=5), **body})


def started(client, hook, **body) -> dict:
    """A new job, queued."""
    answer = replay(client, hook, **body)
    job = answered(answer, 202)
    assert answer.headers["Location"] == f"{WEBHOOKS}/{hook.id}/replays/{job['id']}"
    assert (job["state"], job["webhook_id"], job["status"], job["finished_at"]) == ("queued", str(hook.id), body.get("status", "failed"), None)
    return job


def look(client, job) -> dict:
    return answered(client.get(f"{job['webhook_id']}/replays/{job['id']}"), 200)


def replayed(client, hook, **body) -> dict:
    """The job when everything that it queued has ended."""
    job = started(client, hook, **body)

    def over():
        now = look(client, job)
        assert now["state"] in ("queued", "running", "done"), now
        return now if now["state"] == "done" and now["delivered"] + now["failed"] == now["enqueued"] else None

    return await_condition(over, 60, lambda: f"it is over: {look(client, job)}")


def test_a_replay_sends_what_failed(stack, sink, hook, client, producer, start_worker):
    start_worker(**BRISK)
    delivered = producer.many(hook.tenant_id, 2)
    sink.wait(2, "/hook")
    failed = [exhausted(hook, sink, producer)[0] for _ in range(3)]
    job = replayed(client, hook)
    assert (job["enqueued"], job["delivered"], job["failed"]) == (3, 0, 3), "it fails again"
    for event in failed:
        assert [row["outcome"] for row in hook.attempts(event)] == (["failed"] * 4 + ["exhausted"]) * 2
    sink.clear("/hook")
    job = replayed(client, hook)
    assert (job["enqueued"], job["delivered"], job["failed"], job["error"]) == (3, 3, 0, None) and job["scanned"] == 5
    assert dt.datetime.fromisoformat(job["finished_at"]) >= dt.datetime.fromisoformat(job["created_at"])
    for event in failed:
        assert [line["attempt"] for line in sink.ledger("/hook", event_id=event)] == list(range(1, 12))
        assert len({line["body_sha256"] for line in sink.ledger("/hook", event_id=event)}) == 1
    assert standing(hook) == "active"
    for event in delivered:
        assert len(sink.ledger("/hook", event_id=event)) == 1, "what arrived is not sent again"
    assert replayed(client, hook)["enqueued"] == 0
    jobs = answered(client.get(f"{hook.id}/replays"), 200)
    assert jobs["meta"] == {"page": 1, "per_page": 25, "total": 3} and jobs["data"][1] == job
    page = answered(client.get(f"{hook.id}/replays", page=2, per_page=2), 200)
    assert page["meta"] == {"page": 2, "per_page": 2, "total": 3} and [len(page["data"]), page["data"][0]["failed"]] == [1, 3]


def test_a_replay_brings_what_was_missed(sink, tenant, hook, client, producer, start_worker):
    worker = start_worker(**BRISK)
    then = {"timestamp_ms": int(1000 * (time.time() - 60))}
    at_leisure = {"status": "missed", "until": ago(seconds=30)}  # what is younger may still be on its way, and is waited for

    def change(**columns):
        before = worker.metric("nrw_notifications_total")
        hook.update(**columns)
        await_condition(lambda: worker.metric("nrw_notifications_total") > before, 10, "the worker knows")

    heard = producer.many(tenant.id, 2, **then)
    sink.wait(2, "/hook")
    change(active=False)
    paused = producer.many(tenant.id, 2, **then) + producer.many(tenant.id, 1, "scan.completed", **then)
    await_condition(lambda: worker.metric("nrw_events_kept_total") == 3, 20, "they are kept")
    refused(replay(client, hook, status="missed"), 409, "webhook-inactive")
    change(active=True)
    job = replayed(client, hook, **at_leisure)
    assert (job["enqueued"], job["delivered"]) == (3, 3), "what the pause left out"
    for event in heard + paused:
        assert len(sink.ledger("/hook", event_id=event)) == 1

    late = tenant.webhook(sink.url("/late"), events=["alert.*"])
    assert replayed(client, late, events=["scan.*"], **at_leisure)["delivered"] == 1, "what is asked for, whatever it subscribes to"
    assert replayed(client, late, **at_leisure)["delivered"] == 4, "what it subscribes to"
    job = replayed(client, late, **{**at_leisure, "status": "all"}, events=["scan.completed", "device.*"])
    assert job["delivered"] == 1 and job["events"] == ["scan.completed", "device.*"]
    assert [line["attempt"] for line in sink.ledger("/late", event_id=paused[-1])] == [1, 2]
    assert sorted({line["event_id"] for line in sink.ledger("/late")}) == sorted(heard + paused)
    assert answered(client.post(f"{hook.id}/test"), 200)["success"]
    assert replayed(client, late, status="missed")["enqueued"] == 0, "a test is nobody else's to have"


def test_which_replays_can_be_asked_for(stack, api, tenant, hook):
    client = api.client(tenant.id)
    now, long_ago = dt.datetime.now(UTC), ago(days=32)
    for body, pointers in (({}, ["/since"]), ({"since": None}, ["/since"]), ({"since": "yesterday"}, ["/since"]), ({"since": 5}, ["/since"]),
                           ({"since": ago(days=-1)}, ["/since"]), ({"since": long_ago}, ["/since"]),
                           ({"since": ago(hours=1), "until": ago(hours=2)}, ["/until"]), ({"since": ago(hours=1), "until": ago(hours=-1)}, ["/until"]),
                           ({"since": ago(hours=1), "until": None}, ["/until"]), ({"since": ago(hours=1), "status": "lost"}, ["/status"]),
                           ({"since": ago(hours=1), "events": []}, ["/events"]), ({"since": ago(hours=1), "events": ["alert.*", "alert"]}, ["/events/1"]),
                           ({"since": ago(hours=1), "events": ["*"] * 2}, ["/events/1"]), ({"since": ago(hours=1), "event": "*"}, ["/event"]),
                           ({"since": long_ago, "status": 1, "events": "x"}, ["/events", "/since", "/status"])):
        problem = refused(client.post(f"{hook.id}/replay", body), 422, "invalid")
        assert sorted({error["pointer"] for error in problem["errors"]}) == pointers, (body, problem)
    since = (now - dt.timedelta(days=30)).isoformat()
    job = answered(client.post(f"{hook.id}/replay", {"since": since, "until": now.isoformat(), "events": ["*"]}), 202)
    assert dt.datetime.fromisoformat(job["since"]) == now - dt.timedelta(days=30) and dt.datetime.fromisoformat(job["until"]) == now
    assert job["id"] in refused(replay(client, hook), 409, "in-progress")["detail"]
    other = tenant.webhook("https://example.com/other")
    answered(replay(client, other), 202)  # each webhook has its own
    refused(client.get(f"{other.id}/replays/{job['id']}"), 404, "not-found")
    refused(client.delete(f"{other.id}/replays/{job['id']}"), 404, "not-found")
    for parameters in ({"page": 0}, {"per_page": 101}, {"page": 101, "per_page": 100}, {"cursor": ""}):
        refused(client.get(f"{hook.id}/replays", **parameters), 400, "bad-request")

    cancelled = answered(client.delete(f"{hook.id}/replays/{job['id']}"), 200)
    assert cancelled["state"] == "cancelled" and cancelled["finished_at"] == cancelled["updated_at"] > job["updated_at"]
    assert answered(client.delete(f"{hook.id}/replays/{job['id']}"), 200) == cancelled == look(client, job)
    answers = at_once(6, lambda: replay(api.client(tenant.id), hook))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 5, "one open job"
    for state in ("done", "failed"):
        stack.query("update replay_jobs set state = %s, error = 'why', finished_at = now() where webhook_id = %s and state = 'queued'", state, hook.id)
        job = answered(client.get(f"{hook.id}/replays"), 200)["data"][0]
        assert (job["state"], job["error"]) == (state, "why")
        assert answered(client.delete(f"{hook.id}/replays/{job['id']}"), 200) == job, "what has ended stays as it is"
        answered(replay(client, hook), 202)


def kept_events(tenant, sink, producer, n: int) -> list[str]:
    """n events of some minutes ago that another webhook got, so that a replay need not wait for anything."""
    tenant.webhook(sink.url("/first"))
    then = int(1000 * (time.time() - 120))
    for i in range(n):
        producer.send(envelope(tenant.id), timestamp_ms=then + i)
    events = producer.flush()
    sink.wait(n, "/first", timeout=60)
    return events


@pytest.mark.slow
def test_cancelling_takes_back_what_was_not_sent(stack, sink, tenant, client, producer, start_worker):
    start_worker(lane_concurrency=1, lane_concurrency_start=1, **{**PATIENT, "send_timeout": "20s"})
    kept_events(tenant, sink, producer, 60)
    hook = tenant.webhook(sink.url("/slow", "delay=500ms"))
    job = started(client, hook, status="missed")  # goes on until what came last is old enough
    await_condition(lambda: look(client, job)["enqueued"] == 60, 30, "all are queued")
    sink.wait(2, "/slow")
    wanted = [row["event_id"] for row in hook.pending() if row["leased_until"] is None][-1]
    assert answered(redeliver(client, hook, hook.delivery_id(wanted)), 202)["attempt"] == 1
    waiting = len(hook.pending())
    cancelled = answered(client.delete(f"{hook.id}/replays/{job['id']}"), 200)
    assert len(hook.pending()) < waiting / 2, "at once, but for what the worker has in hand"
    assert (cancelled["state"], cancelled["enqueued"]) == ("cancelled", 60) and cancelled["delivered"] < 60
    await_condition(lambda: not hook.pending(), 30, lambda: f"nothing is pending: {len(hook.pending())}")
    lines = sink.ledger("/slow")
    assert 2 <= len(lines) < 60 and [line for line in lines if line["event_id"] == str(wanted)], "but what was asked for by itself"
    hold(3, lambda: len(sink.ledger("/slow")) == len(lines), "nothing more comes of it")
    assert look(client, job)["state"] == "cancelled"


@pytest.mark.slow
def test_a_replay_outlives_its_worker(stack, sink, tenant, client, producer, start_worker):
    settings = {"lane_concurrency": 4, "lane_concurrency_start": 4, **BRISK}
    worker = start_worker(**settings)
    events = kept_events(tenant, sink, producer, 1500)
    hook = tenant.webhook(sink.url("/late", "delay=10ms"))
    job = started(client, hook, status="missed")
    sink.wait(200, "/late", timeout=60)
    worker.kill9()
    before = look(client, job)
    assert before["state"] == "running" and 0 < before["enqueued"] < 1500 and before["delivered"] < before["enqueued"], before
    start_worker(group=worker.group, **settings)

    def over():
        now = look(client, job)
        return now if now["delivered"] == 1500 else None

    done = await_condition(over, 120, lambda: look(client, job))
    assert (done["state"], done["enqueued"], done["failed"]) == ("done", 1500, 0)
    assert {line["event_id"] for line in sink.ledger("/late")} == set(events), "each came"
    repeated = len(sink.ledger("/late")) - 1500
    assert repeated <= 100, f"{repeated} came twice: more than were in flight or not yet written down"
    assert stack.query("select count(*), max(attempt) from attempts where webhook_id = %s", hook.id) == [(1500, 1)]
