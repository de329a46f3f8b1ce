"""The REST API on a log of millions of attempts: latency of each way to read it under four concurrent clients, and what a request costs,
beside PostgreSQL's own floor: pgbench with the very statements that the program sends, parameters put in."""

import base64
import contextlib
import json
import multiprocessing
import pathlib
import random
import re
import socket
import statistics
import subprocess
import time

import fill_log
from procs import Clock, children
from support.api import WEBHOOKS, Api, make_token
from support.postgres import bin_dir
from support.wait import await_condition

CLIENTS = 4
WARM = 0.1  # of the requests, before those that count
TIMEOUT_S = 30
SHARED_BUFFERS = "1GB"  # of a server that is meant for such a log: a quarter of a small one's memory, as PostgreSQL's documentation advises
EVENT_URL = "https://hooks.example.com/bench"


def _request(token: str, path: str, method: str = "GET", body: bytes = b"") -> bytes:
    more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{method} {WEBHOOKS}{path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n{more}\r\n".encode() + body


def _one(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """Sends it; status and body of the answer."""
    connection.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536) or b"\r\n\r\n"
    head, body = data.split(b"\r\n\r\n", 1)
    length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
    while len(body) < length:
        body += connection.recv(65536)
    return int(head.split()[1]), body


def _client(port: int, requests: list[bytes]) -> list[tuple[float, int]]:
    """Time and status of each, one after the other on one connection."""
    found = []
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in requests:
            began = time.perf_counter()
            status, _ = _one(connection, request)
            found.append((time.perf_counter() - began, status))
    return found


class _Bench:
    """The log, the program, and who uses CPU time."""

    def __init__(self, rig, program: Api, log: fill_log.Log):
        self.stack, self.program, self.log = rig.stack, program, log
        run = rig.stack.folder / "run"
        self.folder = rig.folder
        self.actors = {"api": (program.pid, False), "postgres": (int((run / "postgres.pid").read_text().split()[0]), True)}
        self.tokens = {tenant: make_token(tenant) for tenant in set(log.webhooks.values())}

    def request(self, webhook, path: str) -> bytes:
        return _request(self.tokens[self.log.webhooks[webhook]], f"/{webhook}{path}")

    def ask(self, request: bytes) -> dict:
        with socket.create_connection(("127.0.0.1", self.program.api_port), TIMEOUT_S) as connection:
            status, body = _one(connection, request)
        assert status < 300, body
        return json.loads(body)

    def measure(self, requests: list[bytes]) -> dict:
        """All of them, by CLIENTS processes at once."""
        shares = [requests[i::CLIENTS] for i in range(CLIENTS)]
        warm = [share[: int(WARM * len(share))] for share in shares]
        with multiprocessing.get_context("fork").Pool(CLIENTS) as pool:
            self._all(pool, warm)
            before = Clock(self.actors)
            times = self._all(pool, [share[len(w):] for share, w in zip(shares, warm)])
            used = Clock(self.actors).since(before)
        cuts = statistics.quantiles(times, n=100)
        return {"requests": len(times), "per_s": len(times) / used["seconds"], "p50_ms": 1000 * cuts[49], "p99_ms": 1000 * cuts[98],
                "max_ms": 1000 * max(times), "cpu_us": {name: 1e6 * cpu / len(times) for name, cpu in used["cpu_s"].items()},
                "other_cores": used["other_cores"]}

    def _all(self, pool, shares: list[list[bytes]]) -> list[float]:
        found = sum(pool.starmap(_client, [(self.program.api_port, share) for share in shares]), [])
        wrong = {status for _, status in found if status >= 300}
        assert not wrong, f"answers {wrong}"
        return [took for took, _ in found]

    # ---- PostgreSQL's own floor ----

    @contextlib.contextmanager
    def statements_logged(self):
        with self.stack.connect(superuser=True) as db:
            db.execute("alter role netrecon set log_statement = 'all'")
            self._new_sessions(db)
            yield
            db.execute("alter role netrecon reset log_statement")
            self._new_sessions(db)

    def _new_sessions(self, db) -> None:
        sessions = "from pg_stat_activity where application_name like 'nrw-api%'"
        old = {pid for pid, _ in db.execute(f"select pid, pg_terminate_backend(pid) {sessions}").fetchall()}
        await_condition(lambda: len({pid for pid, in db.execute(f"select pid {sessions}")} - old) == len(old), 10, "the API is connected again")
        await_condition(lambda: self.program.get("/ready").status_code == 200, 10, "the API is ready again")

    def statements_of(self, request: bytes) -> list[str]:
        """What the program sends for it, with the parameters in their places."""
        before = len(self.stack.log_text("postgres"))
        self.ask(request)
        text = self.stack.log_text("postgres")[before:]
        found = re.findall(r"execute <unnamed>: (.*)\n(?:.*DETAIL:  parameters: (.*)\n)?", text)
        return [self._filled(sql, parameters) for sql, parameters in found]

    @staticmethod
    def _filled(sql: str, parameters: str) -> str:
        values = dict(re.findall(r"\$(\d+) = ('(?:[^']|'')*'|NULL)", parameters))
        return re.sub(r"\$(\d+)", lambda place: values[place[1]], sql)

    def floor(self, statements: list[str], seconds: int) -> dict:
        """The same unit, as fast as PostgreSQL does it for as many clients."""
        script = self.folder / "floor.sql"
        script.write_text("\\startpipeline\n" + "".join(f"{sql};\n" for sql in statements) + "\\endpipeline\n")
        server, _ = self.actors["postgres"]
        old = set(children(server))
        before = Clock(self.actors)
        done = subprocess.run([pathlib.Path(bin_dir()) / "pgbench", "-n", "-M", "extended", "-c", str(CLIENTS), "-T", str(seconds), "-f", script,
                               self.stack.database_url], check=True, timeout=seconds + TIMEOUT_S, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # The time of a session that is just ending is in nobody's books.
        await_condition(lambda: set(children(server)) <= old | {pid for pid, in self.stack.query("select pid from pg_stat_activity")}, TIMEOUT_S,
                        "pgbench's sessions have ended")
        used = Clock(self.actors).since(before)
        n = int(re.search(r"transactions actually processed: (\d+)", done.stdout)[1])
        return {"per_s": float(re.search(r"tps = ([0-9.]+)", done.stdout)[1]), "cpu_us": 1e6 * used["cpu_s"]["postgres"] / n}


def _cursor(delivery, at) -> str:
    """As api/cursor.h makes them."""
    return base64.urlsafe_b64encode(b"\x01" + int(1e6 * at.timestamp()).to_bytes(8, "big") + delivery.bytes + b"\0\1").decode()


def _reads(bench: _Bench, n: int) -> dict[str, list[bytes]]:
    """n requests of each kind. Reproducible."""
    dice = random.Random(1)
    some = [dice.choice(bench.log.ordinary) for _ in range(n)]
    heavy = bench.log.heavy
    cursors, deliveries = {}, {}
    for webhook in {*some[:50], heavy}:
        rows = bench.stack.query("select delivery_id, started_at from attempts where webhook_id = %s order by attempt desc, random() limit 40",
                                webhook)  # with a payload, where there are such
        deliveries[webhook] = rows
        cursors[webhook] = [_cursor(delivery, at) for delivery, at in rows]
    known = [webhook for webhook in cursors if webhook != heavy]

    def of(webhooks, path) -> list[bytes]:
        return [bench.request(webhook, path(webhook)) for webhook in webhooks]

    def detail(webhook, hint: bool = False) -> str:
        delivery, at = dice.choice(deliveries[webhook])
        return f"/deliveries/{delivery}" + (f"?attempted_at={at.isoformat().replace('+', '%2B')}" if hint else "")

    def by_cursor(webhook) -> str:
        return f"/deliveries?cursor={dice.choice(cursors[webhook])}"

    again = [known[i % len(known)] for i in range(n)]
    few = [heavy] * (n // 4)
    return {
        "first": of(some, lambda w: "/deliveries"), "page_100": of(some, lambda w: "/deliveries?page=100"), "cursor": of(again, by_cursor),
        "detail": of(again, detail), "stats": of(some[: n // 4], lambda w: "/stats"),
        "heavy_first": of(few, lambda w: "/deliveries"), "heavy_page_100": of(few, lambda w: "/deliveries?page=100"),
        "heavy_cursor": of(few, by_cursor), "heavy_detail": of(few, detail), "heavy_detail_hint": of(few, lambda w: detail(w, True)),
        "heavy_stats": of([heavy] * max(20, n // 50), lambda w: "/stats?hours=168"),
    }


@contextlib.contextmanager
def _buffers(stack):
    def restart(statement: str) -> None:
        with stack.connect(superuser=True) as db:
            db.execute(statement)
        stack.pg_stop()
        stack.pg_start()

    restart(f"alter system set shared_buffers = '{SHARED_BUFFERS}'")
    yield
    restart("alter system reset shared_buffers")


def measure_api(rig, volume: fill_log.Volume, requests: int, floor_s: int) -> dict:
    """Every kind of reading, then what a list and a creation cost beside their floors."""
    with _buffers(rig.stack):
        return _measure(rig, volume, requests, floor_s)


def _measure(rig, volume: fill_log.Volume, requests: int, floor_s: int) -> dict:
    with rig.stack.connect() as db:
        db.execute("truncate events, attempts, pending_deliveries, webhooks, api_keys, tenants cascade")
    log = fill_log.fill(rig.stack.database_url, volume)
    program = Api(rig.stack, rig.folder / "api", webhooks_max=100_000)
    program.start()
    try:
        program.ready()
        bench = _Bench(rig, program, log)
        found = {name: bench.measure(asked) for name, asked in _reads(bench, requests).items()}
        webhook = log.ordinary[0]
        body = json.dumps({"url": EVENT_URL, "events": ["*"]}).encode()
        creation = _request(bench.tokens[log.webhooks[log.heavy]], "", "POST", body)
        with bench.statements_logged():
            listing = bench.statements_of(bench.request(webhook, "/deliveries"))
            creating = bench.statements_of(creation)
        made_id = re.search(r"SELECT ('[0-9a-f-]{36}')", creating[1])[1]
        creating = [sql.replace(made_id, "gen_random_uuid()") for sql in creating]
        found["create"] = bench.measure([creation] * requests)
        found["floor_list"], found["floor_create"] = bench.floor(listing, floor_s), bench.floor(creating, floor_s)
        found["other_cores"] = found["first"]["other_cores"]
        return found
    finally:
        program.close()
