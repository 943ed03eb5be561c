"""Passes of a compiled graph in a thread: of actors whose methods block.

The thread waits in `recv` itself, on the one socket its next value comes from as a rule: that is a quarter of what a
call costs that the reactor takes in and the main thread runs.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from aioray.runtime.handing_over import HandedOver
from aioray.wire.plans import Passed
from aioray_node.worker.plans.links import LinkClosed
from aioray_node.worker.plans.lookout import Lookout
from aioray_node.worker.plans.passes import Failure
from aioray_node.worker.plans.stage import Stage
from aioray_node.worker.runtime import running

if TYPE_CHECKING:
    from aioray_node.worker.checkpoints import Saver
    from aioray_node.worker.lanes import Services
    from aioray_node.worker.plans.links import Inlet, Outlet
    from aioray_node.worker.plans.passes import Passes, PreparedCall


class ThreadRunner:
    """Runs passes until a neighbour hangs up."""

    def __init__(self, services: Services, passes: Passes, inlets: list[Inlet], outlets: list[Outlet]) -> None:
        self._services = services
        self._passes = passes
        self._inlets = inlets
        self._outlets = outlets
        self._stuck: set[Outlet] = set()  # their sockets are full
        self._turn = passes.actor.turn
        self._saver = passes.actor.saver
        self.ended = False
        look_us = passes.part.look_times * services.runtime.config.spin_us
        self._look_s = look_us / 1e6 if len(os.sched_getaffinity(0)) > 1 else 0.0
        # A daemon: it may be in user code that does not end, and the process must.
        self._thread = threading.Thread(target=self._run, name="aioray-plan", daemon=True)

    def start(self) -> None:
        """Begin with the first pass."""
        for inlet in self._inlets:
            inlet.sock.setblocking(True)
            self._passes.came(inlet.early)
        self._thread.start()

    def stop(self) -> None:
        """The actor is over. Its process goes with it, and so does the thread."""

    def _run(self) -> None:
        stage = Stage.of(self._passes, self._inlets)
        try:
            if stage is not None:
                self._run_stage(stage)
            while True:
                self._run_pass()
        except LinkClosed:
            pass
        except Exception:  # who waits for values hears that the link is closed
            self._services.runtime.log.exception("aioray: an error in aioray itself, in a compiled graph")
        finally:
            self._end()

    def _run_pass(self) -> None:
        passes = self._passes
        arrived = passes.arrived
        for call in passes.calls:
            for channel in call.reads:
                queue = arrived[channel]
                while not queue:
                    self._receive()
                message = queue.popleft()
                brought = passes.bring(message) if passes.lies_elsewhere(message) else None
                passes.load(channel, message, brought)
            failed = passes.failed_argument(call) if passes.has_failed else None
            result = failed or self._call(call)
            self._send(call, result)
            passes.keep(call, result)
            del result

    def _run_stage(self, stage: Stage) -> NoReturn:
        """Passes of a part that is one call with one value."""
        call, queue = stage.call, stage.queue
        read = stage.inlet.read
        lookout = Lookout(stage.inlet.sock, self._look_s) if self._look_s else None
        running.set(call.running)
        while True:
            if queue:
                message = queue.popleft()
            elif self._stuck:
                self._receive()
                continue
            else:
                if lookout is not None:
                    lookout.look()
                messages = read()
                if len(messages) != 1:
                    queue.extend(messages)
                    continue
                message = messages[0]
            brought = None
            if message.value is not None and self._passes.lies_elsewhere(message):
                brought = self._passes.bring(message)
            args = stage.take(message, brought)
            result = args if isinstance(args, Failure) else self._run_call(call, args, call.template_kwargs)
            stuck = stage.send(result)
            if stuck is None:
                self._send(call, result)
            elif stuck:
                self._stuck.update(stuck)
            del message, args, result  # nothing is kept until the next pass

    def _call(self, call: PreparedCall) -> Any:
        args, kwargs = call.arguments(self._passes.values)
        token = running.set(call.running)
        try:
            return self._run_call(call, args, kwargs)
        finally:
            running.reset(token)

    def _run_call(self, call: PreparedCall, args: list[Any], kwargs: dict[str, Any]) -> Any:
        turn = self._turn
        try:
            if turn is None:
                return call.function(*args, **kwargs)
            with turn:
                return call.function(*args, **kwargs)
        except SystemExit as exc:
            self._services.on_exit(self._passes.actor, exc)
            raise LinkClosed from exc
        except BaseException as exc:  # whatever user code raises is its caller's
            return self._passes.failure(exc, call.bound.name)
        finally:
            if self._saver is not None:
                self._save_if_due(self._saver)
            if call.running.awaiting:
                self._services.runtime.call_over(call.running)

    def _save_if_due(self, saver: Saver) -> None:
        """Take a checkpoint; what the call made goes on only when that is in the journal."""
        if saver.call_done():
            if self._turn is None:
                saver.save()
            else:
                with self._turn:
                    saver.save()
        newest = saver.unacknowledged
        if newest is not None:
            self._services.runtime.reactor.run_until(lambda: newest.done)

    def _send(self, call: PreparedCall, result: Any) -> None:
        packed = self._passes.pack(call, result)
        if packed is None:
            return
        if type(packed) is Passed:
            for outlet in call.takers:
                if outlet.send(packed):
                    self._stuck.add(outlet)
            return
        assert isinstance(packed, HandedOver)
        handed: HandedOver = packed
        self._services.runtime.reactor.run_until(lambda: handed.is_known)
        self._stuck.update(self._passes.tell(call, handed))

    def _receive(self) -> None:
        """Wait until something has come. Raises LinkClosed."""
        inlets = self._inlets
        if len(inlets) == 1 and not self._stuck:
            self._passes.came(inlets[0].read())
            return
        poll = select.poll()
        for inlet in inlets:
            poll.register(inlet.sock, select.POLLIN)
        for outlet in self._stuck:
            events = select.POLLOUT | (select.POLLIN if any(outlet.sock is each.sock for each in inlets) else 0)
            poll.register(outlet.sock, events)
        ready = dict(poll.poll())
        for outlet in list(self._stuck):
            if ready.get(outlet.sock.fileno(), 0) & ~select.POLLIN and not outlet.flush():
                self._stuck.discard(outlet)
        for inlet in inlets:
            if ready.get(inlet.sock.fileno(), 0) & ~select.POLLOUT:
                self._passes.came(inlet.read())

    def _end(self) -> None:
        """Neighbours hear that no more comes; what they still send is let go of, until they hang up, too."""
        self.ended = True
        for outlet in self._outlets:
            outlet.hang_up()
        self._passes.abandon()
        for inlet in self._inlets:
            try:
                while True:
                    self._passes.came(inlet.read())
                    self._passes.abandon()
            except LinkClosed:
                inlet.close()
        for outlet in self._outlets:
            outlet.close()
