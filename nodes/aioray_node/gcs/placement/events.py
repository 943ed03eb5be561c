"""What becomes known of placement groups, and what is to be done about them. Pure."""

from __future__ import annotations

import msgspec

from aioray.wire.control import GroupSpec, GroupUpdate
from aioray_node.scheduling.resources import Resources


class Created(msgspec.Struct, frozen=True):
    spec: GroupSpec


class Removed(msgspec.Struct, frozen=True):
    """Nobody needs it any more. Repeated news do nothing. May overtake the word of its creation."""

    group_id: bytes


class OwnerGone(msgspec.Struct, frozen=True):
    """A driver, or a detached actor, is gone: with it go its groups, but detached ones."""

    owner: bytes


class ProcessGone(msgspec.Struct, frozen=True):
    """A process will make no groups any more, and hear nothing."""

    process: bytes


class Watched(msgspec.Struct, frozen=True):
    """A process wants to hear what becomes of a group, perhaps before that exists."""

    process: bytes
    group_id: bytes


class Answered(msgspec.Struct, frozen=True):
    """A node holds a bundle, or cannot. May come twice, or when the bundle is not asked for any more."""

    node_id: str
    group_id: bytes
    attempt: int
    index: int
    held: bool


class NodesChanged(msgspec.Struct, frozen=True):
    """Some node joined, or has more to spare."""


class Reported(msgspec.Struct, frozen=True):
    """What is known of a node is as it has said just now. Nothing is tried for that: see NodesChanged."""

    node_id: str


class NodeGone(msgspec.Struct, frozen=True):
    """It is dead, and not in the view any more."""

    node_id: str


class Tick(msgspec.Struct, frozen=True):
    """The time of the last WakeAt has come."""


class Prepare(msgspec.Struct, frozen=True):
    """Have the node hold a bundle, and feed Answered. Unless `patient`, it answers at once."""

    node_id: str
    group_id: bytes
    attempt: int
    index: int
    demand: Resources
    patient: bool = False


class Commit(msgspec.Struct, frozen=True):
    """What the node holds is a bundle from here on."""

    node_id: str
    group_id: bytes
    index: int


class Return(msgspec.Struct, frozen=True):
    """The node is to let go of a bundle that is not booked, held or still asked for in that attempt."""

    node_id: str
    group_id: bytes
    attempt: int
    index: int


class Drop(msgspec.Struct, frozen=True):
    """These nodes are to end what runs in the group, or waits for it, and let go of its bundles."""

    group_id: bytes
    node_ids: tuple[str, ...]


class Tell(msgspec.Struct, frozen=True):
    process: bytes
    update: GroupUpdate


class Warn(msgspec.Struct, frozen=True):
    """Whoever made the group should know: the nodes that there are can never have it. Said once."""

    group_id: bytes
    text: str


class WakeAt(msgspec.Struct, frozen=True):
    """Feed Tick at time `when` (s). One timer is enough: a new WakeAt replaces the one before."""

    when: float


Event = Created | Removed | OwnerGone | ProcessGone | Watched | Answered | NodesChanged | Reported | NodeGone | Tick

Command = Prepare | Commit | Return | Drop | Tell | Warn | WakeAt
