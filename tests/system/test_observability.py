"""Rules, dashboard, runbook and the table of metrics belong together and to what the programs export."""

import json
import re
import subprocess
import sys
import uuid

import pytest
import yaml
from support.paths import ROOT
from support.prometheus import DASHBOARD, OBSERVABILITY, RULES, Prometheus, alerts, dashboard_queries, metrics_table, promtool, rules
from support.wait import await_condition

RULE_TESTS = sorted((ROOT / "tests" / "rules").glob("*.yml"))
RUNBOOK = ROOT / "deploy" / "README.md"
GRAFANA_NEEDS = {"id", "type", "title", "gridPos"}


@pytest.fixture
def running(start_worker, start_api, tenant, sink, producer):
    """A worker and an API that have had a little of everything to do."""
    worker, api = start_worker(), start_api()
    tenant.webhook(sink.url("/hook"))
    producer.many(tenant.id, 20)
    producer.one(b"not json", key=tenant.id)
    sink.wait(20)
    assert api.client(tenant.id).get("/api/v1/integrations/event-types").status_code == 200
    assert api.client(tenant.id).get("/nowhere").status_code == 404
    await_condition(lambda: worker.metric("nrw_journal_waiting") == 0, 20, "everything is written")
    return worker, api


# ---- what needs no program of ours ----


def test_promtool_is_content_with_the_rules_and_their_tests_pass():
    promtool("check", "rules", *sorted(RULES.glob("*.yml")))
    print(promtool("test", "rules", *RULE_TESTS))


def test_promtool_is_content_with_the_sample_configurations(tmp_path):
    promtool("check", "config", OBSERVABILITY / "prometheus" / "local.yml")
    promtool("check", "config", "--syntax-only", OBSERVABILITY / "prometheus" / "compose.yml")
    # Debian's build knows no Kubernetes: the rest of that file is checked.
    config = yaml.safe_load((OBSERVABILITY / "prometheus" / "kubernetes.yml").read_text())
    for scrape in config["scrape_configs"]:
        assert scrape.pop("kubernetes_sd_configs")[0]["role"] == "pod"
    (tmp_path / "rest.yml").write_text(yaml.safe_dump(config))
    promtool("check", "config", "--syntax-only", tmp_path / "rest.yml")


def rule_tests(kind):
    """(name of its group of series, test) of each alert_rule_test or promql_expr_test."""
    return [(test["name"], one) for path in RULE_TESTS for test in yaml.safe_load(path.read_text())["tests"] for one in test.get(kind, [])]


def test_each_alert_is_seen_firing_and_not_firing():
    """promtool compares every label and annotation of those that fire."""
    seen = {}
    for name, one in rule_tests("alert_rule_test"):
        assert one["alertname"] == name
        seen.setdefault(name, set()).add(bool(one["exp_alerts"]))
        for alert in one["exp_alerts"]:
            assert alert["exp_labels"]["severity"] and alert["exp_annotations"].keys() == {"summary", "description", "runbook_url"}, name
    assert seen == {name: {False, True} for name in alerts()}


def test_each_recorded_series_has_its_values_tested():
    tested = {one["expr"] for _, one in rule_tests("promql_expr_test") if any(sample["value"] for sample in one["exp_samples"])}
    assert tested == {f"round({rule['record']}, 0.0001)" for rule in rules() if "record" in rule}


