"""A stream socket that carries messages, on a Reactor."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from aioray.wire.calls import Batch
from aioray.wire.framing import WireError, announced_nbytes, append_frame, split_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.runtime.reactor import Reactor
    from aioray.wire.calls import Done, Repeat

_log = logging.getLogger("aioray")

_AROUND_NBYTES = 16  # what a small message has around its data, about
_FLUSH_NBYTES = 4096  # more than that is written at once: the peer can begin while we go on
_SOCKET_BUFFER_NBYTES = 1 << 20
_ACCEPT_AGAIN_S = 0.1
_PATIENCE_S = 10.0
NO_MORE_FDS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # this process can open nothing for now


def place_of(address: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    """What `socket` calls an address: a path is a Unix socket, `host:port` is TCP. Raises ValueError.

    The host is a number, `[...]` around it if it is IPv6: looking up a name could take seconds.
    """
    if address.startswith("/"):
        return socket.AF_UNIX, address
    host, colon, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        if not (colon and port.isdecimal() and int(port) < 1 << 16):
            raise ValueError("no port")
    except ValueError:
        raise ValueError(f"{address!r} is no address: a path that begins with '/', or number:port") from None
    return (socket.AF_INET if ip.version == 4 else socket.AF_INET6), (str(ip), int(port))


def dial(address: str, *, wait: bool = True, timeout_s: float | None = None) -> socket.socket:
    """Connect to a Unix socket or to host:port. Raises OSError, of what is no address, too.

    Unless `wait`, the socket may not be connected yet: it is when it is writable and has no SO_ERROR. `timeout_s`: how
    long to wait at most.
    """
    try:
        family, place = place_of(address)
    except ValueError as exc:
        raise OSError(errno.EINVAL, str(exc)) from None
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s if wait else 0.0)
        sock.connect(place)
        if wait:
            sock.settimeout(None)
    except BlockingIOError:
        if family == socket.AF_UNIX:  # too many wait there already: it was not even begun
            sock.close()
            raise
    except BaseException:
        sock.close()
        raise
    return sock


def tune_tcp(sock: socket.socket, patience_s: float = _PATIENCE_S) -> None:
    """Send at once what is written; and who does not answer for `patience_s` (2 s at least) is gone.

    Machines vanish, and links are cut, without a word.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_USER_TIMEOUT, int(1000 * patience_s)),  # ms, of what was sent and is not acknowledged
        (socket.TCP_KEEPIDLE, max(1, int(0.4 * patience_s))),  # s, and so is the next
        (socket.TCP_KEEPINTVL, max(1, int(0.2 * patience_s))),
        (socket.TCP_KEEPCNT, 3),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def peer_is_us(sock: socket.socket) -> bool:
    """Whether the process at the other end of a Unix socket runs as our user (or as root)."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (os.getuid(), 0)


def _each(messages: list[Any]) -> list[Any]:
    """Those in batches, too."""
    if len(messages) == 1:
        single: list[Any] = messages[0].messages
        return single
    found: list[Any] = []
    for message in messages:
        if type(message) is Batch:
            found += message.messages
        else:
            found.append(message)
    return found


class Connection:
    """Messages in, messages out. Every method is called with the reactor's lock held.

    `on_messages(connection, messages)` gets what arrived, a list at a time; `on_close(connection, reason)` is called
    once, when the peer is gone or sent rubbish, but not after `close()`. `preface`: bytes to send before all messages.
    """

    __slots__ = (
        "_decoder",
        "_inbox",
        "_out",
        "_reactor",
        "_small",
        "_small_nbytes",
        "_sock",
        "_unheard",
        "_writing",
        "closed",
        "on_close",
        "on_messages",
        "sent_rubbish",
        "tag",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        decoder: msgspec.msgpack.Decoder[Any],
        on_messages: Callable[[Connection, list[Any]], None],
        on_close: Callable[[Connection, str], None],
        preface: bytes = b"",
    ) -> None:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:  # of TCP, the kernel finds out by itself
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_NBYTES)
        self._sock = sock
        self._reactor = reactor
        self._decoder = decoder
        self._inbox = bytearray()
        self._out = bytearray(preface)
        self._small: list[Done | Repeat] = []  # after what is in `_out`
        self._small_nbytes = 0
        self._writing = False  # the socket is full: epoll says when it is not
        self._unheard = False  # the peer reads no more
        self.on_messages = on_messages
        self.on_close = on_close
        self.closed = False
        self.sent_rubbish = False  # the peer: that is why it was closed
        self.tag: Any = None  # whose connection it is; set and read by its owner
        reactor.register(sock.fileno(), self)
        if preface:
            reactor.mark_dirty(self)

    def send(self, message: msgspec.Struct) -> None:
        """Queue one message; it is written at the end of this turn."""
        if self.closed or self._unheard:
            return
        if self._small:
            self._gather_small()
        out = self._out
        if not out:
            self._reactor.mark_dirty(self)
        append_frame(out, message)
        if len(out) > _FLUSH_NBYTES and not self._writing:
            self.flush()

    def send_small(self, message: Done | Repeat, nbytes: int) -> None:
        """The same for the two kinds of message of which there are many, and which can always be encoded.

        They travel together, as a Batch. nbytes: of the data inside.
        """
        if self.closed or self._unheard:
            return
        small = self._small
        if not (small or self._out):
            self._reactor.mark_dirty(self)
        small.append(message)
        self._small_nbytes += nbytes + _AROUND_NBYTES
        if self._small_nbytes > _FLUSH_NBYTES and not self._writing:
            self.flush()

    def _gather_small(self) -> None:
        small, self._small, self._small_nbytes = self._small, [], 0
        append_frame(self._out, small[0] if len(small) == 1 else Batch(small))

    def limit_buffer(self, nbytes: int) -> None:
        """How much the kernel takes that the peer has not read."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, nbytes)

    def send_now(self, message: msgspec.Struct) -> None:
        """Write one message at once: the peer is idle, and can begin while we go on."""
        if self._out or self._small or self.closed or self._unheard:
            self.send(message)
            return
        append_frame(self._out, message)
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes now; the rest follows when it is writable."""
        if self._small and not self._writing:
            self._gather_small()
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

    def say_all(self, patience_s: float, meanwhile: Callable[[], None] | None = None) -> None:
        """Write all that is queued, blocking, until the peer is gone, or reads nothing for `patience_s`.

        meanwhile: called again and again, for a peer that reads in this very thread.
        """
        writable = select.poll()
        if not self.closed:
            writable.register(self._sock, select.POLLOUT)
        give_up_at = time.monotonic() + patience_s
        while (self._out or self._small) and not self.closed and time.monotonic() < give_up_at:
            if meanwhile is not None:
                meanwhile()
            # One read by the peer need not make the socket writable, so with one in this thread we do not wait for it.
            if writable.poll(0 if meanwhile is not None else patience_s * 1000):
                self._writing = False
                self.flush()
                give_up_at = time.monotonic() + patience_s

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
            if Batch in map(type, messages):
                messages = _each(messages)
        except WireError as exc:
            self.sent_rubbish = True
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
        assert not self._small, "what was to be sent would be lost"
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
    """A listening socket that hands over what it accepts; at a Unix socket that is our own user, others are refused.

    `address` is a path or host:port, and then what others dial: port 0 has become one that was free.

    When this process has no file descriptors left, who connects waits until it has.
    """

    def __init__(self, reactor: Reactor, address: str, on_accept: Callable[[socket.socket], None]) -> None:
        family, place = place_of(address)
        self.is_local = family == socket.AF_UNIX
        self._sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if not self.is_local:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sock.bind(place)
            self._sock.listen(1024)
        except BaseException:
            self._sock.close()
            raise
        self._sock.setblocking(False)
        self.address = address if self.is_local else f"{address.rpartition(':')[0]}:{self._sock.getsockname()[1]}"
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
            if not self.is_local or peer_is_us(sock):
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
            if self.is_local and os.path.exists(self.address):
                os.unlink(self.address)
