"""Strangers who knock on TCP: none of them is let in, none disturbs, and each is logged once."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from aioray.runtime.connection import Connection
from aioray.runtime.dialing import Dialer
from aioray.runtime.doors import Door
from aioray.runtime.reactor import Reactor
from aioray.runtime.refusals import Refusals
from aioray.wire.control import PROTOCOL_VERSION, Ack
from aioray.wire.framing import control_decoder
from aioray.wire.preamble import PREAMBLE_NBYTES, preamble

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "the token"


class House:
    """A door on loopback, a clock that a test moves, and those who came in."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reactor = Reactor("house", clock=lambda: self.now)
        self.inside: list[socket.socket] = []
        with self.reactor.lock:
            self.door = Door(self.reactor, "127.0.0.1:0", TOKEN, self.inside.append, Refusals("the house"))

    def settle(self) -> None:
        for _ in range(10):
            self.reactor.poll_once(0.001)

    def knock(self, said: bytes) -> socket.socket:
        """Somebody connects and says that."""
        host, port = self.door.address.split(":")
        sock = socket.create_connection((host, int(port)))
        sock.sendall(said)
        self.settle()
        return sock

    def close(self) -> None:
        with self.reactor.lock:
            self.door.close()
        for sock in self.inside:
            sock.close()
        self.reactor.close()


@pytest.fixture
def house() -> Iterator[House]:
    with contextlib.closing(House()) as house:
        yield house


def hung_up(sock: socket.socket) -> bool:
    """Whether the house has closed it, without a word."""
    sock.settimeout(5)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:  # it had not read all that was said
        return True


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (bytes(range(200, 208)), "not what aioray says first"),
        (b"GET / HTTP/1.1\r\n\r\n", "not what aioray says first"),
        (b"\xff\xff\xff\x7f" + bytes(100_000), "not what aioray says first"),
        (preamble(TOKEN, PROTOCOL_VERSION + 1), f"version {PROTOCOL_VERSION + 1} was offered"),
        (preamble("another token"), "does not know the token"),
        (preamble(""), "does not know the token"),
    ],
)
def test_strangers_are_refused_and_logged_once(
    house: House, caplog: pytest.LogCaptureFixture, said: bytes, why: str
) -> None:
    for _ in range(3):
        with house.knock(said) as stranger:
            assert hung_up(stranger)
    assert [why in message for message in caplog.messages] == [True]
    with house.knock(preamble(TOKEN)):
        assert len(house.inside) == 1


def test_who_says_nothing_or_not_all_has_five_seconds(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with house.knock(b"") as mute, house.knock(preamble(TOKEN)[:-1]) as slow:
        house.now += 4.9
        house.settle()
        assert caplog.messages == []
        slow.sendall(preamble(TOKEN)[-1:])
        house.settle()
        assert len(house.inside) == 1
        house.now += 0.2
        house.settle()
        assert hung_up(mute)
    assert ["has not said who it is" in message for message in caplog.messages] == [True]


def test_who_hangs_up_early_is_forgotten(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.knock(preamble(TOKEN)[:10]).close()
    house.settle()
    assert (house.door._strangers, caplog.messages) == ({}, [])


def test_too_many_at_once_make_the_first_ones_go(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(house.knock(b""))
        for _ in range(256):
            stack.enter_context(house.knock(b""))
        assert hung_up(first)
        assert len(house.door._strangers) == 256


def test_nothing_behind_the_first_bytes_is_taken(house: House) -> None:
    with house.knock(preamble(TOKEN) + b"more"):
        (inside,) = house.inside
        assert inside.recv(100) == b"more"
    assert len(preamble(TOKEN)) == PREAMBLE_NBYTES


def test_a_dialer_comes_in_and_messages_follow(house: House) -> None:
    """Over TCP without waiting for the connection; over a Unix socket where the address has one on this machine."""
    heard: list[object] = []
    dialer = Dialer(lambda: TOKEN, 10)
    with house.reactor.lock:
        caller = dialer.connection(
            house.reactor, f"{house.door.address} elsewhere /nowhere", control_decoder, lambda *_: None, lambda *_: None
        )
        caller.send(Ack(7))
    house.settle()
    with house.reactor.lock:
        inside = Connection(
            house.reactor, house.inside.pop(), control_decoder, lambda _, said: heard.extend(said), lambda *_: None
        )
    house.settle()
    assert heard == [Ack(7)]
    with house.reactor.lock:
        caller.close()
        inside.close()
    from aioray.runtime.dialing import this_machine

    assert dialer.from_here(f"10.0.0.1:1 {this_machine()} /a path") == "/a path"
    assert dialer.from_here("10.0.0.1:1 elsewhere /a path") == "10.0.0.1:1"
