#!/usr/bin/python3
"""Lets Schemathesis look for an answer that the contract does not know: `tests/run contract` calls it.

By default on a stack and an API of its own, with webhooks and a delivery log to find; no worker runs, so nothing is sent anywhere. With --url
on an API that runs already (loopback only: it creates and deletes webhooks), whose key is in CONTRACT_API_KEY.

Two rounds, each on webhooks of its own: first the examples and each bound of each parameter, with ids out of earlier answers, which this
round deletes in the end; then --cases generated requests for every operation, right and wrong ones, and chains of operations.
A finding: an undocumented status, media type, header or body; 5xx (but a test's 504); a wrong request that is accepted; a method that is not
refused; credentials that do not matter; an answer that takes longer than 5 s.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import uuid

import requests
from support import contract
from support.paths import ROOT, clean_environment

SCHEMATHESIS = ROOT / ".build" / "schemathesis" / "bin" / "schemathesis"
WEBHOOKS = "/api/v1/integrations/webhooks"
KEPT = 2  # webhooks with a history that no generated request deletes
DOOMED = 20
ANSWER_TIMEOUT_S = 5
# Right by the schemas and still refused: a window that ends before it begins, a page too deep, a URL that is not public, no such id.
REFUSALS_OF_RIGHT_REQUESTS = [400, 404, 409, 410, 422, 504]


ROUNDS = ("examples,coverage", "fuzzing,stateful")


def configuration(kept: list, doomed: list, deliveries: list, jobs: list, cases: int, seed: int) -> str:
    """Schemathesis' settings: TOML, whose strings and lists of strings are JSON's."""
    dictionaries = {"kept": kept, "doomed": doomed, "deliveries": deliveries, "jobs": jobs,
                    "urls": [f"https://host{i}.nrw-contract.test/hook?i={i}" for i in range(5)]}
    lines = [f"seed = {seed}", "continue-on-failure = true", f"request-timeout = {4 * ANSWER_TIMEOUT_S}", "color = false",
             'suppress-health-check = ["all"]',
             "workers = 1",  # Python 3.11's parser counts wrong when two threads use it (gh-106905)
             "[cache]", "enabled = false",
             "[auth.openapi.apiKey]", 'api_key = "${CONTRACT_API_KEY}"',
             "[generation]", f"max-examples = {cases}", 'database = "none"',
             "[checks.positive_data_acceptance]", f'expected-statuses = {json.dumps(["2xx", *REFUSALS_OF_RIGHT_REQUESTS])}',
             "[checks.negative_data_rejection]", 'expected-statuses = ["4xx", 503, 504]',
             # The kept ones would otherwise be found in answers and deleted.
             "[phases.fuzzing.extra-data-sources]", "responses = false"]
    for name, values in dictionaries.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values or [str(uuid.uuid4())])}"]
    lines += ["[parameters]",
              '"path.webhook_id" = {dictionary = "kept", probability = 0.7}',
              '"path.delivery_id" = {dictionary = "deliveries", probability = 0.7}',
              '"path.job_id" = {dictionary = "jobs", probability = 0.7}',
              '"body.url" = {dictionary = "urls", probability = 0.5}',
              # Not TRACE: it would come with a body, which no client may send with it (RFC 9110, 9.3.8), and is refused for that.
             "[phases.coverage]", 'unexpected-methods = ["get", "put", "post", "delete", "options", "patch"]',
             "[[operations]]", 'include-operation-id = "deleteWebhook"',
              'parameters = {"path.webhook_id" = {dictionary = "doomed", probability = 0.5}}',
              # No worker runs: what should be sent as a test is not.
              "[[operations]]", 'include-operation-id = "testWebhook"',
              'checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 504]']
    return "\n".join(lines) + "\n"


def known_ids(url: str, key: str) -> tuple[list, list, list, list]:
    """Webhooks to use, webhooks to delete, deliveries and replays of the former, as the API lists them."""
    def get(path: str, operation: str) -> list:
        answer = requests.get(url + path, headers={"X-API-Key": key}, timeout=ANSWER_TIMEOUT_S)
        return contract.check(answer, operation).json()["data"]

    webhooks = [webhook["id"] for webhook in get(WEBHOOKS + "?per_page=100", "listWebhooks")]
    kept, doomed = webhooks[:KEPT], webhooks[KEPT:]
    deliveries = [row["delivery_id"] for webhook in kept for row in get(f"{WEBHOOKS}/{webhook}/deliveries?per_page=100", "listDeliveries")]
    jobs = [job["id"] for webhook in kept for job in get(f"{WEBHOOKS}/{webhook}/replays", "listReplays")]
    return kept, doomed, sorted(set(deliveries)), jobs


def run_round(url: str, key: str, phases: str, cases: int, seed: int) -> tuple[int, str]:
    """Schemathesis' exit status and what it counted."""
    with tempfile.TemporaryDirectory(prefix="nrw-contract-") as folder:
        settings = pathlib.Path(folder) / "schemathesis.toml"
        settings.write_text(configuration(*known_ids(url, key), cases, seed))
        command = ["setpriv", "--pdeathsig", "KILL", SCHEMATHESIS, "--config-file", settings, "run", contract.DOCUMENT_FILE, "--url", url,
                   "--phases", phases, "--max-response-time", str(ANSWER_TIMEOUT_S), "--warnings", "off"]
        environment = {**clean_environment(), "CONTRACT_API_KEY": key, "PYTHONUNBUFFERED": "1"}
        counted = "nothing was generated"
        with subprocess.Popen(list(map(str, command)), cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              text=True) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                if re.match("[0-9,]+ generated", line.strip()):
                    counted = line.strip()
        return process.returncode, counted


