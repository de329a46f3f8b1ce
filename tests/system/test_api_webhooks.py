"""What tenants are promised of their webhooks through the API: the product page's examples, every member of a webhook, whose it is, and that
a secret is shown once."""

import base64
import concurrent.futures
import datetime as dt
import json
import pathlib
import re
import uuid

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support import contract
from support.api import WEBHOOKS, new_id
from support.produce import new_id as new_event_id
from support.tenant import Tenant
from support.wire import Wire

URL = "https://hooks.example.com/netrecon"
SECRET = "a secret of the tests that nobody may see"

# Verbatim from the product page.
PAGE_PATH = "/api/v1/integrations/webhooks"
PAGE_BODY = '''{
"url": "https://your-server.com/webhook",
"secret": "your-hmac-secret",
"events": ["alert.created", "scan.completed", "device.discovered"],
"active": true
}'''

# operation → (method, path below the collection, body)
ROUTES = {
    "createWebhook": ("POST", "", {"url": URL, "events": ["*"]}),
    "listWebhooks": ("GET", "", None),
    "getWebhook": ("GET", "{id}", None),
    "updateWebhook": ("PATCH", "{id}", {"active": False}),
    "deleteWebhook": ("DELETE", "{id}", None),
    "rotateWebhookSecret": ("POST", "{id}/rotate-secret", {"overlap_hours": 0}),
}


@pytest.fixture
def client(api, tenant):
    return api.client(tenant.id)


def ask(client, operation: str, webhook_id=""):
    method, path, body = ROUTES[operation]
    options = {} if body is None else {"json": body}
    return client.request(method, path.format(id=webhook_id), **options)


def problem(answer, status: int) -> dict:
    return contract.check_problem(answer, status).json()


def get(client, webhook_id) -> dict:
    return contract.check(client.get(webhook_id), "getWebhook").json()


def patch(client, webhook_id, **members) -> dict:
    answer = contract.check(client.patch(webhook_id, members), "updateWebhook")
    assert answer.status_code == 200, answer.text
    return answer.json()


def rotate(client, webhook_id, **members) -> dict:
    answer = contract.check(client.post(f"{webhook_id}/rotate-secret", members or None), "rotateWebhookSecret")
    assert answer.status_code == 200, answer.text
    return answer.json()


def time_of(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text.replace("Z", "+00:00"))


# ---- the product page ----

def test_the_examples_of_the_product_page_work_verbatim(client):
    created = client.request("POST", PAGE_PATH, data=PAGE_BODY, headers={"Content-Type": "application/json"})
    webhook = contract.check(created, "createWebhook").json()
    assert created.status_code == 201
    assert {name: webhook[name] for name in json.loads(PAGE_BODY)} == json.loads(PAGE_BODY)
    listed = contract.check(client.request("GET", PAGE_PATH), "listWebhooks").json()
    assert [row["id"] for row in listed["data"]] == [webhook["id"]]
    deleted = contract.check(client.request("DELETE", f"{PAGE_PATH}/{webhook['id']}"), "deleteWebhook")
    assert deleted.status_code == 204 and deleted.content == b""
    assert client.request("GET", PAGE_PATH).json()["data"] == []


# ---- one webhook ----

def test_a_created_webhook_is_at_its_location_with_all_its_members(client):
    answer = contract.check(client.post(body={"url": "HTTPS://Hooks.Example.COM:443/a/../b", "events": ["alert.*", "scan.failed"],
                                              "description": "für die Wächter 🔑"}), "createWebhook")
    webhook = answer.json()
    assert answer.status_code == 201 and answer.headers["Location"] == f"{WEBHOOKS}/{webhook['id']}"
    secret = webhook.pop("secret")
    assert secret.startswith("whsec_") and len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert get(client, webhook["id"]) == webhook
    assert webhook == {"id": webhook["id"], "url": "https://hooks.example.com/b", "description": "für die Wächter 🔑",
                       "events": ["alert.*", "scan.failed"], "active": True, "status": "active", "failing_since": None,
                       "last_success_at": None, "disabled_at": None, "disabled_reason": None, "secret_rotation": None,
                       "created_at": webhook["created_at"], "updated_at": webhook["updated_at"]}
    assert abs(time_of(webhook["created_at"]) - dt.datetime.now(dt.timezone.utc)) < dt.timedelta(seconds=60)


def test_generated_secrets_differ(client):
    assert len({client.create(URL)["secret"] for _ in range(3)}) == 3


