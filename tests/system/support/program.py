"""A program of ours as a process of a test: its own settings, admin port, log file; signals and metrics as methods."""

import json
import os
import pathlib
import signal
import subprocess
import threading
from collections.abc import Sequence

import requests

from support.paths import WRAPPER, clean_environment
from support.wait import PATIENCE, await_condition

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 45
SANITIZER_WORDS = ("AddressSanitizer", "LeakSanitizer", "runtime error:", "UndefinedBehaviorSanitizer")


class Program:
    """start() … stop(). After stop() or kill9(), start() begins another process with the same settings; the log goes on in the same file.
    settings: NRW_ names without the prefix, in any case (topic="…"); None takes one away. around: a command that runs the program."""

    path: pathlib.Path  # of the program
    started = ""  # its log line with the ports

    def __init__(self, folder: pathlib.Path, name: str, environment: dict[str, str], around: Sequence[str] = (), **settings):
        self.folder = pathlib.Path(folder)
        self.around = around
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_path = self.folder / f"{name}.log"
        self.stderr_path = self.folder / f"{name}.stderr"
        self.process: subprocess.Popen | None = None
        self.port = 0
        self._parsed: list[dict] = []
        self._read_to = 0
        self._reading = threading.Lock()
        self._starts = 0
        self._asked_to_end: int | None = None  # the exit status of a process that was stopped or killed by the test
        self.environment = {"NRW_ADMIN_LISTEN": "127.0.0.1:0", **environment}
        for key, value in settings.items():
            if value is None:
                self.environment.pop("NRW_" + key.upper(), None)
            else:
                self.environment["NRW_" + key.upper()] = str(value)

    # ---- life ----

    def start(self):
        """Returns when the process runs and its admin port is known; ready() says when it takes events."""
        assert not self.running, f"{self.log_path.stem} runs already"
        # The program ends with the thread that called start(), so that a killed test run leaves nothing.
        command = ["setpriv", "--pdeathsig", "KILL", *self.around, *WRAPPER, str(self.path)]
        with open(self.log_path, "ab") as log, open(self.stderr_path, "ab") as stderr:
            self.process = subprocess.Popen(command, env={**clean_environment(), **self.environment}, cwd="/",
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=stderr, start_new_session=True)
        self._starts += 1
        self._asked_to_end = None
        await_condition(lambda: self.process.poll() is not None or len(self.log_lines(self.started)) == self._starts,
                        START_TIMEOUT_S, lambda: f"{self.started} in the log\n{self.tail()}")
        assert self.running, f"{self.path.name} ended with {self.process.returncode} while starting\n{self.tail()}"
        self.port = self.log_lines(self.started)[-1]["admin_port"]
        return self

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid

    def ready(self, timeout: float = START_TIMEOUT_S):
        """Returns when /ready says 200."""
        def answer():
            assert self.running, f"{self.path.name} ended with {self.process.returncode}\n{self.tail()}"
            try:
                return self.get("/ready").status_code == 200
            except requests.ConnectionError:
                return False

        await_condition(answer, timeout, lambda: f"/ready says 200\n{self.tail()}")
        return self

    def stop(self) -> int:
        """SIGTERM; asserts exit status 0 and a clean stderr."""
        return self.wait_exit(signal.SIGTERM)

    def wait_exit(self, how: signal.Signals | None = None, expected: int = 0) -> int:
        if how is not None:
            self.process.send_signal(how)
        code = self._asked_to_end = self.process.wait(STOP_TIMEOUT_S * PATIENCE)
        assert code == expected, f"exit status {code}\n{self.tail()}"
        self.assert_clean()
        return code

    def kill9(self) -> None:
        self.process.kill()
        self._asked_to_end = self.process.wait(STOP_TIMEOUT_S)
        assert self._asked_to_end == -signal.SIGKILL, f"it had ended before, with {self._asked_to_end}\n{self.tail()}"
        self.assert_clean()

    def sigstop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def sigcont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """For fixtures: what still runs must end as asked; what ended without having been asked has crashed."""
        assert self.running or self.process is None or self.process.returncode == self._asked_to_end, (
            f"{self.path.name} ended by itself with {self.process.returncode}\n{self.tail()}")
        if self.running:
            self.sigcont()
            try:
                self.stop()
            finally:
                if self.running:
                    self.process.kill()
                    self.process.wait(STOP_TIMEOUT_S)

    # ---- what it says ----

    def get(self, path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=10 * PATIENCE)

    def metrics(self) -> dict[str, float]:
        """Keys as they are written: name, or name{label="value"}."""
        lines = self.get("/metrics").text.splitlines()
        return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))}

    def metric(self, name: str) -> float:
        """One value; a name without labels sums over its label sets."""
        found = [value for key, value in self.metrics().items() if key == name or key.startswith(name + "{")]
        assert found, f"no metric {name}"
        return sum(found)

    def log_lines(self, event: str | None = None, **fields) -> list[dict]:
        """Parsed lines so far (of all its processes) with this event name and these fields."""
        with self._reading:
            self._parse_new()
        wanted = dict(fields) if event is None else {"event": event, **fields}
        return [line for line in self._parsed if wanted.items() <= line.items()]

    def wait_log(self, event: str, timeout: float = 20, **fields) -> dict:
        """The first such line, when it is there."""
        return await_condition(lambda: self.log_lines(event, **fields), timeout, lambda: f"log line {event} {fields}\n{self.tail()}")[0]

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stderr_text(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def memory(self) -> int:
        """Resident bytes."""
        [line] = [line for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024

    def tail(self, lines: int = 15) -> str:
        """The end of log and stderr, for people."""
        out = []
        for path in (self.log_path, self.stderr_path):
            if path.exists():
                out += [f"--- {path.name}", *(line[:600] for line in path.read_text(errors="replace").splitlines()[-lines:])]
        return "\n".join(out)

    def assert_clean(self) -> None:
        found = [word for word in SANITIZER_WORDS if word in self.stderr_text()]
        assert not found, f"{found}\n{self.stderr_text()[-6000:]}"

    def _parse_new(self) -> None:
        with open(self.log_path, "rb") as log:
            log.seek(self._read_to)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            try:
                self._parsed.append(json.loads(line))
            except ValueError as error:
                raise AssertionError(f"a log line is not JSON: {line[:500]!r}") from error
