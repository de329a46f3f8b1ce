"""The first of the README's two commands, as a newcomer meets it: deploy/local/up delivers, what env exports works, what the README says to type
next does what it says, and down leaves nothing running."""

import base64
import hashlib
import hmac
import json
import pathlib
import re
import subprocess
import time
import uuid

import confluent_kafka.admin
import psycopg
import pytest
import redis
import requests
from support.api import WEBHOOKS
from support.demo import Demo
from support.readme import blocks
from support.wait import await_condition

pytestmark = pytest.mark.slow

TYPES = 14
SERVICES = ("postgres", "redis", "kafka", "sink", "api", "worker-1")
WANTED = {"everything": TYPES, "some": 3, "alerts": 2}  # webhook -> how many of one event of each type
SECOND_ATTEMPT_S = 8  # instead of 30: a setting of the workers, which `up` hands on
SETTINGS = {"NRW_RETRY_DELAYS": f"0s,{SECOND_ATTEMPT_S}s,2m,10m,1h"}


@pytest.fixture(scope="module")
def one_demo():
    demo = Demo(**SETTINGS)
    try:
        demo.first_output = demo.up()
        yield demo
    finally:
        demo.close()


@pytest.fixture
def demo(one_demo):
    """The module's demo with everything running, whatever the test before did to it."""
    if one_demo.running().keys() != set(SERVICES):
        one_demo.up()
    return one_demo


@pytest.fixture
def exports(demo):
    return demo.exports()


def ledger(exports: dict, **fields) -> list[dict]:
    lines = [json.loads(line) for line in pathlib.Path(exports["DEMO_LEDGER"]).read_text().splitlines()]
    return [line for line in lines if fields.items() <= line.items()]


