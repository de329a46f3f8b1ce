"""The API service of a test, and a tenant's credentials for it."""

import hashlib
import hmac
import pathlib
import secrets
import subprocess
import time
import uuid

import requests

from support.paths import API, clean_environment
from support.program import Program
from support.tokens import part
from support.wait import PATIENCE

JWT_SECRET = "the shared secret of the tests, long enough"
WEBHOOKS = "/api/v1/integrations/webhooks"
SCOPES = ("webhooks_read", "webhooks_write")


def run_api(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Runs a command of the API program (--version, keys …) and returns when it has ended."""
    return subprocess.run([API, *arguments], env={**clean_environment(), **environment}, text=True, timeout=30,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)


def make_token(tenant_id, secret: str = JWT_SECRET, header: dict | None = None, **claims) -> str:
    """An HS256 token as NetRecon's gateway passes it on; claims=None takes one away."""
    all_claims = {"sub": "user-1", "tenant_id": str(tenant_id), "exp": int(time.time()) + 3600, **claims}
    text = part(header or {"alg": "HS256", "typ": "JWT"}) + "." + part({k: v for k, v in all_claims.items() if v is not None})
    return text + "." + part(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest())


def make_api_key(stack, tenant_id, scopes=SCOPES, expires_at=None) -> str:
    """A key as `keys create` stores it."""
    key = "nr_live_" + secrets.token_hex(24)
    stack.query("insert into api_keys (tenant_id, name, key_sha256, scopes, expires_at) values (%s, 'test', %s, %s, %s)",
                tenant_id, hashlib.sha256(key.encode()).digest(), list(scopes), expires_at)
    return key


class Api(Program):
    """program: another one than this build's. ready(): PostgreSQL is connected."""

    path = API
    started = "api.started"

    def __init__(self, stack, folder: pathlib.Path, name: str = "api", program: pathlib.Path | None = None, **settings):
        self.stack = stack
        if program is not None:
            self.path = program
        names = ("NRW_DATABASE_URL", "NRW_REDIS_URL", "NRW_KEYRING_FILE", "NRW_ALLOW_CIDRS", "NRW_ALLOW_HTTP")
        environment = {**{key: stack.worker_environment[key] for key in names}, "NRW_API_LISTEN": "127.0.0.1:0",
                       "NRW_JWT_SECRET": JWT_SECRET}
        super().__init__(folder, name, environment, **settings)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def api_port(self) -> int:
        return self.log_lines(self.started)[-1]["port"]

    def client(self, tenant_id, scopes=SCOPES) -> "Client":
        """With an API key of its own."""
        return Client(self, {"X-API-Key": make_api_key(self.stack, tenant_id, scopes)})

    def jwt_client(self, tenant_id, **claims) -> "Client":
        return Client(self, {"Authorization": "Bearer " + make_token(tenant_id, **claims)})


class Client:
    """Requests with credentials. path: below /api/v1/integrations/webhooks, or absolute when it begins with a slash."""

    def __init__(self, api: Api, headers: dict[str, str]):
        self.api = api
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers.update(headers)

    def request(self, method: str, path: str = "", **options) -> requests.Response:
        where = path if path.startswith("/") else WEBHOOKS + (f"/{path}" if path else "")
        return self.session.request(method, self.api.url + where, timeout=40 * PATIENCE, **options)

    def get(self, path: str = "", **params) -> requests.Response:
        return self.request("GET", path, params=params)

    def post(self, path: str = "", body=None) -> requests.Response:
        return self.request("POST", path, json=body) if body is not None else self.request("POST", path)

    def patch(self, path: str, body) -> requests.Response:
        return self.request("PATCH", path, json=body)

    def delete(self, path: str) -> requests.Response:
        return self.request("DELETE", path)

    def create(self, url: str, events=("*",), **members) -> dict:
        """A new webhook, with its secret."""
        answer = self.post(body={"url": url, "events": list(events), **members})
        assert answer.status_code == 201, answer.text
        return answer.json()


def new_id() -> str:
    return str(uuid.uuid4())
