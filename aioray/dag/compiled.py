"""Graphs that are compiled: actors that pass values to each other over links that stay, one pass after the other."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Self

from aioray.exceptions import RayCgraphCapacityExceeded, RayChannelError, RayChannelTimeoutError
from aioray.refs import PENDING, ObjectRef
from aioray.runtime.blocking import wait_until
from aioray.runtime.passes import Pass
from aioray.runtime.plans import Plan, PlanOptions
from aioray.runtime.serialization import serialize, serialize_plain

if TYPE_CHECKING:
    from collections.abc import Generator

    from aioray.dag.compiling import Blueprint, CompileOptions
    from aioray.runtime.serialization import Serialized


class CompiledDAGRef(ObjectRef[Any]):
    """An output of one pass: a ref like any other. Awaited, got, waited for, given to other calls."""

    __slots__ = ()

    _late_error = RayChannelTimeoutError

    def __await__(self) -> Generator[Any, None, Any]:
        run = self._task
        if self._status == PENDING and isinstance(run, Pass) and run.is_alone():
            # The answer is some ten microseconds away, and to be put to sleep and woken takes as long.
            try:
                yield from run.plan.looking.until(self.done)
            except asyncio.CancelledError:
                if not self._runtime.spares_children():
                    self.cancel()
                raise
        return (yield from super().__await__())


class CompiledDAG:
    """A graph whose actors are linked to each other. Made by `DAGNode.experimental_compile`.

    It ends with `teardown()`, when it is dropped and no pass is under way, when one of its actors dies, or with the
    cluster. Until then its actors take other calls, too: one of their own calls runs between two of the graph's.
    """

    def __init__(self, blueprint: Blueprint, options: CompileOptions) -> None:
        runtime = self._runtime = blueprint.actors[0].runtime
        self._blueprint = blueprint
        self._options = options
        self._outputs = tuple(dict.fromkeys(blueprint.outputs))
        self._small_nbytes = runtime.config.inline_max_nbytes
        self._submitting = threading.Lock()  # passes are sent in the order of their numbers
        plan_options = PlanOptions(options.max_inflight_executions, options.buffer_size_bytes)
        self._plan = Plan(
            runtime, blueprint.actors, blueprint.schedule, blueprint.calls, blueprint.constants, plan_options
        )

    @classmethod
    def start(cls, blueprint: Blueprint, options: CompileOptions) -> Self:
        """Compile, and wait, where waiting is allowed, until the actors have their parts. Raises why they have not."""
        compiled = cls(blueprint, options)
        if not compiled._runtime.reactor.in_loop():
            try:
                wait_until(compiled._runtime, lambda: compiled._plan.state != "opening", None)
                compiled._may_begin()
            except BaseException:
                compiled.teardown()
                raise
        return compiled

    # executing

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run a pass; its output, at once, as a ref; a list of refs where the graph ends with a MultiOutputNode.

        With as many passes under way as may be (`_max_inflight_executions`) it waits for room, `_submit_timeout`
        seconds at most; in an event loop it does not wait. Raises RayCgraphCapacityExceeded then; TypeError when the
        arguments are not those of the graph's InputNode; and what has ended the graph, if something has.
        """
        values = self._values(args, kwargs)
        plan = self._plan
        if plan.error is not None or not plan.flight.has_room():
            self._wait_for_room()
        return self._begin(values)

    async def execute_async(self, *args: Any, **kwargs: Any) -> Any:
        """The same in an event loop, where it awaits room: `ref = await graph.execute_async(x); value = await ref`."""
        values = self._values(args, kwargs)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._options.submit_timeout):
                while not self._may_begin():
                    changed = asyncio.Event()
                    with self._runtime.reactor.lock:
                        if not self._may_begin():
                            self._plan.when_changed(_setter(loop, changed))
                        else:
                            break
                    await changed.wait()
        except TimeoutError:
            raise self._no_room(waited=True) from None
        return self._begin(values)

    def _values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, Serialized | bytes]:
        """The values that a pass is given, pickled; of small ones that need no care just the stream."""
        values: dict[int, Serialized | bytes] = {}
        for number, value in self._blueprint.input_values(args, kwargs).items():
            data = serialize_plain(value)
            is_small = data is not None and len(data) <= self._small_nbytes
            values[number] = data if data is not None and is_small else serialize(value, "execute()")
        return values

    def _may_begin(self) -> bool:
        """Whether there is room for a pass. Raises what has ended the graph."""
        plan = self._plan
        self._runtime.require_open()
        if plan.error is not None:
            raise plan.error.with_traceback(None)  # it is raised again and again
        return plan.flight.has_room()

    def _wait_for_room(self) -> None:
        plan, runtime = self._plan, self._runtime
        if self._may_begin():
            return
        if runtime.reactor.in_loop():
            raise self._no_room(waited=False)
        wait_until(runtime, lambda: plan.error is not None or plan.flight.has_room(), self._options.submit_timeout)
        if not self._may_begin():
            raise self._no_room(waited=True)

    def _no_room(self, *, waited: bool) -> RayCgraphCapacityExceeded:
        flight = self._plan.flight
        after = f" after {self._options.submit_timeout:g} s" if waited else ""
        return RayCgraphCapacityExceeded(
            f"{len(flight.missing)} passes of the graph are under way{after}, _max_inflight_executions={flight.limit}"
        )

    def _begin(self, values: dict[int, Serialized | bytes]) -> Any:
        runtime, plan = self._runtime, self._plan
        with self._submitting:
            if not self._may_begin():  # another thread was faster
                raise self._no_room(waited=False)
            seq = runtime.next_seq()
            refs: dict[int, ObjectRef[Any]] = {
                output: CompiledDAGRef(runtime, seq, index) for index, output in enumerate(self._outputs)
            }
            run = Pass(plan, seq, self._blueprint.name, refs, values, self)
            for ref in refs.values():
                ref._task = run
            plan.begin(run)
        if self._blueprint.is_list:
            return [refs[output] for output in self._blueprint.outputs]
        return refs[self._blueprint.outputs[0]]

    # ends

    def teardown(self, kill_actors: bool = False) -> None:
        """End it. Passes under way raise RayChannelError; actors are as before when they are out of the call at hand.

        kill_actors: end them, too. Safe to call twice.
        """
        from aioray.actors import ActorHandle
        from aioray.api import kill

        with self._runtime.reactor.lock:
            self._plan.close(RayChannelError("the compiled graph was torn down"), expected=True)
        if kill_actors:
            for actor in self._blueprint.actors:
                kill(ActorHandle(actor))

    def __del__(self) -> None:
        plan = getattr(self, "_plan", None)
        if plan is not None and plan.error is None and not self._runtime.reactor.closed:
            error = RayChannelError("the compiled graph was dropped")
            self._runtime.reactor.call_soon(lambda: plan.close(error, expected=True))

    def visualize(self) -> str:
        """The plan as text: each actor with its calls, in order, what they take and who gets what they make."""
        return self._blueprint.text()

    def __repr__(self) -> str:
        return f"<CompiledDAG {self._blueprint.name}, {self._plan.state}>"


def _setter(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> Any:
    return lambda: loop.call_soon_threadsafe(event.set)
