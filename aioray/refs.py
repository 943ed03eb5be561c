"""ObjectRef: a value that is, or will be, somewhere in the cluster; an asyncio.Future of whichever loop awaits it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aioray import current
from aioray.exceptions import GetTimeoutError, TaskCancelledError
from aioray.ids import JobID, TaskID
from aioray.runtime.serialization import Counted, loading_runtime
from aioray.wire.values import object_id, owner_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from aioray.runtime.runtime import Runtime
    from aioray.runtime.unseen import Unseen
    from aioray.wire.values import Value

T = TypeVar("T")

PENDING, READY, RAISED, CANCELLED = range(4)
_PLACED_WILL_DO: Any = object()  # for the context of a callback that need not wait until the value is here
NOBODYS = -1  # for the number of the call that makes the object, when none does
_running_loop = asyncio._get_running_loop  # the one of this thread, or None


def restore_ref(oid: bytes) -> ObjectRef[Any]:
    """What a pickled ref calls where it arrives."""
    runtime = loading_runtime()
    if runtime is None:
        runtime = current.get()
    ref: ObjectRef[Any] = runtime.objects.borrow(oid)
    return ref


def restore_nobodys(oid: bytes) -> ObjectRef[Any]:
    """The same of a ref to an object that nobody makes."""
    return (loading_runtime() or current.get()).objects.nobodys(oid)


if TYPE_CHECKING:

    class _Awaitable(asyncio.Future[T]):
        """For type checkers a ref is a Future, so that asyncio's functions take it."""
else:

    class _Awaitable(Generic[T]):
        __slots__ = ()


class _Await:
    """One `await ref`, as the task that awaits sees it: a Future without a value.

    A task asks what it waits for for its result before it goes on, only to drop it. Given the ref itself it would have
    the value unpickled twice.
    """

    __slots__ = ("_asyncio_future_blocking", "_given_up", "_ref")

    def __init__(self, ref: ObjectRef[Any]) -> None:
        self._ref = ref
        self._given_up: Callable[[Any], object] | None = None
        self._asyncio_future_blocking = True

    def __repr__(self) -> str:
        return f"<await {self._ref!r}>"

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def add_done_callback(self, fn: Callable[[Any], object], *, context: contextvars.Context | None = None) -> None:
        self._ref._call_when_done(fn, context, self)

    def result(self) -> None:
        if self._given_up is not None:
            raise asyncio.CancelledError

    def cancel(self, msg: Any = None) -> bool:
        ref = self._ref
        runtime = ref._runtime
        if ref._status != PENDING or (owner_of(ref.binary()) == runtime.process_id and not runtime.spares_children()):
            return ref.cancel(msg)
        # Somebody else made the call, and somebody else may await it here: only this await ends.
        return self._give_up()

    def _give_up(self) -> bool:
        with self._ref._runtime.reactor.lock:
            for loop, fn, context, who, _ in self._ref._entries():
                if who is self:
                    self._ref._keep_entries(lambda entry: entry[3] is not self)
                    self._given_up = fn
                    loop.call_soon(fn, self, context=context)
                    return True
        return False


