"""What `netrecon-webhooks-api keys` makes is what the API takes, until it is revoked or has expired."""

import re
import uuid

import pytest
from support.api import Client, run_api

EVENT_TYPES = "/api/v1/integrations/event-types"


@pytest.fixture
def keys(stack, api):
    """keys("list", "--tenant", …) in the environment of the running API."""
    return lambda *words: run_api("keys", *words, environment=api.environment)


def created(keys, tenant, *options: str) -> str:
    done = keys("create", "--tenant", str(tenant.id), "--name", "Grafana für alle", *options)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"nr_live_[0-9a-f]{48}\n", done.stdout)
    assert "nr_live_" not in done.stderr
    return done.stdout.strip()


def listed(keys, tenant) -> list[list[str]]:
    """Rows of columns: id, scopes, created, expires, revoked, last_used, name."""
    done = keys("list", "--tenant", str(tenant.id))
    assert done.returncode == 0 and "nr_live_" not in done.stdout
    return [re.split(r" {2,}", line) for line in done.stdout.splitlines()[1:]]


def status(api, key: str) -> int:
    return Client(api, {"X-API-Key": key}).get(EVENT_TYPES).status_code


def test_a_created_key_works_until_it_is_revoked(tenant, api, keys):
    key = created(keys, tenant)
    assert status(api, key) == 200
    (row,) = listed(keys, tenant)
    assert row[1] == "webhooks_read,webhooks_write" and row[3:5] == ["-", "-"] and row[6] == "Grafana für alle"
    assert row[5] != "-", "last used"
    assert keys("revoke", row[0]).returncode == 0
    assert status(api, key) == 401
    assert listed(keys, tenant)[0][4] != "-"
    assert key not in api.log_text()


def test_a_key_does_what_its_scopes_say_and_no_longer_than_asked(stack, tenant, api, keys):
    assert status(api, created(keys, tenant, "--scopes", "webhooks_write")) == 403
    key = created(keys, tenant, "--scopes", "webhooks_read", "--expires", "90d")
    assert status(api, key) == 200
    stack.query("update api_keys set expires_at = now() where tenant_id = %s", tenant.id)
    assert status(api, key) == 401


def test_what_cannot_be_done_is_said_with_status_1(keys):
    nobody = str(uuid.uuid4())
    for words in (("create", "--tenant", nobody, "--name", "n"), ("list", "--tenant", nobody), ("revoke", nobody)):
        done = keys(*words)
        assert done.returncode == 1 and nobody in done.stderr and done.stdout == ""
