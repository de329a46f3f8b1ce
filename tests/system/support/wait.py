"""Waiting for a condition: the only place in the system tests that sleeps."""

import time

from support.paths import WRAPPER

POLL_S = 0.05
# Under valgrind everything takes longer; what a test promises about time does not pass through here.
PATIENCE = 10 if WRAPPER else 1


class Late(AssertionError):
    """Too late, or too slow: what a machine that is busy with something else can cause. tests/run makes such a test once more."""


def in_time(is_so, what="it took too long"):
    """For what a busy machine can make untrue: a time, a latency, a rate."""
    if not is_so:
        raise Late(what() if callable(what) else what)


def await_condition(fn, timeout, what):
    """Polls fn() until it is true and returns its value; at the deadline fails with the last value. what: text, or a callable that
    makes it."""
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        value = fn()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise Late(f"not within {timeout * PATIENCE} s: {what() if callable(what) else what} (last value: {value!r})")
        time.sleep(POLL_S)