def test_a_patch_changes_what_it_names_and_nothing_else(client):
    before = client.create(URL, description="first", events=["alert.created"])
    before.pop("secret")
    now = before
    for members in ({"url": "https://hooks.example.com/v2"}, {"events": ["*"]}, {"active": False}, {"active": True},
                    {"description": "second"}, {"description": None}, {"secret": SECRET},
                    {"url": URL, "events": ["scan.*"], "description": "third"}):
        after = patch(client, before["id"], **members)
        expected = {**now, **{name: value for name, value in members.items() if name != "secret"}, "updated_at": after["updated_at"]}
        assert after == expected == get(client, before["id"])
        assert time_of(after["updated_at"]) > time_of(now["updated_at"])
        now = after
    merge = client.request("PATCH", before["id"], data=b'{"description": "fourth"}', headers={"Content-Type": "application/merge-patch+json"})
    assert contract.check(merge, "updateWebhook").json()["description"] == "fourth"
    assert patch(client, before["id"])["updated_at"] == merge.json()["updated_at"], "an empty patch is no change"


def test_activating_a_disabled_webhook_brings_it_back(stack, client):
    webhook_id = client.create(URL)["id"]
    stack.query("update webhooks set status = 'disabled', failing_since = now() - interval '6 days', disabled_at = now(), "
                "disabled_reason = 'no delivery succeeded for too long' where id = %s", webhook_id)
    disabled = get(client, webhook_id)
    assert disabled["status"] == "disabled" and disabled["disabled_reason"] and disabled["failing_since"]
    assert patch(client, webhook_id, description="x")["status"] == "disabled"
    assert patch(client, webhook_id, active=False)["status"] == "disabled"
    back = patch(client, webhook_id, active=True)
    assert (back["status"], back["failing_since"], back["disabled_at"], back["disabled_reason"]) == ("active", None, None, None)


def test_activating_does_not_excuse_a_failing_webhook(stack, client):
    webhook_id = client.create(URL)["id"]
    stack.query("update webhooks set status = 'failing', failing_since = now() where id = %s", webhook_id)
    failing = get(client, webhook_id)
    assert patch(client, webhook_id, active=True) == failing


def test_the_days_of_a_pause_are_no_days_of_failures(stack, client):
    webhook_id = client.create(URL)["id"]
    stack.query("update webhooks set status = 'failing', failing_since = now() - interval '9 days' where id = %s", webhook_id)
    before = get(client, webhook_id)["failing_since"]
    assert patch(client, webhook_id, active=False)["failing_since"] == before
    back = patch(client, webhook_id, active=True)
    assert back["status"] == "failing" and dt.datetime.fromisoformat(back["failing_since"]) > dt.datetime.now(dt.timezone.utc) - dt.timedelta(minutes=1)


def test_what_is_deleted_is_gone(client):
    webhook_id = client.create(URL)["id"]
    assert client.delete(webhook_id).status_code == 204
    for operation in set(ROUTES) - {"createWebhook", "listWebhooks"}:
        problem(ask(client, operation, webhook_id), 404)
    assert client.get().json()["meta"]["total"] == 0


# ---- creating with an Idempotency-Key ----

def create_with(client, key: str, **members):
    return contract.check(client.request("POST", json={"url": URL, "events": ["*"], **members}, headers={"Idempotency-Key": key}), "createWebhook")


@pytest.mark.parametrize("members", [{}, {"secret": SECRET, "description": "mine", "active": False, "events": ["alert.*", "scan.failed"]}])
def test_a_creation_that_is_repeated_with_its_key_makes_one_webhook_and_gets_one_answer(api, tenant, client, members):
    clients = [api.client(tenant.id) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: create_with(one, 255 * "~", **members), clients))
    answers.append(create_with(client, 255 * "~", **members))
    assert {answer.status_code for answer in answers} == {201}
    assert len({(answer.text, answer.headers["Location"]) for answer in answers}) == 1
    assert client.get().json()["meta"]["total"] == 1 and answers[0].json()["secret"] == members.get("secret", answers[0].json()["secret"])


def test_keys_differ_between_tenants_and_so_do_the_secrets_made_for_them(stack, api, client):
    mine, other, theirs = create_with(client, "a"), create_with(client, "b"), create_with(api.client(Tenant(stack).id), "a")
    assert {answer.status_code for answer in (mine, other, theirs)} == {201}
    assert len({answer.json()["id"] for answer in (mine, other, theirs)}) == len({answer.json()["secret"] for answer in (mine, other, theirs)}) == 3


