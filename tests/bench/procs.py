"""CPU time and memory of processes, from /proc. CPU time is what a run on a busy machine can be trusted with: it hardly depends on what
else runs."""

import os
import pathlib
import time

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """Fields from the third on (state); empty when the process is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields and int(fields[1]) == pid:
                found.append(int(entry))
    return found


def cpu_s(pid: int, with_children: bool = False) -> float:
    """User and system time so far; with_children: also of its direct children, those that ended included (PostgreSQL)."""
    fields = _stat(pid)
    ticks = sum(map(int, fields[11:15 if with_children else 13]))
    if with_children:
        ticks += sum(sum(map(int, _stat(child)[11:13])) for child in children(pid))
    return ticks * TICK_S


def rss_bytes(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def machine_busy_s() -> float:
    """CPU time of the whole machine: all processes, the kernel, and what the hypervisor took away."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, pathlib.Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK_S


class Clock:
    """What each of some processes has used, at one moment. actors: name -> (pid, with_children)."""

    def __init__(self, actors: dict[str, tuple[int, bool]]):
        self.at = time.monotonic()
        self.cpu = {name: cpu_s(pid, children) for name, (pid, children) in actors.items()}
        self.own = sum(os.times()[:4])
        self.busy = machine_busy_s()

    def since(self, earlier: "Clock") -> dict:
        """Seconds, CPU seconds of each, and the cores that processes outside of this bench kept busy."""
        seconds = self.at - earlier.at
        cpu = {name: self.cpu[name] - earlier.cpu[name] for name in self.cpu}
        others = self.busy - earlier.busy - sum(cpu.values()) - (self.own - earlier.own)
        return {"seconds": seconds, "cpu_s": cpu, "other_cores": max(others, 0) / seconds}
