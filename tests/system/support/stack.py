"""A private PostgreSQL, Redis and Kafka of one pytest session, through deploy/local/stack, with the schema applied.

Everything is in one temporary folder and on free ports of 127.0.0.1. Faults are methods; after every one of them the service comes back on
the same port with the same data. The stack goes with close(), and also when this process is killed.
"""

import contextlib
import copy
import os
import pathlib
import random
import re
import shlex
import signal
import socket
import subprocess
import tempfile

import psycopg

from support.kafka import Topic
from support.paths import BUILD, ROOT, clean_environment
from support.wait import await_condition

STACK = ROOT / "deploy" / "local" / "stack"
START_TIMEOUT_S = 120
FETCH_TIMEOUT_S = 400
# Below what the kernel gives to outgoing connections: a restarted service must find its port free.
PORTS = range(20000, 32000)


def free_ports(n: int) -> list[int]:
    found = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == n:
            return found
    raise RuntimeError("no free ports")


def kafka_home() -> dict[str, str]:
    """Where Kafka's jars are: as told, as the demo has them, else fetched once for all later runs."""
    if os.environ.get("LOCAL_KAFKA_HOME"):
        return {"LOCAL_KAFKA_HOME": os.environ["LOCAL_KAFKA_HOME"]}
    pom = (ROOT / "deploy" / "local" / "kafka" / "pom.xml").read_text()
    name = "kafka-" + re.search("<kafka.version>(.*?)</kafka.version>", pom).group(1)
    if (ROOT / ".local" / name / "libs").exists():
        return {}  # deploy/local finds them itself
    (ROOT / ".build").mkdir(exist_ok=True)
    return {"LOCAL_KAFKA_HOME": str(ROOT / ".build" / name)}


def local_environment(folder: pathlib.Path, *names: str) -> dict[str, str]:
    """For the scripts of deploy/local: this folder, this build, a free port for each of names (LOCAL_…_PORT)."""
    kept = {"LOCAL_KAFKA": os.environ["LOCAL_KAFKA"]} if os.environ.get("LOCAL_KAFKA") else {}
    ports = {f"LOCAL_{name}_PORT": str(port) for name, port in zip(names, free_ports(len(names)))}
    return {**clean_environment(), **kafka_home(), **kept, **ports, "LOCAL_DIR": str(folder), "LOCAL_BUILD_DIR": str(BUILD)}


class Guard:
    """Ends the stack of this environment when this process is gone without done(): the guard's stdin is then at its end."""

    def __init__(self, environment: dict[str, str]):
        end = f'read -r word; [ "$word" = done ] || {{ {shlex.quote(str(STACK))} kill; {shlex.quote(str(STACK))} purge; }}'
        self._process = subprocess.Popen(["bash", "-c", end], env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL, start_new_session=True)

    def done(self) -> None:
        self._process.communicate(b"done\n", timeout=START_TIMEOUT_S)


def run_local(command: list, environment: dict[str, str], timeout: float, cwd: pathlib.Path = ROOT) -> tuple[int, str]:
    """Exit status and everything said. Into a file, not a pipe: services inherit it and outlive the call."""
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                              timeout=timeout, check=False)
        output.seek(0)
        return done.returncode, output.read().decode(errors="replace")


