"""What tasks and actor calls have in common on the caller's side: arguments, results, and waiting for both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from aioray.exceptions import RaySystemError, TaskCancelledError, TaskTimeoutError
from aioray.refs import CANCELLED, RAISED, READY, ObjectRef
from aioray.runtime.serialization import EMPTY_ARGS, pickled_plain, serialize_args
from aioray.runtime.unseen import Unseen, looked_at, unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aioray.runtime.runtime import Runtime
    from aioray.wire.values import Value


NO_DEADLINE = math.inf


class Running(Protocol):
    """The call that a thread, or a coroutine, of this process is busy with."""

    is_canceled: bool

    @property
    def caller_id(self) -> bytes: ...
    @property
    def deadline(self) -> float: ...
    @property
    def seq(self) -> int: ...
    @property
    def is_constructor(self) -> bool: ...
    @property
    def task_name(self) -> str: ...
    @property
    def function_name(self) -> str: ...


class UnderWay(Protocol):
    """A call that has no result yet: a Task or an ActorCallRecord."""

    arguments: Arguments
    refs: tuple[ObjectRef[Any], ...]
    cancelled: bool
    deadline: float  # on the reactor's clock (s)
    parent: Running | None  # the call, in this process, that made it
    timed_out: bool

    @property
    def name(self) -> str: ...


class Arguments(msgspec.Struct, eq=False, gc=False):
    """The arguments of one call, ready for the wire once the refs among them have values."""

    data: bytes
    kwnames: tuple[str, ...] = ()
    deps: Sequence[tuple[int, ObjectRef[Any]]] = ()  # refs given directly: the callee gets their values
    pins: Sequence[Any] = ()  # refs inside containers, and large arguments: kept alive until the call ends


def check_cluster(runtime: Runtime, refs: Iterable[Any]) -> None:
    """Raises RaySystemError when a ref, or a handle, is of another cluster: there nobody could resolve it."""
    for ref in refs:
        its = ref._runtime if isinstance(ref, ObjectRef) else ref._actor.runtime
        if its is not runtime:
            its.require_open()
            raise RaySystemError(f"{ref!r} belongs to another cluster than the call")


STILL_RUNS = "; it was asked to stop, and its code has not ended yet"
_NO_ARGUMENTS = Arguments(EMPTY_ARGS)


def pack_arguments(runtime: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Pickle the arguments of a call. Raises SerializationError that names the argument that cannot be."""
    if not args and not kwargs:
        return _NO_ARGUMENTS
    values = args
    kwnames: tuple[str, ...] = ()
    if kwargs:
        values = (*args, *kwargs.values())
        kwnames = tuple(kwargs)
    plain = pickled_plain(values)
    if plain is not None and len(plain) <= runtime.config.inline_max_nbytes:
        return Arguments(plain, kwnames)
    deps: list[tuple[int, ObjectRef[Any]]] = []
    for at, value in enumerate(values):
        if isinstance(value, ObjectRef):
            deps.append((at, value))
    if deps:
        check_cluster(runtime, (ref for _, ref in deps))
        direct = {at for at, _ in deps}
        values = tuple(None if at in direct else value for at, value in enumerate(values))
    serialized = serialize_args(values, kwnames)
    if serialized.refs:
        check_cluster(runtime, serialized.refs)
    if serialized.buffers or len(serialized.data) > runtime.config.inline_max_nbytes:
        return _pack_large(runtime, values, kwnames, deps)
    return Arguments(serialized.data, kwnames, deps, serialized.refs)


def _pack_large(
    runtime: Runtime, values: tuple[Any, ...], kwnames: tuple[str, ...], deps: list[tuple[int, ObjectRef[Any]]]
) -> Arguments:
    """Arguments with buffers or many bytes: each such argument becomes an object of its own."""
    small = list(values)
    deps = list(deps)
    pins: list[Any] = []
    for at, value in enumerate(values):
        serialized = serialize_args((value,), ())
        if serialized.buffers or len(serialized.data) > runtime.config.inline_max_nbytes // 4:
            deps.append((at, runtime.put(value)))
            small[at] = None
    rest = serialize_args(tuple(small), kwnames)
    pins += rest.refs
    return Arguments(rest.data, kwnames, deps, pins)


