"""Remote functions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from aioray import current
from aioray.generators import is_generator_function, submit_stream
from aioray.options import TASK_DEFAULTS, TaskOptions, returns_of, task_options
from aioray.placement import may_follow
from aioray.runtime.submitting import submit_task, task_target
from aioray.signatures import Signature
from aioray.typed_actors import Remote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aioray.dag import FunctionNode
    from aioray.runtime.runtime import Runtime
    from aioray.runtime.task_records import TaskTarget
    from aioray.wire.strategies import InGroup

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
Given_co = TypeVar("Given_co", covariant=True)  # what `remote` gives


class RemoteFunction(Remote[P, R_co, Given_co]):
    """A function that runs on the cluster: `f.remote(x)` returns at once, with a ref to what `f(x)` will be.

    Arguments that are refs are resolved first; refs inside containers stay refs. Made by `@aioray.remote`.
    """

    def __init__(self, fn: Callable[P, R_co], options: TaskOptions = TASK_DEFAULTS) -> None:
        self._function = fn
        self._options = options
        self._num_returns = returns_of(options, generates=is_generator_function(fn))
        self._signature: Signature | None = None
        self._target: TaskTarget | None = None  # what the cluster of the last call needs to know, found once
        self._followers: dict[InGroup, TaskTarget] = {}  # the same, of calls that go into their caller's group
        functools.update_wrapper(self, fn)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        """Call it. Returns a ref; a list of refs with num_returns=n, None with num_returns=0.

        For a generator function, or with num_returns="streaming", it returns an ObjectRefGenerator; with "dynamic" a
        ref to a DynamicObjectRefGenerator.

        Raises TypeError when the arguments do not fit, SerializationError when one cannot be sent.
        """
        if self._signature is None:
            self._signature = Signature.of(self._function, _name_of(self._function))
        self._signature.check(args, kwargs)
        runtime = current.find() or current.get()
        target = self._target
        if target is None or target.runtime is not runtime or runtime.captures:
            target = self._find_target(runtime)
        if target.num_returns < 0:
            return submit_stream(runtime, target, lambda stream: submit_task(runtime, target, args, kwargs, stream))
        submit = target.submit  # not called as a method, for which CPython looks in the class first
        refs = submit(runtime, target, args, kwargs)
        if target.num_returns == 1:
            return refs[0]
        return list(refs) if refs else None  # as in Ray: the count is in the options

    def _find_target(self, runtime: Runtime) -> TaskTarget:
        options = self._options
        group = runtime.followed_group(options) if may_follow(options) else None
        target = self._target if group is None else self._followers.get(group)
        if target is None or target.runtime is not runtime:
            function = runtime.exports.function(self._function, options.name or _name_of(self._function))
            target = task_target(runtime, function, options, self._num_returns, group)
            if group is None:
                self._target = target
            else:
                self._followers = {group: target}  # a worker serves one group after the other
        return target

    if not TYPE_CHECKING:  # checkers have it from Remote, with the types of its arguments
        remote = _call

    def bind(self, *args: Any, **kwargs: Any) -> FunctionNode:
        """A call to be made when a graph runs, see `aioray.dag`. Raises TypeError when the arguments do not fit."""
        from aioray.dag import FunctionNode

        Signature.of(self._function, _name_of(self._function)).check(args, kwargs)
        return FunctionNode(self, args, kwargs)

    @overload
    def options(self, *, num_returns: int | str, **options: Any) -> RemoteFunction[P, R_co, Any]: ...
    @overload
    def options(self, **options: Any) -> RemoteFunction[P, R_co, Given_co]: ...

    def options(self, **options: Any) -> Any:
        """The same function with other options. Raises InvalidOptionError."""
        return RemoteFunction(self._function, task_options(options, self._options))

    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """The form that programs from Ray's early days use."""
        fn = self.options(**options) if options else self
        return fn.remote(*(args or ()), **(kwargs or {}))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        name = _name_of(self._function)
        raise TypeError(f"{name} is a remote function: call {name}.remote(...), it returns a ref to the result")

    def __repr__(self) -> str:
        return f"<remote function {_name_of(self._function)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFunction, (self._function, self._options)


def _name_of(fn: Any) -> str:
    return str(getattr(fn, "__name__", None) or type(fn).__name__)
