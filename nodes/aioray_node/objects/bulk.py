"""A stream socket that carries messages, and between them bytes straight from and into shared memory."""

from __future__ import annotations

import collections
import os
import socket
import struct
from typing import TYPE_CHECKING, Protocol

import msgspec

from aioray.wire.framing import append_frame
from aioray.wire.transfer import MAX_HELLO_NBYTES, MAX_MESSAGE_NBYTES, Bytes, TransferMessage, transfer_decoder

if TYPE_CHECKING:
    from aioray.runtime.poller import Poller
    from aioray_node.objects.codecs import Codec

_PREFIX = struct.Struct("<I")
# As much moves before others get their turn: with less the price of a turn shows (measured: 1 MiB a turn is half as
# fast as a plain copy over TCP), with more a control message waits longer than a millisecond or two.
_TURN_NBYTES = 4 << 20
_SOCKET_BUFFER_NBYTES = 4 << 20
_SCRAPS_NBYTES = 256 * 1024
_MAX_BODY_NBYTES = 1 << 30


class Owner(Protocol):
    """What a link is for. Called with the reactor's lock held."""

    def connected(self, link: BulkLink) -> None: ...
    def message(self, link: BulkLink, message: TransferMessage) -> None: ...
    def destination(self, link: BulkLink, header: Bytes) -> memoryview | None:
        """Where these bytes go; None when nobody wants them any more."""

    def arrived(self, link: BulkLink, header: Bytes) -> None: ...
    def contents(self, link: BulkLink, oid: bytes, start: int, nbytes: int) -> memoryview | None:
        """The bytes to send; None when they are not there any more."""

    def sent(self, link: BulkLink, oid: bytes) -> None:
        """The last `contents` of this object are not needed any more."""

    def lost(self, link: BulkLink, reason: str) -> None: ...


