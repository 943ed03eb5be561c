"""The actors of one node: their leases and workers; what becomes of them is reported to who keeps the directory."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from aioray.exceptions import ActorPlacementGroupRemoved, ActorUnschedulableError, RuntimeEnvSetupError
from aioray.runtime.errors import error_value
from aioray.wire.control import ActorReport
from aioray_node.gcs.light import LightActors

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import ActorExit, ActorSpec, ActorStarted, Exit
    from aioray.wire.values import Value
    from aioray_node.pool.shell import Worker, WorkerPool
    from aioray_node.scheduling.shell import LeaseDesk


class ActorHosting:
    """Places, constructs and ends actors here."""

    def __init__(
        self,
        reactor: Reactor,
        leases: LeaseDesk,
        report: Callable[[ActorReport], None],
        *,
        exit_grace_s: float,
        session_dir: str,
        max_light_hosts: int = 1,
    ) -> None:
        self._reactor = reactor
        self._leases = leases
        self._report = report
        self._exit_grace_s = exit_grace_s
        self._specs: dict[bytes, ActorSpec] = {}
        self._workers: dict[bytes, Worker] = {}
        self._light = LightActors(
            leases, self._specs.__getitem__, self._lost, max_hosts=max_light_hosts, session_dir=session_dir
        )
        self.pool: WorkerPool

    # for the directory

    def place(self, spec: ActorSpec, hops: int = 0) -> None:
        """Find it a worker, here or, by way of a report, elsewhere."""
        self._specs[spec.actor_id] = spec
        is_light = spec.isolation == "shared"
        if is_light and not spec.placement and spec.strategy is None:
            self._light.settle(spec.actor_id)
        else:
            self._leases.place_actor(
                spec.actor_id,
                spec.creator,
                spec.cls,
                spec.placement,
                spec.running,
                wants_worker=not is_light,
                environment="" if is_light else spec.environment,  # its host has it
                strategy=spec.strategy,
                hops=hops,
            )

    def leave(self, actor_id: bytes, *, now: bool) -> None:
        """It is not to be here any more: its worker ends at once, or when it has done what has come to it."""
        self._specs.pop(actor_id, None)
        self._workers.pop(actor_id, None)
        self._light.leave(actor_id, now=now)
        if now:
            self._leases.end_actor(actor_id)
        else:
            self._leases.dismiss_actor(actor_id)

    # what the lease desk says

    def admitted(self, actor_id: bytes) -> None:
        """A light actor has the resources that it asked for."""
        self._light.settle(actor_id)

    def placed(self, actor_id: bytes, worker: Worker) -> None:
        if self._light.is_host(actor_id):
            self._light.placed(actor_id, worker)
            return
        spec = self._specs[actor_id]
        self._workers[actor_id] = worker
        for pipe in worker.pipes:
            pipe.relabel(spec.cls)
        if worker.connection is not None:
            worker.connection.send(spec)

    def worker_lost(self, actor_id: bytes, reason: str) -> None:
        if self._light.is_host(actor_id):
            self._light.worker_lost(actor_id, reason)
            return
        worker = self._workers.get(actor_id)
        if worker is not None and worker.connection is not None:
            worker.connection.drain()  # its last words may lie there unread: a checkpoint, or that it goes on purpose
        self._workers.pop(actor_id, None)
        self._lost(actor_id, reason)

    def setup_failed(self, actor_id: bytes, reason: str) -> None:
        """The environment of an actor, or of a process for light ones, cannot be had."""
        for each in self._light.residents(actor_id) if self._light.is_host(actor_id) else [actor_id]:
            spec = self._specs.get(each)
            if spec is not None:
                self._failed(spec, error_value(RuntimeEnvSetupError(f"actor {spec.cls}: {reason}")))

    def unschedulable(self, actor_id: bytes, reason: str) -> None:
        """It is not to wait for a node that could have it."""
        spec = self._specs[actor_id]
        self._failed(spec, error_value(ActorUnschedulableError(f"actor {spec.cls} {reason}")))

    def group_removed(self, actor_id: bytes, reason: str) -> None:
        """The placement group that it was in, or was to be in, is gone."""
        spec = self._specs.get(actor_id)
        if spec is not None:  # else nobody has a handle: it was just finishing what it did
            error = error_value(ActorPlacementGroupRemoved(actor_id.hex(), reason, spec.cls))
            self._report(ActorReport(actor_id, spec.restarts, "group removed", reason, error=error))

    def spilled(self, actor_id: bytes, node_id: str, hops: int) -> None:
        """Another node is to have it."""
        spec = self._specs.pop(actor_id)
        self._report(ActorReport(actor_id, spec.restarts, "moved", address=node_id, number=hops))

    def _lost(self, actor_id: bytes, reason: str, is_suspect: bool = False) -> None:
        spec = self._specs.get(actor_id)
        if spec is not None:
            self._report(ActorReport(actor_id, spec.restarts, "died", reason, number=int(is_suspect)))

    def _failed(self, spec: ActorSpec, error: Value) -> None:
        self._report(ActorReport(spec.actor_id, spec.restarts, "failed", error=error))

    # what workers say

    def started(self, worker: Worker, message: ActorStarted) -> None:
        """The worker has run the constructor."""
        spec = self._specs.get(message.actor_id)
        slot = 0 if spec is None else spec.slot
        if message.error is not None:
            self._report(ActorReport(message.actor_id, message.restarts, "failed", error=message.error))
        else:
            self._report(ActorReport(message.actor_id, message.restarts, "up", address=worker.address, number=slot))

    def exiting(self, worker: Worker, message: Exit) -> None:
        """An actor's worker says that it goes."""
        for actor_id, its_worker in list(self._workers.items()):
            if its_worker is not worker:
                continue
            spec = self._specs[actor_id]
            if message.crashed and (spec.max_restarts < 0 or spec.restarts < spec.max_restarts):
                # It leaves in peace, and is constructed again when it has left: two of it would be one too many.
                ending = functools.partial(self._end_slow_leaver, actor_id, worker)
                self._reactor.call_later(self._exit_grace_s, ending)
            else:
                self._report(ActorReport(actor_id, spec.restarts, "left", message.reason, call=message.call))

    def _end_slow_leaver(self, actor_id: bytes, worker: Worker) -> None:
        if self._workers.get(actor_id) is worker:
            self.pool.kill(worker, "")

    def light_exit(self, message: ActorExit) -> None:
        """A light actor says that it goes."""
        what = "died" if message.crashed else "left"
        self._report(ActorReport(message.actor_id, message.restarts, what, message.reason, call=message.call))
