"""How a Python value looks on its way between processes, and the ids of objects and processes."""

from __future__ import annotations

import msgspec

PROCESS_ID_NBYTES = 8
OBJECT_ID_NBYTES = 16  # process id (8) + sequence number (6, big endian) + return index (2)


def object_id(process_id: bytes, seq: int, index: int = 0) -> bytes:
    """The id of return `index` of call `seq` of a process; a `put` counts as a call with one return."""
    return process_id + (seq << 16 | index).to_bytes(8, "big")


def owner_of(oid: bytes) -> bytes:
    """The process that owns an object is written in its id, so nobody has to be asked."""
    return oid[:PROCESS_ID_NBYTES]


class Value(msgspec.Struct, array_like=True, gc=False):
    """A serialized value: bytes that travel inline, or a place in the node's shared memory.

    Field order is the format: append fields with defaults, never reorder.
    """

    data: bytes = b""  # pickle stream; empty when the value lies in shared memory
    buffers: list[bytes] = []  # out-of-band buffers of an inline value
    nbytes: int = 0  # size in shared memory; 0 means inline
    offset: int = 0  # where in the segment
    oid: bytes = b""  # of a value in shared memory: what to hold while its bytes are looked at
    refs: list[bytes] = []  # ids of the refs (and actor handles) pickled inside
    is_error: bool = False  # the value is an exception to raise
    summary: str = ""  # of an error, in one line, to tell without unpickling it; "" when its call was cancelled
