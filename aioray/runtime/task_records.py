"""What the caller's side keeps of a task: what is called, how, and where the call stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.exceptions import WorkerCrashedError
from aioray.refs import ObjectRef
from aioray.runtime.calls import NO_DEADLINE, Arguments, Running
from aioray.runtime.deadlines import limits_of
from aioray.runtime.pipeline import Duration, KeyQueue, Lease
from aioray.wire.values import Value

if TYPE_CHECKING:
    from aioray.options import TaskOptions
    from aioray.runtime.exports import Function
    from aioray.runtime.runtime import Runtime


RETRY_ALL = "*"


class TaskTarget:
    """A function with its options, as one runtime runs it."""

    __slots__ = (
        "ahead",
        "function",
        "limits",
        "num_returns",
        "options",
        "queue",
        "retry",
        "retry_types",
        "runtime",
        "submit",
    )

    def __init__(
        self,
        runtime: Runtime,
        function: Function,
        options: TaskOptions,
        queue: KeyQueue,
        num_returns: int,
        submit: Callable[..., tuple[ObjectRef[Any], ...]],
        retry_types: Function | None = None,
    ) -> None:
        self.runtime = runtime
        self.function = function
        self.options = options
        self.queue = queue
        self.num_returns = num_returns  # as in the Call
        self.submit = submit  # `submit_task`, or what takes its place
        self.ahead = options._generator_backpressure_num_objects
        self.limits = limits_of(options)
        self.retry_types = retry_types  # a tuple of exception types, exported as functions are
        self.retry = retry_types.fn_id if retry_types is not None else RETRY_ALL if options.retry_exceptions else ""


class Task(msgspec.Struct, eq=False, weakref=True):
    """One call of a function, until it has a result. A Struct, for it is made with every call."""

    seq: int
    target: TaskTarget
    arguments: Arguments
    refs: tuple[ObjectRef[Any], ...]
    queue: KeyQueue
    duration: Duration
    retries: int
    parent: Running | None = None  # the call, in this process, that submitted it
    deadline: float = NO_DEADLINE
    lease: Lease | None = None
    estimate_us: float = 0.0
    wired: Sequence[tuple[int, Value]] = ()
    cancelled: bool = False
    timed_out: bool = False
    force: bool = False  # how it is cancelled
    recursive: bool = True
    lost_worker: bool = False  # one died, or raised, that may have told the node of what is not its result

    @property
    def function(self) -> Function:
        return self.target.function

    @property
    def options(self) -> TaskOptions:
        return self.target.options

    @property
    def num_returns(self) -> int:
        return self.target.num_returns

    @property
    def name(self) -> str:
        return self.target.function.name

    def crashed(self, reason: str) -> WorkerCrashedError:
        """The error when nobody will try it again."""
        return WorkerCrashedError(reason, self.name, self.options.max_retries - self.retries)
