"""docker-compose.yml on a real engine: from up to delivered events, with more workers, without one of them, and down. Needs an engine;
tests/run compose skips it where none answers. The tests use one stack, in this order."""

import fnmatch
import json
import re
import subprocess
import urllib.error
import urllib.request

import pytest
from compose_stack import TIMEOUT_S, event_ids, run
from support.wait import await_condition

WANTED = {"demo: everything": ["*"], "demo: some": ["scan.completed", "cve.matched", "backup.failed"], "demo: alerts": ["alert.*"],
          "demo: flaky": ["backup.failed"]}
DEMO_TENANT = "0d1e2f30-4a5b-4c6d-8e7f-90a1b2c3d4e5"
PARTITIONS = 12
IMAGE_BYTES_MAX = 40_000_000


def expected(stack, events):
    """(event, webhook) of what these events must lead to."""
    types = dict(stack.sql("select id, event_type from events"))
    return {(event, webhook) for event in events for webhook, patterns in WANTED.items()
            if any(fnmatch.fnmatch(types[event], pattern) for pattern in patterns)}


def await_delivered(stack, events, timeout=90):
    await_condition(lambda: len(stack.sql("select id from events")) >= len(set(events)), timeout, "every event has a row")
    wanted = expected(stack, events)
    assert len(wanted) >= len(events), "nothing to deliver: the test would prove nothing"
    await_condition(lambda: wanted <= stack.delivered(), timeout, lambda: f"missing: {sorted(wanted - stack.delivered())[:5]}")


def metric(container, name):
    """Of a worker, by the port that docker-compose.yml publishes for it."""
    at = container["NetworkSettings"]["Ports"]["9464/tcp"][0]
    with urllib.request.urlopen(f"http://{at['HostIp']}:{at['HostPort']}/metrics", timeout=10) as answer:
        return int(re.search(rf"^{name} (\d+)$", answer.read().decode(), re.MULTILINE).group(1))


def partitions(stack):
    return sorted(metric(container, "nrw_assigned_partitions") for container in stack.containers("worker", running=True))


def test_after_up_an_event_of_each_type_arrives_signed(stack):
    events = stack.publish("--event", "all")
    assert len(events) == 14
    await_delivered(stack, events)
    lines = [line for line in stack.ledger() if line["event_id"] in events]
    assert {line["sig_netrecon"] for line in lines} == {line["sig_standard"] for line in lines} == {"good"}
    assert [line["attempt"] for line in lines if line["path"] == "/demo/flaky"] == [1, 2], "a delivery that failed is tried again"


def test_the_api_answers_on_loopback_to_who_has_a_key(stack):
    api = stack.containers("api")[0]
    at = api["NetworkSettings"]["Ports"]["8080/tcp"]
    assert [port["HostIp"] for port in at] == ["127.0.0.1"]
    key = run("docker", "exec", api["Id"], "netrecon-webhooks-api", "keys", "create", "--tenant", DEMO_TENANT, "--name", "test").split()[0]

    def ask(headers):
        request = urllib.request.Request(f"http://127.0.0.1:{at[0]['HostPort']}/api/v1/integrations/webhooks", headers=headers)
        return urllib.request.urlopen(request, timeout=10)

    with ask({"X-API-Key": key}) as answer:
        text = answer.read().decode()
    assert all(f'"{description}"' in text for description in WANTED)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask({})


def test_the_owner_of_a_failing_webhook_gets_a_mail(stack):
    stack.sql("update webhooks set url = 'http://receiver.demo.test:18080/demo/flaky?status=500' where description = 'demo: flaky'")
    stack.publish("--event", "backup.failed")
    await_condition(lambda: "To: owner@example.com" in stack.logs("mail"), TIMEOUT_S, lambda: f"a mail to the owner:\n{stack.logs('mail')}")
    stack.sql("update webhooks set url = 'http://receiver.demo.test:18080/demo/flaky', status = 'active', failing_since = null, active = true "
              "where description = 'demo: flaky'")


