"""Members of collective groups, for the tests: workers import this, and not pytest."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import aioray
from aioray.util import collective
from aioray.util.collective import ReduceOp


class PlainMember:
    """Makes the calls that it is told to make."""

    def init(self, world_size: int, rank: int, name: str = "default", timeout_s: float = 60.0) -> None:
        collective.init_collective_group(world_size, rank, "gloo", name, timeout_s)

    def where(self, name: str = "default") -> tuple[bool, int, int]:
        return (
            collective.is_group_initialized(name),
            collective.get_rank(name),
            collective.get_collective_group_size(name),
        )

    def destroy(self, name: str = "default") -> None:
        collective.destroy_collective_group(name)

    def barrier(self, name: str = "default") -> None:
        collective.barrier(name)

    def allreduce(self, array: Any, op: ReduceOp = ReduceOp.SUM, name: str = "default") -> Any:
        own = np.array(array)
        collective.allreduce(own, name, op)
        return own

    def allreduce_large(self, nbytes: int, rank: int) -> tuple[float, float]:
        own = np.full(nbytes // 8, rank + 1.0)
        own[-1] = 10.0 * rank
        collective.allreduce(own)
        return float(own[0]), float(own[-1])

    def reduce(self, array: Any, dst_rank: int) -> Any:
        own = np.array(array)
        collective.reduce(own, dst_rank)
        return own

    def broadcast(self, array: Any, src_rank: int) -> Any:
        own = np.array(array)
        collective.broadcast(own, src_rank)
        return own

    def allgather(self, array: Any, world_size: int) -> list[Any]:
        own = np.array(array)
        found = [np.zeros_like(own) for _ in range(world_size)]
        collective.allgather(found, own)
        return found

    def reducescatter(self, arrays: list[Any]) -> Any:
        own = np.zeros_like(arrays[0])
        collective.reducescatter(own, arrays)
        return own

    def send(self, array: Any, dst_rank: int) -> None:
        collective.send(np.array(array), dst_rank)

    def recv(self, like: Any, src_rank: int) -> Any:
        own = np.zeros_like(like)
        collective.recv(own, src_rank)
        return own

    def die(self) -> None:
        os._exit(1)


Member: Any = aioray.remote(num_cpus=0)(PlainMember)


class PlainAsyncMember:
    async def run(self, world_size: int, rank: int) -> list[Any]:
        await collective.init_collective_group_async(world_size, rank, "cpu", "async", 60.0)
        own = np.array([rank, 1.0])
        await collective.allreduce_async(own, "async")
        seen: list[Any] = [own.tolist()]
        await collective.broadcast_async(own, 1, "async")
        await collective.reduce_async(own, 0, "async")
        seen.append(own.tolist())
        found = [np.zeros(2) for _ in range(world_size)]
        await collective.allgather_async(found, np.array([rank, rank], dtype=float), "async")
        await collective.reducescatter_async(own, found, "async")
        seen.append(own.tolist())
        if rank == 0:
            await collective.send_async(np.array([5.0]), 1, "async")
        elif rank == 1:
            last = np.zeros(1)
            await collective.recv_async(last, 0, "async")
            seen.append(last.tolist())
        await collective.barrier_async("async")
        collective.destroy_collective_group("async")
        return seen

    async def refused(self) -> str:
        try:
            collective.barrier()
        except aioray.exceptions.BlockingCallError as exc:
            return exc.instead
        return "not refused"


class PlainLightMember:
    """In one process with others, each of which is a member of its own."""

    def __init__(self) -> None:
        self.process_id = os.getpid()

    async def init(self, world_size: int, rank: int) -> int:
        await collective.init_collective_group_async(world_size, rank, "cpu", "light", 60.0)
        return self.process_id

    async def where(self) -> tuple[int, int]:
        return collective.get_rank("light"), collective.get_collective_group_size("light")

    async def allreduce(self) -> float:
        own = np.array([collective.get_rank("light") + 1.0])
        await collective.allreduce_async(own, "light")
        return float(own[0])

    def barrier(self) -> None:  # in a thread
        collective.barrier("light")

    async def destroy(self) -> None:
        collective.destroy_collective_group("light")


LightMember: Any = aioray.remote(isolation="shared", max_restarts=1, max_task_retries=1)(PlainLightMember)
AsyncMember: Any = aioray.remote(num_cpus=0)(PlainAsyncMember)


@aioray.remote(num_cpus=0)
def member_task(world_size: int, rank: int) -> list[float]:
    collective.init_collective_group(world_size, rank, group_name="tasks", timeout_s=60.0)
    own = np.array([float(rank)])
    collective.allreduce(own, "tasks")
    collective.destroy_collective_group("tasks")
    return [float(number) for number in own]
