"""The contract of the REST API (schema/openapi.yaml) is valid, complete and closed, and says the same as the files beside it; and
support.contract holds answers against it. Needs no service."""

import copy
import importlib.util
import io
import json
import re
import subprocess

import pytest
import requests
import yaml
from support import contract
from support.paths import ROOT

DOCUMENT = contract.DOCUMENT
SCHEMAS = DOCUMENT["components"]["schemas"]
VENV_PYTHON = ROOT / ".build" / "venv" / "bin" / "python"
EVENTS = ROOT / "schema" / "events"
ENVELOPE = json.loads((EVENTS / "envelope.schema.json").read_text(encoding="utf-8"))
SAMPLES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((EVENTS / "samples").glob("*.json"))}
WEBHOOKS = "/api/v1/integrations/webhooks"
PROMISED = {
    f"POST {WEBHOOKS}", f"GET {WEBHOOKS}", f"GET {WEBHOOKS}/{{webhook_id}}", f"PATCH {WEBHOOKS}/{{webhook_id}}",
    f"DELETE {WEBHOOKS}/{{webhook_id}}", f"POST {WEBHOOKS}/{{webhook_id}}/rotate-secret", f"POST {WEBHOOKS}/{{webhook_id}}/test",
    f"GET {WEBHOOKS}/{{webhook_id}}/deliveries", f"GET {WEBHOOKS}/{{webhook_id}}/deliveries/{{delivery_id}}",
    f"POST {WEBHOOKS}/{{webhook_id}}/deliveries/{{delivery_id}}/redeliver", f"POST {WEBHOOKS}/{{webhook_id}}/replay",
    f"GET {WEBHOOKS}/{{webhook_id}}/replays", f"GET {WEBHOOKS}/{{webhook_id}}/replays/{{job_id}}",
    f"DELETE {WEBHOOKS}/{{webhook_id}}/replays/{{job_id}}", f"GET {WEBHOOKS}/{{webhook_id}}/stats",
    "GET /api/v1/integrations/event-types", "GET /openapi.json", "GET /health", "GET /api/health", "GET /ready"}
OPEN_TO_ALL = {"getOpenapi", "getHealth", "getApiHealth", "getReady"}


# ---- every place of the document where a schema or an example stands ----

def operations():
    """(operationId, operation), with what the webhooks' owner receives."""
    yield from ((name, operation) for name, (_, _, operation) in contract.OPERATIONS.items())
    yield "receiveEvent", DOCUMENT["webhooks"]["event"]["post"]


def answers():
    """(where, media type object) of every answer that has a body."""
    for name, operation in operations():
        for status, answer in operation["responses"].items():
            for media in contract.resolve(answer).get("content", {}).values():
                yield f"{name} {status}", media


def contents():
    """(where, object with `schema` and `example` or `examples`): bodies, parameters and headers."""
    yield from answers()
    for name, operation in operations():
        for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{name} {media_type}", media
        for parameter in operation.get("parameters", []):
            parameter = contract.resolve(parameter)
            yield f"{name} {parameter['name']}", parameter
    for name, header in DOCUMENT["components"]["headers"].items():
        yield name, header


def examples():
    for where, content in contents():
        if "example" in content:
            yield pytest.param(content["schema"], content["example"], id=where)
        for name, example in content.get("examples", {}).items():
            yield pytest.param(content["schema"], contract.resolve(example)["value"], id=f"{where} {name}")


def schemas():
    """(where, subschema), all of them and at any depth."""
    def below(where, schema):
        if not isinstance(schema, dict):
            return
        yield where, schema
        for name in ("items", "additionalProperties", "unevaluatedProperties"):
            if name in schema:
                yield from below(f"{where}/{name}", schema[name])
        for name in ("properties", "$defs"):
            for key, value in schema.get(name, {}).items():
                yield from below(f"{where}/{name}/{key}", value)
        for name in ("oneOf", "anyOf", "allOf"):
            for i, value in enumerate(schema.get(name, [])):
                yield from below(f"{where}/{name}/{i}", value)

    for name, schema in SCHEMAS.items():
        yield from below(name, schema)
    for where, content in contents():
        yield from below(where, content["schema"])


# ---- valid ----

