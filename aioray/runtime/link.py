"""A process's line to its node: one connection, and the answers that are still to come on it."""

from __future__ import annotations

import itertools
import os
import threading
from typing import TYPE_CHECKING, Any

from aioray.exceptions import RaySystemError
from aioray.runtime.dialing import Dialer
from aioray.wire.control import Ack, Answer, Hello, Query, Welcome
from aioray.wire.framing import WireError, announced_nbytes, append_frame, control_decoder, split_frames

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    import msgspec

    from aioray.runtime.connection import Connection
    from aioray.runtime.reactor import Reactor


def _exchange(sock: socket.socket, message: msgspec.Struct) -> Any:
    """Send one frame and read one, blocking."""
    out = bytearray()
    append_frame(out, message)
    sock.sendall(out)
    inbox = bytearray()
    while True:
        data = sock.recv(65536)
        if not data:
            raise RaySystemError("the node closed the connection")
        inbox += data
        if len(inbox) < announced_nbytes(inbox):
            continue
        messages, _ = split_frames(inbox, control_decoder)
        if messages:
            return messages[0]


def node_id_at(dialer: Dialer, address: str) -> str:
    """The id of the node that listens there; blocking. Raises OSError, RaySystemError."""
    with dialer.dial(address) as sock:
        welcome = _exchange(sock, Hello(b"", "side", 0))
    if welcome.error:
        raise RaySystemError(welcome.error)
    node_id: str = welcome.node_id
    return node_id


class Reply:
    """What a request waits for."""

    __slots__ = ("done", "error", "then", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error = ""
        self.then: Callable[[Reply], None] | None = None

    def settle(self, value: Any, error: str = "") -> None:
        if not self.done:
            self.done, self.value, self.error = True, value, error
            if self.then is not None:
                self.then(self)


class NodeLink:
    """Messages to the node, and requests with an answer."""

    def __init__(
        self,
        reactor: Reactor,
        dialer: Dialer,
        address: str,
        on_message: Callable[[Any], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._dialer = dialer
        self._address = address
        self._on_message = on_message
        self._on_lost = on_lost
        self._replies: dict[int, Reply] = {}
        self._numbers = itertools.count(1)
        self._connection: Connection | None = None
        self.welcomed = Reply()

    def open(self, hello: Hello) -> None:
        """Connect and introduce ourselves; `welcomed` is settled with the node's Welcome. Raises OSError."""
        with self._reactor.lock:
            self._connection = self._dialer.connection(
                self._reactor, self._address, control_decoder, self._on_messages, self._on_close
            )
            self._connection.send(hello)

    def _on_messages(self, _: Connection, messages: list[Any]) -> None:
        for message in messages:
            match message:
                case Ack(req):
                    self._settle(req, None, "")
                case Answer(req):
                    self._settle(req, message, "")
                case Welcome():
                    self.welcomed.settle(message, message.error)
                case _:
                    self._on_message(message)

    def _settle(self, req: int, value: Any, error: str) -> None:
        reply = self._replies.pop(req, None)
        if reply is not None:
            reply.settle(value, error)

    def _on_close(self, _: Connection, reason: str) -> None:
        self._fail_all(f"the node is gone: {reason}")
        self._on_lost(reason)

    def _fail_all(self, reason: str) -> None:
        self.welcomed.settle(None, reason)
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            reply.settle(None, reason)

    @property
    def lost(self) -> bool:
        return self._connection is None or self._connection.closed

    def send(self, message: msgspec.Struct) -> None:
        """Queue one message. The lock is held."""
        if self._connection is not None:
            self._connection.send(message)

    def expect(self) -> tuple[int, Reply]:
        """A request number and where its answer will be. The lock is held."""
        req, reply = next(self._numbers), Reply()
        if self.lost:
            reply.settle(None, "the node is gone")
        else:
            self._replies[req] = reply
        return req, reply

    def close(self) -> None:
        """Hang up."""
        with self._reactor.lock:
            if self._connection is not None:
                self._connection.flush()
                self._connection.close()
            self._fail_all("the cluster was shut down")


class SideChannel:
    """A second, blocking line to the node, for what must be answered on the spot, in the middle of anything.

    Even in an event loop: the node is another process, and answers such questions within some ten microseconds.
    """

    def __init__(self, dialer: Dialer, address: str, hello: Hello) -> None:
        self._dialer = dialer
        self._address = address
        self._hello = hello
        self._sock: socket.socket | None = None
        self._lock = threading.Lock()

    def exchange(self, message: msgspec.Struct) -> Any:
        """Ask, and return the answer. Raises RaySystemError when the node is gone."""
        with self._lock:
            try:
                if self._sock is None:
                    self._sock = self._dialer.dial(self._address)
                    _exchange(self._sock, self._hello)
                return _exchange(self._sock, message)
            except BaseException as exc:
                # Ctrl-C, too: the answer to this question must not be taken for the answer to the next.
                self._hang_up()
                if isinstance(exc, (OSError, WireError)):
                    raise RaySystemError(f"the node does not answer: {exc}") from exc
                raise

    def _hang_up(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def close(self) -> None:
        with self._lock:
            self._hang_up()


def ask_node(address: str, what: str, **args: Any) -> Any:
    """Ask a node of this machine something, for a process that does not join it.

    Raises RaySystemError when it does not answer.
    """
    channel = SideChannel(
        Dialer.of_session(os.path.dirname(address)), address, Hello(os.urandom(8), "side", os.getpid())
    )
    try:
        answer = channel.exchange(Query(0, what, args))
    finally:
        channel.close()
    if answer.error:
        raise RaySystemError(answer.error)
    return answer.data