def run(url: str, key: str, cases: int, seed: int, prepare) -> int:
    """prepare() before each round. 0 when nothing was found."""
    results = []
    for phases in ROUNDS:
        prepare()
        results.append((phases, *run_round(url, key, phases, cases, seed)))
    for phases, status, counted in results:
        print(f"contract: {phases}: {len(contract.OPERATIONS)} operations, up to {cases} cases each, seed {seed}: {counted}"
              f"{'' if status == 0 else f'; exit status {status}'}")
    return int(any(status != 0 or counted.startswith("nothing") for _, status, counted in results))


# ---- a stack and an API of its own ----

# Body, status, outcome: text, bytes that are no text, nothing at all, and no answer.
HISTORY = ((b"try again later", 503, "failed"), (b"\xff\xfe\x00 not UTF-8 \xc3", 500, "exhausted"), (b"", 204, "delivered"),
           (None, None, "test_failed"), (b"gone", 410, "gone"))


def write_history(stack, webhook_id: str) -> None:
    """One delivery of each kind, and one that waits, as a worker would have left them."""
    tenant_id = stack.query("select tenant_id from webhooks where id = %s", webhook_id)[0][0]
    payload = (ROOT / "schema" / "events" / "samples" / "alert.created.json").read_bytes()
    for body, status, outcome in HISTORY:
        event_id = uuid.uuid4()
        delivery_id = uuid.uuid5(event_id, webhook_id)
        received_at = stack.query("insert into events (id, received_at, tenant_id, event_type, payload) "
                                  "values (%s, now(), %s, 'alert.created', %s) returning received_at", event_id, tenant_id, payload)[0][0]
        stack.query("insert into attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id, event_type, started_at, "
                    "response_time_ms, outcome, status_code, error, next_attempt_at, response_headers, response_body) "
                    "values (%s, %s, 1, %s, %s, %s, 'alert.created', now(), 84, %s, %s, %s, %s, %s, %s)",
                    received_at, delivery_id, event_id, webhook_id, tenant_id, outcome, status,
                    None if outcome == "delivered" else "not delivered", received_at if outcome == "failed" else None,
                    None if body is None else b"HTTP/1.1 200 OK\r\nX: \xff\r\n", body)
        if outcome == "failed":
            stack.query("insert into pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type, next_attempt, "
                        "next_attempt_at, reason) values (%s, %s, %s, %s, %s, 'alert.created', 2, now() + '1 hour', 'retry')",
                        delivery_id, received_at, event_id, webhook_id, tenant_id)


def populate(stack, url: str, key: str) -> None:
    headers = {"X-API-Key": key}
    for i in range(DOOMED + KEPT):
        body = {"url": f"https://host{i}.nrw-contract.test/", "events": ["*"]}
        answer = requests.post(url + WEBHOOKS, json=body, headers=headers, timeout=ANSWER_TIMEOUT_S)
        contract.check(answer, "createWebhook")
        if i < DOOMED:
            continue
        # The last ones: lists have them first.
        webhook_id = answer.json()["id"]
        write_history(stack, webhook_id)
        since = stack.query("select to_char(now() at time zone 'UTC' - interval '1 hour', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")[0][0]
        answer = requests.post(f"{url}{WEBHOOKS}/{webhook_id}/replay", json={"since": since}, headers=headers, timeout=ANSWER_TIMEOUT_S)
        contract.check(answer, "createReplay")


@contextlib.contextmanager
def own_api():
    # Only here: they need the database's client, and --url does not.
    from support.api import Api, make_api_key  # pylint: disable=import-outside-toplevel
    from support.stack import Stack  # pylint: disable=import-outside-toplevel
    from support.tenant import Tenant  # pylint: disable=import-outside-toplevel
    stack = Stack()
    try:
        stack.start()
        with tempfile.TemporaryDirectory(prefix="nrw-api-") as folder:
            # Tests find no worker: each would wait so long. Nobody deletes what the generated requests create.
            api = Api(stack, pathlib.Path(folder), test_timeout="100ms", webhooks_max=100000)
            try:
                api.start()
                api.ready()
                key = make_api_key(stack, Tenant(stack).id)
                yield api.url, key, lambda: populate(stack, api.url, key)
            finally:
                api.close()
    finally:
        stack.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of an API that runs already, http://127.0.0.1:PORT")
    parser.add_argument("--cases", type=int, default=200, metavar="N", help="generated requests for each operation (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same requests (default: 1)")
    options = parser.parse_args()
    if not SCHEMATHESIS.exists():
        parser.error(f"{SCHEMATHESIS.relative_to(ROOT)} is missing: tests/run contract makes it")
    if options.url is None:
        with own_api() as (url, key, prepare):
            return run(url, key, options.cases, options.seed, prepare)
    if not re.fullmatch(r"http://(127\.0\.0\.1|\[::1\]):[0-9]+", options.url):
        parser.error("--url must be http://127.0.0.1:PORT or http://[::1]:PORT")
    return run(options.url, os.environ["CONTRACT_API_KEY"], options.cases, options.seed, lambda: None)


if __name__ == "__main__":
    sys.exit(main())
