"""Leases: the scheduler's decisions carried out, for callers and for actors."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

import msgspec

from aioray.record import Record
from aioray.wire.control import Exit, LeaseGrant, LeaseLost, LeaseRecall, Notice, Spill
from aioray.wire.strategies import Affinity, Strategy
from aioray_node.environments import core as environments
from aioray_node.gcs.view import Joined
from aioray_node.pool.core import Kind, Need
from aioray_node.scheduling import core
from aioray_node.scheduling.bundles import group_of, without_bundles
from aioray_node.scheduling.demands import waiting_counts, waiting_demands
from aioray_node.scheduling.resources import NodeResources, in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import GroupUpdate
    from aioray.wire.gcs import Demand
    from aioray_node.environments.shell import EnvironmentDesk
    from aioray_node.gcs.view import ClusterView, News
    from aioray_node.pool.shell import Worker, WorkerPool
    from aioray_node.scheduling.policy import NodeView


_GROUP_REMOVED = "its placement group was removed"


def _nobody_asks() -> None:
    """A node alone has nobody to tell."""


class ActorHost(Protocol):
    """Who is told when an actor has what it asked for, has a worker, or has lost it."""

    def admitted(self, actor_id: bytes) -> None: ...
    def placed(self, actor_id: bytes, worker: Worker) -> None: ...
    def worker_lost(self, actor_id: bytes, reason: str) -> None: ...
    def setup_failed(self, actor_id: bytes, reason: str) -> None: ...
    def unschedulable(self, actor_id: bytes, reason: str) -> None: ...
    def spilled(self, actor_id: bytes, node_id: str, hops: int) -> None: ...
    def group_removed(self, actor_id: bytes, reason: str) -> None: ...


class GroupNews(Protocol):
    """Who knows what becomes of placement groups, and is told when there is more room for them.

    locate: `LeaseDesk.group_update` is to be called with what there is to know, and with news of it, in a later turn.
    """

    def why_over(self, group_id: bytes) -> str: ...
    def explain(self, group_id: bytes) -> str: ...
    def nodes_changed(self) -> None: ...
    def locate(self, group_id: bytes) -> None: ...


class _Grant(Record, eq=False):
    """What the node knows of one lease beyond the core."""

    process: bytes  # whose it is
    number: int  # as its owner calls it
    request: core.Request  # for when its environment is there
    environment: str = ""
    actor_id: bytes = b""
    worker: Worker | None = None
    running: dict[str, int] | None = None  # what an actor keeps once it is placed
    exit_limit: Timer | None = None  # of an actor that was asked to go
    wants_worker: bool = True  # False: just the resources
    recalled: bool = False  # it has no worker yet: its owner is to hear when it has
    holds: Callable[[bool], None] | None = None  # of a bundle: whom to tell when it has them, or never will


class LeaseDesk:
    """Takes requests, gives workers. Lease ids here are the node's own; owners number theirs as they like."""

    def __init__(
        self,
        reactor: Reactor,
        resources: NodeResources,
        send: Callable[[bytes, msgspec.Struct], None],
        *,
        exit_grace_s: float,
        gpu_ids: Sequence[str] = (),
        node_id: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._reactor = reactor
        self._exit_grace_s = exit_grace_s
        self._state = core.State(resources, node_id=node_id, labels=dict(labels or {}))
        self._gpu_ids = gpu_ids
        self._send = send
        self._ids = itertools.count(1)
        self._grants: dict[int, _Grant] = {}
        self._by_owner: dict[tuple[bytes, int], int] = {}
        self._by_actor: dict[bytes, int] = {}
        self._infeasible: dict[tuple[bytes, str], set[int]] = {}  # what was warned of, and the leases that wait for it
        self._view: ClusterView
        self.pool: WorkerPool
        self.actors: ActorHost
        self.environments: EnvironmentDesk
        self.groups: GroupNews
        self._refresh_view: Callable[[], None] = _nobody_asks
        self.on_change: Callable[[], None] = _nobody_asks  # there may be more or less to spare than before

    @property
    def node_id(self) -> str:
        return self._state.node_id

    @property
    def resources(self) -> NodeResources:
        return self._state.resources

    @property
    def view(self) -> NodeView:
        """This node, for who decides between several: always as it is."""
        return self._state.own

    def use(self, view: ClusterView) -> None:
        """Choose among all nodes that it has, from here on."""
        self._view = view
        self._state.nodes = view.nodes
        view.subscribe_to_deltas(self._on_news)

    def _on_news(self, news: list[News]) -> None:
        self.feed(core.ManyNews(tuple(core.NodeNews(each.node_id, joined=isinstance(each, Joined)) for each in news)))

    def refresh_with(self, ask: Callable[[], None]) -> None:
        """Where a node is asked for that is not known here: `ask` the GCS, which ends with `view_refreshed`."""
        self._refresh_view = ask
        self._state.can_refresh = True

    def view_refreshed(self) -> None:
        """The view has all that the GCS knew."""
        self.feed(core.ViewRefreshed())

    def own_view(self) -> NodeView:
        """The same, for the view of the cluster that it is a part of."""
        return self.view

    def waiting_counts(self) -> list[tuple[dict[str, int], int]]:
        """What waits here, and how often."""
        return waiting_counts(self._state)

    def waiting(self) -> tuple[Demand, ...]:
        """The same, and why."""
        return waiting_demands(self._state)

    def feed(self, event: core.Event) -> None:
        """Let the scheduler decide, and carry it out."""
        for command in core.handle(self._state, event, self._reactor.time()):
            match command:
                case core.Place(lease_id, gpus):
                    self._placed(lease_id, gpus)
                case core.Ended(lease_id):
                    self._forget(lease_id)
                    self.pool.free(lease_id, reusable=False)
                case core.RefreshView():
                    self._refresh_view()
                case core.Recall(lease_id):
                    self._recall(self._grants[lease_id])
                case core.Spill(lease_id, node_id, hops):
                    self._spill(lease_id, node_id, hops)
                case core.Evicted(lease_id):
                    self._evict(lease_id)
                case core.Infeasible(lease_id, _, text):
                    self._warn(lease_id, text)
                case core.Unschedulable(lease_id, reason, group_removed):
                    self._turn_away(lease_id, reason, group_removed=group_removed)
                case core.Locate(group_id):
                    self.groups.locate(group_id)
                case core.WakeAt(when):
                    delay_s = max(0.0, when - self._reactor.time())
                    self._reactor.call_later(delay_s, lambda: self.feed(core.Tick()))
        self.on_change()
        if not isinstance(event, core.Request):
            self.groups.nodes_changed()

    def _placed(self, lease_id: int, gpus: tuple[int, ...]) -> None:
        grant = self._grants[lease_id]
        if grant.holds is not None:
            grant.holds(True)
            return
        if grant.wants_worker:
            kind = Kind(grant.environment, tuple(self._gpu_ids[gpu] for gpu in gpus))
            self.pool.feed(Need(lease_id, fresh=bool(grant.actor_id), kind=kind))
            return
        if grant.running is not None:
            self.feed(core.Shrink(lease_id, grant.running))
        self.actors.admitted(grant.actor_id)

    def _recall(self, grant: _Grant) -> None:
        """Others have waited long."""
        if grant.worker is None:  # what was not granted yet its owner cannot give back
            grant.recalled = True
        else:
            self._send(grant.process, LeaseRecall(grant.number))

    def _spill(self, lease_id: int, node_id: str, hops: int) -> None:
        """Another node is to have it."""
        grant = self._grants[lease_id]
        try:
            address = self._view.address_of(node_id)
        except LookupError as exc:
            self._turn_away(lease_id, f"was to run on a node that cannot be reached: {exc}")
            return
        self._forget(lease_id)
        if grant.actor_id:
            self.actors.spilled(grant.actor_id, node_id, hops)
        else:
            self._send(grant.process, Spill(grant.number, node_id, address, hops))

    def _turn_away(self, lease_id: int, reason: str, *, group_removed: bool = False) -> None:
        """It is not to wait for what it would need."""
        grant = self._grants[lease_id]
        self._forget(lease_id)
        if grant.holds is not None:
            grant.holds(False)
        elif not grant.actor_id:
            lost = LeaseLost(grant.number, reason, unschedulable=not group_removed, group_removed=group_removed)
            self._send(grant.process, lost)
        elif group_removed:
            self.actors.group_removed(grant.actor_id, reason)
        else:
            self.actors.unschedulable(grant.actor_id, reason)

    def _evict(self, lease_id: int) -> None:
        """Its placement group is removed under it."""
        grant = self._grants[lease_id]
        self._forget(lease_id)
        if grant.actor_id:
            self.actors.group_removed(grant.actor_id, _GROUP_REMOVED)
        else:
            self._send(grant.process, LeaseLost(grant.number, _GROUP_REMOVED, group_removed=True))
        self.pool.free(lease_id, reusable=False)

    def _warn(self, lease_id: int, text: str) -> None:
        if self._grants[lease_id].holds is not None:
            return  # who asked for the bundle is told by who asks us
        best = in_words(without_bundles(self._state.resources.total))
        process = self._grants[lease_id].process
        said = self._infeasible.setdefault((process, text), set())
        said.add(lease_id)
        if len(said) > 1:
            return  # as for the others of the kind that wait
        who_has = f" The best node has {best}." if self._state.is_alone else ""
        notice = f"{text}.{who_has} It waits, and runs if such a node ever joins."
        self._send(process, Notice(notice))

    # for callers

    def request(
        self,
        process: bytes,
        number: int,
        demand: dict[str, int],
        name: str,
        environment: str = "",
        strategy: Strategy | None = None,
        hops: int = 0,
        argument_nbytes: dict[str, int] | None = None,
    ) -> None:
        """A caller wants a worker for tasks."""
        if (process, number) in self._by_owner:
            return  # sent twice
        lease_id = next(self._ids)
        request = core.Request(
            lease_id, process.hex(), demand, name, strategy, hops, argument_nbytes or {}, is_lent=True
        )
        self._grants[lease_id] = _Grant(process, number, request, environment)
        self._by_owner[process, number] = lease_id
        self._queue(lease_id, environment)

    def _queue(self, lease_id: int, environment: str) -> None:
        """First its environment: while that is set up, it holds nothing that others could use."""
        if environment:
            self.environments.feed(environments.Wanted(lease_id, environment))
        else:
            self.go_on(lease_id)

    def go_on(self, lease_id: int) -> None:
        """Its environment is there."""
        request = self._grants[lease_id].request
        group = group_of(request.strategy)
        if group is not None and (why := self.groups.why_over(group.group_id)):
            self._turn_away(lease_id, f"was to run in a placement group: {why}", group_removed=True)
        else:
            self.feed(request)

    def refuse(self, lease_id: int, reason: str) -> None:
        """Its environment cannot be had."""
        grant = self._grants[lease_id]
        self._forget(lease_id)
        if grant.actor_id:
            self.actors.setup_failed(grant.actor_id, reason)
        else:
            self._send(grant.process, LeaseLost(grant.number, reason, setup_failed=True))

    def give_back(self, process: bytes, number: int, *, kill: bool, retire: bool = False) -> None:
        """A caller is through with a lease, or does not want it any more; `retire`: nor is its worker of use."""
        lease_id = self._by_owner.get((process, number))
        if lease_id is not None:
            self._end(lease_id, reusable=not (kill or retire), gently=retire and not kill)

    def blocked(self, worker: Worker, blocked: bool) -> None:
        """A worker waits for the cluster, or goes on."""
        if worker.lease_id is not None:
            self.feed(core.Blocked(worker.lease_id) if blocked else core.Unblocked(worker.lease_id))

    def assigned(self, worker: Worker) -> dict[str, int]:
        """What the lease of a worker gives it: resource name to ten-thousandths."""
        granted = None if worker.lease_id is None else self._state.granted.get(worker.lease_id)
        return {} if granted is None else granted.request.demand

    def explain(self, process: bytes, number: int) -> str:
        """Why a lease is not there yet."""
        lease_id = self._by_owner.get((process, number))
        if lease_id is None:
            return "its request is on the way to the node"
        return self._explain(lease_id)

    def _explain(self, lease_id: int) -> str:
        if self.environments.is_awaited_by(lease_id):
            return "its runtime environment is being set up"
        text = core.explain(self._state, lease_id)
        group = group_of(self._grants[lease_id].request.strategy)
        if group is not None and lease_id in self._state.infeasible:
            text += f"; {self.groups.explain(group.group_id)}"
        return text

    def process_gone(self, process: bytes) -> None:
        """All its leases end, and what runs on them."""
        self.feed(core.OwnerGone(process.hex()))
        for lease_id in [lease_id for (owner, _), lease_id in self._by_owner.items() if owner == process]:
            self._forget(lease_id)
            self.pool.free(lease_id, reusable=False)

    # for actors

    def place_actor(
        self,
        actor_id: bytes,
        creator: bytes,
        name: str,
        placement: dict[str, int],
        running: dict[str, int],
        *,
        wants_worker: bool = True,
        environment: str = "",
        strategy: Strategy | None = None,
        hops: int = 0,
    ) -> None:
        """An actor wants a worker for life, or just resources: it has a place in some worker then."""
        lease_id = next(self._ids)
        request = core.Request(lease_id, "actor:" + actor_id.hex(), placement, name, strategy, hops)
        self._grants[lease_id] = _Grant(
            creator, 0, request, environment, actor_id, running=running, wants_worker=wants_worker
        )
        self._by_actor[actor_id] = lease_id
        self._queue(lease_id, environment)

    def explain_actor(self, actor_id: bytes) -> str:
        """Why an actor has no place yet; "" when it has one, or is none that waits."""
        lease_id = self._by_actor.get(actor_id)
        if lease_id is None or lease_id in self._state.granted:
            return ""
        return self._explain(lease_id)

    def end_actor(self, actor_id: bytes) -> None:
        """It needs its worker no more, or never will."""
        lease_id = self._by_actor.get(actor_id)
        if lease_id is not None:
            self._end(lease_id, reusable=False)

    def dismiss_actor(self, actor_id: bytes) -> None:
        """Its worker may finish what it does, within limits, and keeps the lease meanwhile."""
        lease_id = self._by_actor.get(actor_id)
        if lease_id is None:
            return
        grant = self._grants[lease_id]
        if grant.worker is None or grant.worker.connection is None:
            self._end(lease_id, reusable=False)
            return
        grant.worker.connection.send(Exit("all handles to it are gone"))
        grant.exit_limit = self._reactor.call_later(self._exit_grace_s, lambda: self.end_actor(actor_id))

    # for placement groups

    def new_reservation(self, group_id: bytes, holds: Callable[[bool], None]) -> int:
        """A lease that is to hold a bundle here; `holds` is called when it does, or when it never will."""
        lease_id = next(self._ids)
        here = Strategy(affinity=Affinity(self.node_id))
        request = core.Request(lease_id, f"group:{group_id.hex()}", {}, "a bundle of a placement group", here)
        self._grants[lease_id] = _Grant(b"", 0, request, holds=holds)
        return lease_id

    def reserve(self, lease_id: int, demand: dict[str, int]) -> None:
        """Have it hold that much, as soon as there is room for it."""
        grant = self._grants[lease_id]
        grant.request = msgspec.structs.replace(grant.request, demand=demand)
        self.feed(grant.request)

    def release(self, lease_id: int) -> None:
        """It is to hold nothing, or to wait no more."""
        self._forget(lease_id)
        self.feed(core.Return(lease_id))

    def commit(self, lease_id: int, group_id: bytes, index: int) -> None:
        """What it holds is a bundle that leases may be in, for as long as there is the group."""
        self._forget(lease_id)
        self.feed(core.CommitBundle(lease_id, group_id, index))

    def has_bundle(self, group_id: bytes, index: int) -> bool:
        """Whether that is committed here."""
        return index in self._state.bundles.get(group_id, {})

    def drop_group(self, group_id: bytes) -> None:
        """All that is in the group ends, and the node has its bundles back."""
        self.feed(core.DropGroup(group_id))

    def group_update(self, update: GroupUpdate) -> None:
        """Where a placement group stands, as the head says."""
        if update.state == "removed":
            self.drop_group(update.group_id)
        elif update.where or update.state != "pending":
            self.feed(core.GroupPlaced(update.group_id, update.where, update.bundles))

    # what the pool says

    def bound(self, lease_id: int, worker: Worker) -> None:
        grant = self._grants[lease_id]
        grant.worker = worker
        if grant.actor_id:
            if grant.running is not None:
                self.feed(core.Shrink(lease_id, grant.running))
            self.actors.placed(grant.actor_id, worker)
        else:
            for pipe in worker.pipes:
                pipe.tenant = self._state.granted[lease_id].request.name
            self._send(grant.process, LeaseGrant(grant.number, worker.worker_id, worker.address))
            if grant.recalled:
                self._recall(grant)

    def lost(self, lease_id: int, reason: str) -> None:
        grant = self._grants.get(lease_id)
        if grant is None:
            return
        self._forget(lease_id)
        self.feed(core.Return(lease_id))
        if grant.actor_id:
            self.actors.worker_lost(grant.actor_id, reason)
        else:
            self._send(grant.process, LeaseLost(grant.number, reason))

    def _end(self, lease_id: int, *, reusable: bool, gently: bool = False) -> None:
        self._forget(lease_id)
        self.pool.free(lease_id, reusable=reusable, gently=gently)  # first: who comes next may have its worker
        self.feed(core.Return(lease_id))

    def _forget(self, lease_id: int) -> None:
        grant = self._grants.pop(lease_id, None)
        if grant is not None:
            self.environments.feed(environments.Unwanted(lease_id))
            self._by_owner.pop((grant.process, grant.number), None)
            self._by_actor.pop(grant.actor_id, None)
            for said, lease_ids in list(self._infeasible.items()):
                lease_ids.discard(lease_id)
                if not lease_ids:
                    del self._infeasible[said]
            if grant.exit_limit is not None:
                grant.exit_limit.cancel()
