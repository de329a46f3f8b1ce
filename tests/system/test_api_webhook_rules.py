"""The registration gate: each rule of a webhook's members at its maximum and one beyond, and every error told at once, with the place."""

import json

import pytest
from support import contract

URL = "https://hooks.example.com/netrecon"
TYPES = ("alert.created", "alert.resolved", "scan.started", "scan.completed", "scan.failed", "device.discovered", "device.offline",
         "ids.alert", "honeypot.hit", "rogue.detected", "cve.matched", "backup.completed", "backup.failed", "anomaly.detected")
PREFIXES = ("alert", "scan", "device", "ids", "honeypot", "rogue", "cve", "backup", "anomaly")
KIB = 1024


@pytest.fixture
def client(api, tenant):
    return api.client(tenant.id)


def errors_of(answer, status: int = 422) -> dict[str, str]:
    """place → detail."""
    errors = contract.check_problem(answer, status).json().get("errors", [])
    return {error.get("pointer", error.get("parameter")): error["detail"] for error in errors}


def url_of(length: int) -> str:
    return URL + "/" + "a" * (length - len(URL) - 1)


# member → (good values, bad values)
RULES = {
    "url": ([URL, url_of(2048), "https://hooks.example.com:8443/?q=%20", "https://bücher.example/"],
            [url_of(2049), "", "hooks.example.com", "ftp://hooks.example.com/", "https://user@hooks.example.com/", "https://hooks.example.com/#x",
             "https://hooks.example.com:22/", "https://10.0.0.1/", "https://localhost/", "https://ho oks.example.com/", "https://a\u0007b.com/",
             None, 1, True, [URL], {}]),
    "events": ([["*"], list(TYPES), [p + ".*" for p in PREFIXES], ["*", "alert.*", "alert.created"]],
               [[], None, "*", {}, 7, "alert.created"]),
    "secret": (["x" * 16, "x" * 256, "🔑🔑🔑🔑", "é" * 128, "whsec_not base64 at all", "\u0001 controls are bytes, too"],
               ["x" * 15, "x" * 257, "é" * 129, "", None, 16 * [1], 1234567890123456, False]),
    "active": ([True, False], [None, 0, 1, "true", []]),
    "description": (["", None, "x" * 1024, "🔑" * 1024, "two\nlines"], ["x" * 1025, "🔑" * 1025, 1, [], {}, False]),
}


@pytest.mark.parametrize("member", RULES)
def test_each_member_has_its_bounds(client, member):
    good, bad = RULES[member]
    mine = client.create(URL)["id"]
    body = {"url": URL, "events": ["*"]}
    for value in good:
        created = contract.check(client.post(body={**body, member: value}), "createWebhook")
        assert created.status_code == 201, f"{value!r}: {created.text}"
        patched = contract.check(client.patch(mine, {member: value}), "updateWebhook")
        assert patched.status_code == 200, f"{value!r}: {patched.text}"
        if member not in ("url", "secret"):
            assert created.json()[member] == patched.json()[member] == value
        client.delete(created.json()["id"])
    before = client.get(mine).json()
    for value in bad:
        assert list(errors_of(client.post(body={**body, member: value}))) == ["/" + member], value
        assert list(errors_of(client.patch(mine, {member: value}))) == ["/" + member], value
    assert client.get(mine).json() == before


def test_a_subscription_has_a_hundred_patterns_at_most(client):
    # There are only 24 different patterns today: one more than the maximum is told as such, and up to it each one is judged.
    assert list(errors_of(client.post(body={"url": URL, "events": 101 * ["alert.created"]}))) == ["/events"]
    found = errors_of(client.post(body={"url": URL, "events": 100 * ["alert.created"]}))
    assert list(found) == [f"/events/{n}" for n in range(1, 100)]
    for pattern in ("alert.craeted", "Alert.created", "alert", "alert.", ".*", "**", "ale*", "alert.*.*", "alert.created ", "new.type", "x.*",
                    "", None, 1, ["*"], "*" * 200):
        assert list(errors_of(client.post(body={"url": URL, "events": ["scan.*", pattern]}))) == ["/events/1"], pattern
    assert list(errors_of(client.post(body={"url": URL, "events": ["*", "scan.*", "*"]}))) == ["/events/2"]


def test_all_errors_are_told_at_once(client):
    answer = client.post(body={"url": "http://127.0.0.1:1/#x", "events": ["alert.created", "nothing"], "secret": "short", "active": "yes",
                               "description": 5, "colour": "red", "a/b~c": 1})
    assert set(errors_of(answer)) == {"/url", "/events/1", "/secret", "/active", "/description", "/colour", "/a~1b~0c"}
    assert "7 errors" in answer.json()["detail"]
    assert set(errors_of(client.post(body={}))) == {"/url", "/events"}
    assert set(errors_of(client.post(body={"url": None, "events": None, "secret": None, "active": None}))) == {
        "/url", "/events", "/secret", "/active"}
    mine = client.create(URL)["id"]
    assert set(errors_of(client.patch(mine, {"url": None, "events": None, "id": mine, "status": "active"}))) == {
        "/url", "/events", "/id", "/status"}
    assert client.get().json()["meta"]["total"] == 1


def test_names_that_are_no_text_are_told_as_text(client):
    for name in ("%FF", "%C3", "a%ED%A0%80", "%0A", "%E2%82" * 500):
        assert len(errors_of(client.request("GET", f"{contract.OPERATIONS['listWebhooks'][1]}?{name}=1"), 400)) == 1
    for name in ("é" * 1000, "a" + "é" * 1000, "ab" + "é" * 1000, "🔑" * 1000, "a" + "🔑" * 1000, "~/" * 1000, "\n", ""):
        pointer, = set(errors_of(client.post(body={"url": URL, "events": ["*"], name: 1})))
        assert pointer.startswith("/" + name.replace("~", "~0").replace("/", "~1").replace("\n", " ")[:20])


