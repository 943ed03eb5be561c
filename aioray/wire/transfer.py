"""Node <-> node: objects in chunks. The puller dials, and asks; the source answers.

Field order is the format: append fields with defaults, never reorder. After a `Bytes` follow its `wire_nbytes` bytes,
outside of any frame, so that they go straight from one node's shared memory into the other's.
"""

from __future__ import annotations

import msgspec

TRANSFER_VERSION = 3
MAX_HELLO_NBYTES = 4096  # of a peer that has not said who it is yet
MAX_MESSAGE_NBYTES = 1 << 20


class Message(msgspec.Struct, array_like=True):
    """A frame."""


class LinkHello(Message, tag=1):
    """Puller -> source, first; over TCP behind the preamble."""

    node_id: str
    address: str  # where others may pull from the puller, if they come as it came; "" for nowhere
    unused: str = ""  # was the token, which is not for all to read
    codec: str = ""  # what to compress chunks with
    version: int = TRANSFER_VERSION


class LinkWelcome(Message, tag=2):
    """Source -> puller."""

    node_id: str
    error: str = ""  # why not; the link is closed after it


class Join(Message, tag=3):
    """Puller -> source: where do I get this object? Answered by Serve, SendOn or Refuse."""

    oid: bytes
    without: tuple[str, ...] = ()  # sources that were tried, and lost
    placed: bool = False  # the object's own node has named you


class Serve(Message, tag=4):
    """Source -> puller: ask me for its bytes."""

    oid: bytes


class SendOn(Message, tag=5):
    """Source -> puller: ask the node at this address."""

    oid: bytes
    address: str


class Refuse(Message, tag=6):
    """Source -> puller: not, or not any more, from me."""

    oid: bytes
    reason: str


class Ask(Message, tag=7):
    """Puller -> source: send these bytes, when you have them."""

    oid: bytes
    start: int
    nbytes: int


class Bytes(Message, tag=8):
    """Source -> puller: they follow. Compressed by the link's codec when `wire_nbytes` differs from `nbytes`."""

    oid: bytes
    start: int
    nbytes: int
    wire_nbytes: int


class Leave(Message, tag=9):
    """Puller -> source: I ask for no more of it. `keeps`: I have all of it now, and others may ask me."""

    oid: bytes
    keeps: bool = False


class Gone(Message, tag=10):
    """Source -> puller: the object is no more; let your copy go."""

    oid: bytes


TransferMessage = LinkHello | LinkWelcome | Join | Serve | SendOn | Refuse | Ask | Bytes | Leave | Gone
transfer_decoder: msgspec.msgpack.Decoder[TransferMessage] = msgspec.msgpack.Decoder(TransferMessage)
