"""Which light actors of a process have calls under way: the process notes it, and its node reads it if that dies.

A file in the session directory that is mapped: what a process had written is there, however it ended.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SLOTS = 1 << 16  # beyond that many, two actors share a count: then both are taken for busy
_NBYTES = 2 * _SLOTS


def path_of(session_dir: str, worker_id: str) -> str:
    """Of the process's file."""
    return os.path.join(session_dir, f"calls-{worker_id}")


class InFlight:
    """Counts of calls and constructors that have begun and are not through, by slot. One thread changes them."""

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, _NBYTES)
            self._counts = memoryview(mmap.mmap(fd, _NBYTES)).cast("H")
        finally:
            os.close(fd)

    def begin(self, slot: int) -> None:
        """One more of that actor."""
        self._counts[slot % _SLOTS] += 1

    def over(self, slot: int) -> None:
        """One less."""
        self._counts[slot % _SLOTS] -= 1


def take_busy(path: str, slots: Sequence[int]) -> set[int]:
    """Those of `slots` that were busy when the process ended; the file goes. None where it never wrote one."""
    try:
        counts = memoryview(pathlib.Path(path).read_bytes()).cast("H")
    except FileNotFoundError:
        return set()
    forget(path)
    return {slot for slot in slots if len(counts) == _SLOTS and counts[slot % _SLOTS]}


def forget(path: str) -> None:
    """Remove the file, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
