"""Whose turn it is on the processor. Latencies are about what the worker does, not about who else has the processor: where the kernel lets us
(root), the processes of a measurement go before all others."""

import contextlib
import os
import pathlib

FIRST = -15


def _set(pid: int, nice: int) -> None:
    with contextlib.suppress(OSError):
        # A priority is a thread's, and new threads have their maker's.
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, int(task), nice)
        # It counts inside of its session, and this is the session's; ours stays as it is.
        if os.getsid(pid) != os.getsid(0):
            pathlib.Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def raise_priority(*pids: int) -> None:
    for pid in pids:
        _set(pid, FIRST)


@contextlib.contextmanager
def services_first(stack):
    """The stores of a stack go before all others, too; of PostgreSQL only the postmaster, because a backend is a session of its own."""
    pids = [int(path.read_text().split()[0]) for path in (stack.folder / "run").glob("*.pid")]
    raise_priority(*pids)
    try:
        yield
    finally:
        for pid in pids:
            _set(pid, 0)
