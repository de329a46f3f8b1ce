"""Many tenants, webhooks and deliveries at once, written as the account service, the API and a worker would have written them."""

import base64
import datetime as dt
import json
import os
import pathlib
import uuid

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.tenant import DEFAULT_SECRET, Tenant, Webhook

COLUMN = "webhooks.secret"


def sealer(stack):
    """common/seal.h in Python: a process for each of a thousand secrets takes too long."""
    ring = pathlib.Path(stack.exports["NRW_KEYRING_FILE"]).read_text().split(",")[0].split("\n")[0].strip()
    key_id, key = ring.split(":", 1)
    gcm = AESGCM(base64.b64decode(key))
    head = bytes([1, len(key_id)]) + key_id.encode()

    def seal(webhook_id: uuid.UUID, tenant_id: uuid.UUID, secret: str) -> bytes:
        nonce = os.urandom(12)
        return head + nonce + gcm.encrypt(nonce, secret.encode(), head + COLUMN.encode() + b"\0" + webhook_id.bytes + tenant_id.bytes)

    return seal


def tenants(stack, ids) -> list[Tenant]:
    """Tenants with these ids."""
    found = []
    with stack.connect() as connection:
        for tenant_id in ids:
            connection.execute("insert into tenants (id, name, owner_email) values (%s, 'bulk', 'owner@example.com')", (tenant_id,))
            tenant = object.__new__(Tenant)
            tenant.stack, tenant.id = stack, tenant_id
            found.append(tenant)
    return found


def webhooks(stack, rows, secret: str = DEFAULT_SECRET, **columns) -> list[Webhook]:
    """rows: (tenant id, url). columns: of the table, the same for all."""
    seal = sealer(stack)
    found = []
    names = "".join(f", {name}" for name in columns)
    places = ", %s" * len(columns)
    with stack.connect() as connection, connection.transaction():
        for tenant_id, url in rows:
            webhook_id = uuid.uuid4()
            connection.execute(f"insert into webhooks (id, tenant_id, url, secret, events{names}) values (%s, %s, %s, %s, '{{*}}'{places})",
                               (webhook_id, tenant_id, url, seal(webhook_id, tenant_id, secret), *columns.values()))
            found.append(Webhook(stack, tenant_id, webhook_id, url, secret))
    return found


def overdue(stack, webhook: Webhook, n: int, attempt: int = 2, overdue_s: float = 60, spread_s: float = 0,
            padding: int = 0) -> list[str]:
    """n events, each some 230 bytes and the padding, of which the delivery to this webhook failed before and is due since then, or became due
    one after the other in the spread before; their ids. Rows of attempts are not written."""
    now = dt.datetime.now(dt.timezone.utc)
    ids = []
    with stack.connect() as connection, connection.transaction():
        with connection.cursor().copy("copy events (id, received_at, tenant_id, event_type, payload) from stdin (format binary)") as copy:
            copy.set_types(["uuid", "timestamptz", "uuid", "text", "bytea"])
            for _ in range(n):
                event_id = uuid.uuid4()
                body = {"id": str(event_id), "event": "alert.created", "timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
                        "tenant_id": str(webhook.tenant_id), "data": {"title": "New open port detected" + " " * padding, "severity": "high"}}
                copy.write_row((event_id, now, webhook.tenant_id, "alert.created", json.dumps(body).encode()))
                ids.append(event_id)
        with connection.cursor().copy("copy pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type, next_attempt, "
                                      "next_attempt_at, reason) from stdin (format binary)") as copy:
            copy.set_types(["uuid", "timestamptz", "uuid", "uuid", "uuid", "text", "int2", "timestamptz", "text"])
            due = now - dt.timedelta(seconds=overdue_s)
            for i, event_id in enumerate(ids):
                copy.write_row((webhook.delivery_id(event_id), now, event_id, webhook.id, webhook.tenant_id, "alert.created", attempt,
                                due - dt.timedelta(seconds=spread_s * i / n), "retry"))
    return [str(event_id) for event_id in ids]
