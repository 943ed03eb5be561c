"""What the scheduler of a node is told, and what it has its shell do. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from aioray.wire.strategies import Strategy
from aioray_node.scheduling.resources import Resources


class Request(msgspec.Struct, frozen=True):
    """A lease, please. Asking again for one that waits or is placed changes nothing; an id is never used twice."""

    lease_id: int
    owner: str
    demand: Resources
    name: str  # of the function or actor class: for people
    strategy: Strategy | None = None
    hops: int = 0  # how often it was sent to another node
    argument_nbytes: Mapping[str, int] = {}  # node id -> how much of what it reads lies there
    is_lent: bool = False  # for one task after the other: it can be asked back


class Withdraw(msgspec.Struct, frozen=True):
    """The owner has no use for it (any more), placed or not."""

    lease_id: int


class Return(msgspec.Struct, frozen=True):
    """The lease is over: its owner gave it back or its worker died."""

    lease_id: int


class Blocked(msgspec.Struct, frozen=True):
    """Its worker waits in `get` or `wait`: the CPU is for others meanwhile."""

    lease_id: int


class Unblocked(msgspec.Struct, frozen=True):
    """Its worker goes on: it takes its CPU back, whether or not there is one."""

    lease_id: int


class Shrink(msgspec.Struct, frozen=True):
    """From here on the lease holds only `demand`: an actor placed with 1 CPU that runs with 0."""

    lease_id: int
    demand: Resources


class OwnerGone(msgspec.Struct, frozen=True):
    owner: str


class NodeNews(msgspec.Struct, frozen=True):
    """Another node has joined, died, or reported what it has to spare: `State.nodes` is up to date with that."""

    node_id: str
    joined: bool = False


class ManyNews(msgspec.Struct, frozen=True):
    """Of several nodes at once: no more is to be looked through than for one."""

    of: tuple[NodeNews, ...]


class ViewRefreshed(msgspec.Struct, frozen=True):
    """All that the GCS knew, when it was asked last, is in `State.nodes`."""


class CommitBundle(msgspec.Struct, frozen=True):
    """What this lease holds is a bundle from here on: leases may be in it."""

    lease_id: int
    group_id: bytes
    index: int


class GroupPlaced(msgspec.Struct, frozen=True):
    """Where bundles of a placement group are, of all that are booked now."""

    group_id: bytes
    where: dict[int, str]  # index -> node
    bundles: list[Resources]


class DropGroup(msgspec.Struct, frozen=True):
    """The placement group is removed: all leases in it end, and so do those that hold its bundles."""

    group_id: bytes


class Tick(msgspec.Struct, frozen=True):
    """The time of the last WakeAt has come."""


class Place(msgspec.Struct, frozen=True):
    """The resources are taken: get a worker for it."""

    lease_id: int
    gpus: tuple[int, ...] = ()  # devices that are its own, or of which it has a part


class Ended(msgspec.Struct, frozen=True):
    """Was placed and is over without its owner's word: free or kill its worker. Only OwnerGone causes it."""

    lease_id: int


class Spill(msgspec.Struct, frozen=True):
    """Another node is to be asked for it, and told of its `hops`. Here it is forgotten."""

    lease_id: int
    node_id: str
    hops: int


class Evicted(msgspec.Struct, frozen=True):
    """Was placed in a placement group, and is over with it: kill its worker, and tell its owner."""

    lease_id: int


class Recall(msgspec.Struct, frozen=True):
    """Others have waited long: its owner is to give it back when what it runs now is done."""

    lease_id: int


class Infeasible(msgspec.Struct, frozen=True):
    """No node can have it. Said once; the request stays until it is withdrawn, or a node has joined that can."""

    lease_id: int
    owner: str
    text: str


class RefreshView(msgspec.Struct, frozen=True):
    """Ask the GCS which nodes there are, and say ViewRefreshed: one was asked for that is not known here."""


class Unschedulable(msgspec.Struct, frozen=True):
    """It is not to wait for what it would need: its owner must hear, and it is forgotten. `reason` follows its name."""

    lease_id: int
    reason: str
    group_removed: bool = False  # what it waited for was a placement group that was removed


class Locate(msgspec.Struct, frozen=True):
    """Feed GroupPlaced as soon as it is known where the group has bundles, and whenever that changes; or DropGroup."""

    group_id: bytes


class WakeAt(msgspec.Struct, frozen=True):
    """Feed Tick at loop time `when` (s). One timer is enough: a new WakeAt replaces the one before."""

    when: float


Event = (
    Request
    | Withdraw
    | Return
    | Blocked
    | Unblocked
    | Shrink
    | OwnerGone
    | NodeNews
    | ManyNews
    | ViewRefreshed
    | CommitBundle
    | GroupPlaced
    | DropGroup
    | Tick
)

Command = Place | Ended | Evicted | Recall | RefreshView | Spill | Infeasible | Unschedulable | Locate | WakeAt
