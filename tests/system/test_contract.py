"""What producers, customers and operators are promised, on the real stack: the page's contract and that of the Kafka topic."""

import base64
import datetime as dt
import fnmatch
import hashlib
import hmac
import json
import re
import shutil
import socket
import subprocess
import time
import uuid

import pytest
from support.paths import ROOT
from support.produce import envelope, new_id
from support.sink import Sink
from support.tenant import seal
from support.wait import await_condition
from support.worker import run_worker

UTC = dt.timezone.utc
KIB = 1024
EVENT_BYTES_MAX = 256 * KIB
TYPES = ("alert.created", "alert.resolved", "scan.started", "scan.completed", "scan.failed", "device.discovered", "device.offline",
         "ids.alert", "honeypot.hit", "rogue.detected", "cve.matched", "backup.completed", "backup.failed", "anomaly.detected")
# One of each kind: shown by us (whsec_…), typed by the customer, typed in another script.
SECRETS = {"whsec": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "plain": "your-hmac-secret", "unicode": "geheim-ключ-密钥-🔑"}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def sink(tmp_path):
    sink = Sink(tmp_path / "sink", store_bodies=True)
    yield sink
    sink.close()


def settle(worker):
    """Until the worker has nothing in hand; what was acknowledged before must have been taken in already."""
    await_condition(lambda: worker.metric("nrw_events_open") == 0, 20, "every event is settled")


def kept_secrets(sink, line_of):
    """What a receiver has in its hands, for the verification examples: one case per kind of secret."""
    cases = []
    for kind, secret in SECRETS.items():
        line = line_of[kind]
        cases.append({"kind": kind, "secret": secret, "headers": sink.headers_of(line),
                      "body": base64.b64encode(sink.body_of(line)).decode()})
    return cases


@pytest.fixture
def received(sink, tenant, producer, worker):
    """One delivered event per kind of secret, as the receiver got it."""
    for kind, secret in SECRETS.items():
        tenant.webhook(sink.url("/" + kind), secret=secret)
    producer.one(envelope(tenant.id, data={"title": "naïve \u2028 😀", "spaces": " a  b "}))
    return kept_secrets(sink, {kind: sink.wait(1, "/" + kind)[0] for kind in SECRETS})


# ---- signatures: the page's examples and the reference libraries ----

# Verbatim from the product page, which shows them without the indentation that Python needs.
PAGE_PYTHON = '''
import hmac
import hashlib
def verify_webhook(payload: bytes, signature: str, secret: str) -> bool:
    expected = "sha256=" + hmac.new(
        secret.encode(), payload, hashlib.sha256
    ).hexdigest()
    return hmac.compare_digest(expected, signature)
'''
PAGE_NODE = '''
const crypto = require('crypto');
function verifyWebhook(payload, signature, secret) {
const expected = 'sha256=' + crypto
.createHmac('sha256', secret)
.update(payload)
.digest('hex');
return crypto.timingSafeEqual(Buffer.from(expected), Buffer.from(signature));
}
'''
# Around each: every case once as received and once with one bit of the body changed.
RUN_PYTHON = '''
import base64, json, sys
for case in json.load(sys.stdin):
    body = base64.b64decode(case["body"])
    signature = case["headers"]["x-netrecon-signature"]
    changed = bytes([body[0] ^ 1]) + body[1:]
    print(case["kind"], verify_webhook(body, signature, case["secret"]), verify_webhook(changed, signature, case["secret"]))
'''
RUN_NODE = '''
for (const c of JSON.parse(require('fs').readFileSync(0))) {
  const body = Buffer.from(c.body, 'base64'), changed = Buffer.from(body), signature = c.headers['x-netrecon-signature'];
  changed[0] ^= 1;
  console.log(c.kind, verifyWebhook(body, signature, c.secret) ? 'True' : 'False', verifyWebhook(changed, signature, c.secret) ? 'True' : 'False');
}
'''
# A secret that is not whsec_… is the key itself; the reference libraries want it in base64.
LIBRARY_PYTHON = '''
import base64, json, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
for case in json.load(sys.stdin):
    secret = case["secret"]
    hook = Webhook(secret if secret.startswith("whsec_") else base64.b64encode(secret.encode()).decode())
    body = base64.b64decode(case["body"])
    def verified(data):
        try:
            hook.verify(data, case["headers"])
            return True
        except WebhookVerificationError:
            return False
    print(case["kind"], verified(body), verified(body.replace(b"title", b"titel")))
'''
LIBRARY_NODE = '''
const { Webhook } = require('standardwebhooks');
for (const c of JSON.parse(require('fs').readFileSync(0))) {
  const hook = new Webhook(c.secret.startsWith('whsec_') ? c.secret : Buffer.from(c.secret, 'utf8').toString('base64'));
  const body = Buffer.from(c.body, 'base64').toString('utf8');
  const verified = (data) => { try { hook.verify(data, c.headers); return 'True'; } catch (e) { return 'False'; } };
  console.log(c.kind, verified(body), verified(body.replace('title', 'titel')));
}
'''
VERIFIED = "".join(f"{kind} True False\n" for kind in SECRETS)


