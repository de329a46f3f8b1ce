"""Who may ask the API: whatever a token, an API key or a header looks like, the answer is 401, 403 or 400 with a problem, the reason is not
told to strangers, and what was revoked does not work once more."""

import datetime
import hashlib
import hmac
import json
import time
import uuid

import pytest
from support.api import JWT_SECRET, make_api_key, make_token
from support.tokens import part
from support.wire import Wire

EVENT_TYPES = b"GET /api/v1/integrations/event-types"
CHALLENGE = 'Bearer realm="netrecon-webhooks"'
INVALID = CHALLENGE + ', error="invalid_token"'
TENANT = uuid.uuid4()


@pytest.fixture(scope="module")
def port(module_api):
    return module_api.api_port


def ask(port: int, *lines: str | bytes, request: bytes = EVENT_TYPES):
    with Wire(port) as wire:
        headers = [line.encode() if isinstance(line, str) else line for line in lines]
        wire.send(b"\r\n".join([request + b" HTTP/1.1", b"Host: x", b"Connection: close", *headers, b"", b""]))
        [answer] = wire.answers_until_closed()
    return answer


def assert_problem(answer, status: int, challenge: str | None):
    assert answer.status == status, answer
    assert answer.headers.get("www-authenticate") == challenge
    problem = answer.json()
    assert problem["status"] == status and problem["request_id"] == answer.headers["x-request-id"]
    assert set(problem) == {"type", "title", "status", "detail", "request_id"}


def signed(header, claims, secret: str = JWT_SECRET) -> str:
    text = part(header) + "." + part(claims)
    return text + "." + part(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest())


HS256 = {"alg": "HS256", "typ": "JWT"}


def claims(**changes) -> dict:
    all_claims = {"tenant_id": str(TENANT), "exp": int(time.time()) + 3600, **changes}
    return {name: value for name, value in all_claims.items() if value is not None}


def good() -> str:
    return signed(HS256, claims())


def text_of(value: dict, twice: str) -> bytes:
    """JSON with one member twice."""
    return (json.dumps(value)[:-1] + f', "{twice}": {json.dumps(value[twice])}}}').encode()


