"""A node's lines to other nodes, and theirs to it: carries out what `lines.py` decides.

Whoever has something to say opens a line; the other side answers over it. To that side, who opened it is a process
among others, which holds objects and asks for them.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

from msgspec import field

from aioray.record import Record
from aioray.runtime.link import NodeLink
from aioray.wire.control import Ack, Answer, Heard, Hello, Welcome
from aioray.wire.values import home_of, node_prefix, process_id_of_node
from aioray_node import lines
from aioray_node.gcs.view import Died, Joined

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.runtime.connection import Connection
    from aioray.runtime.dialing import Dialer
    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor
    from aioray_node.gcs.view import ClusterView, News

_AGAIN_S = 0.1  # after a connection broke, or could not be opened
_UNKNOWN_FOR_S = 10.0  # after which a node of which nobody has told is taken for dead


class NodeLine:
    """One side of a line. What is said without a connection is sent over the next one."""

    def __init__(self, reactor: Reactor, on_message: Callable[[Any], None]) -> None:
        self._reactor = reactor
        self._on_message = on_message
        self._state = lines.State()
        self._write: Callable[[msgspec.Struct], None] | None = None
        self._timer: Timer | None = None

    @property
    def first(self) -> int:
        """With which of its words this side begins on a new connection."""
        return self._state.first

    @property
    def heard(self) -> int:
        """How many words of the other side have come."""
        return self._state.heard

    @property
    def kept(self) -> int:
        """How many of its words this side would say again."""
        return len(self._state.kept)

    def fits(self, hello: Hello) -> bool:
        """Whether the other side can go on from there."""
        return lines.fits(self._state, hello.first, hello.heard)

    def send(self, message: msgspec.Struct) -> None:
        """Say something."""
        self._feed(lines.Say(message))

    def opened(self, write: Callable[[msgspec.Struct], None], first: int, heard: int) -> None:
        """There is a connection; see `lines.Opened`."""
        self._write = write
        self._feed(lines.Opened(first, heard))

    def came(self, message: Any) -> None:
        """The other side has said something."""
        if isinstance(message, Heard):
            self._feed(lines.Confirmed(message.count))
        else:
            self._feed(lines.Came(message))

    def cut(self) -> None:
        """The connection is gone."""
        self._write = None
        self._feed(lines.Cut())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _feed(self, event: lines.Event) -> None:
        for command in lines.handle(self._state, event, self._reactor.time()):
            match command:
                case lines.Send(message):
                    self._put(message)
                case lines.Confirm(count):
                    self._put(Heard(count))
                case lines.Deliver(message):
                    self._on_message(message)
                case lines.WakeAt(when):
                    if self._write is not None:  # else what was delivered has ended it
                        self._timer = self._reactor.call_later(max(0.0, when - self._reactor.time()), self._tick)

    def _put(self, message: msgspec.Struct) -> None:
        assert self._write is not None, "the core knows whether there is a connection"
        self._write(message)

    def _tick(self) -> None:
        self._timer = None
        self._feed(lines.Tick())


class _Link(NodeLink):
    """A connection of a line: all that comes is the line's, but for the first word."""

    def _on_messages(self, connection: Connection, messages: list[Any]) -> None:
        for message in messages:
            if connection.closed:
                return
            if isinstance(message, Welcome):
                self.welcomed.settle(message, message.error)
            else:
                self._on_message(message)


class _Neighbour(Record, eq=False):
    prefix: bytes
    line: NodeLine
    node_id: str = ""  # not known yet: somebody has sent us an id before the view had its node
    link: NodeLink | None = None
    again_due: bool = False
    unanswered: dict[int, Callable[[Any], None]] = field(default_factory=dict)


