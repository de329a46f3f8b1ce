"""Tenants and webhooks as the account service and the API would write them; secrets are sealed by the worker's own program."""

import dataclasses
import uuid

from support.worker import run_worker

DEFAULT_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def seal(stack, webhook_id: uuid.UUID, tenant_id: uuid.UUID, secret: str, column: str = "webhooks.secret") -> bytes:
    done = run_worker("seal", "--webhook", str(webhook_id), "--tenant", str(tenant_id), "--column", column,
                      environment=stack.worker_environment, stdin=secret)
    assert done.returncode == 0, done.stderr
    return bytes.fromhex(done.stdout.strip().removeprefix("\\x"))


@dataclasses.dataclass
class Webhook:
    """A row of the table webhooks."""

    stack: object
    tenant_id: uuid.UUID
    id: uuid.UUID
    url: str
    secret: str

    def delivery_id(self, event_id) -> uuid.UUID:
        return uuid.uuid5(uuid.UUID(str(event_id)), str(self.id))

    def update(self, **columns) -> None:
        assignments = ", ".join(f"{name} = %s" for name in columns)
        self.stack.query(f"update webhooks set {assignments} where id = %s", *columns.values(), self.id)

    def delete(self) -> None:
        """As the API does: softly."""
        self.stack.query("update webhooks set deleted_at = now() where id = %s", self.id)

    def attempts(self, event_id=None) -> list[dict]:
        return self._rows("attempts", event_id, "started_at")

    def pending(self, event_id=None) -> list[dict]:
        return self._rows("pending_deliveries", event_id, "next_attempt_at")

    def _rows(self, table: str, event_id, order: str) -> list[dict]:
        with self.stack.connect() as connection:
            cursor = connection.execute(
                f"select * from {table} where webhook_id = %s and (%s::uuid is null or event_id = %s) order by {order}",
                (self.id, event_id, event_id))
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor]


class Tenant:
    """An account of one test."""

    def __init__(self, stack, name: str = "test"):
        self.stack = stack
        self.id = uuid.uuid4()
        stack.query("insert into tenants (id, name, owner_email) values (%s, %s, 'owner@example.com')", self.id, name)

    def webhook(self, url: str, events=("*",), secret: str = DEFAULT_SECRET, previous_secret: str | None = None, previous_until=None,
                active: bool = True) -> Webhook:
        webhook_id = uuid.uuid4()
        previous = previous_secret and seal(self.stack, webhook_id, self.id, previous_secret, "webhooks.previous_secret")
        self.stack.query(
            "insert into webhooks (id, tenant_id, url, secret, previous_secret, previous_secret_until, events, active) "
            "values (%s, %s, %s, %s, %s, %s, %s, %s)",
            webhook_id, self.id, url, seal(self.stack, webhook_id, self.id, secret), previous, previous_until, list(events), active)
        return Webhook(self.stack, self.id, webhook_id, url, secret)
