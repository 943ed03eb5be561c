"""The desks of one node, put together: who keeps what, and who tells whom."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from aioray.labels import NODE_ID
from aioray.runtime.dialing import this_machine
from aioray.wire.control import Answer
from aioray.wire.gcs import NodeFacts
from aioray.wire.values import process_id_of_node
from aioray_node import gpus
from aioray_node.environments.shell import EnvironmentDesk
from aioray_node.gcs.checkpoints import CheckpointKeeper
from aioray_node.gcs.far import FarDirectory
from aioray_node.gcs.far_groups import FarGroups
from aioray_node.gcs.groups import GroupDesk
from aioray_node.gcs.hosting import ActorHosting
from aioray_node.gcs.journal import Journal
from aioray_node.gcs.membership import Membership, NodeLoad
from aioray_node.gcs.metrics import own
from aioray_node.gcs.node_state import NodeState
from aioray_node.gcs.shell import ActorDesk
from aioray_node.gcs.view import ClusterView, Joined
from aioray_node.neighbours import Neighbours
from aioray_node.objects.far_drivers import FarDrivers
from aioray_node.objects.routing import ObjectRouter
from aioray_node.objects.segment import Segment
from aioray_node.objects.store import ObjectStore
from aioray_node.objects.transfer import TransferDesk
from aioray_node.pool.shell import WorkerPool
from aioray_node.scheduling.bundle_desk import BundleDesk
from aioray_node.scheduling.resources import NodeResources, from_floats
from aioray_node.scheduling.shell import LeaseDesk

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.dialing import Dialer
    from aioray.runtime.reactor import Reactor
    from aioray.runtime.tls import Tls
    from aioray.wire.metrics import Metric
    from aioray_node.gcs.view import News
    from aioray_node.node_options import NodeOptions
    from aioray_node.peers import Peers
    from aioray_node.pool.zygote_process import ZygoteProcess
    from aioray_node.session import Session

_MAX_PRESTART = 16


class Desks:
    """All of them run on `reactor`, whose lock is held in every call. `peers`: whom they tell things.

    `on_node_gone(node_id, prefix)`: another node is dead. `token`, `dialer`, `tls`: for what is said to other machines.
    """

    def __init__(
        self,
        options: NodeOptions,
        reactor: Reactor,
        session: Session,
        peers: Peers,
        *,
        start_zygote: Callable[[], ZygoteProcess],
        on_node_gone: Callable[[str, bytes], None],
        started_at: float,
        token: str,
        dialer: Dialer,
        tls: Tls | None,
    ) -> None:
        self._options = options
        self._reactor = reactor
        self._session = session
        self._peers = peers
        self._config = options.config
        self.node_id = session.session_id
        found = gpus.find(options.num_gpus, os.environ)
        self._totals = options.totals(found, session.capacity_nbytes)
        self._labels = {**options.labels, NODE_ID: self.node_id, **gpus.accelerator_label(found)}
        self._add_scheduling([gpu.device_id for gpu in found], started_at)
        segment = Segment(session.segment, session.capacity_nbytes)
        self._add_objects(segment, dialer, on_node_gone)
        self.environments = EnvironmentDesk(
            reactor, str(session.dir), self.leases.go_on, self.leases.refuse, self._ask_head
        )
        self.leases.environments = self.environments
        self.transfers = TransferDesk(
            reactor, self.store, segment, self._config, node_id=self.node_id, token=token, dialer=dialer, tls=tls
        )
        self.objects.transfers = self.transfers
        self.far_drivers = FarDrivers(self.view, self.store, segment)
        self._add_directories(segment)
        self._add_workers(start_zygote)

    def _add_scheduling(self, gpu_ids: list[str], started_at: float) -> None:
        self.store = ObjectStore(
            self._session.capacity_nbytes, self._peers.send, lambda oid: self.actors.unheld(oid), node_id=self.node_id
        )
        self.leases = LeaseDesk(
            self._reactor,
            NodeResources(from_floats(self._totals)),
            self._peers.send,
            exit_grace_s=self._config.actor_exit_grace_s,
            gpu_ids=gpu_ids,
            node_id=self.node_id,
            labels=self._labels,
        )
        self.view = ClusterView(self._facts(started_at), self.leases.own_view())
        self._load = NodeLoad(self.leases, self.store)
        self.membership = Membership(self._reactor, self.view, self._load)
        self.leases.on_change = self.membership.load_changed
        self.leases.refresh_with(self.membership.refresh)
        self.membership.on_refreshed = self.leases.view_refreshed
        self.leases.use(self.view)

    def _add_objects(self, segment: Segment, dialer: Dialer, on_node_gone: Callable[[str, bytes], None]) -> None:
        self.objects = ObjectRouter(
            self._reactor, self.view, self.store, self._peers.send, reads_neighbours=self._config.transfer_share_memory
        )
        self.neighbours = Neighbours(self._reactor, dialer, self.view, self.objects.heard, on_node_gone)
        self.objects.neighbours = self.neighbours
        self.view.subscribe(self._on_news)

    def _add_directories(self, segment: Segment) -> None:
        self.checkpoints = CheckpointKeeper(Journal(self._session.dir / "journal", self._in_turn), self.store, segment)
        self.actors = self._actor_directory(is_head=self._is_head)
        self.hosting = self.actors.hosting = ActorHosting(
            self._reactor,
            self.leases,
            self.actors.reported,
            exit_grace_s=self._config.actor_exit_grace_s,
            session_dir=str(self._session.dir),
            max_light_hosts=max(1, min(_MAX_PRESTART, int(self._totals["CPU"]))),
        )
        self.groups = self.leases.groups = self._group_directory()
        self.state = NodeState(
            self._reactor,
            self._config,
            self.view,
            self.membership,
            self.actors,
            self.groups,
            self._peers.send,
            self.environments.heard,
            self._own_gauges,
        )

    def _add_workers(self, start_zygote: Callable[[], ZygoteProcess]) -> None:
        config = self._config
        warm = config.prestart_workers if config.prestart_workers >= 0 else int(self._totals["CPU"])
        self.pool = WorkerPool(
            self._reactor,
            start_zygote,
            self.leases,
            self._peers.pass_on_log,
            str(self._session.dir),
            node_id=self.node_id,
            prestart=min(warm, _MAX_PRESTART),
            max_idle=max(64, 4 * int(self._totals["CPU"])),
            idle_reap_s=config.worker_idle_reap_s,
            host=self._options.host,
        )
        self.leases.pool = self.hosting.pool = self.pool
        self.leases.actors = self.hosting

    @property
    def _is_head(self) -> bool:
        return self._options.is_head and self._options.join is None

    def _facts(self, started_at: float) -> NodeFacts:
        return NodeFacts(
            self.node_id,
            (self._session.address,),
            this_machine(),
            from_floats(self._totals),
            self._labels,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            started_at=started_at,
            session_dir=str(self._session.dir),
            store_nbytes=self.store.capacity_nbytes,
            is_head=self._is_head,
            ip_address=self._options.ip_address,
            segment=self._session.segment if self._config.transfer_share_memory else "",
            transfer_addresses=(self.transfer_address,),
        )

    def _actor_directory(self, *, is_head: bool) -> ActorDesk | FarDirectory:
        if not is_head:
            return FarDirectory(self.view, self.neighbours, self.store, self._peers.send)
        return ActorDesk(
            self._reactor,
            self.node_id,
            self.store,
            self.objects,
            self._peers.send,
            is_alive=self.view.nodes.__contains__,
            checkpoints=self.checkpoints,
        )

    def _group_directory(self) -> GroupDesk | FarGroups:
        bundles, on_update = BundleDesk(self.leases), self.leases.group_update
        if isinstance(self.actors, FarDirectory):
            return FarGroups(self.actors, bundles, self._peers.send, on_update)
        desk = self.actors.groups = GroupDesk(
            self._reactor, self.view, self.neighbours, bundles, self._peers.send, on_update
        )
        return desk

    def _ask_head(self, what: str, then: Callable[[Answer], None], /, **args: Any) -> None:
        """About packages, see `HeadLine`."""
        if isinstance(self.actors, FarDirectory):
            self.actors.ask_head(what, then, **args)
            return

        def ask() -> None:
            try:
                answer = Answer(0, self.state.tables.packages.answer(what, process_id_of_node(self.node_id), args))
            except LookupError as exc:
                answer = Answer(0, error=str(exc.args[0]))
            then(answer)

        self._reactor.call_soon(ask)

    def _own_gauges(self) -> tuple[Metric, ...]:
        import psutil  # late: nobody looks before an interval is over

        memory = psutil.virtual_memory()
        load = self._load
        return own.gauges(
            total=self.view.known[self.node_id].facts.total,
            available=load.available(),
            memory=(memory.total, memory.total - memory.available),
            store=(self.store.capacity_nbytes, load.store_used_nbytes()),
            workers=self.pool.count,
        )

    def _in_turn(self, callbacks: list[Callable[[], None]]) -> None:
        """Call these, which another thread has brought, where messages are handled."""
        for callback in callbacks:
            self._reactor.call_soon(callback)

    def _on_news(self, news: News) -> None:
        if isinstance(news, Joined):
            self.objects.joined()

    @property
    def transfer_address(self) -> str:
        """Where nodes of this machine pull objects from."""
        return str(self._session.dir / "transfer.sock")
