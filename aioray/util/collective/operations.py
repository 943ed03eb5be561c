"""The calls that all members of a group make together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.util.collective.checks import check_array, check_list, check_op, check_peer, check_rank
from aioray.util.collective.steps import block, in_group, run
from aioray.util.collective.types import ReduceOp
from aioray.util.waiting import refuse_in_loop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioray.util.collective.group import Array, Group, Steps


def barrier(group_name: str = "default") -> None:
    """Wait until all members are here."""
    refuse_in_loop("barrier(...)", "await barrier_async(...)")
    block(group_name, _barrier(group_name))


async def barrier_async(group_name: str = "default") -> None:
    """`barrier`, awaited. Cancelling it breaks the group, as it does with all of these."""
    await run(group_name, _barrier(group_name))


def _barrier(group_name: str) -> Steps:
    return in_group(group_name, lambda group: group.barrier())


def broadcast(tensor: Array, src_rank: int = 0, group_name: str = "default") -> None:
    """Fill every member's `tensor` with that of `src_rank`. Arrays must agree in type and shape."""
    refuse_in_loop("broadcast(...)", "await broadcast_async(...)")
    block(group_name, _broadcast(tensor, src_rank, group_name))


async def broadcast_async(tensor: Array, src_rank: int = 0, group_name: str = "default") -> None:
    """`broadcast`, awaited."""
    await run(group_name, _broadcast(tensor, src_rank, group_name))


def _broadcast(tensor: Array, src_rank: int, group_name: str) -> Steps:
    check_array(tensor, writes=False)

    def call(group: Group) -> Steps:
        check_rank(src_rank, group.world_size, "src_rank")
        check_array(tensor, writes=group.rank != src_rank)
        return group.broadcast(tensor, src_rank)

    return in_group(group_name, call)


def allreduce(tensor: Array, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Replace every member's `tensor` with the reduction of all. Arrays must agree in type and shape."""
    refuse_in_loop("allreduce(...)", "await allreduce_async(...)")
    block(group_name, _allreduce(tensor, group_name, op))


async def allreduce_async(tensor: Array, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """`allreduce`, awaited."""
    await run(group_name, _allreduce(tensor, group_name, op))


def _allreduce(tensor: Array, group_name: str, op: ReduceOp) -> Steps:
    check_array(tensor)
    check_op(op)
    return in_group(group_name, lambda group: group.allreduce(tensor, op))


def reduce(tensor: Array, dst_rank: int = 0, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Replace the `tensor` of `dst_rank` with the reduction of all; those of the others stay as they are."""
    refuse_in_loop("reduce(...)", "await reduce_async(...)")
    block(group_name, _reduce(tensor, dst_rank, group_name, op))


async def reduce_async(
    tensor: Array, dst_rank: int = 0, group_name: str = "default", op: ReduceOp = ReduceOp.SUM
) -> None:
    """`reduce`, awaited."""
    await run(group_name, _reduce(tensor, dst_rank, group_name, op))


def _reduce(tensor: Array, dst_rank: int, group_name: str, op: ReduceOp) -> Steps:
    check_array(tensor, writes=False)
    check_op(op)

    def call(group: Group) -> Steps:
        check_rank(dst_rank, group.world_size, "dst_rank")
        check_array(tensor, writes=group.rank == dst_rank)
        return group.reduce(tensor, dst_rank, op)

    return in_group(group_name, call)


def allgather(tensor_list: Sequence[Array], tensor: Array, group_name: str = "default") -> None:
    """Fill `tensor_list`, in every member, with the `tensor` of each, in the order of ranks."""
    refuse_in_loop("allgather(...)", "await allgather_async(...)")
    block(group_name, _allgather(tensor_list, tensor, group_name))


async def allgather_async(tensor_list: Sequence[Array], tensor: Array, group_name: str = "default") -> None:
    """`allgather`, awaited."""
    await run(group_name, _allgather(tensor_list, tensor, group_name))


def _allgather(tensor_list: Sequence[Array], tensor: Array, group_name: str) -> Steps:
    check_array(tensor, writes=False)

    def call(group: Group) -> Steps:
        check_list(tensor_list, tensor, group.world_size)
        for each in tensor_list:
            check_array(each)
        return group.allgather(tensor_list, tensor)

    return in_group(group_name, call)


def reducescatter(
    tensor: Array, tensor_list: Sequence[Array], group_name: str = "default", op: ReduceOp = ReduceOp.SUM
) -> None:
    """Fill `tensor`, in member number i, with the reduction of all members' `tensor_list[i]`."""
    refuse_in_loop("reducescatter(...)", "await reducescatter_async(...)")
    block(group_name, _reducescatter(tensor, tensor_list, group_name, op))


async def reducescatter_async(
    tensor: Array, tensor_list: Sequence[Array], group_name: str = "default", op: ReduceOp = ReduceOp.SUM
) -> None:
    """`reducescatter`, awaited."""
    await run(group_name, _reducescatter(tensor, tensor_list, group_name, op))


def _reducescatter(tensor: Array, tensor_list: Sequence[Array], group_name: str, op: ReduceOp) -> Steps:
    check_array(tensor)
    check_op(op)

    def call(group: Group) -> Steps:
        check_list(tensor_list, tensor, group.world_size)
        return group.reducescatter(tensor, tensor_list, op)

    return in_group(group_name, call)


# calls between two


def send(tensor: Array, dst_rank: int, group_name: str = "default") -> None:
    """Send to another member. Comes back when the array is on its way, before it is received."""
    refuse_in_loop("send(...)", "await send_async(...)")
    block(group_name, _send(tensor, dst_rank, group_name))


async def send_async(tensor: Array, dst_rank: int, group_name: str = "default") -> None:
    """`send`, awaited."""
    await run(group_name, _send(tensor, dst_rank, group_name))


def _send(tensor: Array, dst_rank: int, group_name: str) -> Steps:
    check_array(tensor, writes=False)

    def call(group: Group) -> Steps:
        check_peer(dst_rank, group, "dst_rank")
        return group.send(tensor, dst_rank)

    return in_group(group_name, call)


def recv(tensor: Array, src_rank: int, group_name: str = "default") -> None:
    """Fill `tensor` with what `src_rank` sends to this member. Raises ValueError when type or shape differ."""
    refuse_in_loop("recv(...)", "await recv_async(...)")
    block(group_name, _recv(tensor, src_rank, group_name))


async def recv_async(tensor: Array, src_rank: int, group_name: str = "default") -> None:
    """`recv`, awaited."""
    await run(group_name, _recv(tensor, src_rank, group_name))


def _recv(tensor: Array, src_rank: int, group_name: str) -> Steps:
    check_array(tensor)

    def call(group: Group) -> Steps:
        check_peer(src_rank, group, "src_rank")
        return group.recv(tensor, src_rank)

    return in_group(group_name, call)
