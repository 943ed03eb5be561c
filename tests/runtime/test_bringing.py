"""What a process asks its node to bring, and when it hastens that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aioray.runtime.bringing import Bringing
from aioray.runtime.neighbour_memory import NeighbourMemory
from aioray.wire.control import Fetch
from aioray.wire.values import Value

HERE, THERE = "aa" * 8, "bb" * 8
SMALL = Value(b"small")
OURS = Value(nbytes=64, oid=b"ours", node_id=HERE)
LARGE, OTHER = (Value(nbytes=64, oid=oid, node_id=THERE) for oid in (b"large", b"other"))


class Process:
    """What `Bringing` needs of one."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.memory = SimpleNamespace(neighbours=NeighbourMemory())
        self.node_id = HERE
        self.link = SimpleNamespace(send=self.said.append)
        self.bringing = Bringing(self)  # type: ignore[arg-type]
        self.came: list[Value] = []

    def take_said(self) -> list[Any]:
        said, self.said[:] = list(self.said), []
        return said

    def come(self, value: Value) -> None:
        for then in self.bringing.take(value.oid) or ():
            then(value)


@pytest.fixture
def process() -> Process:
    return Process()


def test_a_value_is_asked_for_once_however_many_wait(process: Process) -> None:
    process.bringing.ask(LARGE, process.came.append)
    process.bringing.ask(LARGE, process.came.append)
    assert process.take_said() == [Fetch(b"large", LARGE)]
    process.come(LARGE)
    assert process.came == [LARGE, LARGE]


def test_what_will_be_needed_is_asked_for_after_what_somebody_waits_for(process: Process) -> None:
    process.bringing.prefetch([SMALL, OURS, LARGE, OTHER])
    assert process.take_said() == [Fetch(b"large", LARGE, is_urgent=False), Fetch(b"other", OTHER, is_urgent=False)]
    process.bringing.prefetch([LARGE])
    assert process.take_said() == []


def test_it_is_hastened_once_when_somebody_waits(process: Process) -> None:
    process.bringing.prefetch([LARGE])
    process.take_said()
    process.bringing.ask(LARGE, process.came.append)
    process.bringing.ask(LARGE, process.came.append)
    assert process.take_said() == [Fetch(b"large", LARGE)]
    process.come(LARGE)
    assert process.came == [LARGE, LARGE]


def test_what_was_prefetched_is_asked_for_again_when_it_is_needed(process: Process) -> None:
    """Nobody held it meanwhile, so it may be gone."""
    process.bringing.prefetch([LARGE])
    process.come(LARGE)
    process.take_said()
    process.bringing.ask(LARGE, process.came.append)
    assert process.take_said() == [Fetch(b"large", LARGE)]


def test_what_lies_in_memory_that_can_be_read_is_not_brought(process: Process) -> None:
    process.memory.neighbours.learn(THERE, "/there")
    assert process.bringing.is_here(LARGE)
    process.bringing.prefetch([LARGE])
    assert process.take_said() == []
