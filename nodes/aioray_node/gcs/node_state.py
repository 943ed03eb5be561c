"""What a node tells the GCS beside what it has to spare: tasks, metrics, drivers. On the head, the tables as well."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from aioray.wire.control import DriverStarted, ProcessEnded, TaskEvents
from aioray.wire.values import PROCESS_ID_NBYTES, node_prefix
from aioray_node.gcs.events.desks import TaskLogDesk
from aioray_node.gcs.groups import GroupDesk
from aioray_node.gcs.metrics.desks import MetricLogDesk
from aioray_node.gcs.shell import ActorDesk
from aioray_node.gcs.state_desk import StateDesk
from aioray_node.gcs.view import Died

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.config import Config
    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import Hello, MetricsTold, PackageFound, SendPackage
    from aioray.wire.gcs import MetricReport, TaskReport
    from aioray.wire.metrics import Metric
    from aioray_node.gcs.far import FarDirectory
    from aioray_node.gcs.far_groups import FarGroups
    from aioray_node.gcs.membership import Membership
    from aioray_node.gcs.view import ClusterView, News


class NodeState:
    """Every method is called with the reactor's lock held. to_own: what is for this node's own environments."""

    def __init__(
        self,
        reactor: Reactor,
        config: Config,
        view: ClusterView,
        membership: Membership,
        actors: ActorDesk | FarDirectory,
        groups: GroupDesk | FarGroups,
        send: Callable[[bytes, msgspec.Struct], None],
        to_own: Callable[[SendPackage | PackageFound], None],
        look: Callable[[], tuple[Metric, ...]],
    ) -> None:
        self._reactor = reactor
        self._own_id = view.own_id
        self._send = send
        self._to_own = to_own
        self._actors = actors
        self._tasks = TaskLogDesk(reactor, config, send)
        self._metrics = MetricLogDesk(reactor, config, send, look)
        self._tables: StateDesk | None = None
        if isinstance(actors, ActorDesk) and isinstance(groups, GroupDesk):
            self._tables = StateDesk(reactor, config, view, actors, groups, self._tell_node)
            actors.packages = self._tables.packages
            view.subscribe(self._on_news)
            self._tasks.connected(self._to_own_table)
            self._metrics.connected(self._to_own_metrics)
        else:
            membership.tasks, membership.metrics = self._tasks, self._metrics

    @property
    def tables(self) -> StateDesk:
        """Raises LookupError on a node that is not the head."""
        if self._tables is None:
            raise LookupError("this node is not the head, which keeps the tables of the cluster")
        return self._tables

    def _tell_node(self, prefix: bytes, message: SendPackage | PackageFound) -> None:
        if prefix == node_prefix(self._own_id):
            self._reactor.call_soon(functools.partial(self._to_own, message))
        else:
            self._send(prefix + bytes(PROCESS_ID_NBYTES - len(prefix)), message)

    def told(self, process: bytes, events: TaskEvents | MetricsTold) -> None:
        """A process of this node tells of tasks, or of metrics."""
        if isinstance(events, TaskEvents):
            self._tasks.told(process, events)
        else:
            self._metrics.told(process, events)

    def driver_started(self, hello: Hello) -> None:
        """A driver of this node is there."""
        driver = DriverStarted(hello.process_id, hello.namespace, hello.pid, hello.entrypoint, time.time())
        if isinstance(self._actors, ActorDesk):
            self.tables.driver_started(driver)
        else:
            self._actors.tell(driver)

    def process_gone(self, process: bytes) -> None:
        """A process of this node is gone. Of a driver, the head hears where actors end with it."""
        self._tasks.process_gone(process)
        self._metrics.process_gone(process)
        if self._tables is not None:
            self._tables.driver_ended(process)

    def heard(self, message: msgspec.Struct) -> bool:
        """Another node has said something; whether nobody else need hear it."""
        if self._tables is None:
            return False
        match message:
            case ProcessEnded(process):
                self._tables.driver_ended(process)
            case DriverStarted():
                self._tables.driver_started(message)
                return True
        return False

    def _on_news(self, news: News) -> None:
        if isinstance(news, Died):
            self.tables.node_died(news.node_id)

    def _to_own_table(self, report: TaskReport) -> None:
        """What goes to the GCS, on the node where that is: in a turn of its own, as from elsewhere."""

        def take_in() -> None:
            pace = self.tables.tasks.reported(self._own_id, report)
            if pace is not None:
                self._tasks.paced(pace)

        self._reactor.call_soon(take_in)

    def _to_own_metrics(self, report: MetricReport) -> None:
        """The same of metrics."""

        def take_in() -> None:
            pace = self.tables.metrics.reported(self._own_id, report)
            if pace is not None:
                self._metrics.paced(pace)

        self._reactor.call_soon(take_in)
