"""The fault tests use the fixtures of the system tests: same stack, same workers, same receiver. Here are only those that faults add."""

import importlib.util
import pathlib
import sys
import urllib.parse
import uuid

import pytest

SYSTEM = pathlib.Path(__file__).resolve().parents[1] / "system"
if str(SYSTEM) not in sys.path:
    sys.path.insert(0, str(SYSTEM))

_spec = importlib.util.spec_from_file_location("system_conftest", SYSTEM / "conftest.py")
_system = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_system)
globals().update({name: value for name, value in vars(_system).items() if not name.startswith("_")})

from support.dns import DnsServer  # noqa: E402 (needs the path above)
from support.names import Names, Unavailable  # noqa: E402
from support.relay import Relay  # noqa: E402
from support.smtp import Mailbox  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than ten seconds; runs by default")


@pytest.fixture
def dns():
    server = DnsServer()
    yield server
    server.close()


@pytest.fixture
def names(tmp_path):
    try:
        names = Names(tmp_path / "names")
    except Unavailable as why:
        pytest.skip(str(why))
    yield names
    names.close()


@pytest.fixture
def subscribe(tenant, sink):
    """subscribe(n) makes n webhooks on the receiver, each on its own path, and tells it their secret."""
    made = []

    def make(n: int = 1, query: str = "", base: str | None = None) -> list:
        webhooks = []
        for _ in range(n):
            path = f"/hook-{len(made) + 1}"
            webhook = tenant.webhook(sink.url(path, query) if base is None else f"{base}{path}" + (f"?{query}" if query else ""))
            sink.secret(path, webhook.secret)
            made.append(webhook)
            webhooks.append(webhook)
        return webhooks

    return make


@pytest.fixture
def owner(stack, tenant):
    """The tenant's own address, so that no other test's mail is taken for its own."""
    address = f"owner-{uuid.uuid4().hex[:12]}@example.com"
    stack.query("update tenants set owner_email = %s where id = %s", address, tenant.id)
    return address


@pytest.fixture
def mailbox():
    mailbox = Mailbox()
    yield mailbox
    mailbox.close()


@pytest.fixture
def relay(stack):
    """In front of PostgreSQL; relay.url is its database's address."""
    address = urllib.parse.urlsplit(stack.database_url)
    with Relay(address.port) as relay:
        relay.url = address._replace(netloc=address.netloc.replace(f":{address.port}", f":{relay.port}")).geturl()
        yield relay
