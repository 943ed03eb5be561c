"""Generators from afar: refs that come one after the other (ObjectRefGenerator), or all at the end."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aioray.exceptions import ObjectRefStreamEndOfStreamError
from aioray.runtime.streams import Gathering, Stream
from aioray.runtime.unserializable import StaysHere
from aioray.wire.calls import DYNAMIC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aioray.ids import TaskID
    from aioray.refs import ObjectRef
    from aioray.runtime.actor_lines import MethodTarget
    from aioray.runtime.runtime import Runtime
    from aioray.runtime.task_records import TaskTarget

T = TypeVar("T")

_BREATHE_EVERY = 256  # values that are there may be taken in a row before the event loop has a turn


def is_generator_function(fn: Any) -> bool:
    """Whether calling it makes a generator, an asynchronous one included."""
    return inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)


def submit_stream(runtime: Runtime, target: TaskTarget | MethodTarget, submit: Callable[[Stream], object]) -> Any:
    """Have `submit` make a call that streams; what its caller gets."""
    if target.num_returns == DYNAMIC:
        gathering = Gathering(runtime, DynamicObjectRefGenerator)
        submit(gathering)
        return gathering.ref
    stream = Stream(runtime, target.ahead)
    submit(stream)
    return ObjectRefGenerator(stream)


class ObjectRefGenerator(StaysHere, Generic[T]):
    """What a remote generator yields, as refs, each as soon as it is there: `for ref in generator`, or `async for`.

    Where the generator raises, or its worker dies for good, the next ref has the error, and after that there are no
    more. Cancelling one `__anext__` loses no value and stops nothing; `aioray.cancel(generator)` cancels the call.
    `close()`, or dropping it, stops the generator at its next yield (GeneratorExit is raised there; an asynchronous one
    that awaits gets CancelledError there) and frees all that was not taken. It belongs to one process: it cannot be
    pickled.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> ObjectRefGenerator[T]:
        return self

    def __next__(self) -> ObjectRef[T]:
        """The next ref; blocks until its value, or an error, is there. Raises BlockingCallError in an event loop."""
        stream = self._stream
        while True:
            ref = stream.take()
            if ref is not None:
                return ref
            if stream.is_over or stream.closed:
                raise StopIteration
            stream.wait()

    def __aiter__(self) -> ObjectRefGenerator[T]:
        return self

    async def __anext__(self) -> ObjectRef[T]:
        """The next ref, when its value, or an error, is there. Cancelling it loses no value, and does not stop more."""
        stream = self._stream
        if stream.has_some and stream.is_time_to_breathe(_BREATHE_EVERY):
            await asyncio.sleep(0)
        while True:
            ref = stream.take()
            if ref is not None:
                return ref
            if stream.is_over or stream.closed:
                raise StopAsyncIteration
            await stream.wait_async()

    def completed(self) -> ObjectRef[None]:
        """A ref that is done when the call is: with None, or with its error. Cancelling it cancels the call."""
        return self._stream.completion

    def next_ready(self) -> bool:
        """Whether `next` would give a ref at once. False at the end, too: see `is_finished`."""
        self._look()
        return self._stream.has_some

    def is_finished(self) -> bool:
        """Whether the call has ended and all refs were taken: `next` would raise StopIteration."""
        self._look()
        return self._stream.is_settled() and not self._stream.has_some

    def _look(self) -> None:
        """Take in what lies ready, where no event loop does."""
        reactor = self._stream.runtime.reactor
        if not self._stream.is_settled() and reactor.loop is None:
            reactor.run_until(self._stream.is_settled, 0)

    def close(self) -> None:
        """Stop the generator, and free what was not taken; `next` raises StopIteration from now on. Does not wait."""
        reactor = self._stream.runtime.reactor
        with reactor.lock:
            self._stream.close()
        reactor.nudge()

    def task_id(self) -> TaskID:
        """The id of the call."""
        return self._stream.completion.task_id()

    def _get_next_ref(self) -> ObjectRef[T]:
        """The next ref, without waiting for its value, and without taking it.

        Getting it raises ObjectRefStreamEndOfStreamError when the call ends before. Raises the same at once when it
        has ended and all refs were taken.
        """
        if self.is_finished():
            raise ObjectRefStreamEndOfStreamError
        return self._stream.peek()

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._stream.completion.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a generator of refs cannot be passed to another process: pass the refs, or have num_returns='dynamic'"
        )

    def __copy__(self) -> ObjectRefGenerator[T]:
        return self

    def __deepcopy__(self, memo: Any) -> ObjectRefGenerator[T]:
        return self

    def __del__(self) -> None:
        self._stream.drop()


class DynamicObjectRefGenerator(Generic[T]):
    """The value of a call with num_returns="dynamic": refs to all that its generator yielded. May be iterated again."""

    def __init__(self, refs: Sequence[ObjectRef[T]]) -> None:
        self._refs = list(refs)

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

    def __repr__(self) -> str:
        return f"DynamicObjectRefGenerator({len(self._refs)} refs)"
