"""Calls that have been written down, and how they are run."""

from __future__ import annotations

import abc
import threading
from typing import TYPE_CHECKING, Any

from aioray import current
from aioray.dag import graph
from aioray.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aioray.actors import ActorClass, ActorHandle, ActorMethod
    from aioray.dag.compiled import CompiledDAG
    from aioray.functions import RemoteFunction
    from aioray.runtime.runtime import Runtime


class Given(Record, frozen=True):
    """What `execute` was given."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class DAGNode(abc.ABC):
    """A call, or another value, of a graph. Made by `.bind(...)`; may be part of several graphs."""

    def __init__(self, needs: Sequence[DAGNode] = ()) -> None:
        self._needs = needs  # whose values it takes
        self._order: list[DAGNode] | None = None  # what `execute` runs
        self._has_input = False

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run all that this node needs, and itself; what it gives, at once: a ref, as a rule.

        A node that several others need runs once per `execute`; actors of the graph are created by the first one and
        used again by the next. Values go from call to call without coming here. A `MultiOutputNode` gives a list of
        refs. Cancelling a ref, or the await of it, cancels that call.

        Raises TypeError when the arguments are not those that the graph's `InputNode` stands for.
        """
        if self._order is None:
            self._order, self._has_input = _runnable(self)
        if not self._has_input and (args or kwargs):
            raise TypeError("execute() was given arguments, but the graph has no InputNode")
        given = Given(args, kwargs)
        values: dict[int, Any] = {}

        def value_of(node: DAGNode) -> Any:
            return values[id(node)]

        for node in self._order:
            values[id(node)] = node._value(given, value_of)
        return values[id(self)]

    def experimental_compile(self, **options: Any) -> CompiledDAG:
        """Link the actors of this graph to each other, so that a pass costs a fraction of `execute`.

        For graphs of actors' methods, each value an argument of its own. Elsewhere than in an event loop it waits until
        the actors have their parts; there, what keeps them from that is raised by the passes.

        `_max_inflight_executions`: passes under way at a time (10). `_submit_timeout`: seconds that `execute` waits for
        room (10). `_buffer_size_bytes`: what a link between two processes takes before its sender keeps the rest.
        `enable_asyncio`: accepted; `execute_async` works in any case. Defaults are those of `DAGContext`.

        Raises ValueError for a graph that cannot be compiled, InvalidOptionError, ActorDiedError.
        """
        from aioray.dag.compiled import CompiledDAG
        from aioray.dag.compiling import blueprint_of, compile_options

        checked = compile_options(options)
        return CompiledDAG.start(blueprint_of(self), checked)

    @property
    def _is_input(self) -> bool:
        """Whether it stands for what `execute` is given."""
        return False

    @property
    def _takes(self) -> Sequence[DAGNode]:
        """Of what it needs, that whose value it uses as it is."""
        return self._needs

    @abc.abstractmethod
    def _value(self, given: Given, value_of: Callable[[DAGNode], Any]) -> Any:
        """What it gives, started now; `value_of` knows all that it needs."""


def _runnable(root: DAGNode) -> tuple[list[DAGNode], bool]:
    """What has to run for `root`, in order; and whether the graph has an input. Raises ValueError for several."""
    order = graph.in_order(root)
    inputs = [node for node in order if node._is_input]
    if len(inputs) > 1:
        raise ValueError(f"a graph has one InputNode, this one has {len(inputs)}")
    # An input of which only parts are used is no value of its own: execute() may be given several.
    taken = {id(root)} | {id(needed) for node in order for needed in node._takes}
    return [node for node in order if not node._is_input or id(node) in taken], bool(inputs)


