"""Queue: a first-in, first-out queue that any process of the cluster may put into and get from."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import queue
from typing import TYPE_CHECKING, Any

import aioray
from aioray.util.waiting import check_count, check_flag, check_timeout, refuse_in_loop

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aioray.actors import ActorHandle
    from aioray.refs import ObjectRef

_WATCH_AFTER_S = 0.05  # a get that takes longer is watched: if its process dies, the next item is for somebody else
_GIVE_BACK_S = 5.0  # how long a get that was interrupted waits for what was on its way
_MAX_WAITING = 1_000_000  # calls at once: those that wait must not keep out the one that would end their wait


class Empty(queue.Empty):
    """There was no item, or not as many as were asked for."""


class Full(queue.Full):
    """There was no room, or not for all."""


class QueueActor:
    """Where the items are. Answers True, or (True, item), and False when time was up: `Queue` makes errors of that."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: collections.deque[Any] = collections.deque()
        self._getters: dict[bytes, asyncio.Future[Any]] = {}  # by ticket, in the order in which they came
        self._putters: dict[asyncio.Future[None], Any] = {}  # with their items
        self._watched = 0
        self._calm = asyncio.Condition()  # told when nobody waits any more

    def _settle(self) -> None:
        """Items to who waits for them, and into the queue what waits for room."""
        while True:
            if self._items and self._getters:
                getter = self._getters.pop(next(iter(self._getters)))
                getter.set_result(self._items.popleft())
            elif self._putters and self._room() > 0:
                putter = next(iter(self._putters))
                self._items.append(self._putters.pop(putter))
                putter.set_result(None)
            else:
                return

    def _room(self) -> float:
        return self._maxsize - len(self._items) if self._maxsize > 0 else float("inf")

    async def put(self, item: Any, timeout_s: float | None) -> bool:
        putter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._putters[putter] = item
        self._settle()
        try:
            if not putter.done() and timeout_s != 0:
                await asyncio.wait([putter], timeout=timeout_s)
        finally:
            self._putters.pop(putter, None)
            await self._left()
        return putter.done()

    async def get(self, ticket: bytes, timeout_s: float | None) -> tuple[bool, Any]:
        getter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._getters[ticket] = getter
        self._settle()
        try:
            if not getter.done() and timeout_s != 0:
                await asyncio.wait([getter], timeout=timeout_s)
        except asyncio.CancelledError:
            if getter.done() and not getter.cancelled():  # nobody will see the answer
                await self.give_back(getter.result())
            raise
        finally:
            self._getters.pop(ticket, None)
            await self._left()
        if getter.done() and not getter.cancelled():
            return True, getter.result()
        return False, None

    async def _left(self) -> None:
        if not self._getters and not self._putters:
            async with self._calm:
                self._calm.notify_all()

    async def watch(self, ticket: bytes, answer: list[ObjectRef[Any]]) -> None:
        """Withdraw this ticket if its process dies. `answer`: the ref to its `get`, which that process owns."""
        getter = self._getters.get(ticket)
        if getter is None:
            return
        self._watched += 1
        owner_gone = asyncio.ensure_future(aioray.wait([answer.pop()]))
        try:
            await asyncio.wait([getter, owner_gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            owner_gone.cancel()
            self._watched -= 1
        await self.withdraw(ticket)

    async def watched(self) -> int:
        """How many of those that wait are watched."""
        return self._watched

    async def withdraw(self, ticket: bytes) -> None:
        """Whoever waits with this ticket has given up. If it was served already, it gives the item back."""
        getter = self._getters.pop(ticket, None)
        if getter is not None:
            getter.cancel()

    async def give_back(self, item: Any) -> None:
        """What somebody got and cannot use goes to the front, even if the queue is full."""
        self._items.appendleft(item)
        self._settle()

    async def put_batch(self, items: list[Any]) -> int | None:
        """How many are in the queue, if there was no room for all."""
        if len(items) > self._room():
            return len(self._items)
        self._items.extend(items)
        self._settle()
        return None

    async def get_batch(self, count: int) -> tuple[bool, Any]:
        """The items, or how many there are if that is too few."""
        if count > len(self._items):
            return False, len(self._items)
        items = [self._items.popleft() for _ in range(count)]
        self._settle()
        return True, items

    async def size(self) -> int:
        return len(self._items)

    async def calm(self) -> None:
        """Comes back when nobody waits to put or to get."""
        async with self._calm:
            await self._calm.wait_for(lambda: not self._getters and not self._putters)


class Queue:
    """A queue for tasks, actors and drivers, which may be sent to any of them.

    maxsize: how many items it holds; 0, or less: without limit. actor_options: of the actor that holds the items, as
    for `.options(...)` of a class. The queue ends with the last handle to it, or with `shutdown`.
    A method that blocks raises BlockingCallError in an event loop; each has a twin there that is awaited, `..._async`.
    """

    def __init__(self, maxsize: int = 0, actor_options: Mapping[str, Any] | None = None) -> None:
        check_count(maxsize, "maxsize", -(2**63))
        self.maxsize = maxsize
        options = {"max_concurrency": _MAX_WAITING, **(actor_options or {})}
        self.actor: ActorHandle | None = aioray.remote(QueueActor).options(**options).remote(maxsize)

    def __len__(self) -> int:
        return self.size()

    @property
    def _actor(self) -> ActorHandle:
        if self.actor is None:
            raise RuntimeError("this queue was shut down")
        return self.actor

    # one item

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item at the end; where the queue is full, wait for room.

        timeout: seconds to wait, default without end. block=False: do not wait. Raises Full.
        """
        refuse_in_loop("Queue.put(item)", "await queue.put_async(item)")
        if not aioray.get(self._put(item, block, timeout)):
            raise Full

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ASYNC109 # as in Ray
        """`put`, awaited. When it is cancelled while it waits for room, the item is not put."""
        if not await self._put(item, block, timeout):
            raise Full

    def _put(self, item: Any, block: bool, timeout_s: float | None) -> ObjectRef[bool]:
        return self._actor.put.remote(item, _wait_s(block, timeout_s))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the first item; where there is none, wait for one.

        timeout: seconds to wait, default without end. block=False: do not wait. Raises Empty.
        """
        refuse_in_loop("Queue.get()", "await queue.get_async()")
        wait_s = _wait_s(block, timeout)
        ticket = os.urandom(8)
        ref: ObjectRef[tuple[bool, Any]] | None = None
        try:  # all of it in here: Ctrl-C comes where it likes
            ref = self._actor.get.remote(ticket, wait_s)
            if not aioray.wait([ref], timeout=_WATCH_AFTER_S)[0]:
                self._watch(ref, ticket)
            found, item = aioray.get(ref)
        except KeyboardInterrupt as interrupt:  # or this task was cancelled: no item may be lost with it
            try:
                self._withdraw(ticket)
                if ref is not None:
                    aioray.wait([ref], timeout=_GIVE_BACK_S)
                    self._give_back(ref)
            except Exception as exc:  # the cluster has ended, or the item cannot be unpickled
                interrupt.add_note(f"An item that was on its way could not be given back: {exc!r}")
            raise
        if not found:
            raise Empty
        return item

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ASYNC109 # as in Ray
        """`get`, awaited. When it is cancelled no item is lost: one that was on its way goes back to the front."""
        ticket = os.urandom(8)
        ref: ObjectRef[tuple[bool, Any]] = self._actor.get.remote(ticket, _wait_s(block, timeout))
        try:
            if not (await aioray.wait([ref], timeout=_WATCH_AFTER_S))[0]:
                self._watch(ref, ticket)
            found, item = await asyncio.shield(ref)
        except asyncio.CancelledError:
            ref.add_done_callback(self._give_back)
            self._withdraw(ticket)
            # A round trip, so that the item is back when the await has ended; cancelled again, it may come later.
            with contextlib.suppress(asyncio.CancelledError):
                await aioray.wait([ref])
            raise
        if not found:
            raise Empty
        return item

    def _watch(self, ref: ObjectRef[Any], ticket: bytes) -> None:
        if self.actor is not None:
            self.actor.watch.options(num_returns=0).remote(ticket, [ref])

    def _withdraw(self, ticket: bytes) -> None:
        if self.actor is not None:
            self.actor.withdraw.options(num_returns=0).remote(ticket)

    def _give_back(self, ref: Any) -> None:
        if self.actor is not None and ref.done() and not ref.cancelled() and ref.exception() is None:
            found, item = ref.result()
            if found:
                self.actor.give_back.options(num_returns=0).remote(item)

    def put_nowait(self, item: Any) -> None:
        """Add an item if there is room. Raises Full."""
        refuse_in_loop("Queue.put_nowait(item)", "await queue.put_async(item, block=False)")
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """Take the first item if there is one. Raises Empty."""
        refuse_in_loop("Queue.get_nowait()", "await queue.get_async(block=False)")
        return self.get(block=False)

    # several at once

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items, or none: raises Full if there is not room for all."""
        refuse_in_loop("Queue.put_nowait_batch(items)", "await queue.put_nowait_batch_async(items)")
        batch = _batch(items)
        _check_put(aioray.get(self._actor.put_batch.remote(batch)), len(batch), self.maxsize)

    async def put_nowait_batch_async(self, items: Iterable[Any]) -> None:
        """`put_nowait_batch`, awaited."""
        batch = _batch(items)
        _check_put(await self._actor.put_batch.remote(batch), len(batch), self.maxsize)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take the first `num_items` items, or none: raises Empty if there are fewer."""
        refuse_in_loop("Queue.get_nowait_batch(n)", "await queue.get_nowait_batch_async(n)")
        check_count(num_items, "num_items", 0)
        return _check_got(aioray.get(self._actor.get_batch.remote(num_items)), num_items)

    async def get_nowait_batch_async(self, num_items: int) -> list[Any]:
        """`get_nowait_batch`, awaited."""
        check_count(num_items, "num_items", 0)
        return _check_got(await self._actor.get_batch.remote(num_items), num_items)

    # how full it is

    def size(self) -> int:
        """How many items it holds now."""
        refuse_in_loop("Queue.size()", "await queue.size_async()")
        count: int = aioray.get(self._actor.size.remote())
        return count

    def qsize(self) -> int:
        """The same as `size`."""
        return self.size()

    async def size_async(self) -> int:
        """`size`, awaited."""
        count: int = await self._actor.size.remote()
        return count

    def empty(self) -> bool:
        """Whether it holds nothing now."""
        return self.size() == 0

    def full(self) -> bool:
        """Whether it holds `maxsize` items now; never when that is without limit."""
        size = self.size()
        return 0 < self.maxsize <= size

    # the end

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the queue and drop what is in it. Safe to call twice.

        Those who wait in `put` and `get` have `grace_period_s` (seconds) to end, or none with force=True: after that
        they, and all later callers, get ActorDiedError.
        """
        refuse_in_loop("Queue.shutdown()", "await queue.shutdown_async()")
        check_flag(force, "force")
        check_timeout(grace_period_s, "grace_period_s")
        actor, self.actor = self.actor, None
        if actor is not None:
            if not force:
                aioray.wait([actor.calm.remote()], timeout=grace_period_s)
            aioray.kill(actor)

    async def shutdown_async(self, force: bool = False, grace_period_s: float = 5) -> None:
        """`shutdown`, awaited. When it is cancelled, the queue ends at once."""
        check_flag(force, "force")
        check_timeout(grace_period_s, "grace_period_s")
        actor, self.actor = self.actor, None
        if actor is not None:
            try:
                if not force:
                    await aioray.wait([actor.calm.remote()], timeout=grace_period_s)
            finally:
                aioray.kill(actor)


def _wait_s(block: bool, timeout_s: float | None) -> float | None:
    check_flag(block, "block")
    check_timeout(timeout_s)
    return timeout_s if block else 0


def _batch(items: Iterable[Any]) -> list[Any]:
    if isinstance(items, (str, bytes)):
        raise TypeError(f"a batch is a list of items, not a {type(items).__name__}")
    return list(items)


def _check_put(held: int | None, count: int, maxsize: int) -> None:
    if held is not None:
        raise Full(f"no room for {count} items: {held} of {maxsize} are in the queue")


def _check_got(answer: tuple[bool, Any], count: int) -> list[Any]:
    enough, items = answer
    if not enough:
        raise Empty(f"{count} items were asked for, and the queue holds {items}")
    taken: list[Any] = items
    return taken
