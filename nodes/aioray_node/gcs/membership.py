"""A node as a member of the cluster: what it tells the GCS, and what it makes of what it hears."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.wire.gcs import NODES_AT_BASE, Admitted, Delta, GcsPace, Join, Leave, MetricPace, Refused, Report, Resync

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor
    from aioray.wire.gcs import AnyGcsFrame, AnyNodeFrame, Demand
    from aioray_node.gcs.events.desks import TaskLogDesk
    from aioray_node.gcs.metrics.desks import MetricLogDesk
    from aioray_node.gcs.view import ClusterView
    from aioray_node.objects.store import ObjectStore
    from aioray_node.scheduling.shell import LeaseDesk


_WAITING_INTERVAL_S = 0.5  # it is for people, and takes a look at all that wait


class NodeLoad:
    """What a node has to spare, and who waits for it."""

    def __init__(self, leases: LeaseDesk, store: ObjectStore) -> None:
        self._leases = leases
        self._store = store
        self._names = tuple(leases.resources.total)  # not of bundles: where they are is told to who asks

    def available(self) -> dict[str, int]:
        """Never less than nothing, though a CPU may be overbooked for a moment."""
        available = self._leases.resources.available
        return {name: max(0, available[name]) for name in self._names}

    def store_used_nbytes(self) -> int:
        return self._store.used_nbytes

    def waiting_counts(self) -> list[tuple[dict[str, int], int]]:
        return self._leases.waiting_counts()

    def waiting(self) -> tuple[Demand, ...]:
        return self._leases.waiting()


class Membership:
    """Every method is called with the reactor's lock held. Without a line to a GCS it keeps still."""

    def __init__(self, reactor: Reactor, view: ClusterView, load: NodeLoad) -> None:
        self._reactor = reactor
        self._view = view
        self._load = load
        self._line: Callable[[AnyNodeFrame], None] | None = None
        self._admitted: Admitted | None = None
        self._seq = 0
        self._told: tuple[dict[str, int], int] = ({}, 0)
        self._waited: list[tuple[dict[str, int], int]] = []
        self._told_at = self._looked_at = self._waited_at = 0.0
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self.tasks: TaskLogDesk | None = None  # where it is told over this line
        self.metrics: MetricLogDesk | None = None  # the same
        self.on_admitted: Callable[[], None] | None = None
        self.on_refreshed: Callable[[], None] | None = None  # all that the GCS knows is in the view
        self.on_refused: Callable[[str], None] | None = None

    @property
    def is_admitted(self) -> bool:
        return self._admitted is not None

    def connected(self, line: Callable[[AnyNodeFrame], None]) -> None:
        """There is a way to the GCS: introduce the node."""
        self._line = line
        self._seq += 1
        available, used_nbytes = self._told = self._now()
        self._waited = self._load.waiting_counts()
        view = self._view
        own = view.known[view.own_id].facts
        self._told_at = self._looked_at = self._waited_at = self._reactor.time()
        line(Join(own, available, self._seq, view.epoch, view.version, used_nbytes, self._load.waiting()))

    def disconnected(self) -> None:
        """There is none any more; what is known stays."""
        self._line = self._admitted = None
        self._cancel_timer()
        for log in (self.tasks, self.metrics):
            if log is not None:
                log.disconnected()

    def leave(self, reason: str) -> None:
        """The node ends on purpose."""
        if self._line is not None:
            if self.metrics is not None and self._admitted is not None:
                self.metrics.leaving()
            self._line(Leave(reason))
        self.disconnected()

    def hear(self, frame: AnyGcsFrame) -> None:
        """What the GCS says."""
        match frame:
            case Admitted():
                self._admitted = frame
                self._look_again(self._told_at + frame.heartbeat_interval_s)
                for log in (self.tasks, self.metrics):
                    if log is not None and self._line is not None:
                        log.connected(self._line)
                if self.on_admitted is not None:
                    self.on_admitted()
            case Refused(reason):
                self.disconnected()
                if self.on_refused is not None:
                    self.on_refused(reason)
            case GcsPace():
                if self.tasks is not None:
                    self.tasks.paced(frame)
            case MetricPace():
                if self.metrics is not None:
                    self.metrics.paced(frame)
            case Delta():
                if not self._view.apply(frame) and self._line is not None:
                    self._line(Resync())
                elif not frame.since:
                    self._refreshed()

    def refresh(self) -> None:
        """Ask for the whole view; `on_refreshed` is called when it is there, at once where there is no GCS to ask."""
        if self._line is not None:
            self._line(Resync())
        else:
            self._reactor.call_soon(self._refreshed)

    def _refreshed(self) -> None:
        if self.on_refreshed is not None:
            self.on_refreshed()

    def load_changed(self) -> None:
        """The node has more or less to spare than before: at once after a pause, else when the interval is over."""
        if self._admitted is not None:
            interval_s = self._admitted.report_interval_s * max(1.0, len(self._view.nodes) / NODES_AT_BASE)
            self._look_again(self._looked_at + interval_s)

    def _now(self) -> tuple[dict[str, int], int]:
        return self._load.available(), self._load.store_used_nbytes()

    def _report(self) -> None:
        """Tell what is other than what was told; nothing at all only when it is time to say that the node lives."""
        self._timer = None
        if self._line is None or self._admitted is None:
            return
        now = self._looked_at = self._reactor.time()
        heartbeat_s = self._admitted.heartbeat_interval_s
        before, before_nbytes = self._told
        available, used_nbytes = self._told = self._now()
        changed = {name: amount for name, amount in available.items() if before.get(name) != amount}
        used = used_nbytes if used_nbytes != before_nbytes else None
        waiting = self._waiting_if_new(now)
        if changed or used is not None or waiting is not None or now >= self._told_at + heartbeat_s:
            self._seq += 1
            self._told_at = now
            self._line(Report(self._seq, changed, used, waiting))
        self._look_again(self._told_at + heartbeat_s)

    def _waiting_if_new(self, now: float) -> tuple[Demand, ...] | None:
        """Who waits, if that are others than before; why they do is told along, but changes too often to be told."""
        if now < self._waited_at + _WAITING_INTERVAL_S:
            self._look_again(self._waited_at + _WAITING_INTERVAL_S)
            return None
        self._waited_at = now
        counts = self._load.waiting_counts()
        if counts == self._waited:
            return None
        self._waited = counts
        return self._load.waiting()

    def _look_again(self, when: float) -> None:
        if self._timer is None or when < self._timer_due:
            self._cancel_timer()
            self._timer_due = when
            self._timer = self._reactor.call_later(max(0.0, when - self._reactor.time()), self._report)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