class Neighbours:
    """The lines that this node has opened. on_message: with what a node says that is no answer to what it was asked.

    on_gone: with a node that has died. Called with the reactor's lock held.
    """

    def __init__(
        self,
        reactor: Reactor,
        dialer: Dialer,
        view: ClusterView,
        on_message: Callable[[Any], None],
        on_gone: Callable[[str, bytes], None],
    ) -> None:
        self._reactor = reactor
        self._dialer = dialer
        self._view = view
        self._on_message = on_message
        self._on_gone = on_gone
        self._process_id = process_id_of_node(view.own_id)
        self._all: dict[bytes, _Neighbour] = {}
        self._numbers = itertools.count(1)
        self._dead: set[bytes] = set()
        self._closed = False
        view.subscribe(self._on_news)

    def send(self, prefix: bytes, message: msgspec.Struct) -> None:
        """Tell a node. Words to the dead are lost."""
        neighbour = self._neighbour(prefix)
        if neighbour is not None:
            neighbour.line.send(message)

    def ask(self, prefix: bytes, message: Callable[[int], msgspec.Struct], then: Callable[[Any], None]) -> None:
        """Send `message(req)`; `then` is called with the answer, None if that is an Ack, or if the node is dead."""
        neighbour = self._neighbour(prefix)
        if neighbour is None:
            self._reactor.call_soon(functools.partial(then, None))
            return
        req = next(self._numbers)
        neighbour.unanswered[req] = then
        neighbour.line.send(message(req))

    def _neighbour(self, prefix: bytes) -> _Neighbour | None:
        """None of the dead."""
        if prefix in self._dead or self._closed:
            return None
        neighbour = self._all.get(prefix)
        if neighbour is None:
            line = NodeLine(self._reactor, lambda message: self._heard(prefix, message))
            neighbour = self._all[prefix] = _Neighbour(prefix, line)
            self._identify(neighbour)
        if neighbour.link is None:
            self._open(neighbour)
        return neighbour

    def _heard(self, prefix: bytes, message: Any) -> None:
        neighbour = self._all.get(prefix)
        if neighbour is None:
            return
        match message:
            case Ack(req) | Answer(req) if req in neighbour.unanswered:
                neighbour.unanswered.pop(req)(message if isinstance(message, Answer) else None)
            case _:
                self._on_message(message)

    def _identify(self, neighbour: _Neighbour) -> None:
        for node_id in self._view.known:
            if node_prefix(node_id) == neighbour.prefix:
                neighbour.node_id = node_id
                if not self._view.known[node_id].alive:
                    self._reactor.call_soon(lambda: self._died(neighbour.prefix))
                return
        self._reactor.call_later(_UNKNOWN_FOR_S, lambda: self._still_unknown(neighbour))

    def _still_unknown(self, neighbour: _Neighbour) -> None:
        if not neighbour.node_id and not self._closed:
            self._died(neighbour.prefix)

    def _open(self, neighbour: _Neighbour) -> None:
        if not neighbour.node_id or neighbour.again_due:
            return
        line = neighbour.line
        link = _Link(self._reactor, self._dialer, self._address(neighbour), line.came, lambda _: self._lost(neighbour))
        try:
            link.open(Hello(self._process_id, "node", 0, first=line.first, heard=line.heard))
        except OSError:
            self._open_later(neighbour)
            return
        neighbour.link = link
        line.opened(link.send, line.heard, line.first)

    def _address(self, neighbour: _Neighbour) -> str:
        try:
            return self._view.address_of(neighbour.node_id)
        except LookupError:
            return ""  # its death is about to be told

    def _lost(self, neighbour: _Neighbour) -> None:
        neighbour.link = None
        neighbour.line.cut()
        self._open_later(neighbour)

    def _open_later(self, neighbour: _Neighbour) -> None:
        if not neighbour.again_due:
            neighbour.again_due = True
            self._reactor.call_later(_AGAIN_S, lambda: self._again(neighbour))

    def _again(self, neighbour: _Neighbour) -> None:
        neighbour.again_due = False
        if not self._closed and self._all.get(neighbour.prefix) is neighbour and neighbour.link is None:
            self._open(neighbour)

    def _on_news(self, news: News) -> None:
        prefix = node_prefix(news.node_id)
        neighbour = self._all.get(prefix)
        if isinstance(news, Joined) and neighbour is not None and not neighbour.node_id:
            neighbour.node_id = news.node_id
            self._open(neighbour)
        elif isinstance(news, Died):
            self._died(prefix, news.node_id)

    def _died(self, prefix: bytes, node_id: str = "") -> None:
        if prefix in self._dead or self._closed:
            return
        self._dead.add(prefix)
        neighbour = self._all.pop(prefix, None)
        if neighbour is not None:
            _hang_up(neighbour)
            for then in neighbour.unanswered.values():
                self._reactor.call_soon(functools.partial(then, None))
        self._on_gone(node_id, prefix)

    def close(self) -> None:
        """Hang up everywhere."""
        self._closed = True
        for neighbour in self._all.values():
            _hang_up(neighbour)
        self._all.clear()


def _hang_up(neighbour: _Neighbour) -> None:
    if neighbour.link is not None:
        neighbour.link.close()
        neighbour.line.cut()


class Callers:
    """The lines that other nodes have opened to this one. `on_message(process, line, message)`: with what they say.

    Called with the reactor's lock held.
    """

    def __init__(self, reactor: Reactor, on_message: Callable[[bytes, NodeLine, Any], None]) -> None:
        self._reactor = reactor
        self._on_message = on_message
        self._lines: dict[bytes, NodeLine] = {}
        self._connections: dict[bytes, Connection] = {}
        self._dead: set[bytes] = set()

    def admit(self, hello: Hello, connection: Connection, welcome: Welcome) -> str:
        """A node has dialled. Returns why it may not go on; "" if it may: then this has its connection from now on."""
        process = hello.process_id
        if home_of(process) in self._dead:
            return "your node is dead"
        line = self._lines.get(process)
        if line is None:
            line = NodeLine(self._reactor, lambda message: self._on_message(process, self._lines[process], message))
        if not line.fits(hello):
            return f"words {hello.first} on, and {hello.heard} heard, do not go on from what was said here"
        self._lines[process] = line
        self.hang_up(process)
        self._connections[process] = connection
        connection.on_messages = functools.partial(self._came, line)
        connection.on_close = lambda connection, _: self._lost(process, connection)
        connection.send(welcome)
        line.opened(connection.send, hello.first, hello.heard)
        return ""

    def _came(self, line: NodeLine, connection: Connection, messages: list[Any]) -> None:
        for message in messages:
            if connection.closed:
                return
            line.came(message)

    def _lost(self, process: bytes, connection: Connection) -> None:
        if self._connections.get(process) is connection:
            del self._connections[process]
            self._lines[process].cut()

    def send(self, process: bytes, message: msgspec.Struct) -> None:
        """Answer a node."""
        line = self._lines.get(process)
        if line is not None:
            line.send(message)

    def hang_up(self, process: bytes) -> None:
        """Close its connection, if there is one; it may come again."""
        connection = self._connections.pop(process, None)
        if connection is not None:
            connection.close()
            self._lines[process].cut()

    def node_gone(self, prefix: bytes) -> None:
        """It is dead, whatever it says."""
        self._dead.add(prefix)
        for process in [process for process in self._lines if home_of(process) == prefix]:
            self.hang_up(process)
            del self._lines[process]

    def close(self) -> None:
        """Hang up on everybody."""
        for process, connection in list(self._connections.items()):
            connection.flush()
            self.hang_up(process)
        self._lines.clear()
