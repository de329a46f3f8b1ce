"""The page's retry table and what hangs on it, on the real stack: five attempts at their times, each made once; a failing webhook and the
one mail to its owner; and all of it again while Redis, workers, clocks and this side's own means fail."""

import contextlib
import copy
import datetime as dt
import hashlib
import json
import os
import random
import shutil
import subprocess
import time
import uuid

import pytest
import redis
from support import attempts, clock
from support.attempts import await_no_pending, delays, hold, when
from support.kafka import Topic
from support.paths import ROOT, clean_environment
from support.priority import raise_priority, services_first
from support.produce import SPREAD, Producer, ProduceTool, envelope
from support.sink import Sink
from support.smtp import CONSOLE_URL, MAIL_FROM
from support.stack import free_ports
from support.tenant import Tenant
from support.wait import PATIENCE, await_condition, in_time
from support.worker import Worker

MANY = 1000  # deliveries that are given up at the same time
SCHEDULE_S = (0.5, 1.0, 1.5, 2.0)
# A promised time is a moment after the end of the attempt: the row waits for company, and PostgreSQL takes its time on a busy machine.
WRITTEN_S = 0.5 * PATIENCE
LATE_S = 1.5 * PATIENCE
LATE_MAX_S = 60  # whatever happens to Redis
RECONCILE_S = 4
# Every second all that is due goes together, and what an endpoint has no room for then comes a second later, or some: a quarter of the promise.
SWEPT_S = 15 * PATIENCE
ABSENT_S = float(os.environ.get("FAULT_REDIS_SECONDS", "180"))
LEASE_MARGIN_S = 20  # retries_lease_ms() is this on top of both settings
BRIEF = {"send_timeout": "2s", "spill_after": "200ms"}
STOPPED = {"send_timeout": "3s", "spill_after": "2s"}


@pytest.fixture(autouse=True)
def nothing_left_behind(stack):
    """Workers of a test take whatever is due, also what an earlier test that failed has left."""
    stack.query("delete from pending_deliveries")
    stack.query("update notifications set state = 'dropped' where state = 'pending'")


@pytest.fixture
def sink(tmp_path):
    """With a second address (other): libcurl sends a request once more when a kept connection breaks, so what breaks connections must not
    share a host with anybody."""
    sink = Sink(tmp_path / "sink", "--listen", "127.0.0.2:0")
    sink.other = "http://" + json.loads(sink.output.read_text().splitlines()[0])["listen"][1]
    yield sink
    sink.close()


def standing(webhook):
    """(status, failing since, disabled at, reason) as the settings page shows it."""
    return webhook.stack.query("select status, failing_since, disabled_at, disabled_reason from webhooks where id = %s", webhook.id)[0]


def await_status(webhook, status, timeout=20):
    await_condition(lambda: standing(webhook)[0] == status, timeout, lambda: f"the webhook is {status}: {standing(webhook)}")


def path_of(sink, webhook):
    return webhook.url.removeprefix(sink.base).partition("?")[0]


def check_times(rows, schedule):
    """Rows of one delivery: each next attempt at its time, never early, at most a tenth (and the time to write and claim) later."""
    for made, following, delay in zip(rows, rows[1:], schedule):
        ended = made["started_at"] + dt.timedelta(milliseconds=made["response_time_ms"])
        promised = (made["next_attempt_at"] - ended).total_seconds()
        rounding = 0.0006  # response_time_ms is rounded to a whole one
        assert delay - rounding <= promised <= delay * (1 + attempts.JITTER) + WRITTEN_S, (
            f"after attempt {made['attempt']}: promised {promised:.3f} s later, by the table {delay} s")
        late = (following["started_at"] - made["next_attempt_at"]).total_seconds()
        assert late >= -attempts.TICK_S, f"attempt {following['attempt']} began {late:+.3f} s after its time"
        in_time(late <= LATE_S, f"attempt {following['attempt']} began {late:+.3f} s after its time")
    assert rows[-1]["next_attempt_at"] is None, "a time is promised for an attempt that never comes"


# ---- what takes half a minute is begun before the first test of this file, and looked at after some others ----


