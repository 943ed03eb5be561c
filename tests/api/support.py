"""What the tests of the synchronous face share: a cluster that leaves nothing, meeting points, figures of the store."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import aioray
from aioray import current
from tests.leftovers import Leftovers

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator

PATIENCE_S = 10.0


@contextlib.contextmanager
def started(**options: Any) -> Iterator[Any]:
    """A cluster for a module or a single test, and the leak check of tests/conftest.py around it."""
    gc.collect()
    before = Leftovers()
    aioray.init(**options)
    try:
        yield aioray
    finally:
        aioray.shutdown()
    gc.collect()
    left = Leftovers.that_stay(before)
    assert not left, f"left behind: {left}"


def eventually(holds: Callable[[], Any], otherwise: Callable[[], str] = lambda: "it never came true") -> None:
    """For what happens in other processes and tells nobody: look again and again, but not for ever."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.005)


class Meeting:
    """A named pipe where two processes meet: `here` and `wait` both block until the other side has come, too."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = str(path)
        os.mkfifo(self.path)

    def here(self) -> None:
        with open(self.path, "wb", buffering=0):
            pass

    def wait(self) -> None:
        with open(self.path, "rb", buffering=0) as pipe:
            pipe.read()


def store() -> dict[str, int]:
    """What the node says of its object store."""
    figures: dict[str, int] = current.get().ask("store")
    return figures


def store_returns_to(baseline: dict[str, int]) -> None:
    """The store must come back to what it held before: no object known, no byte used beyond that."""
    gc.collect()
    eventually(
        lambda: (
            store()["used_nbytes"] <= baseline["used_nbytes"] and store()["known_objects"] <= baseline["known_objects"]
        ),
        lambda: f"the store holds {store()}, and held {baseline} before",
    )


def run_script(tmp_path: pathlib.Path, text: str, *, name: str = "program.py") -> subprocess.CompletedProcess[str]:
    """Run a program of its own, in which what it defines lives in `__main__`; it must end well."""
    script = tmp_path / name
    script.write_text(text)
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, cwd=tmp_path)
