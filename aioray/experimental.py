"""Where objects are, for those who place work by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray.exceptions import InvalidOptionError
from aioray.refs import PENDING, READY
from aioray.waiting import refs_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioray.refs import ObjectRef

__all__ = ["get_local_object_locations", "get_object_locations"]


def get_local_object_locations(refs: Sequence[ObjectRef[Any]]) -> dict[ObjectRef[Any], dict[str, Any]]:
    """What this process knows of where objects are, and how large, without asking anybody.

    For each ref: node_ids, as text, a list that is empty when there is no value (yet); object_size, the bytes of the
    pickled value, None when that is not known; did_spill. A ref that came from another process is known here when it
    was waited for.
    """
    return {ref: _location(ref) for ref in refs_of(refs, "get_local_object_locations")}


def get_object_locations(refs: Sequence[ObjectRef[Any]], timeout_ms: int = -1) -> dict[ObjectRef[Any], dict[str, Any]]:
    """The same as `get_local_object_locations`: with one machine there is nobody to ask, and so nothing to wait for.

    timeout_ms: milliseconds; -1 for no limit.
    """
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int) or timeout_ms < -1:
        raise InvalidOptionError("timeout_ms", timeout_ms, "a whole number >= -1 (-1: without limit)")
    return {ref: _location(ref) for ref in refs_of(refs, "get_object_locations")}


def _location(ref: ObjectRef[Any]) -> dict[str, Any]:
    runtime = ref._runtime
    with runtime.reactor.lock:
        value = ref._value if ref._status in (PENDING, READY) else None
        if value is None:
            return {"node_ids": [], "object_size": None, "did_spill": False}
        nbytes = value.nbytes or len(value.data) + sum(map(len, value.buffers))
        return {"node_ids": [value.node_id or runtime.node_id], "object_size": nbytes, "did_spill": False}
