"""The processes that a node serves, and the way to those of other nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.record import Record
from aioray.wire.control import Ack, Fetched, Notice, Notify
from aioray.wire.values import home_of, node_prefix

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.runtime.connection import Connection
    from aioray.wire.control import LogLines
    from aioray_node.neighbours import Callers, Neighbours
    from aioray_node.pool.shell import Worker

_DRIVER_READS_WITHIN_S = 30.0  # while it ends: its stdout may be a pipe that somebody reads slowly


class Peer(Record, eq=False):
    """A process that has said Hello."""

    process_id: bytes
    role: str
    connection: Connection
    pid: int
    namespace: str = ""
    log_to_driver: bool = False
    worker: Worker | None = None


class Peers:
    """Called with the reactor's lock held."""

    def __init__(self, node_id: str) -> None:
        self._prefix = node_prefix(node_id)
        self.by_id: dict[bytes, Peer] = {}
        self.neighbours: Neighbours
        self.callers: Callers

    def send(self, process: bytes, message: msgspec.Struct) -> None:
        """Say something to a process, or to a node. What is for processes that are gone is lost."""
        if process.endswith(bytes(4)):
            if isinstance(message, (Ack, Fetched)):
                self.callers.send(process, message)
            else:
                self.neighbours.send(home_of(process), message)  # what is no answer goes over a line of our own
        elif (peer := self.by_id.get(process)) is not None:
            peer.connection.send(message)
        elif isinstance(message, Notice) and process and home_of(process) != self._prefix:
            self.neighbours.send(home_of(process), Notify(process, message.text))

    def pass_on_log(self, lines: LogLines) -> None:
        """Tell drivers what was printed."""
        for peer in self.by_id.values():
            if peer.role in ("driver", "visitor") and peer.log_to_driver:
                peer.connection.send(lines)

    def worker(self, process: bytes) -> Worker | None:
        """The worker that a process is."""
        peer = self.by_id.get(process)
        return None if peer is None else peer.worker

    def close(self, meanwhile: Callable[[], None] | None) -> None:
        """Hang up on all, drivers when they have taken in everything; `meanwhile` lets one in this thread do so."""
        for peer in list(self.by_id.values()):
            if peer.role == "driver":
                peer.connection.say_all(_DRIVER_READS_WITHIN_S, meanwhile)
            peer.connection.close()
        self.by_id.clear()