class Aside:
    """A database and a Redis database of its own in the session's servers: a worker takes whatever is due, so one that has other settings
    than those of the tests that run meanwhile must not see their deliveries. Everything in it ends with close()."""

    taken = 0

    def __init__(self, running_stack, folder):
        Aside.taken += 1
        self.stack = copy.copy(running_stack)
        name = "aside_" + uuid.uuid4().hex[:8]
        role = running_stack.query("select current_user")[0][0]
        with running_stack.connect(superuser=True) as connection:
            connection.execute(f'create database {name} owner "{role}"')
        url, query = running_stack.database_url.partition("?")[::2]
        redis_url = running_stack.exports["NRW_REDIS_URL"]
        self.stack.exports = {**running_stack.exports, "NRW_DATABASE_URL": f"{url.rpartition('/')[0]}/{name}" + (query and f"?{query}"),
                              "NRW_REDIS_URL": f"{redis_url.rpartition('/')[0]}/{Aside.taken}"}
        subprocess.run([ROOT / "schema" / "apply"], check=True, timeout=60, stdout=subprocess.DEVNULL,
                       env={**clean_environment(), "NRW_DATABASE_URL": self.stack.database_url})
        self._at_end = contextlib.ExitStack()
        self.folder = folder
        self.topic = self.stack.topic()
        self._at_end.callback(self.topic.delete)
        self.sink = Sink(folder / "sink")
        self._at_end.callback(self.sink.close)
        self.tenant = Tenant(self.stack)
        self.producer = Producer(self.topic)
        self.workers = []
        self.close = self._at_end.close

    def webhook(self, path, query=""):
        webhook = self.tenant.webhook(self.sink.url(path, query))
        self.sink.secret(path, webhook.secret)
        return webhook

    def worker(self, ready=True, **options):
        worker = Worker(self.stack, self.folder, self.topic, name=f"worker-{len(self.workers) + 1}", **options)
        self.workers.append(worker)
        self._at_end.callback(worker.close)
        return worker.start().ready() if ready else worker.start()

    def redis_at(self, port):
        """A server of its own, empty."""
        program = self.folder / "redis-server"  # by this name Debian's redis-check-rdb is the server
        program.symlink_to(shutil.which("redis-server") or "/usr/bin/redis-check-rdb")
        server = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", program, "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                                   "--dir", self.folder], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._at_end.callback(server.wait, 10)
        self._at_end.callback(server.terminate)


@pytest.fixture(scope="module")
def aside(running_stack, tmp_path_factory):
    running_stack.ensure_running()
    made = []

    def make():
        made.append(Aside(running_stack, tmp_path_factory.mktemp("aside")))
        return made[-1]

    yield make
    with contextlib.ExitStack() as at_end:
        for one in made:
            at_end.callback(one.close)


@pytest.fixture(scope="module")
def early(aside):
    """One delivery under the default settings."""
    e = aside()
    e.hook = e.webhook("/early", "status=500")
    e.worker()
    e.event = e.producer.one(envelope(e.tenant.id))
    return e


@pytest.fixture(scope="module")
def killed(aside):
    """A worker was killed in the middle of second attempts, another one is there."""
    k = aside()
    k.hook = k.webhook("/killed")
    settings = {"retry_delays": delays(0.5), **BRIEF, "kafka": {"group.instance.id": "one"}}
    first = k.worker(**settings)
    k.sink.set("/killed", "status=500")
    k.events = k.producer.many(k.tenant.id, 6)
    k.sink.wait(6, "/killed", attempt=1)
    k.sink.set("/killed", "hang")
    k.sink.wait(6, "/killed", attempt=2)
    first.kill9()
    k.leases = {str(row["delivery_id"]): row["leased_until"] for row in k.hook.pending()}
    k.sink.clear("/killed")
    k.worker(group=first.group, **settings)
    return k


@pytest.fixture(scope="module")
def stopped(aside):
    """A worker was stopped while it had second attempts in flight and leases of others in its lanes."""
    s = aside()
    s.hooks = [s.webhook(f"/stopped-{i}") for i in range(6)]
    s.settings = {"retry_delays": delays(0.5), **STOPPED, "lane_concurrency": 1, "kafka": {"session.timeout.ms": "6000"}}
    first = s.worker(**s.settings)
    s.sink.set("*", "status=500")
    s.events = s.producer.many(s.tenant.id, 3)
    await_condition(lambda: sum(len(hook.pending()) for hook in s.hooks) == 18, 20, "all have failed once")
    s.sink.set("*", "delay=1900ms")
    await_condition(lambda: first.metrics()["nrw_in_flight"] == 6 and first.metrics()["nrw_lanes_waiting"] == 12, 10,
                    lambda: f"six in flight, twelve in the lanes\n{first.tail()}")
    first.sigstop()
    s.leases = {str(row["delivery_id"]): row["leased_until"] for hook in s.hooks for row in hook.pending()}
    s.seen = {line["delivery_id"] for line in s.sink.ledger(attempt=2)}
    return s


@pytest.fixture(scope="module")
def absent(aside):
    """A worker whose Redis is not there, and an even load."""
    a = aside()
    a.port, = free_ports(1)
    a.stack.exports["NRW_REDIS_URL"] = f"redis://127.0.0.1:{a.port}/0"
    a.failing = a.webhook("/fails-twice", "fail_first=2")
    a.quick = a.webhook("/quick")
    a.lone = a.worker(retry_delays=delays(1))
    a.until = time.monotonic() + ABSENT_S
    a.load = ProduceTool(a.topic, a.tenant.id, *SPREAD, count=int(5 * ABSENT_S), rate=5)
    return a


@pytest.fixture(scope="module")
def begun(request):
    """Those of the above that a test of this run asks for."""
    wanted = {name for item in request.session.items for name in item.fixturenames}
    for name in ("absent", "early", "killed", "stopped"):
        if name in wanted:
            request.getfixturevalue(name)