class Stack:
    """start() once, close() always."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nrw-stack-"))
        self._environment = local_environment(self.folder, "PG", "REDIS", "KAFKA", "KAFKA_CONTROLLER")
        self.exports: dict[str, str] = {}
        self._guard: Guard | None = None

    # ---- life ----

    def start(self) -> "Stack":
        self._guard = Guard(self._environment)
        self._run("fetch", "kafka", timeout=FETCH_TIMEOUT_S)
        self._run("start", "postgres", "redis", "kafka")
        self._read_exports()
        subprocess.run([ROOT / "schema" / "apply"], check=True, timeout=START_TIMEOUT_S, stdout=subprocess.DEVNULL,
                       env={**self._environment, "NRW_DATABASE_URL": self.database_url})
        return self

    def close(self) -> None:
        if self._guard is None:
            return
        try:
            self._run("stop")
        finally:
            # Also what could not be stopped politely.
            self._run("kill")
            self._run("purge")
            self._guard.done()
            self._guard = None

    def _run(self, *arguments: str, timeout: float = START_TIMEOUT_S) -> str:
        status, text = run_local([STACK, *arguments], self._environment, timeout)
        if status != 0:
            raise RuntimeError(f"deploy/local/stack {' '.join(arguments)}: exit {status}\n{text}")
        return text

    def _read_exports(self) -> None:
        lines = subprocess.run([ROOT / "deploy" / "local" / "env"], env=self._environment, check=True, timeout=30,
                               stdout=subprocess.PIPE, text=True).stdout.splitlines()
        self.exports = dict(shlex.split(line)[1].split("=", 1) for line in lines if line.startswith("export "))

    # ---- where things are ----

    @property
    def database_url(self) -> str:
        return self.exports["NRW_DATABASE_URL"]

    @property
    def brokers(self) -> str:
        return self.exports["NRW_KAFKA_BROKERS"]

    @property
    def kafka_is_real(self) -> bool:
        return self.exports["DEMO_KAFKA"] == "real"

    @property
    def worker_environment(self) -> dict[str, str]:
        """What every worker of this stack needs; topic, group and admin port are a test's own."""
        names = ("NRW_DATABASE_URL", "NRW_REDIS_URL", "NRW_KAFKA_BROKERS", "NRW_KEYRING_FILE", "NRW_ALLOW_CIDRS", "NRW_ALLOW_HTTP")
        return {name: self.exports[name] for name in names}

    def connect(self, superuser: bool = False) -> psycopg.Connection:
        """An autocommit connection in UTC, as the worker's role or as the server's superuser (then in the same database)."""
        url = self.database_url
        if superuser:
            url = self.exports["DEMO_POSTGRES_URL"].rsplit("/", 1)[0] + "/netrecon"
        return psycopg.connect(url, autocommit=True, connect_timeout=10, options="-c timezone=UTC -c statement_timeout=60s")

    def query(self, sql: str, *parameters) -> list[tuple]:
        with self.connect() as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def another_database(self, name: str):
        """with stack.another_database("x") as other: … the same services, but an empty database of PostgreSQL and one of Redis."""
        other = copy.copy(self)
        other.exports = {**self.exports, "NRW_DATABASE_URL": self.database_url.rsplit("/", 1)[0] + "/" + name,
                         "NRW_REDIS_URL": self.exports["NRW_REDIS_URL"].rsplit("/", 1)[0] + "/1"}
        with self.connect(superuser=True) as connection:
            connection.execute(f'create database "{name}" owner netrecon')
        try:
            yield other
        finally:
            with self.connect(superuser=True) as connection:
                connection.execute(f'drop database "{name}" with (force)')

    def topic(self, partitions: int = 3) -> Topic:
        return Topic(self, partitions)

    def log_text(self, service: str) -> str:
        path = self.folder / "log" / f"{service}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # ---- faults ----

    def start_service(self, name: str, wait: bool = True) -> None:
        self._run("start", *([] if wait else ["--no-wait"]), name)

    def stop_service(self, name: str) -> None:
        self._run("stop", name)

    def kill_service(self, name: str) -> None:
        self._run("kill", name)

    def pg_stop(self) -> None:
        self.stop_service("postgres")

    def pg_kill(self) -> None:
        self.kill_service("postgres")

    def pg_start(self) -> None:
        self.start_service("postgres")

    @contextlib.contextmanager
    def pg_paused(self):
        """with stack.pg_paused(): … its processes are there, its port accepts, and nothing answers."""
        with self.connect(superuser=True) as connection:
            [[folder]] = connection.execute("show data_directory").fetchall()
        parent = int(pathlib.Path(folder, "postmaster.pid").read_text().split()[0])
        paused = [parent]
        os.kill(parent, signal.SIGSTOP)  # first, so that it starts no other one
        try:
            for child in pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
                os.kill(int(child), signal.SIGSTOP)
                paused.append(int(child))
            yield
        finally:
            for pid in reversed(paused):
                os.kill(pid, signal.SIGCONT)

    def redis_stop(self) -> None:
        self.stop_service("redis")

    def redis_kill(self) -> None:
        self.kill_service("redis")

    def redis_start(self) -> None:
        self.start_service("redis")

    def kafka_stop(self) -> None:
        self.stop_service("kafka")

    def kafka_kill(self) -> None:
        self.kill_service("kafka")

    def kafka_start(self) -> None:
        self.start_service("kafka")

    def ensure_running(self) -> None:
        """What a failed test left stopped is started again, so that the next test is independent of it."""
        for name in ("postgres", "redis", "kafka"):
            self.start_service(name)

    def await_pg(self) -> None:
        def answers():
            try:
                return self.query("select 1")
            except psycopg.OperationalError:
                return []

        await_condition(answers, 30, "PostgreSQL answers")
