"""Placement groups as nodes other than the head have them, and such nodes as the head has them.

Every word between the two is a question that is answered at once, or acknowledged; whoever hears one twice does nothing
more.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.wire.control import (
    Ack,
    Answer,
    CommitBundle,
    DropGroup,
    GroupUpdate,
    PrepareBundle,
    RemoveGroup,
    ReturnBundle,
    WatchGroup,
)
from aioray.wire.values import home_of, node_prefix

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.wire.control import GroupSpec
    from aioray_node.gcs.far import FarDirectory
    from aioray_node.neighbours import Neighbours
    from aioray_node.scheduling.bundle_desk import BundleDesk

_MAX_REMOVED = 1000  # groups of which it is known here that they are gone


class FarBundles:
    """The bundles of another node, at the head."""

    def __init__(self, neighbours: Neighbours, node_id: str) -> None:
        self._prefix = node_prefix(node_id)
        self._neighbours = neighbours

    def prepare(
        self,
        group_id: bytes,
        attempt: int,
        index: int,
        demand: dict[str, int],
        *,
        patient: bool,
        answer: Callable[[bool], None],
    ) -> None:
        """Have it hold a bundle. Of a node that dies meanwhile nothing is heard here."""

        def answered(found: Answer | None) -> None:
            if found is not None:
                answer(bool(found.data))

        build = functools.partial(PrepareBundle, group_id, attempt, index, demand, patient)
        self._neighbours.ask(self._prefix, build, answered)

    def commit(self, group_id: bytes, index: int) -> None:
        self._say(functools.partial(CommitBundle, group_id, index))

    def give_back(self, group_id: bytes, attempt: int, index: int) -> None:
        self._say(functools.partial(ReturnBundle, group_id, attempt, index))

    def drop(self, group_id: bytes) -> None:
        self._say(functools.partial(DropGroup, group_id))

    def _say(self, message: Callable[[int], msgspec.Struct]) -> None:
        self._neighbours.ask(self._prefix, message, _nothing)


def tell_node(neighbours: Neighbours, process: bytes, update: GroupUpdate) -> None:
    """Where a group stands, for a node that has asked. `process`: the id that it has as a process."""
    neighbours.ask(home_of(process), lambda req: msgspec.structs.replace(update, req=req), _nothing)


class FarGroups:
    """The head's groups, on another node. Called with the reactor's lock held.

    on_update: with what the node itself has asked for, and with what others here have heard.
    """

    def __init__(
        self,
        directory: FarDirectory,
        bundles: BundleDesk,
        send: Callable[[bytes, msgspec.Struct], None],
        on_update: Callable[[GroupUpdate], None],
    ) -> None:
        self._directory = directory
        self._bundles = bundles
        self._send = send
        self._on_update = on_update
        self._watchers: dict[bytes, set[bytes]] = {}  # of groups that the head tells of: processes of this node
        self._last: dict[bytes, GroupUpdate] = {}  # what it has told
        self._removed: OrderedDict[bytes, str] = OrderedDict()  # why

    # as `GroupDesk`, for what processes of this node say

    def create(self, spec: GroupSpec) -> None:
        self._tell(lambda req: msgspec.structs.replace(spec, req=req))

    def remove(self, group_id: bytes) -> None:
        self._is_over(group_id, "it was removed")  # for leases that are asked for here from now on
        self._tell(functools.partial(RemoveGroup, group_id))

    def watch(self, process: bytes, group_id: bytes) -> None:
        """A process wants to hear of a group: at once, too, so the head is asked each time."""
        self._watchers.setdefault(group_id, set()).add(process)
        self._tell(functools.partial(WatchGroup, group_id))

    def process_gone(self, process: bytes) -> None:
        """The head hears of it from the directory of actors."""
        for watchers in self._watchers.values():
            watchers.discard(process)

    def _is_over(self, group_id: bytes, reason: str) -> None:
        self._removed[group_id] = reason
        while len(self._removed) > _MAX_REMOVED:
            self._removed.popitem(last=False)

    def _tell(self, message: Callable[[int], msgspec.Struct]) -> None:
        self._directory.put(message, _nothing)

    # as `GroupDesk`, for the lease desk

    def locate(self, group_id: bytes) -> None:
        """This node wants to hear where the group is."""
        if group_id not in self._watchers:
            self._watchers[group_id] = set()
            self._tell(functools.partial(WatchGroup, group_id))

    def nodes_changed(self) -> None:
        """The head hears that by itself."""

    def why_over(self, group_id: bytes) -> str:
        """Why there is no such group any more, as far as that is known here."""
        return self._removed.get(group_id, "")

    def explain(self, group_id: bytes) -> str:
        """Where a group stands, as the head said last."""
        last = self._last.get(group_id)
        if last is None:
            return self.why_over(group_id) or "the head of the cluster is asked about it"
        return last.reason or f"placement group {group_id.hex()} is {last.state}"

    # what the head says

    def heard(self, process: bytes, message: msgspec.Struct, reply: Callable[[msgspec.Struct], None]) -> bool:
        """Whether it was about groups. `reply`: over the line on which it came."""
        match message:
            case PrepareBundle(group_id, attempt, index, demand, patient, req):

                def answer(held: bool) -> None:  # of a callback
                    reply(Answer(req, held))

                self._bundles.prepare(group_id, attempt, index, demand, patient=patient, answer=answer)
                return True
            case CommitBundle(group_id, index, req):
                self._bundles.commit(group_id, index)
            case ReturnBundle(group_id, attempt, index, req):
                self._bundles.give_back(group_id, attempt, index)
            case DropGroup(group_id, req):
                self._bundles.drop(group_id)
            case GroupUpdate(req=req):
                self._updated(message)
            case _:
                return False
        reply(Ack(req))
        return True

    def _updated(self, update: GroupUpdate) -> None:
        """First this node, then its processes, which may send leases there at once."""
        group_id = update.group_id
        watchers = self._watchers.get(group_id, set())
        self._last[group_id] = update
        if update.state == "removed":
            self._watchers.pop(group_id, None)
            del self._last[group_id]
            self._is_over(group_id, update.reason)
        self._on_update(update)
        for process in sorted(watchers):
            self._send(process, GroupUpdate(group_id, update.state, update.reason))


def _nothing(_: Any) -> None:
    """It is enough that it has arrived."""
