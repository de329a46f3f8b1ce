"""What a test of retries asks of the ledger: every attempt at its time, each made once and written once, and nothing lost."""

import collections
import dataclasses
import datetime as dt
import time
from urllib.parse import urlsplit

from support import ledger
from support.wait import await_condition

ATTEMPTS = 5
JITTER = 0.1
# How the clocks of the receiver (microseconds, but read a moment after the worker sent) and of the stores (milliseconds) are compared.
TICK_S = 0.002


def delays(*seconds: float) -> str:
    """NRW_RETRY_DELAYS; the first one is the first attempt's."""
    wanted = [0.0, *seconds]
    wanted += wanted[-1:] * (ATTEMPTS - len(wanted))
    return ",".join(f"{1000 * s:.0f}ms" for s in wanted)


def when(line: dict) -> dt.datetime:
    """When the receiver got this request."""
    return dt.datetime.strptime(line["t"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=dt.timezone.utc)


def by_delivery(sink) -> dict[str, list[dict]]:
    """Requests of each delivery id, oldest first."""
    found = collections.defaultdict(list)
    for line in sink.ledger():
        found[line["delivery_id"]].append(line)
    return found


@dataclasses.dataclass
class Lateness:
    """Seconds between the time that was promised to an attempt and its request."""

    late: list

    def __str__(self) -> str:
        if not self.late:
            return "no retries"
        ordered = sorted(self.late)
        return (f"{len(ordered)} retries, earliest {1000 * ordered[0]:+.1f} ms, median {1000 * ordered[len(ordered) // 2]:.0f} ms, "
                f"latest {ordered[-1]:.2f} s")


def lateness(stack, sink, webhooks) -> Lateness:
    """Of every request but the first ones, against the time that the row of the attempt before promised."""
    promised = {}
    with stack.connect() as connection:
        for delivery, attempt, at in connection.execute(
                "select delivery_id, attempt, next_attempt_at from attempts where webhook_id = any(%s) and next_attempt_at is not null",
                ([webhook.id for webhook in webhooks],)):
            promised[(str(delivery), attempt)] = at
    late = []
    for delivery, lines in by_delivery(sink).items():
        for line in lines:
            at = promised.get((delivery, line["attempt"] - 1))
            if at is not None:
                late.append((when(line) - at).total_seconds())
    return Lateness(late)


def await_no_pending(stack, webhooks, timeout: float = 60) -> None:
    ids = [webhook.id for webhook in webhooks]
    count = "select count(*), min(next_attempt_at), max(next_attempt), max(leased_until) from pending_deliveries where webhook_id = any(%s)"

    def left():
        return stack.query(count, ids)[0]

    await_condition(lambda: left()[0] == 0, timeout, lambda: f"no delivery is pending; left, first due, attempt, lease: {left()}")


def hold(seconds: float, invariant, what: str) -> None:
    """The invariant stays true for so long. The only way to see that something does not happen."""
    end = time.monotonic() + seconds

    def over():
        assert invariant(), what
        return time.monotonic() >= end

    await_condition(over, seconds + 30, what)


def check(stack, sink, topic, webhooks, acked, duplicates_max: int = 0, repeats_max: int = 0, cancelled=frozenset(), expected=None,
          elsewhere=(), what: str = ""):
    """Call it when nothing is pending. For endpoints that fail and then succeed, or never do. cancelled: deliveries (event, webhook id)
    whose webhook was paused, deleted or disabled. repeats_max: requests with an attempt number that had a request before, because the
    worker that made it died before it could write it down; duplicates_max: those that were delivered more than once by that. expected: the
    deliveries, when not every webhook subscribes to every event. elsewhere: further webhooks of the receiver, which the caller checks."""
    assert acked, "nothing was produced: the check would prove nothing"
    found = ledger.collect(stack, sink, topic, webhooks, acked)
    found.expected = set(expected) if expected is not None else found.expected
    paths = {urlsplit(webhook.url).path for webhook in elsewhere}
    found.unexpected = [line for line in found.unexpected if line["path"] not in paths]
    late = lateness(stack, sink, webhooks)
    requests = collections.Counter((line["delivery_id"], line["attempt"]) for line in sink.ledger())
    repeats = sum(n - 1 for n in requests.values())
    print(f"\n{what + ': ' if what else ''}{found}, repeated {repeats}; {late}")
    lost = found.lost - set(cancelled)
    assert not lost, f"lost: {sorted(map(str, lost))[:ledger.SHOWN]}"
    assert not found.unexpected, found.unexpected[:ledger.SHOWN]
    assert not found.bad_signatures, found.bad_signatures[:ledger.SHOWN]
    assert not found.body_mismatches, found.body_mismatches[:ledger.SHOWN]
    assert not found.pending, f"still pending: {sorted(map(str, found.pending))[:ledger.SHOWN]}"
    assert found.duplicates <= duplicates_max, f"{found.duplicates} delivered twice, {duplicates_max} allowed"
    assert repeats <= repeats_max, (
        f"{repeats} attempts were made twice, {repeats_max} allowed: {[key for key, n in requests.items() if n > 1][:ledger.SHOWN]}")
    assert not [s for s in late.late if s < -TICK_S], f"an attempt came early: {min(late.late)} s"
    check_rows(stack, requests, webhooks, set(cancelled))
    return found


def check_rows(stack, requests, webhooks, cancelled) -> None:
    """The log has the attempts 1 … n of each delivery, n <= 5, one row each, a request for each (or an error that says why none came),
    and only the last one may be final."""
    rows = collections.defaultdict(list)
    with stack.connect() as connection:
        for delivery, event, webhook, attempt, outcome, status, error, took in connection.execute(
                "select delivery_id, event_id, webhook_id, attempt, outcome, status_code, error, response_time_ms from attempts "
                "where webhook_id = any(%s) order by attempt", ([webhook.id for webhook in webhooks],)):
            rows[(str(delivery), str(event), webhook)].append((attempt, outcome, status, error, took))
    for (delivery, event, webhook), made in rows.items():
        numbers = [row[0] for row in made]
        assert numbers == list(range(1, len(made) + 1)) and len(made) <= ATTEMPTS, f"{delivery}: attempts {numbers}"
        outcomes = [row[1] for row in made]
        assert all(outcome == "failed" for outcome in outcomes[:-1]), f"{delivery}: {outcomes}"
        if (event, webhook) not in cancelled:
            assert outcomes[-1] in ("delivered", "exhausted", "gone"), f"{delivery}: {outcomes}"
        assert (outcomes[-1] == "exhausted") == (outcomes[-1] != "delivered" and outcomes[-1] != "gone" and len(made) == ATTEMPTS)
        for attempt, outcome, status, error, took in made:
            assert (delivery, attempt) in requests or error, f"{delivery}: attempt {attempt} has a row and no request"
            assert (error is None) == (outcome == "delivered"), f"{delivery}: {outcome} with error {error!r}"
            assert took is not None and took >= 0 and (outcome != "delivered" or 200 <= status <= 299)
