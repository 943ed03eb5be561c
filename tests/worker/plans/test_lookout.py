"""A thread that looks for what comes before it sleeps."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from aioray_node.worker.plans import lookout
from aioray_node.worker.plans.lookout import Lookout

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 10.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_it_ends_when_something_has_come(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "_CROWDED_S", PATIENCE_S)
    ours, theirs = pair
    threading.Timer(0.01, theirs.send, [b"x"]).start()
    Lookout(ours, PATIENCE_S).look()
    assert ours.recv(1, socket.MSG_DONTWAIT) == b"x"


def test_it_ends_when_the_peer_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    Lookout(ours, PATIENCE_S).look()
    assert ours.recv(1, socket.MSG_DONTWAIT) == b""


def test_it_ends_when_nothing_comes_and_is_rarer_then(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "_CROWDED_S", PATIENCE_S)
    looks: list[float] = []
    monkeypatch.setattr(os, "sched_yield", lambda: looks.append(time.perf_counter()))
    looking = Lookout(pair[0], 0.001)
    looking.look()
    count = len(looks)
    assert count
    looking.look()
    assert len(looks) == count


def test_it_gives_up_for_long_where_others_need_the_core(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    yields: list[None] = []

    def let_others() -> None:
        yields.append(None)
        time.sleep(0.005)  # one of them runs meanwhile

    monkeypatch.setattr(os, "sched_yield", let_others)
    looking = Lookout(pair[0], PATIENCE_S)
    for _ in range(900):
        looking.look()
    assert len(yields) == 1
