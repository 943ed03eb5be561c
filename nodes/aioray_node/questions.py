"""What the processes of a node ask it, and wait for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

from aioray.wire.control import Answer, Query, Reserve, Reserved, Write
from aioray.wire.state import ASKS
from aioray_node.gcs import described
from aioray_node.gcs.groups import GroupDesk
from aioray_node.gcs.package_desk import PACKAGE_QUESTIONS
from aioray_node.gcs.shell import ActorDesk
from aioray_node.scheduling.resources import to_floats

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray_node.desks import Desks
    from aioray_node.peers import Peers


def _state_answer(what: str, questions: Questions, process: bytes, **args: Any) -> Any:
    return questions._state.tables.answer(what, **args)


def _package_answer(what: str, questions: Questions, process: bytes, **args: Any) -> Any:
    return questions._state.tables.packages.answer(what, process, args)


class Questions:
    """Called with the reactor's lock held. `gcs_address()`: where the GCS is, as far as is known now."""

    def __init__(self, desks: Desks, peers: Peers, gcs_address: Callable[[], str]) -> None:
        self._view = desks.view
        self._leases = desks.leases
        self._store = desks.store
        self._far_drivers = desks.far_drivers
        self._actors = desks.actors
        self._groups = desks.groups
        self._state = desks.state
        self._pool = desks.pool
        self._peers = peers
        self._gcs_address = gcs_address

    def exchange(self, process: bytes, message: Any) -> msgspec.Struct:
        """Answer a request that its sender waits for, on the spot."""
        match message:
            case Reserve(nbytes):
                if process not in self._peers.by_id:  # its question outlived it: nobody would give the extent back
                    return Reserved(-1, 0, self._store.used_nbytes)
                return self._store.reserve(process, nbytes)
            case Write():
                return self._far_drivers.write(process, message)
            case Query(req, what, args):
                question = self._questions.get(what)
                if question is None:
                    return Answer(req, error=f"nobody here can answer {what!r}")
                if (peer := self._peers.by_id.get(process)) is not None:
                    peer.connection.drain()  # what it told us before it asked comes over another line
                try:
                    return Answer(req, question(self, process, **args))
                except LookupError as exc:
                    return Answer(req, error=str(exc.args[0]))
                except TypeError:
                    return Answer(req, error=f"{what!r} cannot be asked with {args!r:.200}")
            case _:
                return Answer(0, error=f"{type(message).__name__} is no question")

    @property
    def _desk(self) -> ActorDesk:
        """Raises LookupError on a node that is not the head."""
        if not isinstance(self._actors, ActorDesk):
            raise LookupError("this node is not the head, which keeps the directory of actors")
        return self._actors

    @property
    def _group_desk(self) -> GroupDesk:
        """Raises LookupError on a node that is not the head."""
        if not isinstance(self._groups, GroupDesk):
            raise LookupError("this node is not the head, which keeps the directory of placement groups")
        return self._groups

    def _explain_actor(self, actor_id: bytes) -> str:
        where = self._desk.where(actor_id)
        return f"it is to be on node {where}" if where else self._leases.explain_actor(actor_id)

    def _store_figures(self, process: bytes) -> dict[str, int]:
        return {
            "used_nbytes": self._store.used_nbytes,
            "capacity_nbytes": self._store.capacity_nbytes,
            "known_objects": self._store.known(),
        }

    def _assigned(self, process: bytes) -> dict[str, float]:
        worker = self._peers.worker(process)
        return {} if worker is None else to_floats(self._leases.assigned(worker))

    _questions: ClassVar[dict[str, Callable[..., Any]]] = {
        "gcs_address": lambda self, process: self._gcs_address(),
        "nodes": lambda self, process: described.nodes(self._view),
        "cluster_resources": lambda self, process: described.totals(self._view),
        "available_resources": lambda self, process: described.available(self._view, self._store.used_nbytes),
        "assigned": _assigned,
        "explain": lambda self, process, lease_id: self._leases.explain(process, lease_id),
        "explain_actor": lambda self, process, actor_id: self._explain_actor(actor_id),
        "get_actor": lambda self, process, namespace, name: self._desk.find(process, namespace, name),
        "reserve_name": lambda self, process, **wanted: self._desk.reserve_name(process, **wanted),
        "kill_actor": lambda self, process, actor_id, reason, no_restart: self._desk.kill(
            actor_id, reason, no_restart=no_restart
        ),
        "get_group": lambda self, process, namespace, name: self._group_desk.find(namespace, name),
        "group_bundles": lambda self, process, group_id: self._group_desk.bundles_of(group_id),
        "group_over": lambda self, process, group_id: self._group_desk.why_over(group_id),
        "group_table": lambda self, process, group_id=None: self._group_desk.table(group_id),
        "explain_group": lambda self, process, group_id: self._group_desk.explain(group_id),
        "list_named_actors": lambda self, process, namespace: self._desk.names(namespace),
        "store": _store_figures,
        "pids": lambda self, process: self._pool.pids,
        **{what: functools.partial(_package_answer, what) for what in PACKAGE_QUESTIONS},
        **{what: functools.partial(_state_answer, what) for what in ASKS},
    }
