#!/usr/bin/python3
"""End-to-end measurements of one worker, everything on this machine, beside a bare libcurl loop in the same minutes.

Prints a table with each target and whether it was met, and writes all figures to .build/bench/<time>.json. On a
busy machine CPU time and ratios move least, rates and latencies most: the column "others" says how many cores something else kept busy.

Exit status: 0 measured (targets met or not), 1 something failed.
"""

import argparse
import datetime as dt
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "system")]

# pylint: disable=wrong-import-position
import scenarios
from report import print_report
from rig import Rig
from support.paths import BUILD, ROOT, WORKER

OUT = ROOT / ".build" / "bench"
REPEATS = {"drain": 3, "dead": 2, "latency": 2}  # of a whole run: the targets that matter most, against noise
TIME_LIMIT_S = 12 * 60
QUICK_LIMIT_S = 170


def plan(options) -> list[str]:
    """Scenarios in the order of their runs: first each once, then the repetitions."""
    limit_s = max(1, options.repeat or 1) * (QUICK_LIMIT_S if options.quick else TIME_LIMIT_S)
    names = options.scenario or list(scenarios.ALL)
    times = {name: options.repeat or (1 if options.quick or options.scenario else REPEATS.get(name, 1)) for name in names}
    return [name for turn in range(max(times.values())) for name in names if turn < times[name]]


def first_line(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20, check=False)
    return done.stdout.splitlines()[0] if done.stdout else "?"


def machine(rig: Rig) -> dict:
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    cache = (BUILD / "CMakeCache.txt").read_text()
    return {
        "cores": len(os.sched_getaffinity(0)), "cpu": cpu[1] if cpu else platform.machine(), "kernel": platform.release(),
        "worker": first_line(str(WORKER), "--version"), "build": re.search(r"CMAKE_BUILD_TYPE:\w+=(\w*)", cache)[1],
        "curl": first_line("curl-config", "--version"), "postgres": rig.stack.query("show server_version")[0][0],
        "kafka": "real" if rig.stack.kafka_is_real else "librdkafka's MOCK brokers",
        "commit": first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of everything: under three minutes, more noise")
    parser.add_argument("--repeat", type=int, metavar="N", help="each scenario N times; the table has medians")
    parser.add_argument("scenario", nargs="*", choices=[[], *scenarios.ALL], help="default: all")
    options = parser.parse_args()
    size = scenarios.QUICK if options.quick else scenarios.Size()
    limit_s = max(1, options.repeat or 1) * (QUICK_LIMIT_S if options.quick else TIME_LIMIT_S)
    started = dt.datetime.now(dt.timezone.utc)
    rig = Rig()
    runs: dict[str, list[dict]] = {}
    failed = {}
    try:
        rig.start(scenarios.HOSTS)
        facts = machine(rig)
        for name in plan(options):
            if (dt.datetime.now(dt.timezone.utc) - started).total_seconds() > limit_s:
                if name not in runs:
                    failed[name] = f"not run: {limit_s} s are over"
                continue
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                runs.setdefault(name, []).append(scenarios.ALL[name](rig, size))
            except (AssertionError, subprocess.SubprocessError) as error:
                failed[name] = str(error)
                print(f"{name}: {error}", file=sys.stderr)
    finally:
        rig.close()
    found = {"started_at": started.isoformat(timespec="seconds"), "command": " ".join(["tests/bench/run.py", *sys.argv[1:]]),
             "machine": facts, "runs": runs, "failed": failed}
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{started:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print_report(found)
    print(f"all figures: {path.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