@pytest.mark.parametrize("members", [{"url": URL + "/2"}, {"events": ["alert.*"]}, {"active": False}, {"description": "x"}, {"secret": SECRET}])
def test_a_key_is_not_good_for_another_body(client, members):
    made = create_with(client, "k").json()
    used = create_with(client, "k", **members)
    assert (used.status_code, used.json()["type"]) == (409, "/problems/idempotency-key-used") and made["id"] in used.json()["detail"]
    assert "secret" not in used.json() and made["secret"] not in used.text and client.get().json()["meta"]["total"] == 1


@pytest.mark.parametrize("change", [
    lambda stack, client, made: patch(client, made, secret=SECRET), lambda stack, client, made: rotate(client, made),
    lambda stack, client, made: patch(client, made, url=URL + "/2"), lambda stack, client, made: client.delete(made),
    lambda stack, client, made: stack.query("update webhooks set created_at = now() - interval '25 hours' where id = %s", made)],
    ids=["secret", "rotated", "url", "deleted", "a day later"])
def test_a_secret_is_not_shown_again_once_the_webhook_was_changed_or_a_day_later(stack, client, change):
    made = create_with(client, "k").json()
    change(stack, client, made["id"])
    used = create_with(client, "k")
    assert used.status_code == 409 and used.json()["type"] == "/problems/idempotency-key-used"


def test_a_repeat_is_answered_at_the_limit_of_webhooks(start_api, tenant):
    client = start_api(webhooks_max=1).client(tenant.id)
    made = create_with(client, "k")
    assert create_with(client, "k").text == made.text
    assert create_with(client, "other").json()["type"] == "/problems/webhook-limit"


