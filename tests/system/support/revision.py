"""Another revision of this repository: its sources, and its worker built from them."""

import dataclasses
import pathlib
import shutil
import subprocess

import pytest

from support.paths import ROOT

BASE = ROOT / ".build" / "upgrade"
KEPT = 2  # as many as one run needs
BUILD_TIMEOUT_S = 600


@dataclasses.dataclass
class Revision:
    source: pathlib.Path
    worker: pathlib.Path


def _run(*command, **options) -> bytes:
    return subprocess.run(list(map(str, command)), check=True, timeout=BUILD_TIMEOUT_S, stdout=subprocess.PIPE, **options).stdout


def revision(name: str) -> Revision:
    """Skips the test where git does not have it. What was built once is there for later runs."""
    try:
        commit = _run("git", "-C", ROOT, "rev-parse", "--verify", "--quiet", name + "^{commit}").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"no commit {name} here (no git, or a shallow clone)")
    folder = BASE / commit
    found = Revision(folder / "source", folder / "build" / "netrecon-webhooks-worker")
    if not found.worker.exists():
        shutil.rmtree(folder, ignore_errors=True)
        found.source.mkdir(parents=True)
        _run("tar", "-x", "-C", found.source, input=_run("git", "-C", ROOT, "archive", commit))
        _run("cmake", "-S", found.source, "-B", found.worker.parent, "-G", "Ninja", "-DNRW_TESTS=OFF")
        _run("cmake", "--build", found.worker.parent, "--target", found.worker.name)
    folder.touch()  # the ones used last are kept
    for old in sorted(BASE.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return found
