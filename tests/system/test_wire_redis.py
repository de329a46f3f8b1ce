"""Redis with a user of its own for each program, and Redis behind TLS, as deploy/README.md tells operators to do it."""

import re
import socket
import ssl
import subprocess
import threading

import pytest
import redis
from support.attempts import delays
from support.paths import ROOT, clean_environment
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
    worker.stop()
    admin.execute_command("ACL", "LOG", "RESET")  # the wrong password is in it


# ---------------------------------------------------------------- TLS, by stunnel


class Stunnel:
    """One stunnel process with this configuration; start() again after close()."""

    def __init__(self, folder, name: str, text: str, port: int):
        self._conf, self._log = folder / f"{name}.conf", folder / f"{name}.log"
        self._conf.write_text(text)
        self._port = port
        self.start()

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "stunnel", self._conf], stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=subprocess.STDOUT)
        await_condition(self._listens, 10, lambda: f"{self._conf.stem} listens\n{self.log()}")

    def _listens(self) -> bool:
        assert self._process.poll() is None, self.log()
        with open("/proc/net/tcp", encoding="ascii") as table:
            return any(f":{self._port:04X} 00000000:0000 0A" in line for line in table)

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


def retried_by_way_of_redis(worker, hook, producer) -> bool:
    """The hook's receiver fails each event once. Without Redis a sweep of PostgreSQL would serve the retry, and claim nothing."""
    before = worker.metric("nrw_schedule_claimed_total")
    event_id = producer.one(envelope(hook.tenant_id))
    await_condition(lambda: [row for row in hook.attempts(event_id) if row["outcome"] == "delivered"], 20, "the retry is delivered")
    return worker.metric("nrw_schedule_claimed_total") > before


def test_a_workers_retries_come_through_the_sidecar_also_after_its_restart(stack, users, sidecar, tenant, sink, producer, start_worker):
    port, stunnel = sidecar()
    worker = start_worker(redis_url=url_for(stack, "nrw-worker", port), **BRISK)
    await_condition(lambda: worker.metric("nrw_redis_up") == 1, 20, "Redis is reached through TLS")
    hook = tenant.webhook(sink.url("/hook", "fail_first=1"))
    assert retried_by_way_of_redis(worker, hook, producer)
    stunnel.close()
    await_condition(lambda: worker.metric("nrw_redis_up") == 0, 20, "the worker has noticed")
    stunnel.start()
    await_condition(lambda: worker.metric("nrw_redis_up") == 1, 20, "the sidecar is found again")
    assert retried_by_way_of_redis(worker, hook, producer)


def test_the_apis_hints_go_through_the_sidecar(stack, users, sidecar, tenant, sink, producer, start_worker, start_api):
    port, stunnel = sidecar()
    api = start_api(redis_url=url_for(stack, "nrw-api", port))
    await_condition(lambda: api.metric("nrw_redis_up") == 1, 20, "Redis is reached through TLS")
    stunnel.close()
    await_condition(lambda: api.metric("nrw_redis_up") == 0, 20, "the API has noticed")
    stunnel.start()
    await_condition(lambda: api.metric("nrw_redis_up") == 1, 20, "the sidecar is found again")
    assert redelivered(api, start_worker(**BRISK), tenant.webhook(sink.url("/hook")), producer)


def redelivered(api, worker, hook, producer) -> bool:
    """By a request whose hint reached Redis."""
    event_id = producer.one(envelope(hook.tenant_id))
    await_condition(lambda: hook.attempts(event_id), 20, "the attempt is in the log")
    answer = api.client(hook.tenant_id).post(f"{hook.id}/deliveries/{hook.delivery_id(event_id)}/redeliver")
    assert answer.status_code == 202, answer.text
    await_condition(lambda: len(hook.attempts(event_id)) == 2, 20, "it is delivered again")
    return api.metric('nrw_hints_total{result="sent"}') == 1 and worker.metric("nrw_schedule_claimed_total") >= 1


@pytest.mark.parametrize("what", ("authority", "host"))
def test_a_redis_that_is_somebody_else_is_not_spoken_to(stack, sidecar, tmp_path, start_worker, what):
    changed = {"authority": {"CAfile": Authority(tmp_path / "other", "another CA").file}, "host": {"checkHost": "another.example.com"}}[what]
    port, stunnel = sidecar(**changed)
    worker = start_worker(redis_url=url_for(stack, "nrw-worker", port))
    worker.wait_log("redis.connect_failed")
    assert worker.metric("nrw_redis_up") == 0
    await_condition(lambda: "certificate verify failed" in stunnel.log() or "certificate does not match" in stunnel.log().lower(), 10,
                    lambda: f"stunnel says why\n{stunnel.log()}")


# ---------------------------------------------------------------- TLS, by hiredis

NATIVE = ROOT / ".build" / "redis-tls" / "programs"  # tests/run makes it
HOST = "localhost"


class TlsPort:
    """What a test's Redis says over TLS, and where."""

    def __init__(self, admin, authority: Authority, port: int):
        self.admin, self.authority, self.port = admin, authority, port

    def set(self, **settings) -> None:
        words = [word for name, value in settings.items() for word in ("tls-" + name.replace("_", "-"), str(value))]
        self.admin.execute_command("CONFIG", "SET", *words)

    def prove(self, name: str, **settings) -> None:
        """With a certificate for this name from now on. Redis reads it when it is set, and only while there is a port."""
        self.authority.certificate("redis", name)
        folder = self.authority.folder
        self.set(cert_file=folder / "redis.crt", key_file=folder / "redis.key", ca_cert_file=self.authority.file, **settings)

    def url(self, user: str, host: str = HOST, port: int | None = None, scheme: str = "rediss", ca=None, password: str = PASSWORD) -> str:
        query = f"?ca_file={ca or self.authority.file}" if scheme == "rediss" else ""
        return f"{scheme}://{user}:{password.replace(' ', '%20')}@{host}:{port or self.port}/0{query}"


