"""Exceptions on their way between processes."""

from __future__ import annotations

import os
import traceback

from aioray.exceptions import (
    ActorConstructorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    TaskTimeoutError,
    UnserializableException,
)
from aioray.runtime.serialization import Serialized, deserialize, serialize
from aioray.wire.values import Value

_LINE = 300  # characters of an exception's text that make it into a line


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
        part.stack = traceback.StackSummary.from_list([frame for frame in part.stack if not _is_ours(frame.filename)])
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
    """What a failed call sends back: the exception itself where it can be pickled, else its text."""
    text = user_traceback(exc)
    cause: BaseException = exc.cause if isinstance(exc, RayTaskError) and exc.cause is not None else exc
    return RayTaskError(function_name, text, _portable(cause, text), os.getpid())


def constructor_error(exc: BaseException, cls: str, actor_id: bytes, reason: str = "") -> ActorConstructorError:
    """What all calls of an actor get whose constructor raised `exc`; or, as `reason` then says, an argument of it."""
    error = task_error(exc, cls)
    facts = (cls, error.traceback_str, error.cause, error.pid, actor_id.hex())
    return ActorConstructorError(*facts, reason) if reason else ActorConstructorError(*facts)


def _portable(exc: BaseException, text: str) -> BaseException:
    try:
        serialized = serialize(RayTaskError("", "", exc), "exception")
        copy = deserialize(serialized.data, serialized.buffers, None)
    except Exception:  # a user's exception may fail in any way when it is copied
        return UnserializableException(type(exc).__qualname__, text)
    if isinstance(copy.cause, type(exc)):
        return exc
    return UnserializableException(type(exc).__qualname__, text)


def error_value(exc: BaseException) -> Value:
    """An exception as a Value."""
    return serialized_error(exc)[0]


def serialized_error(exc: BaseException) -> tuple[Value, Serialized]:
    """An exception as a Value; and what it was made of, to keep the refs inside alive."""
    if not isinstance(exc, RayError):
        exc = RayTaskError("", user_traceback(exc), _portable(exc, user_traceback(exc)), os.getpid())
    serialized = serialize(exc, "exception")
    buffers = [bytes(buffer) for buffer in serialized.buffers]
    refs = [ref.binary() for ref in serialized.refs]
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
