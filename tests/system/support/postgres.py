"""A private PostgreSQL server for tests: own folder, own port on 127.0.0.1, durable (fsync on).

Faults are methods. Used by every system test that needs a real database; knows nothing of the schema.
"""

import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import psycopg

START_TIMEOUT_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def bin_dir() -> str:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda p: int(p.split("/")[4]))
    if not found:
        raise RuntimeError("PostgreSQL is not installed (Debian package postgresql)")
    return os.path.dirname(found[-1])


class Postgres:
    """with Postgres() as pg: … pg.url() …, or start() and close(). After stop() or kill9(), start() goes on with the same data and port.
    The server ends with the thread that called start(), so that a killed test run leaves nothing: start it in the main thread."""

    user = "postgres"

    def __init__(self, folder: str | None = None, settings: dict[str, str] | None = None):
        self._own_folder = folder is None
        self.folder = folder or tempfile.mkdtemp(prefix="nrw-postgres-")
        self.data = os.path.join(self.folder, "data")
        self.log_path = os.path.join(self.folder, "postgres.log")
        self.port = free_port()
        self.settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on",
            "max_connections": "100",
            "timezone": "Pacific/Auckland",  # a server that is not on UTC: days must not depend on it
            "log_line_prefix": "%m [%p] %a ",
            **(settings or {}),
        }
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "Postgres":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres", **kwargs) -> psycopg.Connection:
        return psycopg.connect(self.url(database), autocommit=kwargs.pop("autocommit", True), connect_timeout=10, **kwargs)

    def create_database(self, name: str, template: str = "template0") -> str:
        with self.connect() as connection:
            connection.execute(f'create database "{name}" template "{template}"')
        return self.url(name)

    def start(self) -> None:
        """Returns when the server answers. Any earlier data of this object are still there."""
        if self.process and self.process.poll() is None:
            raise RuntimeError("this PostgreSQL runs already")
        self.prepare()
        command = [os.path.join(bin_dir(), "postgres"), "-D", self.data, "-p", str(self.port)]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value}"]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self._as_owner(command), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT, start_new_session=True)
        self._wait_until_ready()

    def prepare(self) -> None:
        """Makes the data folder, for tests that put something into it before the start."""
        if not os.path.exists(os.path.join(self.data, "PG_VERSION")):
            self._initdb()

    def standby(self) -> "Postgres":
        """Another server, which follows this one once it is started, and takes no writes until promote()."""
        other = Postgres(settings=self.settings)
        if os.geteuid() == 0:
            shutil.chown(other.folder, "postgres", "postgres")
        subprocess.run(self._as_owner([os.path.join(bin_dir(), "pg_basebackup"), "--pgdata", other.data, "--dbname", self.url(),
                                       "--checkpoint", "fast", "--write-recovery-conf"]), cwd=other.folder, check=True, timeout=120)
        return other

    def promote(self) -> None:
        with self.connect() as connection:
            assert connection.execute("select pg_promote(true, 60)").fetchone() == (True,)

    def stop(self) -> None:
        """Orderly and at once: open sessions are ended, nothing committed is lost."""
        self._end(signal.SIGINT)

    def kill9(self) -> None:
        """As a crash: the postmaster dies without a word; its children notice and go."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def backend_pids(self) -> list[int]:
        """Processes of this server but the postmaster: for CPU figures."""
        with self.connect() as connection:
            return [row[0] for row in connection.execute("select pid from pg_stat_activity where pid <> pg_backend_pid()")]

    def log_text(self) -> str:
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    @staticmethod
    def _as_owner(command: list[str]) -> list[str]:
        """PostgreSQL refuses to run as root."""
        owner = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
        return ["setpriv", "--pdeathsig", "INT", *owner, *command]

    def _initdb(self) -> None:
        os.makedirs(self.folder, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        subprocess.run(
            self._as_owner([os.path.join(bin_dir(), "initdb"), "-D", self.data, "-U", self.user, "-A", "trust", "-E", "UTF8",
                            "--locale=C.UTF-8", "--no-instructions"]),
            cwd=self.folder, check=True, stdout=subprocess.DEVNULL, timeout=120)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {error}\n{self.log_text()[-2000:]}") from error
                time.sleep(0.05)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        children = self._children()
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(timeout=60)
        self.process = None
        # After a SIGKILL the children outlive the postmaster for a moment, and a new one would refuse to start beside them.
        deadline = time.monotonic() + 30
        while any(os.path.exists(f"/proc/{pid}") for pid in children):
            if time.monotonic() > deadline:
                raise RuntimeError(f"children of PostgreSQL are still there: {children}")
            time.sleep(0.02)

    def _children(self) -> list[int]:
        try:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as children:
                return [int(pid) for pid in children.read().split()]
        except OSError:
            return []
