"""The members' table, and who is at the other end of its connections: the decisions of `members.py` carried out."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Protocol

import msgspec

from aioray.wire.gcs import Admitted, Join, Leave, MetricReport, Refused, Report, Resync, TaskReport
from aioray_node.gcs import members

if TYPE_CHECKING:
    from aioray.config import Config
    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor
    from aioray.wire.gcs import AnyGcsFrame, AnyNodeFrame, ClusterStatus, GcsPace, MetricPace
    from aioray_node.gcs.events.desks import TaskTableDesk
    from aioray_node.gcs.metrics.desks import MetricTableDesk

_HEARTBEATS_IN_TIMEOUT = 5


class Packet:
    """A frame for many: encoded once, and only if somebody is not in this process."""

    def __init__(self, frame: AnyGcsFrame) -> None:
        self.frame = frame

    @functools.cached_property
    def data(self) -> bytes:
        return msgspec.msgpack.encode(self.frame)


class Outlet(Protocol):
    """The way to one node. Neither call may come back to the desk before it returns."""

    def send(self, packet: Packet) -> None: ...
    def close(self, reason: str) -> None: ...


class MemberDesk:
    """Every method is called with the reactor's lock held."""

    def __init__(
        self, reactor: Reactor, config: Config, epoch: str, tasks: TaskTableDesk, metrics: MetricTableDesk
    ) -> None:
        self._reactor = reactor
        self._tasks = tasks
        self._metrics = metrics
        self._state = members.State(
            epoch,
            heartbeat_timeout_s=config.heartbeat_timeout_ms / 1000,
            reconnect_grace_s=config.node_reconnect_grace_ms / 1000,
            load_interval_s=config.resource_report_interval_ms / 1000,
        )
        self._outlets: dict[int, Outlet] = {}
        self._numbers = itertools.count(1)
        self._timer: Timer | None = None

    def connect(self, outlet: Outlet) -> int:
        """Somebody is there, and will say who; the number of the connection."""
        connection = next(self._numbers)
        self._outlets[connection] = outlet
        return connection

    def hear(self, connection: int, frame: AnyNodeFrame) -> None:
        """What the other end says."""
        match frame:
            case Join():
                self._feed(members.Joined(connection, frame))
            case Report():
                self._feed(members.Reported(connection, frame))
            case Leave(reason):
                self._feed(members.Left(connection, reason))
            case Resync():
                self._feed(members.ResyncAsked(connection))
            case TaskReport():
                node_id = self._state.node_of.get(connection)
                if node_id is not None:
                    self._answer(connection, self._tasks.reported(node_id, frame))
            case MetricReport():
                node_id = self._state.node_of.get(connection)
                if node_id is not None:
                    self._answer(connection, self._metrics.reported(node_id, frame))

    def _answer(self, connection: int, pace: GcsPace | MetricPace | None) -> None:
        if pace is not None:
            self._send((connection,), Packet(pace))

    def gone(self, connection: int, reason: str) -> None:
        """The other end is gone."""
        if self._outlets.pop(connection, None) is not None:
            self._feed(members.Disconnected(connection, reason))

    def status(self) -> ClusterStatus:
        return members.status(self._state)

    def close(self, farewell: str = "") -> None:
        """Hang up on everybody. `farewell`: why there is no use in coming back."""
        if self._timer is not None:
            self._timer.cancel()
        outlets, self._outlets = self._outlets, {}
        for outlet in outlets.values():
            if farewell:
                outlet.send(Packet(Refused(farewell)))
            outlet.close("the GCS ends")

    def _feed(self, event: members.Event) -> None:
        for command in members.handle(self._state, event, self._reactor.time()):
            match command:
                case members.Admit(connection):
                    self._send((connection,), Packet(self._admitted()))
                case members.Push(connections, delta):
                    self._send(connections, Packet(delta))
                case members.Refuse(connection, reason):
                    self._send((connection,), Packet(Refused(reason)))
                    self._drop(connection, reason)
                case members.Drop(connection, reason):
                    self._drop(connection, reason)
                case members.WakeAt(when):
                    self._wake_at(when)

    def _admitted(self) -> Admitted:
        state = self._state
        return Admitted(state.epoch, state.load_interval_s, state.heartbeat_timeout_s / _HEARTBEATS_IN_TIMEOUT)

    def _send(self, connections: tuple[int, ...], packet: Packet) -> None:
        for connection in connections:
            if (outlet := self._outlets.get(connection)) is not None:
                outlet.send(packet)

    def _drop(self, connection: int, reason: str) -> None:
        if (outlet := self._outlets.pop(connection, None)) is not None:
            outlet.close(reason)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, when - self._reactor.time())
        self._timer = self._reactor.call_later(delay_s, lambda: self._feed(members.Tick()))
