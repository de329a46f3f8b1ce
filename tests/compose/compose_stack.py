"""docker-compose.yml as an object. Everything goes through the commands docker and compose, as an operator would type it; DOCKER_HOST
chooses the engine."""

import json
import os
import pathlib
import shutil
import subprocess
import uuid

import yaml
from support.wait import await_condition

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARTS = ("CMakeLists.txt", "CMakePresets.json", "README.md", "LICENSE", ".dockerignore", "docker-compose.yml", "common", "worker", "api", "schema",
         "tests", "deploy")
PUBLIC_IMAGES = ("debian:bookworm-slim",)
TIMEOUT_S = 60
BUILD_TIMEOUT_S = 1200
UP_TIMEOUT_S = 300


def run(*command, timeout=TIMEOUT_S, check=True, **options) -> str:
    """Its output; fails with all of what it said."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, check=False,
                          **options)
    assert not check or done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def compose_command() -> list[str]:
    """The plugin, or the program of that name, which may be version 1."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    return ["docker", "compose"] if plugin else ["docker-compose"]


def has_image(name: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0


class ComposeStack:
    """tree: an empty folder."""

    def __init__(self, tree: pathlib.Path):
        self.tree = tree
        self.project = f"nrwtest{uuid.uuid4().hex[:8]}"
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("secrets", "__pycache__"))
            else:
                shutil.copy2(source, tree / part)
        services = yaml.safe_load((tree / "docker-compose.yml").read_text())["services"]
        public = {service["image"] for service in services.values() if not service["image"].startswith("$")}
        files = ["docker-compose.yml"]
        self.stand_ins = not all(map(has_image, (*PUBLIC_IMAGES, *public)))
        if self.stand_ins:
            files.append("tests/compose/override.yml")
        # Ports of the engine's choice; a network and image names that no other stack has.
        self.environment = {**os.environ, "NRW_API_PORT": "0", "NRW_METRICS_PORTS": "0", "NRW_IMAGE": "netrecon-webhooks-test/nrw",
                            "NRW_DEMO_SUBNET": "172.30.98.0/24", "NRW_ALLOW_CIDRS": "172.30.98.0/24", "NRW_RETRY_DELAYS": "0s,100ms,100ms,100ms,100ms",
                            "COMPOSE_PROJECT_NAME": self.project, "COMPOSE_FILE": ":".join(files)}
        self.environment.pop("COMPOSE_PROFILES", None)

    # ---- life ----

    def up(self) -> None:
        if self.stand_ins:
            run(str(self.tree / "tests/compose/images"), timeout=BUILD_TIMEOUT_S, env=self.environment)
        run(str(self.tree / "deploy/docker/init"), "--demo", cwd=self.tree)
        self.compose("build", timeout=BUILD_TIMEOUT_S)
        self.start()

    def start(self, workers: int = 1) -> None:
        try:
            self.compose("up", "-d", "--no-build", "--scale", f"worker={workers}", timeout=UP_TIMEOUT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--tail', '10', check=False)}") from None
        await_condition(lambda: self.healthy("worker") == workers and self.healthy("api") == 1, UP_TIMEOUT_S,
                        lambda: f"{workers} workers and the api are healthy:\n{self.compose('ps', check=False)}")

    def close(self) -> None:
        self.compose("down", "--volumes", "--timeout", "5", timeout=UP_TIMEOUT_S, check=False)

    def compose(self, *arguments, timeout=TIMEOUT_S, check=True) -> str:
        return run(*compose_command(), *arguments, timeout=timeout, check=check, cwd=self.tree, env=self.environment)

    # ---- containers ----

    def containers(self, service: str = "", running: bool = False) -> list[dict]:
        """As docker inspect describes them, oldest first."""
        filters = ["--filter", f"label=com.docker.compose.project={self.project}"]
        if service:
            filters += ["--filter", f"label=com.docker.compose.service={service}"]
        ids = run("docker", "ps", "-q", "--no-trunc", *([] if running else ["-a"]), *filters).split()
        found = json.loads(run("docker", "inspect", *ids)) if ids else []
        return sorted(found, key=lambda container: container["Created"])

    def healthy(self, service: str) -> int:
        return sum(container["State"].get("Health", {}).get("Status") == "healthy" for container in self.containers(service, running=True))

    def logs(self, service: str) -> str:
        """Both outputs of all its containers."""
        text = ""
        for container in self.containers(service):
            done = subprocess.run(["docker", "logs", container["Id"]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S,
                                  check=True)
            text += done.stdout
        return text

    def network(self, name: str) -> str:
        return f"{self.project}_{name}"

    # ---- what goes through it ----

    def publish_command(self, *options: str) -> list[str]:
        return [*compose_command(), "run", "--rm", "-T", "publish", *options]

    def publish(self, *options: str) -> list[str]:
        """Ids of the acknowledged events."""
        return event_ids(run(*self.publish_command(*options), timeout=180, cwd=self.tree, env=self.environment))

    def sql(self, text: str) -> list[list[str]]:
        output = run("docker", "exec", self.containers("postgres", running=True)[0]["Id"], "psql", "-X", "-At", "-F", "\t", "-U", "netrecon", "-d",
                     "netrecon", "-v", "ON_ERROR_STOP=1", "-c", text)
        return [line.split("\t") for line in output.splitlines()]

    def delivered(self) -> set[tuple[str, str]]:
        """(event, webhook's description) of every delivery that has a row "delivered"."""
        return {(event, webhook) for event, webhook in self.sql(
            "select a.event_id, w.description from attempts a join webhooks w on w.id = a.webhook_id where a.outcome = 'delivered'")}

    def ledger(self) -> list[dict]:
        """What the receiver wrote: one dict a request."""
        lines = [json.loads(line) for line in self.logs("receiver").splitlines() if line.startswith('{"t":')]
        return [line for line in lines if "path" in line]


def event_ids(output: str) -> list[str]:
    """Of what publish prints: an id a line, and at the end a summary in JSON."""
    return [line.strip() for line in output.splitlines() if len(line.strip()) == 36 and not line.startswith("{")]
