"""What tenants are promised of the delivery log: every attempt, newest first, as deep as it goes, with what was sent and answered; read by
index only, and never anybody else's."""

import base64
import datetime as dt
import json
import re
import sys
import uuid

import pytest
from support import contract
from support.api import Client
from support.attempts import delays
from support.paths import ROOT
from support.produce import envelope
from support.sink import Sink
from support.tenant import Tenant
from support.wait import await_condition

sys.path.append(str(ROOT / "tests" / "bench"))
import fill_log  # pylint: disable=wrong-import-position

UTC = dt.timezone.utc
MS = dt.timedelta(milliseconds=1)
HOUR = dt.timedelta(hours=1)
REACH = 10_000
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
URL = "https://hooks.example.com/log"  # nothing is sent there
INSERT = ("insert into attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id, event_type, started_at, response_time_ms, "
          "outcome, status_code, error, next_attempt_at, response_headers, response_body) values (%(received_at)s, %(delivery_id)s, "
          "%(attempt)s, %(event_id)s, %(webhook_id)s, %(tenant_id)s, %(event_type)s, %(started_at)s, %(response_time_ms)s, %(outcome)s, "
          "%(status_code)s, %(error)s, %(next_attempt_at)s, %(response_headers)s, %(response_body)s)")


@pytest.fixture
def client(api, tenant):
    return api.client(tenant.id)


@pytest.fixture
def webhook(tenant):
    return tenant.webhook(URL, active=False)


@pytest.fixture
def sink(tmp_path):
    sink = Sink(tmp_path / "sink", store_bodies=True)
    yield sink
    sink.close()


def write(stack, webhook, *rows: dict) -> list[dict]:
    """Rows of the log as a worker would have written them, one second apart, the first one now; each may have columns of its own."""
    now = dt.datetime.now(UTC)
    written = []
    for i, columns in enumerate(rows):
        row = {"received_at": now - i * 1000 * MS, "delivery_id": uuid.uuid4(), "attempt": 1, "event_id": uuid.uuid4(),
               "webhook_id": webhook.id, "tenant_id": webhook.tenant_id, "event_type": "alert.created", "response_time_ms": 20,
               "outcome": "delivered", "status_code": 200, "error": None, "next_attempt_at": None,
               "response_headers": b"Content-Length: 0\r\n", "response_body": None, **columns}
        written.append({"started_at": row["received_at"] + 5 * MS, **row})
    with stack.connect() as db, db.transaction():
        db.cursor().executemany(INSERT, written)
    return written


def write_many(stack, webhook, n: int) -> None:
    """n deliveries, three of them at each time."""
    stack.query("insert into attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id, event_type, started_at, outcome) "
                "select at, gen_random_uuid(), 1, gen_random_uuid(), %s, %s, 'alert.created', at, 'delivered' "
                "from generate_series(1, %s) i, lateral (select now() - interval '1 ms' * (i / 3) as at) t", webhook.id, webhook.tenant_id, n)


def listed(client: Client, webhook, **params) -> dict:
    answer = contract.check(client.get(f"{webhook.id}/deliveries", **params), "listDeliveries")
    assert answer.status_code == 200, answer.text
    return answer.json()


def detail(client: Client, webhook, delivery_id, **params) -> dict:
    answer = contract.check(client.get(f"{webhook.id}/deliveries/{delivery_id}", **params), "getDelivery")
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: Client, webhook, parameter: str, **params) -> None:
    answer = contract.check(client.get(f"{webhook.id}/deliveries", **params), "listDeliveries")
    assert answer.status_code == 400, answer.text
    assert parameter in [error["parameter"] for error in answer.json()["errors"]], answer.text


def ids(page: dict) -> list[str]:
    return [row["delivery_id"] for row in page["data"]]


