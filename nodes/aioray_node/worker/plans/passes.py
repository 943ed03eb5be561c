"""What an actor does in each pass of a compiled graph, whoever waits for its values: a thread, or the event loop."""

from __future__ import annotations

import asyncio
import collections
import pickle
from typing import TYPE_CHECKING, Any

from aioray.dag.schedule import DRIVER, TICK
from aioray.exceptions import RayError, RayTaskError, UnserializableException
from aioray.runtime.errors import serialized_error, task_error
from aioray.runtime.handing_over import hand_over, is_small, leave, take
from aioray.runtime.objects import serialize_value
from aioray.runtime.serialization import serialize_plain
from aioray.wire.calls import Call
from aioray.wire.control import Release
from aioray.wire.plans import Passed
from aioray.wire.values import Value, object_id
from aioray_node.worker.plans.links import LinkClosed
from aioray_node.worker.runtime import Caller, RunningCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioray.dag.parts import BoundCall, Part, Target
    from aioray.runtime.handing_over import HandedOver
    from aioray_node.worker.hosted_actor import HostedActor
    from aioray_node.worker.plans.links import Outlet
    from aioray_node.worker.runtime import WorkerRuntime


_loads = pickle.loads
Brought = Call  # it has the value as its argument: those of calls are brought alike


class Failure:
    """Stands where a value would: the error that made there be none, as it travels on."""

    __slots__ = ("value",)

    def __init__(self, value: Value) -> None:
        self.value = value


class PreparedCall:
    """A call with all that can be looked up before the first pass."""

    __slots__ = (
        "bound", "drops", "function", "keeps", "names", "number", "positions", "reads", "running", "taker_ids",
        "takers", "template", "template_kwargs", "to_driver",
    )  # fmt: skip

    def __init__(self, bound: BoundCall, constants: Sequence[Any], actor: HostedActor, running: RunningCall) -> None:
        turn = bound.turn
        self.bound = bound
        self.number = turn.number
        self.reads, self.drops, self.keeps = turn.reads, turn.drops, turn.keeps
        self.function = running.function = actor.method(bound.method)
        self.running = running
        self.template: list[Any] = [None] * bound.count
        self.template_kwargs: dict[str, Any] = {}
        for place, at in bound.constants:
            if isinstance(place, str):
                self.template_kwargs[place] = constants[at]
            else:
                self.template[place] = constants[at]
        self.takers: list[Outlet] = []  # the driver's is the last
        self.taker_ids: list[bytes] = []  # processes of the others
        self.to_driver = False
        self.positions = [(place, number) for place, number in bound.values if isinstance(place, int)]
        self.names = [(place, number) for place, number in bound.values if isinstance(place, str)]

    def arguments(self, values: dict[int, Any]) -> tuple[list[Any], dict[str, Any]]:
        """What the call is given in this pass."""
        args = self.template[:]
        for at, number in self.positions:
            args[at] = values[number]
        kwargs = self.template_kwargs
        if self.names:
            kwargs = {**kwargs, **{name: values[number] for name, number in self.names}}
        return args, kwargs


