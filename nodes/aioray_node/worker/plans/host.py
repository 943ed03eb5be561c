"""The compiled graphs that actors of this process take part in: prepared, linked to their neighbours, run."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

from msgspec import field

from aioray.dag.schedule import DRIVER
from aioray.record import Record
from aioray.wire.plans import Link
from aioray_node.worker.plans.links import Inlet, LinkClosed, Outlet
from aioray_node.worker.plans.loop_runner import LoopRunner
from aioray_node.worker.plans.passes import Passes
from aioray_node.worker.plans.thread_runner import ThreadRunner
from aioray_node.worker.runtime import running

if TYPE_CHECKING:
    from aioray.dag.parts import Part, Target
    from aioray.runtime.connection import Connection
    from aioray_node.worker.hosted_actor import HostedActor
    from aioray_node.worker.lanes import Services

Runner = ThreadRunner | LoopRunner


class _Prepared(Record):
    """A part whose links are not all there yet."""

    passes: Passes
    creator: bytes  # process id
    expected: set[int]  # who has still to dial us
    targets: dict[int, Target] | None = None  # not told yet
    inlets: list[Inlet] = field(default_factory=list)
    outlets: dict[int, Outlet] = field(default_factory=dict)


class Plans:
    """Parts by plan and slot. Called with the reactor's lock held, but for `prepare` and `start`, which are calls."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._prepared: dict[tuple[bytes, int], _Prepared] = {}
        self._runners: dict[int, list[Runner]] = {}  # of light actors, by slot

    def prepare(self, actor: HostedActor, part: Part, *constants: Any) -> bytes:
        """An actor gets its part; the id of its process."""
        runtime = self._services.runtime
        here = running.get()
        assert here is not None
        passes = Passes(runtime, actor, part, constants, here)
        expected = set(part.sources)
        if any(DRIVER in call.turn.sends for call in part.calls):
            expected.add(DRIVER)
        if self._services.loop is None and actor.spec.max_concurrency <= 1 and actor.turn is None:
            actor.turn = threading.RLock()
        with self._services.reactor.lock:
            prepared = _Prepared(passes, here.caller.process_id, expected)
            self._prepared[part.plan, actor.spec.slot] = prepared
        return runtime.process_id

    def start(self, actor: HostedActor, plan: bytes, targets: list[Target]) -> None:
        """All parts are prepared: dial those to whom values go. Raises OSError."""
        slot = actor.spec.slot
        with self._services.reactor.lock:
            prepared = self._prepared.get((plan, slot))
            if prepared is None:
                return
            prepared.targets = {target.actor: target for target in targets}
            for target in targets:
                sock = self._services.runtime.dialer.dial(target.address)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, prepared.passes.part.buffer_nbytes)
                outlet = prepared.outlets[target.actor] = Outlet(target.actor, sock)
                try:
                    outlet.send(Link(plan, prepared.passes.part.actor, target.slot))
                except LinkClosed as exc:
                    raise ConnectionError(str(exc)) from exc
            self._run_if_complete((plan, slot), prepared)

    def join(self, connection: Connection, link: Link, early: list[Any]) -> None:
        """A neighbour has dialled."""
        sock, inbox = connection.detach()
        key = (link.plan, link.slot)
        prepared = self._prepared.get(key)
        if prepared is None or link.source not in prepared.expected:
            sock.close()  # the plan is over already
            return
        prepared.expected.discard(link.source)
        part = prepared.passes.part
        if link.source in part.sources:
            prepared.inlets.append(Inlet(link.source, sock, early, inbox))
        if link.source == DRIVER and any(DRIVER in call.turn.sends for call in part.calls):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, part.buffer_nbytes)
            prepared.outlets[DRIVER] = Outlet(DRIVER, sock)
        self._run_if_complete(key, prepared)

    def _run_if_complete(self, key: tuple[bytes, int], prepared: _Prepared) -> None:
        if prepared.expected or prepared.targets is None:
            return
        del self._prepared[key]
        passes, inlets = prepared.passes, prepared.inlets
        passes.connect(prepared.outlets, prepared.targets)
        kind = ThreadRunner if self._services.loop is None else LoopRunner
        runner = kind(self._services, passes, inlets, list(prepared.outlets.values()))
        if key[1]:
            running_here = [each for each in self._runners.get(key[1], ()) if not each.ended]
            self._runners[key[1]] = [*running_here, runner]
        runner.start()

    # ends

    def caller_gone(self, process_id: bytes) -> None:
        """Who prepared something is gone: what was not started will not be."""
        for key, prepared in list(self._prepared.items()):
            if prepared.creator == process_id:
                self._drop(key)

    def actor_gone(self, slot: int) -> None:
        """A light actor is over."""
        for runner in self._runners.pop(slot, ()):
            runner.stop()
        for key in [key for key in self._prepared if key[1] == slot]:
            self._drop(key)

    def _drop(self, key: tuple[bytes, int]) -> None:
        prepared = self._prepared.pop(key)
        for inlet in prepared.inlets:
            inlet.close()
        for outlet in prepared.outlets.values():
            outlet.close()