BAD_TOKENS = {
    "alg none": lambda: part({"alg": "none"}) + "." + part(claims()) + ".",
    "alg None": lambda: signed({"alg": "None"}, claims()),
    "alg none, signed": lambda: signed({"alg": "none"}, claims()),
    "no alg": lambda: signed({"typ": "JWT"}, claims()),
    "alg is an array": lambda: signed({"alg": ["HS256"]}, claims()),
    "alg hs256": lambda: signed({"alg": "hs256"}, claims()),
    "alg RS256, signed with the secret": lambda: signed({"alg": "RS256"}, claims()),
    "alg HS512": lambda: signed({"alg": "HS512"}, claims()),
    "another secret": lambda: signed(HS256, claims(), "x" * 40),
    "an empty secret": lambda: signed(HS256, claims(), ""),
    "no signature": lambda: good().rsplit(".", 1)[0] + ".",
    "two parts": lambda: good().rsplit(".", 1)[0],
    "four parts": lambda: good() + ".x",
    "one bit of the signature": lambda: good()[:-2] + ("A" if good()[-2] != "A" else "B") + good()[-1],
    "padded": lambda: good() + "=",
    "not base64url": lambda: good().replace(".", ".+/", 1),
    "header is no JSON": lambda: signed(b"nonsense", claims()),
    "header is an array": lambda: signed([1], claims()),
    "claims are no JSON": lambda: signed(HS256, b"\xff\xfe"),
    "claims nested too deep": lambda: signed(HS256, b'{"exp":' + b"[" * 3000 + b"]" * 3000 + b"}"),
    "crit": lambda: signed({**HS256, "crit": ["exp"]}, claims()),
    "jwk": lambda: signed({**HS256, "jwk": {"kty": "oct", "k": part(b"x" * 40)}}, claims(), "x" * 40),
    "jku": lambda: signed({**HS256, "jku": "https://evil.example/keys"}, claims()),
    "typ of something else": lambda: signed({**HS256, "typ": "dpop+jwt"}, claims()),
    "exp twice": lambda: signed(HS256, text_of(claims(), "exp")),
    "alg twice": lambda: signed(text_of(HS256, "alg"), claims()),
    "expired": lambda: signed(HS256, claims(exp=int(time.time()) - 61)),
    "no exp": lambda: signed(HS256, claims(exp=None)),
    "exp is a string": lambda: signed(HS256, claims(exp=str(int(time.time()) + 3600))),
    "exp is negative": lambda: signed(HS256, claims(exp=-1)),
    "exp is huge": lambda: signed(HS256, claims(exp=10**18)),
    "exp overflows": lambda: signed(HS256, b'{"tenant_id":"%s","exp":99999999999999999999999}' % str(TENANT).encode()),
    "exp is 1e999": lambda: signed(HS256, b'{"tenant_id":"%s","exp":1e999}' % str(TENANT).encode()),
    "not yet": lambda: signed(HS256, claims(nbf=int(time.time()) + 120)),
    "no tenant": lambda: signed(HS256, claims(tenant_id=None)),
    "tenant is a number": lambda: signed(HS256, claims(tenant_id=1)),
    "tenant is no UUID": lambda: signed(HS256, claims(tenant_id="all")),
    "tenant with more": lambda: signed(HS256, claims(tenant_id=f"{TENANT}' or true --")),
    "permissions is a string": lambda: signed(HS256, claims(permissions="webhooks_read")),
    "permissions of numbers": lambda: signed(HS256, claims(permissions=[1])),
    "too large": lambda: signed(HS256, claims(sub="x" * 7000)),
    "empty parts": lambda: "..",
    "a word": lambda: "x",
    "quotes": lambda: '"' + good() + '"',
    "a blank inside": lambda: good().replace(".", " .", 1),
    "a comma behind": lambda: good() + ",",
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_token_that_is_not_right_in_everything_is_refused(port, name):
    assert_problem(ask(port, "Authorization: Bearer " + BAD_TOKENS[name]()), 401, INVALID)


def test_a_right_token_is_taken_however_the_header_is_written(port):
    for line in (f"Authorization: Bearer {good()}", f"AUTHORIZATION: bearer {good()}"):
        assert ask(port, line).status == 200
    assert ask(port, "Authorization: Bearer " + signed(HS256, claims(exp=int(time.time()) - 30))).status == 200  # the leeway


def test_credentials_that_are_none(port):
    for lines in ([], ["Authorization: Bearer"], ["Authorization: Basic dXNlcjpwYXNz"], ["Authorization:"], [f"Authorization: {good()}"],
                  ["Authorization: Digest x"], [f"Proxy-Authorization: Bearer {good()}"], [f"Cookie: token={good()}"]):
        assert_problem(ask(port, *lines), 401, CHALLENGE)
    assert_problem(ask(port, request=EVENT_TYPES + b"?access_token=" + good().encode()), 401, CHALLENGE)


def test_more_than_one_credential_is_a_bad_request(stack, tenant, port):
    key = make_api_key(stack, tenant.id)
    token = f"Authorization: Bearer {good()}"
    for lines in ([token, token], [token, f"X-API-Key: {key}"], [f"X-API-Key: {key}", f"x-api-key: {key}"], [token, "X-API-Key:"],
                  ["Authorization: Basic x", f"X-API-Key: {key}"]):
        assert_problem(ask(port, *lines), 400, None)


def test_api_keys_that_are_not_right(stack, tenant, port):
    key = make_api_key(stack, tenant.id)
    now = datetime.datetime.now(datetime.timezone.utc)
    expired = make_api_key(stack, tenant.id, expires_at=now - datetime.timedelta(seconds=1))
    unknown = "nr_live_" + "0" * 48
    for bad in ("", "x", key[:-1], key + "0", key.upper(), key.replace("nr_live_", "nr_test_"), key[8:], unknown, expired, "nr_live_" + "g" * 48,
                key + " " + key, "' or true --", "nr_live_" + "0" * 4000):
        assert_problem(ask(port, f"X-API-Key: {bad}"), 401, CHALLENGE)
    for bad in (b"\xff" * 56, "é".encode() * 28):
        assert_problem(ask(port, b"X-API-Key: " + bad), 401, CHALLENGE)
    assert ask(port, f"X-API-Key: {key}").status == 200


def test_a_revoked_key_does_not_work_once_more(stack, tenant, port):
    key = make_api_key(stack, tenant.id)
    with Wire(port) as wire:
        request = EVENT_TYPES + f" HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()
        wire.send(request)
        assert wire.answer().status == 200
        stack.query("update api_keys set revoked_at = now() where key_sha256 = %s", hashlib.sha256(key.encode()).digest())
        wire.send(request)
        assert_problem(wire.answer(), 401, CHALLENGE)


def test_a_scope_is_needed_and_none_implies_another(stack, tenant, port):
    write_only = make_api_key(stack, tenant.id, ["webhooks_write"])
    read_only = make_api_key(stack, tenant.id, ["webhooks_read"])
    other = make_api_key(stack, tenant.id, ["webhooks_write", "something_else"])
    for lines in ([f"X-API-Key: {write_only}"], [f"X-API-Key: {other}"],
                  ["Authorization: Bearer " + signed(HS256, claims(permissions=["webhooks_write"]))],
                  ["Authorization: Bearer " + signed(HS256, claims(permissions=["webhooks_read ", "WEBHOOKS_READ", "*"]))],
                  ["Authorization: Bearer " + signed(HS256, claims(permissions=[]))]):
        answer = ask(port, *lines)
        assert_problem(answer, 403, None)
        assert "webhooks_read" in answer.json()["detail"]
    delete = b"DELETE /api/v1/integrations/webhooks/" + str(uuid.uuid4()).encode()
    assert_problem(ask(port, f"X-API-Key: {read_only}", request=delete), 403, None)
    assert ask(port, f"X-API-Key: {write_only}", request=delete).status == 404
    assert ask(port, f"X-API-Key: {read_only}").status == 200


def test_a_stranger_learns_nothing_but_that_he_is_one(port):
    """Not whether the query, the body or the resource would have been right."""
    for request in (EVENT_TYPES + b"?x", EVENT_TYPES + b"?page=0&page=0", b"GET /api/v1/integrations/webhooks/" + str(uuid.uuid4()).encode(),
                    b"POST /api/v1/integrations/webhooks"):
        assert_problem(ask(port, request=request), 401, CHALLENGE)


def test_what_is_open_needs_nothing_and_looks_at_nothing(port):
    for path in (b"/openapi.json", b"/health", b"/api/health", b"/ready"):
        assert ask(port, "Authorization: Bearer x", "X-API-Key: x", request=b"GET " + path).status == 200


def test_no_credential_is_logged(module_api, stack, tenant, port):
    key, token, forged = make_api_key(stack, tenant.id), make_token(TENANT), signed(HS256, claims(), "x" * 40)
    marker = "Zm9yZ2Vk" + uuid.uuid4().hex
    ask(port, f"X-API-Key: {key}")
    ask(port, f"Authorization: Bearer {token}")
    ask(port, f"Authorization: Bearer {forged}")
    ask(port, f"Authorization: Bearer {marker}", request=EVENT_TYPES + b"?secret=" + marker.encode())
    ask(port, f"X-API-Key: {marker}")
    module_api.wait_log("api.request", status=401)
    for secret in (key, token, token.rsplit(".", 1)[1], forged.rsplit(".", 1)[1], marker):
        assert secret not in module_api.log_text()


def test_what_is_logged_of_a_token_cannot_break_a_line(module_api, port):
    """log_lines() fails on a line that is not JSON."""
    for text in ('x"}\n{"event":"api.started","port":1', "\u0000\u001b[31m\u2028", "'", "x" * 2000):
        assert_problem(ask(port, "Authorization: Bearer " + signed({"alg": text, "kid": text}, claims())), 401, INVALID)
        assert_problem(ask(port, "Authorization: Bearer " + signed({**HS256, "typ": text}, claims())), 401, INVALID)
        assert_problem(ask(port, "Authorization: Bearer " + signed(HS256, claims(tenant_id=text))), 401, INVALID)
    assert len(module_api.log_lines("api.started")) == 1
