"""Every error aioray raises, in one tree.

    RayError
    ├── RayTaskError                       user code raised; caught also as the user's own exception type
    ├── RayActorError
    │   ├── ActorDiedError                 it will never answer again
    │   │   └── ActorConstructorError      (ours) also a RayTaskError, and caught as what the constructor raised
    │   └── ActorUnavailableError          it may answer later
    ├── TaskCancelledError
    ├── WorkerCrashedError
    ├── NodeDiedError
    ├── GetTimeoutError                    also a TimeoutError
    ├── ObjectLostError
    │   ├── ObjectReconstructionFailedError
    │   │   ├── ObjectReconstructionFailedMaxAttemptsExceededError
    │   │   └── ObjectReconstructionFailedLineageEvictedError
    │   ├── OwnerDiedError
    │   ├── ObjectFreedError
    │   ├── ObjectFetchTimedOutError
    │   └── ReferenceCountingAssertionError    also an AssertionError
    ├── ObjectStoreFullError
    ├── OutOfDiskError
    ├── OutOfMemoryError
    ├── RuntimeEnvSetupError
    ├── TaskPlacementGroupRemoved
    ├── ActorPlacementGroupRemoved
    ├── PendingCallsLimitExceeded
    ├── TaskUnschedulableError
    ├── ActorUnschedulableError
    ├── ActorAlreadyExistsError            also a ValueError
    ├── AuthenticationError
    ├── AsyncioActorExit
    ├── ObjectRefStreamEndOfStreamError
    ├── UnserializableException            stands in for an exception that could not be pickled
    ├── RaySystemError                     our own fault
    ├── SerializationError                 (ours) also a TypeError
    ├── BlockingCallError                  (ours) also a RuntimeError
    └── InvalidOptionError                 (ours) also a ValueError and a TypeError

Branch on the type and on the attributes, not on the text. The attributes are also in `args`, in the order of the
constructor's parameters, because that is what pickle rebuilds an exception from. Where an error is also a builtin one,
it is so that code which has never heard of aioray catches it too.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import types
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class RayError(Exception):
    """Anything that aioray reports. `reason` says what happened, "" where there is no more to say than the type."""

    usual: ClassVar[str] = ""  # what str() says when no reason was given

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or self.usual


class RayTaskError(RayError):
    """User code raised on its worker. `traceback_str` is the traceback as the worker saw it; `pid` is the worker's.

    `cause` is the user's exception, None where it has not come along. A cause that is itself a RayTaskError (a task
    that got the failure of another) is replaced by that one's cause: callers want the first failure, and the text of
    the traceback holds the whole chain.
    """

    cause: BaseException | None

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
        facts = tuple(_pack(each) if each is self.cause else each for each in self.args)
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
            error: RayTaskError = _blank(cls, group)
            # Around the cause's own __init__ and __setattr__: those are user code, made for other arguments.
            ours = dict(vars(self))
            for name in ("reason", "name"):  # what is theirs tells more
                if hasattr(cause, name):
                    ours.pop(name, None)
            vars(error).update({**vars(cause), **ours})
            for name, value in _members(cause):
                if name not in ours:
                    # Some are read-only (a group's `exceptions`): `_blank` has set those.
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
    body = {"__module__": __name__, "__doc__": f"A {cause_cls.__name__} raised by remote code."}
    try:
        return types.new_class(name, bases, exec_body=lambda namespace: namespace.update(body))
    except Exception:  # a layout or metaclass conflict is a TypeError; a metaclass may raise anything
        return None


def _blank(cls: type[BaseException], group: tuple[str, Sequence[Any]] | None) -> Any:
    """An instance of `cls`, made without user code (__new__, __init__). Raises TypeError if C code forbids that.

    `group` is the message and the exceptions of an exception group: the only fields that cannot be filled in later.
    """
    if group is not None:
        return BaseExceptionGroup.__new__(cls, *group)  # type: ignore[type-var]  # the caller saw that it is a group
    # Python insists on the __new__ of the builtin class that decides the memory layout; only these have their own.
    for builtin in (OSError, MemoryError):
        with contextlib.suppress(TypeError):
            return builtin.__new__(cls)
    return BaseException.__new__(cls)


def _members(exc: BaseException, *, builtin: bool = True) -> Iterator[tuple[str, Any]]:
    """What `exc` keeps outside of its __dict__: its __slots__ and, if `builtin`, fields such as `errno`."""
    for cls in type(exc).__mro__:
        if cls in (BaseException, Exception, object) or (cls.__module__ == "builtins" and not builtin):
            continue
        for name, attribute in vars(cls).items():
            if not isinstance(attribute, types.MemberDescriptorType | types.GetSetDescriptorType):
                continue
            if not name.startswith("__"):
                with contextlib.suppress(Exception):  # a slot without a value
                    yield name, getattr(exc, name)


class _Packed(NamedTuple):
    """An exception on its way: rebuilt without its __init__, which need not take its `args` (many do not)."""

    cls: type[BaseException]
    args: tuple[Any, ...]
    state: dict[str, Any]


def _pack(exc: Any) -> Any:
    """`exc` as a _Packed where it pickles the default way, else `exc` as it is."""
    if exc is None or isinstance(exc, RayError):
        return exc
    cls = type(exc)
    own_way = any(
        isinstance(each, types.FunctionType) for each in (cls.__reduce__, cls.__reduce_ex__, cls.__setstate__)
    )
    if own_way or cls in copyreg.dispatch_table:
        return exc
    made = exc.__reduce_ex__(4)
    args, state = made[1], made[2] if len(made) == 3 else {}
    if isinstance(exc, BaseExceptionGroup):
        args = (exc.message, [_pack(each) for each in exc.exceptions], *args[2:])
    return _Packed(cls, args, {**state, **dict(_members(exc, builtin=False))})


def _unpack(packed: Any) -> Any:
    if not isinstance(packed, _Packed):
        return packed
    cls, args, state = packed
    try:
        return _remake(cls, args, state)
    except Exception as exc:
        return UnserializableException(f"{cls.__module__}.{cls.__qualname__}", f"it could not be rebuilt: {exc!r}")


def _remake(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    group = None
    if issubclass(cls, BaseExceptionGroup):
        args = (args[0], [_unpack(each) for each in args[1]], *args[2:])
        group = (args[0], args[1])
    if any(isinstance(each, types.FunctionType) for each in (cls.__init__, cls.__new__)):
        exc: BaseException = _blank(cls, group)
        builtin = next(each for each in cls.__mro__ if each.__module__ == "builtins")
        object.__setattr__(exc, "args", args)
        with contextlib.suppress(Exception):
            builtin.__init__(exc, *args)  # type: ignore[misc]  # fills the likes of `errno` where args are made for it
    else:
        exc = cls(*args)
    for name, value in state.items():
        object.__setattr__(exc, name, value)  # not setattr: the class may be a frozen dataclass
    return exc


def _rebuild(
    cls: type[RayTaskError], facts: tuple[Any, ...], also_its_cause: bool, notes: list[str] | None
) -> RayTaskError:
    error = cls(*(_unpack(each) for each in facts))
    if also_its_cause:
        error = error.as_instanceof_cause()
    if notes is not None:
        object.__setattr__(error, "__notes__", list(notes))
    return error


class RayActorError(RayError):
    """A call did not come back from its actor. `actor_id` is hex; `name`: class and method. Each "" if not known."""

    usual = "the actor did not answer"

    def __init__(self, actor_id: str = "", reason: str = "", name: str = "") -> None:
        super().__init__(reason)
        self.args = (actor_id, reason, name)
        self.actor_id = actor_id
        self.name = name

    def __str__(self) -> str:
        call = f"{self.name}(): " if self.name else ""
        return f"{call}actor {self.actor_id or '(unknown)'}: {super().__str__()}"


class ActorDiedError(RayActorError):
    """The actor will not answer any more; calls already queued fail with this too."""

    usual = "it has died"


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


class ActorUnavailableError(RayActorError):
    """The actor cannot be reached now and may be later. The call may or may not have run."""

    usual = "it cannot be reached for now"


class TaskCancelledError(RayError):
    """The task was cancelled, by `cancel` or because the await of it was.

    `task_id` is hex; `name` is that of the function, or of class and method. Each is "" where it is not known.
    """

    usual = "it was cancelled"

    def __init__(self, task_id: str = "", reason: str = "", name: str = "") -> None:
        super().__init__(reason)
        self.args = (task_id, reason, name)
        self.task_id = task_id
        self.name = name

    def __str__(self) -> str:
        call = f"{self.name}(): " if self.name else ""
        return f"{call}task {self.task_id or '(unknown)'}: {super().__str__()}"


class WorkerCrashedError(RayError):
    """The worker process ended while it ran the task: a crash, a kill, an exit. Not the error of user code.

    `name` is that of the function, "" where it is not known. `retries`: how often it had been tried again
    after earlier crashes, None where that does not matter.
    """

    usual = "the worker process died while it ran the task"

    def __init__(self, reason: str = "", name: str = "", retries: int | None = None) -> None:
        super().__init__(reason)
        self.args = (reason, name, retries)
        self.name = name
        self.retries = retries

    def __str__(self) -> str:
        text = f"{self.name}(): {super().__str__()}" if self.name else super().__str__()
        if self.retries is None:
            return text
        return f"{text} ({ {0: 'not retried', 1: 'retried once'}.get(self.retries, f'retried {self.retries} times') })"


class NodeDiedError(RayError):
    """The node on which this ran, or where it was to run, is gone."""

    usual = "the node died"


class GetTimeoutError(RayError, TimeoutError):
    """`get` waited `timeout_s` seconds (None: not known) and at least one of the values was not there."""

    usual = "the value was not there in time"

    def __init__(self, reason: str = "", timeout_s: float | None = None) -> None:
        super().__init__(reason)  # not both: OSError, under TimeoutError, would take two for errno and strerror
        self.args = (reason, timeout_s)
        self.timeout_s = timeout_s


class ObjectLostError(RayError):
    """No copy of the object is left and it could not be made again. `object_id` is hex."""

    usual = "all copies are lost"

    def __init__(self, object_id: str, reason: str = "") -> None:
        super().__init__(reason)
        self.args = (object_id, reason)
        self.object_id = object_id

    def __str__(self) -> str:
        return f"object {self.object_id}: {super().__str__()}"


class ObjectReconstructionFailedError(ObjectLostError):
    """The object was lost, and running its task again is impossible or failed."""

    usual = "it is lost and cannot be computed again"


class ObjectReconstructionFailedMaxAttemptsExceededError(ObjectReconstructionFailedError):
    """The object was lost more often than its task may be run again (`max_retries`)."""

    usual = "it is lost and its task has used up its retries"


class ObjectReconstructionFailedLineageEvictedError(ObjectReconstructionFailedError):
    """The object was lost, and what it takes to run its task again had been let go to save memory."""

    usual = "it is lost and how to compute it is no longer known"


class OwnerDiedError(ObjectLostError):
    """The process that owned the object is gone, and with it the knowledge of where its copies are."""

    usual = "the process that owned it is gone"


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand while a ref to it was left."""

    usual = "it was freed while still in use"


