"""A private Apache Kafka of a test that wants TLS and a password: SASL_SSL with PLAIN for the worker, and a plain listener on loopback
for the test itself, which is not what is tested. One KRaft node with the settings of deploy/local.

Not SCRAM: before 2.6.1 (Debian 12 has 2.0.2) librdkafka sends a wrong nonce, which Kafka 4 refuses as "invalid credentials"."""

import base64
import os
import pathlib
import subprocess
import uuid

from cryptography.hazmat.primitives import serialization

from support.paths import ROOT, clean_environment
from support.stack import free_ports
from support.wait import await_condition

START_TIMEOUT_S = 90
LISTENERS = """
listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://localhost:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
"""


class SecureKafka:
    """home: where deploy/local has Kafka's jars. authority: of support.tls, whose certificate the broker shows for the name localhost.
    brokers, kafka_is_real: what support.kafka.Topic asks of a stack."""

    user, password = "worker", "correct-horse-battery-staple"
    kafka_is_real = True

    def __init__(self, folder: pathlib.Path, home: pathlib.Path, authority):
        self.folder, self.home = pathlib.Path(folder), pathlib.Path(home)
        self.authority = authority
        plain, secure, controller = free_ports(3)
        self.brokers = f"127.0.0.1:{plain}"
        self.secure_brokers = f"localhost:{secure}"
        authority.certificate("broker", "localhost")
        template = (ROOT / "deploy" / "local" / "kafka" / "server.properties").read_text()
        names = ("listeners=", "advertised.listeners=", "listener.security.protocol.map=")
        lines = [line for line in template.splitlines() if not line.startswith(names)]
        text = "\n".join(lines) + LISTENERS.format(plain=plain, secure=secure, controller=controller, keystore=self._keystore(),
                                                     user=self.user, password=self.password)
        self._settings = self.folder / "server.properties"
        self._settings.write_text(text.replace("@CONTROLLER_PORT@", str(controller)).replace("@DATA@", str(self.folder / "data")))
        self._log = self.folder / "kafka.log"
        self._process = None

    def start(self) -> "SecureKafka":
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # No dash in front: the tool would take it for an option.
        cluster = "N" + cluster[1:]
        with open(self._log, "ab") as log:
            subprocess.run(self._java("128m", "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._settings)),
                           env=clean_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=START_TIMEOUT_S, check=True)
            self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self._java("384m", "kafka.Kafka", str(self._settings))],
                                             env=clean_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        await_condition(self._started, START_TIMEOUT_S, lambda: "the private Kafka has started\n" + self._log.read_text()[-3000:])
        return self

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_TIMEOUT_S)

    def client(self, **changed) -> dict[str, str]:
        """librdkafka's properties of a client that gets in; changed: with _ for the dots, None takes one away."""
        properties = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": self.user,
                      "sasl.password": self.password, "ssl.ca.location": str(self.authority.file), "broker.address.family": "v4"}
        properties.update({key.replace("_", "."): value for key, value in changed.items()})
        return {key: value for key, value in properties.items() if value is not None}

    def _started(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        return "Kafka Server started" in self._log.read_text()

    def _java(self, heap: str, *words: str) -> list[str]:
        return ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={self.folder}",
                f"-Dlog4j2.configurationFile={ROOT / 'deploy' / 'local' / 'kafka' / 'log4j2.xml'}", "-cp", f"{self.home}/libs/*", *words]

    def _keystore(self) -> pathlib.Path:
        """Key and certificate in one file; Java wants the key in PKCS #8."""
        folder = self.authority.folder
        key = serialization.load_pem_private_key((folder / "broker.key").read_bytes(), password=None)
        file = self.folder / "broker.pem"
        file.touch(0o600)
        file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
                         + (folder / "broker.crt").read_bytes() + self.authority.file.read_bytes())
        return file


def jars() -> pathlib.Path | None:
    """Where the session's stack has them; None: not to be had."""
    from support.stack import kafka_home
    told = kafka_home().get("LOCAL_KAFKA_HOME")
    homes = [pathlib.Path(told)] if told else sorted((ROOT / ".local").glob("kafka-*"))
    return next((home for home in homes if (home / "libs").is_dir()), None)
