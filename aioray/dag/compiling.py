"""From a graph as it was written down to the plan of its actors: what can be compiled, and with which options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray.dag import graph
from aioray.dag.context import DAGContext
from aioray.dag.input import InputAttributeNode, InputNode
from aioray.dag.nodes import ClassMethodNode, ClassNode, DAGNode, Given, MultiOutputNode
from aioray.dag.parts import BoundCall
from aioray.dag.schedule import DRIVER, TICK, PlannedCall, schedule
from aioray.exceptions import InvalidOptionError
from aioray.options import METHOD_DEFAULTS
from aioray.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioray.actors import ActorMethod
    from aioray.dag.schedule import Schedule, Turn
    from aioray.runtime.actor_lines import RemoteActor

_NO_GPU_CHANNELS = "not there yet: values go over sockets and shared memory, not from GPU to GPU"
_NOT_YET = {  # Ray's other options: the one value of each that asks for nothing, and why nothing else may be given
    "_asyncio_max_queue_size": (None, "not there yet: no input waits in a queue, execute_async awaits room for it"),
    "_max_buffered_results": (None, "not there yet: outputs are refs, and are kept as long as somebody has them"),
    "_overlap_gpu_communication": (False, _NO_GPU_CHANNELS),
    "_default_communicator": ("create", _NO_GPU_CHANNELS),
}


class CompileOptions(Record, frozen=True):
    """Final values of what `experimental_compile` was given."""

    submit_timeout: float  # s
    buffer_size_bytes: int
    max_inflight_executions: int


def compile_options(given: Mapping[str, Any]) -> CompileOptions:
    """Check options, and take the others from the DAGContext. Raises InvalidOptionError."""
    context = DAGContext.get_current()
    known: dict[str, Any] = {
        "_submit_timeout": context.submit_timeout,
        "_buffer_size_bytes": context.buffer_size_bytes,
        "_max_inflight_executions": context.max_inflight_executions,
        "enable_asyncio": False,
    }
    for name, value in given.items():
        if name in _NOT_YET:
            asks_for_nothing, reason = _NOT_YET[name]
            if value != asks_for_nothing:
                raise InvalidOptionError(name, value, repr(asks_for_nothing), reason)
        elif name not in known:
            raise InvalidOptionError(name, value, ", ".join(known), "no such option of experimental_compile")
        elif value is not None:
            known[name] = value
    if not isinstance(known["enable_asyncio"], bool):
        raise InvalidOptionError("enable_asyncio", known["enable_asyncio"], "True, False", "not a bool")
    timeout = known["_submit_timeout"]
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidOptionError("_submit_timeout", timeout, "seconds, 0 or more")
    for name in ("_buffer_size_bytes", "_max_inflight_executions"):
        value = known[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidOptionError(name, value, "a whole number, 1 or more")
    return CompileOptions(timeout, known["_buffer_size_bytes"], known["_max_inflight_executions"])


class Blueprint(Record, frozen=True):
    """A graph, ready to be given to its actors."""

    name: str
    order: tuple[DAGNode, ...]  # values have their places here as numbers
    actors: tuple[RemoteActor, ...]
    schedule: Schedule
    calls: tuple[tuple[BoundCall, ...], ...]  # by actor
    constants: tuple[tuple[Any, ...], ...]  # by actor
    outputs: tuple[int, ...]
    is_list: bool
    has_input: bool
    sole_input: int | None  # the only value that a pass is given, where that is an argument as it is

    def input_values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, Any]:
        """What `execute` was given, by number. Raises TypeError when it is not what the graph takes."""
        if not self.has_input and (args or kwargs):
            raise TypeError("execute() was given arguments, but the graph has no InputNode")
        if self.sole_input is not None and len(args) == 1 and not kwargs:
            return {self.sole_input: args[0]}
        given = Given(args, kwargs)
        return {number: self.order[number]._value(given, _never) for number in self.schedule.gives if number != TICK}

    def text(self) -> str:
        """The plan, a line for each call."""
        lines = []
        for at, (actor, calls) in enumerate(zip(self.actors, self.calls, strict=True)):
            lines.append(f"actor {at}: {actor.cls} {actor.actor_id.hex()}")
            lines += [f"  {self._line(call)}" for call in calls]
        return "\n".join(lines)

    def _line(self, call: BoundCall) -> str:
        values = ", ".join(self._shown(number) for _, number in call.values)
        takers = ["the driver" if taker == DRIVER else f"actor {taker}" for taker in call.turn.sends]
        return f"{self._shown(call.turn.number)} = {call.method}({values}) -> {', '.join(takers) or 'nobody'}"

    def _shown(self, number: int) -> str:
        node = self.order[number]
        return repr(node) if isinstance(node, (InputNode, InputAttributeNode)) else f"v{number}"


def _never(node: DAGNode) -> Any:
    raise AssertionError(f"{node!r} is no part of the input")


def blueprint_of(root: DAGNode) -> Blueprint:
    """Plan a graph; creates the actors of its ClassNodes. Raises ValueError for what cannot be compiled."""
    order = graph.in_order(root)
    is_list = isinstance(root, MultiOutputNode)
    ends: Sequence[DAGNode] = root._needs if is_list else [root]
    _check(order, root, ends)
    numbers = {id(node): number for number, node in enumerate(order)}
    created = _created(order)
    actors: dict[bytes, int] = {}
    remotes: list[RemoteActor] = []
    planned: list[PlannedCall] = []
    methods: dict[int, ActorMethod] = {}
    for node in order:
        if isinstance(node, ClassMethodNode):
            method = methods[numbers[id(node)]] = _method(node, created)
            actor_id = method._actor.actor_id
            if actor_id not in actors:
                actors[actor_id] = len(remotes)
                remotes.append(method._actor)
            needs = tuple(numbers[id(each)] for each in node._needs if not isinstance(each, ClassNode))
            planned.append(PlannedCall(numbers[id(node)], actors[actor_id], needs))
    if len({id(remote.runtime) for remote in remotes}) > 1:
        raise ValueError("the actors of a compiled graph are of one cluster, these are of several")
    inputs = [numbers[id(node)] for node in order if isinstance(node, (InputNode, InputAttributeNode))]
    outputs = tuple(numbers[id(node)] for node in ends)
    plan = schedule(planned, inputs, outputs)
    results = {output: index for index, output in enumerate(plan.takes)}
    calls, constants = [], []
    for part in plan.parts:
        own: list[Any] = []
        calls.append(
            tuple(_bound(turn, order[turn.number], methods[turn.number], numbers, own, results) for turn in part.turns)
        )
        constants.append(tuple(own))
    name = " -> ".join(dict.fromkeys(methods[number]._target.name for number in outputs))
    return Blueprint(
        name, tuple(order), tuple(remotes), plan, tuple(calls), tuple(constants), outputs, is_list,
        any(isinstance(node, InputNode) for node in order), _sole_input(order, plan),
    )  # fmt: skip


def _sole_input(order: Sequence[DAGNode], plan: Schedule) -> int | None:
    """The number of the InputNode, where actors are given nothing else in a pass."""
    (number, *others) = plan.gives
    return number if not others and number != TICK and isinstance(order[number], InputNode) else None


def _check(order: Sequence[DAGNode], root: DAGNode, ends: Sequence[DAGNode]) -> None:
    """Raises ValueError for nodes that a compiled graph cannot have."""
    inputs = [node for node in order if isinstance(node, InputNode)]
    if len(inputs) > 1:
        raise ValueError(f"a graph has one InputNode, this one has {len(inputs)}")
    for node in order:
        if isinstance(node, MultiOutputNode) and node is not root:
            raise ValueError("a MultiOutputNode is the end of a graph, not a part of it")
        if not isinstance(node, (InputNode, InputAttributeNode, ClassNode, ClassMethodNode, MultiOutputNode)):
            raise ValueError(
                f"a compiled graph has only methods of actors, not {node!r}: a task has no actor to stay at"
            )
    if not ends:
        raise ValueError("a compiled graph has an output, this MultiOutputNode has none")
    for node in ends:
        if not isinstance(node, ClassMethodNode):
            raise ValueError(f"a compiled graph ends with methods of actors, not with {node!r}")


def _created(order: Sequence[DAGNode]) -> dict[int, Any]:
    """The handles of actors that the graph creates, by node."""
    handles: dict[int, Any] = {}
    for node in order:
        if isinstance(node, ClassNode):
            if not all(isinstance(each, ClassNode) for each in node._needs):
                raise ValueError(f"{node!r} takes what a call returns: a compiled graph is given its actors before")
            handles[id(node)] = node._value(Given((), {}), lambda needed: handles[id(needed)])
    return handles


def _method(node: ClassMethodNode, created: dict[int, Any]) -> ActorMethod:
    """The bound method of a node. Raises InvalidOptionError for options that only single calls have."""
    actor = node._actor
    method: ActorMethod = getattr(created[id(actor)], node._name) if isinstance(actor, ClassNode) else actor
    if node._options:
        method = method.options(**node._options)
    target, options = method._target, method._options
    if target.num_returns != 1:
        raise ValueError(f"{target.name}() returns several values, one after the other or as num_returns says: a node"
                         " of a compiled graph makes one value")  # fmt: skip
    for name in ("concurrency_group", "timeout", "deadline", "max_task_retries", "retry_exceptions"):
        value, usual = getattr(options, name), getattr(METHOD_DEFAULTS, name)
        if value != usual:
            raise InvalidOptionError(name, value, repr(usual), f"{target.name}() is called by a compiled graph")
    return method


def _bound(
    turn: Turn, node: DAGNode, method: ActorMethod, numbers: dict[int, int], own: list[Any], results: dict[int, int]
) -> BoundCall:
    """A call with its arguments; constants are added to `own`."""
    assert isinstance(node, ClassMethodNode)
    constants: list[tuple[int | str, int]] = []
    values: list[tuple[int | str, int]] = []
    places: list[tuple[int | str, Any]] = [*enumerate(node._args), *node._kwargs.items()]
    for place, argument in places:
        if isinstance(argument, ClassNode) or (
            not isinstance(argument, DAGNode) and next(graph.find(argument, DAGNode), None) is not None
        ):
            raise ValueError(
                f"argument {place!r} of {method._target.name}() has a node in it: in a compiled graph a value is an"
                " argument of its own, or no node"
            )
        if isinstance(argument, DAGNode):
            values.append((place, numbers[id(argument)]))
        else:
            constants.append((place, len(own)))
            own.append(argument)
    name = method._target.name
    return BoundCall(
        turn,
        method._target.method,
        name,
        len(node._args),
        tuple(constants),
        tuple(values),
        results.get(turn.number, -1),
    )
