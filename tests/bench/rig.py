"""What a bench run needs around the worker: stores, receiver, name server, TLS front, webhooks, topics full of events.

Everything listens on loopback addresses only, lives in one temporary folder, and ends with close() or with this process.
"""

import base64
import datetime as dt
import ipaddress
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import uuid

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID

from support import bulk
from support.paths import BUILD, PRODUCE, clean_environment
from support.sink import Sink
from support.stack import Stack, free_ports
from support.tenant import Webhook
from support.wait import await_condition
from support.worker import Worker

SECRET = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOSTS_BASE = "127.1.0.1"  # h<i>.bench.test is this address + i
EVENT_BYTES = 600
PARTITIONS = 6
TOOL_TIMEOUT_S = 180


def tied(command: list) -> list[str]:
    """The command, to end with the thread that starts it."""
    return ["setpriv", "--pdeathsig", "KILL", *map(str, command)]


def address(i: int) -> str:
    """Where the receiver listens besides 127.0.0.1, i from 0."""
    return str(ipaddress.IPv4Address(HOSTS_BASE) + i)


class Rig:
    """start() … close()."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nrw-bench-"))
        self.folder.chmod(0o711)  # nginx' worker process passes through
        self.stack = Stack()
        self.port, self.tls_port, self.dns_port = free_ports(3)
        self.sink: Sink | None = None
        self._helpers: list[subprocess.Popen] = []
        self._numbers = iter(range(1, 1000))

    def start(self, hosts: int) -> "Rig":
        self.stack.start()
        self.sink = Sink(self.folder / "sink", "--count-only", "--latency", "--listen-range", f"{HOSTS_BASE}:{self.port}/{hosts}",
                         ledger=False, listen=f"127.0.0.1:{self.port}")
        return self

    def close(self) -> None:
        for helper in self._helpers:
            self.end(helper)
        if self.sink is not None:
            self.sink.close()
        self.stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- helpers of a scenario ----

    def _spawn(self, name: str, command: list) -> subprocess.Popen:
        with open(self.folder / f"{name}.log", "wb") as log:
            helper = subprocess.Popen(tied(command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=clean_environment())
        self._helpers.append(helper)
        return helper

    def end(self, helper: subprocess.Popen) -> None:
        if helper in self._helpers:
            self._helpers.remove(helper)
            helper.terminate()
            helper.wait(TOOL_TIMEOUT_S)

    def name_server(self, one_address: str | None = None) -> subprocess.Popen:
        """All names at one address, or each at its own."""
        command = [BUILD / "tests" / "bench_dns", "--listen", f"127.0.0.1:{self.dns_port}", "--base", one_address or HOSTS_BASE]
        return self._spawn("dns", command + (["--one"] if one_address else []))

    def tls_front(self, keep_alive: bool) -> subprocess.Popen:
        """nginx, one process, answers 200 by itself over TLS with a certificate of tls_authority()."""
        self.tls_authority()
        (self.folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {self.folder}/nginx.pid; error_log {self.folder}/nginx.error;\n"
            "worker_rlimit_nofile 20000;\nevents { worker_connections 12000; }\n"
            "http { access_log off; keepalive_requests 1000000000; server {\n"
            f"listen 127.0.0.1:{self.tls_port} ssl backlog=8192; keepalive_timeout {75 if keep_alive else 0};\n"
            f"ssl_certificate {self.folder}/server.pem; ssl_certificate_key {self.folder}/server.key;\n"
            + "".join(f"{name}_temp_path {self.folder}/nginx;\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
            + "location / { return 200; } } }\n")
        front = self._spawn("nginx", ["nginx", "-e", self.folder / "nginx.error", "-c", self.folder / "nginx.conf"])
        await_condition(lambda: (self.folder / "nginx.pid").exists() or front.poll() is not None, 10, "nginx runs")
        assert front.poll() is None, (self.folder / "nginx.log").read_text()
        return front

    def tls_authority(self) -> pathlib.Path:
        """PEM file of an authority made for this run; it has signed *.bench.test."""
        path = self.folder / "ca.pem"
        if path.exists():
            return path
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.timezone.utc)

        def name(text):
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        def certificate(subject, subject_key, extension):
            return (x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("bench CA")).public_key(subject_key.public_key())
                    .serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(hours=1))
                    .not_valid_after(now + dt.timedelta(days=1)).add_extension(extension, False).sign(ca_key, hashes.SHA256())
                    .public_bytes(serialization.Encoding.PEM))

        (self.folder / "server.pem").write_bytes(certificate("bench.test", key, x509.SubjectAlternativeName([x509.DNSName("*.bench.test")])))
        (self.folder / "server.key").write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        path.write_bytes(certificate("bench CA", ca_key, x509.BasicConstraints(True, None)))
        return path

    # ---- webhooks and events ----

    def tenants(self, urls: list[str]) -> str:
        """One tenant with one webhook for each URL, instead of all that were there; the first tenant's id. Secrets are sealed as
        common/seal.h says, here and not by the worker's own command because there are thousands."""
        base = str(uuid.uuid4())
        key_id, key = pathlib.Path(self.stack.exports["NRW_KEYRING_FILE"]).read_text().strip().split(",")[0].split(":")
        cipher = AESGCM(base64.b64decode(key))
        head = bytes([1, len(key_id)]) + key_id.encode()
        ids = [uuid.UUID(t) for t in self._produce("--topic", "-", "--tenant", base, "--tenants", str(len(urls)), "--print-tenants").split()]
        with self.stack.connect() as db:
            db.execute("truncate events, attempts, pending_deliveries, webhooks, api_keys, tenants cascade")
            with db.cursor().copy("copy tenants (id, name) from stdin") as rows:
                for tenant in ids:
                    rows.write_row((tenant, "bench"))
            with db.cursor().copy("copy webhooks (id, tenant_id, url, secret, events) from stdin") as rows:
                for tenant, url in zip(ids, urls):
                    webhook, nonce = uuid.uuid4(), os.urandom(12)
                    aad = head + b"webhooks.secret\0" + webhook.bytes + tenant.bytes
                    rows.write_row((webhook, tenant, url, head + nonce + cipher.encrypt(nonce, SECRET, aad), ["*"]))
            db.execute("analyze webhooks")
        return base

    def webhooks(self) -> list[Webhook]:
        """What tenants() made."""
        rows = self.stack.query("select id, tenant_id, url from webhooks order by url")
        return [Webhook(self.stack, tenant, webhook, url, SECRET.decode()) for webhook, tenant, url in rows]

    def overdue(self, count: int) -> None:
        """count deliveries that failed before and became due in the same minute, the same number to each webhook; Redis knows nothing of them."""
        webhooks = self.webhooks()
        for webhook in webhooks:
            bulk.overdue(self.stack, webhook, count // len(webhooks), spread_s=60, padding=EVENT_BYTES - 230)
        self.stack.query("analyze pending_deliveries")
        with redis.Redis.from_url(self.stack.exports["NRW_REDIS_URL"]) as client:
            client.flushall()

    def topic(self):
        return self.stack.topic(PARTITIONS)

    def fill(self, topic, tenant: str, tenants: int, count: int) -> None:
        """count events, the tenants in turn, all in Kafka when this returns."""
        self._produce("--brokers", self.stack.brokers, "--topic", topic.name, "--tenant", tenant, "--tenants", str(tenants),
                      "--count", str(count), "--size", str(EVENT_BYTES), "--wait")

    def trickle(self, topic, tenant: str, tenants: int, count: int, rate: int) -> None:
        """The same, `rate` a second, each with the time when it was handed to the producer."""
        self._produce("--brokers", self.stack.brokers, "--topic", topic.name, "--tenant", tenant, "--tenants", str(tenants),
                      "--count", str(count), "--rate", str(rate), "--size", str(EVENT_BYTES), "--wait")

    @staticmethod
    def _produce(*options: str) -> str:
        brokers = () if "--brokers" in options else ("--brokers", "-")
        return subprocess.run(tied([PRODUCE, *brokers, *options]), check=True, timeout=TOOL_TIMEOUT_S, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True, env=clean_environment()).stdout

    # ---- programs under measurement ----

    def worker(self, topic, **settings) -> Worker:
        """Not started. Its own folder, so that each log begins with its process."""
        return Worker(self.stack, self.folder / f"worker-{next(self._numbers)}", topic, dns_servers=f"127.0.0.1:{self.dns_port}",
                      **{"connections_max": 8192, **settings})

    def bare(self, count: int) -> dict:
        """One run of the bare libcurl loop against the same receiver, with bodies of the same size."""
        command = [BUILD / "tests" / "bare_curl", "--url", f"http://127.0.0.1:{self.port}/bare", "--count", count, "--size", EVENT_BYTES]
        done = subprocess.run(tied(command), check=True, timeout=TOOL_TIMEOUT_S, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout)

    def healthy_sink(self) -> Sink:
        """A receiver beside the others, whose latencies are its own. The caller closes it."""
        return Sink(self.folder / f"healthy-{next(self._numbers)}", "--count-only", "--latency", ledger=False)

    def actors(self, worker: Worker, **more: subprocess.Popen) -> dict[str, tuple[int, bool]]:
        """Whose CPU time counts: name -> (pid, with its children)."""
        run = self.stack.folder / "run"
        return {"worker": (worker.pid, False), "postgres": (int((run / "postgres.pid").read_text().split()[0]), True),
                "kafka": (int((run / "kafka.pid").read_text().split()[0]), False),
                "redis": (int((run / "redis.pid").read_text().split()[0]), False), "sink": (self.sink.process.pid, False),
                **{name: (process.pid, False) for name, process in more.items()}}

    @staticmethod
    def settle(seconds: float = 1.0) -> None:
        """What the last scenario left to be done (commits, checkpoints) shall not burden the next."""
        time.sleep(seconds)
