"""Values on the sockets of a compiled graph, whole and in pieces."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from aioray.wire.framing import append_frame, fill_frame
from aioray.wire.plans import Passed
from aioray_node.worker.plans.links import Inlet, LinkClosed, Outlet

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def link() -> Iterator[tuple[Outlet, Inlet]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Outlet(1, ours), Inlet(0, theirs, [], b"")


def frame_of(message: Passed) -> bytearray:
    frame = bytearray(4)
    fill_frame(frame, message)
    return frame


def test_a_frame_that_is_filled_again_is_the_one_that_would_have_been_appended() -> None:
    frame = bytearray(4)
    for message in (Passed(1, 2, b"x" * 100), Passed(3, 4, b"y")):
        fill_frame(frame, message)
        appended = bytearray()
        append_frame(appended, message)
        assert frame == appended


def test_a_frame_goes_at_once_or_after_what_is_kept(link: tuple[Outlet, Inlet]) -> None:
    outlet, inlet = link
    first, large, last = Passed(1, 0, b"x"), Passed(2, 0, b"y" * (4 << 20)), Passed(3, 0, b"z")
    assert not outlet.send_frame(frame_of(first))
    assert inlet.read() == [first]
    assert outlet.send_frame(frame_of(large))  # more than the socket takes
    assert outlet.send_frame(frame_of(last))
    found: list[Passed] = []
    while len(found) < 2:
        found += inlet.read()
        if outlet.pending:
            outlet.flush()
    assert found == [large, last]
    assert not outlet.pending


def test_what_is_no_value_ends_the_link(link: tuple[Outlet, Inlet]) -> None:
    outlet, inlet = link
    outlet.send_frame(bytearray(b"\x02\0\0\0\xc1\xc1"))
    with pytest.raises(LinkClosed):
        inlet.read()
    inlet.close()
    with pytest.raises(LinkClosed):
        outlet.send_frame(frame_of(Passed(1, 0, b"x")))
