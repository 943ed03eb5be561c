"""Collective calls on numpy arrays: the members of a group (actors, tasks, the driver) all make them together.

    collective.init_collective_group(world_size=4, rank=rank, group_name="workers")
    collective.allreduce(array, "workers")  # now each member's `array` is the sum of all
    collective.destroy_collective_group("workers")

A process is a member once per group. Arrays above 64 KiB go through shared memory. Each function that waits has a twin
that is awaited, `allreduce_async` and so on, and raises BlockingCallError in an event loop itself.

A call fails with CollectiveError in all members when one of them dies (at once), destroys its part of the group, makes
a different call, or does not come within the group's timeout: 1800 s unless `timeout_s` says otherwise. The group is
of no use then; destroy it, and its name can be used again.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

import aioray
from aioray import current
from aioray.actors import ActorHandle
from aioray.exceptions import InvalidOptionError, ObjectLostError, RayActorError
from aioray.runtime_context import get_runtime_context
from aioray.util.collective.group import Group
from aioray.util.collective.hub import NAME, NAMESPACE, Hub
from aioray.util.collective.types import Backend, CollectiveError, GroupDissolved, ReduceOp
from aioray.util.waiting import check_count, check_timeout, refuse_in_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioray.actors import AnyHandle
    from aioray.util.collective.group import Array, Steps

__all__ = [
    "Backend",
    "CollectiveError",
    "ReduceOp",
    "allgather",
    "allgather_async",
    "allreduce",
    "allreduce_async",
    "barrier",
    "barrier_async",
    "broadcast",
    "broadcast_async",
    "create_collective_group",
    "create_collective_group_async",
    "destroy_collective_group",
    "get_collective_group_size",
    "get_rank",
    "init_collective_group",
    "init_collective_group_async",
    "is_group_initialized",
    "recv",
    "recv_async",
    "reduce",
    "reduce_async",
    "reducescatter",
    "reducescatter_async",
    "send",
    "send_async",
]

_TIMEOUT_S = 1800.0
_MAX_WAITING = 1_000_000  # calls of the hub at once: those that wait must not keep out who ends their wait


class _Membership:
    """What this process is a member of, and what it has created for others, in one cluster."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.created: set[str] = set()
        self.hub: ActorHandle | None = None  # kept as long as this process lives


def _here() -> _Membership:
    # Calls name a group and carry no handle, so something must know. It lives exactly as long as the runtime does.
    membership: _Membership = vars(current.get()).setdefault("collective_membership", _Membership())
    return membership


# groups


def init_collective_group(
    world_size: int,
    rank: int,
    backend: Backend | str = Backend.CPU,
    group_name: str = "default",
    timeout_s: float = _TIMEOUT_S,
) -> None:
    """Become member number `rank` of `world_size`; blocks until all are there.

    timeout_s: how long this and later calls wait for other members. Raises CollectiveError, and RuntimeError when this
    process is in a group of that name already.
    """
    refuse_in_loop("init_collective_group(...)", "await init_collective_group_async(...)")
    _block(group_name, _init(world_size, rank, backend, group_name, timeout_s))


async def init_collective_group_async(
    world_size: int,
    rank: int,
    backend: Backend | str = Backend.CPU,
    group_name: str = "default",
    timeout_s: float = _TIMEOUT_S,
) -> None:
    """`init_collective_group`, awaited."""
    await _await(group_name, _init(world_size, rank, backend, group_name, timeout_s))


def _init(world_size: int, rank: int, backend: Backend | str, group_name: str, timeout_s: float) -> Steps:
    check_count(world_size, "world_size")
    _check_rank(rank, world_size, "rank")
    _check_group(backend, group_name, timeout_s)
    if group_name in _here().groups:
        raise RuntimeError(f"this process is in a group called {group_name!r} already")
    return _join(_hub(), group_name, rank, world_size, timeout_s)


def _join(hub: ActorHandle, name: str, rank: int, world_size: int, timeout_s: float) -> Steps:
    (number,) = yield [hub.call.remote(name, "enter", rank, world_size)]
    group = Group(hub, name, number, rank, world_size, timeout_s)
    group.alive = hub.call.remote(name, "sit", number, rank)
    _here().groups[name] = group
    try:
        yield [hub.call.remote(name, "join", number, rank, [group.alive], timeout_s)]
    except BaseException:
        _here().groups.pop(name, None)
        group.leave()
        raise
    return group


