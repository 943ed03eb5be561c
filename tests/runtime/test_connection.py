"""Connections over socket pairs: what happens with slow readers, with ends, and with rubbish."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest

from aioray.exceptions import RaySystemError
from aioray.runtime.connection import Connection, Listener, dial, peer_is_us
from aioray.runtime.dialing import Dialer
from aioray.runtime.link import SideChannel
from aioray.runtime.reactor import Reactor
from aioray.wire.calls import Batch, Cancel, Done, GiveBack, Repeat
from aioray.wire.control import Ack, Answer, Hello, Notice, Query, Welcome
from aioray.wire.framing import MAX_FRAME_NBYTES, append_frame, call_decoder, control_decoder, split_frames

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    import msgspec

PATIENCE_S = 10.0


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor("test")
    yield reactor
    reactor.close()


class End:
    """One end of a connection, and what it heard."""

    def __init__(
        self, reactor: Reactor, sock: socket.socket, decoder: msgspec.msgpack.Decoder[Any] = control_decoder
    ) -> None:
        self.messages: list[Any] = []
        self.reasons: list[str] = []
        with reactor.lock:
            self.connection = Connection(reactor, sock, decoder, self._on_messages, self._on_close)

    def _on_messages(self, _: Connection, messages: list[Any]) -> None:
        self.messages += messages

    def _on_close(self, _: Connection, reason: str) -> None:
        self.reasons.append(reason)


@pytest.fixture
def pair(reactor: Reactor) -> Iterator[tuple[End, socket.socket]]:
    """A connection, and the naked socket at its other end."""
    ours, theirs = socket.socketpair()
    end = End(reactor, ours)
    with theirs:
        yield end, theirs
    with reactor.lock:
        end.connection.close()


def frame(message: msgspec.Struct) -> bytes:
    out = bytearray()
    append_frame(out, message)
    return bytes(out)


def send(reactor: Reactor, end: End, *messages: msgspec.Struct) -> None:
    with reactor.lock:
        for message in messages:
            end.connection.send(message)


def test_messages_of_one_turn_travel_in_one_write(reactor: Reactor, pair: tuple[End, socket.socket]) -> None:
    end, peer = pair
    send(reactor, end, Ack(1), Ack(2), Ack(3))
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(1)
    reactor.flush()
    assert peer.recv(1000) == frame(Ack(1)) + frame(Ack(2)) + frame(Ack(3))


def test_small_messages_travel_together_and_keep_their_place_among_the_others(
    reactor: Reactor, pair: tuple[End, socket.socket]
) -> None:
    """
    1. several in a row are one frame, one alone is as ever
    2. what is sent between them comes between them
    3. so many that the socket is full for a while: all come, in order
    """
    end, theirs = pair
    with reactor.lock:
        end.connection.send_small(Done(1, b"one", 9), 3)
    reactor.flush()
    assert theirs.recv(1 << 16) == frame(Done(1, b"one", 9))
    sent = [Done(2, b"", 1), Repeat(3, 5, b"args"), Cancel(3), Done(4, b"x", 0), GiveBack([5]), Repeat(6, 5, b"")]
    with reactor.lock:
        for message in sent:
            if isinstance(message, Done | Repeat):
                end.connection.send_small(message, 4)
            else:
                end.connection.send(message)
    reactor.flush()
    assert theirs.recv(1 << 16) == b"".join(map(frame, [Batch([sent[0], sent[1]]), *sent[2:]]))  # type: ignore[list-item]
    other = End(reactor, theirs.dup(), call_decoder)
    many = [Done(seq, bytes(1000), 7) for seq in range(5000)]
    with reactor.lock:
        for message in many:
            end.connection.send_small(message, 1000)
        end.connection.send(GiveBack([5001]))
    reactor.run_until(lambda: len(other.messages) > len(many))
    assert other.messages == [*many, GiveBack([5001])]
    with reactor.lock:
        other.connection.close()


def test_many_megabytes_reach_a_slow_reader_whole(reactor: Reactor, pair: tuple[End, socket.socket]) -> None:
    """
    1. 32 MiB are queued: far more than the socket takes at once
    2. the peer reads with a small buffer, while the reactor writes whatever fits
    3. all messages are there, in order, and nothing waits to be written any more
    """
    end, peer = pair
    texts = [str(at) * (1 << 20) for at in range(10)] * 3 + ["the end"]
    received: list[Any] = []

    def read_slowly() -> None:
        inbox = bytearray()
        while len(received) < len(texts):
            inbox += peer.recv(50_000)
            if len(inbox) >= 4 and len(inbox) - 4 >= int(struct.unpack_from("<I", inbox)[0]):
                messages, taken = split_frames(inbox, control_decoder)
                received.extend(messages)
                del inbox[:taken]
        reactor.nudge()

    reader = threading.Thread(target=read_slowly)
    send(reactor, end, *(Notice(text) for text in texts))
    reader.start()
    assert reactor.run_until(lambda: len(received) == len(texts), PATIENCE_S)
    reader.join()
    assert [message.text for message in received] == texts
    assert not end.connection._out
    assert not end.connection._writing
    send(reactor, end, Ack(1))
    reactor.flush()
    assert peer.recv(100) == frame(Ack(1))


def test_two_ends_that_both_write_megabytes_do_not_block_each_other(reactor: Reactor) -> None:
    ends = [End(reactor, sock) for sock in socket.socketpair()]
    for end in ends:
        send(reactor, end, *(Notice("x" * 3_000_000) for _ in range(5)))
    assert reactor.run_until(lambda: all(len(end.messages) == 5 for end in ends), PATIENCE_S)
    with reactor.lock:
        for end in ends:
            end.connection.close()


def test_a_message_that_comes_byte_by_byte_comes_once(reactor: Reactor, pair: tuple[End, socket.socket]) -> None:
    end, peer = pair
    for byte in frame(Notice("slow")) + frame(Ack(1)):
        peer.send(bytes([byte]))
        reactor.poll_once(PATIENCE_S)
    assert end.messages == [Notice("slow"), Ack(1)]


def test_a_large_message_comes_whole_with_a_small_one_on_either_side(
    reactor: Reactor, pair: tuple[End, socket.socket]
) -> None:
    end, peer = pair
    large = Notice("x" * 5_000_000)
    stream = frame(Ack(1)) + frame(large) + frame(Ack(2))
    writer = threading.Thread(target=peer.sendall, args=(stream,))
    writer.start()
    assert reactor.run_until(lambda: len(end.messages) == 3, PATIENCE_S)
    writer.join()
    assert end.messages == [Ack(1), large, Ack(2)]


def test_the_end_of_the_peer_is_told_once_after_its_last_words(
    reactor: Reactor, pair: tuple[End, socket.socket]
) -> None:
    end, peer = pair
    peer.sendall(frame(Ack(1)) + frame(Ack(2))[:3])
    peer.close()
    assert reactor.run_until(lambda: bool(end.reasons), PATIENCE_S)
    assert end.messages == [Ack(1)]
    assert end.reasons == ["connection closed by peer"]
    assert end.connection.closed
    send(reactor, end, Ack(3))  # into the void, without a word
    reactor.poll_once(0)
    assert len(end.reasons) == 1


def test_writing_to_a_peer_that_is_gone_does_not_drown_its_last_words(
    reactor: Reactor, pair: tuple[End, socket.socket]
) -> None:
    end, peer = pair
    peer.sendall(frame(Ack(7)))
    peer.close()
    send(reactor, end, Ack(1))
    reactor.flush()
    assert not end.reasons
    send(reactor, end, Ack(2))
    assert reactor.run_until(lambda: bool(end.reasons), PATIENCE_S)
    assert end.messages == [Ack(7)]
    assert len(end.reasons) == 1


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x16\x03\x01\xff\x01\x00\x01\xfc",
        struct.pack("<I", MAX_FRAME_NBYTES + 1),
        struct.pack("<I", 5) + b"hello",
        struct.pack("<I", 0),
        struct.pack("<I", 4) + b"\x92\x19\xa1\xff",
        b"\xff" * 1000,
    ],
    ids=["tls", "too long", "text", "empty", "no utf-8", "noise"],
)
@pytest.mark.parametrize("pieces", [1, 3])
def test_rubbish_closes_the_connection_with_a_reason(
    reactor: Reactor, pair: tuple[End, socket.socket], rubbish: bytes, pieces: int
) -> None:
    end, peer = pair
    size = -(-len(rubbish) // pieces)
    for at in range(0, len(rubbish), size):
        with contextlib.suppress(BrokenPipeError):  # the first piece may be enough
            peer.sendall(rubbish[at : at + size])
        reactor.poll_once(PATIENCE_S if not end.reasons else 0)
    assert len(end.reasons) == 1
    assert not end.messages
    assert peer.recv(10) == b""


def test_a_handler_that_raises_ends_its_connection_and_no_other(
    reactor: Reactor, pair: tuple[End, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    end, peer = pair
    others = socket.socketpair()
    other = End(reactor, others[0])

    def broken(_: Connection, messages: list[Any]) -> None:
        raise KeyError("our own fault")

    end.connection.on_messages = broken
    peer.sendall(frame(Ack(1)))
    others[1].sendall(frame(Ack(2)))
    assert reactor.run_until(lambda: bool(other.messages and end.reasons), PATIENCE_S)
    assert "our own fault" in end.reasons[0]
    assert end.connection.closed
    assert not other.connection.closed
    assert "please report it" in caplog.text
    with reactor.lock:
        other.connection.close()
    others[1].close()


def test_closing_says_nothing_and_can_be_done_twice(reactor: Reactor, pair: tuple[End, socket.socket]) -> None:
    end, peer = pair
    send(reactor, end, Ack(1))
    with reactor.lock:
        end.connection.flush()
        end.connection.close()
        end.connection.close()
    assert peer.recv(100) == frame(Ack(1))
    assert peer.recv(100) == b""
    assert not end.reasons


def test_what_is_said_before_closing_reaches_a_slow_reader_whole(
    reactor: Reactor, pair: tuple[End, socket.socket]
) -> None:
    """
    1. 8 MiB are queued: far more than the socket takes at once
    2. we say all of it and close at once, while the peer reads with a small buffer
    3. all messages were read before the end was
    """
    end, peer = pair
    texts = [str(at) * (1 << 20) for at in range(8)]
    send(reactor, end, *(Notice(text) for text in texts))
    inbox = bytearray()

    def read_slowly() -> None:
        while data := peer.recv(50_000):
            inbox.extend(data)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    with reactor.lock:
        end.connection.say_all(PATIENCE_S)
        end.connection.close()
    reader.join()
    messages, taken = split_frames(inbox, control_decoder)
    assert [message.text for message in messages] == texts
    assert taken == len(inbox)


def test_what_is_said_before_closing_reaches_a_peer_in_the_same_thread(reactor: Reactor) -> None:
    ours, theirs = (End(reactor, sock) for sock in socket.socketpair())
    send(reactor, ours, *(Notice("x" * (1 << 20)) for _ in range(8)))
    ours.connection.say_all(PATIENCE_S, lambda: reactor.poll_once(0))
    with reactor.lock:
        ours.connection.close()
    assert reactor.run_until(lambda: bool(theirs.reasons), PATIENCE_S)
    assert len(theirs.messages) == 8


@pytest.mark.parametrize("is_gone", [False, True])
def test_what_is_said_before_closing_waits_for_nobody_who_does_not_read(
    reactor: Reactor, pair: tuple[End, socket.socket], is_gone: bool
) -> None:
    end, peer = pair
    send(reactor, end, Notice("x" * (8 << 20)))
    if is_gone:
        peer.close()
    with reactor.lock:
        end.connection.say_all(PATIENCE_S if is_gone else 0.01)
        assert bool(end.connection._out) is not is_gone


def test_a_listener_takes_us_in_and_removes_its_socket(reactor: Reactor, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "sock")
    accepted: list[socket.socket] = []
    with reactor.lock:
        listener = Listener(reactor, path, accepted.append)
    with dial(path) as one, dial(path) as two:
        assert reactor.run_until(lambda: len(accepted) == 2, PATIENCE_S)
        assert peer_is_us(one)
        assert peer_is_us(two)
    for sock in accepted:
        sock.close()
    with reactor.lock:
        listener.close()
        listener.close()
    assert not os.path.exists(path)
    with pytest.raises(FileNotFoundError):
        dial(path)


def test_a_listener_without_file_descriptors_waits_for_some_and_says_so_once(
    reactor: Reactor, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    1. somebody connects when this process can open nothing more: the listener does not keep it busy
    2. as soon as it can, they are let in
    """
    path = str(tmp_path / "sock")
    accepted: list[socket.socket] = []
    with reactor.lock:
        listener = Listener(reactor, path, accepted.append)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    caller = socket.socket(socket.AF_UNIX)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(caller.fileno()))
        caller.connect(path)
        turns = 0

        def count() -> bool:
            nonlocal turns
            turns += 1
            return bool(accepted)

        assert not reactor.run_until(count, 0.3)
        assert turns < 20
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert reactor.run_until(lambda: len(accepted) == 1, PATIENCE_S)
    assert caplog.text.count("cannot accept") == 1
    for sock in (caller, *accepted):
        sock.close()
    with reactor.lock:
        listener.close()


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, at a bad moment."""


def test_a_question_that_was_interrupted_does_not_get_its_answer_mixed_up_with_the_next(
    tmp_path: pathlib.Path,
) -> None:
    """
    1. a question is on its way when Ctrl-C comes
    2. the next question is asked on a fresh line, so the first answer can do no harm
    """
    path = str(tmp_path / "sock")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()

    def answer() -> None:
        for _ in range(2):
            sock, _ = listening.accept()
            with sock, contextlib.suppress(ConnectionError):
                sock.recv(10_000)
                sock.sendall(frame(Welcome("", "", "", 0)))
                while data := sock.recv(10_000):
                    (query,), _ = split_frames(data, control_decoder)
                    sock.sendall(frame(Answer(query.req, query.what)))

    node = threading.Thread(target=answer)
    node.start()
    channel = SideChannel(Dialer.of_session("/nowhere"), path, Hello(b"x" * 8, "side", 1))
    assert channel.exchange(Query(0, "first")).data == "first"
    assert channel._sock is not None
    channel._sock = _InterruptedSocket(channel._sock)  # type: ignore[assignment]
    with pytest.raises(Interrupted):
        channel.exchange(Query(0, "interrupted"))
    assert channel.exchange(Query(0, "next")).data == "next"
    channel.close()
    node.join()
    listening.close()
    os.unlink(path)
    with pytest.raises(RaySystemError, match="does not answer"):
        channel.exchange(Query(0, "nobody there"))


class _InterruptedSocket:
    """A socket whose owner is interrupted between the question and the answer."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def sendall(self, data: bytes) -> None:
        self._sock.sendall(data)

    def recv(self, nbytes: int) -> bytes:
        raise Interrupted

    def close(self) -> None:
        self._sock.close()


@pytest.mark.parametrize("address", ["", "relative", "host:80", "1.2.3.4", "1.2.3.4:x", "1.2.3.4:65536", "[::1]"])
def test_what_is_no_address_is_said_to_be_none(address: str) -> None:
    with pytest.raises(OSError, match="is no address: a path that begins with '/', or number:port"):
        dial(address)


def test_tcp_addresses_say_which_port_was_free(reactor: Reactor) -> None:
    with reactor.lock:
        listener = Listener(reactor, "127.0.0.1:0", lambda sock: sock.close())
    assert not listener.address.endswith(":0")
    dial(listener.address).close()
    with reactor.lock:
        listener.close()
