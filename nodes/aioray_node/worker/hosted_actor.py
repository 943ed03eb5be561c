"""One actor of this process: its object, its methods, and the lanes in which its calls run."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
from typing import TYPE_CHECKING, Any

from aioray.actors import groups_of
from aioray.async_classes import is_async
from aioray.checkpoints import RESTORE, period_of
from aioray.dag.parts import PREPARE, START
from aioray_node.worker.checkpoints import Saver
from aioray_node.worker.exits import ActorExit
from aioray_node.worker.lanes import LoopLane, ThreadLane
from aioray_node.worker.methods import TERMINATE, method_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from aioray.runtime.connection import Connection
    from aioray.wire.control import ActorSpec
    from aioray_node.worker.lanes import Item, Lane, Services
    from aioray_node.worker.runtime import RunningCall

TERMINATED = "it exited on purpose: __ray_terminate__ was called"
ASYNC_CONCURRENCY = 1000  # calls of an async actor at once, unless max_concurrency says otherwise


class ActorKind:
    """What all actors of one class have in common."""

    def __init__(self, cls: type, methods: Mapping[str, Any]) -> None:
        self.cls = cls
        self.on_loop = frozenset(name for name in methods if name and is_async(getattr(cls, name, None)))
        self.groups = groups_of(cls)
        self.constructor_is_coroutine = inspect.iscoroutinefunction(getattr(cls, "__init__", None))
        self.restore_is_coroutine = inspect.iscoroutinefunction(getattr(cls, RESTORE, None))
        self.checkpoint_period = period_of(cls)


class HostedActor:
    """Small: a process may have a hundred thousand of them."""

    __slots__ = ("_lanes", "_services", "instance", "is_up", "kind", "saver", "spec", "take", "turn")

    def __init__(self, spec: ActorSpec, kind: ActorKind) -> None:
        self.spec = spec
        self.kind = kind
        self.instance: Any = None
        self.is_up = False  # constructed, and not over yet
        self.saver: Saver | None = None
        self.turn: Any = None  # an RLock: a call, or one of a compiled graph, where one runs at a time and both may
        self._services: Services
        self._lanes: dict[str, Lane] = {}
        self.take: Callable[[Item], None] = _nobody_knows_it_yet

    def method(self, name: str) -> Callable[..., Any]:
        """What a call of `name` runs."""
        if name == TERMINATE:
            return self._terminate_on_loop if self._services.loop is not None else self._terminate
        if name == PREPARE:
            return functools.partial(self._services.plans.prepare, self)
        if name == START:
            return functools.partial(self._services.plans.start, self)
        return method_of(self.instance, name)

    def runs_on_loop(self, name: str) -> bool:
        """Whether that method is asynchronous."""
        return name in self.kind.on_loop or name in (TERMINATE, PREPARE, START)

    def _terminate(self) -> None:
        """Leave, when what came before is through."""
        lanes = [lane for lane in self._lanes.values() if isinstance(lane, ThreadLane)]
        concurrent.futures.wait([future for lane in lanes for future in lane.under_way()])
        raise ActorExit(TERMINATED)

    async def _terminate_on_loop(self) -> None:
        lanes = [lane for lane in self._lanes.values() if isinstance(lane, LoopLane)]
        others = [task for lane in lanes for task in lane.under_way()]
        if others:
            await asyncio.wait(others)
        raise ActorExit(TERMINATED)

    # lanes

    def open_lanes(self, services: Services) -> None:
        """It is constructed: calls may come."""
        spec = self.spec
        lanes = self._lanes
        self._services = services
        if services.loop is not None:
            lanes[""] = LoopLane(services, self, limit=spec.max_concurrency or ASYNC_CONCURRENCY)
            for group, limit in spec.concurrency_groups.items():
                lanes[group] = LoopLane(services, self, limit=limit)
        else:
            main = ThreadLane(services, self, limit=spec.max_concurrency) if spec.max_concurrency > 1 else None
            lanes[""] = main or services.main_lane
            for group, limit in spec.concurrency_groups.items():
                lanes[group] = ThreadLane(services, self, limit=limit)
        self.take = self._take_by_group if len(lanes) > 1 else lanes[""].take
        period = self.kind.checkpoint_period
        if period is not None and (spec.max_restarts < 0 or spec.restarts < spec.max_restarts):
            self.saver = Saver(services, self, *period)
        self.is_up = True

    def _take_by_group(self, item: Item) -> None:
        connection, call = item
        group = call.group or self.kind.groups.get(call.fn, "")
        lane = self._lanes.get(group)
        if lane is None:
            known = ", ".join(sorted(self._lanes)[1:])
            error = ValueError(f"actor {self.spec.cls} has no concurrency group {group!r}; it has: {known}")
            self._services.replier.error(connection, call, error, 0)
        else:
            lane.take(item)

    def running_calls(self) -> Iterator[RunningCall]:
        """Calls that run now, but for those in the main thread. The lock is held."""
        for lane in self._lanes.values():
            if isinstance(lane, (ThreadLane, LoopLane)):
                yield from lane.running_calls()

    def task_of(self, call: RunningCall) -> asyncio.Task[None] | None:
        """The asyncio task in which a call runs; None when it is through, or has none."""
        lanes = [lane for lane in self._lanes.values() if isinstance(lane, LoopLane)]
        return next((task for lane in lanes if (task := lane.task_of(call)) is not None), None)

    # the end

    def cancel(self, connection: Connection, seq: int, *, recursive: bool) -> bool:
        """Cancel a call; False when it is in no lane."""
        return any(lane.cancel(connection, seq, recursive=recursive) for lane in self._lanes.values())

    async def join(self) -> None:
        """Wait, on the loop, until all calls that have come are through."""
        lanes = [lane for lane in self._lanes.values() if isinstance(lane, LoopLane)]
        while not all(lane.idle for lane in lanes):
            for lane in lanes:
                await lane.join()

    def join_threads(self) -> None:
        """Wait, blocking, until all calls in threads are through."""
        for lane in self._lanes.values():
            if isinstance(lane, ThreadLane):
                lane.join()

    def abort(self) -> None:
        """It is to be gone now: cancel what runs on the loop. Nothing of it is answered any more."""
        self.is_up = False
        for lane in self._lanes.values():
            if isinstance(lane, LoopLane):
                lane.abort()


def _nobody_knows_it_yet(item: Item) -> None:
    raise AssertionError(f"{item[1].fn} was called before the actor was there")
