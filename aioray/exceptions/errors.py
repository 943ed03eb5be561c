"""All errors but those of user code: plain classes, whose facts are in their attributes and in `args`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class RayError(Exception):
    """Anything that aioray reports. `reason` says what happened, "" where there is no more to say than the type."""

    usual: ClassVar[str] = ""  # what str() says when no reason was given

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or self.usual


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


class TaskTimeoutError(TaskCancelledError, TimeoutError):
    """(ours) The call was cancelled because its `timeout` or `deadline`, or that of a call around it, had passed."""

    usual = "its time was up, and it was cancelled"


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


class TaskPlacementGroupRemoved(WorkerCrashedError):
    """The placement group in which the task ran, or was to run, was removed. It is not tried again."""

    usual = "the task's placement group was removed"


class ActorPlacementGroupRemoved(ActorDiedError):
    """The placement group in which the actor lived, or was to live, was removed."""

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


class RayChannelError(RaySystemError):
    """A compiled graph has ended, or a link between two of its processes broke, before the pass was through."""

    usual = "the compiled graph has ended"


class RayChannelTimeoutError(RayChannelError, GetTimeoutError):
    """The pass of a compiled graph was not through after `timeout_s` seconds; it goes on."""

    usual = "the pass was not through in time"

    def __init__(self, reason: str = "", timeout_s: float | None = None) -> None:
        GetTimeoutError.__init__(self, reason, timeout_s)


class RayCgraphCapacityExceeded(RaySystemError):
    """As many passes of the compiled graph are under way as may be (`_max_inflight_executions`)."""

    usual = "too many passes of the compiled graph are under way"


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