# ---- the table ----

MAIL_FAILING = """\
Your webhook is failing

NetRecon could not deliver an event to your endpoint in 5 attempts and
has marked the webhook as failing.

  Account        test
  Webhook        http://<HOST>/answers
  Webhook ID     <ID>
  Failing since  <TIME>
  Last answer    500 Internal Server Error
  Waiting        0 deliveries
  Given up       1 delivery in the last 24 hours

What to do now
  1. The endpoint has an error of its own: look into its log.
  2. Let the endpoint answer with a 2xx status, then send a test from
     the webhook's settings.
  3. Replay the deliveries that were given up.

Settings of this webhook:
https://console.example.com/settings/integrations/webhooks/<ID>

What happens next
  NetRecon keeps sending. The first success makes the webhook active
  again, without any action of yours. After 5 days without a success it
  will be disabled, and we will write to you once more.

--\x20
NetRecon Webhooks. This mail was sent automatically to the account's owner.
"""


@pytest.mark.usefixtures("begun")
def test_five_attempts_at_their_times_then_failing_and_one_mail(stack, topic, tenant, sink, producer, start_worker, mailbox, owner):
    closed, = free_ports(1)
    hooks = {
        # name: (url, what it subscribes to, status, error)
        "answers": (sink.url("/answers", "status=500&token=s3cret"), "alert.created", 500, "the endpoint answered 500"),
        "resets": (f"{sink.other}/resets?reset", "alert.created", None, None),
        "hangs": (sink.url("/hangs", "hang"), "alert.created", None, "no answer within 1 s"),
        "refuses": (f"http://127.0.0.1:{closed}/refuses", "alert.created", None, None),
        "many": (sink.url("/many", "status=503"), "scan.failed", 503, "the endpoint answered 503"),
    }
    webhooks = {name: tenant.webhook(url, events=(event,)) for name, (url, event, _, _) in hooks.items()}
    for name in hooks:
        sink.secret("/" + name, webhooks[name].secret)
    settings = {"retry_delays": delays(*SCHEDULE_S), "send_timeout": "1s", **mailbox.settings}
    workers = [start_worker(**settings)]
    workers.append(start_worker(group=workers[0].group, **settings))
    one = producer.many(tenant.id, 1)
    many = producer.many(tenant.id, MANY, "scan.failed")
    for webhook in webhooks.values():
        await_status(webhook, "failing", 30)
    await_no_pending(stack, webhooks.values())
    for name, (_, event, status, error) in hooks.items():
        webhook = webhooks[name]
        for event_id in one if event == "alert.created" else many:
            rows = webhook.attempts(event_id)
            assert [row["attempt"] for row in rows] == [1, 2, 3, 4, 5]
            assert [row["outcome"] for row in rows] == ["failed"] * 4 + ["exhausted"]
            assert {row["status_code"] for row in rows} == {status}
            assert all(row["error"] == error if error else row["error"] for row in rows), {row["error"] for row in rows}
            low, high = (1000, 1500) if name == "hangs" else (0, 1000)
            assert all(low <= row["response_time_ms"] <= high * PATIENCE for row in rows), [row["response_time_ms"] for row in rows]
            if name != "many":  # a failing webhook gets one request at a time: its last attempts queue
                check_times(rows, SCHEDULE_S)
        print(f"\n{name}: {[(row['status_code'], row['error'], row['response_time_ms']) for row in webhook.attempts(event_id)][-1]}", end="")
    mails = mailbox.wait(owner, len(webhooks))
    outbox = "select count(*) from notifications where tenant_id = %s and state <> 'sent'"
    await_condition(lambda: stack.query(outbox, tenant.id)[0][0] == 0, 20, "every mail is marked as sent")
    hold(1, lambda: len(mailbox.to(owner)) == len(webhooks), "one mail for each webhook, however many deliveries were given up")
    assert mailbox.tries == len(mailbox.mails)
    about = {name: [mail for mail in mails if str(webhook.id) in mail.text] for name, webhook in webhooks.items()}
    assert {name: len(found) for name, found in about.items()} == dict.fromkeys(hooks, 1)
    mail, = about["answers"]
    assert mail.steady_text.strip() == MAIL_FAILING.strip()
    assert mail.sender == "no-reply@netrecon.example" and mail.message["From"] == MAIL_FROM and mail.message["To"] == owner
    assert mail.message["Subject"].endswith(" is failing") and "127.0.0.1" in mail.message["Subject"]
    assert f"{CONSOLE_URL}/settings/integrations/webhooks/{webhooks['answers'].id}" in mail.html
    assert "s3cret" not in mail.message.as_string(), "the query of the URL is in the mail"
    assert "s3cret" not in "".join(worker.log_text() for worker in workers), "the query of the URL is in the log"
    expected = {(event, webhooks[name].id) for name in hooks for event in (many if name == "many" else one)}
    found = attempts.check(stack, sink, topic, webhooks.values(), one + many, expected=expected, what="five attempts")
    assert found.terminal == expected and not found.delivered