def test_each_alert_says_what_it_is_and_has_its_section_in_the_runbook():
    sections = re.findall(r"^### alert-(\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(alerts()), "alerts and sections of the runbook are not the same"
    for name, rule in alerts().items():
        assert name.startswith("Nrw")
        assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"}), name
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"deploy/README.md#alert-{name.lower()}"


class StrictLoader(yaml.SafeLoader):
    """A key that comes twice is an error; tags of other programs are theirs to know."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice in one mapping: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


StrictLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def _unique(pairs):
    keys = [key for key, _ in pairs]
    assert len(set(keys)) == len(keys), f"twice in one object: {keys}"
    return dict(pairs)


def test_every_yaml_and_json_file_of_deploy_can_be_read():
    tracked = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "deploy", "docker-compose.yml", "tests/rules"],
                             cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\n")
    paths = [ROOT / name for name in tracked if name.endswith((".yml", ".yaml", ".json")) and (ROOT / name).exists()]
    assert DASHBOARD in paths
    for path in paths:
        text = path.read_text()
        assert "\t" not in text and not re.search(r"[ ]+$", text, re.MULTILINE) and text.endswith("\n"), f"{path}: tabs or blanks at an end"
        if path.suffix == ".json":
            json.loads(text, object_pairs_hook=_unique)
        else:
            assert all(document is not None for document in yaml.load_all(text, StrictLoader)), f"{path}: an empty document"


def test_the_dashboard_is_one_that_grafana_takes():
    board = json.loads(DASHBOARD.read_text())
    assert {"uid", "title", "schemaVersion", "panels", "templating"} <= board.keys()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    places = set()
    for panel in board["panels"]:
        assert GRAFANA_NEEDS <= panel.keys(), panel
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert x + w <= 24 and not places & cells, f"{panel['title']} lies on another panel"
        places |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}" and panel["targets"], panel["title"]
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows[:3] == ["Is it healthy?", "Are customers served?", "Isolation"]


# ---- what is held against running programs ----


def test_the_metrics_are_named_as_prometheus_wants_and_the_table_is_theirs(running):
    pages = [program.get("/metrics").text for program in running]
    for page in pages:
        promtool("check", "metrics", stdin=page)
    wanted = metrics_table()["table"](*pages)
    written = re.search(r"<!-- metrics -->\n(.*)<!-- /metrics -->", (OBSERVABILITY / "README.md").read_text(), re.DOTALL)[1]
    assert written == wanted, ("put this between the marks of deploy/observability/README.md (deploy/observability/metrics-table prints it):\n"
                               + wanted)


def test_rules_and_dashboard_ask_only_for_what_is_exported(running):
    table = metrics_table()
    exported = {name for program in running for name in table["parse"](program.get("/metrics").text)}
    known = exported | {"up"} | {rule["record"] for rule in rules() if "record" in rule}
    asked = {(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()}
    asked |= set(dashboard_queries(json.loads(DASHBOARD.read_text())["panels"]))
    for who, expression in asked:
        names = table["metrics_of"](expression)
        assert names or "vector(" in expression or "ALERTS" in expression, f"{who} asks for nothing: {expression}"
        assert names <= known, f"{who} asks for {names - known}, which nobody exports"


def test_a_metric_means_the_same_in_both_programs(running):
    table = metrics_table()
    helps = [{name: text for name, (_, text, _) in table["parse"](program.get("/metrics").text).items()} for program in running]
    assert not {name for name in helps[0].keys() & helps[1].keys() if helps[0][name] != helps[1][name]}


def test_first_attempts_within_exactly_one_second_can_be_counted(running):
    worker, _ = running
    metrics = worker.metrics()
    assert metrics['nrw_first_attempt_latency_seconds_bucket{le="1"}'] == metrics["nrw_first_attempt_latency_seconds_count"] == 20


def test_every_query_of_the_dashboard_has_an_answer(running, tmp_path, tenant, sink, producer):
    worker, api = running
    prometheus = Prometheus(tmp_path / "prometheus", {"netrecon-webhooks-worker": {"worker-1": worker.port},
                                                      "netrecon-webhooks-api": {"api-1": api.port}})
    try:
        await_condition(lambda: prometheus.query("count_over_time(nrw_events_total[1m]) > 2"), 30, "three scrapes")
        producer.many(tenant.id, 20)
        sink.wait(40)
        api.client(tenant.id).get("/api/v1/integrations/event-types")
        queries = dashboard_queries(json.loads(DASHBOARD.read_text())["panels"])
        assert len(queries) > 60

        def silent():
            return [(panel, query) for panel, query in queries if not prometheus.query(query)]

        await_condition(lambda: not silent(), 30, lambda: f"every query has an answer; without: {silent()}")
    finally:
        prometheus.close()


def test_the_statements_of_the_runbook_work(stack):
    statements = re.findall(r'^psql "\$NRW_DATABASE_URL" -c "(.*)"$', RUNBOOK.read_text(), re.MULTILINE)
    assert len(statements) > 5
    with stack.connect() as connection:
        for statement in statements:  # ID is what the operator fills in; nothing of it stays
            with connection.transaction(force_rollback=True):
                connection.execute(statement.replace("'ID'", f"'{uuid.UUID(int=0)}'"))


def test_metrics_table_prints_the_table_of_two_running_programs(running):
    worker, api = running
    urls = [f"http://127.0.0.1:{program.port}/metrics" for program in (worker, api)]
    done = subprocess.run([sys.executable, OBSERVABILITY / "metrics-table", *urls], check=True, timeout=30, stdout=subprocess.PIPE, text=True)
    assert done.stdout.startswith("| Metric |") and "| `nrw_events_total` | counter | count |" in done.stdout
