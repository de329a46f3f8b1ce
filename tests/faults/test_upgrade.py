"""An upgrade as the runbook describes it: the worker of another commit and this one's run side by side on one group and one schema."""

import os
import shutil
import subprocess

import pytest
from support import ledger
from support.paths import ROOT
from support.produce import SPREAD, ProduceTool
from support.wait import await_condition

# The commit before this one, or the release that is running (a revision).
REVISION = os.environ.get("UPGRADE_FROM", "HEAD~1")
RATE = 500
BUILD_TIMEOUT_S = 600


@pytest.fixture(scope="session")
def other_worker():
    """The worker program of that revision, built from its own sources."""
    def run(*command, **options):
        return subprocess.run(list(map(str, command)), check=True, timeout=BUILD_TIMEOUT_S, stdout=subprocess.PIPE, **options).stdout

    try:
        commit = run("git", "-C", ROOT, "rev-parse", "--verify", "--quiet", REVISION + "^{commit}").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"no commit {REVISION} here (no git, or a shallow clone)")
    base = ROOT / ".build" / "upgrade"
    program = base / commit / "build" / "netrecon-webhooks-worker"
    if not program.exists():
        shutil.rmtree(base, ignore_errors=True)
        source = base / commit / "source"
        source.mkdir(parents=True)
        run("tar", "-x", "-C", source, input=run("git", "-C", ROOT, "archive", commit))
        run("cmake", "-S", source, "-B", program.parent, "-G", "Ninja", "-DNRW_TESTS=OFF")
        run("cmake", "--build", program.parent, "--target", program.name)
    return program


@pytest.fixture
def topic(stack):
    topic = stack.topic(partitions=6)
    yield topic
    topic.delete()


@pytest.mark.slow
def test_two_versions_side_by_side_lose_nothing(stack, topic, tenant, sink, subscribe, start_worker, other_worker):
    """Old and new share the partitions, then the new one takes over, then the old one comes back (a rollback); retries pass between them."""
    webhooks = [*subscribe(2), *subscribe(1, "fail_first=1")]
    quick = {"retry_delays": "0s,1s,1s,1s,1s"}
    old = start_worker(program=other_worker, name="old", **quick)
    producing = ProduceTool(topic, tenant.id, *SPREAD, count=1_000_000, rate=RATE)

    def flow(n=1500):
        sink.wait(len(sink.ledger()) + n, timeout=60)

    def await_partitions(*workers):
        await_condition(lambda: all(worker.metric("nrw_assigned_partitions") > 0 for worker in workers), 30, "each has partitions")

    flow()
    new = start_worker(group=old.group, name="new", **quick)
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
