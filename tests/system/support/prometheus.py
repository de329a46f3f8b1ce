"""Debian's Prometheus for tests: promtool, and a server on loopback that scrapes programs of ours and evaluates the rules of deploy/."""

import pathlib
import re
import runpy
import shutil
import subprocess

import pytest
import requests
import yaml

from support.paths import ROOT, clean_environment
from support.stack import free_ports
from support.wait import await_condition

OBSERVABILITY = ROOT / "deploy" / "observability"
RULES = OBSERVABILITY / "rules"
DASHBOARD = OBSERVABILITY / "grafana" / "dashboards" / "netrecon-webhooks.json"
FETCHED = ROOT / ".build" / "prometheus" / "usr" / "bin"  # where tests/run unpacks the package: no service, no user
SCRAPE_S = 1
TIMEOUT_S = 10


def _program(name: str) -> str:
    found = shutil.which(name, path=str(FETCHED)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: tests/run fetches it from Debian's package prometheus")
    return found


def promtool(*arguments, stdin: str | None = None) -> str:
    """Fails with what it says when it is not content."""
    done = subprocess.run([_program("promtool"), *map(str, arguments)], input=stdin, text=True, timeout=120, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, f"promtool {' '.join(map(str, arguments))}: {done.stdout}"
    return done.stdout


def rules() -> list[dict]:
    """All rules of deploy/: those with `record` and those with `alert`."""
    return [rule for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict]:
    found = [rule for rule in rules() if "alert" in rule]
    assert len({rule["alert"] for rule in found}) == len(found), "an alert's name came twice"
    return {rule["alert"]: rule for rule in found}


def metrics_table() -> dict:
    """The functions of deploy/observability/metrics-table."""
    return runpy.run_path(str(OBSERVABILITY / "metrics-table"), run_name="metrics_table")


class Prometheus:
    """targets: job -> {instance: port}. A program that comes back on another port is told with set_targets(). Alerts are evaluated each
    second and without their `for`, so that a test need not wait for it; their expressions are the ones of deploy/."""

    def __init__(self, folder: pathlib.Path, targets: dict[str, dict[str, int]]):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        program = _program("prometheus")
        self._write_rules()
        self.set_targets(targets)
        config = {"global": {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
                  "rule_files": ["rules.yml"],
                  "scrape_configs": [{"job_name": job, "file_sd_configs": [{"files": [f"{job}.targets.yml"], "refresh_interval": "1s"}]}
                                     for job in targets]}
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.base = f"http://127.0.0.1:{free_ports(1)[0]}"
        self.log_path = self.folder / "prometheus.log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                 f"--web.listen-address={self.base.removeprefix('http://')}", "--log.level=warn"],
                cwd=self.folder, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        await_condition(self._ready, 30, lambda: f"Prometheus is ready\n{self.log_path.read_text()[-2000:]}")

    def _write_rules(self) -> None:
        groups = [group for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
        for n, group in enumerate(groups):
            group["name"] += f"-{n}"
            for rule in group["rules"]:
                rule.pop("for", None)
        (self.folder / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log_path.read_text()[-2000:]
        try:
            return requests.get(f"{self.base}/-/ready", timeout=TIMEOUT_S).status_code == 200
        except requests.ConnectionError:
            return False

    def set_targets(self, targets: dict[str, dict[str, int]]) -> None:
        for job, instances in targets.items():
            groups = [{"targets": [f"127.0.0.1:{port}"], "labels": {"instance": instance}} for instance, port in instances.items()]
            path = self.folder / f"{job}.targets.yml"
            fresh = path.with_suffix(".new")
            fresh.write_text(yaml.safe_dump(groups))
            fresh.rename(path)

    def query(self, expression: str) -> list[dict]:
        """The vector as {"metric": {…}, "value": number}."""
        answer = requests.post(f"{self.base}/api/v1/query", data={"query": expression}, timeout=TIMEOUT_S).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        result = answer["data"]["result"]
        assert answer["data"]["resultType"] == "vector", f"{expression}: {answer['data']['resultType']}"
        return [{"metric": sample["metric"], "value": float(sample["value"][1])} for sample in result]

    def firing(self) -> set[str]:
        """Alerts whose expression is true now, as the rules were last evaluated."""
        return {sample["metric"]["alertname"] for sample in self.query('ALERTS{alertstate="firing"}')}

    def close(self) -> None:
        self.process.terminate()
        assert self.process.wait(30) == 0, self.log_path.read_text()[-2000:]


def dashboard_queries(panels: list[dict]) -> list[tuple[str, str]]:
    """(panel, expression) with Grafana's variables replaced."""
    return [(panel["title"], re.sub(r"\$__rate_interval\b", "1m", target["expr"])) for panel in panels for target in panel.get("targets", [])]
