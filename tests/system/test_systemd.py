"""deploy/systemd/: the units are right, hardened, and name only settings that the programs know."""

import re
import shutil
import subprocess

import pytest
from support.paths import API, ROOT, WORKER

HERE = ROOT / "deploy" / "systemd"
UNITS = {"netrecon-webhooks-worker@.service": WORKER, "netrecon-webhooks-api.service": API}
EXPOSURE_MAX = 15  # of 100, in systemd's own counting; an unhardened service has 96


@pytest.fixture
def installed(tmp_path):
    """The units as they would be installed, with the programs that were just built: name -> file."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    found = {}
    for name, program in UNITS.items():
        text = (HERE / name).read_text()
        assert text.count(f"ExecStart=/usr/bin/{program.name}\n") == 1
        found[name] = tmp_path / name.replace("@.", "@9464.")
        found[name].write_text(text.replace(f"/usr/bin/{program.name}", str(program)))
    return found


def analyze(*arguments):
    return subprocess.run(["systemd-analyze", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_every_line(installed, name):
    """Only what it says of our file: it also loads units of this machine."""
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(installed[name]))
    complaints = [line for line in done.stdout.splitlines() if "netrecon" in line]
    assert not complaints and done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_is_hardened(installed, name):
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager", str(installed[name]))
    assert done.returncode == 0, done.stdout


def settings(name) -> dict[str, str]:
    text = (HERE / name).read_text()
    return dict(re.findall(r"^Environment=(NRW_\w+)=(.*)$", text, re.MULTILINE))


def env_example(name) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (HERE / name).read_text().splitlines() if line and not line.startswith("#"))


@pytest.mark.parametrize("name, example", [("netrecon-webhooks-worker@.service", "worker.env.example"),
                                           ("netrecon-webhooks-api.service", "api.env.example")])
def test_the_program_takes_the_settings_and_gets_its_secrets_as_credentials(tmp_path, name, example):
    text = (HERE / name).read_text()
    assert f"EnvironmentFile=/etc/netrecon-webhooks/{example.removesuffix('.example')}\n" in text
    credentials = re.findall(r"^LoadCredential=([\w.-]+):/etc/netrecon-webhooks/[\w.-]+$", text, re.MULTILINE)
    environment = {key: value.replace("%i", "9464") for key, value in settings(name).items()}
    assert {value.removeprefix("%d/") for value in environment.values() if value.startswith("%d/")} == set(credentials)
    for credential in credentials:
        (tmp_path / credential).write_text("" if credential == "kafka.conf" else "k1:" + "A" * 43 + "=\n")
    environment = {key: value.replace("%d", str(tmp_path)) for key, value in environment.items()}
    done = subprocess.run([UNITS[name], "--print-config"], env={**environment, **env_example(example)}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=10, check=False)
    assert done.returncode == 0, done.stdout


def test_it_may_stop_for_as_long_as_it_drains():
    for name, example in (("netrecon-webhooks-worker@.service", "worker.env.example"), ("netrecon-webhooks-api.service", "api.env.example")):
        stop = int(re.search(r"^TimeoutStopSec=(\d+)$", (HERE / name).read_text(), re.MULTILINE).group(1))
        assert stop == int(env_example(example)["NRW_DRAIN_TIMEOUT"].removesuffix("s")) + 10


def test_the_user_is_the_one_that_is_made():
    user = re.search(r"^u (\S+) - ", (HERE / "netrecon-webhooks.sysusers").read_text(), re.MULTILINE).group(1)
    for name in UNITS:
        assert f"\nUser={user}\nGroup={user}\n" in (HERE / name).read_text()