def when_ready(deps: Sequence[tuple[int, ObjectRef[Any]]], then: Callable[[], None]) -> None:
    """Call `then`, under the runtime's lock, when all refs have a value or an error; at once if they have."""
    pending = [ref for _, ref in deps if not ref._is_made()]
    if not pending:
        then()
        return
    left = len(pending)

    def one_less(_: ObjectRef[Any]) -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    for ref in pending:
        ref._when_made(one_less)


def first_failed(deps: Sequence[tuple[int, ObjectRef[Any]]]) -> ObjectRef[Any] | None:
    """The first ref that has no value but an error: the call fails with that."""
    return next((ref for _, ref in deps if ref._status in (RAISED, CANCELLED)), None)


def fail_with(runtime: Runtime, call: UnderWay, failed: ObjectRef[Any]) -> None:
    """An argument failed, and so does the call. The refs inside an error are held by the ref that got it first."""
    for _, dep in call.arguments.deps:
        looked_at(dep)  # from here on this call answers for them
    left: str | Unseen | None = call.name
    if failed._status == RAISED:
        left = unseen(runtime, call.name, failed._value)
        if getattr(failed._value, "refs", None):
            left = left or Unseen(runtime.log, call.name, "", seen=True)
            left.keeps = failed
    for ref in call.refs:
        ref._complete(failed._status, failed._value, left)


def wire_deps(runtime: Runtime, deps: Sequence[tuple[int, ObjectRef[Any]]]) -> list[tuple[int, Value]]:
    """The values of refs that are ready. What lies in shared memory is shared first: the callee may keep it."""
    wired = []
    for at, ref in deps:
        value = ref._value
        if value.nbytes:
            runtime.objects.share(ref)
        wired.append((at, value))
    return wired


def complete(runtime: Runtime, call: UnderWay, values: list[Value]) -> None:
    """Results, or one error for all of them, arrived."""
    refs = call.refs
    if len(values) == 1 and values[0].is_error:
        if not values[0].summary and call.cancelled and not values[0].refs:
            fail(runtime, call, cancelled(call))  # as the worker says, which knows less of it
            return
        if refs and values[0].refs:
            runtime.objects.adopt(refs[0], values[0])
        left = unseen(runtime, call.name, values[0])
        for ref in refs:
            ref._complete(RAISED, values[0], left)
        return
    for ref, value in zip(refs, values, strict=True):
        if value.nbytes or value.refs:
            runtime.objects.adopt(ref, value)
            runtime.objects.arrived(ref, value, call.name)
        else:
            ref._complete(READY, value, call.name)


def fail(runtime: Runtime, call: UnderWay, error: BaseException, *, expected: bool = False) -> None:
    """No result will come. `expected`: who made the call knows why, and need not be told if nobody looks.

    That goes for what had to end with the call that made it, too: whoever made that one is told.
    """
    if call.refs and all(ref._is_made() for ref in call.refs):
        return  # it was cancelled, or its time was up, and who waited has heard
    parent = call.parent
    expected = expected or (call.timed_out and parent is not None and parent.deadline <= call.deadline)
    left = None if expected else unseen(runtime, call.name, error)
    for ref in call.refs:
        ref._complete(RAISED, error, left)


def cancelled(call: UnderWay) -> TaskCancelledError:
    """What whoever waits for a call that was cancelled gets."""
    kind = TaskTimeoutError if call.timed_out else TaskCancelledError
    return kind(call.refs[0].task_id().hex() if call.refs else "", name=call.name)


def time_left_us(call: UnderWay, now: float) -> int:
    """For the wire: microseconds until the deadline of a call, at least 1; 0 when it has none."""
    return 0 if call.deadline == NO_DEADLINE else max(1, int((call.deadline - now) * 1e6))
