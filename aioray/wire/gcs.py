"""Node <-> GCS, and whoever asks the GCS: what stands in HTTP bodies and WebSocket frames, in msgpack.

Field order is the format: append fields with defaults, never reorder. Amounts are in ten-thousandths.
"""

from __future__ import annotations

import msgspec


class NodeFacts(msgspec.Struct, array_like=True, frozen=True):
    """What a node is, for as long as it lives."""

    node_id: str
    addresses: tuple[str, ...]  # paths of Unix sockets, for who shares its boot id, and host:port
    boot_id: str  # of the machine: the same on two nodes that can share Unix sockets
    total: dict[str, int]
    labels: dict[str, str] = {}
    hostname: str = ""
    ip_address: str = "127.0.0.1"
    pid: int = 0
    started_at: float = 0.0  # Unix time (s)
    is_head: bool = False
    session_dir: str = ""
    store_nbytes: int = 0  # of shared memory


class MemberChange(msgspec.Struct, array_like=True, frozen=True):
    """What has changed about one node since the version at which its delta begins. None: nothing of that."""

    node_id: str
    version: int  # of the view, when it last changed
    facts: NodeFacts | None = None
    available: dict[str, int] | None = None
    end: str | None = None  # why it is dead; None while it is alive
    store_used_nbytes: int | None = None


class Delta(msgspec.Struct, array_like=True, frozen=True):
    """GCS -> node: brings a view that is at `since`, or later, to `version`. Since 0: it is the whole view."""

    epoch: str  # of the GCS: versions of another one mean nothing
    since: int
    version: int
    changes: tuple[MemberChange, ...] = ()
