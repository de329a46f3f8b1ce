"""The stack of docker-compose.yml on a real engine, once for all tests of this folder: built from a copy of the tree, with secrets, images,
networks and a project name of its own, so that nothing of a stack that runs beside it is touched."""

import pathlib
import sys

import pytest

SYSTEM = pathlib.Path(__file__).resolve().parents[1] / "system"
if str(SYSTEM) not in sys.path:
    sys.path.insert(0, str(SYSTEM))

from compose_stack import ComposeStack  # noqa: E402 (needs the path above)


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    stack = ComposeStack(tmp_path_factory.mktemp("tree"))
    try:
        stack.up()
        yield stack
    finally:
        stack.close()