def test_fails_twice_then_delivered_on_attempt_3(stack, topic, tenant, subscribe, sink, producer, start_worker):
    webhook, = subscribe(1, "fail_first=2&fail_status=502")
    start_worker(retry_delays=delays(1.1, 1.2))  # more than a second, so that the timestamps differ
    acked = producer.many(tenant.id, 20)
    sink.wait(3 * len(acked), path_of(sink, webhook), timeout=20)
    await_no_pending(stack, [webhook])
    requests = attempts.by_delivery(sink)
    assert requests.keys() == {str(webhook.delivery_id(event)) for event in acked}
    sent = {event["id"]: event["sha256"] for event in produced(topic)}
    for lines in requests.values():
        assert [line["attempt"] for line in lines] == [1, 2, 3]
        assert [line["answer"] for line in lines] == [502, 502, 200]
        # One id for the receiver to recognise it by, the producer's bytes, and a signature of its own moment.
        assert {line["event_id"] for line in lines} == {lines[0]["event_id"]}
        assert {line["body_sha256"] for line in lines} == {sent[lines[0]["event_id"]]}
        assert {(line["sig_netrecon"], line["sig_standard"]) for line in lines} == {("good", "good")}
        stamps = [int(line["webhook_timestamp"]) for line in lines]
        assert stamps == sorted(set(stamps)) and all(abs(stamp - when(line).timestamp()) <= 1.5 for stamp, line in zip(stamps, lines))
    for event in acked:
        rows = webhook.attempts(event)
        assert [(row["attempt"], row["outcome"], row["status_code"]) for row in rows] == [
            (1, "failed", 502), (2, "failed", 502), (3, "delivered", 200)]
        check_times(rows, (1.1, 1.2))
    assert standing(webhook)[:2] == ("active", None), "a delivery that arrived in the end is no failure"
    found = attempts.check(stack, sink, topic, [webhook], acked, what="fails twice")
    assert sum(found.delivered.values()) == len(acked)


def produced(topic):
    for message in topic.read():
        yield {"id": json.loads(message.value)["id"], "sha256": hashlib.sha256(message.value).hexdigest()}


RETRY_AFTER_SCHEDULE_S = 1.0
# status and Retry-After of the first answer: seconds until the second attempt
RETRY_AFTER = {
    "503 later": (503, 3, 3.0),
    "429 later": (429, 2, 2.0),
    "429 sooner than the table": (429, 0, RETRY_AFTER_SCHEDULE_S),
    "503 next week": (503, 7 * 86400, 3600.0),
    "500 has no say": (500, 3, RETRY_AFTER_SCHEDULE_S),
    "302 has no say": (302, 3, RETRY_AFTER_SCHEDULE_S),
}


def test_retry_after_is_honoured_within_bounds(stack, topic, tenant, subscribe, sink, producer, start_worker):
    webhooks = {name: subscribe(1, f"status={200 if wait < 3600 else status}&fail_first=1&fail_status={status}&retry_after={after}")[0]
                for name, (status, after, wait) in RETRY_AFTER.items()}
    start_worker(retry_delays=delays(RETRY_AFTER_SCHEDULE_S))
    event, = producer.many(tenant.id, 1)
    sooner = [webhooks[name] for name, (_, _, wait) in RETRY_AFTER.items() if wait < 3600]
    await_condition(lambda: all(webhook.attempts(event) for webhook in webhooks.values()), 20, "all have their first attempt")
    await_no_pending(stack, sooner)
    for name, (status, _, wait) in RETRY_AFTER.items():
        rows = webhooks[name].attempts(event)
        assert rows[0]["status_code"] == status, name
        if wait < 3600:
            assert [row["outcome"] for row in rows] == ["failed", "delivered"], name
            check_times(rows, [wait])
            continue
        row, = rows
        ends = row["started_at"] + dt.timedelta(milliseconds=row["response_time_ms"])
        promised = (row["next_attempt_at"] - ends).total_seconds()
        assert wait <= promised <= wait * (1 + attempts.JITTER) + WRITTEN_S, f"{name}: {promised} s"
        assert [p["next_attempt_at"] for p in webhooks[name].pending(event)] == [row["next_attempt_at"]]
    attempts.check(stack, sink, topic, sooner, [event], elsewhere=[webhooks["503 next week"]], what="Retry-After")


