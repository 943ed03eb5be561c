"""Tables of the GCS that are for people and for programs that ask: tasks, jobs, keys and values; and their answers."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.wire import state as asked
from aioray.wire.values import home_of, node_prefix
from aioray_node.gcs import jobs, kv, rows
from aioray_node.gcs.events import task_table
from aioray_node.gcs.events.desks import TaskTableDesk
from aioray_node.gcs.metrics import metric_table
from aioray_node.gcs.metrics.desks import MetricTableDesk
from aioray_node.gcs.package_desk import PackageDesk
from aioray_node.gcs.packages import NodeGone, UserGone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aioray.config import Config
    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import DriverStarted
    from aioray.wire.gcs import ClusterStatus
    from aioray.wire.metrics import Metric
    from aioray_node.gcs.groups import GroupDesk
    from aioray_node.gcs.shell import ActorDesk
    from aioray_node.gcs.view import ClusterView


class StateDesk:
    """Every method is called with the reactor's lock held. `tell`: see `PackageDesk`."""

    def __init__(
        self,
        reactor: Reactor,
        config: Config,
        view: ClusterView,
        actors: ActorDesk,
        groups: GroupDesk,
        tell: Callable[[bytes, Any], None],
    ) -> None:
        self.tasks = TaskTableDesk(reactor, config)
        self.metrics = MetricTableDesk(reactor, config)
        self._jobs = jobs.State()
        self._kv = kv.State(config.gcs_kv_max_nbytes)
        self._view = view
        self._actors = actors
        self._groups = groups
        self.packages = PackageDesk(view, self._kv, tell, self._is_alive)

    def status(self, status: ClusterStatus) -> ClusterStatus:
        """With what these tables know, for people."""
        groups = self._groups.explain_pending()
        return msgspec.structs.replace(status, groups=groups, tasks_left_out=self.tasks.left_out())

    def _is_alive(self, user: bytes) -> bool:
        """Whether a job is, or an actor."""
        actor = self._actors.table.actors.get(user)
        return jobs.is_running(self._jobs, user) or (actor is not None and actor.state != "dead")

    # what happens

    def driver_started(self, driver: DriverStarted) -> None:
        jobs.started(self._jobs, driver)

    def driver_ended(self, process: bytes) -> None:
        if jobs.ended(self._jobs, process, time.time()):
            self._job_ended(process)

    def _job_ended(self, job_id: bytes) -> None:
        self.tasks.job_ended(job_id)
        self.packages.feed(UserGone(job_id))

    def node_died(self, node_id: str) -> None:
        self.tasks.node_died(node_id)
        self.metrics.node_died(node_id)
        for job_id in jobs.node_gone(self._jobs, node_prefix(node_id), time.time()):
            self._job_ended(job_id)
        self.packages.feed(NodeGone(node_prefix(node_id)))

    # questions

    def questions(self) -> Mapping[str, Callable[..., Any]]:
        """By name. Each raises LookupError with words for who asks."""
        return {what: functools.partial(self.answer, what) for what in asked.ASKS}

    def all_metrics(self) -> list[Metric]:
        """Those of processes and nodes, and what the GCS itself counts."""
        return [*self.metrics.all_metrics(), metric_table.of_tasks(task_table.counts(self.tasks.state))]

    def answer(self, what: str, /, **args: Any) -> Any:
        """Raises LookupError with words for who asks."""
        try:
            ask = msgspec.convert(args, asked.ASKS[what], builtin_types=(bytes,))
        except msgspec.ValidationError as exc:
            raise LookupError(f"{what}: {exc}") from None
        return msgspec.to_builtins(self._answer(ask), builtin_types=(bytes,))

    def _answer(self, ask: Any) -> Any:
        match ask:
            case asked.ListTasks():
                return rows.tasks(ask, self.tasks.state)
            case asked.SummarizeTasks():
                return rows.task_summary(self.tasks.state)
            case asked.SummarizeActors():
                return rows.actor_summary(self._actors.table)
            case asked.AllMetrics():
                return self.all_metrics()
            case asked.KvPut(key, value, request_id, namespace, overwrite):
                return kv.put(self._kv, namespace, key, value, overwrite=overwrite, request_id=request_id)
            case asked.KvGet(key, namespace):
                return kv.get(self._kv, namespace, key)
            case asked.KvDelete(key, request_id, namespace):
                return kv.delete(self._kv, namespace, key, request_id=request_id)
            case asked.KvKeys(prefix, namespace, limit):
                return kv.keys(self._kv, namespace, prefix, limit)
            case _:
                return self._listing(ask)

    def _listing(self, ask: Any) -> asked.Listing:
        match ask:
            case asked.ListNodes():
                rows.check_filters(ask, asked.NodeRow)
                return rows.listing(ask, rows.node_rows(self._view))
            case asked.ListActors():
                rows.check_filters(ask, asked.ActorRow)
                return rows.listing(ask, rows.actor_rows(self._actors.table, self._actors.node_of))
            case asked.ListPlacementGroups():
                rows.check_filters(ask, asked.PlacementGroupRow)
                return rows.listing(ask, rows.group_rows(self._groups.table()))
            case asked.ListJobs():
                rows.check_filters(ask, asked.JobRow)
                return rows.listing(ask, rows.job_rows(self._jobs, self._node_of))
            case _:
                raise AssertionError(f"nobody answers {ask!r}")

    def _node_of(self, process: bytes) -> str:
        return next((node_id for node_id in self._view.known if node_prefix(node_id) == home_of(process)), "")