def run_program(command, program, cases, folder, suffix):
    source = folder / f"verify.{suffix}"
    source.write_text(program)
    done = subprocess.run([*command, str(source)], input=json.dumps(cases), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("language", ["python", "node"])
def test_page_examples_verify_what_the_receiver_got(request, language, tmp_path):
    if language == "node" and not shutil.which("node"):
        pytest.skip("Node.js is not installed")
    cases = request.getfixturevalue("received")
    if language == "python":
        said = run_program(["python3"], PAGE_PYTHON + RUN_PYTHON, cases, tmp_path, "py")
    else:
        said = run_program(["node"], PAGE_NODE + RUN_NODE, cases, tmp_path, "cjs")
    assert said == VERIFIED


@pytest.mark.parametrize("language", ["python", "node"])
def test_standardwebhooks_libraries_verify(request, language, tmp_path):
    if language == "python":
        command = [ROOT / ".build" / "venv" / "bin" / "python"]
        where, program, suffix = command[0], LIBRARY_PYTHON, "py"
    else:
        where = ROOT / ".build" / "npm" / "node_modules" / "standardwebhooks"
        command = ["env", f"NODE_PATH={where.parent}", "node"]
        program, suffix = LIBRARY_NODE, "cjs"
    if not where.exists():
        pytest.skip(f"{where.relative_to(ROOT)} is missing: tests/run makes it when the package registry can be reached")
    assert run_program(command, program, request.getfixturevalue("received"), tmp_path, suffix) == VERIFIED


# ---- the request ----


def test_headers_are_as_promised(sink, tenant, producer, worker):
    hook = tenant.webhook(sink.url("/h", "a=1&b=%20"), secret=SECRETS["plain"])
    before = int(time.time())
    event = envelope(tenant.id, "scan.completed")
    producer.one(event)
    line = sink.wait(1)[0]
    body = sink.body_of(line)
    headers = sink.headers_of(line)
    version = run_worker("--version", environment={}).stdout.split()[1]
    timestamp = headers["webhook-timestamp"]
    standard = hmac.new(SECRETS["plain"].encode(), f"{event['id']}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    assert before <= int(timestamp) <= time.time()
    assert headers == {
        "host": sink.address, "content-length": str(len(body)), "content-type": "application/json",
        "user-agent": f"NetRecon-Webhooks/{version}",
        "x-netrecon-event": "scan.completed", "x-netrecon-delivery": str(hook.delivery_id(event["id"])), "x-netrecon-attempt": "1",
        "x-netrecon-signature": "sha256=" + hmac.new(SECRETS["plain"].encode(), body, hashlib.sha256).hexdigest(),
        "webhook-id": event["id"], "webhook-timestamp": timestamp, "webhook-signature": "v1," + base64.b64encode(standard).decode(),
    }
    assert (line["method"], line["path"], line["query"]) == ("POST", "/h", "a=1&b=%20")


def large(tenant_id, size):
    """A valid event of exactly so many bytes."""
    body = json.dumps(envelope(tenant_id, data={"padding": ""})).encode()
    return body[:-3] + b"p" * (size - len(body)) + body[-3:]


def text(tenant_id, template):
    """A body written by hand: %(id)s and %(tenant)s are filled in, the rest stays as it is."""
    return template.replace("%(id)s", new_id()).replace("%(tenant)s", str(tenant_id)).encode()


MEMBERS = '"id":"%(id)s","event":"alert.created","timestamp":"2026-03-15T10:30:00Z","tenant_id":"%(tenant)s"'
BODIES = {
    "unusual spacing": lambda t: text(t, '\r\n\t {  "id" :"%(id)s"\n,\t"event": "alert.created" ,"timestamp":"2026-03-15T10:30:00Z","tenant_id"\r:\n'
                                         '"%(tenant)s","data" : {\n}\t}\n\n'),
    "key order and further members": lambda t: text(t, '{"zz":null,"data":{"b":1,"a":[true,false]},"tenant_id":"%(tenant)s","_":{"x":[]},'
                                                       '"timestamp":"2026-03-15T12:30:00.123456+02:00","event":"alert.created","id":"%(id)s"}'),
    "unicode escapes": lambda t: text(t, '{' + MEMBERS + r',"data":{"a":"\u00e9\ud83d\uDE00\u0000\/\b\f\"\\","\u0061b":"\u003c"}}'),
    "4-byte utf-8": lambda t: text(t, '{' + MEMBERS + ',"data":{"😀🗝":"𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff \u2028\u2029\u007f"}}'),
    "40-digit numbers": lambda t: text(t, '{' + MEMBERS + ',"data":{"n":' + "1234567890" * 4 + ',"m":-' + "9" * 40 +
                                          ',"f":0.' + "1" * 40 + ',"e":1E+2,"z":-0,"y":1.0000e-0}}'),
    "nesting 1000 deep": lambda t: text(t, '{' + MEMBERS + ',"data":{"d":' + "[" * 1000 + "]" * 1000 + "}}"),
    "exactly 256 KiB": lambda t: large(t, EVENT_BYTES_MAX),
}


@pytest.mark.parametrize("name", BODIES)
def test_bytes_received_are_the_bytes_produced(name, stack, sink, tenant, producer, worker):
    tenant.webhook(sink.url("/b"), secret=SECRETS["plain"])
    sink.secret("/b", SECRETS["plain"])
    body = BODIES[name](tenant.id)
    event_id = re.search(rb'"id" ?: ?"([0-9a-f-]{36})"', body).group(1).decode()
    producer.one(body, event_id=event_id, key=str(tenant.id))
    line = sink.wait(1, "/b", timeout=10)[0]
    assert sink.body_of(line) == body
    assert (line["event_id"], line["sig_netrecon"], line["sig_standard"]) == (event_id, "good", "good")
    settle(worker)
    assert stack.query("select payload from events where id = %s", event_id) == [(body,)]


def without(event, name):
    return {key: value for key, value in event.items() if key != name}


def bad_messages(tenant_id):
    """name: (bytes, the promised reason)."""
    good = envelope(tenant_id)
    found = {
        "256 KiB + 1": (large(tenant_id, EVENT_BYTES_MAX + 1), "too_large"),
        "1 MiB": (large(tenant_id, KIB * KIB), "too_large"),
        "invalid utf-8": (json.dumps(good).encode().replace(b"high", b"hi\xff\xfe"), "not_json"),
        "truncated": (json.dumps(good).encode()[:-7], "not_json"),
        "something after the end": (json.dumps(good).encode() + b"}", "not_json"),
        "a member twice": (json.dumps(good).encode()[:-1] + b',"event":"scan.failed"}', "not_json"),
        "a member of data twice": (text(tenant_id, '{' + MEMBERS + ',"data":{"a":1,"a":2}}'), "not_json"),
        "not an object": (b"[1]", "bad_member"),
        "blanks only": (b"   ", "not_json"),
        "no value": (None, "empty"),
        "empty value": (b"", "empty"),
        "id is no uuid": (json.dumps({**good, "id": "42"}).encode(), "bad_member"),
        "id is a number": (json.dumps({**good, "id": 42}).encode(), "bad_member"),
        "event has capitals": (json.dumps({**good, "event": "Alert.Created"}).encode(), "bad_member"),
        "event has no dot": (json.dumps({**good, "event": "alert"}).encode(), "bad_member"),
        "timestamp is a number": (json.dumps({**good, "timestamp": 1780000000}).encode(), "bad_member"),
        "timestamp is no time": (json.dumps({**good, "timestamp": "2026-02-30T10:30:00Z"}).encode(), "bad_member"),
        "tenant_id is null": (json.dumps({**good, "tenant_id": None}).encode(), "bad_member"),
        "data is a text": (json.dumps({**good, "data": "x"}).encode(), "bad_member"),
        "data is an array": (json.dumps({**good, "data": []}).encode(), "bad_member"),
    }
    found.update({f"no {name}": (json.dumps(without(good, name)).encode(), "bad_member") for name in good})
    return found


def test_bad_messages_go_to_the_dead_letter_topic_intact_and_the_next_event_flows(sink, topic, tenant, producer, worker):
    tenant.webhook(sink.url("/next"))
    cases = bad_messages(tenant.id)
    keys = [str(tenant.id).encode(), b"\x00\xffkey", None]
    expected = {}
    for i, (name, (value, reason)) in enumerate(cases.items()):
        key = keys[i % len(keys)]
        # Each is followed by a good event on the same partition, which must arrive.
        producer.send(value, key=key, partition=0, timestamp_ms=1780000000000 + i)
        producer.send(envelope(tenant.id), partition=0)
        expected[2 * i] = (name, value, key, reason, 1780000000000 + i)
    producer.flush()
    sink.wait(len(cases), "/next")
    topic.await_settled(worker.group)
    letters = {int(letter.header("offset")): letter for letter in topic.read_dlq()}
    assert sorted(letters) == sorted(expected)
    for offset, (name, value, key, reason, timestamp) in expected.items():
        letter = letters[offset]
        assert (letter.value or None) == (value or None) and letter.key == key, f"{name}: bytes and key"
        assert (letter.header("reason"), letter.header("topic"), letter.header("partition")) == (reason, topic.name, "0"), name
        assert letter.header("error") and letter.timestamp_ms == timestamp, name
    assert len(sink.ledger()) == len(cases)
    assert worker.metric("nrw_rejected_total") == worker.metric("nrw_dead_letters_total") == len(cases)


def test_unknown_event_type_reaches_only_star_subscribers(sink, tenant, producer, worker):
    subscriptions = {"/star": ["*"], "/alerts": ["alert.*"], "/named": ["alert.escalated"], "/created": ["alert.created"],
                     "/both": ["alert.created", "*"]}
    for path, events in subscriptions.items():
        tenant.webhook(sink.url(path), events)
    unknown = producer.one(envelope(tenant.id, "alert.escalated"))
    known = producer.one(envelope(tenant.id, "alert.created"))
    sink.wait(4, event_id=known)
    settle(worker)
    assert sorted(line["path"] for line in sink.ledger(event_id=unknown)) == ["/both", "/star"]
    assert sorted(line["path"] for line in sink.ledger(event_id=known)) == ["/alerts", "/both", "/created", "/star"]
    assert sink.ledger("/star", event_id=unknown)[0]["event"] == "alert.escalated"


def test_each_subscription_gets_exactly_its_events(stack, sink, tenant, producer, worker):
    subscriptions = [["*"], ["alert.*"], ["scan.*"], ["device.*"], ["backup.*"], ["ids.*", "honeypot.*"], ["nothing.*"],
                     ["alert.created", "scan.completed", "device.discovered"], ["cve.matched", "cve.matched"], *([name] for name in TYPES)]
    hooks = {f"/{i}": tenant.webhook(sink.url(f"/{i}"), events) for i, events in enumerate(subscriptions)}
    ids = {producer.send(envelope(tenant.id, name)): name for name in TYPES}
    producer.flush()
    expected = sorted((path, name) for path, events in zip(hooks, subscriptions) for name in TYPES
                      if any(fnmatch.fnmatchcase(name, pattern) for pattern in events))
    sink.wait(len(expected))
    settle(worker)
    assert sorted((line["path"], line["event"]) for line in sink.ledger()) == expected
    assert all(ids[line["event_id"]] == line["event"] for line in sink.ledger())
    logged = stack.query("select webhook_id, event_type from attempts where tenant_id = %s and outcome = 'delivered'", tenant.id)
    assert sorted(logged) == sorted((hooks[path].id, name) for path, name in expected)


def test_rotation_signs_with_both_secrets_until_the_window_ends(sink, tenant, producer, worker):
    def standard(secret, headers, body):
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
        return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()

    def netrecon(secret, body):
        return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()

    def next_request():
        event_id = producer.one(envelope(tenant.id))
        line = sink.wait(1, event_id=event_id)[0]
        return sink.headers_of(line), sink.body_of(line)

    until = dt.datetime.now(UTC) + dt.timedelta(seconds=4)
    new, old = SECRETS["whsec"], SECRETS["plain"]
    tenant.webhook(sink.url("/r"), secret=new, previous_secret=old, previous_until=until)
    headers, body = next_request()
    assert dt.datetime.now(UTC) < until, "too slow to see the window"
    assert headers["x-netrecon-signature"] == netrecon(new, body)
    assert headers["x-netrecon-signature-previous"] == netrecon(old, body)
    assert headers["webhook-signature"] == standard(new, headers, body) + " " + standard(old, headers, body)
    # The webhook stays in the worker's memory: the end must be seen without any change of the row.
    await_condition(lambda: dt.datetime.now(UTC) > until, 10, "the window has ended")
    headers, body = next_request()
    assert headers["x-netrecon-signature"] == netrecon(new, body)
    assert headers["webhook-signature"] == standard(new, headers, body)
    assert "x-netrecon-signature-previous" not in headers


def test_traceparent_is_passed_on(stack, sink, tenant, producer, worker):
    tenant.webhook(sink.url("/t"))
    wanted = {
        producer.one(envelope(tenant.id), headers=[("traceparent", TRACEPARENT.encode()), ("x-other", b"no")]): TRACEPARENT,
        producer.one(envelope(tenant.id)): None,
        producer.one(envelope(tenant.id), headers=[("traceparent", b"00-x\r\nEvil: 1")]): None,
        producer.one(envelope(tenant.id), headers=[("traceparent", TRACEPARENT.upper().encode())]): None,
    }
    lines = sink.wait(len(wanted), "/t")
    assert {line["event_id"]: line["traceparent"] for line in lines} == wanted
    assert all(set(sink.headers_of(line)).isdisjoint({"x-other", "evil"}) for line in lines)
    settle(worker)
    rows = stack.query("select id::text, traceparent from events where tenant_id = %s", tenant.id)
    assert dict(rows) == wanted


# ---- failed attempts ----


def refused_url():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}/refused"


# path: (behaviour, status code in the log or None, words of its error, seconds until the next attempt or None)
FAILURES = {
    "/500": ("status=500", 500, "500", 30),
    "/404": ("status=404", 404, "404", 30),
    "/timeout": ("hang", None, "no answer within 700 ms", 30),
    "/stall": ("stall", 200, "not complete", 30),
    "/refused": (None, None, "refused", 30),
    "/reset": ("reset", None, "reset", 30),
    "/301": ("status=301&redirect=", 301, "redirects are not followed", 30),
    "/302": ("redirect=", 302, "redirects are not followed", 30),
    "/429": ("retry_after=90&status=429", 429, "429", 90),
    "/429-early": ("retry_after=3&status=429", 429, "429", 30),
    "/503-late": ("retry_after=86400", 503, "503", 3600),
    "/500-after": ("retry_after=90&status=500", 500, "500", 30),
    "/410": ("gone", 410, "410", None),
}


def test_failed_attempt_is_logged_and_pending_at_its_time(sink, topic, tenant, producer, start_worker):
    worker = start_worker(send_timeout="700ms")
    hooks = {}
    for path, (behaviour, *_) in FAILURES.items():
        if behaviour and behaviour.endswith("redirect="):
            behaviour += sink.url("/target").replace(":", "%3A")
        hooks[path] = tenant.webhook(sink.url(path, behaviour) if behaviour else refused_url())
    event_id = producer.one(envelope(tenant.id))
    topic.await_settled(worker.group)
    for path, (_, status, words, delay) in FAILURES.items():
        hook = hooks[path]
        attempts, pending = hook.attempts(), hook.pending()
        assert len(attempts) == 1, f"{path}: {attempts}"
        row = attempts[0]
        assert (row["attempt"], row["status_code"]) == (1, status), path
        assert (str(row["event_id"]), row["delivery_id"]) == (event_id, hook.delivery_id(event_id)), path
        assert row["error"] and words in row["error"], f"{path}: {row['error']}"
        assert 0 <= row["response_time_ms"] < 2000, path
        if delay is None:
            assert (row["outcome"], row["next_attempt_at"], pending) == ("gone", None, []), path
            continue
        assert row["outcome"] == "failed" and len(pending) == 1, f"{path}: {row} {pending}"
        due = pending[0]
        assert (due["next_attempt"], due["final_attempt"], due["reason"]) == (2, 5, "retry"), path
        assert due["delivery_id"] == row["delivery_id"] and due["next_attempt_at"] == row["next_attempt_at"], path
        # From the end of the attempt; the log has whole milliseconds.
        ended = row["started_at"] + dt.timedelta(milliseconds=row["response_time_ms"])
        after = (due["next_attempt_at"] - ended).total_seconds()
        assert delay - 0.002 <= after <= delay * 1.1 + 0.1, f"{path}: {after} s"
    assert not sink.ledger("/target")
    assert max(row["response_time_ms"] for row in hooks["/timeout"].attempts()) >= 700


# ---- changes of webhooks ----


def seconds_until_effective(change, expected, sink, tenant, producer, worker):
    """Events one after the other; how long after the change (committed) the first was produced that went exactly to `expected`."""
    change()
    start = time.monotonic()
    taken = [None]

    def as_expected():
        taken[0] = time.monotonic() - start
        event_id = producer.one(envelope(tenant.id))
        sink.wait(1, "/always", event_id=event_id)
        settle(worker)
        return sorted(line["path"] for line in sink.ledger(event_id=event_id)) == sorted(["/always", *expected])

    await_condition(as_expected, 10, f"events go to {expected}")
    return taken[0]


def test_change_of_a_webhook_is_effective_within_a_second(sink, tenant, producer, start_worker):
    worker = start_worker(subscriptions_poll="5m")
    tenant.webhook(sink.url("/always"))
    hook = tenant.webhook(sink.url("/first"))
    more = []
    steps = [
        ("as it was", lambda: None, ["/first"]),
        ("paused", lambda: hook.update(active=False), []),
        ("active", lambda: hook.update(active=True), ["/first"]),
        ("url", lambda: hook.update(url=sink.url("/second")), ["/second"]),
        ("other events", lambda: hook.update(events=["scan.failed"]), []),
        ("events", lambda: hook.update(events=["scan.failed", "alert.*"]), ["/second"]),
        ("new", lambda: more.append(tenant.webhook(sink.url("/new"))), ["/new", "/second"]),
        ("disabled", lambda: hook.update(status="disabled"), ["/new"]),
        ("deleted", lambda: more[0].delete(), []),
    ]
    for name, change, expected in steps:
        assert seconds_until_effective(change, expected, sink, tenant, producer, worker) < 1, name
    assert worker.metric("nrw_notifications_total") >= len(steps) - 1
    assert worker.metric("nrw_notifications_missed_total") == 0


def test_lost_notification_is_found_by_the_poll(stack, sink, tenant, producer, start_worker):
    worker = start_worker(subscriptions_poll="1s")
    tenant.webhook(sink.url("/always"))
    hook = tenant.webhook(sink.url("/first"))
    seconds_until_effective(lambda: None, ["/first"], sink, tenant, producer, worker)
    told = worker.metric("nrw_notifications_total")

    def change_without_a_word():
        with stack.connect() as connection, connection.transaction():
            connection.execute("alter table webhooks disable trigger webhooks_notify_update")
            connection.execute("update webhooks set url = %s where id = %s", (sink.url("/second"), hook.id))
            connection.execute("alter table webhooks enable trigger webhooks_notify_update")

    assert seconds_until_effective(change_without_a_word, ["/second"], sink, tenant, producer, worker) < 3
    assert worker.metric("nrw_notifications_missed_total") >= 1
    assert worker.metric("nrw_notifications_total") == told


# ---- secrets ----


def disguises(secret: bytes):
    return {secret, base64.b64encode(secret), base64.b64encode(secret).rstrip(b"="), secret.hex().encode(), secret.hex().upper().encode()}


def test_secret_never_appears_in_logs_or_metrics(stack, sink, tenant, producer, start_worker):
    worker = start_worker(log_level="debug")
    marks = {name: f"{name}-{uuid.uuid4().hex}" for name in ("plain", "query", "payload", "previous")}
    whsec_key = uuid.uuid4().bytes + uuid.uuid4().bytes
    whsec = "whsec_" + base64.b64encode(whsec_key).decode()
    later = dt.datetime.now(UTC) + dt.timedelta(hours=1)
    tenant.webhook(sink.url("/ok", "token=" + marks["query"]), secret=marks["plain"], previous_secret=marks["previous"], previous_until=later)
    tenant.webhook(sink.url("/bad", "status=500&token=" + marks["query"]), secret=whsec)
    tenant.webhook(refused_url() + "?token=" + marks["query"], secret=whsec)
    tenant.webhook("ftp://user:" + marks["plain"] + "@127.0.0.1/?" + marks["query"], secret=whsec)
    unsealed = tenant.webhook(sink.url("/unsealed"))
    unsealed.update(secret=marks["plain"].encode())
    producer.one(envelope(tenant.id, data={"text": marks["payload"]}))
    producer.one(json.dumps(envelope(tenant.id, data={"text": marks["payload"]})).encode()[:-2], key=marks["payload"])
    sink.wait(1, "/ok")
    sink.wait(1, "/bad")
    worker.wait_log("intake.rejected")
    settle(worker)
    metrics = worker.get("/metrics").content
    worker.stop()
    shown = run_worker("--print-config", environment=worker.environment)
    said = worker.log_path.read_bytes() + worker.stderr_path.read_bytes() + metrics + (shown.stdout + shown.stderr).encode()
    assert b'"delivery.step"' in said and b"NRW_KEYRING=******" in said, "the log is on, the configuration was shown"
    keys = (stack.folder / "secrets" / "keyring").read_text().split(":", 1)[1].split(",")[0]
    password = stack.database_url.split(":")[2].split("@")[0]
    hidden = [*(mark.encode() for mark in marks.values()), whsec.encode(), whsec_key, base64.b64decode(keys), password.encode()]
    found = [form for secret in hidden for form in disguises(secret) if form in said]
    assert not found


def test_sealed_secret_of_another_row_is_not_used(stack, sink, topic, tenant, producer, worker):
    good = tenant.webhook(sink.url("/good"), secret=SECRETS["plain"])
    copied = tenant.webhook(sink.url("/copied"))
    copied.update(secret=seal(stack, good.id, tenant.id, SECRETS["plain"]))
    before = dt.datetime.now(UTC)
    event_id = producer.one(envelope(tenant.id))
    sink.wait(1, "/good")
    topic.await_settled(worker.group)
    assert not sink.ledger("/copied")
    assert copied.attempts() == [] and len(good.attempts()) == 1
    pending = copied.pending()
    assert [(str(row["event_id"]), row["reason"], row["next_attempt"]) for row in pending] == [(event_id, "spill", 1)]
    assert 10 <= (pending[0]["next_attempt_at"] - before).total_seconds() < 15
    assert worker.wait_log("webhook.no_secret", webhook=str(copied.id))
    assert worker.metrics()['nrw_attempts_total{outcome="ours"}'] == 1


# ---- operators ----


def test_config_errors_are_all_listed_at_once(stack):
    wrong = {"NRW_SEND_TIMEOUT": "soon", "NRW_REQUESTS_MAX": "0", "NRW_ALLOW_HTTP": "perhaps", "NRW_NO_SUCH_THING": "1",
             "NRW_LOG_LEVEL": "loud", "NRW_RETRY_DELAYS": "1s,2s", "NRW_DATABASE_URL_FILE": "/nowhere"}
    environment = {**stack.worker_environment, **wrong}
    del environment["NRW_KAFKA_BROKERS"]
    done = run_worker(environment=environment)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    for name in [*wrong, "NRW_KAFKA_BROKERS"]:
        assert [line for line in lines if name.removesuffix("_FILE") in line], f"{name} is missing in:\n{done.stderr}"
    assert len(lines) == len(wrong) + 1
    assert stack.database_url not in done.stderr


def test_health_ready_metrics(sink, tenant, producer, start_worker):
    lost = start_worker(ready=False, kafka_brokers="127.0.0.1:1", database_url="postgresql://nobody@127.0.0.1:1/x")
    assert lost.get("/health").status_code == 200
    answer = lost.get("/ready")
    assert answer.status_code == 503 and "PostgreSQL" in answer.text and "Kafka" in answer.text
    assert lost.metric("nrw_pg_up") == 0
    lost.stop()

    worker = start_worker()
    assert worker.get("/health").status_code == 200 and worker.get("/ready").status_code == 200
    assert worker.get("/nothing").status_code == 404
    tenant.webhook(sink.url("/ok"))
    tenant.webhook(sink.url("/bad", "status=500"))
    producer.one(envelope(tenant.id))
    producer.one(b"{}")
    sink.wait(2)
    worker.wait_log("intake.rejected")
    settle(worker)
    answer = worker.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    described = {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE ")}
    metrics = worker.metrics()
    for key in metrics:
        base = key.split("{")[0]
        assert {base, base.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")} & described, key
    expected = {'nrw_attempts_total{outcome="delivered"}': 1, 'nrw_attempts_total{outcome="retry"}': 1, "nrw_events_total": 1,
                'nrw_rejected_total{reason="bad_member"}': 1, "nrw_deliveries_open": 0, "nrw_assigned_partitions": 3}
    assert {key: metrics[key] for key in expected} == expected
    assert worker.metric("nrw_pg_up") >= 1 and metrics["process_resident_memory_bytes"] > 0
    worker.stop()
    assert worker.log_lines("worker.exit")
