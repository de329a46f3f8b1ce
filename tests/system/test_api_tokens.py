"""Tokens of an identity provider: with NRW_JWT_KEYS, NRW_JWT_ISSUER, NRW_JWT_AUDIENCE and NRW_JWT_TENANT_CLAIM set, the API takes what
these keys signed for it, each token sees its own tenant's webhooks, and whatever differs in one thing is a 401. What is wrong with a token
in itself is test_api_auth.py's."""

import hashlib
import hmac
import json
import time
import uuid

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.api import JWT_SECRET, WEBHOOKS, Api, Client, make_token
from support.tenant import Tenant
from support.tokens import Es256, Rs256, part
from support.wire import Wire

ISSUER = "https://login.netrecon.example/"
AUDIENCE = "netrecon-webhooks"
CLAIM = "https://netrecon.example/org"
RS, ES = Rs256("rs-2024"), Es256("es-2024")
STRANGER_RS, STRANGER_ES = Rs256(RS.kid), Es256(ES.kid)  # the names of ours, and other keys
KEYS = {"RS256": RS, "ES256": ES}
JWKS = json.dumps({"keys": [RS.jwk, ES.jwk]})
TENANT = uuid.uuid4()  # of tokens that need none to be there
LIST = f"GET {WEBHOOKS} HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module", params=("NRW_JWT_KEYS", "NRW_JWT_KEYS_FILE"))
def jwks_api(request, running_stack, tmp_path_factory):
    """Configured as for a provider of one's own: no shared secret; the set in the environment, or in a file that it names."""
    running_stack.ensure_running()
    folder = tmp_path_factory.mktemp("jwks")
    file = folder / "jwks.json"
    file.write_text(JWKS + "\n")
    where = {"jwt_keys": JWKS} if request.param == "NRW_JWT_KEYS" else {"jwt_keys_file": file}
    api = Api(running_stack, folder, jwt_secret=None, jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_tenant_claim=CLAIM, **where)
    try:
        yield api.start().ready()
    finally:
        api.close()


def claims(tenant_id, /, **changes) -> dict:
    """Right ones; None takes a claim away."""
    right = {"iss": ISSUER, "aud": AUDIENCE, CLAIM: str(tenant_id), "exp": int(time.time()) + 3600, **changes}
    return {name: value for name, value in right.items() if value is not None}


def bearer(api, token: str) -> Client:
    return Client(api, {"Authorization": f"Bearer {token}"})


def assert_refused(api, token: str):
    answer = bearer(api, token).get()
    assert answer.status_code == 401, answer.text
    assert answer.json()["type"] == "/problems/unauthorized"
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="netrecon-webhooks", error="invalid_token"'


@pytest.mark.parametrize("alg", KEYS)
def test_each_token_sees_its_own_tenants_webhooks_and_no_other(jwks_api, stack, alg):
    mine, other = Tenant(stack), Tenant(stack)
    webhooks = {tenant.id: str(tenant.webhook("https://example.com/hook").id) for tenant in (mine, other)}
    for tenant in (mine, other):
        client = bearer(jwks_api, KEYS[alg].token(claims(tenant.id)))
        assert [webhook["id"] for webhook in client.get().json()["data"]] == [webhooks[tenant.id]]
    # A claim of another name is only a claim.
    client = bearer(jwks_api, KEYS[alg].token(claims(mine.id, tenant_id=str(other.id))))
    assert [webhook["id"] for webhook in client.get().json()["data"]] == [webhooks[mine.id]]
    assert client.get(webhooks[other.id]).status_code == 404
    created = client.create("https://example.com/by-token")
    assert stack.query("select tenant_id from webhooks where id = %s", created["id"]) == [(mine.id,)]


@pytest.mark.parametrize("alg", KEYS)
def test_what_a_provider_may_write_differently_is_taken(jwks_api, alg):
    key = KEYS[alg]
    for changes, header in (({"aud": ["somebody else", AUDIENCE]}, {}), ({"aud": [AUDIENCE]}, {}), ({}, {"typ": "at+jwt"}), ({}, {"typ": None}),
                            ({"permissions": ["webhooks_read"]}, {}), ({"scope": "openid", "azp": "console"}, {})):
        answer = bearer(jwks_api, key.token(claims(TENANT, **changes), **header)).get()
        assert answer.status_code == 200, (changes, header, answer.text)


WRONG_CLAIMS = {
    "issuer": {"iss": "https://login.evil.example/"},
    "issuer without its slash": {"iss": ISSUER.rstrip("/")},
    "issuer in an array": {"iss": [ISSUER]},
    "no issuer": {"iss": None},
    "audience": {"aud": "netrecon-console"},
    "audience begins so": {"aud": AUDIENCE + "-admin"},
    "audience in capitals": {"aud": AUDIENCE.upper()},
    "audiences of others": {"aud": ["netrecon-console", "netrecon-billing"]},
    "empty audience": {"aud": []},
    "audience in an object": {"aud": {AUDIENCE: AUDIENCE}},
    "no audience": {"aud": None},
    "issuer and audience changed places": {"iss": AUDIENCE, "aud": ISSUER},
    "no tenant": {CLAIM: None},
    "the tenant is no UUID": {CLAIM: "all"},
    "expired": {"exp": int(time.time()) - 61},
}


