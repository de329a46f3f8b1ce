"""deploy/kubernetes/: every overlay builds, is valid for the cluster versions that we name, and keeps our own rules."""

import ipaddress
import json
import os
import pathlib
import re
import shutil
import subprocess
import textwrap

import jsonschema
import pytest
import yaml
from support.paths import ROOT, WORKER

HERE = ROOT / "deploy" / "kubernetes"
TOOLS = ROOT / ".build" / "kubernetes"  # tests/run fills it
BUILT = ("migrate", "overlays/evaluation", "overlays/production", "overlays/production/migrate")
REDIS_TLS = "components/redis-tls"  # as an overlay that has it builds it
CLUSTERS = ("1.30", "1.37")  # the oldest that the README promises, the newest that is published
SECRETS = "/run/secrets/netrecon/"
MARGIN_S = 10  # that a drain may take longer than NRW_DRAIN_TIMEOUT, as the README says


def kustomize() -> list[str]:
    ours = TOOLS / "bin" / "kustomize"
    if ours.exists():
        return [str(ours), "build"]
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    pytest.skip(f"neither {ours.relative_to(ROOT)} (tests/run makes it when the Go module proxy can be reached) nor kubectl is here")


def with_redis_tls(folder) -> pathlib.Path:
    """What the README tells operators to write."""
    shutil.copy(HERE / REDIS_TLS / "stunnel.conf", folder)
    (folder / "ca.crt").write_text("PEM\n")
    config, = re.findall(r"^  ```\n(  configMapGenerator:.*?)^  ```$", (HERE / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (folder / "kustomization.yaml").write_text(textwrap.dedent(config) + yaml.safe_dump({
        "namespace": "netrecon-webhooks", "resources": [os.path.relpath(HERE / "overlays" / "evaluation", folder.resolve())],
        "components": [os.path.relpath(HERE / REDIS_TLS, folder.resolve())]}))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder -> the objects that it builds."""
    found = {}
    for name, folder in {**{name: HERE / name for name in BUILT}, REDIS_TLS: with_redis_tls(tmp_path_factory.mktemp("overlay"))}.items():
        done = subprocess.run([*kustomize(), folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        assert done.returncode == 0 and not done.stderr, f"{name}: {done.stderr}"
        found[name] = list(yaml.safe_load_all(done.stdout))
    return found


@pytest.fixture(scope="module")
def everything(built):
    return [thing for things in built.values() for thing in things]


def of_kind(things, kind, name=None):
    return [thing for thing in things if thing["kind"] == kind and name in (None, thing["metadata"]["name"])]


def pods(things):
    """Name, pod template and containers of everything that runs; the program is the first one, sidecars follow."""
    for thing in things:
        if thing["kind"] in ("Deployment", "Job"):
            spec = thing["spec"]["template"]["spec"]
            yield thing["metadata"]["name"], thing["spec"]["template"], spec["containers"] + spec.get("initContainers", [])


def settings_of(things, pod, container):
    """The environment of a container, with what its ConfigMaps say."""
    found = {}
    for source in container.get("envFrom", []):
        config, = of_kind(things, "ConfigMap", source["configMapRef"]["name"])
        found.update(config["data"])
    found.update({variable["name"]: variable["value"] for variable in container.get("env", [])})
    assert found, f"{pod}: no settings"
    return found


# ---------------------------------------------------------------- valid


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_object_is_valid_for_the_cluster(built, tmp_path, cluster):
    """Strict: a field that the schema does not know is an error. Schemas: PyPI's kubernetes-validate, which are Kubernetes' own."""
    program = TOOLS / "venv" / "bin" / "kubernetes-validate"
    if not program.exists():
        pytest.skip(f"{program.relative_to(ROOT)} is missing: tests/run makes it when the package registry can be reached")
    for folder, things in built.items():
        file = tmp_path / (folder.replace("/", "-") + ".yaml")
        file.write_text(yaml.safe_dump_all(thing for thing in things if "keda.sh" not in thing["apiVersion"]))
        done = subprocess.run([program, "--strict", "-k", cluster, file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=120, check=False)
        assert done.returncode == 0, f"{folder}\n{done.stdout}"


def _closed(schema):
    """A CRD's schema drops unknown fields in silence; here they are errors."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema = {"additionalProperties": False, **schema}
        return {key: _closed(value) for key, value in schema.items()}
    return [_closed(value) for value in schema] if isinstance(schema, list) else schema


def test_the_autoscaler_is_valid_for_keda(everything):
    """Against KEDA's own CRDs, out of its Go module."""
    schemas = {}
    for file in sorted((TOOLS / "keda").glob("*.yaml")):
        crd = yaml.safe_load(file.read_text())
        for version in crd["spec"]["versions"]:
            schemas[f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    if not schemas:
        pytest.skip(".build/kubernetes/keda is missing: tests/run makes it when the Go module proxy can be reached")
    ours = [thing for thing in everything if "keda.sh" in thing["apiVersion"]]
    assert {thing["kind"] for thing in ours} == {"ScaledObject", "TriggerAuthentication"}
    for thing in ours:
        schema = _closed(schemas[thing["apiVersion"], thing["kind"]])
        schema["properties"]["metadata"] = {"type": "object"}
        jsonschema.validate(thing, schema)


# ---------------------------------------------------------------- containers


def test_every_container_is_restricted(built):
    for folder, things in built.items():
        for pod, template, containers in pods(things):
            where, spec = f"{folder}: {pod}", template["spec"]
            assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0, where
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
            assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False, where
            assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), where
            assert all(volume.keys() & {"secret", "emptyDir", "configMap"} for volume in spec["volumes"]), where
            account, = of_kind(things, "ServiceAccount", spec["serviceAccountName"])
            assert account["automountServiceAccountToken"] is False, where
            for container in containers:
                context = container["securityContext"]
                assert context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}, where


def test_the_namespace_enforces_it(built):
    for overlay in ("overlays/production", "overlays/evaluation"):
        namespace, = of_kind(built[overlay], "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_image_is_of_this_version(built):
    """One that is not tagged would be another one tomorrow."""
    version = re.search(r"project\(netrecon-webhooks VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
    for folder, things in built.items():
        for _, _, containers in pods(things):
            for container in containers:
                assert re.fullmatch(rf"(registry\.example\.com/)?netrecon-webhooks-{container['name']}:{re.escape(version)}", container["image"]), folder


def test_every_container_has_requests_and_limits(everything):
    for pod, _, containers in pods(everything):
        for container in containers:
            for kind in ("requests", "limits"):
                assert container["resources"][kind].keys() == {"cpu", "memory", "ephemeral-storage"}, pod


def test_what_stays_is_probed_at_its_admin_port_and_spread(everything):
    """Never restarted for a store that is away: liveness asks /health, only readiness asks /ready."""
    deployments = of_kind(everything, "Deployment")
    assert {thing["metadata"]["name"] for thing in deployments} == {"worker", "api"}
    for thing in deployments:
        spec = thing["spec"]["template"]["spec"]
        container, = spec["containers"]
        for probe, path in (("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")):
            assert container[probe]["httpGet"] == {"path": path, "port": "admin"}
        assert {"name": "admin", "containerPort": 9464} in container["ports"]
        assert {spread["topologyKey"] for spread in spec["topologySpreadConstraints"]} == {
            "topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        for spread in spec["topologySpreadConstraints"]:
            assert spread["labelSelector"] == thing["spec"]["selector"]


def test_selectors_find_the_pods(built):
    for overlay in ("overlays/production", "overlays/evaluation"):
        labels = [template["metadata"]["labels"] for _, template, _ in pods(built[overlay])]
        labels += [template["metadata"]["labels"] for _, template, _ in pods(built["migrate"])]
        selectors = [thing["spec"]["selector"] for thing in of_kind(built[overlay], "Service")]
        for kind in ("Deployment", "PodDisruptionBudget"):
            selectors += [thing["spec"]["selector"]["matchLabels"] for thing in of_kind(built[overlay], kind)]
        selectors += [thing["spec"]["podSelector"].get("matchLabels", {}) for thing in of_kind(built[overlay], "NetworkPolicy")]
        for selector in selectors:
            assert any(selector.items() <= found.items() for found in labels), selector


# ---------------------------------------------------------------- settings and secrets


def config_reference() -> dict[str, str]:
    """Name -> used by. Secrets with their _FILE, too."""
    lines = subprocess.run([WORKER, "--config-reference"], stdout=subprocess.PIPE, text=True, timeout=10, check=True).stdout.splitlines()
    found = {}
    for line in lines:
        columns = [column.strip() for column in line.split(" | ")]
        if name := re.fullmatch(r"\|? ?`(NRW_\w+)`", columns[0]):
            found[name.group(1)] = columns[3]
            if "_FILE" in columns[2]:
                found[name.group(1) + "_FILE"] = columns[3]
    assert len(found) > 40
    return found


def test_the_programs_know_every_setting(built):
    known = config_reference()
    for folder, things in built.items():
        for pod, _, (container, *_) in pods(things):
            used_by = {"both"} if pod == "migrate" else {"both", pod}
            for name in settings_of(things, pod, container):
                assert known.get(name) in used_by, f"{folder}: {pod}: {name} is {known.get(name, 'unknown')}"


def test_the_worker_takes_the_settings_of_every_overlay(built, tmp_path):
    """--print-config refuses what start would refuse; the files lie elsewhere here."""
    for overlay in ("overlays/production", "overlays/evaluation"):
        for pod, _, (container,) in pods(built[overlay]):
            settings = settings_of(built[overlay], pod, container)
            for name, value in settings.items():
                if name.endswith("_FILE"):
                    file = tmp_path / name
                    file.write_text("k1:" + "A" * 43 + "=")
                    settings[name] = value.replace(value, str(file))
            done = subprocess.run([WORKER.with_name(f"netrecon-webhooks-{pod}"), "--print-config"], env=settings, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=10, check=False)
            assert done.returncode == 0, f"{overlay}: {done.stdout}"


def test_the_grace_period_is_longer_than_the_drain(built):
    for overlay in ("overlays/production", "overlays/evaluation"):
        for pod, template, (container,) in pods(built[overlay]):
            drain = settings_of(built[overlay], pod, container)["NRW_DRAIN_TIMEOUT"]
            before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            assert template["spec"]["terminationGracePeriodSeconds"] == before + int(drain.removesuffix("s")) + MARGIN_S, pod


def example_secrets() -> dict[str, dict]:
    return {secret["metadata"]["name"]: secret for secret in yaml.safe_load_all((HERE / "secret.example.yaml").read_text())}


def test_no_secret_is_in_the_manifests(everything):
    """They come as files: no Secret object, no setting with one, and each file that a setting names is in the contract."""
    assert not of_kind(everything, "Secret")
    example = example_secrets()
    for pod, template, (container, *_) in pods(everything):
        mount, = (mount for mount in container["volumeMounts"] if mount["name"] == "secrets")
        volume, = (volume for volume in template["spec"]["volumes"] if volume["name"] == "secrets")
        assert mount == {"name": "secrets", "mountPath": SECRETS.rstrip("/"), "readOnly": True}
        keys = example[volume["secret"]["secretName"]]["stringData"]
        environment = {**{variable["name"]: variable["value"] for variable in container.get("env", [])}}
        for source in container.get("envFrom", []):
            environment.update(of_kind(everything, "ConfigMap", source["configMapRef"]["name"])[0]["data"])
        used = [value for value in environment.values() if value.startswith(SECRETS)]
        assert used
        named_inside = re.findall(re.escape(SECRETS) + r"([\w.-]+)", " ".join(keys.values()))
        assert {value.removeprefix(SECRETS) for value in used} | set(named_inside) == keys.keys(), pod
    authentication, = of_kind(everything, "TriggerAuthentication")
    for reference in authentication["spec"]["secretTargetRef"]:
        assert reference["key"] in example[reference["name"]]["stringData"]


def test_the_example_secret_cannot_be_applied_by_accident():
    for name, secret in example_secrets().items():
        assert secret["apiVersion"] == "fill-this-in-first/v1", name
        assert any("<" in value for value in secret["stringData"].values()), name


# ---------------------------------------------------------------- the network


def denied_networks(version):
    source = (ROOT / "common" / "netguard.c").read_text()
    table = re.search(r"special\[\] = \{(.*?)\};", source, re.DOTALL).group(1)
    networks = [ipaddress.ip_network(text) for text in re.findall(r'"(\S+) ', table)]
    assert len(networks) > 30
    return [network for network in networks if network.version == version]


@pytest.mark.parametrize("overlay", ("overlays/production", "overlays/evaluation"))
def test_workers_reach_exactly_the_internet_that_the_address_policy_allows(built, overlay):
    policy, = of_kind(built[overlay], "NetworkPolicy", "worker-internet")
    rule, = policy["spec"]["egress"]
    blocks = {block["ipBlock"]["cidr"]: [ipaddress.ip_network(text) for text in block["ipBlock"]["except"]] for block in rule["to"]}
    assert blocks.keys() == {"0.0.0.0/0", "2000::/3"}
    collapse = lambda networks: list(ipaddress.collapse_addresses(networks))
    assert collapse(blocks["0.0.0.0/0"]) == collapse(denied_networks(4))
    unicast = ipaddress.ip_network("2000::/3")
    assert collapse(blocks["2000::/3"]) == collapse(network for network in denied_networks(6) if network.subnet_of(unicast))


@pytest.mark.parametrize("overlay", ("overlays/production", "overlays/evaluation"))
def test_nobody_else_reaches_the_internet_and_nothing_is_open_by_default(built, overlay):
    policies = of_kind(built[overlay], "NetworkPolicy")
    default, = of_kind(policies, "NetworkPolicy", "default-deny")
    assert default["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies:
        for rule in policy["spec"].get("egress", []):
            assert rule["to"] and rule["ports"], policy["metadata"]["name"]
            if policy["metadata"]["name"] == "worker-internet":
                continue
            for peer in rule["to"]:
                block = peer.get("ipBlock", {}).get("cidr", "10.0.0.0/8")
                assert ipaddress.ip_network(block).is_private, f"{policy['metadata']['name']}: {block}"
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"] and rule["ports"], policy["metadata"]["name"]
    of_api = [policy for policy in policies if policy["spec"]["podSelector"].get("matchLabels") == {"app.kubernetes.io/component": "api"}]
    ports = sorted(port["port"] for policy in of_api for rule in policy["spec"].get("egress", []) for port in rule["ports"])
    assert ports == [5432, 6379]


# ---------------------------------------------------------------- Redis over TLS


def settings_of_stunnel(text):
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in text.strip().splitlines())}


def test_the_sidecar_does_what_the_runbook_says(built):
    """Which tests/system/test_wire_redis.py runs; only the file of authorities is elsewhere."""
    runbook = re.search(r"<!-- stunnel -->\n```\n(.*?)```", (ROOT / "deploy" / "README.md").read_text(), re.DOTALL).group(1)
    config, = [thing for thing in of_kind(built[REDIS_TLS], "ConfigMap") if thing["metadata"]["name"].startswith("redis-tls-")]
    for pod, template, (_, sidecar) in pods(built[REDIS_TLS]):
        mount, = sidecar["volumeMounts"]
        assert {"name": mount["name"], "configMap": {"name": config["metadata"]["name"], "defaultMode": 0o444}} in template["spec"]["volumes"], pod
        ours = settings_of_stunnel(config["data"]["stunnel.conf"])
        assert ours == {**settings_of_stunnel(runbook), "CAfile": f"{mount['mountPath']}/ca.crt"}
        assert f'"{mount["mountPath"]}/stunnel.conf"' in (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
        assert "ca.crt" in config["data"]


def test_the_sidecar_is_there_before_the_program_and_until_it_has_drained(built):
    found = {pod: sidecar for pod, _, (_, sidecar) in pods(built[REDIS_TLS])}
    assert found.keys() == {"worker", "api"}
    for thing in of_kind(built[REDIS_TLS], "Deployment"):
        sidecar, = thing["spec"]["template"]["spec"]["initContainers"]
        assert sidecar["restartPolicy"] == "Always" and "env" not in sidecar and "envFrom" not in sidecar


def test_the_sidecar_reaches_the_port_that_it_connects_to(built):
    config, = [thing for thing in of_kind(built[REDIS_TLS], "ConfigMap") if thing["metadata"]["name"].startswith("redis-tls-")]
    port = int(settings_of_stunnel(config["data"]["stunnel.conf"])["connect"].rpartition(":")[2])
    for pod in ("worker", "api"):
        policy, = of_kind(built[REDIS_TLS], "NetworkPolicy", f"{pod}-stores")
        ports = {rule["port"] for rule in policy["spec"]["egress"][0]["ports"]}
        assert port in ports and 6379 not in ports


# ---------------------------------------------------------------- scale


def test_no_more_workers_than_partitions(built):
    overlay = yaml.safe_load((HERE / "overlays" / "production" / "kustomization.yaml").read_text())
    topic, = (config for config in overlay["configMapGenerator"] if config["name"] == "topic")
    partitions = int(dict(literal.split("=") for literal in topic["literals"])["partitions"])
    scaled, = of_kind(built["overlays/production"], "ScaledObject")
    assert scaled["spec"]["maxReplicaCount"] == partitions >= scaled["spec"]["minReplicaCount"] >= 2
    assert not of_kind(built["overlays/production"], "ConfigMap", "topic")


def test_the_autoscaler_looks_at_the_workers_own_group_and_topic(built):
    things = built["overlays/production"]
    scaled, = of_kind(things, "ScaledObject")
    worker, = of_kind(things, "Deployment", "worker")
    assert scaled["spec"]["scaleTargetRef"] == {"name": "worker"}
    assert "replicas" not in worker["spec"]  # an apply would undo what the autoscaler did
    settings = settings_of(things, "worker", worker["spec"]["template"]["spec"]["containers"][0])
    trigger, = scaled["spec"]["triggers"]
    named = {value for key, value in trigger["metadata"].items() if key.endswith("FromEnv")}
    assert named == {"NRW_KAFKA_BROKERS", "NRW_GROUP", "NRW_TOPIC"} and named <= settings.keys()


# ---------------------------------------------------------------- Prometheus


def test_prometheus_finds_every_pod(built):
    """What the sample configuration of deploy/observability looks for."""
    config = yaml.safe_load((ROOT / "deploy" / "observability" / "prometheus" / "kubernetes.yml").read_text())
    discovery = config["scrape_configs"][0]["kubernetes_sd_configs"][0]
    wanted = dict([discovery["selectors"][0]["label"].split("=")])
    for overlay in ("overlays/production", "overlays/evaluation"):
        assert discovery["namespaces"]["names"] == [of_kind(built[overlay], "Namespace")[0]["metadata"]["name"]]
        for pod, template, (container,) in pods(built[overlay]):
            assert wanted.items() <= template["metadata"]["labels"].items()
            assert template["metadata"]["labels"]["app.kubernetes.io/component"] == pod
            assert any(port["name"] == "admin" for port in container["ports"])
