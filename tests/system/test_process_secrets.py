"""Secrets that are given as files stay out of where others could read them: environment, command line, core dumps."""

import base64
import os
import pathlib
import resource
import subprocess

import pytest
from support.api import JWT_SECRET, run_api
from support.worker import run_worker

KEY = "k1:" + base64.b64encode(os.urandom(32)).decode()


def proc(program, name: str) -> bytes:
    return pathlib.Path(f"/proc/{program.pid}/{name}").read_bytes()


@pytest.fixture
def as_files(stack, tmp_path):
    """The stack's secrets as settings NAME_FILE, and their texts."""
    def make(**secrets):
        settings = {}
        for name, text in secrets.items():
            file = tmp_path / name
            file.touch(0o600)
            file.write_text(text + "\n")
            settings |= {name: None, f"{name}_file": file}
        return settings

    environment = stack.worker_environment
    return make, {"database_url": environment["NRW_DATABASE_URL"], "redis_url": environment["NRW_REDIS_URL"]}


@pytest.fixture(params=("worker", "api"))
def program(request, as_files, start_worker, start_api):
    make, secrets = as_files
    if request.param == "worker":
        return start_worker(**make(**secrets)), secrets
    secrets = {**secrets, "jwt_secret": JWT_SECRET}
    return start_api(**make(**secrets)), secrets


def passwords(secrets) -> list[bytes]:
    found = [text.split("@")[0].rsplit(":", 1)[-1] for text in secrets.values()]
    assert all(len(text) > 5 for text in found)
    return [text.encode() for text in found]


def test_secrets_in_files_are_in_no_environment_command_line_or_log(program):
    running, secrets = program
    for password in passwords(secrets):
        for name in ("environ", "cmdline"):
            assert password not in proc(running, name)
        assert password.decode() not in running.log_text()


def test_no_core_dump_whatever_the_limits_around_it(program):
    """Started with the highest limit that there is (a child has its parent's)."""
    running, _ = program
    lines = proc(running, "limits").decode().splitlines()
    core, = (line for line in lines if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


def test_a_core_dump_that_is_piped_to_a_program_would_hold_no_memory(program):
    """A piped core_pattern ignores the limit; the kernel's filter says which memory is dumped: none."""
    running, _ = program
    assert int(proc(running, "coredump_filter"), 16) == 0


@pytest.fixture(autouse=True)
def generous_limits():
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.mark.parametrize("run", (run_worker, run_api))
def test_every_secret_may_come_from_a_file_and_not_twice(tmp_path, run):
    """All of the table that say so; what is printed shows none of them."""
    (tmp_path / "keyring").write_text(KEY)
    (tmp_path / "other").write_text("postgresql://u:hidden-word@h/d")
    environment = {"NRW_KAFKA_BROKERS": "h:1", "NRW_KEYRING_FILE": str(tmp_path / "keyring"), "NRW_DATABASE_URL_FILE": str(tmp_path / "other"),
                   "NRW_REDIS_URL_FILE": str(tmp_path / "other"), "NRW_SMTP_URL_FILE": str(tmp_path / "other"),
                   "NRW_JWT_KEYS_FILE": str(tmp_path / "other"), "NRW_JWT_SECRET_FILE": str(tmp_path / "other")}
    done = run("--print-config", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "hidden-word" not in done.stdout and KEY[3:] not in done.stdout
    for name in ("NRW_KEYRING", "NRW_DATABASE_URL", "NRW_REDIS_URL", "NRW_SMTP_URL", "NRW_JWT_KEYS", "NRW_JWT_SECRET"):
        both = run("--print-config", environment={**environment, name: "x"})
        assert both.returncode == 2 and f"{name}: given twice" in both.stderr
    absent = run("--print-config", environment={**environment, "NRW_KEYRING_FILE": str(tmp_path / "absent")})
    assert absent.returncode == 2 and "NRW_KEYRING_FILE" in absent.stderr and "No such file" in absent.stderr
    masked: subprocess.CompletedProcess = run("--print-config", environment={**environment, "NRW_KEYRING_FILE": KEY})
    assert masked.returncode == 2 and KEY[3:] not in masked.stderr, "a secret in place of its path is not shown"