@pytest.mark.parametrize("alg", KEYS)
@pytest.mark.parametrize("name", WRONG_CLAIMS)
def test_a_right_signature_is_not_enough(jwks_api, alg, name):
    assert_refused(jwks_api, KEYS[alg].token(claims(TENANT, **WRONG_CLAIMS[name])))


def test_the_tenant_stands_in_the_claim_that_was_set(jwks_api):
    for key in KEYS.values():
        assert_refused(jwks_api, key.token(claims(TENANT, **{CLAIM: None, "tenant_id": str(TENANT)})))


def signed_hs256(secret: bytes, header: dict, tenant_id) -> str:
    text = part(header) + "." + part(claims(tenant_id))
    return text + "." + part(hmac.new(secret, text.encode(), hashlib.sha256).digest())


WRONG_SIGNATURES = {
    "a stranger's RS256 key": lambda c: STRANGER_RS.token(c),
    "a stranger's ES256 key": lambda c: STRANGER_ES.token(c),
    "RS256 with the kid of ES256": lambda c: RS.token(c, kid=ES.kid),
    "ES256 with the kid of RS256": lambda c: ES.token(c, kid=RS.kid),
    "ES256 that says RS256": lambda c: ES.token(c, alg="RS256"),
    "RS256 that says ES256": lambda c: RS.token(c, alg="ES256"),
    "RS256 that says PS256": lambda c: RS.token(c, alg="PS256"),
    "a kid that nobody has": lambda c: RS.token(c, kid="rs-2023"),
    "no kid": lambda c: RS.token(c, kid=None),
    "no kid, ES256": lambda c: ES.token(c, kid=None),
    "another token's signature": lambda c: RS.token(c).rsplit(".", 1)[0] + "." + RS.token({**c, "jti": "2"}).rsplit(".", 1)[1],
    "no signature": lambda c: ES.token(c).rsplit(".", 1)[0] + ".",
    "alg none": lambda c: part({"alg": "none", "kid": RS.kid}) + "." + part(c) + ".",
    "alg none, no kid": lambda c: part({"alg": "none"}) + "." + part(c) + ".",
}


@pytest.mark.parametrize("name", WRONG_SIGNATURES)
def test_right_claims_are_not_enough(jwks_api, name):
    assert_refused(jwks_api, WRONG_SIGNATURES[name](claims(TENANT)))


@pytest.mark.parametrize("alg", KEYS)
def test_what_everybody_may_know_of_a_key_signs_nothing(jwks_api, alg):
    key = KEYS[alg]
    known = [key.public_bytes(), key.public_bytes().rstrip(b"\n"), key.public_bytes(Encoding.DER), json.dumps(key.jwk).encode(), JWKS.encode(), b""]
    for secret in known:
        for header in ({"alg": "HS256", "kid": key.kid}, {"alg": "HS256"}, {"alg": key.alg, "kid": key.kid}):
            assert_refused(jwks_api, signed_hs256(secret, header, TENANT))


def test_without_the_shared_secret_its_tokens_are_strangers(jwks_api):
    extra = {"iss": ISSUER, "aud": AUDIENCE, CLAIM: str(TENANT)}
    assert_refused(jwks_api, make_token(TENANT, **extra))
    assert_refused(jwks_api, make_token(TENANT, header={"alg": "HS256", "kid": RS.kid}, **extra))


def test_keys_and_the_shared_secret_stand_side_by_side(start_api, tenant):
    api = start_api(jwt_keys=JWKS, jwt_audience=AUDIENCE)
    for token in (RS.token({"aud": AUDIENCE, "tenant_id": str(tenant.id), "exp": int(time.time()) + 60}), make_token(tenant.id, aud=AUDIENCE)):
        assert bearer(api, token).get().status_code == 200
    assert_refused(api, make_token(tenant.id))  # the audience counts for both
    assert_refused(api, signed_hs256(JWT_SECRET.encode(), {"alg": "HS256", "kid": ES.kid}, tenant.id))


def test_a_refused_request_leaves_its_connection_to_the_others(jwks_api, tenant):
    """A gateway's connection carries everybody's requests. Only what is not well-formed closes one (test_api_hostile.py)."""
    token = RS.token(claims(tenant.id))
    wrong = RS.token(claims(tenant.id, aud="somebody else"))
    body = b'{"url": "https://example.com/", "events": ["*"]}'
    post = f"POST {WEBHOOKS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with Wire(jwks_api.api_port) as wire:
        for head, credentials, sent, status in ((LIST, wrong, b"", 401), (LIST, token, b"", 200), (post, wrong, body, 401), (post, token, body, 201),
                                                (post, wrong, body, 401), (LIST, token, b"", 200)):
            wire.send(f"{head}Authorization: Bearer {credentials}\r\n\r\n".encode() + sent)
            answer = wire.answer()
            assert answer.status == status, answer
            assert answer.headers.get("connection", "keep-alive") != "close"
        assert len(answer.json()["data"]) == 1  # none of the refused ones was served
        assert not wire.closed


def test_what_was_wrong_is_in_the_log_and_not_in_the_answer(jwks_api):
    client = bearer(jwks_api, ES.token(claims(TENANT, iss="https://login.evil.example/")))
    answer = client.get()
    assert answer.status_code == 401 and "evil" not in answer.text and ISSUER not in answer.text
    line = jwks_api.wait_log("api.token_refused", request_id=answer.headers["X-Request-Id"])
    assert "https://login.evil.example/" in line["error"]
