"""An upgrade as the runbook describes it: workers of another commit and this one's run side by side on one group and one schema; and a
migration is applied while workers of before it run."""

import os
import re
import subprocess
import time

import pytest
from support import ledger
from support.paths import ROOT
from support.produce import SPREAD, ProduceTool
from support.revision import revision
from support.wait import await_condition

# The commit before this one, or the release that is running (a revision).
REVISION = os.environ.get("UPGRADE_FROM", "HEAD~1")
# The last commit before migration 0004, which rebuilds the key of events and adds a CHECK: its workers know neither.
BEFORE_0004 = "1ce55ce13be6e2de052340b1c5b638ea70b71527"
KEPT_EVENTS = 200_000  # so that the rebuilt key takes a moment
RATE = 500
QUICK = {"retry_delays": "0s,1s,1s,1s,1s"}


@pytest.fixture
def topic(stack):
    topic = stack.topic(partitions=6)
    yield topic
    topic.delete()


@pytest.fixture
def flow(sink):
    """flow() returns when that many more requests have arrived."""
    def wait(n=1500):
        sink.wait(len(sink.ledger()) + n, timeout=60)

    return wait


def await_partitions(*workers):
    await_condition(lambda: all(worker.metric("nrw_assigned_partitions") > 0 for worker in workers), 30, "each has partitions")


@pytest.mark.slow
def test_two_versions_side_by_side_lose_nothing(stack, topic, tenant, sink, subscribe, start_worker, flow):
    """Old and new share the partitions, then the new one takes over, then the old one comes back (a rollback); retries pass between them."""
    webhooks = [*subscribe(2), *subscribe(1, "fail_first=1")]
    old = start_worker(program=revision(REVISION).worker, name="old", **QUICK)
    producing = ProduceTool(topic, tenant.id, *SPREAD, count=1_000_000, rate=RATE)
    flow()
    new = start_worker(group=old.group, name="new", **QUICK)
    await_partitions(old, new)
    flow()
    old.stop()
    flow()
    old.start()
    await_partitions(old, new)
    flow()
    new.stop()
    flow()
    acked = producing.stop()
    topic.await_settled(old.group)
    ledger.check(stack, sink, topic, webhooks, acked, duplicates_max=0, rows_max=2, what=f"{REVISION} and this one")


# ---- a migration ----


@pytest.fixture
def before():
    return revision(BEFORE_0004)


class TestMigration:
    """On a database of its own, which the schema of that commit is applied to."""

    @pytest.fixture
    def stack(self, running_stack, before):
        running_stack.ensure_running()
        with running_stack.another_database("before_0004") as stack:
            apply(before.source, stack)
            yield stack

    @pytest.mark.slow
    def test_it_is_applied_while_workers_of_before_run(self, stack, topic, tenant, sink, subscribe, start_worker, flow, before):
        """Old workers under load, the migration, old and new side by side, the new one alone, and the old one again (a rollback)."""
        webhooks = [*subscribe(2), *subscribe(1, "fail_first=1")]
        # Of another day than what is on its way: a worker of before looks a payload up without the tenant, which the new key begins with.
        stack.query("insert into events (id, received_at, tenant_id, event_type, payload) select gen_random_uuid(), now() + interval '2 days', %s, "
                    "'alert.created', convert_to(repeat('x', 400), 'UTF8') from generate_series(1, %s)", tenant.id, KEPT_EVENTS)
        old = start_worker(program=before.worker, name="old-1", **QUICK)
        other = start_worker(program=before.worker, name="old-2", group=old.group, ready=False, **QUICK)
        await_partitions(old, other)
        producing = ProduceTool(topic, tenant.id, *SPREAD, count=1_000_000, rate=RATE)
        flow()
        began, arrived = time.monotonic(), len(sink.ledger())
        assert "applied 0004_replays" in apply(ROOT, stack)
        print(f"\napplied in {time.monotonic() - began:.1f} s, meanwhile {len(sink.ledger()) - arrived} requests")
        flow()
        new = start_worker(group=old.group, name="new", **QUICK)
        await_partitions(old, other, new)
        flow()
        old.stop()
        other.stop()
        flow()
        old.start()
        await_partitions(old, new)
        new.stop()
        flow()
        acked = producing.stop()
        topic.await_settled(old.group)
        ledger.check(stack, sink, topic, webhooks, acked, duplicates_max=0, rows_max=2, what="0004 under load")
        assert stack.query("select count(*) from events where received_at > now() + interval '1 day'") == [(KEPT_EVENTS,)]


def apply(source, stack) -> str:
    """schema/apply of these sources; what it says. It may lose a deadlock with a worker, or not get a lock in time: then it changes nothing
    and is run again, as the runbook says."""
    for _ in range(5):
        done = subprocess.run([source / "schema" / "apply"], env={**os.environ, "NRW_DATABASE_URL": stack.database_url}, timeout=120, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode == 0:
            return done.stdout
        assert done.returncode == 1 and re.search("deadlock detected|lock timeout", done.stdout), done.stdout
        print(f"\nonce more: {done.stdout}")
    raise AssertionError(f"it never got its locks: {done.stdout}")
