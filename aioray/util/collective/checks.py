"""What collective calls refuse, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aioray.exceptions import InvalidOptionError
from aioray.util.collective.types import Backend, ReduceOp
from aioray.util.waiting import check_timeout

if TYPE_CHECKING:
    from aioray.util.collective.group import Array, Group


def check_group(backend: Any, name: Any, timeout_s: Any) -> None:
    if backend not in list(Backend):
        raise InvalidOptionError("backend", backend, '"cpu" or "gloo"', "arrays are numpy's, in the object store")
    if not isinstance(name, str) or not name:
        raise InvalidOptionError("group_name", name, "a text that is not empty")
    if timeout_s is None:
        raise InvalidOptionError("timeout_s", timeout_s, "seconds, 0 or more")
    check_timeout(timeout_s, "timeout_s")


def check_rank(rank: Any, world_size: int, option: str) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < world_size:
        raise InvalidOptionError(option, rank, f"a whole number, 0 to {world_size - 1}")


def check_peer(rank: Any, group: Group, option: str) -> None:
    check_rank(rank, group.world_size, option)
    if rank == group.rank:
        raise InvalidOptionError(option, rank, "the rank of another member", "that is this one")


def check_op(op: Any) -> None:
    if not isinstance(op, ReduceOp):
        raise InvalidOptionError("op", op, ", ".join(f"ReduceOp.{each.name}" for each in ReduceOp))


def check_array(tensor: Any, *, writes: bool = True) -> None:
    if not isinstance(tensor, np.ndarray):
        raise TypeError(f"collective calls take numpy arrays, not {type(tensor).__name__}")
    if tensor.dtype.hasobject:
        raise TypeError("collective calls take arrays of numbers, not of Python objects")
    if writes and not tensor.flags.writeable:
        raise ValueError("the array is read-only, and its values are to be replaced: give a copy")


def check_list(tensor_list: Any, tensor: Array, world_size: int) -> None:
    if not isinstance(tensor_list, (list, tuple)) or len(tensor_list) != world_size:
        raise InvalidOptionError("tensor_list", tensor_list, f"a list of {world_size} arrays, one for each member")
    for each in tensor_list:
        check_array(each, writes=False)
        if each.shape != tensor.shape or each.dtype != tensor.dtype:
            raise InvalidOptionError("tensor_list", tensor_list, "arrays of the type and shape of tensor")
