"""A node's lines to other nodes: opened when there is something to say, kept in order, opened again when they break.

To the node at the other end this one is a process among others, which holds objects and asks for them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioray.runtime.link import NodeLink
from aioray.wire.control import Hello
from aioray.wire.values import node_prefix, process_id_of_node
from aioray_node.gcs.view import Died, Joined

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.runtime.dialing import Dialer
    from aioray.runtime.reactor import Reactor
    from aioray_node.gcs.view import ClusterView, News

_AGAIN_S = 0.1  # after a line broke, or could not be opened
_UNKNOWN_FOR_S = 10.0  # after which a node of which nobody has told is taken for dead


@dataclass(slots=True, eq=False)
class _Neighbour:
    prefix: bytes
    node_id: str = ""  # not known yet: somebody has sent us an id before the view had its node
    link: NodeLink | None = None
    unsent: list[tuple[Callable[[int], msgspec.Struct], Callable[[Any], None] | None]] = field(default_factory=list)
    again_due: bool = False


class Neighbours:
    """on_message: with what a node answers. on_back: with the prefix of one whose line was cut; on_gone: that has died.

    Called with the reactor's lock held.
    """

    def __init__(
        self,
        reactor: Reactor,
        dialer: Dialer,
        view: ClusterView,
        on_message: Callable[[Any], None],
        on_back: Callable[[bytes], None],
        on_gone: Callable[[str, bytes], None],
    ) -> None:
        self._reactor = reactor
        self._dialer = dialer
        self._view = view
        self._on_message = on_message
        self._on_back = on_back
        self._on_gone = on_gone
        self._process_id = process_id_of_node(view.own_id)
        self._all: dict[bytes, _Neighbour] = {}
        self._dead: set[bytes] = set()
        self._closed = False
        view.subscribe(self._on_news)

    def send(self, prefix: bytes, message: msgspec.Struct) -> None:
        """Tell a node. Words to the dead are lost."""
        self._put(prefix, lambda _: message, None)

    def ask(self, prefix: bytes, message: Callable[[int], msgspec.Struct], then: Callable[[Any], None]) -> None:
        """Send `message(req)`; `then` is called with the answer, None if that is an Ack, or if the node is dead."""
        self._put(prefix, message, then)

    def _put(self, prefix: bytes, message: Callable[[int], msgspec.Struct], then: Callable[[Any], None] | None) -> None:
        if self._closed:
            return
        if prefix in self._dead:
            if then is not None:
                self._reactor.call_soon(functools.partial(then, None))
            return
        neighbour = self._all.get(prefix)
        if neighbour is None:
            neighbour = self._all[prefix] = _Neighbour(prefix)
            self._identify(neighbour)
        if neighbour.link is None or neighbour.link.lost:
            neighbour.unsent.append((message, then))
            self._open(neighbour)
        else:
            self._say(neighbour, neighbour.link, message, then)

    def _say(
        self,
        neighbour: _Neighbour,
        link: NodeLink,
        message: Callable[[int], msgspec.Struct],
        then: Callable[[Any], None] | None,
    ) -> None:
        if then is None:
            link.send(message(0))
            return
        req, reply = link.expect()

        def settled(_: Any) -> None:
            if not reply.error:
                then(reply.value)
            elif neighbour.prefix in self._dead:
                self._reactor.call_soon(functools.partial(then, None))
            else:  # the line broke: to say it twice does no harm
                neighbour.unsent.append((message, then))

        reply.then = settled
        link.send(message(req))

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

    def _open(self, neighbour: _Neighbour) -> bool:
        """Whether there is a line now."""
        if not neighbour.node_id or neighbour.again_due or self._closed:
            return False
        link = NodeLink(
            self._reactor, self._dialer, self._address(neighbour), self._on_message, lambda _: self._lost(neighbour)
        )
        try:
            link.open(Hello(self._process_id, "node", 0))
        except OSError:
            self._open_later(neighbour)
            return False
        neighbour.link = link
        unsent, neighbour.unsent = neighbour.unsent, []
        for message, then in unsent:
            self._say(neighbour, link, message, then)
        return True

    def _address(self, neighbour: _Neighbour) -> str:
        try:
            return self._view.address_of(neighbour.node_id)
        except LookupError:
            return ""  # its death is about to be told

    def _lost(self, neighbour: _Neighbour) -> None:
        neighbour.link = None
        if not self._closed:
            self._open_later(neighbour)

    def _open_later(self, neighbour: _Neighbour) -> None:
        if not neighbour.again_due:
            neighbour.again_due = True
            self._reactor.call_later(_AGAIN_S, lambda: self._again(neighbour))

    def _again(self, neighbour: _Neighbour) -> None:
        neighbour.again_due = False
        if self._closed or self._all.get(neighbour.prefix) is not neighbour or neighbour.link is not None:
            return
        if self._open(neighbour):
            self._on_back(neighbour.prefix)

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
            if neighbour.link is not None:
                neighbour.link.close()
            unsent, neighbour.unsent = neighbour.unsent, []
            for _, then in unsent:
                if then is not None:
                    self._reactor.call_soon(functools.partial(then, None))
        self._on_gone(node_id, prefix)

    def close(self) -> None:
        """Hang up everywhere."""
        self._closed = True
        for neighbour in self._all.values():
            if neighbour.link is not None:
                neighbour.link.close()
        self._all.clear()
