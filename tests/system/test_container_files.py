"""What can be said of deploy/docker and docker-compose.yml without an engine: what a container is told agrees with what the programs do, and
nothing secret gets where it could be found. tests/compose has what needs an engine."""

import fnmatch
import os
import re
import shutil
import stat
import subprocess

import pytest
import yaml
from support.paths import ROOT

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()
OURS = ("worker", "api")
IMAGES = ("worker", "api", "migrate", "stunnel", "demo", "mail")


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s", text).group(1))


def stages() -> dict[str, list[str]]:
    """The instructions of each stage of the Dockerfile, continued lines joined, and of the stage it builds on before them."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines():
        start = re.fullmatch(r"FROM (\S+) AS (\S+)", line)
        if start:
            name = start.group(2)
            found[name] = list(found.get(start.group(1), []))
        if line and name:
            found[name].append(line)
    return found


@pytest.mark.parametrize("service", OURS)
def test_a_container_is_given_the_time_to_drain(service):
    drain = seconds(SERVICES[service]["environment"]["NRW_DRAIN_TIMEOUT"])
    assert seconds(SERVICES[service]["stop_grace_period"]) >= drain + 10


@pytest.mark.parametrize("service", SERVICES)
def test_every_container_has_limits_and_no_privileges(service):
    told = SERVICES[service]
    assert told["cap_drop"] == ["ALL"] and told["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in told and "cap_add" not in told and "container_name" not in told
    assert told.get("read_only") is True or service == "kafka"
    assert {"mem_limit", "cpus", "pids_limit", "restart"} <= told.keys()
    for port in told.get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("service", SERVICES)
def test_no_container_is_told_a_secret_or_has_a_default_for_one(service):
    for name, value in SERVICES[service].get("environment", {}).items():
        if not name.endswith("_FILE"):
            assert not re.search(r"PASSWORD|SECRET|KEYRING|_URL$", name) or name == "NRW_CONSOLE_URL", name
        elif name != "NRW_CA_FILE":
            assert re.fullmatch(r"/run/secrets/\w+|\$\{NRW_SMTP_URL_FILE:-\}", value), (name, value)
            if value.startswith("/run/secrets/"):
                assert value.rpartition("/")[2] in SERVICES[service]["secrets"]


def test_stores_have_no_way_out_and_only_workers_reach_endpoints():
    assert COMPOSE["networks"]["stores"]["internal"] and COMPOSE["networks"]["demo"]["internal"]
    for service in ("kafka", "postgres", "redis", "migrate", "topics", "publish", "seed"):
        assert SERVICES[service]["networks"] == ["stores"], service
    assert [name for name, told in SERVICES.items() if "egress" in told["networks"]] == ["worker"]


def test_versions_are_pinned_and_agree():
    images = {told["image"] for told in SERVICES.values()}
    assert not [image for image in images if ":" not in image or image.endswith(":latest")]
    kafka = re.search("<kafka.version>(.*?)</kafka.version>", (ROOT / "deploy/local/kafka/pom.xml").read_text()).group(1)
    assert f"apache/kafka:{kafka}" in images
    assert re.search(r"^ARG DEBIAN=debian:bookworm-slim$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) <= {"${DEBIAN}", "scratch", "runtime", "build"}


@pytest.mark.parametrize("image", IMAGES)
def test_every_image_runs_as_nobody_and_ends_when_asked(image):
    lines = stages()[image]
    assert "USER 65532:65532" in lines and "STOPSIGNAL SIGTERM" in lines
    entry = [line for line in lines if line.startswith("ENTRYPOINT ")]
    assert len(entry) == 1 and entry[0].startswith('ENTRYPOINT ["'), "exec form: signals reach the program"


@pytest.mark.parametrize("service", OURS)
def test_health_is_asked_of_the_program_itself(service):
    lines = [" ".join(line.split()) for line in stages()[service]]
    assert any(line.startswith("HEALTHCHECK") and f'["netrecon-webhooks-{service}", "health"]' in line for line in lines)
    assert SERVICES[service]["healthcheck"]["test"] == ["CMD", f"netrecon-webhooks-{service}", "health", "ready"]


def test_git_and_the_engine_never_see_secrets():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert "/.env" in ignored and "/deploy/docker/secrets/" in ignored
    context = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in context and "deploy/docker/secrets" in context[context.index("!deploy"):]
    assert not [line for line in context if line.startswith("!") and fnmatch.fnmatch(".env", line[1:])]


# ---- deploy/docker/init ----


@pytest.fixture
def tree(tmp_path):
    """As much of the tree as init needs."""
    for part in ("CMakeLists.txt", "deploy/docker/init", "deploy/local/lib.sh"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / part, tmp_path / part)
    return tmp_path


def init(tree, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NRW_")}
    return subprocess.run([tree / "deploy/docker/init", *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)


def files(tree):
    return {file.name: file.read_text() for file in [*(tree / "deploy/docker/secrets").iterdir(), tree / ".env"]}


def test_init_makes_every_secret_that_compose_wants_for_its_owner_only(tree):
    assert init(tree).returncode == 0
    folder = tree / "deploy/docker/secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    made = {file.name: file for file in folder.iterdir()}
    assert made.keys() >= COMPOSE["secrets"].keys()
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o444 and file.stat().st_size for file in made.values())
    env = (tree / ".env").read_text()
    for name in ("postgres_password", "database_password", "redis_password", "keyring", "jwt_secret"):
        assert len(made[name].read_text()) >= 48 and made[name].read_text() not in env
    assert "COMPOSE_PROFILES" not in env and "NRW_ALLOW" not in env, "the demo's permissions only when asked for"


def test_init_again_changes_nothing_and_keeps_what_the_operator_wrote(tree):
    assert init(tree).returncode == 0
    env = tree / ".env"
    env.write_text(env.read_text().replace("NRW_API_PORT=8080", "NRW_API_PORT=9000") + "NRW_LOG_LEVEL=debug\n")
    before = files(tree)
    assert init(tree).returncode == 0
    assert files(tree) == before
    assert init(tree, "--demo").returncode == 0
    lines = env.read_text().splitlines()
    assert {"NRW_API_PORT=9000", "NRW_LOG_LEVEL=debug", "COMPOSE_PROFILES=demo", "NRW_ALLOW_HTTP=true"} <= set(lines)
    with_demo = files(tree)
    assert init(tree).returncode == 0
    assert files(tree) == with_demo


def test_init_after_an_update_names_the_new_version(tree):
    assert init(tree).returncode == 0
    cmake = tree / "CMakeLists.txt"
    cmake.write_text(re.sub(r"VERSION \d+\.\d+\.\d+ LANG", "VERSION 7.8.9 LANG", cmake.read_text()))
    assert init(tree).returncode == 0
    assert "NRW_VERSION=7.8.9" in (tree / ".env").read_text().splitlines()


def test_two_installations_share_no_secret(tree):
    assert init(tree).returncode == 0
    first = files(tree)
    shutil.rmtree(tree / "deploy/docker/secrets")
    (tree / ".env").unlink()
    assert init(tree).returncode == 0
    second = files(tree)
    assert {name for name in first if first[name] == second[name]} == {"smtp_url"}
