"""TLS beside a socket: bytes, ends and strangers pass through it as they should."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from aioray.runtime.tls import Tls
from aioray.runtime.tls_relay import Relay
from tests.gcs.test_app import certificates

if TYPE_CHECKING:
    import pathlib

pytestmark = [
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make certificates with"),
    pytest.mark.usefixtures("nothing_left"),
]


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        return one, server.accept()[0]


def received(sock: socket.socket) -> bytes:
    """All until the end."""
    found = b""
    while data := sock.recv(1 << 16):
        found += data
    return found


def test_many_bytes_go_both_ways_and_half_an_end_is_half_an_end(tmp_path: pathlib.Path) -> None:
    """
    1. both sides send more than sockets take, at the same time
    2. one says no more; the other hears that, and can still answer
    """
    tls = Tls.of(certificates(tmp_path))
    assert tls is not None
    one, two = connected()
    refused: list[str] = []
    with tls.outgoing(one, "there") as caller, tls.incoming(two, refused.append) as called:
        large = bytes(range(256)) * 40_000
        caller.settimeout(10)
        called.settimeout(10)
        writers = [threading.Thread(target=sock.sendall, args=(large,)) for sock in (caller, called)]
        for writer in writers:
            writer.start()
        for sock in (called, caller):
            found = b""
            while len(found) < len(large):
                found += sock.recv(1 << 16)
            assert found == large
        for writer in writers:
            writer.join()
        caller.shutdown(socket.SHUT_WR)
        assert received(called) == b""
        called.sendall(b"one more")
        called.shutdown(socket.SHUT_WR)
        assert received(caller) == b"one more"
    assert refused == []


def test_who_closes_while_the_other_reads_nothing_waits_without_spinning_and_loses_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    1. one writes until nothing more fits on the way, and closes
    2. its thread looks a few times, then waits until the other reads, which gets all there is
    """
    tls = Tls.of(certificates(tmp_path))
    assert tls is not None
    one, two = connected()
    for sock in (one, two):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    caller = tls.outgoing(one, "there")
    with tls.incoming(two, lambda why: None) as called:
        called.settimeout(10)
        caller.settimeout(0.5)
        written = 0
        with contextlib.suppress(TimeoutError):
            while True:
                written += caller.send(bytes(1 << 16))
        turns, many = itertools.count(1), threading.Event()
        take_turn = Relay._take_turn

        def counted(relay: Relay) -> None:
            take_turn(relay)
            if next(turns) > 1000:
                many.set()

        monkeypatch.setattr(Relay, "_take_turn", counted)
        caller.close()
        assert not many.wait(0.5)
        assert len(received(called)) == written


def test_who_has_no_certificate_is_refused(tmp_path: pathlib.Path) -> None:
    tls = Tls.of(certificates(tmp_path))
    assert tls is not None
    one, two = connected()
    refused: list[str] = []
    with one, tls.incoming(two, refused.append) as called:
        one.sendall(b"this is no TLS at all")
        called.settimeout(10)
        assert received(called) == b""
        with contextlib.suppress(ConnectionResetError):
            received(one)
    assert len(refused) == 1


def test_who_is_sent_away_before_its_handshake_takes_no_thread_any_more(tmp_path: pathlib.Path) -> None:
    """Else whoever connects, and says nothing, could have as many threads as it likes."""
    tls = Tls.of(certificates(tmp_path))
    assert tls is not None
    before = set(threading.enumerate())
    one, two = connected()
    with one:
        tls.incoming(two, lambda why: None).close()
        one.settimeout(5)
        assert received(one) == b""
        for thread in set(threading.enumerate()) - before:
            thread.join(5)
            assert not thread.is_alive()