def when(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


# ---- what a worker did ----


def test_the_log_and_the_detail_show_what_the_worker_did(stack, producer, tenant, sink, client, start_worker):
    start_worker(retry_delays=delays(0.2))
    hook = tenant.webhook(sink.url("/w"))
    sink.set("/w", "status=503")
    event_id = producer.one(envelope(tenant.id, "scan.completed", data={"title": "naïve 😀"}), headers=[("traceparent", TRACEPARENT)])
    await_condition(lambda: len(hook.attempts()) == 1, 20, "the first attempt is written")
    sink.clear("/w")
    await_condition(lambda: len(hook.attempts()) == 2 and not hook.pending(), 20, "the second attempt is written")
    stored = hook.attempts()
    page = listed(client, hook)
    assert page["meta"] == {"page": 1, "per_page": 25, "total": 2}
    for row, column in zip(page["data"], reversed(stored)):
        delivery_id = hook.delivery_id(event_id)
        assert row == {
            "id": str(uuid.uuid5(delivery_id, str(column["attempt"]))), "delivery_id": str(delivery_id), "event_id": event_id,
            "event": "scan.completed", "attempt": column["attempt"], "status": column["outcome"], "status_code": column["status_code"],
            "response_time_ms": column["response_time_ms"], "error": column["error"], "attempted_at": row["attempted_at"],
            "next_attempt_at": row["next_attempt_at"]}
        assert when(row["attempted_at"]) == column["started_at"]
        assert (when(row["next_attempt_at"]) if row["next_attempt_at"] else None) == column["next_attempt_at"]
    assert [row["status"] for row in page["data"]] == ["delivered", "failed"]
    found = detail(client, hook, hook.delivery_id(event_id))
    assert (found["state"], found["next_attempt_at"], found["pending_reason"]) == ("delivered", None, None)
    assert when(found["received_at"]) == stored[0]["received_at"] and found["event"] == "scan.completed"
    responses = [attempt.pop("response") for attempt in found["attempts"]]
    assert found["attempts"] == page["data"][::-1]
    assert [response["body"].encode() for response in responses] == [column["response_body"] or b"" for column in stored]
    assert [response["headers"].encode() for response in responses] == [column["response_headers"] for column in stored]


def test_the_request_shown_is_the_one_that_a_receiver_gets(producer, tenant, sink, client, worker):
    hook = tenant.webhook(sink.url("/r"))
    for headers in ([], [("traceparent", TRACEPARENT)]):
        event_id = producer.one(envelope(tenant.id, data={"title": "naïve 😀", "nul": "\0"}), headers=headers)
        line = [line for line in sink.wait(len(headers) + 1, "/r") if line["delivery_id"] == str(hook.delivery_id(event_id))][0]
        await_condition(lambda event_id=event_id: hook.attempts(event_id), 20, "the attempt is written")
        request = detail(client, hook, hook.delivery_id(event_id))["request"]
        received = sink.headers_of(line)
        for name in ("host", "content-length", "x-netrecon-attempt", "x-netrecon-signature", "webhook-timestamp", "webhook-signature"):
            del received[name]
        assert {name.lower(): value for name, value in request["headers"].items()} == received
        assert request["body"].encode() == sink.body_of(line)


def test_a_delivery_that_waits_says_when_and_why(producer, tenant, sink, client, worker):
    hook = tenant.webhook(sink.url("/p", "status=500"))
    event_id = producer.one(envelope(tenant.id))
    pending = await_condition(lambda: hook.attempts() and hook.pending(), 20, "a second attempt is due")[0]
    found = detail(client, hook, hook.delivery_id(event_id))
    assert (found["state"], found["pending_reason"]) == ("pending", "retry")
    assert when(found["next_attempt_at"]) == pending["next_attempt_at"] and len(found["attempts"]) == 1


# ---- the detail ----


def put_pending(stack, hook, row: dict, reason: str, next_attempt: int) -> None:
    stack.query("insert into pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type, next_attempt, "
                "next_attempt_at, reason) values (%s, %s, %s, %s, %s, 'alert.created', %s, now() + interval '1 hour', %s)",
                row["delivery_id"], row["received_at"], row["event_id"], hook.id, hook.tenant_id, next_attempt, reason)


def test_a_delivery_without_an_attempt_yet_is_there(stack, client, webhook):
    row = {"delivery_id": uuid.uuid4(), "event_id": uuid.uuid4(), "received_at": dt.datetime.now(UTC)}
    put_pending(stack, webhook, row, "spill", 1)
    found = detail(client, webhook, row["delivery_id"])
    assert (found["state"], found["pending_reason"], found["attempts"]) == ("pending", "spill", [])
    assert found["event_id"] == str(row["event_id"]) and when(found["received_at"]) == row["received_at"]
    assert listed(client, webhook)["data"] == []


def test_a_pending_row_that_an_attempt_has_overtaken_is_not_believed(stack, client, webhook):
    row = write(stack, webhook, {"attempt": 2})[0]
    put_pending(stack, webhook, row, "retry", 2)
    found = detail(client, webhook, row["delivery_id"])
    assert (found["state"], found["next_attempt_at"], found["pending_reason"]) == ("delivered", None, None)


def test_any_bytes_of_an_answer_are_shown(stack, client, webhook):
    sent = bytes(range(256)) * 16
    row = write(stack, webhook, {"response_body": sent, "response_headers": b"X: \xff\r\n"})[0]
    response = detail(client, webhook, row["delivery_id"])["attempts"][0]["response"]
    assert base64.b64decode(response["body_base64"]) == sent
    assert response["body"] == sent.replace(b"\0", b"\xff").decode(errors="replace")
    assert response["headers"] == "X: \ufffd\r\n"


def test_nothing_answered_is_null(stack, client, webhook):
    row = write(stack, webhook, {"response_headers": None, "status_code": None, "outcome": "failed", "error": "no complete answer within 15s"})[0]
    found = detail(client, webhook, row["delivery_id"])
    assert found["attempts"][0]["response"] is None and found["state"] == "failed"


def test_a_payload_that_is_no_longer_kept_is_null(stack, client, webhook):
    row = write(stack, webhook, {})[0]
    request = detail(client, webhook, row["delivery_id"])["request"]
    assert request["body"] is None and request["headers"]["webhook-id"] == str(row["event_id"])
    stack.query("insert into events (id, received_at, tenant_id, event_type, payload) values (%s, %s, %s, 'alert.created', '{}')",
                row["event_id"], row["received_at"], webhook.tenant_id)
    assert detail(client, webhook, row["delivery_id"])["request"]["body"] == "{}"


def test_of_very_many_attempts_the_last_hundred_are_shown(stack, client, webhook):
    now, delivery_id = dt.datetime.now(UTC), uuid.uuid4()
    write(stack, webhook, *({"attempt": n, "delivery_id": delivery_id, "received_at": now, "started_at": now + n * MS} for n in range(1, 102)))
    assert [attempt["attempt"] for attempt in detail(client, webhook, delivery_id)["attempts"]] == list(range(2, 102))


@pytest.mark.parametrize("age", [dt.timedelta(0), dt.timedelta(days=20)])
def test_a_hint_finds_the_same_delivery_and_a_wrong_one_does_no_harm(stack, client, webhook, age):
    at = dt.datetime.now(UTC) - age
    row = write(stack, webhook, {"received_at": at, "started_at": at + 3 * HOUR})[0]
    found = detail(client, webhook, row["delivery_id"])
    for hint in (listed(client, webhook)["data"][0]["attempted_at"], "2020-01-01T00:00:00Z"):
        assert detail(client, webhook, row["delivery_id"], attempted_at=hint) == found
    assert client.get(f"{webhook.id}/deliveries/{row['delivery_id']}", attempted_at="yesterday").status_code == 400


# ---- filters and pages ----


def test_filters_may_be_combined(stack, client, webhook):
    rows = write(stack, webhook, {"outcome": "delivered"}, {"outcome": "failed"}, {"outcome": "failed", "event_type": "cve.matched"},
                 {"outcome": "exhausted", "event_type": "cve.matched"}, {"outcome": "gone"}, {"outcome": "test_failed"})
    every = [str(row["delivery_id"]) for row in rows]
    assert ids(listed(client, webhook)) == every
    for status, expected in (("delivered", every[:1]), ("failed", every[1:3]), ("exhausted", every[3:4]), ("gone", every[4:5]),
                             ("test_failed", every[5:])):
        found = listed(client, webhook, status=status)
        assert ids(found) == expected and found["meta"]["total"] == len(expected)
    assert ids(listed(client, webhook, event="cve.matched")) == every[2:4]
    assert ids(listed(client, webhook, event="cve.matched", status="failed")) == every[2:3]
    assert ids(listed(client, webhook, event="of.the.future")) == []
    third = rows[2]["started_at"].isoformat()
    assert ids(listed(client, webhook, since=third)) == every[:3]
    assert ids(listed(client, webhook, until=third)) == every[3:]
    assert ids(listed(client, webhook, since=third, until=rows[1]["started_at"].isoformat(), cursor="")) == every[2:3]


def test_a_redelivery_long_after_its_event_is_found_by_its_own_time(stack, client, webhook):
    now = dt.datetime.now(UTC)
    old = now - dt.timedelta(days=25)
    row = write(stack, webhook, {"received_at": old, "started_at": now, "attempt": 6})[0]
    page = listed(client, webhook, since=(now - HOUR).isoformat(), until=(now + HOUR).isoformat())
    assert ids(page) == [str(row["delivery_id"])]
    assert ids(listed(client, webhook, until=(old + HOUR).isoformat())) == []


def test_a_producers_clock_may_be_an_hour_ahead(stack, client, webhook):
    now = dt.datetime.now(UTC)
    row = write(stack, webhook, {"received_at": now + HOUR, "started_at": now})[0]
    assert ids(listed(client, webhook, until=(now + MS).isoformat())) == [str(row["delivery_id"])]


def test_bad_parameters_are_named(client, webhook):
    for parameter, value in (("page", 0), ("page", "x"), ("page", REACH + 1), ("per_page", 0), ("per_page", 101), ("status", "pending"),
                             ("event", "Alert"), ("event", "a" * 129), ("since", "yesterday"), ("until", ""), ("colour", "red")):
        refused(client, webhook, parameter, **{parameter: value})
    refused(client, webhook, "page", page=1, cursor="")
    refused(client, webhook, "page", page=101, per_page=100)
    refused(client, webhook, "status", status=["failed", "gone"])


def test_the_total_is_exact_up_to_its_limit_and_the_last_page_is_reached(stack, client, webhook):
    write_many(stack, webhook, REACH)
    assert listed(client, webhook)["meta"] == {"page": 1, "per_page": 25, "total": REACH}
    last = listed(client, webhook, page=100, per_page=100)
    assert len(last["data"]) == 100 and last["meta"]["total"] == REACH
    write_many(stack, webhook, 1)
    assert listed(client, webhook)["meta"] == {"page": 1, "per_page": 25, "total": REACH, "total_capped": True}
    assert len(listed(client, webhook, page=100, per_page=100)["data"]) == 100


def test_pages_are_disjoint_and_complete(stack, client, webhook):
    write_many(stack, webhook, 205)
    pages = [listed(client, webhook, page=n, per_page=100) for n in (1, 2, 3, 4)]
    assert [len(page["data"]) for page in pages] == [100, 100, 5, 0]
    assert all(page["meta"]["total"] == 205 for page in pages)
    assert len({row["id"] for page in pages for row in page["data"]}) == 205


# ---- cursors ----


def test_a_cursor_walks_everything_exactly_once_while_new_rows_arrive(stack, client, webhook):
    write_many(stack, webhook, 1000)
    before = {str(row[0]) for row in stack.query("select delivery_id from attempts where webhook_id = %s", webhook.id)}
    seen, cursor, times = [], "", []
    while cursor is not None:
        page = listed(client, webhook, cursor=cursor, per_page=100)
        seen += ids(page)
        times += [row["attempted_at"] for row in page["data"]]
        cursor = page["meta"]["next_cursor"]
        write_many(stack, webhook, 7)
    assert len(seen) == len(set(seen)) == 1000 and set(seen) == before
    assert times == sorted(times, reverse=True)


def test_a_cursor_goes_on_across_days_and_with_filters(stack, client, webhook):
    now = dt.datetime.now(UTC)
    rows = write(stack, webhook, *({"received_at": now - n * 9 * HOUR, "outcome": ("failed", "delivered")[n % 2]} for n in range(12)))
    seen, cursor = [], ""
    while cursor is not None:
        page = listed(client, webhook, cursor=cursor, per_page=1, status="failed")
        seen += ids(page)
        cursor = page["meta"]["next_cursor"]
    assert seen == [str(row["delivery_id"]) for row in rows[::2]]


def test_only_a_cursor_of_ours_is_taken(stack, client, webhook):
    write_many(stack, webhook, 3)
    good = listed(client, webhook, cursor="", per_page=1)["meta"]["next_cursor"]
    raw = base64.urlsafe_b64decode(good)
    changed = [bytes([2]) + raw[1:], raw[:1] + b"\xff" * 8 + raw[9:], raw[:-2] + b"\0\0", raw[:-2] + b"\x80\0", raw[:-1], raw + b"\0", b""]
    bad = [base64.urlsafe_b64encode(text).decode() for text in changed if text]
    bad += [good[:-1], good + "A", good + "=", " " + good, good[:-1] + "/", good[:-1] + "+", good[:-1] + "\n", "é" * 18, "null", "A" * 513, "'"]
    for cursor in bad:
        refused(client, webhook, "cursor", cursor=cursor)
    assert ids(listed(client, webhook, cursor=good)) == ids(listed(client, webhook))[1:]


# ---- whose it is ----


def routes(webhook_id, delivery_id) -> dict[str, str]:
    return {"listDeliveries": f"{webhook_id}/deliveries", "getDelivery": f"{webhook_id}/deliveries/{delivery_id}",
            "getStats": f"{webhook_id}/stats"}


def test_nobody_reads_another_tenants_log(stack, api, tenant, webhook):
    own, stranger = api.client(tenant.id), Tenant(stack)
    other = api.jwt_client(stranger.id)
    row = write(stack, webhook, {})[0]
    gone = tenant.webhook(URL)
    write(stack, gone, {})
    gone.delete()
    for operation, path in routes(webhook.id, row["delivery_id"]).items():
        assert contract.check(own.get(path), operation).status_code == 200
        for answer in (other.get(path), own.get(path.replace(str(webhook.id), str(uuid.uuid4()))),
                       own.get(path.replace(str(webhook.id), str(gone.id)))):
            assert contract.check(answer, operation).status_code == 404
        assert contract.check(api.client(tenant.id, scopes=["webhooks_write"]).get(path), operation).status_code == 403
        assert contract.check(Client(api, {}).get(path), operation).status_code == 401
    # A delivery of another webhook, of the same tenant and of another one.
    second, foreign = tenant.webhook(URL), stranger.webhook(URL)
    for asks, hook in ((own, second), (other, foreign)):
        assert asks.get(f"{hook.id}/deliveries/{row['delivery_id']}").status_code == 404
        assert asks.get(f"{hook.id}/deliveries/{row['delivery_id']}", attempted_at=row["started_at"].isoformat()).status_code == 404
        assert listed(asks, hook) == {"data": [], "meta": {"page": 1, "per_page": 25, "total": 0}}


# ---- statistics ----


def stats(client: Client, webhook, **params) -> dict:
    answer = contract.check(client.get(f"{webhook.id}/stats", **params), "getStats")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_statistics_of_each_hour_and_of_all(stack, client, webhook):
    this_hour = dt.datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    at = this_hour - 2 * HOUR
    rows = [{"received_at": at, "started_at": at + n * MS, "response_time_ms": n} for n in range(1, 101)]
    rows += [{"received_at": at, "started_at": at, "outcome": "failed", "status_code": None, "response_time_ms": 15000}] * 25
    rows += [{"received_at": at, "started_at": this_hour, "outcome": "exhausted", "status_code": 500, "response_time_ms": 7}]
    rows += [{"received_at": at, "started_at": this_hour - 5 * HOUR}]  # outside
    write(stack, webhook, *rows)
    found = stats(client, webhook, hours=4)
    assert when(found["since"]) == this_hour - 3 * HOUR
    nothing = {"attempts": 0, "delivered": 0, "failed": 0, "success_rate": None, "p50_ms": None, "p95_ms": None}
    hours = [{k: v for k, v in hour.items() if k != "hour"} for hour in found["hours"]]
    assert [when(hour["hour"]) for hour in found["hours"]][:4] == [this_hour - n * HOUR for n in (3, 2, 1, 0)]
    assert hours[:4] == [nothing, {"attempts": 125, "delivered": 100, "failed": 25, "success_rate": 0.8, "p50_ms": 50, "p95_ms": 95}, nothing,
                         {"attempts": 1, "delivered": 0, "failed": 1, "success_rate": 0.0, "p50_ms": 7, "p95_ms": 7}]
    assert found["totals"] == {"attempts": 126, "delivered": 100, "failed": 26, "success_rate": 100 / 126, "p50_ms": 50, "p95_ms": 95}


def test_the_window_of_statistics_has_its_bounds(client, webhook):
    assert len(stats(client, webhook)["hours"]) == 24
    for hours in (1, 168):
        found = stats(client, webhook, hours=hours)
        assert len(found["hours"]) == hours and found["totals"]["attempts"] == 0
        assert found["hours"][0]["hour"] == found["since"] <= found["until"]
    for hours in (0, 169, "x"):
        assert contract.check(client.get(f"{webhook.id}/stats", hours=hours), "getStats").status_code == 400


# ---- how it is read ----


@pytest.fixture(scope="module")
def log(running_stack):
    """A log of 30 days, one webhook heavier than the planner would guess."""
    running_stack.ensure_running()
    return fill_log.fill(running_stack.database_url, fill_log.Volume(webhooks=4, per_webhook=600, heavy=30_000, days=29))


@pytest.fixture
def plans(stack):
    """plans(client, path, …): how PostgreSQL executed each statement about attempts of that request, by its own auto_explain."""
    settings = {"session_preload_libraries": "auto_explain", "auto_explain.log_min_duration": "0", "auto_explain.log_format": "json",
                "auto_explain.log_analyze": "on"}
    with stack.connect(superuser=True) as db:
        for name, value in settings.items():
            db.execute(f"alter role netrecon set {name} = '{value}'")

    def during(client, path: str, **params) -> list[dict]:
        before = len(stack.log_text("postgres"))
        answer = client.get(path, **params)
        assert answer.status_code == 200, answer.text
        found = [json.loads(plan) for plan in re.findall(r"plan:\n((?:\t.*\n)+)", stack.log_text("postgres")[before:])]
        return [plan for plan in found if " attempts " in plan["Query Text"]]

    yield during
    with stack.connect(superuser=True) as db:
        for name in settings:
            db.execute(f"alter role netrecon reset {name}")


def nodes(plan: dict) -> list[dict]:
    return [plan] + [node for child in plan.get("Plans", []) for node in nodes(child)]


def read_by_index(plan: dict) -> tuple[int, int]:
    """Partitions of attempts that were looked into, and rows of them that were passed."""
    every = nodes(plan["Plan"])
    scans = [node for node in every if node.get("Relation Name", "").startswith("attempts")]
    kinds = {node["Node Type"] for node in scans}
    assert kinds <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}, f"{kinds}: {plan['Query Text']}"
    passed = sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in scans)
    return len([node for node in scans if node["Actual Loops"] > 0]), passed