@pytest.fixture
def tls(admin, tmp_path):
    """The session's Redis listens with TLS, too, while the test runs."""
    if not (NATIVE / "netrecon-webhooks-worker").exists():
        pytest.skip(f"{NATIVE.relative_to(ROOT)} is missing: tests/run makes it when a newer Debian's hiredis can be fetched")
    [port] = free_ports(1)
    server = TlsPort(admin, Authority(tmp_path / "tls"), port)
    server.prove(HOST, port=port, auth_clients="no")
    yield server
    server.set(port=0, protocols="", ciphers="")


@pytest.fixture
def native_worker(start_worker):
    return lambda **options: start_worker(program=NATIVE / "netrecon-webhooks-worker", **options)


@pytest.fixture
def native_api(start_api):
    return lambda **options: start_api(program=NATIVE / "netrecon-webhooks-api", **options)


def test_worker_and_api_speak_tls_themselves(admin, users, tls, tenant, sink, producer, native_worker, native_api):
    worker = native_worker(redis_url=tls.url("nrw-worker"), **BRISK)
    api = native_api(redis_url=tls.url("nrw-api"))

    def up():
        return worker.metric("nrw_redis_up") == api.metric("nrw_redis_up") == 1

    await_condition(up, 20, "both have reached Redis")
    clients = [client for client in admin.client_list() if client["name"].startswith("nrw-")]
    assert {client["name"] for client in clients} == {"nrw-schedule", "nrw-schedule-wake", "nrw-api"}
    assert {client["laddr"] for client in clients} == {f"127.0.0.1:{tls.port}"}
    assert redelivered(api, worker, tenant.webhook(sink.url("/hook")), producer)
    for user in USERS:
        admin.execute_command("CLIENT", "KILL", "USER", user)
    await_condition(lambda: worker.metric("nrw_redis_connections_lost_total") == 2 and up(), 20, "both are connected again")
    assert PASSWORD not in worker.log_text() + api.log_text()


REFUSED = {
    "authority": "the certificate of localhost is not accepted: self-signed certificate in certificate chain",
    "host": "the certificate of localhost is not accepted: hostname mismatch",
    "address": "the certificate of 127.0.0.1 is not accepted: IP address mismatch",
    "TLS 1.1": "TLS handshake failed: .*(protocol|version)",
    "client certificate": "certificate required",
    "no TLS there": "the TLS handshake has no end|TLS handshake failed: wrong version number",
    "TLS there only": "connection lost|cannot send",
    "password": "refused: WRONGPASS",
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_redis_is_refused_and_told(stack, users, tls, tmp_path, native_worker, native_api, what):
    changed = {}
    if what == "authority":
        changed = {"ca": Authority(tmp_path / "other", "another CA").file}
    elif what == "host":
        tls.prove("redis.example.com")
    elif what == "address":
        changed = {"host": "127.0.0.1"}
    elif what == "TLS 1.1":
        tls.set(protocols="TLSv1.1", ciphers="ALL:@SECLEVEL=0")
    elif what == "client certificate":
        tls.set(auth_clients="yes")
    elif what == "no TLS there":
        changed = {"port": int(re.search(r":(\d+)/", stack.exports["NRW_REDIS_URL"].rsplit("@", 1)[1]).group(1))}
    elif what == "TLS there only":
        changed = {"scheme": "redis"}
    elif what == "password":
        changed = {"password": "not this one"}
    started = [start(ready=False, redis_url=tls.url(user, **changed)) for start, user in ((native_worker, "nrw-worker"), (native_api, "nrw-api"))]
    for program in started:
        assert re.search(REFUSED[what], program.wait_log("redis.connect_failed")["error"])
        assert program.metric("nrw_redis_up") == 0
        assert not [word for word in (PASSWORD, "not this one") if word in program.log_text()]
        program.stop()
    tls.admin.execute_command("ACL", "LOG", "RESET")  # the wrong password is in it


def test_tls_1_2_is_enough(users, tls, native_worker):
    tls.set(protocols="TLSv1.2")
    worker = native_worker(ready=False, redis_url=tls.url("nrw-worker"))
    await_condition(lambda: worker.metric("nrw_redis_up") == 1, 20, "Redis is reached")


@pytest.mark.parametrize("host, sent", ((HOST, HOST), ("127.0.0.1", None)))
def test_a_name_is_sent_as_sni_and_an_address_is_not(tls, native_worker, host, sent):
    seen = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.authority.folder / "redis.crt", tls.authority.folder / "redis.key")
    context.sni_callback = lambda connection, name, _: seen.append(name)

    def shake_hands():
        with listener.accept()[0] as connection:
            connection.settimeout(20)
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                pass  # the address is not in the certificate

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=shake_hands, daemon=True)
        server.start()
        native_worker(ready=False, redis_url=tls.url("nrw-worker", host=host, port=listener.getsockname()[1]))
        server.join(20)
    assert seen == [sent]


def test_the_unit_tests_hold_with_that_hiredis_and_over_tls(stack, tls):
    """Plain ones through its other code, and what is larger than a socket takes through TLS."""
    url = tls.url("default", password=re.search(r":([^:@]+)@", stack.exports["NRW_REDIS_URL"]).group(1))
    done = subprocess.run([NATIVE / "tests" / "test_redis"], env={**clean_environment(), "NRW_TEST_REDIS_TLS_URL": url}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180, check=False)
    assert done.returncode == 0 and "1 SKIPPED" in done.stdout, done.stdout  # what a build without TLS says
