"""Redis with a user of its own for each program, and Redis behind TLS, as deploy/README.md tells operators to do it."""

import re
import subprocess

import pytest
import redis
from support.attempts import delays
from support.paths import ROOT
from support.produce import envelope
from support.stack import free_ports
from support.tls import Authority
from support.wait import await_condition

RUNBOOK = ROOT / "deploy" / "README.md"
PASSWORD = "a password of the test"
USERS = ("nrw-worker", "nrw-api")
BRISK = {"retry_delays": delays(0.3, 0.3, 2), "retry_reconcile": "1s", "own_fault_delay": "300ms"}


def block(name: str) -> str:
    return re.search(rf"<!-- {name} -->\n```\n(.*?)```\n<!-- /{name} -->", RUNBOOK.read_text(), re.DOTALL).group(1)


def rules(user: str) -> list[str]:
    line, = (line for line in block("acl").splitlines() if line.startswith(f"user {user} "))
    words = line.split()[2:]
    words[words.index("#SHA256")] = ">" + PASSWORD
    return words


@pytest.fixture
def admin(stack):
    with redis.Redis.from_url(stack.exports["NRW_REDIS_URL"], decode_responses=True) as client:
        yield client


@pytest.fixture
def users(admin):
    """The runbook's two users; what they were refused must have been nothing."""
    for user in USERS:
        admin.execute_command("ACL", "SETUSER", user, "reset", *rules(user))
    admin.execute_command("ACL", "LOG", "RESET")
    yield
    refused = [entry for entry in admin.acl_log() if entry["username"] in USERS]
    admin.execute_command("ACL", "DELUSER", *USERS)
    assert not refused, refused


def url_for(stack, user: str, port: int | None = None) -> str:
    place = re.search(r"@([\d.]+):(\d+)", stack.exports["NRW_REDIS_URL"])
    return f"redis://{user}:{PASSWORD.replace(' ', '%20')}@{place.group(1)}:{port or place.group(2)}/0"


def forget(admin):
    """As a Redis that was restarted without its data: neither the index nor the scripts are there. Users stay."""
    admin.flushall()
    admin.script_flush()


def used(admin) -> set[str]:
    return {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}


def allowed(user: str) -> set[str]:
    return {word[1:] for word in rules(user) if word.startswith("+")}


def test_the_workers_user_may_do_what_a_worker_does_and_no_more(stack, admin, users, tenant, sink, producer, start_worker):
    admin.config_resetstat()
    worker = start_worker(redis_url=url_for(stack, "nrw-worker"), **BRISK)
    hook = tenant.webhook(sink.url("/hook", "fail_first=2"))
    await_condition(lambda: worker.metric("nrw_redis_up") == 1, 20, "the worker uses Redis")
    for _ in range(20):
        producer.one(envelope(tenant.id))
    await_condition(lambda: len({row["event_id"] for row in hook.attempts() if row["outcome"] == "delivered"}) == 20, 60, "all are delivered")
    sink.set("/hook", "status=500")
    event_id = producer.one(envelope(tenant.id))
    await_condition(lambda: [row for row in hook.pending(event_id) if row["next_attempt"] == 4], 20, "a retry that is not due yet")
    rebuilds = worker.metric("nrw_schedule_rebuilds_total")
    forget(admin)
    await_condition(lambda: worker.metric("nrw_schedule_rebuilds_total") > rebuilds, 30, "the index is rebuilt")
    await_condition(lambda: len(hook.attempts(event_id)) == 5, 30, "the rebuilt index brings the last attempts")
    await_condition(lambda: allowed("nrw-worker") <= used(admin), 60, lambda: f"used: all but {allowed('nrw-worker') - used(admin)}")
    assert worker.metric("nrw_schedule_errors_total") == 0


def test_the_apis_user_may_do_what_the_api_does_and_no_more(stack, admin, users, tenant, sink, producer, start_worker, start_api):
    hook = tenant.webhook(sink.url("/hook"))
    worker = start_worker(**BRISK)
    event_id = producer.one(envelope(tenant.id))
    await_condition(lambda: hook.attempts(event_id), 20, "the attempt is in the log")
    worker.stop()
    forget(admin)
    admin.config_resetstat()
    api = start_api(redis_url=url_for(stack, "nrw-api"))
    await_condition(lambda: api.metric("nrw_redis_up") == 1, 20, "the API uses Redis")
    answer = api.client(tenant.id).post(f"{hook.id}/deliveries/{hook.delivery_id(event_id)}/redeliver")
    assert answer.status_code == 202, answer.text
    await_condition(lambda: allowed("nrw-api") <= used(admin), 20, lambda: f"used: all but {allowed('nrw-api') - used(admin)}")
    assert api.metric('nrw_hints_total{result="lost"}') == 0


