"""Actors for races: each stops at doors that a test opens. Apart from the tests, since workers import this."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import aioray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.api.mortals import Lives
    from tests.api.support import Meeting


class PlainRacer:
    """In its second life its constructor comes to `door`, and waits there until it is opened."""

    def __init__(self, lives: Lives | None = None, door: Meeting | None = None) -> None:
        if lives is not None and door is not None and lives.one_more() > 1:
            door.here()
            door.wait()

    def pid(self) -> int:
        return os.getpid()

    def note(self, runs: Lives, _: Any = None) -> int:
        return runs.one_more()

    def note_and_wait(self, runs: Lives, door: Meeting) -> int:
        runs.one_more()
        door.here()
        door.wait()
        return runs.count()

    def numbers(self, runs: Lives, end: int, _: Any = None) -> Iterator[int]:
        runs.one_more()
        yield from range(end)


Racer: Any = aioray.remote(PlainRacer)


@aioray.remote(num_cpus=0)
def after(door: Meeting) -> str:
    door.wait()
    return "opened"
