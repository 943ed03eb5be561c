"""Which processes belong to a measurement, what memory they hold, and when they are gone.

The runner gives each measurement a mark in its environment. Every process that descends from it inherits the mark,
also one that was forked from a zygote, moved to a session of its own or lost its parent. A process that writes over
its environment to change its title (Ray's do) loses the mark, but not its place in the tree. So both are looked at,
and the runner has orphans handed to itself, so that nothing gets out of the tree by losing its parent.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import psutil

from bench.measure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

MARK = "AIORAY_BENCH_MEASUREMENT"
MB = 1e6
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def marked(mark: str) -> list[psutil.Process]:
    """Every living process with this mark, except the calling one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark and alive(process):
                found.append(process)
        except psutil.Error:  # gone meanwhile, or not ours to look at
            continue
    return found


def of_this_measurement() -> list[psutil.Process]:
    """The processes that the calling one has brought about: its descendants and all that bear its mark."""
    found = {process.pid: process for process in psutil.Process().children(recursive=True) if alive(process)}
    if mark := os.environ.get(MARK):
        found.update((process.pid, process) for process in marked(mark))
    return list(found.values())


def alive(process: psutil.Process) -> bool:
    """A zombie counts as gone: it holds nothing but an exit status that someone has yet to read."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until none of them lives; returns those that still do after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while left := [process for process in processes if alive(process)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.001)
    return []


class Shutdowns:
    """Times shutdowns: from `begin` to the moment when, `end` having been called, no process of the cluster is left."""

    def __init__(self) -> None:
        self._processes: list[psutil.Process] = []
        self._began = 0.0
        self._taken_s: list[float] = []

    def begin(self, *, besides: str = "") -> None:
        """`besides`: part of the command line of a process that is not the cluster's, and stays."""
        found = of_this_measurement()
        self._processes = [p for p in found if not besides or besides not in " ".join(p.cmdline())]
        if not self._processes:
            raise RuntimeError("the cluster has no processes, so there is nothing to see go")
        self._began = time.perf_counter()

    def end(self) -> None:
        left = wait_gone(self._processes, timeout_s=20.0)
        if left:
            raise RuntimeError(f"{len(left)} of {len(self._processes)} processes are there 20 s after the shutdown")
        self._taken_s.append(time.perf_counter() - self._began)

    def figure(self) -> Figure:
        return Figure(statistics.median(self._taken_s), {"taken_s": self._taken_s, "processes": len(self._processes)})


class Brood:
    """All that comes of a child process that the caller starts inside `with` and gives `mark` to. None survives it.

    Meant for one at a time: every child that appears meanwhile counts as part of it.
    """

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self._others: set[int] = set()

    def __enter__(self) -> Self:
        self._others = {child.pid for child in psutil.Process().children()}
        _adopt_orphans(True)
        return self

    def living(self) -> list[psutil.Process]:
        found = {process.pid: process for process in marked(self.mark)}
        for child in self._children():
            with suppress(psutil.NoSuchProcess):
                found.update((process.pid, process) for process in [child, *child.children(recursive=True)])
        return [process for process in found.values() if alive(process)]

    def __exit__(self, *exc_info: object) -> None:
        try:
            for _ in range(10):  # again: one may have forked while the others were killed
                if not (left := self.living()):
                    break
                for process in left:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                wait_gone(left, timeout_s=1.0)
        finally:
            for child in self._children():  # zombies by now; nobody else will read their status
                with suppress(ChildProcessError):
                    os.waitpid(child.pid, os.WNOHANG)
            _adopt_orphans(False)

    def _children(self) -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if child.pid not in self._others]


def _adopt_orphans(yes: bool) -> None:
    """Whether descendants that lose their parent become children of the calling process, rather than of init."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def pss_mb() -> float:
    """PSS (MB) of the calling process and all it has brought about. Pages that n of them share count 1/n in each."""
    total = 0
    for process in [psutil.Process(), *of_this_measurement()]:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / MB
