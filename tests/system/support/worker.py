"""A worker process of a test."""

import pathlib
import subprocess
import uuid

from support.paths import WORKER, clean_environment
from support.program import Program


def new_group() -> str:
    return "test-" + uuid.uuid4().hex[:12]


def run_worker(*arguments: str, environment: dict[str, str], stdin: str | None = None) -> subprocess.CompletedProcess:
    """Runs a command of the worker program (--version, seal …) and returns when it has ended."""
    return subprocess.run([WORKER, *arguments], env={**clean_environment(), **environment}, input=stdin, text=True, timeout=30,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)


class Worker(Program):
    """kafka: librdkafka properties. program: another one than this build's. ready(): PostgreSQL is connected and Kafka has assigned partitions."""

    path = WORKER
    started = "worker.started"

    def __init__(self, stack, folder: pathlib.Path, topic, group: str | None = None, kafka: dict[str, str] | None = None,
                 name: str = "worker", program: pathlib.Path | None = None, **settings):
        self.stack = stack
        if program is not None:
            self.path = program
        self.topic = topic
        self.group = group or new_group()
        if kafka:
            conf = pathlib.Path(folder) / f"{name}.kafka.conf"
            conf.parent.mkdir(parents=True, exist_ok=True)
            conf.write_text("".join(f"{key}={value}\n" for key, value in kafka.items()))
            settings = {"kafka_conf": conf, **settings}
        environment = {**stack.worker_environment, "NRW_GROUP": self.group, "NRW_TOPIC": topic.name, "NRW_DLQ_TOPIC": topic.dlq}
        super().__init__(folder, name, environment, **settings)
