"""How a Python value looks on its way between processes, and the ids of objects and processes."""

from __future__ import annotations

import os

import msgspec

NODE_PREFIX_NBYTES = 4  # of the id of a process: the beginning of the id of its node
PROCESS_ID_NBYTES = 8
OBJECT_ID_NBYTES = 16  # process id (8) + sequence number (6, big endian) + return index (2)


def node_prefix(node_id: str) -> bytes:
    """What the ids of all processes of a node begin with, and so those of all that they own."""
    return bytes.fromhex(node_id[: 2 * NODE_PREFIX_NBYTES])


def worker_process_id(node_id: str, number: int) -> bytes:
    """The id of a process that its node starts, and numbers."""
    return node_prefix(node_id) + number.to_bytes(4, "big")


def driver_process_id(node_id: str) -> bytes:
    """The id of a process that comes to a node of its own accord. Drawn by lot, and never that of a worker."""
    return node_prefix(node_id) + (1 << 31 | int.from_bytes(os.urandom(4), "big")).to_bytes(4, "big")


def process_id_of_node(node_id: str) -> bytes:
    """The id under which a node itself holds objects that live on another one."""
    return worker_process_id(node_id, 0)


def home_of(some_id: bytes) -> bytes:
    """The prefix of the node that counts who holds this object, or of that of this process."""
    return some_id[:NODE_PREFIX_NBYTES]


def object_id(process_id: bytes, seq: int, index: int = 0) -> bytes:
    """The id of return `index` of call `seq` of a process; a `put` counts as a call with one return."""
    return process_id + (seq << 16 | index).to_bytes(8, "big")


def owner_of(oid: bytes) -> bytes:
    """The process that owns an object is written in its id, so nobody has to be asked."""
    return oid[:PROCESS_ID_NBYTES]


class Value(msgspec.Struct, array_like=True, gc=False):
    """A serialized value: bytes that travel inline, or a place in the shared memory of a node.

    Field order is the format: append fields with defaults, never reorder.
    """

    data: bytes = b""  # pickle stream; empty when the value lies in shared memory
    buffers: list[bytes] = []  # out-of-band buffers of an inline value
    nbytes: int = 0  # size in shared memory; 0 means inline
    offset: int = 0  # where in the segment of `node_id`
    # Of a value in shared memory: what to hold while its bytes are looked at. Of an inline one, which has only that:
    # the object that has the value, as the one that is asked for is another name of it.
    oid: bytes = b""
    refs: list[bytes] = []  # ids of the refs (and actor handles) pickled inside
    is_error: bool = False  # the value is an exception to raise
    summary: str = ""  # of an error, in one line, to tell without unpickling it; "" when its call was cancelled
    node_id: str = ""  # in whose shared memory it lies; "" of an inline value

    @property
    def is_pointer(self) -> bool:
        """Whether `oid` is that of the object which has the value."""
        return bool(self.oid) and not (self.nbytes or self.data)