@pytest.mark.parametrize("keys", [[""], [256 * "k"], ["a b"], ["ä".encode()], ["a", "a"]])
def test_a_key_that_is_not_one_is_refused(api, tenant, client, keys):
    with Wire(api.api_port) as wire:
        lines = b"".join(b"Idempotency-Key: " + (key if isinstance(key, bytes) else key.encode()) + b"\r\n" for key in keys)
        body = json.dumps({"url": URL, "events": ["*"]}).encode()
        wire.send(f"POST {WEBHOOKS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                  f"X-API-Key: {client.session.headers['X-API-Key']}\r\n".encode() + lines + b"\r\n" + body)
        answer = wire.answer()
    assert answer.status == 400 and "Idempotency-Key" in answer.json()["detail"]
    assert client.get().json()["meta"]["total"] == 0


# ---- pausing and deleting cancel ----

def make_pending(stack, tenant_id, webhook_id, n: int, reason: str = "retry") -> None:
    stack.query("insert into pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type, next_attempt, "
                "next_attempt_at, reason) select gen_random_uuid(), now(), %s, %s, %s, 'alert.created', 2, now() + interval '1 hour', %s "
                "from generate_series(1, %s)", new_event_id(), webhook_id, tenant_id, reason, n)


def pending(stack, webhook_id) -> int:
    return stack.query("select count(*) from pending_deliveries where webhook_id = %s", webhook_id)[0][0]


@pytest.mark.parametrize("n", [3, 45_000])  # 45 000: more than two batches
def test_pausing_cancels_what_is_pending(stack, tenant, client, n):
    webhook_id, other = client.create(URL)["id"], client.create(URL)["id"]
    make_pending(stack, tenant.id, webhook_id, n)
    make_pending(stack, tenant.id, other, 2)
    patch(client, webhook_id, description="not a pause")
    assert pending(stack, webhook_id) == n
    assert patch(client, webhook_id, active=False)["active"] is False
    assert (pending(stack, webhook_id), pending(stack, other)) == (0, 2)


def test_deleting_cancels_what_is_pending(stack, tenant, client):
    webhook_id, other = client.create(URL)["id"], client.create(URL)["id"]
    make_pending(stack, tenant.id, webhook_id, 3)
    make_pending(stack, tenant.id, other, 2)
    assert client.delete(webhook_id).status_code == 204
    assert (pending(stack, webhook_id), pending(stack, other)) == (0, 2)


def test_a_test_that_is_under_way_goes_on_through_a_pause_and_ends_with_the_webhook(stack, tenant, client):
    webhook_id = client.create(URL)["id"]
    for reason in ("retry", "spill", "redeliver", "replay", "test"):
        make_pending(stack, tenant.id, webhook_id, 2, reason)
    patch(client, webhook_id, active=False)
    assert stack.query("select distinct reason from pending_deliveries where webhook_id = %s", webhook_id) == [("test",)]
    client.delete(webhook_id)
    assert pending(stack, webhook_id) == 0


def test_a_pause_does_not_wait_for_what_a_worker_is_writing(stack, tenant, client):
    webhook_id = client.create(URL)["id"]
    make_pending(stack, tenant.id, webhook_id, 2)
    with stack.connect() as connection, connection.transaction():
        connection.execute("select from pending_deliveries where webhook_id = %s limit 1 for update", (webhook_id,))
        assert patch(client, webhook_id, active=False)["active"] is False
    assert pending(stack, webhook_id) == 1


# ---- secrets ----

def test_rotating_keeps_the_secret_before_for_the_overlap(stack, client):
    webhook = client.create(URL)
    for members, hours in (({}, 24), ({"overlap_hours": 168}, 168), ({"overlap_hours": 1}, 1)):
        rotated = rotate(client, webhook["id"], **members)
        until = time_of(rotated["secret_rotation"]["previous_valid_until"])
        assert abs(until - dt.datetime.now(dt.timezone.utc) - dt.timedelta(hours=hours)) < dt.timedelta(seconds=60)
        assert rotated["secret"].startswith("whsec_") and rotated["secret"] != webhook["secret"]
        assert rotated.pop("secret") and get(client, webhook["id"]) == rotated
    own = rotate(client, webhook["id"], overlap_hours=0, secret=SECRET)
    assert own["secret"] == SECRET and own["secret_rotation"] is None
    assert stack.query("select previous_secret, previous_secret_until from webhooks where id = %s", webhook["id"]) == [(None, None)]


def test_rotating_to_the_secret_that_is_in_force_keeps_the_one_before(stack, tenant, client):
    webhook = client.create(URL)
    first = rotate(client, webhook["id"], secret=SECRET)
    assert rotate(client, webhook["id"], secret=SECRET, overlap_hours=1) == first
    assert unseal(stack, tenant, webhook["id"], "previous_secret") == webhook["secret"]


def test_a_new_secret_by_patch_ends_a_rotation(client):
    webhook_id = client.create(URL)["id"]
    assert rotate(client, webhook_id)["secret_rotation"] is not None
    assert patch(client, webhook_id, description="x")["secret_rotation"] is not None
    assert patch(client, webhook_id, secret=SECRET)["secret_rotation"] is None


def test_an_overlap_that_is_over_is_not_shown(stack, client):
    webhook_id = client.create(URL)["id"]
    rotate(client, webhook_id)
    stack.query("update webhooks set previous_secret_until = now() - interval '1 second' where id = %s", webhook_id)
    assert get(client, webhook_id)["secret_rotation"] is None


def unseal(stack, tenant, webhook_id, column: str) -> str:
    """As common/seal.h describes it."""
    blob, = stack.query(f"select {column} from webhooks where id = %s", webhook_id)[0]
    blob = bytes(blob)
    head, nonce, sealed = blob[:2 + blob[1]], blob[2 + blob[1]:14 + blob[1]], blob[14 + blob[1]:]
    ring = re.split("[,\n]", pathlib.Path(stack.exports["NRW_KEYRING_FILE"]).read_text())
    keys = dict(entry.strip().split(":", 1) for entry in ring if entry.strip())
    aad = head + f"webhooks.{column}\0".encode() + uuid.UUID(webhook_id).bytes + tenant.id.bytes
    return AESGCM(base64.b64decode(keys[head[2:].decode()])).decrypt(nonce, sealed, aad).decode()


def test_concurrent_rotations_lose_no_secret(stack, api, tenant, client):
    """The row's two secrets are the last two that were answered: no overlap was cut off by a stale read."""
    webhook_id = client.create(URL)["id"]
    clients = [api.client(tenant.id) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: one.post(f"{webhook_id}/rotate-secret"), clients))
    assert {answer.status_code for answer in answers} <= {200, 409}
    rotations = sorted((answer.json() for answer in answers if answer.status_code == 200), key=lambda one: one["updated_at"])
    assert len(rotations) >= 2
    assert unseal(stack, tenant, webhook_id, "secret") == rotations[-1]["secret"]
    assert unseal(stack, tenant, webhook_id, "previous_secret") == rotations[-2]["secret"]


SHADOW_BYTES = 1 << 30  # what is larger is the sanitizer's own


