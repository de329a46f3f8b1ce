"""Holds answers of the API against the contract that it serves (made of schema/openapi.yaml by the build).

    contract.check(requests.get(url, …), "getWebhook")      one operation's answer: status, media type, headers, body
    contract.check_problem(requests.get(url, …), 404)       an error outside of every operation (a path that does not exist)

Both return the response, and fail with all that is wrong, and where.
"""

import functools
import json
import re

import jsonschema

from support.paths import BUILD

DOCUMENT_FILE = BUILD / "catalogue" / "openapi.json"
DOCUMENT = json.loads(DOCUMENT_FILE.read_text(encoding="ascii"))
METHODS = ("get", "post", "patch", "delete", "put")
PROBLEM = "application/problem+json"
USABLE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
FORMATS = jsonschema.draft202012_format_checker


def resolve(node: dict) -> dict:
    """node, or what its $ref points to."""
    while "$ref" in node:
        target = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        node = target
    return node


# operationId → (METHOD, path template, operation)
OPERATIONS = {item[method]["operationId"]: (method.upper(), path, item[method])
              for path, item in DOCUMENT["paths"].items() for method in METHODS if method in item}
# type of a problem → its status, which begins the type's description
PROBLEM_STATUS = {kind["const"]: int(kind["description"][:3]) for kind in DOCUMENT["components"]["schemas"]["ProblemType"]["oneOf"]}
_resolver = jsonschema.RefResolver("", DOCUMENT)


def validator(schema: dict) -> jsonschema.Draft202012Validator:
    """Of a schema inside the document."""
    return jsonschema.Draft202012Validator(schema, resolver=_resolver, format_checker=FORMATS)


def errors_of(schema: dict, value) -> list[str]:
    found = []
    for error in validator(schema).iter_errors(value):
        best = jsonschema.exceptions.best_match([error])
        found.append(f"{best.json_path}: {best.message}")
    return found


@functools.cache
def _answer(operation_id: str, status: int) -> dict | None:
    documented = OPERATIONS[operation_id][2]["responses"].get(str(status))
    return resolve(documented) if documented is not None else None


@functools.cache
def _path_pattern(operation_id: str) -> re.Pattern:
    return re.compile(re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", re.escape(OPERATIONS[operation_id][1])))


def _no_duplicates(pairs: list) -> dict:
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names), f"a member is given twice: {names}"
    return dict(pairs)


def _no_constant(name: str):
    raise AssertionError(f"{name} is not JSON")


def _wrong_headers(documented: dict, response) -> list[str]:
    wrong = []
    for name, header in documented.items():
        header = resolve(header)
        value = response.headers.get(name)
        if value is None:
            if header.get("required"):
                wrong.append(f"header {name} is missing")
            continue
        if resolve(header["schema"]).get("type") == "integer" and re.fullmatch("[0-9]+", value):
            value = int(value)
        wrong += [f"header {name}: {error}" for error in errors_of(header["schema"], value)]
    asked = response.request.headers.get("X-Request-Id") if response.request is not None else None
    if asked is not None and USABLE_REQUEST_ID.fullmatch(asked) and response.headers.get("X-Request-Id") != asked:
        wrong.append(f"X-Request-Id is {response.headers.get('X-Request-Id')}, the request's was {asked}")
    return wrong


def _wrong_body(content: dict, response) -> list[str]:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if not content or (response.request is not None and response.request.method == "HEAD"):
        return [f"a body of {len(response.content)} bytes, documented is none"] if response.content else []
    if media_type not in content:
        return [f"Content-Type is {media_type or 'missing'}, documented is {', '.join(content)}"]
    try:
        body = json.loads(response.content.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, AssertionError) as error:
        return [f"the body is not strict JSON: {error}"]
    wrong = errors_of(content[media_type]["schema"], body)
    if media_type == PROBLEM and not wrong:
        if body["status"] != response.status_code:
            wrong.append(f"$.status: {body['status']} in an answer {response.status_code}")
        if PROBLEM_STATUS[body["type"]] != response.status_code:
            wrong.append(f"$.type: {body['type']} in an answer {response.status_code}")
        if body["request_id"] != response.headers.get("X-Request-Id"):
            wrong.append(f"$.request_id: {body['request_id']}, the header says {response.headers.get('X-Request-Id')}")
    return wrong


def _report(response, what: str, wrong: list[str]):
    assert not wrong, "\n  ".join([f"{what} answered {response.status_code} not as documented:", *wrong,
                                   f"body: {response.content[:2000]!r}"])
    return response


def operation_of(response) -> str:
    """The operation that this request asked for."""
    method, sent = response.request.method, response.request.path_url.partition("?")[0]
    return next(name for name, (known, _, _) in OPERATIONS.items() if known == method and _path_pattern(name).fullmatch(sent))


def check(response, operation_id: str):
    """response: of `requests`, to a request of that operation, or to its path with another method (405)."""
    method, path, operation = OPERATIONS[operation_id]
    wrong = []
    if response.request is not None:
        sent = response.request.path_url.partition("?")[0]
        sent_method = {"HEAD": "GET"}.get(response.request.method, response.request.method)
        if sent_method != method and response.status_code != 405:
            wrong.append(f"the request was {response.request.method}, the operation is {method}: the test is wrong")
        if not _path_pattern(operation_id).fullmatch(sent):
            wrong.append(f"the request was to {sent}, the operation is at {path}: the test is wrong")
    answer = _answer(operation_id, response.status_code)
    if answer is None:
        wrong.append(f"the status is not documented; these are: {', '.join(operation['responses'])}")
    else:
        wrong += _wrong_headers(answer.get("headers", {}), response) + _wrong_body(answer.get("content", {}), response)
    return _report(response, operation_id, wrong)


def check_problem(response, status: int):
    """Of any request: a problem of that status."""
    answer = DOCUMENT["components"]["responses"]["NotFound"]  # the headers and the body that every problem has
    wrong = [] if response.status_code == status else [f"the status should be {status}"]
    wrong += _wrong_headers(answer["headers"], response) + _wrong_body(answer["content"], response)
    return _report(response, "the API", wrong)
