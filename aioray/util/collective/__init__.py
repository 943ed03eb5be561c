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

from aioray.util.collective.groups import (
    create_collective_group,
    create_collective_group_async,
    destroy_collective_group,
    get_collective_group_size,
    get_rank,
    init_collective_group,
    init_collective_group_async,
    is_group_initialized,
)
from aioray.util.collective.operations import (
    allgather,
    allgather_async,
    allreduce,
    allreduce_async,
    barrier,
    barrier_async,
    broadcast,
    broadcast_async,
    recv,
    recv_async,
    reduce,
    reduce_async,
    reducescatter,
    reducescatter_async,
    send,
    send_async,
)
from aioray.util.collective.types import Backend, CollectiveError, ReduceOp

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