class ObjectFetchTimedOutError(ObjectLostError):
    """A copy exists, but it could not be brought here in time."""

    usual = "it could not be fetched in time"


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was deleted although a ref to it was left: a bug of aioray."""

    usual = "it was deleted while refs to it were left; this is a bug in aioray"


class ObjectStoreFullError(RayError):
    """The object does not fit into this node's shared memory, and waiting for room did not help. All in bytes."""

    def __init__(self, nbytes_asked: int, nbytes_capacity: int, nbytes_used: int) -> None:
        super().__init__()
        self.args = (nbytes_asked, nbytes_capacity, nbytes_used)
        self.nbytes_asked = nbytes_asked
        self.nbytes_capacity = nbytes_capacity
        self.nbytes_used = nbytes_used

    def __str__(self) -> str:
        return (
            f"no room for {self.nbytes_asked:,} bytes in the object store: "
            f"{self.nbytes_used:,} of {self.nbytes_capacity:,} bytes are in use"
        )


class OutOfDiskError(RayError):
    """The disk that objects spill to is full."""

    usual = "the disk that objects spill to is full"


class OutOfMemoryError(RayError):
    """The worker was killed because its node was running out of memory."""

    usual = "the worker was killed: its node was running out of memory"


class RuntimeEnvSetupError(RayError):
    """The runtime environment could not be made ready."""

    usual = "the runtime environment could not be set up"


