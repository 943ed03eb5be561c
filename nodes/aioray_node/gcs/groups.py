"""Placement groups: the decisions of `placement/core.py` carried out."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Protocol

from aioray.wire.control import Ack, GroupSpec, Notice, RemoveGroup, WatchGroup
from aioray.wire.values import PROCESS_ID_NBYTES, home_of, owner_of, process_id_of_node
from aioray_node.gcs.far_groups import FarBundles, tell_node
from aioray_node.gcs.placement import core
from aioray_node.gcs.placement.attempts import pause_s
from aioray_node.gcs.placement.state import Group, is_node
from aioray_node.gcs.view import Changed, Died
from aioray_node.scheduling.resources import to_floats

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import GroupUpdate
    from aioray_node.gcs.view import ClusterView, News
    from aioray_node.neighbours import Neighbours

_MOST_TOLD = 20  # groups that wait, in the status of the cluster


class Bundles(Protocol):
    """A node, as far as its bundles go: one here, or one afar."""

    def prepare(
        self,
        group_id: bytes,
        attempt: int,
        index: int,
        demand: dict[str, int],
        *,
        patient: bool,
        answer: Callable[[bool], None],
    ) -> None: ...
    def commit(self, group_id: bytes, index: int) -> None: ...
    def give_back(self, group_id: bytes, attempt: int, index: int) -> None: ...
    def drop(self, group_id: bytes) -> None: ...


class GroupDesk:
    """Creates, finds and removes placement groups: at the head, which knows all of them.

    bundles: this node's. send: to a process. on_update: with what this node itself asked for.
    """

    def __init__(
        self,
        reactor: Reactor,
        view: ClusterView,
        neighbours: Neighbours,
        bundles: Bundles,
        send: Callable[[bytes, msgspec.Struct], None],
        on_update: Callable[[GroupUpdate], None],
    ) -> None:
        self._reactor = reactor
        self._own_id = view.own_id
        self._own_process = process_id_of_node(view.own_id)
        self._state = core.State(view.nodes, own_id=view.own_id)
        self._neighbours = neighbours
        self._bundles = bundles
        self._send = send
        self._on_update = on_update
        self._change_due = False
        view.subscribe(self._on_news)

    def feed(self, event: core.Event) -> None:
        """Let the core decide, and carry it out."""
        for command in core.handle(self._state, event, self._reactor.time()):
            match command:
                case core.Prepare(node_id, group_id, attempt, index, demand, patient):
                    answer = functools.partial(self._answered, node_id, group_id, attempt, index)
                    self._bundles_at(node_id).prepare(group_id, attempt, index, demand, patient=patient, answer=answer)
                case core.Commit(node_id, group_id, index):
                    self._bundles_at(node_id).commit(group_id, index)
                case core.Return(node_id, group_id, attempt, index):
                    self._bundles_at(node_id).give_back(group_id, attempt, index)
                case core.Drop(group_id, node_ids):
                    for node_id in {self._own_id, *node_ids}:  # leases may wait here that nobody has asked about
                        self._bundles_at(node_id).drop(group_id)
                case core.Tell(process, update):
                    self._tell(process, update)
                case core.Warn(group_id, text):
                    self._send(
                        owner_of(group_id), Notice(f"{text}. It waits, and is placed if such a node ever joins.")
                    )
                case core.WakeAt(when):
                    delay_s = max(0.0, when - self._reactor.time())
                    self._reactor.call_later(delay_s, lambda: self.feed(core.Tick()))

    def _bundles_at(self, node_id: str) -> Bundles:
        return self._bundles if node_id == self._own_id else FarBundles(self._neighbours, node_id)

    def _tell(self, process: bytes, update: GroupUpdate) -> None:
        if process == self._own_process:
            self._on_update(update)
        elif is_node(process):
            tell_node(self._neighbours, process, update)
        else:
            self._send(process, update)

    def _answered(self, node_id: str, group_id: bytes, attempt: int, index: int, held: bool) -> None:
        self.feed(core.Answered(node_id, group_id, attempt, index, held))

    def _on_news(self, news: News) -> None:
        if isinstance(news, Changed):
            self.feed(core.Reported(news.node_id))
        if not isinstance(news, Died):
            self.nodes_changed()

    def node_gone(self, node_id: str, prefix: bytes) -> None:
        """Another node is dead: its bundles are placed again, and the groups of its drivers end."""
        self.feed(core.NodeGone(node_id))
        state = self._state
        processes = {owner_of(group_id) for group_id in [*state.groups, *state.watchers]}
        processes.update(state.newest, *state.watchers.values(), (group.spec.owner for group in state.groups.values()))
        for process in processes:
            if home_of(process) == prefix and len(process) == PROCESS_ID_NBYTES:
                self.process_gone(process)

    def nodes_changed(self) -> None:
        """There may be more room somewhere: have those that wait tried again, once a turn."""
        if self._state.pending and not self._change_due:
            self._change_due = True
            self._reactor.call_soon(self._try_again)

    def _try_again(self) -> None:
        self._change_due = False
        self.feed(core.NodesChanged())

    def locate(self, group_id: bytes) -> None:
        """This node wants to hear where the group is."""
        if self._own_process not in self._state.watchers.get(group_id, ()):
            self._reactor.call_soon(functools.partial(self.watch, self._own_process, group_id))

    def heard(self, process: bytes, message: msgspec.Struct, reply: Callable[[msgspec.Struct], None]) -> bool:
        """Another node has said something; whether it was about groups. `process`: the id that it has as a process."""
        match message:
            case GroupSpec(req=req):
                self.create(message)
            case RemoveGroup(group_id, req):
                self.remove(group_id)
            case WatchGroup(group_id, req):
                self.watch(process, group_id)
            case _:
                return False
        reply(Ack(req))
        return True

    # what processes want

    def create(self, spec: GroupSpec) -> None:
        self.feed(core.Created(spec))

    def remove(self, group_id: bytes) -> None:
        self.feed(core.Removed(group_id))

    def watch(self, process: bytes, group_id: bytes) -> None:
        """Tell a process where the group stands, now and whenever that changes."""
        self.feed(core.Watched(process, group_id))

    def process_gone(self, process: bytes) -> None:
        self.feed(core.OwnerGone(process))
        self.feed(core.ProcessGone(process))

    def actor_gone(self, actor_id: bytes) -> None:
        """With a detached actor go the groups that it made."""
        self.feed(core.OwnerGone(actor_id))

    # questions

    def why_over(self, group_id: bytes) -> str:
        """Why there is no such group any more; "" when there is one, or may come."""
        return core.why_over(self._state, group_id)

    def explain(self, group_id: bytes) -> str:
        """Where a group stands, in a sentence."""
        return core.explain(self._state, group_id)

    def explain_pending(self) -> tuple[str, ...]:
        """The same of the first that wait."""
        return core.explain_pending(self._state, _MOST_TOLD)

    def find(self, namespace: str, name: str) -> dict[str, Any]:
        """The group of that name. Raises LookupError."""
        group_id = self._state.names.get((namespace, name))
        if group_id is None:
            raise LookupError(f"no placement group called {name!r} is there in namespace {namespace!r}")
        return {"group_id": group_id, "bundles": self.bundles_of(group_id)}

    def bundles_of(self, group_id: bytes) -> list[dict[str, float]]:
        """What was asked for. Raises LookupError."""
        group = self._state.groups.get(group_id) or self._state.removed.get(group_id)
        if group is None:
            raise LookupError(f"there is no placement group {group_id.hex()}, or not any more")
        return [to_floats(bundle) for bundle in group.spec.bundles]

    def table(self, group_id: bytes | None = None) -> dict[str, dict[str, Any]]:
        """Groups by id, as Ray shows them: those that there are, and those that were removed lately."""
        groups = {**self._state.removed, **self._state.groups}
        if group_id is not None:
            groups = {group_id: groups[group_id]} if group_id in groups else {}
        return {each.hex(): _shown(group) for each, group in groups.items()}


def _shown(group: Group) -> dict[str, Any]:
    spec = group.spec
    ready_ms = 0.0 if group.ready_after_s is None else 1000 * group.ready_after_s
    return {
        "placement_group_id": spec.group_id.hex(),
        "name": spec.name,
        "bundles": {index: to_floats(bundle) for index, bundle in enumerate(spec.bundles)},
        "bundles_to_node_id": {
            index: group.where[index] if index in group.booked else "" for index in range(len(spec.bundles))
        },
        "strategy": spec.strategy,
        "state": group.state.upper(),
        "stats": {
            "end_to_end_creation_latency_ms": ready_ms,
            "scheduling_latency_ms": ready_ms,
            "scheduling_attempt": group.attempt,
            "highest_retry_delay_ms": 1000.0 * pause_s(group.refusals) if group.refusals else 0.0,
            "scheduling_state": _SCHEDULING[group.state],
        },
    }


_SCHEDULING = {"pending": "QUEUED", "rescheduling": "QUEUED", "created": "FINISHED", "removed": "REMOVED"}
