"""The README's `verify`, in Python and in JavaScript, on what a worker really sent: it takes what is right, also in the middle of a rotation,
and refuses what was changed, kept too long or made by somebody else. The README's shell commands are test_local.py's."""

import base64
import datetime as dt
import json
import shutil
import subprocess

import pytest
from support.produce import envelope
from support.readme import blocks
from support.sink import Sink

SECRETS = {"whsec": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "plain": "your-hmac-secret", "unicode": "geheim-ключ-密钥-🔑"}
NEW_SECRET, OLD_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "the secret before"
TOLERANCE_S = 300
LANGUAGES = {"python": ["/usr/bin/python3"], "js": ["node"]}
# Around the README's code: each case is judged at its own time, and one line says how.
AROUND = {
    "python": '''
import base64, json, sys, time
for case in json.load(sys.stdin):
    time.time = lambda: case["now"]
    print(case["name"], "accepted" if verify(case["headers"], base64.b64decode(case["body"]), case["secret"]) is True else "refused")
''',
    "js": '''
for (const c of JSON.parse(require('fs').readFileSync(0))) {
  Date.now = () => c.now * 1000;
  console.log(c.name, verify(c.headers, Buffer.from(c.body, 'base64'), c.secret) === true ? 'accepted' : 'refused');
}
''',
}


@pytest.fixture
def received(tmp_path, tenant, producer, worker):
    """Name -> headers and body of what a worker sent: one per kind of secret, and one in the middle of a rotation."""
    sink = Sink(tmp_path / "sink", store_bodies=True)
    try:
        for name, secret in SECRETS.items():
            tenant.webhook(sink.url("/" + name), secret=secret)
        until = dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)
        tenant.webhook(sink.url("/rotation"), secret=NEW_SECRET, previous_secret=OLD_SECRET, previous_until=until)
        producer.one(envelope(tenant.id, data={"title": "naïve \u2028 😀", "spaces": " a  b "}))
        lines = {name: sink.wait(1, "/" + name)[0] for name in (*SECRETS, "rotation")}
        return {name: (sink.headers_of(line), sink.body_of(line)) for name, line in lines.items()}
    finally:
        sink.close()


def case(name: str, received: tuple, secret: str, age: int = 0, body: bytes | None = None, **headers: str) -> dict:
    """age: how many seconds after it was sent it is judged. headers: with _ for -."""
    sent, sent_body = received
    changed = {header.replace("_", "-"): value for header, value in headers.items()}
    return {"name": name, "headers": {**sent, **changed}, "secret": secret, "now": int(sent["webhook-timestamp"]) + age,
            "body": base64.b64encode(sent_body if body is None else body).decode()}


def right_cases(received: dict) -> list[dict]:
    found = [case(f"{kind}-at-{age}", received[kind], secret, age) for kind, secret in SECRETS.items() for age in (0, TOLERANCE_S, -TOLERANCE_S)]
    found += [case(f"rotation-{name}", received["rotation"], secret) for name, secret in (("new", NEW_SECRET), ("old", OLD_SECRET))]
    found.append(case("a-scheme-to-come", received["plain"], SECRETS["plain"],
                      webhook_signature="v9,c29tZXRoaW5n " + received["plain"][0]["webhook-signature"]))
    return found


def wrong_cases(received: dict) -> list[dict]:
    found = []
    for kind, secret in SECRETS.items():
        headers, body = received[kind]
        for at in (0, len(body) // 2, len(body) - 1):
            changed = body[:at] + bytes([body[at] ^ 1]) + body[at + 1:]
            found.append(case(f"{kind}-byte-{at}", received[kind], secret, body=changed))
        signature = headers["webhook-signature"]
        now = str(int(headers["webhook-timestamp"]) + TOLERANCE_S + 1)
        found += [
            case(f"{kind}-cut", received[kind], secret, body=body[:-1]),
            case(f"{kind}-longer", received[kind], secret, body=body + b" "),
            case(f"{kind}-old", received[kind], secret, TOLERANCE_S + 1),
            case(f"{kind}-from-the-future", received[kind], secret, -TOLERANCE_S - 1),
            case(f"{kind}-old-made-new", received[kind], secret, TOLERANCE_S + 1, webhook_timestamp=now),
            case(f"{kind}-another-id", received[kind], secret, webhook_id="00000000-0000-4000-8000-000000000000"),
            case(f"{kind}-no-version", received[kind], secret, webhook_signature=signature.removeprefix("v1,")),
            case(f"{kind}-half-a-signature", received[kind], secret, webhook_signature=signature[:20]),
            case(f"{kind}-empty-signature", received[kind], secret, webhook_signature=""),
            case(f"{kind}-letters-of-elsewhere", received[kind], secret, webhook_signature=signature[:-1] + "é"),
            case(f"{kind}-nearly-the-secret", received[kind], secret[:-2] + ("AA" if kind == "whsec" else "xx")),
        ]
    found += [case(f"{kind}-anothers-secret", received[kind], OLD_SECRET) for kind in SECRETS]
    found.append(case("whsec-taken-as-text", received["whsec"], SECRETS["whsec"].removeprefix("whsec_")))
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_readmes_verify_takes_what_is_right_and_nothing_else(request, language, tmp_path):
    if not shutil.which(LANGUAGES[language][0]):
        pytest.skip(f"{LANGUAGES[language][0]} is not installed")
    code, = blocks("**Verify what you receive**", "The [reference libraries]", language)
    source = tmp_path / ("verify.cjs" if language == "js" else "verify.py")
    source.write_text(code + AROUND[language])
    received = request.getfixturevalue("received")
    right, wrong = right_cases(received), wrong_cases(received)
    done = subprocess.run([*LANGUAGES[language], source], input=json.dumps(right + wrong), text=True, timeout=60, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines())
    assert said == {**{c["name"]: "accepted" for c in right}, **{c["name"]: "refused" for c in wrong}}
