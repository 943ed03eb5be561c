"""Groups: joining, making and leaving them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.actors import ActorHandle
from aioray.exceptions import InvalidOptionError
from aioray.util.collective.checks import check_group, check_rank
from aioray.util.collective.local import hub, membership
from aioray.util.collective.steps import block, join, run
from aioray.util.collective.types import Backend
from aioray.util.waiting import check_count, refuse_in_loop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioray.actors import AnyHandle
    from aioray.util.collective.group import Steps

TIMEOUT_S = 1800.0


def init_collective_group(
    world_size: int,
    rank: int,
    backend: Backend | str = Backend.CPU,
    group_name: str = "default",
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Become member number `rank` of `world_size`; blocks until all are there.

    timeout_s: how long this and later calls wait for other members. Raises CollectiveError, and RuntimeError when this
    process is in a group of that name already. Light actors (`isolation="shared"`) are members each for itself.
    """
    refuse_in_loop("init_collective_group(...)", "await init_collective_group_async(...)")
    block(group_name, _init(world_size, rank, backend, group_name, timeout_s))


async def init_collective_group_async(
    world_size: int,
    rank: int,
    backend: Backend | str = Backend.CPU,
    group_name: str = "default",
    timeout_s: float = TIMEOUT_S,
) -> None:
    """`init_collective_group`, awaited."""
    await run(group_name, _init(world_size, rank, backend, group_name, timeout_s))


def _init(world_size: int, rank: int, backend: Backend | str, group_name: str, timeout_s: float) -> Steps:
    check_count(world_size, "world_size")
    check_rank(rank, world_size, "rank")
    check_group(backend, group_name, timeout_s)
    if group_name in membership().groups:
        raise RuntimeError(f"the code here is in a group called {group_name!r} already")
    return join(hub(), group_name, rank, world_size, timeout_s)


def create_collective_group(
    actors: Sequence[AnyHandle],
    world_size: int,
    ranks: Sequence[int],
    backend: Backend | str = Backend.CPU,
    group_name: str = "default",
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Make a group of actors, each with its rank: they join when they first make a call of the group.

    Raises ValueError when the group exists. `destroy_collective_group` here ends it for all of them.
    """
    refuse_in_loop("create_collective_group(...)", "await create_collective_group_async(...)")
    block(group_name, _create(actors, world_size, ranks, backend, group_name, timeout_s))


async def create_collective_group_async(
    actors: Sequence[AnyHandle],
    world_size: int,
    ranks: Sequence[int],
    backend: Backend | str = Backend.CPU,
    group_name: str = "default",
    timeout_s: float = TIMEOUT_S,
) -> None:
    """`create_collective_group`, awaited."""
    await run(group_name, _create(actors, world_size, ranks, backend, group_name, timeout_s))


def _create(
    actors: Sequence[AnyHandle],
    world_size: int,
    ranks: Sequence[int],
    backend: Backend | str,
    group_name: str,
    timeout_s: float,
) -> Steps:
    handles = [actor for actor in actors if isinstance(actor, ActorHandle)]
    if strange := [actor for actor in actors if not isinstance(actor, ActorHandle)]:
        raise TypeError(f"a group is made of actor handles, not of {type(strange[0]).__name__}")
    check_count(world_size, "world_size")
    if len(set(actors)) != len(actors) or len(actors) != world_size:
        raise InvalidOptionError("world_size", world_size, f"{len(set(actors))}, the number of different actors")
    if sorted(ranks) != list(range(world_size)):
        raise InvalidOptionError("ranks", list(ranks), f"the numbers 0 to {world_size - 1}, each once")
    check_group(backend, group_name, timeout_s)

    def steps() -> Steps:
        at = hub()
        by_actor = {actor._actor_id.hex(): rank for actor, rank in zip(handles, ranks, strict=True)}
        yield [at.call.remote(group_name, "declare", by_actor, timeout_s)]
        membership().created.add(group_name)

    return steps()


def destroy_collective_group(group_name: str = "default") -> None:
    """Leave the group, or end the one that was created here. Does nothing where there is none; does not wait.

    Calls that other members make, or are in the middle of, fail with CollectiveError.
    """
    here = membership()
    group = here.groups.pop(group_name, None)
    if group is not None:
        group.leave()
    if group_name in here.created and here.hub is not None:
        here.created.remove(group_name)
        here.hub.call.options(num_returns=0).remote(group_name, "dissolve")


def is_group_initialized(group_name: str = "default") -> bool:
    """Whether this process, or light actor, has joined the group."""
    return group_name in membership().groups


def get_rank(group_name: str = "default") -> int:
    """The rank of this process in the group, -1 where it has not joined."""
    group = membership().groups.get(group_name)
    return -1 if group is None else group.rank


def get_collective_group_size(group_name: str = "default") -> int:
    """How many members the group has, -1 where this process has not joined."""
    group = membership().groups.get(group_name)
    return -1 if group is None else group.world_size