class TaskPlacementGroupRemoved(RayError):
    """The placement group the task was to run in was removed."""

    usual = "the task's placement group was removed"


class ActorPlacementGroupRemoved(RayError):
    """The placement group the actor lived in was removed."""

    usual = "the actor's placement group was removed"


class PendingCallsLimitExceeded(RayError):
    """The handle has as many unanswered calls as `max_pending_calls` allows; this one was not sent."""

    usual = "too many calls to the actor are pending"


class _UnschedulableError(RayError):
    """`asked` and `best` (what the best node has in all) map resource names to amounts, in the units of the options."""

    def __init__(
        self, reason: str = "", asked: Mapping[str, float] | None = None, best: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(reason)
        self.asked = dict(asked or {})
        self.best = dict(best or {})
        self.args = (reason, self.asked, self.best)

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}: asked for {self.asked}; the best node has {self.best}" if self.asked else text


class TaskUnschedulableError(_UnschedulableError):
    """No node of the cluster can ever run the task."""

    usual = "no node can ever run this task"


class ActorUnschedulableError(_UnschedulableError):
    """No node of the cluster can ever hold the actor."""

    usual = "no node can ever hold this actor"


class ActorAlreadyExistsError(RayError, ValueError):
    """The name is taken in this namespace, and `get_if_exists` was not given."""

    usual = "an actor of this name exists already"


