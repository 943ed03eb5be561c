"""What user code raised, on its way to the caller: one error that is ours and an instance of the user's own type."""

from __future__ import annotations

import contextlib
import functools
import types
from typing import TYPE_CHECKING, Any

from aioray.exceptions.copies import blank, members, pack, unpack
from aioray.exceptions.errors import ActorDiedError, RayError

if TYPE_CHECKING:
    from collections.abc import Mapping


class RayTaskError(RayError):
    """User code raised on its worker. `traceback_str` is the traceback as the worker saw it; `pid` is the worker's.

    `cause` is the user's exception, None where it has not come along. A cause that is itself a RayTaskError (a task
    that got the failure of another) is replaced by that one's cause: callers want the first failure, and the text of
    the traceback holds the whole chain.
    """

    cause: BaseException | None
    stand_ins: Mapping[int, BaseException] = types.MappingProxyType({})  # see `copies.pack`

    def __init__(
        self, function_name: str, traceback_str: str, cause: BaseException | None = None, pid: int = 0
    ) -> None:
        if isinstance(cause, RayTaskError):
            cause = cause.cause
        super().__init__()
        self.args = (function_name, traceback_str, cause, pid)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.pid = pid
        if cause is not None:
            self.__cause__ = cause
            if notes := getattr(cause, "__notes__", None):
                self.__notes__ = list(notes)

    def __str__(self) -> str:
        return f"{self.function_name}() failed in its worker (pid={self.pid}):\n{self.traceback_str}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}(function_name={self.function_name!r}, pid={self.pid}, cause={self.cause!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        facts = tuple(pack(each, self.stand_ins) if each is self.cause else each for each in self.args)
        notes = getattr(self, "__notes__", None)
        return _rebuild, (self._plain_class(), facts, isinstance(self, _AlsoItsCause), notes)

    @classmethod
    def _plain_class(cls) -> type[RayTaskError]:
        """The class without the user's half."""
        return RayTaskError

    def as_instanceof_cause(self) -> RayTaskError:
        """The same failure as an instance of the cause's class too, so that `except ValueError` catches it.

        It has the cause's attributes; the four of RayTaskError, and `args`, stay ours. Returns self where there is no
        such class to be had (a metaclass refuses, the layouts conflict), and where one would do harm:
        KeyboardInterrupt, SystemExit and CancelledError would end or cancel the caller's event loop, and StopIteration
        cannot leave a coroutine.
        """
        cause = self.cause
        if cause is None or isinstance(self, _AlsoItsCause):
            return self
        try:
            cls = _class_also(self._plain_class(), type(cause))  # type: ignore[arg-type]  # mypy takes the class for one of its instances
            if cls is None:
                return self
            group = (cause.message, cause.exceptions) if isinstance(cause, BaseExceptionGroup) else None
            error: RayTaskError = blank(cls, group)
            # Around the cause's own __init__ and __setattr__: those are user code, made for other arguments.
            ours = dict(vars(self))
            for name in ("reason", "name"):  # what is theirs tells more
                if hasattr(cause, name):
                    ours.pop(name, None)
            vars(error).update({**vars(cause), **ours})
            for name, value in members(cause):
                if name not in ours:
                    # Some are read-only (a group's `exceptions`): `blank` has set those.
                    with contextlib.suppress(Exception):
                        object.__setattr__(error, name, value)
            object.__setattr__(error, "args", self.args)
            object.__setattr__(error, "__cause__", cause)
        except Exception:  # user classes can refuse in any way; the plain error still tells everything
            return self
        return error


class _AlsoItsCause(RayTaskError):
    """The half of a "RayTaskError(ValueError)" that is ours; it stands first in the MRO, so what it defines wins."""

    def __init_subclass__(cls, **_: Any) -> None:
        # Not passed on: the user's hooks (registries, required keywords, "do not subclass") must not see our class.
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what pickle, copy and traceback probe for belongs to this object alone
            raise AttributeError(name)
        return getattr(vars(self).get("cause"), name)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return RayTaskError.__reduce__(self)  # else the user class's own __reduce_ex__ or __reduce__ would answer


@functools.lru_cache(maxsize=512)
def _class_also(ours: type[RayTaskError], cause_cls: type[BaseException]) -> type[_AlsoItsCause] | None:
    """The class that is both an `ours` and a `cause_cls`; None where as_instanceof_cause is to return self."""
    if not issubclass(cause_cls, Exception) or issubclass(cause_cls, StopIteration | StopAsyncIteration):
        return None
    if issubclass(ours, cause_cls):
        return None  # a plain RayError or Exception: caught as such already
    name = f"{ours.__name__}({cause_cls.__name__})"
    bases = (_AlsoItsCause, cause_cls) if ours is RayTaskError else (_AlsoItsCause, ours, cause_cls)
    body = {"__module__": RayTaskError.__module__, "__doc__": f"A {cause_cls.__name__} raised by remote code."}
    try:
        return types.new_class(name, bases, exec_body=lambda namespace: namespace.update(body))
    except Exception:  # a layout or metaclass conflict is a TypeError; a metaclass may raise anything
        return None


def _rebuild(
    cls: type[RayTaskError], facts: tuple[Any, ...], also_its_cause: bool, notes: list[str] | None
) -> RayTaskError:
    error = cls(*(unpack(each) for each in facts))
    if also_its_cause:
        error = error.as_instanceof_cause()
    if notes is not None:
        object.__setattr__(error, "__notes__", list(notes))
    return error


class ActorConstructorError(RayTaskError, ActorDiedError):
    """The constructor of the actor raised, or an argument of it had failed, so there never was an actor.

    `reason` says which; `function_name` is that of the class.
    """

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException | None = None,
        pid: int = 0,
        actor_id: str = "",
        reason: str = "its constructor raised",
    ) -> None:
        super().__init__(function_name, traceback_str, cause, pid)
        self.args = (function_name, traceback_str, self.cause, pid, actor_id, reason)
        self.actor_id = actor_id
        self.name = function_name
        self.reason = reason

    def __str__(self) -> str:
        function_name, text, _, pid, _, reason = self.args  # the attribute `reason` may be the cause's
        return f"there is no actor {function_name}: {reason} (pid={pid}):\n{text}"

    @classmethod
    def _plain_class(cls) -> type[RayTaskError]:
        return ActorConstructorError
