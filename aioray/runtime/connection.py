"""A stream socket that carries messages, on a Reactor."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from aioray.wire.framing import WireError, announced_nbytes, append_frame, split_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.runtime.reactor import Reactor

_log = logging.getLogger("aioray")

_FLUSH_NBYTES = 4096  # more than that is written at once: the peer can begin while we go on
_SOCKET_BUFFER_NBYTES = 1 << 20
_ACCEPT_AGAIN_S = 0.1
NO_MORE_FDS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # this process can open nothing for now


def dial(address: str) -> socket.socket:
    """Connect to a Unix socket. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def peer_is_us(sock: socket.socket) -> bool:
    """Whether the process at the other end of a Unix socket runs as our user (or as root)."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (os.getuid(), 0)


class Connection:
    """Messages in, messages out. Every method is called with the reactor's lock held.

    `on_messages(connection, messages)` gets what arrived, a list at a time; `on_close(connection, reason)` is called
    once, when the peer is gone or sent rubbish, but not after `close()`.
    """

    __slots__ = (
        "_decoder",
        "_inbox",
        "_out",
        "_reactor",
        "_sock",
        "_unheard",
        "_writing",
        "closed",
        "on_close",
        "on_messages",
        "tag",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        decoder: msgspec.msgpack.Decoder[Any],
        on_messages: Callable[[Connection, list[Any]], None],
        on_close: Callable[[Connection, str], None],
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_NBYTES)
        self._sock = sock
        self._reactor = reactor
        self._decoder = decoder
        self._inbox = bytearray()
        self._out = bytearray()
        self._writing = False  # the socket is full: epoll says when it is not
        self._unheard = False  # the peer reads no more
        self.on_messages = on_messages
        self.on_close = on_close
        self.closed = False
        self.tag: Any = None  # whose connection it is; set and read by its owner
        reactor.register(sock.fileno(), self)

    def send(self, message: msgspec.Struct) -> None:
        """Queue one message; it is written at the end of this turn."""
        if self.closed or self._unheard:
            return
        out = self._out
        if not out:
            self._reactor.mark_dirty(self)
        append_frame(out, message)
        if len(out) > _FLUSH_NBYTES and not self._writing:
            self.flush()

    def send_now(self, message: msgspec.Struct) -> None:
        """Write one message at once: the peer is idle, and can begin while we go on."""
        if self._out or self.closed or self._unheard:
            self.send(message)
            return
        append_frame(self._out, message)
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes now; the rest follows when it is writable."""
        out = self._out
        if not out or self._writing or self.closed:
            return
        try:
            sent = self._sock.send(out)
        except BlockingIOError:
            sent = 0
        except OSError:
            # Not the end yet: what the peer wrote before it went may still be unread, and reading finds its end.
            out.clear()
            self._unheard = True
            return
        if sent == len(out):
            out.clear()
        else:
            del out[:sent]
            self._writing = True
            self._reactor.watch_writable(self._sock.fileno(), True)

    def on_writable(self) -> None:
        if self.closed or not self._writing:
            return
        self._writing = False
        self._reactor.watch_writable(self._sock.fileno(), False)
        self.flush()

    def on_readable(self) -> None:
        if self.closed:
            return
        inbox = self._inbox
        buffer = self._reactor.buffer
        try:
            nbytes = self._sock.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError as exc:
            self._lost(f"read failed: {exc.strerror}")
            return
        if not nbytes:
            self._lost("connection closed by peer")
            return
        data: bytearray | memoryview = buffer[:nbytes]
        try:
            if inbox:
                inbox += data
                if len(inbox) < announced_nbytes(inbox):
                    return  # a large frame, still on its way
                data = inbox
            messages, taken = split_frames(data, self._decoder)
        except WireError as exc:
            self._lost(str(exc))
            return
        if data is inbox:
            del inbox[:taken]
        elif taken < nbytes:
            inbox += data[taken:]
        if messages:
            self.on_messages(self, messages)

    def drain(self) -> None:
        """Take in what a dead peer wrote before it died."""
        while not self.closed:
            with contextlib.suppress(OSError):
                try:
                    self._sock.recv(1, socket.MSG_PEEK)
                except BlockingIOError:
                    return
            self.on_readable()

    def on_failure(self, exc: Exception) -> None:
        """A handler of ours raised: messages may be lost, so this is over, and who waits for answers must hear it."""
        if not self.closed:
            self._lost(f"an error in aioray: {exc!r}")

    def _lost(self, reason: str) -> None:
        self.close()
        self.on_close(self, reason)

    def hang_up(self) -> None:
        """Say no more, but go on listening until the peer hangs up, too."""
        if not self.closed:
            self.flush()
            self._unheard = True
            with contextlib.suppress(OSError):  # the peer is gone: reading finds its end
                self._sock.shutdown(socket.SHUT_WR)

    def detach(self) -> tuple[socket.socket, bytes]:
        """Give the socket away, with what has come of a message that is not whole yet. Nothing is left to be sent."""
        assert not self._out, "what was to be sent would be lost"
        self.closed = True
        self._reactor.unregister(self._sock.fileno())
        return self._sock, bytes(self._inbox)

    def close(self) -> None:
        """Close without a word to `on_close`. What was flushed still reaches the peer."""
        if not self.closed:
            self.closed = True
            self._reactor.unregister(self._sock.fileno())
            self._sock.close()


class Listener:
    """A listening Unix socket that hands over accepted sockets of our own user; others are refused.

    When this process has no file descriptors left, who connects waits until it has.
    """

    def __init__(self, reactor: Reactor, path: str, on_accept: Callable[[socket.socket], None]) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.bind(path)
        self._sock.listen(1024)
        self._sock.setblocking(False)
        self._path = path
        self._reactor = reactor
        self._on_accept = on_accept
        self._complained = False
        self._listen()

    def _listen(self) -> None:
        if self._sock.fileno() >= 0:
            self._reactor.register(self._sock.fileno(), self)

    def on_readable(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError as exc:  # nobody more, or gone again
                if exc.errno in NO_MORE_FDS:
                    self._pause(exc)
                return
            self._complained = False
            if peer_is_us(sock):
                self._on_accept(sock)
            else:
                sock.close()

    def on_writable(self) -> None:
        """Never asked for."""

    def _pause(self, exc: OSError) -> None:
        """Who waits to be let in would have epoll wake us without end."""
        if not self._complained:
            self._complained = True
            _log.warning("aioray: cannot accept connections for now: %s", exc.strerror)
        self._reactor.unregister(self._sock.fileno())
        self._reactor.call_later(_ACCEPT_AGAIN_S, self._listen)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._reactor.unregister(self._sock.fileno())
            self._sock.close()
            if os.path.exists(self._path):
                os.unlink(self._path)
