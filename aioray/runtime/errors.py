"""Exceptions on their way between processes."""

from __future__ import annotations

import copy
import os
import traceback
from typing import TYPE_CHECKING, Any

from aioray.exceptions import (
    ActorConstructorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    TaskTimeoutError,
    UnserializableException,
)
from aioray.exceptions.copies import pack_alone, unpack
from aioray.runtime.serialization import Serialized, deserialize, serialize
from aioray.wire.values import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST = 200  # exceptions behind one that are looked at when it cannot be pickled
_POOL_THREAD = os.path.join("concurrent", "futures", "thread.py")
_LINE = 300  # characters of an exception's text that make it into a line


def to_raise(error: BaseException) -> BaseException:
    """An error of ours that a ref keeps, as it is raised: a copy each time.

    Raised itself it would have the frames of whoever asked in its traceback, and these have the ref: nothing of it, nor
    of what else is in those frames, would go before garbage is collected.
    """
    if not isinstance(error, RayError) or isinstance(error, RayTaskError):
        return error
    fresh = copy.copy(error)
    fresh.__cause__, fresh.__context__ = error.__cause__, error.__context__
    fresh.__suppress_context__ = error.__suppress_context__
    return fresh


def user_traceback(exc: BaseException) -> str:
    """The traceback of `exc` as text, causes and notes included, without aioray's own frames."""
    report = traceback.TracebackException.from_exception(exc, compact=True)
    seen: set[int] = set()
    stack: list[traceback.TracebackException | None] = [report]
    while stack:
        part = stack.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        frames = [frame for frame in part.stack if not _is_ours(frame.filename)]
        # A thread of a pool of ours: its frame is the first. One in a pool of the user's has a frame of theirs before.
        if frames and frames[0].filename.endswith(_POOL_THREAD):
            del frames[0]
        part.stack = traceback.StackSummary.from_list(frames)
        stack += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]
    return "".join(report.format())


def _is_ours(filename: str) -> bool:
    directory = os.path.dirname(filename)
    return any(directory == root or directory.startswith(root + os.sep) for root in _ROOTS)


_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_ROOTS = (
    _HERE,
    os.path.join(os.path.dirname(_HERE), "nodes", "aioray_node"),
    os.path.join(os.path.dirname(_HERE), "aioray_node"),
)


def task_error(exc: BaseException, function_name: str) -> RayTaskError:
    """What a failed call sends back: the exception, with what led to it; the text of parts that cannot be pickled."""
    text = user_traceback(exc)
    cause: BaseException = exc.cause if isinstance(exc, RayTaskError) and exc.cause is not None else exc
    return _portable(RayTaskError(function_name, text, cause, os.getpid()))


def constructor_error(exc: BaseException, cls: str, actor_id: bytes, reason: str = "") -> ActorConstructorError:
    """What all calls of an actor get whose constructor raised `exc`; or, as `reason` then says, an argument of it."""
    error = task_error(exc, cls)
    facts = (cls, error.traceback_str, error.cause, error.pid, actor_id.hex())
    made = ActorConstructorError(*facts, reason) if reason else ActorConstructorError(*facts)
    made.stand_ins = error.stand_ins
    return made


def _portable(error: RayTaskError) -> RayTaskError:
    """`error` with stand-ins for what cannot be pickled, or not be rebuilt, of its cause and all that led to that."""
    cause = error.cause
    if cause is None or _arrives(error, cause):
        return error
    stand_ins: dict[int, BaseException] = {}
    for exc in _members_first(cause, set()):
        if not _arrives(_Alone(exc, stand_ins), exc):
            text = error.traceback_str if exc is cause else user_traceback(exc)
            stand_ins[id(exc)] = UnserializableException(type(exc).__qualname__, text)
    error.stand_ins = stand_ins
    if id(cause) in stand_ins:
        stand_in = error.cause = error.__cause__ = stand_ins[id(cause)]
        error.args = tuple(stand_in if each is cause else each for each in error.args)
        stand_in.__cause__, stand_in.__context__ = cause.__cause__, cause.__context__
        stand_in.__suppress_context__ = cause.__suppress_context__
    return error


class _Alone:
    """An exception on its way without what led to it; `cause` where it arrives."""

    cause: Any

    def __init__(self, exc: BaseException, stand_ins: dict[int, BaseException]) -> None:
        self._parts = exc, stand_ins

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (pack_alone(*self._parts),)


def _arrived(packed: Any) -> _Alone:
    alone = _Alone.__new__(_Alone)
    alone.cause = unpack(packed)
    return alone


def _arrives(parcel: Any, exc: BaseException) -> bool:
    """Whether the `cause` of `parcel`, which is `exc`, is still one of its type after the trip."""
    try:
        serialized = serialize(parcel, "exception")
        return isinstance(deserialize(serialized.data, serialized.buffers, None).cause, type(exc))
    except Exception:  # a user's exception may fail in any way when it is copied
        return False


def _members_first(exc: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    """All that `exc` leads to: causes, contexts, members of groups; a group after its members, and `exc` last."""
    if exc is None or id(exc) in seen or len(seen) > _MOST:
        return
    seen.add(id(exc))
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            yield from _members_first(each, seen)
    yield from _members_first(exc.__cause__, seen)
    yield from _members_first(exc.__context__, seen)
    yield exc


def error_value(exc: BaseException) -> Value:
    """An exception as a Value."""
    return serialized_error(exc)[0]


def serialized_error(exc: BaseException) -> tuple[Value, Serialized]:
    """An exception as a Value; and what it was made of, to keep the refs inside alive."""
    if not isinstance(exc, RayError):
        exc = task_error(exc, "")
    serialized = serialize(exc, "exception")
    buffers = [bytes(buffer) for buffer in serialized.buffers]
    refs = [ref._counted_id() for ref in serialized.refs]
    return Value(serialized.data, buffers, refs=refs, is_error=True, summary=one_line(exc)), serialized


def one_line(exc: BaseException) -> str:
    """Such as "ValueError: bad"; "" for what was cancelled, of which nobody needs to be told."""
    cause = exc.cause if isinstance(exc, RayTaskError) and exc.cause is not None else exc
    if isinstance(cause, TaskCancelledError) and not isinstance(cause, TaskTimeoutError):
        return ""
    if isinstance(cause, UnserializableException):
        return f"{cause.type_name} (which cannot be pickled)"
    try:
        text = str(cause)
    except Exception:  # user code, which may fail in any way
        text = ""
    first = text.strip().partition("\n")[0]
    if len(first) > _LINE:
        first = f"{first[: _LINE - 3]}..."
    return f"{type(cause).__name__}: {first}" if first else type(cause).__name__