class Passes:
    """One actor's part: its calls, the values that have come for later passes, and those of the pass at hand."""

    def __init__(
        self, runtime: WorkerRuntime, actor: HostedActor, part: Part, constants: Sequence[Any], caller: RunningCall
    ) -> None:
        self.runtime = runtime
        self.actor = actor
        self.part = part
        self.calls = [PreparedCall(bound, constants, actor, _running(bound, actor, caller)) for bound in part.calls]
        self.arrived: dict[int, collections.deque[Passed]] = {
            channel: collections.deque() for call in self.calls for channel in call.reads
        }
        self.values: dict[int, Any] = {}
        self.seq = 0  # of the pass at hand
        self.has_failed = False  # one of its values is none
        self._small_nbytes = runtime.config.inline_max_nbytes

    def connect(self, outlets: dict[int, Outlet], targets: dict[int, Target]) -> None:
        """Values can go."""
        for call in self.calls:
            actors = [taker for taker in call.bound.turn.sends if taker != DRIVER]
            call.to_driver = DRIVER in call.bound.turn.sends
            call.takers = [outlets[taker] for taker in actors]
            call.taker_ids = [targets[taker].process_id for taker in actors]
            if call.to_driver:
                call.takers.append(outlets[DRIVER])

    def came(self, messages: list[Any]) -> None:
        """Values came from a neighbour."""
        arrived = self.arrived
        for message in messages:
            if type(message) is Passed:
                arrived[message.channel].append(message)

    def lies_elsewhere(self, message: Passed) -> bool:
        """Whether a value has to be brought from another node before it is loaded."""
        return message.value is not None and not self.runtime.objects.bringing.is_here(message.value)

    def bring(self, message: Passed) -> Brought:
        """Wait, in a thread, until it is here."""
        assert message.value is not None
        brought = self.runtime.as_argument(message.value)
        self.runtime.wait_for_arguments(brought)
        return brought

    async def bring_on_loop(self, message: Passed) -> Brought:
        """The same on the event loop."""
        assert message.value is not None
        brought = self.runtime.as_argument(message.value)
        try:
            await self.runtime.bring_arguments(brought)
        except asyncio.CancelledError:
            leave(self.runtime, message.token)
            raise
        return brought

    def load(self, channel: int, message: Passed, brought: Brought | None = None) -> None:
        """Take a value that has come into the pass at hand; `brought`, if it had to be."""
        if brought is not None:
            ((_, message.value),) = brought.deps  # as it is here, or the error that it has become
            self.load(channel, message)
            self.runtime.let_go_of_arguments(brought)
            return
        if message.seq != self.seq:
            self.seq, self.has_failed = message.seq, False
        value = message.value
        if value is None:
            if channel != TICK:
                try:
                    self.values[channel] = _loads(message.data, buffers=message.buffers)
                except Exception as exc:  # of user code, as a rule
                    self.values[channel] = self.not_loaded(exc)
        elif value.is_error:
            self.values[channel] = Failure(value)
            self.has_failed = True
            leave(self.runtime, message.token)
        else:
            try:
                self.values[channel] = take(self.runtime, value, message.token)
            except Exception as exc:  # as above
                self.values[channel] = self.not_loaded(exc)

    def not_loaded(self, exc: Exception) -> Failure:
        """What stands for a value that user code does not unpickle."""
        return self.failure(exc, "a value of the graph, where it was unpickled")

    def failed_argument(self, call: PreparedCall) -> Failure | None:
        """The first of a call's values that is none: the call does not run."""
        for _, number in call.bound.values:
            if type(self.values[number]) is Failure:
                found: Failure = self.values[number]
                return found
        return None

    def failure(self, exc: BaseException, name: str) -> Failure:
        """What the caller gets for what user code raised in a call."""
        self.has_failed = True
        is_ours = isinstance(exc, RayError) and exc.__traceback__ is None
        error = exc if is_ours else task_error(exc, name)
        exc.__traceback__ = None  # its frames hold the arguments
        value, serialized = serialized_error(error)
        if serialized.refs:  # nobody would hold them on their way
            text = error.traceback_str if isinstance(error, RayTaskError) else str(error)
            value, _ = serialized_error(RayTaskError(name, text, UnserializableException(type(exc).__name__, text)))
        return Failure(value)

    def keep(self, call: PreparedCall, result: Any) -> None:
        """A call is through: later calls here may take what it made, and what nobody needs goes."""
        values = self.values
        if call.keeps:
            values[call.number] = result
        for number in call.drops:
            values.pop(number, None)

    # results on their way

    def pack(self, call: PreparedCall, result: Any) -> Passed | HandedOver | None:
        """What of a result goes to others: the same to all, or what the node has to know before; None for nothing."""
        if not call.takers:
            return None
        if type(result) is Failure:
            return Passed(self.seq, call.number, value=result.value)
        try:
            data = serialize_plain(result)
            if data is not None and len(data) <= self._small_nbytes:
                return Passed(self.seq, call.number, data)
            serialized = serialize_value(result)
            if is_small(self.runtime, serialized):
                return Passed(self.seq, call.number, serialized.data, [bytes(buffer) for buffer in serialized.buffers])
            result_id = self._result_id(call) if call.to_driver else b""
            return hand_over(self.runtime, serialized, call.taker_ids, result_id)
        except Exception as exc:  # a result that cannot be sent is the call's failure
            return Passed(self.seq, call.number, value=self.failure(exc, call.bound.name).value)

    def tell(self, call: PreparedCall, handed: HandedOver) -> list[Outlet]:
        """Send to each taker what was handed over, and the node knows; those whose sockets are full. Raises LinkClosed.

        The driver, who owns it, is the last.
        """
        stuck = []
        tokens = [*handed.tokens, b""] if call.to_driver else handed.tokens
        for at, (outlet, token) in enumerate(zip(call.takers, tokens, strict=True)):
            try:
                if outlet.send(Passed(self.seq, call.number, value=handed.value, token=token)):
                    stuck.append(outlet)
            except LinkClosed:
                self.leave_untold(call, handed, at)
                raise
        return stuck

    def leave_untold(self, call: PreparedCall, handed: HandedOver, told: int = 0) -> None:
        """All takers but the first `told` will never hear of it: let go of it in their names."""
        runtime = self.runtime
        for token in handed.tokens[told:]:
            leave(runtime, token)
        if call.to_driver and not runtime.closed:
            result_id = self._result_id(call)
            with runtime.reactor.lock:
                runtime.link.send(Release(self.part.driver, [result_id]))
                runtime.link.send(Release(result_id, []))

    def _result_id(self, call: PreparedCall) -> bytes:
        return object_id(self.part.driver, self.seq, call.bound.result)

    def abandon(self) -> None:
        """No more passes: let go of what has come."""
        self.values.clear()
        for queue in self.arrived.values():
            while queue:
                leave(self.runtime, queue.popleft().token)


def _running(bound: BoundCall, actor: HostedActor, caller: RunningCall) -> RunningCall:
    """What a call of the graph says of itself, in every pass."""
    call = Call(caller.call.seq, bound.method, b"")
    return RunningCall(call, Caller(caller.caller.process_id, caller.caller.job_id, caller.caller.namespace), actor)