def test_410_disables_at_once(stack, topic, tenant, subscribe, sink, producer, start_worker, mailbox, owner):
    webhook, other = subscribe(2)
    path = path_of(sink, webhook)
    worker = start_worker(retry_delays=delays(2), **mailbox.settings)
    sink.set(path, "status=500")
    waiting = producer.many(tenant.id, 3)
    await_condition(lambda: len(webhook.pending()) == 3, 20, "three deliveries wait for their second attempt")
    sink.set(path, "gone")
    last, = producer.many(tenant.id, 1)
    await_status(webhook, "disabled")
    sink.clear(path)
    # Whoever has read the news sends nothing more: neither new events nor the retries that waited.
    await_condition(lambda: worker.metric("nrw_notifications_total") >= 1, 10, "the worker knows")
    later = producer.many(tenant.id, 5)
    topic.await_settled(worker.group)
    await_no_pending(stack, [webhook, other])
    assert {line["event_id"] for line in sink.ledger(path)} == {*waiting, last}
    assert [(row["outcome"], row["status_code"]) for row in webhook.attempts(last)] == [("gone", 410)]
    assert {row["attempt"] for row in webhook.attempts()} == {1}
    assert len(worker.log_lines("retries.cancelled", webhook=str(webhook.id))) == 3
    status, _, disabled_at, reason = standing(webhook)
    assert (status, reason) == ("disabled", "the endpoint answered 410 Gone") and disabled_at is not None
    mail, = mailbox.wait(owner)
    assert mail.message["Subject"].endswith(" has been disabled") and "410 Gone" in mail.text and str(webhook.id) in mail.text
    assert standing(other)[0] == "active"
    events = [*waiting, last, *later]
    expected = {(event, other.id) for event in events} | {(event, webhook.id) for event in (*waiting, last)}
    attempts.check(stack, sink, topic, [webhook, other], events, expected=expected,
                   cancelled={(event, webhook.id) for event in waiting}, what="410")


def test_success_makes_it_active_again(stack, topic, tenant, subscribe, sink, producer, start_worker, mailbox, owner):
    webhook, = subscribe(1)
    path = path_of(sink, webhook)
    worker = start_worker(retry_delays=delays(0.1), **mailbox.settings)
    sink.set(path, "status=500")
    acked = producer.many(tenant.id, 3)
    await_status(webhook, "failing")
    await_no_pending(stack, [webhook])
    assert standing(webhook)[1] is not None
    sink.clear(path)
    acked += producer.many(tenant.id, 1)
    await_status(webhook, "active")
    assert standing(webhook)[1:] == (None, None, None)
    # Once more: another transition, another mail.
    mailbox.wait(owner, 1)
    sink.set(path, "status=500")
    acked += producer.many(tenant.id, 3)
    await_status(webhook, "failing")
    mailbox.wait(owner, 2)
    sink.clear(path)
    acked += producer.many(tenant.id, 1)
    await_status(webhook, "active")
    acked += producer.many(tenant.id, 200)
    topic.await_settled(worker.group)
    await_no_pending(stack, [webhook])
    assert len(mailbox.to(owner)) == 2
    assert stack.query("select count(*) from notifications where webhook_id = %s", webhook.id) == [(2,)]
    found = attempts.check(stack, sink, topic, [webhook], acked, what="active again")
    assert len(found.terminal) == 6


def test_five_days_without_a_success_disable(stack, topic, tenant, subscribe, sink, producer, start_worker, mailbox, owner):
    """What fails for a minute less goes on. Every worker hears of it, also one that has not done it."""
    long, shorter = subscribe(2)
    settings = {"retry_delays": delays(0.1), **mailbox.settings}
    worker = start_worker(**settings)
    sink.set("*", "status=500")
    failed = producer.many(tenant.id, 1)
    for webhook in (long, shorter):
        await_status(webhook, "failing")
    await_no_pending(stack, [long, shorter])
    mailbox.wait(owner, 2)
    sink.clear()
    notified = worker.metric("nrw_notifications_total")
    for webhook, minutes in ((long, 1), (shorter, -1)):
        stack.query("update webhooks set failing_since = now() - interval '5 days' - %s * interval '1 minute' where id = %s", minutes, webhook.id)
    other = start_worker(group=worker.group, **settings)  # which looks after the house when it comes
    await_status(long, "disabled")
    assert other.metric("nrw_webhooks_disabled_total") == 1
    assert standing(long)[3] == "no delivery succeeded for too long" and standing(long)[2] is not None
    mail = mailbox.wait(owner, 3)[-1]
    assert mail.message["Subject"].endswith(" has been disabled") and str(long.id) in mail.text
    await_condition(lambda: worker.metric("nrw_notifications_total") >= notified + 3, 10, "the first worker knows, too")
    after = producer.many(tenant.id, 60)
    topic.await_settled(worker.group)
    await_no_pending(stack, [long, shorter])
    assert {line["event_id"] for line in sink.ledger(path_of(sink, long))} == set(failed)
    assert standing(shorter)[0] == "active" and len(mailbox.to(owner)) == 3
    expected = {(event, shorter.id) for event in failed + after} | {(event, long.id) for event in failed}
    attempts.check(stack, sink, topic, [long, shorter], failed + after, expected=expected, what="five days")


