"""Light actors: the decisions of `hosts.py` carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.wire.control import EndActor
from aioray.wire.strategies import Affinity, Strategy
from aioray_node import in_flight
from aioray_node.gcs import hosts

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.wire.control import ActorSpec
    from aioray_node.pool.shell import Worker
    from aioray_node.scheduling.shell import LeaseDesk


class LightActors:
    """Has them constructed in processes that they share, and ended there."""

    def __init__(
        self,
        leases: LeaseDesk,
        spec_of: Callable[[bytes], ActorSpec],
        lost: Callable[[bytes, str, bool], None],
        *,
        max_hosts: int,
        session_dir: str,
    ) -> None:
        self._state = hosts.State(max_hosts)
        self._leases = leases
        self._spec_of = spec_of
        self._lost = lost
        self._session_dir = session_dir
        self._workers: dict[bytes, Worker] = {}

    def settle(self, actor_id: bytes) -> None:
        """It has what it takes to be placed: find it a process."""
        spec = self._spec_of(actor_id)
        self._feed(hosts.Wanted(actor_id, spec.environment, spec.is_suspect))

    def leave(self, actor_id: bytes, *, now: bool) -> None:
        """It is over; unless `now`, calls that have come to it are done first."""
        home = hosts.slot_of(self._state, actor_id)
        if home is None:
            return
        host, slot = home
        worker = self._workers.get(host)
        if worker is not None and worker.connection is not None:
            worker.connection.send(EndActor(slot, now))
        self._feed(hosts.Over(actor_id))

    def residents(self, host: bytes) -> list[bytes]:
        """The actors that live in a process, or are to."""
        return list(self._state.hosts[host].actors)

    def is_host(self, name: bytes) -> bool:
        """Whether that is a process of ours, as we call it for the lease desk."""
        return name in self._state.hosts

    def placed(self, host: bytes, worker: Worker) -> None:
        self._workers[host] = worker
        for pipe in worker.pipes:
            pipe.relabel("light actors")
        self._feed(hosts.HostUp(host))

    def worker_lost(self, host: bytes, reason: str) -> None:
        worker = self._workers.pop(host, None)
        if worker is not None and worker.connection is not None:
            worker.connection.drain()  # checkpoints may lie there unread
        self._feed(hosts.HostDown(host, reason, frozenset() if worker is None else self._busy(host, worker)))

    def _busy(self, host: bytes, worker: Worker) -> frozenset[bytes]:
        """Whose code was under way in a process that has died."""
        actors = self._state.hosts[host].actors
        slots = in_flight.take_busy(in_flight.path_of(self._session_dir, worker.worker_id), list(actors.values()))
        return frozenset(actor_id for actor_id, slot in actors.items() if slot in slots)

    def _feed(self, event: hosts.Event) -> None:
        for command in hosts.handle(self._state, event):
            match command:
                case hosts.StartHost(host, environment):
                    here = Strategy(affinity=Affinity(self._leases.node_id))
                    self._leases.place_actor(host, b"", "light actors", {}, {}, environment=environment, strategy=here)
                case hosts.Settle(actor_id, host, slot):
                    spec = self._spec_of(actor_id)
                    spec.slot = slot
                    connection = self._workers[host].connection
                    if connection is not None:
                        connection.send(spec)
                case hosts.Lost(actor_id, reason, is_suspect):
                    self._lost(actor_id, reason, is_suspect)
                case hosts.EndHost(host):
                    worker = self._workers.pop(host, None)
                    if worker is not None:
                        in_flight.forget(in_flight.path_of(self._session_dir, worker.worker_id))
                    self._leases.dismiss_actor(host)
