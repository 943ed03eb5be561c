"""How items come from actors, for who blocks and for who awaits: generators of what to wait for, and of items.

A `Flow` yields `Until(refs)`, and is sent one of the refs, which is done; or `Item(value)`, and is sent None.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from aioray.exceptions import RaySystemError
from aioray.util.iter_steps import MakeStep, Pipeline

if TYPE_CHECKING:
    from aioray.actors import AnyHandle
    from aioray.refs import ObjectRef
    from aioray.util.iter_steps import Stage


class Until(NamedTuple):
    refs: list[ObjectRef[Any]]


class Item(NamedTuple):
    value: Any


Flow = Generator[Until | Item, "ObjectRef[Any] | None", None]
MakeFlow = Callable[[], Flow]


class Shard(NamedTuple):
    """An actor, and what is to be done there."""

    actor: AnyHandle
    stages: tuple[Stage, ...] = ()


class PassKey(NamedTuple):
    """Which pass over the items of an actor this is, and which part of it."""

    key: bytes
    at: int = 0
    slices: int = 1


def read(shard: Shard, batch_s: float, ahead: int, which: PassKey | None = None) -> Flow:
    """The items of one shard. `ahead`: how many calls are under way while the reader does something else."""
    key, at, slices = which or PassKey(os.urandom(8))
    actor: Any = shard.actor
    under_way: list[ObjectRef[Any]] = []
    begin: tuple[tuple[Stage, ...], int] | None = (shard.stages, slices)
    is_over = False

    def ask(count: int) -> None:
        while len(under_way) < count:
            under_way.append(actor.par_iter_next.remote(key, at, batch_s, begin))

    try:
        while not is_over:
            ask(1)
            begin = None
            done = yield Until(under_way[:1])  # in the order in which they were made
            assert done is not None
            under_way.remove(done)
            try:
                answer = done.result()
                if answer is None:
                    raise RuntimeError("an actor lost its place among the items: it was restarted")
                items, is_over = answer
            except BaseException:
                is_over = True
                raise
            if not is_over:
                ask(ahead)
            for item in items:
                yield Item(item)
    finally:
        if not is_over and begin is None:
            _close_soon(actor, key, at)


def _close_soon(actor: Any, key: bytes, at: int) -> None:
    """Have the actor forget a pass. Safe in finalizers, from where readers that are dropped come here."""
    reactor = actor._actor.runtime.reactor

    def close() -> None:
        with contextlib.suppress(RaySystemError):  # the cluster has ended, and the actor with it
            actor.par_iter_close.remote(key, at)

    if not reactor.closed:
        reactor.call_soon(close)


class _Branch:
    """A flow that is read beside others."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.now: Until | Item | None = None  # None: before the beginning, and after the end
        self.is_over = False

    def advance(self, done: ObjectRef[Any] | None = None) -> None:
        try:
            self.now = self.flow.send(done)
        except StopIteration:
            self.now, self.is_over = None, True


@contextlib.contextmanager
def _branches(flows: Sequence[MakeFlow]) -> Iterator[list[_Branch]]:
    branches = [_Branch(make()) for make in flows]
    try:
        yield branches
    finally:
        for branch in branches:
            branch.flow.close()


def in_turn(flows: Sequence[MakeFlow]) -> Flow:
    """Lists with one item of each flow that is not over: what all do at the same time."""
    with _branches(flows) as branches:
        while branches:
            for branch in branches:
                branch.advance()
            for branch in branches:
                while isinstance(branch.now, Until):
                    branch.advance((yield branch.now))
            branches = [branch for branch in branches if not branch.is_over]
            if branches:
                yield Item([branch.now.value for branch in branches if isinstance(branch.now, Item)])


def as_they_come(flows: Sequence[MakeFlow]) -> Flow:
    """Items of all flows, as each is ready."""
    with _branches(flows) as branches:
        ready = list(branches)
        waiting: dict[ObjectRef[Any], _Branch] = {}
        while ready or waiting:
            for branch in ready:
                branch.advance()
            for branch in ready:
                if isinstance(branch.now, Until):
                    waiting |= dict.fromkeys(branch.now.refs, branch)
            ready = [branch for branch in ready if isinstance(branch.now, Item)]
            for branch in ready:
                assert isinstance(branch.now, Item)
                yield branch.now
            if not ready and waiting:
                done = yield Until(list(waiting))
                assert done is not None
                branch = waiting[done]
                waiting = {ref: other for ref, other in waiting.items() if other is not branch}
                branch.advance(done)
                if isinstance(branch.now, Until):
                    waiting |= dict.fromkeys(branch.now.refs, branch)
                elif isinstance(branch.now, Item):
                    yield branch.now
                    ready = [branch]


def through(make: MakeFlow, maker: MakeStep) -> Flow:
    """What becomes of a flow's items."""
    flow = make()
    pipeline = Pipeline([maker])
    try:
        sent: ObjectRef[Any] | None = None
        while True:
            try:
                now = flow.send(sent)
            except StopIteration:
                break
            sent = None
            if isinstance(now, Until):
                sent = yield now
            else:
                for item in pipeline.feed(now.value):
                    yield Item(item)
        for item in pipeline.end():
            yield Item(item)
    finally:
        flow.close()