def test_paused_or_deleted_webhook_cancels_its_retries(stack, topic, tenant, subscribe, sink, producer, start_worker):
    paused, deleted, kept = subscribe(3, "fail_first=1")
    worker = start_worker(retry_delays=delays(2))
    acked = producer.many(tenant.id, 5)
    await_condition(lambda: all(len(webhook.pending()) == 5 for webhook in (paused, deleted, kept)), 20, "the retries wait")
    paused.update(active=False)
    deleted.delete()
    await_no_pending(stack, [paused, deleted, kept])
    for webhook in (paused, deleted):
        assert len(worker.log_lines("retries.cancelled", webhook=str(webhook.id))) == len(acked)
        assert len(sink.ledger(path_of(sink, webhook))) == len(acked), "a request after the webhook was paused or deleted"
        assert standing(webhook)[0] == "active", "that is its owner's doing and no failure"
    assert worker.metric("nrw_retries_cancelled_total") == 2 * len(acked)
    # A pause is no farewell: what comes later is sent again.
    paused.update(active=True)
    await_condition(lambda: worker.metric("nrw_notifications_total") >= 3, 10, "the worker knows")
    after = producer.many(tenant.id, 1)
    await_condition(lambda: paused.attempts(after[0]), 20, "the new event has reached it")
    await_no_pending(stack, [paused, deleted, kept])
    expected = {(event, webhook.id) for webhook in (paused, deleted, kept) for event in acked} | {
        (event, webhook.id) for webhook in (paused, kept) for event in after}
    attempts.check(stack, sink, topic, [paused, deleted, kept], acked + after, expected=expected,
                   cancelled={(event, webhook.id) for webhook in (paused, deleted) for event in acked}, what="paused, deleted")


@pytest.mark.slow
def test_default_schedule_attempt_2_comes_after_30_s(early):
    webhook, event, sink = early.hook, early.event, early.sink
    await_condition(lambda: len(webhook.attempts(event)) == 2, 45, "the second attempt")
    rows = webhook.attempts(event)
    first, second = sink.ledger(delivery_id=str(webhook.delivery_id(event)))
    took = (when(second) - when(first)).total_seconds()
    print(f"\nattempt 2 came {took:.3f} s after attempt 1")
    assert took >= 30
    in_time(took <= 33 + LATE_S, f"{took:.1f} s")
    # The table's next row, as far as it can be seen without waiting for it.
    pending, = webhook.pending(event)
    assert pending["next_attempt"] == 3 and pending["next_attempt_at"] == rows[1]["next_attempt_at"]
    wait = (rows[1]["next_attempt_at"] - rows[1]["started_at"]).total_seconds()
    assert 120 <= wait <= 132 + WRITTEN_S
    assert [(line["sig_netrecon"], line["attempt"]) for line in (first, second)] == [("good", 1), ("good", 2)]


# ---- workers that die, hang or have a wrong clock ----


@pytest.mark.slow
def test_worker_killed_with_leases(killed):
    """The other worker makes the attempt after the lease, and it is the same attempt."""
    stack, sink, hook = killed.stack, killed.sink, killed.hook
    await_no_pending(stack, [hook], LEASE_MARGIN_S + 20)
    again = [line for line in sink.ledger("/killed", attempt=2) if line["answer"] == 200]
    waits = [(when(line) - killed.leases[line["delivery_id"]]).total_seconds() for line in again]
    print(f"\nafter the end of the lease: {[f'{wait:+.3f} s' for wait in waits]}")
    assert len(again) == 6 and all(-attempts.TICK_S <= wait <= 1 + LATE_S for wait in waits)
    for event in killed.events:
        assert [(row["attempt"], row["outcome"]) for row in hook.attempts(event)] == [(1, "failed"), (2, "delivered")]
    attempts.check(stack, sink, killed.topic, [hook], killed.events, repeats_max=6, what="killed with leases")


@pytest.mark.slow
def test_stopped_worker_wakes_with_stale_leases_and_sends_nothing_twice(stopped):
    """It wakes at the worst moment: another one has just begun the attempts whose leases it still thinks it has."""
    stack, sink, hooks = stopped.stack, stopped.sink, stopped.hooks
    first, = stopped.workers
    sent = len(sink.ledger(attempt=2))
    assert sent == len(hooks)
    over = max(stopped.leases.values())
    await_condition(lambda: stack.query("select now() > %s", over)[0][0], LEASE_MARGIN_S + 20, "the leases are over")
    sink.set("*", "delay=2500ms")
    stopped.worker(ready=False, group=first.group, **stopped.settings)
    sink.wait(sent + len(hooks), timeout=30, attempt=2)
    first.sigcont()
    await_condition(lambda: first.metrics()["nrw_deliveries_open"] == 0, 30, lambda: f"it has let go of everything\n{first.tail()}")
    await_no_pending(stack, hooks, 60)
    twice = [delivery for delivery, lines in attempts.by_delivery(sink).items() if len(lines) > 2]
    # What it had sent before it was stopped is unknown to everybody, so it must be sent again; what it had only queued must not.
    assert set(twice) <= stopped.seen, f"sent twice: {sorted(set(twice) - stopped.seen)}; the worker's log:\n{first.tail(40)}"
    assert all(when(line) >= stopped.leases[line["delivery_id"]] - dt.timedelta(seconds=attempts.TICK_S)
               for line in sink.ledger(attempt=2)[sent:])
    attempts.check(stack, sink, stopped.topic, hooks, stopped.events, duplicates_max=len(stopped.seen), repeats_max=len(stopped.seen),
                   what="stopped with leases")


