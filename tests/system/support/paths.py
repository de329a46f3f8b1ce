"""Where the repository and the programs under test are."""

import os
import pathlib
import shlex

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("NRW_BUILD_DIR") or ROOT / ".build" / "dev").resolve()
WORKER = BUILD / "netrecon-webhooks-worker"
API = BUILD / "netrecon-webhooks-api"
SINK = BUILD / "tests" / "sink"
PRODUCE = BUILD / "tests" / "produce"

# A program that runs worker and API, as in NRW_WORKER_WRAPPER="valgrind --error-exitcode=99".
WRAPPER = shlex.split(os.environ.get("NRW_WORKER_WRAPPER", ""))


def clean_environment() -> dict[str, str]:
    """The caller's environment without what would reach the programs by mistake."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("NRW_", "PG", "LOCAL_"))}
