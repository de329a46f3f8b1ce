"""What deploy/local/up makes, in a folder and on ports of its own, beside whatever a person has running. Its scripts are methods."""

import pathlib
import subprocess
import tempfile

from support.paths import BUILD, ROOT
from support.stack import Guard, local_environment, run_local

LOCAL = ROOT / "deploy" / "local"
UP_TIMEOUT_S = 240
PORTS = ("PG", "REDIS", "KAFKA", "KAFKA_CONTROLLER", "SINK", "API", "API_ADMIN", "ADMIN")


class Demo:
    """up() … close(). settings: NRW_ settings of the workers, by their whole names, as a person would export them."""

    def __init__(self, **settings: str):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nrw-demo-"))
        self.build = pathlib.Path(tempfile.mkdtemp(prefix="nrw-demo-build-")) / "build"
        self.build.symlink_to(BUILD)  # another folder than the usual one: `up` uses it as it is
        self.environment = {**local_environment(self.folder, *PORTS), "LOCAL_BUILD_DIR": str(self.build), "no_proxy": "127.0.0.1", **settings}
        self._guard = Guard(self.environment)

    def run(self, script: str, *arguments: str, timeout: float = 60, status: int = 0) -> str:
        """A script of deploy/local; what it said."""
        said_status, said = run_local([LOCAL / script, *arguments], self.environment, timeout)
        assert said_status == status, f"deploy/local/{script} {' '.join(arguments)}: exit status {said_status}\n{said}"
        return said

    def up(self) -> str:
        return self.run("up", timeout=UP_TIMEOUT_S)

    def shell(self, text: str, timeout: float = 60) -> str:
        """What somebody types at the root of the repository, in a shell that stops at the first failure."""
        status, said = run_local(["bash", "-euo", "pipefail", "-c", text], self.environment, timeout)
        assert status == 0, f"exit status {status} of\n{text}\n{said}"
        return said

    def exports(self) -> dict[str, str]:
        """What eval "$(deploy/local/env)" adds to a shell."""
        def names(begin: str) -> dict[str, str]:
            printed = subprocess.run(["bash", "-euc", begin + "env -0"], cwd=ROOT, env=self.environment, timeout=60, check=True,
                                     stdout=subprocess.PIPE, text=True).stdout
            return dict(entry.split("=", 1) for entry in printed.rstrip("\0").split("\0"))

        before = names("")
        return {name: value for name, value in names('eval "$(deploy/local/env)"; ').items() if before.get(name) != value}

    def running(self) -> dict[str, int]:
        """Name -> pid of what runs."""
        _, said = run_local([LOCAL / "stack", "status"], self.environment, 60)
        lines = [line.split() for line in said.splitlines()]
        return {name: int(pid) for name, state, pid, *_ in lines if state == "running"}

    def close(self) -> None:
        try:
            if self.folder.exists():
                for action in ("stop", "kill", "purge"):
                    run_local([LOCAL / "stack", action], self.environment, UP_TIMEOUT_S)
        finally:
            self._guard.done()
            self.build.unlink()
            self.build.parent.rmdir()