def test_a_wrong_password_is_told_and_first_attempts_go_on(stack, admin, users, tenant, sink, producer, start_worker):
    admin.execute_command("ACL", "SETUSER", "nrw-worker", "resetpass", ">another")
    worker = start_worker(redis_url=url_for(stack, "nrw-worker"))
    assert "WRONGPASS" in worker.wait_log("redis.connect_failed")["error"]
    assert PASSWORD not in worker.log_text() and worker.metric("nrw_redis_up") == 0
    tenant.webhook(sink.url("/hook"))
    producer.one(envelope(tenant.id))
    sink.wait(1, "/hook")
    admin.execute_command("ACL", "LOG", "RESET")  # the wrong password is in it


# ---------------------------------------------------------------- TLS


class Stunnel:
    """One stunnel process with this configuration."""

    def __init__(self, folder, name: str, text: str, port: int):
        conf, self._log = folder / f"{name}.conf", folder / f"{name}.log"
        conf.write_text(text)
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "stunnel", conf], stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=subprocess.STDOUT)
        await_condition(lambda: self._listens(port), 10, lambda: f"{name} listens\n{self.log()}")

    def _listens(self, port: int) -> bool:
        assert self._process.poll() is None, self.log()
        with open("/proc/net/tcp", encoding="ascii") as table:
            return any(f":{port:04X} 00000000:0000 0A" in line for line in table)

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def sidecar(stack, tmp_path):
    """sidecar(CAfile=…, checkHost=…) starts the runbook's stunnel in front of a Redis that speaks TLS as redis.example.com and returns its
    port and itself."""
    authority = Authority(tmp_path / "tls")
    authority.certificate("redis", "redis.example.com")
    server_port, *ports = free_ports(4)
    redis_port = re.search(r":(\d+)/", stack.exports["NRW_REDIS_URL"].rsplit("@", 1)[1]).group(1)
    server = (f"foreground = yes\npid =\nsyslog = no\n[redis]\naccept = 127.0.0.1:{server_port}\nconnect = 127.0.0.1:{redis_port}\n"
              f"cert = {authority.folder / 'redis.crt'}\nkey = {authority.folder / 'redis.key'}\n")
    started = [Stunnel(tmp_path, "server", server, server_port)]

    def start(**changed):
        port = ports.pop()
        settings = {"accept": f"127.0.0.1:{port}", "connect": f"127.0.0.1:{server_port}", "CAfile": authority.file, **changed}
        text = block("stunnel")
        for name, value in settings.items():
            text, n = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
            assert n == 1, name
        started.append(Stunnel(tmp_path, f"sidecar-{port}", text, port))
        return port, started[-1]

    yield start
    for stunnel in started:
        stunnel.close()


def test_redis_over_tls_through_the_sidecar(stack, users, sidecar, tenant, sink, producer, start_worker):
    """Retries come by way of it, and a sidecar that is restarted is found again."""
    port, _ = sidecar()
    worker = start_worker(redis_url=url_for(stack, "nrw-worker", port), **BRISK)
    await_condition(lambda: worker.metric("nrw_redis_up") == 1, 20, "Redis is reached through TLS")
    tenant.webhook(sink.url("/hook", "fail_first=1"))
    producer.one(envelope(tenant.id))
    sink.wait(2, "/hook")
    assert worker.metric("nrw_schedule_claimed_total") >= 1


@pytest.mark.parametrize("what", ("authority", "host"))
def test_a_redis_that_is_somebody_else_is_not_spoken_to(stack, sidecar, tmp_path, start_worker, what):
    changed = {"authority": {"CAfile": Authority(tmp_path / "other", "another CA").file}, "host": {"checkHost": "another.example.com"}}[what]
    port, stunnel = sidecar(**changed)
    worker = start_worker(redis_url=url_for(stack, "nrw-worker", port))
    worker.wait_log("redis.connect_failed")
    assert worker.metric("nrw_redis_up") == 0
    await_condition(lambda: "certificate verify failed" in stunnel.log() or "certificate does not match" in stunnel.log().lower(), 10,
                    lambda: f"stunnel says why\n{stunnel.log()}")
