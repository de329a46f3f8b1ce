"""The test receiver tests/tools/sink as an object: what it received is ledger(), what it shall do is in the URL or a control call."""

import json
import pathlib
import signal
import subprocess
from urllib.parse import quote

import requests

from support.paths import SINK
from support.wait import await_condition

TIMEOUT_S = 10


class Sink:
    """A running receiver. store_bodies: body_of() and the ledger's `headers` work. ledger=False: it only counts (stats())."""

    def __init__(self, folder: pathlib.Path, *options: str, store_bodies: bool = False, ledger: bool = True, listen: str = "127.0.0.1:0"):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger_path = folder / "ledger"
        self.bodies = folder / "bodies"
        self.output = folder / "sink.out"
        command = ["setpriv", "--pdeathsig", "KILL", str(SINK), "--listen", listen]
        if ledger:
            command += ["--ledger", str(self.ledger_path)]
        if store_bodies:
            command += ["--store-bodies", str(self.bodies)]
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                            start_new_session=True)
        await_condition(lambda: self.output.read_bytes().endswith(b"\n") or self.process.poll() is not None, TIMEOUT_S, "sink.ready")
        first = self.output.read_text().splitlines()[0]
        assert self.process.poll() is None, f"the receiver ended: {first}"
        self.address = json.loads(first)["listen"][0]
        self.base = f"http://{self.address}"
        self._session = requests.Session()
        self._session.trust_env = False
        self._requests: list[dict] = []
        self._by_seq: dict[int, dict] = {}
        self._read_to = 0

    def url(self, path: str = "/", query: str = "") -> str:
        """query: the behaviour, as in "status=500&delay=100ms"."""
        return f"{self.base}{path}" + (f"?{query}" if query else "")

    # ---- what it received ----

    def ledger(self, path: str | None = None, **fields) -> list[dict]:
        """Requests so far, oldest first. `sent` is False when the answer could not be sent."""
        self._parse_new()
        wanted = fields if path is None else {"path": path, **fields}
        return [line for line in self._requests if wanted.items() <= line.items()]

    def wait(self, n: int, path: str | None = None, timeout: float = 20, **fields) -> list[dict]:
        """The requests, when there are at least n."""
        def enough():
            found = self.ledger(path, **fields)
            return found if len(found) >= n else None

        return await_condition(enough, timeout, lambda: f"{n} requests on {path} {fields}; got {len(self.ledger(path, **fields))}, "
                                                        f"by path: {self.stats()['by_path']}")

    def body_of(self, line: dict) -> bytes:
        return (self.bodies / line["body_sha256"]).read_bytes()

    @staticmethod
    def headers_of(line: dict) -> dict[str, str]:
        """Lower-case names; fails when a name came twice."""
        headers = {name.lower(): value for name, value in line["headers"]}
        assert len(headers) == len(line["headers"]), f"a header came twice: {line['headers']}"
        return headers

    def stats(self) -> dict:
        return self._session.get(f"{self.base}/_control/stats", timeout=TIMEOUT_S).json()

    # ---- what it shall do ----

    def set(self, path: str, query: str) -> None:
        """From now on this path (or "*") behaves so, whatever its URL says."""
        self._control(f"set?path={quote(path, safe='')}&{query}")

    def clear(self, path: str | None = None) -> None:
        self._control("clear" + (f"?path={quote(path, safe='')}" if path else ""))

    def reset_counters(self) -> None:
        self._control("reset")

    def secret(self, prefix: str, secret: str, replace: bool = True) -> None:
        """Signatures on paths that begin so are checked with this secret (replace=False: also with this one)."""
        self._control(f"secret?prefix={quote(prefix, safe='')}" + ("&replace=1" if replace else ""), secret.encode())

    def _control(self, call: str, body: bytes = b"") -> None:
        answer = self._session.post(f"{self.base}/_control/{call}", data=body, timeout=TIMEOUT_S)
        assert answer.status_code == 200, f"{call}: {answer.text}"

    # ---- life ----

    def sigstop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def sigcont(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._session.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        assert self.process.wait(TIMEOUT_S) == 0, self.output.read_text()[-2000:]

    def _parse_new(self) -> None:
        with open(self.ledger_path, "rb") as ledger:
            ledger.seek(self._read_to)
            data = ledger.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for text in whole.splitlines():
            line = json.loads(text)
            if "path" in line:
                self._requests.append(line)
                self._by_seq[line["seq"]] = line
            elif line["seq"] in self._by_seq:
                self._by_seq[line["seq"]]["sent"] = line["sent"]