class CallNode(DAGNode):
    """A node that calls something, with arguments that may be nodes or contain some."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], also: Sequence[DAGNode] = ()) -> None:
        found = [*also, *graph.find([args, kwargs], DAGNode)]
        super().__init__(list({id(node): node for node in found}.values()))
        self._args = args
        self._kwargs = kwargs

    def _arguments(self, value_of: Callable[[DAGNode], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self._needs:
            return self._args, self._kwargs
        args: tuple[Any, ...] = graph.replaced(self._args, DAGNode, value_of)
        kwargs: dict[str, Any] = graph.replaced(self._kwargs, DAGNode, value_of)
        return args, kwargs


class FunctionNode(CallNode):
    """A call of a remote function."""

    def __init__(self, function: RemoteFunction[..., Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._function = function

    def _value(self, given: Given, value_of: Callable[[DAGNode], Any]) -> Any:
        args, kwargs = self._arguments(value_of)
        return self._function.remote(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<call of {self._function!r}>"


class ClassNode(CallNode):
    """An actor to be created when the graph runs for the first time; `.method.bind(...)` are calls of it."""

    def __init__(self, cls: ActorClass[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        if any(node._is_input for node in graph.in_order(self)):
            raise ValueError("the input of a graph cannot be an argument of a constructor: its actors are created once")
        self._cls = cls
        self._lock = threading.Lock()
        self._made: tuple[Runtime, ActorHandle] | None = None

    def _value(self, given: Given, value_of: Callable[[DAGNode], Any]) -> ActorHandle:
        runtime = current.get()
        with self._lock:
            if self._made is None or self._made[0] is not runtime:  # another cluster, another actor
                args, kwargs = self._arguments(value_of)
                self._made = runtime, self._cls.remote(*args, **kwargs)
            return self._made[1]

    def __getattr__(self, name: str) -> UnboundMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        methods = self._cls.methods()
        if name not in methods:
            known = ", ".join(sorted(filter(None, methods))) or "none"
            raise AttributeError(f"{self._cls!r} has no method {name!r}; it has: {known}")
        return UnboundMethod(self, name, {})

    def __repr__(self) -> str:
        return f"<actor of {self._cls!r}>"


class UnboundMethod:
    """A method of an actor that will be created by the graph."""

    def __init__(self, actor: ClassNode, name: str, options: Mapping[str, Any]) -> None:
        self._actor = actor
        self._name = name
        self._options = options

    def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """A call of it, to be made when the graph runs."""
        return ClassMethodNode(self._actor, self._name, self._options, args, kwargs)

    def options(self, **options: Any) -> UnboundMethod:
        """The same method with other options, see `aioray.method`. Raises InvalidOptionError."""
        from aioray.options import method_options

        method_options(options)  # checks them
        return UnboundMethod(self._actor, self._name, {**self._options, **options})


class ClassMethodNode(CallNode):
    """A call of a method of an actor: of one that the graph creates, or of one that is there."""

    def __init__(
        self,
        actor: ClassNode | ActorMethod,
        name: str,
        options: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        super().__init__(args, kwargs, [actor] if isinstance(actor, ClassNode) else [])
        self._actor = actor
        self._name = name
        self._options = options

    def _value(self, given: Given, value_of: Callable[[DAGNode], Any]) -> Any:
        actor = self._actor
        method: ActorMethod = getattr(value_of(actor), self._name) if isinstance(actor, ClassNode) else actor
        if self._options:
            method = method.options(**self._options)
        args, kwargs = self._arguments(value_of)
        return method.remote(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<call of {self._name}>"


class MultiOutputNode(DAGNode):
    """Several nodes as the end of a graph: `execute` gives a list of what they give."""

    def __init__(self, nodes: Sequence[DAGNode]) -> None:
        nodes = list(nodes)
        for node in nodes:
            if not isinstance(node, DAGNode):
                raise TypeError(f"MultiOutputNode takes nodes, not {type(node).__name__}")
        super().__init__(nodes)

    def _value(self, given: Given, value_of: Callable[[DAGNode], Any]) -> list[Any]:
        return [value_of(node) for node in self._needs]

    def __repr__(self) -> str:
        return f"<{len(self._needs)} outputs>"