def memory_has(pid: int, needle: bytes) -> bool:
    """Whether these bytes stand anywhere in what this process may write."""
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            bounds, rights, _, _, _, *name = line.split()
            if not rights.startswith("rw") or name[:1] == ["[vvar]"]:
                continue
            first, last = (int(text, 16) for text in bounds.split("-"))
            if last - first > SHADOW_BYTES:
                continue
            try:
                memory.seek(first)
                if needle in memory.read(last - first):
                    return True
            except OSError:
                continue  # a guard page
    return False


def test_a_secret_is_shown_once_and_stays_nowhere(stack, api, client):
    own = {"typed": "typed-by-the-customer-" + new_id(), "patched": "changed-by-the-customer-" + new_id(),
           "rotated": "rotated-by-the-customer-" + new_id(), "refused": "refused-with-the-body-" + new_id()}
    webhook = client.create(URL, secret=own["typed"])
    generated = client.create(URL)
    patched = patch(client, webhook["id"], secret=own["patched"])
    rotated = rotate(client, webhook["id"], secret=own["rotated"])
    again = rotate(client, generated["id"])
    problem(client.post(body={"url": "", "events": ["*"], "secret": own["refused"]}), 422)
    broken = client.request("POST", "", data=b'{"secret" "%s"}' % own["refused"].encode(), headers={"Content-Type": "application/json"})
    problem(broken, 400)
    assert (webhook["secret"], rotated["secret"]) == (own["typed"], own["rotated"])

    secrets = [*own.values(), generated["secret"], again["secret"]]
    places = {"patch": json.dumps(patched), "broken": broken.text, "list": client.get().text, "log": api.log_text() + api.stderr_text(),
              "get": client.get(webhook["id"]).text + client.get(generated["id"]).text, "metrics": api.get("/metrics").text,
              "row": str(stack.query("select * from webhooks where id = any(%s)", [uuid.UUID(webhook["id"]), uuid.UUID(generated["id"])]))}
    assert {(secret, place) for secret in secrets for place, text in places.items() if secret in text} == set()
    row = stack.query("select secret, previous_secret from webhooks where id = %s", webhook["id"])[0]
    assert not [secret for secret in secrets for blob in row if secret.encode() in bytes(blob)]
    assert memory_has(api.pid, b"nrw_api_requests_total"), "the memory can be read, or this would prove nothing"
    assert [secret for secret in secrets if memory_has(api.pid, secret.encode())] == []


# ---- the list ----

def test_the_list_is_paged_newest_first_with_an_exact_total(client):
    made = [client.create(URL, description=str(n))["id"] for n in range(7)][::-1]
    whole = contract.check(client.get(), "listWebhooks").json()
    assert [row["id"] for row in whole["data"]] == made and whole["meta"] == {"page": 1, "per_page": 25, "total": 7}
    assert all("secret" not in row for row in whole["data"])
    for page, ids in ((1, made[:3]), (2, made[3:6]), (3, made[6:]), (4, [])):
        part = contract.check(client.get(page=page, per_page=3), "listWebhooks").json()
        assert [row["id"] for row in part["data"]] == ids and part["meta"] == {"page": page, "per_page": 3, "total": 7}
    head = client.request("HEAD")
    assert head.status_code == 200 and int(head.headers["Content-Length"]) > 1000 and head.content == b""


def test_the_list_is_filtered_by_event_and_status(stack, client):
    webhooks = {name: client.create(URL, events=events)["id"] for name, events in {
        "all": ["*"], "alerts": ["alert.*"], "created": ["alert.created", "scan.failed"], "scans": ["scan.*"]}.items()}
    stack.query("update webhooks set status = 'failing', failing_since = now() where id = any(%s)",
                [uuid.UUID(webhooks[name]) for name in ("all", "scans")])

    def names(**filters) -> set[str]:
        answer = contract.check(client.get(**filters), "listWebhooks").json()
        assert answer["meta"]["total"] == len(answer["data"])
        return {name for name, webhook_id in webhooks.items() if webhook_id in [row["id"] for row in answer["data"]]}

    assert names(event="alert.created") == {"all", "alerts", "created"}
    assert names(event="alert.resolved") == {"all", "alerts"}
    assert names(event="scan.failed") == {"all", "created", "scans"}
    assert names(event="backup.failed") == {"all"}
    assert names(status="failing") == {"all", "scans"}
    assert names(status="active") == {"alerts", "created"}
    assert names(status="disabled") == set()
    assert names(event="scan.started", status="failing") == {"all", "scans"}
    assert names(event="alert.created", status="active", per_page=100) == {"alerts", "created"}


