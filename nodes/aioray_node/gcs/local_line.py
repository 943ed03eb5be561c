"""The way between a GCS and a node in the same process: the head's own, and those of local clusters in one loop."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioray.runtime.reactor import Reactor
    from aioray.wire.gcs import AnyNodeFrame
    from aioray_node.gcs.member_desk import MemberDesk, Packet
    from aioray_node.gcs.membership import Membership


class LocalLine:
    """Frames as they are, each in a turn of its receiver's reactor: as over a socket, nobody is called back."""

    def __init__(self, desk: MemberDesk, desk_reactor: Reactor, membership: Membership, reactor: Reactor) -> None:
        self._desk = desk
        self._desk_reactor = desk_reactor
        self._membership = membership
        self._reactor = reactor
        self._connection = 0

    def open(self) -> None:
        """Have the node join."""
        with self._desk_reactor.lock:
            self._connection = self._desk.connect(self)
        with self._reactor.lock:
            self._membership.connected(self._say)

    def _say(self, frame: AnyNodeFrame) -> None:
        self._desk_reactor.call_soon(functools.partial(self._desk.hear, self._connection, frame))

    def send(self, packet: Packet) -> None:
        self._reactor.call_soon(functools.partial(self._membership.hear, packet.frame))

    def close(self, reason: str) -> None:
        """The GCS hangs up."""
        self._reactor.call_soon(self._membership.disconnected)

    def cut(self, reason: str) -> None:
        """As if the node's process had died."""
        with self._reactor.lock:
            self._membership.disconnected()
        self._desk_reactor.call_soon(functools.partial(self._desk.gone, self._connection, reason))