@pytest.mark.slow  # preloads a library, which a sanitized worker does not take
def test_worker_clock_does_not_matter(stack, topic, tenant, subscribe, sink, producer, start_worker, monkeypatch, tmp_path):
    library = clock.build(tmp_path)
    if library is None:
        pytest.skip("needs a C compiler")
    webhook, = subscribe(1, "fail_first=2")
    group = None
    workers = []
    for offset in (3600, -3600):
        with monkeypatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(library))
            patch.setenv("CLOCK_OFFSET_S", str(offset))
            worker = start_worker(group=group, ready=False, retry_delays=delays(1, 1.5))
        workers.append(worker)
        group = worker.group
    for worker in workers:
        worker.ready()
    for worker, offset in zip(workers, (1, -1)):
        wrong = dt.datetime.fromisoformat(worker.log_lines("worker.started")[0]["time"].replace("Z", "+00:00"))
        ahead = (wrong - dt.datetime.now(dt.timezone.utc)).total_seconds()
        assert abs(ahead - offset * 3600) < 120, "this worker's clock is right: the test would prove nothing"
    acked = producer.many(tenant.id, 40)
    await_condition(lambda: len(sink.ledger(answer=200)) == len(acked), 20, "all are delivered")
    await_no_pending(stack, [webhook])
    for lines in attempts.by_delivery(sink).values():
        for before, line, delay in zip(lines, lines[1:], (1, 1.5)):
            wait = (when(line) - when(before)).total_seconds()
            assert delay <= wait <= delay * (1 + attempts.JITTER) + WRITTEN_S + LATE_S, f"attempt {line['attempt']} came after {wait} s"
    assert all(worker.metric("nrw_retries_loaded_total") > 0 for worker in workers), "only one of them had retries"
    attempts.check(stack, sink, topic, [webhook], acked, what="clocks an hour off")


# ---- Redis ----


