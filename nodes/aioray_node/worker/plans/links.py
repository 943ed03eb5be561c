"""Sockets of a compiled graph: values that come, and values that go. None of them waits.

They are no reactor's: who runs the passes reads them itself, so that a value wakes the thread that needs it and nobody
else.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from aioray.wire.framing import WireError, announced_nbytes, append_frame, one_frame, passed_decoder, split_frames

if TYPE_CHECKING:
    import msgspec

    from aioray.wire.plans import Passed

_BUFFER_NBYTES = 256 * 1024
_AT_ONCE = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # flags are slow to combine, and this is done for every value


class LinkClosed(Exception):
    """The peer is gone, or does not want to hear or say more."""


class Inlet:
    """Values that come from one neighbour."""

    __slots__ = ("_buffer", "_inbox", "early", "sock", "source")

    def __init__(self, source: int, sock: socket.socket, early: list[Passed], inbox: bytes) -> None:
        self.source = source
        self.sock = sock
        self.early = early  # what came together with its first message
        self._inbox = bytearray(inbox)
        self._buffer = memoryview(bytearray(_BUFFER_NBYTES))

    def read(self) -> list[Any]:
        """What has come, waiting if the socket does. Raises LinkClosed, and BlockingIOError where it does not."""
        try:
            nbytes = self.sock.recv_into(self._buffer)
        except BlockingIOError:
            raise
        except OSError as exc:
            raise LinkClosed(str(exc)) from exc
        if not nbytes:
            raise LinkClosed
        inbox = self._inbox
        try:
            if not inbox:
                message = one_frame(self._buffer, nbytes, passed_decoder)
                if message is not None:
                    return [message]
            data: bytearray | memoryview = self._buffer[:nbytes]
            if inbox:
                inbox += data
                if len(inbox) < announced_nbytes(inbox):
                    return []
                data = inbox
            messages, taken = split_frames(data, passed_decoder)
        except WireError as exc:
            raise LinkClosed(str(exc)) from exc
        if data is inbox:
            del inbox[:taken]
        elif taken < nbytes:
            inbox += data[taken:]
        return messages

    def close(self) -> None:
        self.sock.close()


class Outlet:
    """Values that go to one neighbour. What its socket does not take at once is kept."""

    __slots__ = ("pending", "sock", "target")

    def __init__(self, target: int, sock: socket.socket) -> None:
        self.target = target
        self.sock = sock
        self.pending = bytearray()

    def send(self, message: msgspec.Struct) -> bool:
        """Send, or keep, one message; whether something is kept. Raises LinkClosed."""
        append_frame(self.pending, message)
        return self.flush()

    def send_frame(self, frame: bytearray) -> bool:
        """The same with a message that has its frame already."""
        pending = self.pending
        if pending:
            pending += frame
            return self.flush()
        try:
            sent = self.sock.send(frame, _AT_ONCE)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise LinkClosed(str(exc)) from exc
        if sent == len(frame):
            return False
        pending += memoryview(frame)[sent:]
        return True

    def flush(self) -> bool:
        """Send what the socket takes; whether something is left. Raises LinkClosed."""
        pending = self.pending
        try:
            sent = self.sock.send(pending, _AT_ONCE)
        except BlockingIOError:
            return True
        except OSError as exc:
            raise LinkClosed(str(exc)) from exc
        if sent == len(pending):
            pending.clear()
            return False
        del pending[:sent]
        return True

    def hang_up(self) -> None:
        """Nothing more will come; the neighbour may go on saying things."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # it is gone
            return

    def close(self) -> None:
        self.sock.close()
