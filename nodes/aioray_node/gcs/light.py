"""Light actors: the decisions of `hosts.py` carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.wire.control import EndActor
from aioray.wire.strategies import Affinity, Strategy
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
        lost: Callable[[bytes, str], None],
        *,
        max_hosts: int,
    ) -> None:
        self._state = hosts.State(max_hosts)
        self._leases = leases
        self._spec_of = spec_of
        self._lost = lost
        self._workers: dict[bytes, Worker] = {}

    def settle(self, actor_id: bytes) -> None:
        """It has what it takes to be placed: find it a process."""
        self._feed(hosts.Wanted(actor_id, self._spec_of(actor_id).environment))

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
        self._feed(hosts.HostDown(host, reason))

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
                case hosts.Lost(actor_id, reason):
                    self._lost(actor_id, reason)
                case hosts.EndHost(host):
                    self._workers.pop(host, None)
                    self._leases.dismiss_actor(host)
