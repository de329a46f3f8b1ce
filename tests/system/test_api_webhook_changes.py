"""A change through the API is effective in every worker in under a second, and within the poll when its notification is lost."""

import contextlib
import time

import pytest
from support.produce import envelope
from support.sink import Sink
from support.wait import await_condition

EFFECTIVE_S = 1.0
POLL_S = 1.0
SLACK_S = 1.0  # of a machine that is busy with other tests: the poll's query, the load, the event that shows it
OLD, NEW = "the secret at the beginning", "the secret that follows it"


class Rig:
    """Two workers share the partitions of the topic, a webhook under change, and a witness that shows when an event was handled."""

    def __init__(self, client, sink, topic, producer, tenant_id, workers):
        self.client, self.sink, self.producer, self.tenant_id, self.workers = client, sink, producer, tenant_id, workers
        self.partitions = range(topic.partitions)
        client.create(sink.url("/witness"))
        self.id = client.create(sink.url("/old"), events=["alert.created"], secret=OLD)["id"]
        sink.secret("/", OLD)
        await_condition(self._all_know_the_tenant, 20, "every worker has a partition, and the tenant in memory")

    def _all_know_the_tenant(self) -> bool:
        self.publish()
        return all(worker.metric("nrw_tenant_loads_total") > 0 for worker in self.workers)

    def publish(self, event: str = "alert.created") -> dict[tuple, dict]:
        """An event on each partition, so that each worker has one. When all are handled: (path, partition) → request."""
        ids = {self.producer.send(envelope(self.tenant_id, event), partition=partition): partition for partition in self.partitions}
        self.producer.flush()
        for event_id in ids:
            self.sink.wait(1, "/witness", event_id=event_id)
        await_condition(lambda: all(worker.metric("nrw_events_open") == 0 for worker in self.workers), 20, "every event is settled")
        return {(line["path"], partition): line for event_id, partition in ids.items()
                for line in self.sink.ledger(event_id=event_id) if line["path"] != "/witness"}

    def took(self, change, effective) -> float:
        """Seconds from the answer of change() until effective() is true of events that are published then."""
        answer = change()
        assert answer.status_code < 300, answer.text
        begin = time.monotonic()
        while True:
            published = time.monotonic()
            if effective():
                return published - begin
            assert published - begin < 30, "the change is never effective"

    def patch(self, **members):
        return self.client.patch(self.id, members)

    def goes_to(self, path: str | None, event: str = "alert.created") -> bool:
        """Whether every worker sends to this path and nowhere else."""
        return set(self.publish(event)) == {(path, partition) for partition in self.partitions if path}

    def is_signed(self, **verdicts: str) -> bool:
        lines = self.publish().values()
        assert len(lines) == len(self.partitions)
        return all(line.get(name) == verdict for line in lines for name, verdict in verdicts.items())

    def changes(self):
        """(what, change, effective), in an order in which each one shows."""
        yield "url", lambda: self.patch(url=self.sink.url("/new")), lambda: self.goes_to("/new")
        yield "events", lambda: self.patch(events=["scan.*"]), lambda: self.goes_to(None)
        assert self.goes_to("/new", "scan.started")
        yield "events again", lambda: self.patch(events=["alert.created"]), lambda: self.goes_to("/new")
        assert self.is_signed(sig_netrecon="good", sig_standard="good")
        self.sink.secret("/new", NEW)
        yield "secret", lambda: self.patch(secret=NEW), lambda: self.is_signed(sig_netrecon="good", sig_standard="good")
        yield "rotation", self.rotate, lambda: self.is_signed(sig_netrecon="bad", sig_previous="good", sig_standard="good")
        yield "pause", lambda: self.patch(active=False), lambda: self.goes_to(None)
        yield "resumption", lambda: self.patch(active=True), lambda: self.goes_to("/new")
        yield "deletion", lambda: self.client.delete(self.id), lambda: self.goes_to(None)
        yield ("creation", lambda: self.client.post(body={"url": self.sink.url("/created"), "events": ["*"]}),
               lambda: self.goes_to("/created"))

    def rotate(self):
        return self.client.post(f"{self.id}/rotate-secret", {"overlap_hours": 1})


@pytest.fixture
def rig(tmp_path, topic, tenant, producer, api, start_worker):
    sink = Sink(tmp_path / "sink")

    def make(**settings) -> Rig:
        workers = [start_worker(group=f"changes-{tenant.id}", **settings) for _ in range(2)]
        return Rig(api.client(tenant.id), sink, topic, producer, tenant.id, workers)

    yield make
    sink.close()


@contextlib.contextmanager
def without_notifications(stack):
    """As when every NOTIFY is lost."""
    def switch(how: str) -> None:
        with stack.connect(superuser=True) as connection:
            for trigger in ("webhooks_notify_insert_delete", "webhooks_notify_update"):
                connection.execute(f"alter table webhooks {how} trigger {trigger}")

    switch("disable")
    try:
        yield
    finally:
        switch("enable")


def test_a_change_is_effective_in_every_worker_in_under_a_second(rig):
    one = rig()
    times = {what: one.took(change, effective) for what, change, effective in one.changes()}
    print("\n" + ", ".join(f"{what} {1000 * took:.0f} ms" for what, took in times.items()))
    assert max(times.values()) < EFFECTIVE_S, times


@pytest.mark.slow
def test_a_change_is_effective_within_the_poll_when_its_notification_is_lost(stack, rig):
    one = rig(subscriptions_poll=f"{1000 * POLL_S:.0f}ms")
    with without_notifications(stack):
        times = {what: one.took(change, effective) for what, change, effective in one.changes()}
    print("\n" + ", ".join(f"{what} {1000 * took:.0f} ms" for what, took in times.items()))
    assert max(times.values()) < POLL_S + SLACK_S, times
    assert all(worker.metric("nrw_notifications_missed_total") >= 5 for worker in one.workers), "they were not lost: this proves nothing"
