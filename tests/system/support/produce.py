"""Events into Kafka. Only what the broker acknowledged counts as produced."""

import datetime as dt
import json
import pathlib
import subprocess
import tempfile
import uuid

from confluent_kafka import Producer as KafkaProducer

from support.kafka import MESSAGE_BYTES_MAX
from support.paths import PRODUCE, clean_environment
from support.priority import raise_priority

TIMEOUT_S = 60
# For the tool: without a key the events of one tenant go to all partitions.
SPREAD = ("--key", "")
SAMPLE_DATA = {"alert_id": "5c0b1d7e-7c0e-4d8a-9a55-0f5f7d1f0c11", "title": "New open port detected", "severity": "high",
               "device_ip": "192.168.1.10"}


def new_id() -> str:
    return str(uuid.uuid4())


def envelope(tenant_id, event: str = "alert.created", event_id: str | None = None, data: dict | None = None, **more) -> dict:
    return {"id": event_id or new_id(), "event": event, "timestamp": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tenant_id": str(tenant_id), "data": SAMPLE_DATA if data is None else data, **more}


class Producer:
    """send() … flush(): flush() returns the ids of what the broker has acknowledged since the last flush(), in order of the reports, and
    fails when something was not acknowledged."""

    def __init__(self, topic):
        self.topic = topic
        self._acked: list[str | None] = []
        self._failed: list[str] = []
        self._kafka = KafkaProducer({"bootstrap.servers": topic.stack.brokers, "acks": "all", "enable.idempotence": True,
                                     "linger.ms": 1, "log_level": 2, "message.max.bytes": MESSAGE_BYTES_MAX * 2, "message.timeout.ms": TIMEOUT_S * 1000})

    def send(self, value: dict | bytes | None, event_id: str | None = None, key=None, headers=None, partition: int = -1,
             timestamp_ms: int = 0) -> str | None:
        """Returns the event's id. A dict is an envelope (its key is the tenant unless one is given); bytes go as they are."""
        if isinstance(value, dict):
            event_id = value["id"]
            key = key if key is not None else value["tenant_id"]
            value = json.dumps(value, separators=(",", ":")).encode()

        def report(error, _message, event_id=event_id):
            if error is None:
                self._acked.append(event_id)
            else:
                self._failed.append(f"{event_id}: {error}")

        if isinstance(key, uuid.UUID):
            key = str(key)
        self._kafka.produce(self.topic.name, value=value, key=key, headers=headers, partition=partition, timestamp=timestamp_ms,
                            on_delivery=report)
        self._kafka.poll(0)
        return event_id

    def flush(self) -> list[str | None]:
        left = self._kafka.flush(TIMEOUT_S)
        assert left == 0 and not self._failed, f"{left} not acknowledged, failed: {self._failed[:5]}"
        acked, self._acked = self._acked, []
        return acked

    def one(self, value, **options) -> str | None:
        """send() and flush()."""
        event_id = self.send(value, **options)
        self.flush()
        return event_id

    def many(self, tenant_id, n: int, event: str = "alert.created", **options) -> list[str]:
        """n events, acknowledged; their ids."""
        for _ in range(n):
            self.send(envelope(tenant_id, event), **options)
        return self.flush()


class ProduceTool:
    """tests/tools/produce in the background, for volume. stop() or wait(); acked() may be asked at any time. first: before all others on the
    processor, where latency is measured."""

    def __init__(self, topic, tenant_id, *options: str, count: int | None = None, rate: int | None = None, burst: int | None = None,
                 event: str = "alert.created", tenants: int = 1, size: int | None = None, first: bool = False):
        self._folder = tempfile.TemporaryDirectory(prefix="nrw-produce-")
        self.acked_path = pathlib.Path(self._folder.name) / "acked"
        self.acked_path.touch()
        command = ["setpriv", "--pdeathsig", "KILL", str(PRODUCE), "--brokers", topic.stack.brokers, "--topic", topic.name,
                   "--tenant", str(tenant_id), "--event", event, "--acked", str(self.acked_path), "--tenants", str(tenants), "--wait"]
        for name, value in (("--count", count), ("--rate", rate), ("--burst", burst), ("--size", size)):
            if value is not None:
                command += [name, str(value)]
        self.process = subprocess.Popen([*command, *options], env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, start_new_session=True)
        if first:
            raise_priority(self.process.pid)

    def acked(self) -> list[str]:
        """Ids of whole lines so far."""
        text = self.acked_path.read_text()
        return text[: text.rfind("\n") + 1].split()

    def wait(self, timeout: float = 180) -> list[str]:
        """Until everything is acknowledged; fails when something was not."""
        output, _ = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, output
        return self._finish()

    def stop(self) -> list[str]:
        """No more; what was handed to Kafka is still awaited."""
        self.process.terminate()
        self.process.communicate(timeout=TIMEOUT_S)
        return self._finish()

    def _finish(self) -> list[str]:
        acked = self.acked()
        self._folder.cleanup()
        return acked


def produce_many(topic, tenant_id, count: int, *options: str, **named) -> list[str]:
    """The tool in the foreground; ids of the acknowledged events."""
    return ProduceTool(topic, tenant_id, *options, count=count, **named).wait()