def test_the_log_is_read_by_index_and_only_where_it_can_be(stack, plans, log, start_api):
    client = start_api().client(log.webhooks[log.heavy])  # its sessions begin with auto_explain
    # The days so far and tomorrow (a clock may be ahead), and the default partition.
    days, ahead = stack.query("select 1 + count(*) filter (where not later), count(*) filter (where later) from nrw_partitions, "
                              "lateral (select day > (now() at time zone 'utc')::date + 1 as later) l where parent = 'attempts'::regclass")[0]
    oldest = stack.query("select delivery_id, started_at from attempts where webhook_id = %s order by started_at limit 1", log.heavy)[0]
    cursor = base64.urlsafe_b64encode(b"\x01" + int(1e6 * (oldest[1] + MS).timestamp()).to_bytes(8, "big") + bytes(16) + b"\0\1").decode()
    middle = (dt.datetime.now(UTC) - dt.timedelta(days=15)).isoformat()
    path = f"{log.heavy}/deliveries"
    # A merge looks at the first row of each partition, whatever it needs of it.
    for what, params, days_max, rows_max in (
            ("first page", {}, days, 25 + days), ("page 100", {"page": 100}, days, 25 + days),
            ("the last page", {"page": 100, "per_page": 100}, days, 100 + days),
            ("until", {"until": middle}, days - 13, 25 + days), ("cursor", {"cursor": cursor}, 4, 26 + 4),
            ("both", {"cursor": cursor, "until": middle}, 4, 26 + 4), ("event", {"event": "cve.matched"}, days, 5 * 25 + 20 * days)):
        found = plans(client, path, **params)
        if "page" in params:  # its position is found in the index alone
            position, count, rows = found
            assert "Index Scan" not in {node["Node Type"] for node in nodes(position["Plan"]) if "attempts" in node.get("Relation Name", "")}, what
            assert read_by_index(position)[1] <= params["page"] * params.get("per_page", 25) + ahead + days
            count = [count]
        else:
            rows, *count = found
        read = read_by_index(rows)
        assert read[0] <= days_max and read[1] <= rows_max, f"{what}: partitions, rows {read}"
        nodes_of_rows = {node["Node Type"] for node in nodes(rows["Plan"])}
        assert "Sort" not in nodes_of_rows and "Incremental Sort" not in nodes_of_rows, what
        assert len(count) == ("cursor" not in params)
        assert all(read_by_index(plan)[1] <= REACH + 1 for plan in count if "event" not in params), what
    for what, params, entries_max in (("hint", {"attempted_at": oldest[1].isoformat()}, 1), ("no hint", {}, 1)):
        find, attempts, event = plans(client, f"{path}/{oldest[0]}", **params)
        assert read_by_index(find)[1] <= entries_max, what
        assert read_by_index(attempts)[0] == read_by_index(event)[0] == 1, f"{what}: more than the event's own partition"
    stats_plan = plans(client, f"{log.heavy}/stats", hours=168)
    assert len(stats_plan) == 1 and read_by_index(stats_plan[0])[1] <= 8 * 1.2 * 30_000 / 29


def test_statistics_of_the_busiest_webhook_are_bounded_and_exact(stack, client, webhook):
    """200 000 attempts are counted, and `since` says from when on."""
    n = 200_000 + 1000
    stack.query("insert into attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id, event_type, started_at, outcome) "
                "select at, gen_random_uuid(), 1, gen_random_uuid(), %s, %s, 'alert.created', at, 'delivered' "
                "from generate_series(1, %s) i, lateral (select now() - interval '100 ms' * i as at) t", webhook.id, webhook.tenant_id, n)
    found = stats(client, webhook)
    oldest = stack.query("select started_at from attempts where webhook_id = %s order by started_at desc limit 1 offset 199999", webhook.id)[0][0]
    assert found["totals"]["attempts"] == 200_000 == sum(hour["attempts"] for hour in found["hours"])
    assert when(found["since"]) == oldest and when(found["hours"][0]["hour"]) == oldest.replace(minute=0, second=0, microsecond=0)
    assert len(found["hours"]) in (6, 7)