def create_collective_group(
    actors: Sequence[AnyHandle],
    world_size: int,
    ranks: Sequence[int],
    backend: Backend | str = Backend.CPU,
    group_name: str = "default",
    timeout_s: float = _TIMEOUT_S,
) -> None:
    """Make a group of actors, each with its rank: they join when they first make a call of the group.

    Raises ValueError when the group exists. `destroy_collective_group` here ends it for all of them.
    """
    refuse_in_loop("create_collective_group(...)", "await create_collective_group_async(...)")
    _block(group_name, _create(actors, world_size, ranks, backend, group_name, timeout_s))


async def create_collective_group_async(
    actors: Sequence[AnyHandle],
    world_size: int,
    ranks: Sequence[int],
    backend: Backend | str = Backend.CPU,
    group_name: str = "default",
    timeout_s: float = _TIMEOUT_S,
) -> None:
    """`create_collective_group`, awaited."""
    await _await(group_name, _create(actors, world_size, ranks, backend, group_name, timeout_s))


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
    _check_group(backend, group_name, timeout_s)

    def steps() -> Steps:
        hub = _hub()
        by_actor = {actor.binary().hex(): rank for actor, rank in zip(handles, ranks, strict=True)}
        yield [hub.call.remote(group_name, "declare", by_actor, timeout_s)]
        _here().created.add(group_name)

    return steps()


def destroy_collective_group(group_name: str = "default") -> None:
    """Leave the group, or end the one that was created here. Does nothing where there is none; does not wait.

    Calls that other members make, or are in the middle of, fail with CollectiveError.
    """
    here = _here()
    group = here.groups.pop(group_name, None)
    if group is not None:
        group.leave()
    if group_name in here.created and here.hub is not None:
        here.created.remove(group_name)
        here.hub.call.options(num_returns=0).remote(group_name, "dissolve")


def is_group_initialized(group_name: str = "default") -> bool:
    """Whether this process has joined the group."""
    return group_name in _here().groups


def get_rank(group_name: str = "default") -> int:
    """The rank of this process in the group, -1 where it has not joined."""
    group = _here().groups.get(group_name)
    return -1 if group is None else group.rank


def get_collective_group_size(group_name: str = "default") -> int:
    """How many members the group has, -1 where this process has not joined."""
    group = _here().groups.get(group_name)
    return -1 if group is None else group.world_size


# calls that all members make


def barrier(group_name: str = "default") -> None:
    """Wait until all members are here."""
    refuse_in_loop("barrier(...)", "await barrier_async(...)")
    _block(group_name, _barrier(group_name))


async def barrier_async(group_name: str = "default") -> None:
    """`barrier`, awaited. Cancelling it breaks the group, as it does with all of these."""
    await _await(group_name, _barrier(group_name))


def _barrier(group_name: str) -> Steps:
    return _call(group_name, lambda group: group.barrier())


def broadcast(tensor: Array, src_rank: int = 0, group_name: str = "default") -> None:
    """Fill every member's `tensor` with that of `src_rank`. Arrays must agree in type and shape."""
    refuse_in_loop("broadcast(...)", "await broadcast_async(...)")
    _block(group_name, _broadcast(tensor, src_rank, group_name))


async def broadcast_async(tensor: Array, src_rank: int = 0, group_name: str = "default") -> None:
    """`broadcast`, awaited."""
    await _await(group_name, _broadcast(tensor, src_rank, group_name))


def _broadcast(tensor: Array, src_rank: int, group_name: str) -> Steps:
    _check_array(tensor, writes=False)

    def call(group: Group) -> Steps:
        _check_rank(src_rank, group.world_size, "src_rank")
        _check_array(tensor, writes=group.rank != src_rank)
        return group.broadcast(tensor, src_rank)

    return _call(group_name, call)


