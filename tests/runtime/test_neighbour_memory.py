"""Reading what lies in the memory of another node."""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING

import posix_ipc
import pytest

from aioray.runtime.neighbour_memory import NeighbourMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

_names = itertools.count()


@pytest.fixture
def segment() -> Iterator[str]:
    """A page with something written on it."""
    name = f"/aioray-test-{os.getpid()}-{next(_names)}"
    memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=4096)
    os.pwrite(memory.fd, b"there", 64)
    memory.close_fd()
    yield name
    with contextlib.suppress(posix_ipc.ExistentialError):  # a test has done so
        posix_ipc.unlink_shared_memory(name)


@pytest.fixture
def memory() -> Iterator[NeighbourMemory]:
    memory = NeighbourMemory()
    yield memory
    memory.close()


def test_it_is_read_where_it_is(memory: NeighbourMemory, segment: str) -> None:
    assert not memory.knows("bb")
    memory.learn("bb", segment)
    assert memory.knows("bb")
    assert bytes(memory.block("bb", 64, 5)) == b"there"


def test_a_segment_stays_mapped_while_something_looks_at_it_whatever_becomes_of_its_node(
    memory: NeighbourMemory, segment: str
) -> None:
    memory.learn("bb", segment)
    block = memory.block("bb", 64, 5)
    posix_ipc.unlink_shared_memory(segment)
    memory.unmap_idle()
    assert bytes(block) == b"there"
    assert bytes(memory.block("bb", 65, 4)) == b"here"
    del block
    memory.unmap_idle()
    assert not memory.is_mapped
    with pytest.raises(OSError, match="is not there"):
        memory.block("bb", 64, 5)


def test_a_view_outlives_the_end_of_the_process_s_cluster(memory: NeighbourMemory, segment: str) -> None:
    memory.learn("bb", segment)
    block = memory.block("bb", 64, 5)
    memory.close()
    assert bytes(block) == b"there"
