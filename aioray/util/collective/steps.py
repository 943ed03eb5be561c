"""How a call of a group is carried out, blocking or awaited: step by step, each of which waits for refs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aioray
from aioray import current
from aioray.exceptions import ObjectLostError, RayActorError
from aioray.runtime_context import get_runtime_context
from aioray.util.collective.group import Group
from aioray.util.collective.local import find_hub, membership
from aioray.util.collective.types import CollectiveError, GroupDissolved

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.actors import ActorHandle
    from aioray.util.collective.group import Steps


def join(hub: ActorHandle, name: str, rank: int, world_size: int, timeout_s: float) -> Steps:
    (number,) = yield [hub.call.remote(name, "enter", rank, world_size)]
    group = Group(hub, name, number, rank, world_size, timeout_s)
    group.alive = hub.call.remote(name, "sit", number, rank)
    membership().groups[name] = group
    try:
        yield [hub.call.remote(name, "join", number, rank, [group.alive], timeout_s)]
    except BaseException:
        membership().groups.pop(name, None)
        group.leave()
        raise
    return group


def in_group(name: str, call: Callable[[Group], Steps]) -> Steps:
    group = yield from _member(name)
    try:
        yield from call(group)
    except GroupDissolved:  # and perhaps created again since
        membership().groups.pop(name, None)
        group.leave()
        group = yield from _member(name)
        yield from call(group)


def _member(name: str) -> Steps:
    """This process's group of that name; where it was created for this actor, it joins now."""
    group = membership().groups.get(name)
    if group is not None:
        return group
    hub = find_hub()
    found = None
    if hub is not None:
        (found,) = yield [hub.call.remote(name, "declared", get_runtime_context().get_actor_id() or "")]
    if found is None:
        raise RuntimeError(f"the code here is not in a group called {name!r}: call init_collective_group first")
    assert hub is not None, "it has answered"
    rank, world_size, timeout_s = found
    return (yield from join(hub, name, rank, world_size, timeout_s))


def block(name: str, steps: Steps) -> None:
    values: list[Any] = []
    try:
        refs = next(steps)
        while True:
            failed = None
            try:
                values = aioray.get(refs)
            except BaseException as exc:  # the call decides what becomes of it
                failed = _plain(name, exc)
            refs = steps.send(values) if failed is None else steps.throw(failed)
    except StopIteration:
        pass
    except BaseException as exc:
        _give_up(name, exc)
        raise


async def run(name: str, steps: Steps) -> None:
    values: list[Any] = []
    try:
        refs = next(steps)
        while True:
            failed = None
            try:
                values = [await ref for ref in refs]
            except BaseException as exc:  # the call decides what becomes of it
                failed = _plain(name, exc)
            refs = steps.send(values) if failed is None else steps.throw(failed)
    except StopIteration:
        pass
    except BaseException as exc:
        _give_up(name, exc)
        raise


def _plain(name: str, exc: BaseException) -> BaseException:
    """What the hub raised, without its traceback; what befell it, or another member, as an error of the group."""
    cause = exc.__cause__
    if isinstance(cause, (CollectiveError, ValueError)):
        return cause.with_traceback(None)
    if isinstance(exc, RayActorError):
        membership().hub = None  # the next group makes another one
    if name in membership().groups:
        if isinstance(exc, RayActorError):
            return CollectiveError(name, f"its hub is gone ({exc.reason})")
        if isinstance(exc, ObjectLostError):
            return CollectiveError(name, "a member died before its array was read")
    return exc


def _give_up(name: str, exc: BaseException) -> None:
    """A call ended half way, by no fault of the group: the others must not wait for this member."""
    if current.find() is None:
        return
    group = membership().groups.get(name)
    # Bad input was found before the call began.
    if group is not None and not isinstance(exc, (CollectiveError, ValueError, TypeError, RuntimeError)):
        group.fail(type(exc).__name__)