def allreduce(tensor: Array, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Replace every member's `tensor` with the reduction of all. Arrays must agree in type and shape."""
    refuse_in_loop("allreduce(...)", "await allreduce_async(...)")
    _block(group_name, _allreduce(tensor, group_name, op))


async def allreduce_async(tensor: Array, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """`allreduce`, awaited."""
    await _await(group_name, _allreduce(tensor, group_name, op))


def _allreduce(tensor: Array, group_name: str, op: ReduceOp) -> Steps:
    _check_array(tensor)
    _check_op(op)
    return _call(group_name, lambda group: group.allreduce(tensor, op))


def reduce(tensor: Array, dst_rank: int = 0, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Replace the `tensor` of `dst_rank` with the reduction of all; those of the others stay as they are."""
    refuse_in_loop("reduce(...)", "await reduce_async(...)")
    _block(group_name, _reduce(tensor, dst_rank, group_name, op))


async def reduce_async(
    tensor: Array, dst_rank: int = 0, group_name: str = "default", op: ReduceOp = ReduceOp.SUM
) -> None:
    """`reduce`, awaited."""
    await _await(group_name, _reduce(tensor, dst_rank, group_name, op))


def _reduce(tensor: Array, dst_rank: int, group_name: str, op: ReduceOp) -> Steps:
    _check_array(tensor, writes=False)
    _check_op(op)

    def call(group: Group) -> Steps:
        _check_rank(dst_rank, group.world_size, "dst_rank")
        _check_array(tensor, writes=group.rank == dst_rank)
        return group.reduce(tensor, dst_rank, op)

    return _call(group_name, call)


def allgather(tensor_list: Sequence[Array], tensor: Array, group_name: str = "default") -> None:
    """Fill `tensor_list`, in every member, with the `tensor` of each, in the order of ranks."""
    refuse_in_loop("allgather(...)", "await allgather_async(...)")
    _block(group_name, _allgather(tensor_list, tensor, group_name))


async def allgather_async(tensor_list: Sequence[Array], tensor: Array, group_name: str = "default") -> None:
    """`allgather`, awaited."""
    await _await(group_name, _allgather(tensor_list, tensor, group_name))


def _allgather(tensor_list: Sequence[Array], tensor: Array, group_name: str) -> Steps:
    _check_array(tensor, writes=False)

    def call(group: Group) -> Steps:
        _check_list(tensor_list, tensor, group.world_size)
        for each in tensor_list:
            _check_array(each)
        return group.allgather(tensor_list, tensor)

    return _call(group_name, call)


def reducescatter(
    tensor: Array, tensor_list: Sequence[Array], group_name: str = "default", op: ReduceOp = ReduceOp.SUM
) -> None:
    """Fill `tensor`, in member number i, with the reduction of all members' `tensor_list[i]`."""
    refuse_in_loop("reducescatter(...)", "await reducescatter_async(...)")
    _block(group_name, _reducescatter(tensor, tensor_list, group_name, op))


async def reducescatter_async(
    tensor: Array, tensor_list: Sequence[Array], group_name: str = "default", op: ReduceOp = ReduceOp.SUM
) -> None:
    """`reducescatter`, awaited."""
    await _await(group_name, _reducescatter(tensor, tensor_list, group_name, op))


def _reducescatter(tensor: Array, tensor_list: Sequence[Array], group_name: str, op: ReduceOp) -> Steps:
    _check_array(tensor)
    _check_op(op)

    def call(group: Group) -> Steps:
        _check_list(tensor_list, tensor, group.world_size)
        return group.reducescatter(tensor, tensor_list, op)

    return _call(group_name, call)


# calls between two


def send(tensor: Array, dst_rank: int, group_name: str = "default") -> None:
    """Send to another member. Comes back when the array is on its way, before it is received."""
    refuse_in_loop("send(...)", "await send_async(...)")
    _block(group_name, _send(tensor, dst_rank, group_name))


async def send_async(tensor: Array, dst_rank: int, group_name: str = "default") -> None:
    """`send`, awaited."""
    await _await(group_name, _send(tensor, dst_rank, group_name))


def _send(tensor: Array, dst_rank: int, group_name: str) -> Steps:
    _check_array(tensor, writes=False)

    def call(group: Group) -> Steps:
        _check_peer(dst_rank, group, "dst_rank")
        return group.send(tensor, dst_rank)

    return _call(group_name, call)


def recv(tensor: Array, src_rank: int, group_name: str = "default") -> None:
    """Fill `tensor` with what `src_rank` sends to this member. Raises ValueError when type or shape differ."""
    refuse_in_loop("recv(...)", "await recv_async(...)")
    _block(group_name, _recv(tensor, src_rank, group_name))


async def recv_async(tensor: Array, src_rank: int, group_name: str = "default") -> None:
    """`recv`, awaited."""
    await _await(group_name, _recv(tensor, src_rank, group_name))


def _recv(tensor: Array, src_rank: int, group_name: str) -> Steps:
    _check_array(tensor)

    def call(group: Group) -> Steps:
        _check_peer(src_rank, group, "src_rank")
        return group.recv(tensor, src_rank)

    return _call(group_name, call)


# how a call is carried out


def _call(name: str, call: Callable[[Group], Steps]) -> Steps:
    group = yield from _member(name)
    try:
        yield from call(group)
    except GroupDissolved:  # and perhaps created again since
        _here().groups.pop(name, None)
        group.leave()
        group = yield from _member(name)
        yield from call(group)


def _member(name: str) -> Steps:
    """This process's group of that name; where it was created for this actor, it joins now."""
    group = _here().groups.get(name)
    if group is not None:
        return group
    hub = _find_hub()
    found = None
    if hub is not None:
        (found,) = yield [hub.call.remote(name, "declared", get_runtime_context().get_actor_id() or "")]
    if found is None:
        raise RuntimeError(f"this process is not in a group called {name!r}: call init_collective_group first")
    assert hub is not None, "it has answered"
    rank, world_size, timeout_s = found
    return (yield from _join(hub, name, rank, world_size, timeout_s))


def _block(name: str, steps: Steps) -> None:
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


async def _await(name: str, steps: Steps) -> None:
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
        _here().hub = None  # the next group makes another one
    if name in _here().groups:
        if isinstance(exc, RayActorError):
            return CollectiveError(name, f"its hub is gone ({exc.reason})")
        if isinstance(exc, ObjectLostError):
            return CollectiveError(name, "a member died before its array was read")
    return exc


def _give_up(name: str, exc: BaseException) -> None:
    """A call ended half way, by no fault of the group: the others must not wait for this member."""
    if current.find() is None:
        return
    group = _here().groups.get(name)
    # Bad input was found before the call began.
    if group is not None and not isinstance(exc, (CollectiveError, ValueError, TypeError, RuntimeError)):
        group.fail(type(exc).__name__)


def _find_hub() -> ActorHandle | None:
    here = _here()
    if here.hub is None:
        with contextlib.suppress(ValueError):
            here.hub = aioray.get_actor(NAME, NAMESPACE)
    return here.hub


def _hub() -> ActorHandle:
    hub = _find_hub()
    if hub is None:
        options = {"num_cpus": 0, "name": NAME, "namespace": NAMESPACE, "get_if_exists": True}
        hub = _here().hub = aioray.remote(Hub).options(max_concurrency=_MAX_WAITING, **options).remote()
    return hub


# checks


def _check_group(backend: Any, name: Any, timeout_s: Any) -> None:
    if backend not in list(Backend):
        raise InvalidOptionError("backend", backend, '"cpu" or "gloo"', "arrays are numpy's, in the object store")
    if not isinstance(name, str) or not name:
        raise InvalidOptionError("group_name", name, "a text that is not empty")
    if timeout_s is None:
        raise InvalidOptionError("timeout_s", timeout_s, "seconds, 0 or more")
    check_timeout(timeout_s, "timeout_s")


def _check_rank(rank: Any, world_size: int, option: str) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < world_size:
        raise InvalidOptionError(option, rank, f"a whole number, 0 to {world_size - 1}")


def _check_peer(rank: Any, group: Group, option: str) -> None:
    _check_rank(rank, group.world_size, option)
    if rank == group.rank:
        raise InvalidOptionError(option, rank, "the rank of another member", "that is this one")


def _check_op(op: Any) -> None:
    if not isinstance(op, ReduceOp):
        raise InvalidOptionError("op", op, ", ".join(f"ReduceOp.{each.name}" for each in ReduceOp))


def _check_array(tensor: Any, *, writes: bool = True) -> None:
    if not isinstance(tensor, np.ndarray):
        raise TypeError(f"collective calls take numpy arrays, not {type(tensor).__name__}")
    if tensor.dtype.hasobject:
        raise TypeError("collective calls take arrays of numbers, not of Python objects")
    if writes and not tensor.flags.writeable:
        raise ValueError("the array is read-only, and its values are to be replaced: give a copy")


def _check_list(tensor_list: Any, tensor: Array, world_size: int) -> None:
    if not isinstance(tensor_list, (list, tuple)) or len(tensor_list) != world_size:
        raise InvalidOptionError("tensor_list", tensor_list, f"a list of {world_size} arrays, one for each member")
    for each in tensor_list:
        _check_array(each, writes=False)
        if each.shape != tensor.shape or each.dtype != tensor.dtype:
            raise InvalidOptionError("tensor_list", tensor_list, "arrays of the type and shape of tensor")
