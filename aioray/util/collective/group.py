"""One member's side of a group. The calls are generators: they yield lists of refs, and are sent their values.

So each is written once, for callers that block and for those that await.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import aioray
from aioray.refs import ObjectRef
from aioray.util.collective.hub import EVERYBODY
from aioray.util.collective.types import ReduceOp

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from aioray.actors import ActorHandle

    Steps = Generator[list[ObjectRef[Any]], list[Any], Any]
    Array = np.ndarray[Any, Any]

_SMALL_NBYTES = 65536  # below, an array travels in messages; above, it lies in shared memory, and is read there
_UFUNCS = {ReduceOp.SUM: np.add, ReduceOp.PRODUCT: np.multiply, ReduceOp.MIN: np.minimum, ReduceOp.MAX: np.maximum}


class Group:
    """This process as a member of a group."""

    def __init__(self, hub: ActorHandle, name: str, number: int, rank: int, world_size: int, timeout_s: float) -> None:
        self.hub = hub
        self.name = name
        self.number = number
        self.rank = rank
        self.world_size = world_size
        self.timeout_s = timeout_s
        self.alive: ObjectRef[Any] | None = None  # held as long as this process is a member
        self._seq = 0

    def leave(self) -> None:
        """Not a member any more. Calls of the others fail."""
        self.hub.call.options(num_returns=0).remote(self.name, "leave", self.number, self.rank)
        self.alive = None

    def fail(self, reason: str) -> None:
        """Have the others hear at once that this member does not go on."""
        self.hub.call.options(num_returns=0).remote(self.name, "fail", self.number, self.rank, reason)

    def _exchange(self, what: str, parts: dict[int, Array]) -> Steps:
        self._seq += 1
        packed = {rank: _pack(part) for rank, part in parts.items()}
        answer = yield [
            self.hub.call.remote(self.name, "exchange", self.number, self.rank, self._seq, what, packed, self.timeout_s)
        ]
        return (yield from _unpack(answer[0]))

    def barrier(self) -> Steps:
        yield from self._exchange("barrier()", {})

    def broadcast(self, tensor: Array, src_rank: int) -> Steps:
        what = f"broadcast({_shape(tensor)}, src_rank={src_rank})"
        parts = yield from self._exchange(what, {EVERYBODY: tensor} if self.rank == src_rank else {})
        if self.rank != src_rank:
            np.copyto(tensor, parts[src_rank])

    def allreduce(self, tensor: Array, op: ReduceOp) -> Steps:
        what = f"allreduce({_shape(tensor)}, {op.name})"
        if tensor.nbytes <= _SMALL_NBYTES or self.world_size == 1:
            parts = yield from self._exchange(what, {EVERYBODY: tensor})
            np.copyto(tensor, _reduce(parts, op))
            return
        # Each member reduces a slice, and all read it: twice the array is read in all, however many members there are.
        slices = np.array_split(tensor.reshape(-1), self.world_size)
        parts = yield from self._exchange(what, dict(enumerate(slices)))
        mine = _reduce(parts, op)
        parts = yield from self._exchange(f"{what}, second half", {EVERYBODY: mine})
        np.copyto(tensor, np.concatenate(parts).reshape(tensor.shape))

    def reduce(self, tensor: Array, dst_rank: int, op: ReduceOp) -> Steps:
        what = f"reduce({_shape(tensor)}, {op.name}, dst_rank={dst_rank})"
        parts = yield from self._exchange(what, {dst_rank: tensor})
        if self.rank == dst_rank:
            np.copyto(tensor, _reduce(parts, op))

    def allgather(self, tensor_list: Sequence[Array], tensor: Array) -> Steps:
        parts = yield from self._exchange(f"allgather({_shape(tensor)})", {EVERYBODY: tensor})
        for target, part in zip(tensor_list, parts, strict=True):
            np.copyto(target, part)

    def reducescatter(self, tensor: Array, tensor_list: Sequence[Array], op: ReduceOp) -> Steps:
        what = f"reducescatter({_shape(tensor)}, {op.name})"
        parts = yield from self._exchange(what, dict(enumerate(tensor_list)))
        np.copyto(tensor, _reduce(parts, op))

    def send(self, tensor: Array, dst_rank: int) -> Steps:
        yield [self.hub.call.remote(self.name, "post", self.number, self.rank, dst_rank, [_pack(tensor)])]

    def recv(self, tensor: Array, src_rank: int) -> Steps:
        answer = yield [self.hub.call.remote(self.name, "collect", self.number, src_rank, self.rank, self.timeout_s)]
        (part,) = yield from _unpack(answer[0])
        if _shape(part) != _shape(tensor):
            raise ValueError(f"rank {src_rank} sent {_shape(part)}, and there is room for {_shape(tensor)}")
        np.copyto(tensor, part)


def _pack(tensor: Array) -> Any:
    return tensor if tensor.nbytes <= _SMALL_NBYTES else aioray.put(tensor)


def _unpack(parts: list[Any]) -> Steps:
    refs = [part for part in parts if isinstance(part, ObjectRef)]
    if refs:
        values = iter((yield refs))
        parts = [next(values) if isinstance(part, ObjectRef) else part for part in parts]
    return parts


def _reduce(parts: list[Array], op: ReduceOp) -> Array:
    """In the order of ranks, so that all members get the same bits."""
    result = parts[0].copy()
    for part in parts[1:]:
        _UFUNCS[op](result, part, out=result)
    return result


def _shape(tensor: Array) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"