class ObjectRef(Counted, _Awaitable[T]):
    """The promise of a value of type T.

    In an event loop, `await` it, or give it to whatever takes a Future: `asyncio.gather`, `wait`, `wait_for`, `shield`.
    Cancelling the await cancels the remote call, unless it is shielded. Elsewhere use `aioray.get(ref)`.
    There is one ObjectRef per object and process: copies are the same object, so it compares and hashes by identity.
    When the last one in any process goes, the object is freed.
    """

    __slots__ = (
        "__weakref__",
        "_asyncio_future_blocking",
        "_index",
        "_oid",
        "_runtime",
        "_seq",
        "_status",
        "_task",
        "_tracked",
        "_value",
        "_waiting",
    )

    _late_error = GetTimeoutError  # what a `get` raises that has waited long enough

    def __init__(self, runtime: Runtime, seq: int, index: int = 0, oid: bytes = b"") -> None:
        self._runtime = runtime
        self._seq = seq
        self._index = index
        self._oid = oid
        self._status = PENDING
        # A Value when READY or RAISED; an exception instance when RAISED here. While it is pending: where its value
        # lies, if that has been made, but is on another node.
        self._value: Any = None
        # (loop, fn, context, fn's argument, the entry before it); without a loop, fn is called at once, by whoever
        # completes the ref. Linked, not in a list: nearly always it is one, and a thousand lists are work for gc.
        self._waiting: tuple[Any, ...] | None = None
        # What computes it, while it is pending. Then the name of what did, for messages; of an error, an Unseen.
        self._task: Any = None
        self._tracked = False  # the object table must hear when this ref goes
        self._asyncio_future_blocking = False

    # identity

    def binary(self) -> bytes:
        """The object's id, 16 bytes."""
        if not self._oid:
            self._oid = object_id(self._runtime.process_id, self._seq, self._index)
        return self._oid

    _counted_id = binary

    def hex(self) -> str:
        """The object's id, 32 hexadecimal digits."""
        return self.binary().hex()

    def is_nil(self) -> bool:
        """Whether this is the ref to nothing."""
        return self.binary() == bytes(16)

    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """The ref to nothing, the same one each time. Getting it raises ObjectLostError."""
        return restore_nobodys(bytes(16))

    @classmethod
    def from_random(cls) -> ObjectRef[Any]:
        """A ref that no other equals, to an object that nobody makes. Getting it raises ObjectLostError."""
        return restore_nobodys(os.urandom(16))

    def task_id(self) -> TaskID:
        """The call that makes the object."""
        return TaskID(self.binary()[: TaskID.NBYTES])

    def job_id(self) -> JobID:
        """The driver at the root."""
        return JobID(self._runtime.job_here())

    def __repr__(self) -> str:
        return f"ObjectRef({self.hex()})"

    def __copy__(self) -> ObjectRef[T]:
        return self

    def __deepcopy__(self, memo: Any) -> ObjectRef[T]:
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Pickled by somebody else's pickler: nobody will tell us when the copy is gone, so it stays until shutdown.
        self._runtime.objects.pin_for_ever(self)
        return self._restore()

    def _is_counted(self) -> bool:
        return self._seq != NOBODYS

    def _restore(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self._seq == NOBODYS:
            return restore_nobodys, (self.binary(),)
        self._runtime.objects.share(self)
        return restore_ref, (self.binary(),)

    def __del__(self) -> None:
        if self._tracked:
            self._tracked = False
            self._runtime.objects.ref_gone(self._oid)

    # completion, called by the runtime with its lock held

    def _complete(self, state: int, value: Any, maker: str | Unseen | None = None) -> None:
        if self._status != PENDING:
            return
        self._status = state
        self._value = value
        self._task = maker
        if self._waiting is not None:
            self._run_callbacks()
        if self._tracked:
            self._runtime.objects.completed(self)

    def _is_placed(self, value: Value, maker: str | None = None) -> None:
        """It is made, and lies on another node. Who only passes it on need not wait until it is here."""
        self._value = value
        self._task = maker
        entries = self._entries()
        self._keep_entries(lambda entry: entry[2] is not _PLACED_WILL_DO)
        for _, fn, context, who, _ in entries:
            if context is _PLACED_WILL_DO:
                fn(who)
        if self._tracked:
            self._runtime.objects.completed(self)
        if self._waiting:
            self._runtime.objects.want(self)

    def _is_made(self) -> bool:
        """Whether it can be passed on."""
        return self._status != PENDING or self._value is not None

    def _when_made(self, fn: Callable[[ObjectRef[Any]], None]) -> None:
        """Call `fn` under the runtime's lock when it can be passed on, at once if it can. The lock is held."""
        if self._is_made():
            fn(self)
            return
        self._waiting = (None, fn, _PLACED_WILL_DO, self, self._waiting)
        self._runtime.objects.want(self, here=False)

    def _run_callbacks(self) -> None:
        entries, self._waiting = self._entries(), None
        runtime = self._runtime
        for loop, fn, context, who, _ in entries:
            if loop is None:
                fn(who)
            elif runtime.reactor.runs_in(loop) or loop is _running_loop():  # the second makes a system call
                runtime.loop_callbacks.soon(loop, fn, who, context)
            else:
                with contextlib.suppress(RuntimeError):  # the loop that waited is closed
                    loop.call_soon_threadsafe(fn, who, context=context)

    def _entries(self) -> list[tuple[Any, ...]]:
        """Who waits, in the order in which they came."""
        entries = []
        entry = self._waiting
        while entry is not None:
            entries.append(entry)
            entry = entry[4]
        if len(entries) > 1:
            entries.reverse()
        return entries

    def _keep_entries(self, keep: Callable[[tuple[Any, ...]], bool]) -> None:
        """Let go of the others."""
        entries, self._waiting = self._entries(), None
        for entry in entries:
            if keep(entry):
                self._waiting = (*entry[:4], self._waiting)

    def _when_done(self, fn: Callable[[ObjectRef[Any]], None]) -> None:
        """Call `fn` under the runtime's lock, at once when it is done already."""
        runtime = self._runtime
        with runtime.reactor.lock:
            if self._status != PENDING:
                fn(self)
                return
            self._waiting = (None, fn, None, self, self._waiting)
        runtime.objects.want(self)

    def _drop_callback(self, fn: Callable[[ObjectRef[Any]], None]) -> None:
        """Undo `_when_done`."""
        if self._waiting is not None:
            with self._runtime.reactor.lock:
                self._keep_entries(lambda entry: entry[1] != fn)

    # the asyncio.Future protocol

    # The running loop: a ref may be awaited in any. Not a method, since `gather` asks each.
    get_loop = staticmethod(asyncio.get_running_loop)

    def done(self) -> bool:
        """Whether the value, or an error, is there."""
        return self._status != PENDING

    def cancelled(self) -> bool:
        """Whether it was cancelled as a Future is, by `ref.cancel()` or by cancelling an await of it."""
        return self._status == CANCELLED

    def result(self) -> T:
        """The value. Raises what the call raised, CancelledError, or InvalidStateError when it is not done."""
        if self._status == READY:
            value: T = self._runtime.load(self)
            return value
        if self._status == CANCELLED:
            raise asyncio.CancelledError
        if self._status == PENDING:
            raise asyncio.InvalidStateError("The value is not there yet.")
        raise self._runtime.load_error(self)

    def exception(self) -> BaseException | None:
        """The exception, or None when there is a value. Raises as `result` does when cancelled or not done."""
        if self._status == RAISED:
            return self._runtime.load_error(self)
        if self._status != READY:
            self.result()
        return None

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: contextvars.Context | None = None) -> None:
        """Have the running loop call `fn(ref)` soon after the value is there."""
        self._call_when_done(fn, context, self)

    def _call_when_done(self, fn: Callable[[Any], object], context: contextvars.Context | None, who: object) -> None:
        loop = asyncio.get_running_loop()
        if context is None:
            context = contextvars.copy_context()
        runtime = self._runtime
        with runtime.reactor.lock:
            if self._status != PENDING:
                loop.call_soon(fn, who, context=context)
                return
            self._waiting = (loop, fn, context, who, self._waiting)
        runtime.awaited(self)

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        """Take `fn` out; returns how often it was in."""
        with self._runtime.reactor.lock:
            before = len(self._entries())
            self._keep_entries(lambda entry: entry[1] != fn)
            return before - len(self._entries())

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the remote call, whoever made it, as a Future is cancelled; False when it is done already.

        What it does to the call, and to those that the call began, is what `aioray.cancel(ref)` does.
        """
        runtime = self._runtime
        with runtime.reactor.lock:
            if self._status != PENDING:
                return False
            task = self._task
            self._complete(CANCELLED, None, getattr(task, "name", None))
            if runtime.spares_children():
                pass  # whoever awaits it here goes without it
            elif owner_of(self.binary()) != runtime.process_id:
                runtime.canceller.ask_owner(self)
            elif task is not None:
                runtime.canceller.cancel_call(task, self)
        runtime.reactor.nudge()
        return True

    # asyncio.gather asks a cancelled Future for these two.

    _cancel_message = None

    def _make_cancelled_error(self) -> asyncio.CancelledError:
        return asyncio.CancelledError()

    def __await__(self) -> Generator[Any, None, T]:
        if self._status == PENDING:
            yield _Await(self)
        return self.result()

    def future(self) -> concurrent.futures.Future[T]:
        """A concurrent.futures.Future with the same outcome, for code that wants one."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def pass_on() -> None:
            ref = self
            if not future.set_running_or_notify_cancel():
                return  # nobody waits for it any more
            try:
                future.set_result(ref.result())
            except asyncio.CancelledError:
                future.set_exception(TaskCancelledError(ref.task_id().hex(), name=ref._task or ""))
            except BaseException as exc:  # whatever it is, it is the outcome
                future.set_exception(exc)

        if self._status != PENDING:
            pass_on()
        else:  # its callbacks are the user's, and may wait for a lock that somebody has who waits for us
            self._when_done(lambda _: self._runtime.callbacks.call(pass_on))
        return future