# ---- whose it is ----

@pytest.mark.parametrize("operation", ROUTES)
def test_nothing_of_another_tenant_can_be_reached(stack, api, tenant, client, operation):
    owner = api.client(Tenant(stack).id)
    theirs = owner.create(URL, description="theirs")
    answer = ask(client, operation, theirs["id"])
    if operation == "createWebhook":
        assert answer.status_code == 201
    elif operation == "listWebhooks":
        assert answer.json()["data"] == [] and answer.json()["meta"]["total"] == 0
    else:
        missing = ask(client, operation, new_id())
        theirs_problem, missing_problem = problem(answer, 404), problem(missing, 404)
        assert {**theirs_problem, "request_id": ""} == {**missing_problem, "request_id": ""}
    del theirs["secret"]
    assert owner.get(theirs["id"]).json() == theirs
    assert owner.get().json()["meta"]["total"] == 1


@pytest.mark.parametrize("operation", ROUTES)
def test_the_other_scope_is_not_enough(api, tenant, operation):
    webhook_id = api.client(tenant.id).create(URL)["id"]
    wrong = "webhooks_write" if ROUTES[operation][0] == "GET" else "webhooks_read"
    right = "webhooks_read" if ROUTES[operation][0] == "GET" else "webhooks_write"
    for client in (api.client(tenant.id, [wrong]), api.client(tenant.id, []), api.jwt_client(tenant.id, permissions=[wrong])):
        assert right in problem(ask(client, operation, webhook_id), 403)["detail"]
    assert ask(api.jwt_client(tenant.id, permissions=[right]), operation, webhook_id).status_code < 300


@pytest.mark.parametrize("operation", ROUTES)
def test_without_credentials_nothing_is_told(api, tenant, operation):
    client = api.client(tenant.id)
    webhook_id = client.create(URL)["id"]
    for headers in ({}, {"X-API-Key": "nr_live_" + 48 * "0"}, {"Authorization": "Bearer x.y.z"}, {"Authorization": "Basic dTpw"}):
        client.session.headers.pop("X-API-Key", None)
        client.session.headers.pop("Authorization", None)
        client.session.headers.update(headers)
        answer = ask(client, operation, webhook_id)
        problem(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="netrecon-webhooks"')


# ---- how many ----

def test_the_limit_holds_while_many_create_at_once(stack, start_api):
    apis = [start_api(webhooks_max=5, api_database_connections=8) for _ in range(2)]
    tenants = [Tenant(stack), Tenant(stack)]
    clients = [apis[n % 2].client(tenants[n // 2 % 2].id) for n in range(40)]
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda client: (client, client.post(body={"url": URL, "events": ["*"]})), clients))
    for tenant in range(2):
        mine = [answer for n, (_, answer) in enumerate(answers) if n // 2 % 2 == tenant]
        assert sorted(answer.status_code for answer in mine) == 5 * [201] + 15 * [409]
        assert "5" in problem(next(answer for answer in mine if answer.status_code == 409), 409)["detail"]
        assert stack.query("select count(*) from webhooks where tenant_id = %s", tenants[tenant].id) == [(5,)]
    client = clients[0]
    assert client.delete(client.get().json()["data"][0]["id"]).status_code == 204
    assert [client.post(body={"url": URL, "events": ["*"]}).status_code for _ in range(2)] == [201, 409]


def test_an_account_that_is_not_set_up_yet_is_told_so(stack, api):
    tenant_id = uuid.uuid4()
    client = api.jwt_client(tenant_id)
    assert problem(client.post(body={"url": URL, "events": ["*"]}), 409)["type"] == "/problems/tenant-unknown"
    assert client.get().json() == {"data": [], "meta": {"page": 1, "per_page": 25, "total": 0}}
    problem(client.get(new_id()), 404)
    stack.query("insert into tenants (id, name) values (%s, 'late')", tenant_id)
    assert client.post(body={"url": URL, "events": ["*"]}).status_code == 201


def test_the_log_names_the_operation_and_never_the_url(api, client):
    webhook_id = client.create("https://hooks.example.com/with?token=of-the-customer")["id"]
    client.get(webhook_id)
    line = api.wait_log("api.request", route="getWebhook", webhook=webhook_id)
    assert line["status"] == 200 and re.fullmatch("[0-9a-f-]{36}", line["request_id"])
    assert api.log_lines("api.request", route="createWebhook", status=201)
    assert "of-the-customer" not in api.log_text()
