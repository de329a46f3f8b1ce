"""The ledger of practices 8.1: what was produced against what the receiver got and what the delivery log says.

A test of a fault ends with check(). lost, unexpected, bad signatures and changed bodies must be 0 whatever happened; how many duplicates a
fault may cost is the test's to say. Every check prints its line, so that a run shows the figures and not only "passed".
"""

import collections
import dataclasses
import hashlib
import json
import time
from urllib.parse import urlsplit

import psycopg

from support.wait import await_condition

SHOWN = 5  # examples in a failure
JOURNAL = "nrw-worker-journal"  # application_name of the connection that writes the rows


@dataclasses.dataclass
class Ledger:
    """Deliveries are pairs (event id, webhook id)."""

    expected: set
    delivered: collections.Counter  # answered 2xx, how often
    received: collections.Counter  # whatever the answer was
    terminal: set  # exhausted, gone
    pending: set  # a durable row says that it will be tried (again)
    rows: collections.Counter  # of the delivery log
    unexpected: list
    bad_signatures: list
    body_mismatches: list

    @property
    def lost(self) -> set:
        return self.expected - self.delivered.keys() - self.terminal - self.pending

    @property
    def duplicates(self) -> int:
        return sum(n - 1 for n in self.delivered.values())

    def __str__(self) -> str:
        return (f"ledger: expected {len(self.expected)}, delivered {len(self.delivered)}, lost {len(self.lost)}, "
                f"unexpected {len(self.unexpected)}, bad signatures {len(self.bad_signatures)}, "
                f"body mismatches {len(self.body_mismatches)}, duplicates {self.duplicates}, pending {len(self.pending)}, "
                f"terminal {len(self.terminal)}, requests {sum(self.received.values())} "
                f"(2xx {sum(self.delivered.values())}), rows in attempts {sum(self.rows.values())}")
PENDING_PATIENCE_S = 120  # a lease of 36 s, and a backlog behind it


def produced_bodies(topic) -> dict[str, str]:
    """Event id -> sha256 of the bytes in Kafka. All that was tried and arrived, acknowledged or not."""
    bodies = {}
    for message in topic.read():
        try:
            bodies[json.loads(message.value)["id"]] = hashlib.sha256(message.value).hexdigest()
        except (ValueError, KeyError, TypeError):
            pass  # poison: belongs to the dead-letter topic, and if it were delivered it would be unexpected
    return bodies


def durable(stack, webhooks) -> set:
    """Deliveries whose outcome is committed, as (event id, webhook id)."""
    ids = [webhook.id for webhook in webhooks]
    with stack.connect() as connection:
        rows = connection.execute("select event_id, webhook_id from attempts where webhook_id = any(%s) "
                                  "union select event_id, webhook_id from pending_deliveries where webhook_id = any(%s)", (ids, ids))
        return {(str(event), webhook) for event, webhook in rows}


def logged(stack, webhooks) -> set:
    """Deliveries with a row in the delivery log. A pending row alone is not enough: it may be the one that is being sent."""
    with stack.connect() as connection:
        rows = connection.execute("select event_id, webhook_id from attempts where webhook_id = any(%s)", ([w.id for w in webhooks],))
        return {(str(event), webhook) for event, webhook in rows}


def await_no_pending(stack, webhooks, timeout: float) -> None:
    """What was spilled comes back by itself, also from a worker that was killed with it: after its lease."""
    ids = [webhook.id for webhook in webhooks]
    await_condition(lambda: not stack.query("select 1 from pending_deliveries where webhook_id = any(%s) limit 1", ids), timeout,
                    "every spilled delivery has been sent")


class Exposure:
    """What each kill -9 exposed: requests that the receiver has and the delivery log has not, so that they must be sent again. Nothing
    else may be: `total` bounds the duplicates."""

    def __init__(self, stack, sink, webhooks):
        self._stack, self._sink, self._webhooks = stack, sink, webhooks
        self._by_path = {urlsplit(webhook.url).path: webhook.id for webhook in webhooks}
        self._seen = 0
        self.at_kills: list[int] = []

    @property
    def total(self) -> int:
        return sum(self.at_kills)

    def note(self) -> None:
        """Right after a kill."""
        # What was on its way to PostgreSQL may still be committed, what was on its way to the receiver still be read.
        await_condition(self._journal_gone, 10, "the dead worker's connection to PostgreSQL has ended")
        await_condition(lambda: self._sink.stats()["open"] <= 1, 10, "the dead worker's connections to the receiver have ended")
        lines = self._sink.ledger()
        known = logged(self._stack, self._webhooks)
        new = [(line["event_id"], self._by_path[line["path"]]) for line in lines[self._seen:] if line["path"] in self._by_path]
        self.at_kills.append(sum(delivery not in known for delivery in new))
        self._seen = len(lines)

    def _journal_gone(self) -> bool:
        return not self._stack.query("select 1 from pg_stat_activity where application_name = %s and datname = current_database()", JOURNAL)