def test_four_workers_share_the_partitions_and_lose_nothing_when_one_is_killed(stack):
    stack.start(workers=4)
    await_condition(lambda: partitions(stack) == [PARTITIONS // 4] * 4, TIMEOUT_S, lambda: f"3 partitions each: {partitions(stack)}")
    before = len(stack.delivered())
    producer = subprocess.Popen(stack.publish_command("--event", "alert.created", "--key", "", "--rate", "100", "--count", "2000"), cwd=stack.tree,
                                env=stack.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    await_condition(lambda: len(stack.delivered()) > before + 200, TIMEOUT_S, "deliveries are going on")
    victim = stack.containers("worker", running=True)[-1]
    run("docker", "kill", "--signal", "KILL", victim["Id"])
    assert producer.poll() is None, "the worker was to die under load"
    output, errors = producer.communicate(timeout=180)
    assert producer.returncode == 0, errors
    events = event_ids(output)
    assert len(events) == 2000
    await_delivered(stack, events)
    received = {(line["event_id"], line["path"]) for line in stack.ledger()}
    assert {(event, "/demo/everything") for event in events} <= received
    assert sum(partitions(stack)) == PARTITIONS and len(partitions(stack)) == 3


def test_containers_are_locked_up(stack):
    """What docker-compose.yml says is what the engine was told."""
    secrets = {file.name: file.read_text().strip() for file in (stack.tree / "deploy/docker/secrets").iterdir()}
    # The others are made of these, or are certificates.
    values = [secrets[name] for name in ("postgres_password", "database_password", "redis_password", "keyring", "jwt_secret", "demo_whsec", "demo_plain")]
    for container in stack.containers():
        name, host = container["Name"], container["HostConfig"]
        user = container["Config"]["User"]
        assert user not in ("", "0", "root"), f"{name} runs as {user or 'root'}"
        assert host["ReadonlyRootfs"] or "kafka" in name, f"{name}: its root can be written"
        assert host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["Memory"] > 0 and host["PidsLimit"] > 0 and host["NanoCpus"] > 0, name
        for ports in (container["NetworkSettings"]["Ports"] or {}).values():
            assert all(port["HostIp"] == "127.0.0.1" for port in ports or []), name
        seen = json.dumps(container)
        assert not [value for value in values if value in seen], f"docker inspect {name} shows a secret"
    for service in ("api", "worker", "migrate", "seed", "postgres", "redis", "kafka", "topics", "receiver"):
        logs = stack.logs(service)
        assert not [value for value in values if value in logs], f"the log of {service} shows a secret"


def test_stores_can_only_be_reached_from_their_own_network(stack):
    targets = []
    for service, port in (("postgres", 5432), ("redis", 6379), ("kafka", 9092)):
        for network in stack.containers(service, running=True)[0]["NetworkSettings"]["Networks"].values():
            targets.append(f"{network['IPAddress']}:{port}")
    probe = ("import socket, sys\n"
             "for at in sys.argv[1:]:\n"
             "    host, port = at.split(':')\n"
             "    try:\n"
             "        socket.create_connection((host, int(port)), timeout=2).close()\n"
             "        print(at)\n"
             "    except OSError:\n"
             "        pass\n")
    image = stack.containers("mail")[0]["Image"]

    def reached(network):
        return run("docker", "run", "--rm", "--network", stack.network(network), "--entrypoint", "python3", image, "-c", probe, *targets).split()

    assert reached("stores") == targets
    assert {network: reached(network) for network in ("front", "egress", "demo")} == {"front": [], "egress": [], "demo": []}


def test_images_hold_the_program_and_nothing_to_break_in_with(stack):
    for service in ("worker", "api", "migrate"):
        image = json.loads(run("docker", "image", "inspect", stack.containers(service)[0]["Image"]))[0]
        config = image["Config"]
        print(f"\n{service}: {image['Size'] / 1e6:.1f} MB")
        assert image["Size"] < IMAGE_BYTES_MAX
        assert config["User"] == "65532:65532" and config["StopSignal"] == "SIGTERM"
        assert isinstance(config["Entrypoint"], list) and config["Entrypoint"][0] != "/bin/sh"
        labels = config["Labels"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", labels["org.opencontainers.image.version"])
        assert {"title", "description", "licenses", "revision"} <= {label.rpartition(".")[2] for label in labels}
        files = run("docker", "run", "--rm", "--entrypoint", "cat", image["Id"], "/etc/passwd", check=False)
        assert bool(files) == (service == "migrate"), f"{service} has cat"
        if service != "migrate":
            assert config["Healthcheck"]["Test"] == ["CMD", f"netrecon-webhooks-{service}", "health"]
            for program in ("sh", "bash", "apt-get", "dpkg", "curl"):
                found = subprocess.run(["docker", "run", "--rm", "--entrypoint", program, image["Id"], "--version"], capture_output=True, check=False,
                                       timeout=TIMEOUT_S)
                assert found.returncode == 127, f"{service} has {program}"


def test_down_drains_and_the_next_up_goes_on(stack):
    before = len(stack.delivered())
    stack.compose("stop", "worker", "api", timeout=120)
    codes = {container["Name"]: container["State"]["ExitCode"] for service in ("worker", "api") for container in stack.containers(service)
             if container["State"]["ExitCode"] != 137}
    assert len(codes) == 4 and set(codes.values()) == {0}, f"3 workers and the api end with 0: {codes}"
    waiting = stack.publish("--event", "scan.started", "--count", "50")  # while no worker is there
    stack.compose("down", timeout=180)
    assert stack.containers() == []
    stack.start()
    assert len(stack.delivered()) >= before
    await_delivered(stack, waiting)