class BulkLink:
    """One end. Every method is called with the reactor's lock held; `owner.lost` not after `close`.

    `preface`: bytes to send before all messages.
    """

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        owner: Owner,
        *,
        connecting: bool,
        is_local: bool,
        preface: bytes = b"",
    ) -> None:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_NBYTES)
        self.is_local = is_local
        self.codec: Codec | None = None
        self.is_trusted = False  # has said who it is: messages may be long now
        self.closed = False
        self._poller = poller
        self._sock = sock
        self._owner = owner
        self._connecting = connecting
        self._watched = connecting
        self._header: Bytes | None = None  # of the bytes that are coming now
        self._packed: bytearray | None = None  # where they go, if they are compressed
        self._is_prefix = True
        self._target = memoryview(bytearray(4))
        self._filled = 0
        self._scraps_left = 0  # of what nobody wants, behind what `_target` takes
        self._out = collections.deque([memoryview(preface)] if preface else [])  # what is next, in order
        self._bodies: collections.deque[tuple[bytes, int, int]] = collections.deque()  # what was asked for
        self._sending = b""  # the object of which bytes are in `_out`,
        self._last: memoryview | None = None  # and the end of them
        poller.register(sock.fileno(), self)
        if connecting:
            poller.watch_writable(sock.fileno(), True)

    # sending

    def send(self, message: msgspec.Struct) -> None:
        """Queue a message; it goes before bytes that were not begun."""
        if self.closed:
            return
        out = bytearray()
        append_frame(out, message)
        self._out.append(memoryview(out))
        self._poller.mark_dirty(self)

    def send_bytes(self, oid: bytes, start: int, nbytes: int) -> None:
        """Queue bytes of an object; what they are is asked of the owner when their turn comes."""
        if not self.closed:
            self._bodies.append((oid, start, nbytes))
            self._poller.mark_dirty(self)

    def drop(self, oid: bytes) -> bool:
        """Forget queued bytes of an object; True when some of it are on their way, and `owner.sent` will follow."""
        self._bodies = collections.deque(body for body in self._bodies if body[0] != oid)
        return self._sending == oid and not self.closed

    def flush(self) -> None:
        """Write as much as one turn allows."""
        if self.closed or self._connecting:
            return
        left = _TURN_NBYTES
        while left > 0:
            if not self._sending and self._bodies and not self._open(*self._bodies.popleft()):
                return
            if not self._out:
                break
            try:
                sent = self._sock.sendmsg([self._out[i] for i in range(min(len(self._out), 16))])
            except BlockingIOError:
                break
            except OSError as exc:
                self._lost(f"write failed: {exc.strerror}")
                return
            left -= sent
            self._written(sent)
        self._watch(bool(self._out or self._bodies))

    def _open(self, oid: bytes, start: int, nbytes: int) -> bool:
        """Begin with bytes of an object, if they are there; False when the link was closed over it."""
        view = self._owner.contents(self, oid, start, nbytes)
        if view is None:
            return not self.closed
        packed = self.codec.compress(view) if self.codec is not None else b""
        if packed and len(packed) < nbytes:
            view.release()
            view = memoryview(packed)
        head = bytearray()
        append_frame(head, Bytes(oid, start, nbytes, len(view)))
        self._sending = oid
        self._out.extend((memoryview(head), view))
        self._last = view
        return True

    def _written(self, nbytes: int) -> None:
        out = self._out
        while nbytes:
            first = out[0]
            if nbytes < len(first):
                out[0] = first[nbytes:]
                if first is self._last:
                    self._last = out[0]
                first.release()
                return
            nbytes -= len(first)
            out.popleft()
            is_last = first is self._last
            first.release()
            if is_last:
                self._close_body()

    def _close_body(self) -> None:
        oid, self._sending, self._last = self._sending, b"", None
        self._owner.sent(self, oid)

    def _watch(self, wanted: bool) -> None:
        if wanted != self._watched and not self.closed:
            self._watched = wanted
            self._poller.watch_writable(self._sock.fileno(), wanted)

    def on_writable(self) -> None:
        if self.closed:
            return
        if self._connecting:
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._lost(os.strerror(error))
                return
            self._connecting = False
            self._owner.connected(self)
        self.flush()

    # receiving

    def on_readable(self) -> None:
        left = _TURN_NBYTES
        while left > 0 and not self.closed:
            try:
                with self._target[self._filled :] as rest:
                    nbytes = self._sock.recv_into(rest)
            except BlockingIOError:
                return
            except OSError as exc:
                self._lost(f"read failed: {exc.strerror}" if not self._connecting else str(exc.strerror))
                return
            if not nbytes:
                self._lost("connection closed by peer")
                return
            left -= nbytes
            self._filled += nbytes
            if self._filled == len(self._target):
                self._take()

    def _take(self) -> None:
        """What was being received is whole."""
        if self._header is not None:
            self._took_body(self._header)
        elif self._is_prefix:
            (nbytes,) = _PREFIX.unpack(self._target)
            most = MAX_MESSAGE_NBYTES if self.is_trusted else MAX_HELLO_NBYTES
            if not 0 < nbytes <= most:
                self._lost(f"a message of {nbytes} bytes was announced, at most {most} are allowed")
                return
            self._is_prefix = False
            self._receive_into(memoryview(bytearray(nbytes)))
        else:
            self._took_message()

    def _receive_into(self, target: memoryview) -> None:
        self._target.release()
        self._target, self._filled = target, 0

    def _took_message(self) -> None:
        try:
            message = transfer_decoder.decode(self._target)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            self._lost(f"{len(self._target)} bytes are no message of ours: {exc}")
            return
        self._next()
        if not isinstance(message, Bytes):
            self._owner.message(self, message)
        elif not self.is_trusted or not 0 < message.wire_nbytes <= min(message.nbytes, _MAX_BODY_NBYTES):
            self._lost(f"{message.wire_nbytes} bytes were announced for {message.nbytes}")
        else:
            self._begin_body(message)

    def _next(self) -> None:
        self._header, self._packed, self._is_prefix = None, None, True
        self._receive_into(memoryview(bytearray(4)))

    def _begin_body(self, header: Bytes) -> None:
        self._header = header
        if header.wire_nbytes < header.nbytes:
            self._packed = bytearray(header.wire_nbytes)
            self._receive_into(memoryview(self._packed))
            return
        target = self._owner.destination(self, header)
        if self.closed:
            return
        if target is None:
            self._discard(header.wire_nbytes)
        else:
            self._receive_into(target)

    def _discard(self, nbytes: int) -> None:
        piece = min(nbytes, _SCRAPS_NBYTES)
        self._scraps_left = nbytes - piece
        self._receive_into(memoryview(bytearray(piece)))

    def divert(self, oid: bytes) -> None:
        """Nothing may be written any more where bytes of this object were to go."""
        if self._header is not None and self._header.oid == oid and self._packed is None and not self._is_scraps:
            self._discard(len(self._target) - self._filled)

    @property
    def _is_scraps(self) -> bool:
        return isinstance(self._target.obj, bytearray)

    def _took_body(self, header: Bytes) -> None:
        if self._packed is not None:
            if not self._unpack(header, self._packed):
                return
        elif self._is_scraps:
            if self._scraps_left:
                self._discard(self._scraps_left)
            else:
                self._next()
            return
        self._next()
        self._owner.arrived(self, header)

    def _unpack(self, header: Bytes, packed: bytearray) -> bool:
        """Decompress into place; False when there is no such place any more, or it could not be done."""
        target = self._owner.destination(self, header)
        if target is None:
            if not self.closed:
                self._next()
            return False
        try:
            if self.codec is None:
                raise ValueError("no codec was agreed on")
            with target:
                target[:] = self.codec.decompress(packed, header.nbytes)
        except ValueError as exc:
            self._lost(f"compressed bytes could not be read: {exc}")
            return False
        return True

    # the end

    def on_failure(self, exc: Exception) -> None:
        """A handler of ours raised: what it was about may be lost, so this is over."""
        if not self.closed:
            self._lost(f"an error in aioray: {exc!r}")

    def give_up(self, reason: str) -> None:
        """The peer does what no node of ours would."""
        if not self.closed:
            self._lost(reason)

    def _lost(self, reason: str) -> None:
        self.close()
        self._owner.lost(self, reason)

    def close(self) -> None:
        """Close without a word to `lost`; views of shared memory are let go, and `sent` is called for them."""
        if self.closed:
            return
        self.closed = True
        self._poller.unregister(self._sock.fileno())
        self._sock.close()
        self._target.release()
        self._filled = 0
        for view in self._out:
            view.release()
        self._out.clear()
        self._bodies.clear()
        if self._sending:
            self._close_body()
