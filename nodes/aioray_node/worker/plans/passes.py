"""What an actor does in each pass of a compiled graph, whoever waits for its values: a thread, or the event loop."""

from __future__ import annotations

import collections
import inspect
from typing import TYPE_CHECKING, Any

from aioray.dag.schedule import DRIVER, TICK
from aioray.exceptions import RayError, RayTaskError, UnserializableException
from aioray.runtime.errors import serialized_error, task_error
from aioray.runtime.handing_over import hand_over, is_small, leave, take
from aioray.runtime.objects import serialize_value
from aioray.runtime.serialization import deserialize
from aioray.wire.calls import Call
from aioray.wire.plans import Passed
from aioray.wire.values import Value, object_id
from aioray_node.worker.runtime import Caller, RunningCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioray.dag.parts import BoundCall, Part, Target
    from aioray.runtime.handing_over import HandedOver
    from aioray.runtime.serialization import Serialized
    from aioray_node.worker.hosted_actor import HostedActor
    from aioray_node.worker.plans.links import Outlet
    from aioray_node.worker.runtime import WorkerRuntime


class Failure:
    """Stands where a value would: the error that made there be none, as it travels on."""

    __slots__ = ("value",)

    def __init__(self, value: Value) -> None:
        self.value = value


class PreparedCall:
    """A call with all that can be looked up before the first pass."""

    __slots__ = ("bound", "drops", "function", "keeps", "names", "number", "positions", "reads", "running", "template",
                 "template_kwargs")  # fmt: skip

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
        self._outlets: dict[int, tuple[list[Outlet], list[bytes], Outlet | None]] = {}

    def connect(self, outlets: dict[int, Outlet], targets: dict[int, Target]) -> None:
        """Values can go: by call, to the actors in the order of its turn, and to the driver."""
        for call in self.calls:
            actors = [taker for taker in call.bound.turn.sends if taker != DRIVER]
            driver = outlets[DRIVER] if DRIVER in call.bound.turn.sends else None
            takers = [targets[taker].process_id for taker in actors]
            self._outlets[call.number] = [outlets[taker] for taker in actors], takers, driver

    def came(self, messages: list[Any]) -> None:
        """Values came from a neighbour."""
        for message in messages:
            if type(message) is Passed:
                self.arrived[message.channel].append(message)

    def load(self, channel: int) -> None:
        """Take the next value of a channel, which is there, into the pass at hand."""
        message = self.arrived[channel].popleft()
        self.seq = message.seq
        if channel == TICK:
            return
        value = message.value
        if value is None:
            try:
                self.values[channel] = deserialize(message.data, message.buffers, None)
            except Exception as exc:  # of user code, as a rule
                self.values[channel] = self.failure(exc, "a value of the graph, where it was unpickled")
        elif value.is_error:
            self.values[channel] = Failure(value)
        else:
            try:
                self.values[channel] = take(self.runtime, value, message.token)
            except Exception as exc:  # as above
                self.values[channel] = self.failure(exc, "a value of the graph, where it was unpickled")

    def failed_argument(self, call: PreparedCall) -> Failure | None:
        """The first of a call's values that is none: the call does not run."""
        for _, number in call.bound.values:
            if type(self.values[number]) is Failure:
                found: Failure = self.values[number]
                return found
        return None

    def failure(self, exc: BaseException, name: str) -> Failure:
        """What the caller gets for what user code raised in a call."""
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

    def pack(self, call: PreparedCall, result: Any) -> Failure | Serialized | HandedOver | None:
        """What of a result goes to others; None where nobody takes it."""
        if type(result) is Failure:
            return result
        outlets, takers, driver = self._outlets[call.number]
        if not outlets and driver is None:
            return None
        try:
            serialized = serialize_value(result)
            if is_small(self.runtime, serialized):
                return serialized
            result_id = b"" if driver is None else object_id(self.part.driver, self.seq, call.bound.result)
            return hand_over(self.runtime, serialized, takers, result_id)
        except Exception as exc:  # a result that cannot be sent is the call's failure
            return self.failure(exc, call.bound.name)

    def messages(self, call: PreparedCall, packed: Failure | Serialized | HandedOver) -> list[tuple[Outlet, Passed]]:
        """What goes to whom. What was handed over is known to the node."""
        outlets, _, driver = self._outlets[call.number]
        seq, number = self.seq, call.number
        everybody = outlets if driver is None else [*outlets, driver]
        if type(packed) is Failure:
            message = Passed(seq, number, value=packed.value)
            return [(outlet, message) for outlet in everybody]
        tokens = getattr(packed, "tokens", None)
        if tokens is None:
            message = Passed(seq, number, packed.data, [bytes(buffer) for buffer in packed.buffers])  # type: ignore[union-attr]
            return [(outlet, message) for outlet in everybody]
        value: Value = packed.value  # type: ignore[union-attr]
        sent = [
            (outlet, Passed(seq, number, value=value, token=token))
            for outlet, token in zip(outlets, tokens, strict=True)
        ]
        return sent if driver is None else [*sent, (driver, Passed(seq, number, value=value))]

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


def is_awaitable(result: Any) -> bool:
    """Whether a method returned something that is for an event loop to finish."""
    return inspect.iscoroutine(result)