def listed(exports: dict, **headers) -> dict[str, dict]:
    """Description -> webhook."""
    answer = requests.get(exports["NRW_API_URL"] + WEBHOOKS, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    return {webhook["description"]: webhook for webhook in answer.json()["data"]}


def delivery(exports: dict, webhook: dict, line: dict) -> dict | None:
    """What the API tells of the delivery of this line of the ledger; None when its row is not written yet."""
    answer = requests.get(f"{exports['NRW_API_URL']}{WEBHOOKS}/{webhook['id']}/deliveries/{line['delivery_id']}",
                          headers={"X-API-Key": exports["DEMO_API_KEY"]}, timeout=20)
    assert answer.status_code in (200, 404), answer.text
    return answer.json() if answer.status_code == 200 else None


def test_up_shows_one_delivery_of_each_type_and_what_to_try_next(demo):
    said = demo.first_output
    rows = re.findall(r"^(\S+\.\S+) +(\w+) +200 +\d+ +good +good$", said, re.MULTILINE)
    assert {name: len({event for event, webhook in rows if webhook == name}) for name in WANTED} == WANTED, said
    assert len(rows) == sum(WANTED.values())
    assert re.search(r"^backup\.failed +flaky +5\d\d +attempt 2 follows at \d\d:\d\d:\d\d, in -?\d+ s", said, re.MULTILINE), said
    assert f"API http://127.0.0.1:{demo.environment['LOCAL_API_PORT']}, receiver " in said
    for hint in ("deploy/local/publish alert.created --count 100", "deploy/local/status", 'eval "$(deploy/local/env)"',
                 "deploy/local/down [--purge]"):
        assert f"\n  {hint} " in said, said
    # The other commands are there to be copied into a shell that has the settings.
    for command in re.findall(r"^  ((?:curl|psql) .*)$", said, re.MULTILINE):
        answer = demo.shell(f'eval "$(deploy/local/env)"\n{command}')
        assert "problem" not in answer and answer.strip(), (command, answer)


def test_the_flaky_receiver_recovers_as_up_announced(demo, exports):
    def lines():
        return [line for line in ledger(exports, path="/demo/flaky") if line["event"] == "backup.failed"]

    await_condition(lambda: len(lines()) >= 2 and lines()[-1]["answer"] == 200, SECOND_ATTEMPT_S + 20, "the second attempt")
    first, second = lines()[:2]
    assert first["delivery_id"] == second["delivery_id"] and [line["attempt"] for line in (first, second)] == [1, 2]
    assert first["answer"] >= 500 and second["answer"] == 200
    assert [(line["sig_netrecon"], line["sig_standard"]) for line in (first, second)] == [("good", "good")] * 2
    # And everybody who was told where to look sees it.
    flaky = listed(exports, **{"X-API-Key": exports["DEMO_API_KEY"]})["demo: flaky"]
    await_condition(lambda: delivery(exports, flaky, first)["state"] == "delivered", 10, "the API shows it delivered")
    rows = delivery(exports, flaky, first)["attempts"]
    assert {(row["attempt"], row["status"]) for row in rows} == {(1, "failed"), (2, "delivered")}
    said = demo.run("status")
    assert re.search(r"/demo/flaky\?fail_first=1 +backup\.failed +active +[1-9]\d* +[1-9]\d*$", said, re.MULTILINE), said


def test_status_says_what_runs_and_what_waits(demo, exports):
    await_condition(lambda: "deliveries waiting for another attempt: 0" in demo.run("status"), SECOND_ATTEMPT_S + 20, "nothing waits")
    said = demo.run("status")
    for name in SERVICES:
        assert re.search(rf"^{name} +running +\d+ +\d+  \d{{4}}-", said, re.MULTILINE), said
    assert "messages not taken from Kafka yet: 0" in said
    assert re.search(r"^receiver: [1-9]\d* requests, 0 malformed, 0 answers not taken; by path: .*/demo/everything [1-9]", said, re.MULTILINE), said


def test_env_exports_what_its_help_lists_and_all_of_it_works(demo, exports):
    manual = demo.run("env", "--help").split("Environment:")[0]
    assert set(re.findall(r"\b(?:NRW|DEMO)_[A-Z_]+\b", manual)) == set(exports)
    with psycopg.connect(exports["NRW_DATABASE_URL"], connect_timeout=10) as connection:
        assert connection.execute("select count(*) from webhooks where tenant_id = %s", (exports["DEMO_TENANT_ID"],)).fetchone()[0] >= 4
    with psycopg.connect(exports["DEMO_POSTGRES_URL"], connect_timeout=10) as connection:
        assert connection.execute("show is_superuser").fetchone() == ("on",)
    assert redis.Redis.from_url(exports["NRW_REDIS_URL"]).ping()
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": exports["NRW_KAFKA_BROKERS"]})
    assert {exports["NRW_TOPIC"], exports["NRW_DLQ_TOPIC"]} <= set(admin.list_topics(timeout=20).topics)
    assert exports["DEMO_KAFKA"] in ("real", "mock")
    if exports["DEMO_KAFKA"] == "real":
        assert [len(group.members) for group in admin.list_groups(exports["NRW_GROUP"], timeout=20)] == [1]
    by_key, by_token = listed(exports, **{"X-API-Key": exports["DEMO_API_KEY"]}), listed(exports, Authorization=f"Bearer {exports['DEMO_JWT']}")
    assert by_key == by_token and {f"demo: {name}" for name in (*WANTED, "flaky")} <= set(by_key)
    assert requests.get(exports["DEMO_SINK_URL"] + "/_control/health", timeout=10).status_code == 200
    for path in ("/health", "/ready", "/metrics"):
        assert requests.get(exports["DEMO_ADMIN_URL"] + path, timeout=10).status_code == 200


def sent_signed(exports: dict, path: str, secret: str) -> dict:
    """A request of ours to the receiver, signed with this secret: its line in the ledger."""
    key = base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()
    event, now, body = str(uuid.uuid4()), str(int(time.time())), b"{}"
    mac = hmac.new(key, f"{event}.{now}.".encode() + body, hashlib.sha256).digest()
    headers = {"webhook-id": event, "webhook-timestamp": now, "webhook-signature": "v1," + base64.b64encode(mac).decode()}
    assert requests.post(exports["DEMO_SINK_URL"] + path, data=body, headers=headers, timeout=10).status_code == 200
    line, = ledger(exports, event_id=event)
    return line


def test_the_programs_and_secrets_of_env_are_the_demos(demo, exports):
    def said(name: str, *arguments: str, stdin: str = "") -> str:
        return subprocess.run([exports[name], *arguments], env={**demo.environment, **exports}, timeout=20, check=True, input=stdin,
                              stdout=subprocess.PIPE, text=True).stdout

    for name in ("DEMO_WORKER", "DEMO_API"):
        assert said(name, "--version").startswith("netrecon-webhooks-")
    for name in ("DEMO_SINK", "DEMO_PRODUCE"):
        said(name, "--help")
    shown = said("DEMO_WORKER", "--print-config")  # with NRW_API_URL among them, it would be refused: that one is no setting
    assert re.search(rf"^NRW_GROUP\W+{exports['NRW_GROUP']}", shown, re.MULTILINE), shown
    assert said("DEMO_WORKER", "seal", "--webhook", str(uuid.uuid4()), "--tenant", exports["DEMO_TENANT_ID"], stdin="x").startswith("\\x")
    for name, path in (("DEMO_SECRET", "/demo/everything"), ("DEMO_SECRET_PLAIN", "/demo/some")):
        assert sent_signed(exports, path, exports[name])["sig_standard"] == "good", name


def test_what_is_published_is_delivered(demo, exports):
    event = demo.run("publish", "ids.alert", "--data", '{"signature": "ET SCAN"}').strip()
    line, = await_condition(lambda: ledger(exports, event_id=event), 20, "it is delivered")
    assert (line["path"], line["event"], line["answer"], line["sig_standard"]) == ("/demo/everything", "ids.alert", 200, "good")
    everything = listed(exports, **{"X-API-Key": exports["DEMO_API_KEY"]})["demo: everything"]
    sent = await_condition(lambda: delivery(exports, everything, line), 10, "the API shows it")
    assert json.loads(sent["request"]["body"])["data"] == {"signature": "ET SCAN"}
    some = demo.run("publish", "cve.matched", "--count", "10").split()
    assert len(set(some)) == 10
    await_condition(lambda: {line["event_id"] for line in ledger(exports, path="/demo/some")} >= set(some), 20, "ten more")
    assert demo.run("publish", "all").strip() == f"{TYPES} events acknowledged by Kafka"
    assert "no sample" in demo.run("publish", "no.such_type", status=1)


def test_the_readmes_commands_after_up_do_what_they_say(demo, exports):
    def alerts() -> int:
        return len(ledger(exports, path="/demo/alerts"))

    before = alerts()
    commands, = blocks("After `up`:", "`up` and the other scripts take `--help`.")
    commands, down = commands.split("deploy/local/down")
    assert "\ntail -f " in commands and "--purge" in down
    said = demo.shell(re.sub(r'^(tail -f "[^"]+")', r"timeout 1 \1 || [ $? = 124 ]", commands, flags=re.MULTILINE))
    await_condition(lambda: alerts() >= before + 100, 20, "a hundred more alerts")
    for words in ("100 events acknowledged by Kafka", "worker-1 ", '"demo: flaky"', " ids.alert ", '"path":"/demo/everything"', "# HELP nrw_"):
        assert words in said, (words, said)


def test_the_readmes_five_minutes_with_the_api(demo, exports, tmp_path):
    commands = "".join(blocks("## The REST API in five minutes", "<!-- problems -->"))
    assert commands.count("/tmp/") >= 4
    said = demo.shell('eval "$(deploy/local/env)"\n' + commands.replace("/tmp/", f"{tmp_path}/"))
    assert "/problems/" not in said, said
    webhook = json.loads((tmp_path / "webhook.json").read_text())
    assert webhook["secret"].startswith("whsec_") and webhook["events"] == ["alert.*", "scan.completed"]
    delivery = json.loads((tmp_path / "log.json").read_text())["data"][0]["delivery_id"]
    first, again = await_condition(lambda: len(lines := ledger(exports, delivery_id=delivery)) >= 2 and lines, 20, "the test, and it once more")
    assert (first["path"], first["attempt"], again["attempt"]) == ("/mine", 1, 2)
    # What was published before it was created has been missed by it, and is replayed.
    wanted = {line["event_id"] for line in ledger(exports, path="/demo/alerts") + ledger(exports, path="/demo/some", event="scan.completed")}
    with psycopg.connect(exports["NRW_DATABASE_URL"], connect_timeout=10, autocommit=True) as connection:
        def delivered() -> set:
            rows = connection.execute("select event_id from attempts where webhook_id = %s and outcome = 'delivered'", (webhook["id"],))
            return {str(event) for event, in rows}

        await_condition(lambda: delivered() >= wanted, 90, f"{len(wanted)} missed events are replayed")


def test_a_second_up_reuses_what_runs_and_makes_nothing_twice(demo, exports):
    running, webhooks = demo.running(), listed(exports, **{"X-API-Key": exports["DEMO_API_KEY"]})
    said = demo.up()
    assert demo.running() == running
    assert len(re.findall(r" good +good$", said, re.MULTILINE)) == sum(WANTED.values())
    assert listed(exports, **{"X-API-Key": exports["DEMO_API_KEY"]}).keys() == webhooks.keys()


def test_down_stops_everything_and_purge_leaves_nothing(demo):
    running = demo.running()
    said = demo.run("down")
    for name in SERVICES:
        assert re.search(rf"^{name} stopped, exit status (0|143 .*)$", said, re.MULTILINE), said
    assert not [name for name, pid in running.items() if pathlib.Path(f"/proc/{pid}").exists()]
    said = demo.run("status", status=1)
    assert len(re.findall(r"^\S+ +stopped ", said, re.MULTILINE)) == len(SERVICES), said
    demo.run("down", "--purge")
    assert not demo.folder.exists()
    assert "nothing to do" in demo.run("down")
