"""Whose turn it is on the processor."""

import os


def raise_priority(*pids: int) -> None:
    """Latencies are about what the worker does, not about who else has the processor. Only root may."""
    for pid in pids:
        try:
            os.setpriority(os.PRIO_PROCESS, pid, -15)
        except PermissionError:
            return