def collect(stack, sink, topic, webhooks, acked) -> Ledger:
    by_path = {urlsplit(webhook.url).path: webhook.id for webhook in webhooks}
    bodies = produced_bodies(topic)
    ledger = Ledger(expected={(event, webhook.id) for event in acked for webhook in webhooks}, delivered=collections.Counter(),
                    received=collections.Counter(), terminal=set(), pending=set(), rows=collections.Counter(), unexpected=[],
                    bad_signatures=[], body_mismatches=[])
    for line in sink.ledger():
        delivery = (line["event_id"], by_path.get(line["path"]))
        if line["event_id"] not in bodies or delivery[1] is None:
            ledger.unexpected.append(line)
            continue
        ledger.received[delivery] += 1
        if isinstance(line["answer"], int) and 200 <= line["answer"] <= 299:
            ledger.delivered[delivery] += 1
        if line["sig_netrecon"] != "good" or line["sig_standard"] != "good":
            ledger.bad_signatures.append(line)
        if line["body_sha256"] != bodies[line["event_id"]]:
            ledger.body_mismatches.append(line)
    ids = [webhook.id for webhook in webhooks]
    with stack.connect() as connection:
        for event, webhook, outcome in connection.execute("select event_id, webhook_id, outcome from attempts where webhook_id = any(%s)",
                                                          (ids,)):
            ledger.rows[(str(event), webhook)] += 1
            if outcome in ("exhausted", "gone"):
                ledger.terminal.add((str(event), webhook))
        for event, webhook in connection.execute("select event_id, webhook_id from pending_deliveries where webhook_id = any(%s)", (ids,)):
            ledger.pending.add((str(event), webhook))
    return ledger


def check(stack, sink, topic, webhooks, acked, duplicates_max: int = 0, pending_max: int = 0, unlogged_events=frozenset(),
          what: str = "", rows_max: int = 1) -> Ledger:
    """Call it when the group has settled everything (topic.await_settled). Endpoints that answer 2xx at once are assumed: then every
    delivery has exactly one row, also one that was sent twice, because its rows are the same row. rows_max: more, when some fail at first.
    unlogged_events: those whose rows PostgreSQL refused."""
    assert acked, "nothing was produced: the check would prove nothing"
    if pending_max == 0:
        await_no_pending(stack, webhooks, PENDING_PATIENCE_S)
    ledger = collect(stack, sink, topic, webhooks, acked)
    print(f"\n{what + ': ' if what else ''}{ledger}")
    assert not ledger.lost, f"lost: {sorted(map(str, ledger.lost))[:SHOWN]}"
    assert not ledger.unexpected, f"received but never produced: {ledger.unexpected[:SHOWN]}"
    assert not ledger.bad_signatures, ledger.bad_signatures[:SHOWN]
    assert not ledger.body_mismatches, ledger.body_mismatches[:SHOWN]
    assert len(ledger.pending) <= pending_max, f"waiting for a retry: {sorted(map(str, ledger.pending))[:SHOWN]}"
    assert ledger.duplicates <= duplicates_max, (
        f"{ledger.duplicates} duplicates, {duplicates_max} allowed: {[d for d, n in ledger.delivered.items() if n > 1][:SHOWN]}")
    unlogged = {delivery for delivery in ledger.delivered.keys() - ledger.rows.keys() if delivery[0] not in unlogged_events}
    assert not unlogged, f"answered 2xx without a row: {sorted(map(str, unlogged))[:SHOWN]}"
    many = [delivery for delivery, n in ledger.rows.items() if n > rows_max and delivery not in ledger.pending]
    assert not many, f"more than {rows_max} rows of a delivery: {many[:SHOWN]}"
    invented = ledger.rows.keys() - ledger.received.keys() - ledger.pending
    assert not invented, f"rows without a request: {sorted(map(str, invented))[:SHOWN]}"
    return ledger


class OffsetGuard:
    """The online invariant of practices 8.1 (rule 2): every event below a committed offset is accounted for in PostgreSQL. verify() may be
    called at any time, also under load: it reads the committed offsets first and the rows afterwards."""

    def __init__(self, stack, topic, group: str, webhooks):
        self._stack, self._topic, self._group, self._webhooks = stack, topic, group, webhooks

    def verify(self) -> int:
        committed = self._topic.committed(self._group)
        try:
            found = durable(self._stack, self._webhooks)
        except psycopg.OperationalError:
            return 0  # PostgreSQL is what the test has stopped
        checked = 0
        for message in self._topic.read():
            if message.offset >= committed[message.partition]:
                continue
            event = json.loads(message.value)["id"]
            for webhook in self._webhooks:
                assert (event, webhook.id) in found, (
                    f"offset {committed[message.partition]} of partition {message.partition} is committed, but event {event} at "
                    f"{message.offset} has no row for {webhook.url}")
                checked += 1
        return checked


def until(deadline: float) -> bool:
    """For loops that keep a fault going: while until(…)."""
    return time.monotonic() < deadline