class AuthenticationError(RayError):
    """The cluster did not accept our token, or we not its certificate."""

    usual = "the cluster token was not accepted"


class AsyncioActorExit(RayError):
    """Raised inside an async actor by `exit_actor()`, to leave the method."""

    usual = "the actor asked to end itself"


class ObjectRefStreamEndOfStreamError(RayError):
    """The generator has no more values."""

    usual = "the stream of refs has ended"


class UnserializableException(RayError):
    """Stands in for an exception that could not be pickled: its type by name, its traceback as text."""

    def __init__(self, type_name: str, traceback_str: str = "") -> None:
        super().__init__()
        self.args = (type_name, traceback_str)
        self.type_name = type_name
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        return f"a {self.type_name}, which cannot be pickled, was raised:\n{self.traceback_str}"


class RaySystemError(RayError):
    """A failure inside aioray that user code did not cause."""

    usual = "aioray failed"


class SerializationError(RayError, TypeError):
    """A value cannot be pickled. `path` leads to the part at fault (`args[0].model.lock`); `reason` is pickle's."""

    def __init__(self, path: str, type_name: str, reason: str) -> None:
        super().__init__(reason)
        self.args = (path, type_name, reason)
        self.path = path
        self.type_name = type_name

    def __str__(self) -> str:
        return f"{self.path} (a {self.type_name}) cannot be sent to another process: {self.reason}"


class BlockingCallError(RayError, RuntimeError):
    """A call that blocks was made in a running event loop, which it would stop. `instead` says what to write."""

    def __init__(self, call: str, instead: str) -> None:
        super().__init__()
        self.args = (call, instead)
        self.call = call
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.call} would block the running event loop; write {self.instead}"


class InvalidOptionError(RayError, ValueError, TypeError):
    """An option or tunable has no such name, or not such values, or is not there yet (`reason` says which).

    `value` is the value itself if it is None, a bool, a number or a text, else its repr, so that this error can always
    be pickled. `allowed` says in words what would have been accepted.
    """

    def __init__(self, option: str, value: Any, allowed: str, reason: str = "") -> None:
        super().__init__(reason)
        self.option = option
        self.value = value if value is None or type(value) in (bool, int, float, str) else _Shown(_short_repr(value))
        self.allowed = allowed
        self.args = (option, self.value, allowed, reason)

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.option}={_short_repr(self.value)} is not accepted{reason}; allowed: {self.allowed}"


class _Shown(str):
    """The repr of a value, standing in for it: not quoted again when it is shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _short_repr(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:97]}..."
