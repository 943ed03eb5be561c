"""Passes of a compiled graph on an event loop: of async and of light actors."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any, NoReturn

from aioray.exceptions import AsyncioActorExit
from aioray.runtime.handing_over import HandedOver
from aioray.wire.plans import Passed
from aioray_node.worker.in_thread import in_thread
from aioray_node.worker.plans.arrival import Arrival
from aioray_node.worker.plans.links import LinkClosed
from aioray_node.worker.plans.passes import Failure
from aioray_node.worker.plans.stage import Stage
from aioray_node.worker.runtime import running

if TYPE_CHECKING:
    from aioray_node.worker.checkpoints import Saver
    from aioray_node.worker.lanes import Services
    from aioray_node.worker.plans.links import Inlet, Outlet
    from aioray_node.worker.plans.passes import Passes, PreparedCall


class LoopRunner:
    """Runs passes until a neighbour hangs up; other calls of the actor run while these await."""

    def __init__(self, services: Services, passes: Passes, inlets: list[Inlet], outlets: list[Outlet]) -> None:
        assert services.loop is not None
        self._services = services
        self._loop = services.loop
        self._passes = passes
        self._inlets = inlets
        self._outlets = outlets
        self._open = set(inlets)
        self._stuck: dict[int, list[Outlet]] = {}  # by descriptor: their sockets are full
        self._arrival = Arrival(services.loop)
        self._task: asyncio.Task[None]
        self.ended = False

    def start(self) -> None:
        """Begin with the first pass. In the loop's thread."""
        for inlet in self._inlets:
            inlet.sock.setblocking(False)
            self._passes.came(inlet.early)
            self._loop.add_reader(inlet.sock, self._readable, inlet)
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._end)

    def stop(self) -> None:
        """The actor is over."""
        self._task.cancel()

    # arrivals

    def _readable(self, inlet: Inlet) -> None:
        try:
            messages = inlet.read()
        except BlockingIOError:
            return
        except LinkClosed:
            self._hung_up(inlet)
            return
        self._passes.came(messages)
        if self.ended:
            self._passes.abandon()
        else:
            self._arrival.tell()

    def _hung_up(self, inlet: Inlet) -> None:
        self._loop.remove_reader(inlet.sock)
        self._open.discard(inlet)
        if not self.ended:
            self._task.cancel()
        self._close_if_through()

    # passes

    async def _run(self) -> None:
        passes = self._passes
        stage = Stage.of(passes, self._inlets)
        try:
            if stage is not None:
                await self._run_stage(stage)
            while True:
                for call in passes.calls:
                    for channel in call.reads:
                        while not passes.arrived[channel]:
                            await self._arrival
                        message = passes.arrived[channel].popleft()
                        brought = await passes.bring_on_loop(message) if passes.lies_elsewhere(message) else None
                        passes.load(channel, message, brought)
                    failed = passes.failed_argument(call) if passes.has_failed else None
                    result = failed or await self._call(call, *call.arguments(passes.values))
                    await self._send(call, result)
                    passes.keep(call, result)
                    del result
        except LinkClosed:
            return

    async def _run_stage(self, stage: Stage) -> NoReturn:
        """Passes of a part that is one call with one value."""
        call, queue = stage.call, stage.queue
        while True:
            while not queue:
                await self._arrival
            message = queue.popleft()
            brought = None
            if message.value is not None and self._passes.lies_elsewhere(message):
                brought = await self._passes.bring_on_loop(message)
            args = stage.take(message, brought)
            result = args if isinstance(args, Failure) else await self._call(call, args, call.template_kwargs)
            stuck = stage.send(result)
            if stuck is None:
                await self._send(call, result)
            else:
                for outlet in stuck:
                    self._wait_writable(outlet)
            del message, args, result  # nothing is kept until the next pass

    async def _call(self, call: PreparedCall, args: list[Any], kwargs: dict[str, Any]) -> Any:
        actor, in_flight = self._passes.actor, self._services.in_flight
        running.set(call.running)
        if in_flight is not None:
            in_flight.begin(actor.spec.slot)
        try:
            if actor.runs_on_loop(call.bound.method):
                result = call.function(*args, **kwargs)
            else:  # it would stall every other call of the actor
                result = await in_thread(self._services.threads, functools.partial(call.function, *args, **kwargs))
            if inspect.iscoroutine(result):
                result = await result
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            result = self._passes.failure(exc, call.bound.name)  # user code raised it
        except (SystemExit, KeyboardInterrupt, AsyncioActorExit) as exc:
            self._services.on_exit(actor, exc)
            raise LinkClosed from exc
        except BaseException as exc:  # whatever user code raises is its caller's
            result = self._passes.failure(exc, call.bound.name)
        finally:
            if in_flight is not None:
                in_flight.over(actor.spec.slot)
            if call.running.awaiting:
                self._services.runtime.call_over(call.running)
        if actor.saver is not None:
            await self._save_if_due(actor.saver)
        return result

    async def _save_if_due(self, saver: Saver) -> None:
        """Take a checkpoint; what the call made goes on only when that is in the journal."""
        if saver.call_done():
            await saver.save_on_loop()
        newest = saver.unacknowledged
        if newest is not None:
            known = asyncio.Event()
            with self._services.reactor.lock:
                newest.when_done(known.set)
            await known.wait()

    async def _send(self, call: PreparedCall, result: Any) -> None:
        packed = self._passes.pack(call, result)
        if packed is None:
            return
        if type(packed) is Passed:
            stuck = [outlet for outlet in call.takers if outlet.send(packed)]
        else:
            assert isinstance(packed, HandedOver)
            known = asyncio.Event()
            with self._services.reactor.lock:
                packed.when_known(known.set)
            try:
                await known.wait()
            except asyncio.CancelledError:
                self._passes.leave_untold(call, packed)
                raise
            stuck = self._passes.tell(call, packed)
        for outlet in stuck:
            self._wait_writable(outlet)

    def _wait_writable(self, outlet: Outlet) -> None:
        fd = outlet.sock.fileno()
        if fd not in self._stuck:
            self._stuck[fd] = [outlet]
            self._loop.add_writer(fd, self._writable, fd)

    def _writable(self, fd: int) -> None:
        try:
            if any(outlet.flush() for outlet in self._stuck[fd]):
                return
        except LinkClosed:
            self._task.cancel()
        self._loop.remove_writer(fd)
        del self._stuck[fd]

    # the end

    def _end(self, task: asyncio.Task[None]) -> None:
        """Neighbours hear that no more comes; what they still send is let go of, until they hang up, too."""
        self.ended = True
        if not task.cancelled() and task.exception() is not None:
            log = self._services.runtime.log
            log.error("aioray: an error in aioray itself, in a compiled graph", exc_info=task.exception())
        for fd in self._stuck:
            self._loop.remove_writer(fd)
        self._stuck.clear()
        for outlet in self._outlets:
            outlet.hang_up()
        self._passes.abandon()
        self._close_if_through()

    def _close_if_through(self) -> None:
        if self.ended and not self._open:
            for inlet in self._inlets:
                inlet.close()
            for outlet in self._outlets:
                outlet.close()
