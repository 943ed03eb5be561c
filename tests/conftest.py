"""Fixtures of all tests: clusters, and the check that nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pathlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from hypothesis import settings

import aioray

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_PATIENCE_S = 10.0

# `make test` judges a change: the same examples every time. `make explore` looks for new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False, database=None, print_blob=True)
settings.load_profile("same")


def pytest_configure() -> None:
    # A shell starts what runs in the background with Ctrl-C ignored, nohup with SIGHUP: the programs of tests, which
    # are ended by them, would inherit that. (Not at import: workers import this module, too.)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    # The leak check collects garbage twice a test; what was imported until now never is any, and is most of the heap.
    gc.collect()
    gc.freeze()


class Leftovers:
    """What exists outside the memory of this process that a cluster could leave behind."""

    def __init__(self) -> None:
        me = psutil.Process()
        self.processes = {child.pid for child in me.children(recursive=True)}
        self.threads = {thread.ident for thread in threading.enumerate()}
        self.fds = _open_files()
        root = pathlib.Path(os.environ.get("TMPDIR", "/tmp")) / f"aioray-{os.getuid()}"
        sessions = set(root.iterdir()) if root.exists() else set()
        strange = _of_others(sessions, {me.pid, *self.processes})
        self.sessions = sessions - strange
        self.shared_memory = {name for name in os.listdir("/dev/shm") if "aioray" in name}
        if self.shared_memory:
            self.shared_memory -= _segments_of_others({me.pid, *self.processes})

    def since(self, before: Leftovers) -> dict[str, list[str]]:
        """What is here now and was not then."""
        new = {
            "processes": [f"{pid} {_command(pid)}" for pid in self.processes - before.processes],
            "threads": [t.name for t in threading.enumerate() if t.ident in self.threads - before.threads],
            "fds": [f"{fd} -> {what}" for fd, what in self.fds.items() if before.fds.get(fd) != what],
            "shared memory": list(self.shared_memory - before.shared_memory),
            "sessions": [str(path) for path in self.sessions - before.sessions],
        }
        return {what: sorted(names) for what, names in new.items() if names}

    @classmethod
    def that_stay(cls, before: Leftovers) -> dict[str, list[str]]:
        """What was not there `before`, and does not go within some seconds: the kernel ends processes when it likes.

        Only what each of many looks finds counts: others that use this machine come and go, and what they leave for a
        moment is hard to tell from what is ours.
        """
        left = cls().since(before)
        deadline = time.monotonic() + _PATIENCE_S
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
            now = cls().since(before)
            left = {
                what: found for what, names in left.items() if (found := [n for n in names if n in now.get(what, ())])
            }
        return left


def _of_others(sessions: set[pathlib.Path], ours: set[int]) -> set[pathlib.Path]:
    """Those that a process has locked which is not ours: somebody else runs aioray on this machine, too."""
    holders = {}
    with open("/proc/locks") as locks:
        for line in locks:
            fields = line.split()
            if fields[1] == "FLOCK":
                holders[int(fields[5].rpartition(":")[2])] = int(fields[4])
    strange = set()
    for session in sessions:
        with contextlib.suppress(OSError):
            if holders.get((session / "lock").stat().st_ino, os.getpid()) not in ours:
                strange.add(session)
    return strange


def _segments_of_others(ours: set[int]) -> set[str]:
    """Shared memory of live nodes, wherever their sessions are, that are not of this process or its children."""
    found = set()
    for process in psutil.process_iter():
        if process.pid not in ours:
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{process.pid}/fd"):
                    with contextlib.suppress(OSError):
                        path = pathlib.Path(os.readlink(f"/proc/{process.pid}/fd/{fd}"))
                        if path.parent == pathlib.Path("/dev/shm"):
                            found.add(path.name)
    return found


def _open_files() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return "(gone)"


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails the test that leaves processes, threads, descriptors, shared memory, files or asyncio tasks."""
    gc.collect()
    before = Leftovers()
    yield
    gc.collect()
    left = Leftovers.that_stay(before)
    assert not left, f"left behind: {left}"


@pytest.fixture
def ray(nothing_left: None) -> Iterator[Any]:
    """A cluster of two CPUs, for synchronous tests."""
    aioray.init(num_cpus=2)
    yield aioray
    aioray.shutdown()


@pytest.fixture
def one_cpu(nothing_left: None) -> Iterator[Any]:
    """A cluster of a single CPU, on which everything must still be possible."""
    aioray.init(num_cpus=1)
    yield aioray
    aioray.shutdown()


@pytest.fixture
async def cluster(nothing_left: None) -> AsyncIterator[aioray.Cluster]:
    """A cluster of two CPUs in the test's event loop."""
    tasks = asyncio.all_tasks()
    started = await aioray.connect(num_cpus=2)
    yield started
    await started.shutdown()
    left = {task for task in asyncio.all_tasks() - tasks if not task.done()} - {asyncio.current_task()}
    assert not left, f"asyncio tasks left behind: {left}"