def test_the_document_is_valid_openapi():
    if not VENV_PYTHON.exists():
        pytest.skip(".build/venv is missing: tests/run makes it when the package registry can be reached")
    done = subprocess.run([VENV_PYTHON, "-m", "openapi_spec_validator", contract.DOCUMENT_FILE], capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_schema_is_valid_and_has_no_mistyped_keyword():
    known = {"$ref", "$defs", "type", "title", "description", "format", "pattern", "enum", "const", "default", "examples", "minimum", "maximum",
             "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "items", "properties", "required", "additionalProperties",
             "unevaluatedProperties", "oneOf", "anyOf", "allOf", "contentEncoding"}
    for where, schema in schemas():
        assert set(schema) <= known, where
        contract.validator(schema).check_schema(schema)
        if "$ref" in schema:
            contract.resolve(schema)  # it points to something
        assert set(schema.get("required", [])) <= set(schema.get("properties", schema.get("required", []))), where


def test_every_text_and_list_that_we_read_has_a_maximum():
    """In request bodies; maxLength or a value from a list."""
    for name in ("WebhookCreate", "WebhookPatch", "RotateSecret", "TestRequest", "ReplayCreate"):
        assert SCHEMAS[name]["additionalProperties"] is False
        for member, schema in SCHEMAS[name]["properties"].items():
            schema = contract.resolve(schema)
            bounds = {"maxLength", "maxItems", "maximum", "enum", "oneOf"}
            assert schema.get("type") == "boolean" or bounds & set(schema), f"{name}.{member}"


@pytest.mark.parametrize("schema, value", examples())
def test_every_example_is_what_its_schema_says(schema, value):
    assert contract.errors_of(schema, value) == []


# ---- complete ----

def test_the_operations_are_those_of_the_product():
    assert {f"{method} {path}" for method, path, _ in contract.OPERATIONS.values()} == PROMISED
    assert sum(len([m for m in contract.METHODS if m in item]) for item in DOCUMENT["paths"].values()) == len(contract.OPERATIONS)


@pytest.mark.parametrize("name", sorted(contract.OPERATIONS))
def test_every_operation_documents_how_it_can_refuse(name):
    _, path, operation = contract.OPERATIONS[name]
    documented = set(operation["responses"])
    assert {"400", "405", "413", "414", "431", "503"} <= documented
    assert ({"401", "403"} <= documented) == (name not in OPEN_TO_ALL)
    assert ("404" in documented) == ("{" in path)
    assert ({"415", "422"} <= documented) == ("requestBody" in operation)
    assert not documented & {"500", "502"}
    scopes = [scopes for choice in operation["security"] for scopes in choice.values()]
    scope = "webhooks_read" if contract.OPERATIONS[name][0] == "GET" else "webhooks_write"
    assert scopes == ([] if name in OPEN_TO_ALL else [[scope], [scope]])
    assert operation["summary"] and operation["tags"]
    names = [parameter["name"] for parameter in map(contract.resolve, [*DOCUMENT["paths"][path]["parameters"],
                                                                      *operation.get("parameters", [])])]
    assert sorted(re.findall(r"\{([a-z_]+)\}", path)) == sorted(set(names) & {"webhook_id", "delivery_id", "job_id"})


@pytest.mark.parametrize("name", sorted(contract.OPERATIONS))
def test_every_answer_has_its_headers_and_an_example(name):
    needed = {"201": "Location", "401": "WWW-Authenticate", "405": "Allow", "503": "Retry-After"}
    for status, answer in contract.OPERATIONS[name][2]["responses"].items():
        answer = contract.resolve(answer)
        headers = {header for header, value in answer["headers"].items() if contract.resolve(value)["required"]}
        assert {"X-Request-Id", needed.get(status, "X-Request-Id")} <= headers, status
        assert ("content" in answer) == (status != "204")
        for media_type, media in answer.get("content", {}).items():
            assert media_type == ("application/json" if status < "400" else contract.PROBLEM)
            assert media["examples"], status


@pytest.mark.parametrize("where, media", [pytest.param(*answer, id=answer[0]) for answer in answers() if answer[0] != "getOpenapi 200"])
def test_a_stray_member_anywhere_in_an_answer_is_noticed(where, media):
    def objects(value):
        if isinstance(value, dict):
            yield value
            children = [child for name, child in value.items() if name != "sample"]  # an event may have any member
        else:
            children = value if isinstance(value, list) else []
        for child in children:
            yield from objects(child)

    for example in media["examples"].values():
        value = copy.deepcopy(contract.resolve(example)["value"])
        for inner in list(objects(value)):
            inner["stray"] = 1
            assert contract.errors_of(media["schema"], value), f"{where}: {inner}"
            del inner["stray"]


def test_every_type_of_problem_has_an_example():
    shown = {}
    for _, media in answers():
        for example in media["examples"].values():
            value = contract.resolve(example)["value"]
            if "type" in value and "title" in value:
                shown.setdefault(value["type"], set()).add((value["status"], value["title"]))
    assert {kind: {status for status, _ in seen} for kind, seen in shown.items()} == {
        kind: {status} for kind, status in contract.PROBLEM_STATUS.items()}
    assert {kind: {title for _, title in seen} for kind, seen in shown.items()} == {kind: {title} for kind, (_, title, _) in problems().items()}


# ---- the same as the files beside it ----

def problems() -> dict:
    """type → (status, title, what a client does), of the API's own table."""
    rows = re.findall(r'^PROBLEM\(\w+, (\d+), "([^"]+)", "([^"]+)", "([^"]+)"\)$', (ROOT / "api" / "problem.def").read_text(), re.MULTILINE)
    return {f"/problems/{slug}": (int(status), title, action) for status, slug, title, action in rows if slug != "internal"}


def test_the_problems_are_those_of_the_api():
    """All but 500: whoever gets that has found a fault, not an answer."""
    said = {kind["const"]: kind["description"] for kind in SCHEMAS["ProblemType"]["oneOf"]}
    assert said == {kind: f"{status}: {action}" for kind, (status, _, action) in problems().items()}



def test_the_envelope_is_the_events_own_schema():
    text = json.dumps(SCHEMAS["Envelope"]).replace("#/components/schemas/Envelope/$defs/", "#/$defs/")
    assert json.loads(text) == {name: value for name, value in ENVELOPE.items() if name not in ("$schema", "$id")}
    for change in ({"id": "x"}, {"event": "alert"}, {"timestamp": "now"}, {"tenant_id": None}, {"data": []}):
        assert contract.errors_of(SCHEMAS["Envelope"], {**SAMPLES["alert.created"], **change})


def test_the_samples_are_examples_of_what_an_endpoint_receives():
    content = DOCUMENT["webhooks"]["event"]["post"]["requestBody"]["content"]["application/json"]
    assert {name: example["value"] for name, example in content["examples"].items()} == SAMPLES
    for sample in SAMPLES.values():
        assert contract.errors_of(content["schema"], sample) == []


def test_prefixes_and_names_are_those_of_the_event_types():
    prefixes = SCHEMAS["Subscriptions"]["items"]["anyOf"][2]["pattern"]
    assert prefixes == "^(" + "|".join(dict.fromkeys(name.partition(".")[0] for name in known_events())) + r")\.\*$"
    for events, right in ((["*"], True), (["alert.*", "scan.failed"], True), (["alert.*.*"], False), (["alert"], False), (["scan.*x"], False),
                          (["nothing.*"], False), (["alert.created", "alert.created"], False), ([], False)):
        assert (contract.errors_of(SCHEMAS["Subscriptions"], events) == []) is right, events


def known_events():
    return [known["const"] for known in ENVELOPE["$defs"]["known_event"]["oneOf"]]


def test_bounds_are_those_of_the_programs():
    text = (ROOT / "common" / "bounds.h").read_text()
    bound = {name: int(value) for name, value in re.findall(r"^#define (LIMIT_\w+)\s+(\d+)", text, re.MULTILINE)}
    assert SCHEMAS["WebhookUrl"]["maxLength"] == bound["LIMIT_URL"]
    assert SCHEMAS["WebhookSecret"]["maxLength"] == bound["LIMIT_SECRET"]
    assert contract.resolve(SCHEMAS["EventName"])["maxLength"] == bound["LIMIT_EVENT_TYPE"]
    assert SCHEMAS["DeliveryDetail"]["properties"]["request"]["properties"]["body"]["maxLength"] == bound["LIMIT_EVENT_BYTES"]
    assert SCHEMAS["AttemptError"]["maxLength"] >= bound["LIMIT_ERROR_TEXT"]
    kept = SCHEMAS["KeptResponse"]["properties"]
    assert kept["body"]["maxLength"] == bound["LIMIT_RESPONSE_KEPT"]
    assert kept["body_base64"]["maxLength"] == (bound["LIMIT_RESPONSE_KEPT"] + 2) // 3 * 4
    assert kept["headers"]["maxLength"] == bound["LIMIT_RESPONSE_HEADERS_KEPT"]


def test_a_key_given_twice_stops_the_build():
    spec = importlib.util.spec_from_file_location("embed", ROOT / "schema" / "embed" / "embed.py")
    embed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(embed)
    assert yaml.load(io.StringIO("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}"), embed.Loader)["b"] == {"x": 3, "y": 2}
    with pytest.raises(yaml.YAMLError, match="key x is given twice"):
        yaml.load(io.StringIO("a: {x: 1, x: 2}"), embed.Loader)


# ---- the helper ----

def answer(status, body, path=f"{WEBHOOKS}/3f2b8c1e-5d47-4a90-9c3e-7b1a2d4e6f80", method="GET", asked=None, **headers):
    """A response of `requests` as if it had come. headers: names with _ for -; None takes one away."""
    response = requests.Response()
    response.status_code = status
    response.request = requests.Request(method, "http://127.0.0.1" + path, headers={"X-Request-Id": asked} if asked else {}).prepare()
    response._content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response.headers["Content-Type"] = "application/json" if status < 400 else contract.PROBLEM
    response.headers["X-Request-Id"] = "req-8412"
    for name, value in headers.items():
        if value is None:
            del response.headers[name.replace("_", "-")]
        else:
            response.headers[name.replace("_", "-")] = value
    return response


WEBHOOK = DOCUMENT["components"]["examples"]["Webhook"]["value"]
NOT_FOUND = DOCUMENT["components"]["responses"]["NotFound"]["content"][contract.PROBLEM]["examples"]["webhook"]["value"]
UNAUTHENTICATED = DOCUMENT["components"]["responses"]["Unauthenticated"]["content"][contract.PROBLEM]["examples"]["expired"]["value"]
CHALLENGE = 'Bearer realm="netrecon-webhooks", error="invalid_token"'


def test_check_takes_what_is_documented():
    right = answer(200, WEBHOOK)
    assert contract.check(right, "getWebhook") is right
    contract.check(answer(200, WEBHOOK, Content_Type="application/json; charset=utf-8"), "getWebhook")
    contract.check(answer(204, b"", method="DELETE", Content_Type=None), "deleteWebhook")
    contract.check(answer(401, UNAUTHENTICATED, WWW_Authenticate=CHALLENGE), "getWebhook")
    contract.check(answer(405, {**NOT_FOUND, "type": "/problems/method-not-allowed", "status": 405}, method="PUT", Allow="GET, PATCH, DELETE"),
                   "getWebhook")
    contract.check_problem(answer(404, NOT_FOUND, path="/nothing"), 404)
    contract.check(answer(200, b"", method="HEAD"), "getWebhook")


@pytest.mark.parametrize("said, response", {
    "'secret' was unexpected": answer(200, {**WEBHOOK, "secret": "your-hmac-secret"}),
    "'url' is a required property": answer(200, {name: value for name, value in WEBHOOK.items() if name != "url"}),
    "does not match": answer(200, {**WEBHOOK, "created_at": "2026-03-01T08:15:00+00:00"}),
    "not documented": answer(500, b"oops"),
    "Content-Type is text/html": answer(200, WEBHOOK, Content_Type="text/html"),
    "not strict JSON": answer(200, b'{"id": 1, "id": 2}'),
    "NaN": answer(200, b'{"id": NaN}'),
    "X-Request-Id is missing": answer(200, WEBHOOK, X_Request_Id=None),
    "the request's was mine": answer(200, WEBHOOK, asked="mine"),
    "WWW-Authenticate is missing": answer(401, UNAUTHENTICATED),
    "Retry-After": answer(503, {**NOT_FOUND, "type": "/problems/unavailable", "status": 503}, Retry_After="soon"),
    "not-found in an answer 400": answer(400, {**NOT_FOUND, "status": 400}),
    "404 in an answer 400": answer(400, NOT_FOUND),
    "the header says": answer(404, {**NOT_FOUND, "request_id": "other"}),
    "is not one of": answer(200, {**WEBHOOK, "status": "paused"}),
    "the test is wrong": answer(200, WEBHOOK, path="/elsewhere"),
}.items())
def test_check_refuses_what_is_not_documented(said, response):
    with pytest.raises(AssertionError, match=re.escape(said)):
        contract.check(response, "getWebhook")


def test_check_refuses_a_body_where_none_is_documented():
    with pytest.raises(AssertionError, match="documented is none"):
        contract.check(answer(204, b"{}", method="DELETE"), "deleteWebhook")