@pytest.mark.slow
def test_flushall_and_kill_of_redis_lose_no_retry(stack, topic, tenant, subscribe, sink, start_worker):
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(2**32)))
    print(f"\nFAULT_SEED={seed}")
    dice = random.Random(seed)
    webhooks = subscribe(3, "fail_first=3")
    settings = {"retry_delays": delays(0.8, 1.2, 1.6), "retry_reconcile": f"{RECONCILE_S}s"}
    workers = [start_worker(**settings)]
    workers.append(start_worker(group=workers[0].group, **settings))
    events = 400
    producing = ProduceTool(topic, tenant.id, *SPREAD, count=events, rate=60)
    total = events * len(webhooks) * 4
    faults = ["flush"] * 4 + ["kill"] * 2 + ["forget"] * 2
    dice.shuffle(faults)
    for moment, fault in zip(sorted(dice.sample(range(total // 20, total * 9 // 10), len(faults))), faults):
        await_condition(lambda moment=moment: sink.stats()["requests"] >= moment, 90, f"{moment} requests")
        if fault == "kill":
            stack.redis_kill()
            stack.redis_start()
            continue
        with redis.Redis.from_url(stack.exports["NRW_REDIS_URL"]) as client:
            if fault == "flush":
                client.flushall()
            else:  # and nothing tells that it happened: the rows have to be looked for
                client.delete("{nrw}:due", "{nrw}:leased")
    acked = producing.wait()
    await_condition(lambda: sink.stats()["requests"] >= total, LATE_MAX_S + 30, lambda: f"{total} requests; {sink.stats()['requests']}")
    topic.await_settled(workers[0].group)
    await_no_pending(stack, webhooks)
    late = attempts.lateness(stack, sink, webhooks)
    rebuilds = sum(worker.metric("nrw_schedule_rebuilds_total") for worker in workers)
    print(f"{faults}: {rebuilds:.0f} rebuilds, {sum(worker.metric('nrw_retries_swept_total') for worker in workers):.0f} swept; {late}")
    # The default setting is within the promise (test_config); this one is that much faster, and a killed Redis has to start again.
    assert 1.6 * RECONCILE_S + 3 * LATE_S < LATE_MAX_S
    in_time(max(late.late) <= 1.6 * RECONCILE_S + 3 * LATE_S, str(late))
    assert rebuilds >= 1
    attempts.check(stack, sink, topic, webhooks, acked, what="Redis wiped and killed")


def test_members_that_vanish_from_redis_are_found(stack, topic, tenant, subscribe, sink, producer, start_worker):
    """Nothing tells that they are gone: the epoch is there, the server has not restarted."""
    webhook, = subscribe(1, "fail_first=1")
    worker = start_worker(retry_delays=delays(6), retry_reconcile=f"{RECONCILE_S}s")
    await_condition(lambda: worker.metric("nrw_redis_up") == 1, 20, "Redis is used")
    with redis.Redis.from_url(stack.exports["NRW_REDIS_URL"]) as client:
        acked = producer.many(tenant.id, 50)
        await_condition(lambda: client.zcard("{nrw}:due") >= len(acked), 6, "the retries wait in Redis")
        client.delete("{nrw}:due")
        rebuilds = worker.metric("nrw_schedule_rebuilds_total")
    await_condition(lambda: len(sink.ledger(answer=200)) == len(acked), 1.6 * RECONCILE_S + 20, "all are delivered")
    await_no_pending(stack, [webhook])
    assert worker.metric("nrw_schedule_reconciled_total") > 0 and worker.metric("nrw_schedule_rebuilds_total") == rebuilds
    in_time(max(attempts.lateness(stack, sink, [webhook]).late) <= 1.6 * RECONCILE_S + 2 * LATE_S)
    attempts.check(stack, sink, topic, [webhook], acked, what="vanished from Redis")


@pytest.mark.slow
def test_redis_absent(stack, topic, tenant, subscribe, sink, start_worker, tmp_path):
    """From the start of the worker until after the last retry: first attempts are as quick as with Redis, retries a moment late."""
    failing = subscribe(2, "fail_first=2")
    fast = Sink(tmp_path / "fast", "--latency", ledger=False)
    tenant.webhook(fast.url("/fast"))
    with contextlib.ExitStack() as at_end:
        at_end.callback(fast.close)
        at_end.enter_context(services_first(stack))
        stack.redis_stop()
        worker = start_worker(retry_delays=delays(1))
        raise_priority(worker.pid, fast.process.pid)
        acked = ProduceTool(topic, tenant.id, *SPREAD, count=800, rate=100, first=True).wait()
        topic.await_settled(worker.group)
        await_no_pending(stack, failing)
        assert worker.metric("nrw_redis_up") == 0
        absent = fast.stats()["latency_us"]
        late = attempts.lateness(stack, sink, failing)
        swept = worker.metric("nrw_retries_swept_total")
        print(f"\nwithout Redis: first attempts p50 {absent['p50'] / 1000:.1f} ms, p99 {absent['p99'] / 1000:.1f} ms; {late}; {swept:.0f} swept")
        assert swept > 0
        in_time(max(late.late) <= SWEPT_S, str(late))
        stack.redis_start()
        await_condition(lambda: worker.metric("nrw_redis_up") == 1, 20, "Redis is back")
        fast.reset_counters()
        acked += ProduceTool(topic, tenant.id, *SPREAD, count=400, rate=100, first=True).wait()
        topic.await_settled(worker.group)
        await_no_pending(stack, failing)
        present = fast.stats()["latency_us"]
        print(f"with Redis: first attempts p50 {present['p50'] / 1000:.1f} ms, p99 {present['p99'] / 1000:.1f} ms")
        # What was due in a second is swept together, and new events share the processor with it.
        in_time(absent["p99"] <= (2 * present["p99"] + 100_000) * PATIENCE)
        assert fast.stats()["requests"] == 400 and worker.metric("nrw_schedule_claimed_total") > 0
        attempts.check(stack, sink, topic, failing, acked, what="Redis absent")


@pytest.mark.slow
def test_redis_absent_for_3_minutes(absent):
    stack, worker, failing, quick = absent.stack, absent.lone, absent.failing, absent.quick
    hold(max(0.0, absent.until - time.monotonic()), lambda: worker.metric("nrw_redis_up") == 0, "there is no Redis")
    acked = absent.load.wait()
    absent.topic.await_settled(worker.group)
    await_no_pending(stack, [failing, quick])
    assert worker.metric("nrw_redis_up") == 0 and worker.metric("nrw_retries_swept_total") > 0
    late = attempts.lateness(stack, absent.sink, [failing])
    waits = sorted(row[0] for row in stack.query(
        "select extract(epoch from started_at - received_at)::float from attempts where webhook_id = %s", quick.id))
    print(f"\n{ABSENT_S:.0f} s without Redis: {len(waits)} first attempts after p50 {1000 * waits[len(waits) // 2]:.1f} ms, "
          f"p99 {1000 * waits[len(waits) * 99 // 100]:.1f} ms; {late}")
    assert len(waits) == len(acked)
    in_time(waits[len(waits) * 99 // 100] <= 1 * PATIENCE)
    in_time(max(late.late) <= SWEPT_S, str(late))
    absent.redis_at(absent.port)
    await_condition(lambda: worker.metric("nrw_redis_up") == 1, 20, "Redis is there")
    acked += absent.producer.many(absent.tenant.id, 20)
    await_condition(lambda: len(absent.sink.ledger("/fails-twice", answer=200)) == len(acked), 20, "all are delivered")
    await_no_pending(stack, [failing, quick])
    assert worker.metric("nrw_schedule_claimed_total") > 0, "the index is not used"
    attempts.check(stack, absent.sink, absent.topic, [failing, quick], acked, what="Redis absent, then there")