def test_a_rotation_has_its_bounds(client):
    mine = client.create(URL)["id"]
    path = f"{mine}/rotate-secret"
    for body in (None, {}, {"overlap_hours": 0}, {"overlap_hours": 168}, {"secret": 16 * "x"}, {"secret": 256 * "x", "overlap_hours": 1}):
        assert contract.check(client.post(path, body), "rotateWebhookSecret").status_code == 200, body
    before = client.get(mine).json()
    for body, places in (({"overlap_hours": 169}, ["/overlap_hours"]), ({"overlap_hours": -1}, ["/overlap_hours"]),
                         ({"overlap_hours": 1.5}, ["/overlap_hours"]), ({"overlap_hours": "24"}, ["/overlap_hours"]),
                         ({"overlap_hours": None, "secret": None}, ["/overlap_hours", "/secret"]),
                         ({"secret": 15 * "x", "url": URL}, ["/url", "/secret"]), ({"secret": 257 * "x"}, ["/secret"])):
        assert sorted(errors_of(client.post(path, body))) == sorted(places), body
    assert client.get(mine).json() == before


def padded(size: int) -> bytes:
    """A good body of so many bytes."""
    body = json.dumps({"url": URL, "events": ["*"]}).encode()
    return body + b" " * (size - len(body))


@pytest.mark.parametrize("data, content_type, status", [
    (padded(64 * KIB), "application/json", 201),
    (padded(64 * KIB + 1), "application/json", 413),
    (padded(100), "application/json; charset=utf-8", 201),
    (padded(100), "Application/JSON;charset=\"UTF-8\"", 201),
    (padded(100), None, 415),
    (padded(100), "text/plain", 415),
    (padded(100), "application/jsoncharset=utf-8", 415),
    (padded(100), "application/json; charset=latin-1", 415),
    (padded(100), "application/merge-patch+json", 415),
    (b"", "application/json", 400),
    (b"{", "application/json", 400),
    (b"[]", "application/json", 400),
    (b"null", "application/json", 400),
    (padded(100) + b"x", "application/json", 400),
    (b'{"url": "%s", "events": ["*"], "url": "%s"}' % (URL.encode(), URL.encode()), "application/json", 400),
    (b'{"url": "%s\\u0000", "events": ["*"]}' % URL.encode(), "application/json", 400),
    (b'{"url": "%s", "events": ["*"], "description": "\xff"}' % URL.encode(), "application/json", 400),
    (b'{"url": "%s", "events": ["*"], "description": "\\ud800"}' % URL.encode(), "application/json", 400),
    (b'{"events": ' + 30_000 * b"[" + 30_000 * b"]" + b"}", "application/json", 400),
], ids=lambda value: f"{value[:24].decode(errors='replace')}..{len(value)}" if isinstance(value, bytes) else str(value))
def test_only_json_of_bounded_size_is_read(client, data, content_type, status):
    answer = client.request("POST", "", data=data, headers={"Content-Type": content_type})
    assert answer.status_code == status, answer.text
    assert client.get().json()["meta"]["total"] == (1 if status == 201 else 0)


@pytest.mark.parametrize("query, parameter", [
    ("per_page=101", "per_page"), ("per_page=0", "per_page"), ("per_page=x", "per_page"), ("per_page=", "per_page"), ("per_page=1e1", "per_page"),
    ("page=0", "page"), ("page=-1", "page"), ("page=10001", "page"), ("page=101&per_page=100", "page"), ("page=99999999999999999999", "page"),
    ("page=1&page=2", "page"), ("event=alert.unknown", "event"), ("event=*", "event"), ("event=alert.*", "event"), ("event=", "event"),
    ("status=paused", "status"), ("status=Active", "status"), ("state=active", "state"), ("Page=1", "Page"),
])
def test_a_wrong_parameter_is_named(client, query, parameter):
    assert list(errors_of(client.request("GET", f"{contract.OPERATIONS['listWebhooks'][1]}?{query}"), 400)) == [parameter]


def test_parameters_have_their_bounds(client):
    for filters in ({"per_page": 100}, {"per_page": 1, "page": 10_000}, {"page": 100, "per_page": 100}, {"event": "cve.matched"}):
        assert contract.check(client.get(**filters), "listWebhooks").status_code == 200
    assert set(errors_of(client.get(page=0, per_page=101, event="x", status="y", colour="red"), 400)) == {
        "page", "per_page", "event", "status", "colour"}
    mine = client.create(URL)["id"]
    for method, path, body in (("POST", "", {"url": URL, "events": ["*"]}), ("GET", mine, None), ("PATCH", mine, {}), ("DELETE", mine, None),
                               ("POST", f"{mine}/rotate-secret", None)):
        answer = client.request(method, path, params={"page": 1}, **({} if body is None else {"json": body}))
        assert list(errors_of(answer, 400)) == ["page"], (method, path)
    assert client.get().json()["meta"]["total"] == 1


def test_http_needs_the_operator(tenant, start_api):
    body = {"url": "http://hooks.example.com/", "events": ["*"]}
    assert list(errors_of(start_api(allow_http="false").client(tenant.id).post(body=body))) == ["/url"]
    assert start_api(allow_http="true").client(tenant.id).post(body=body).status_code == 201
