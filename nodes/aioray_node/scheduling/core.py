"""Which lease gets this node's resources, and when: what is decided about each event, by the part that it is about.

- `arrivals.py`: what becomes of a request when it comes;
- `spilling.py`: which requests are sent on to other nodes, with late views of what those have;
- `leases_in_groups.py`: bundles of placement groups, and who is in them;
- `recalls.py`: what is asked back for who has waited `patience_s`: a caller with an endless stream of tasks keeps its
  leases, and nothing comes free;
- `placing.py`: who of those that wait is placed, after each event.

What is told and done is in `events.py`, what is known in `state.py`; both are to be had from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray_node.scheduling.arrivals import arrive, decide_unknown
from aioray_node.scheduling.bundles import is_cpu
from aioray_node.scheduling.checks import check
from aioray_node.scheduling.events import (
    Blocked,
    Command,
    CommitBundle,
    DropGroup,
    Ended,
    Event,
    Evicted,
    GroupPlaced,
    Infeasible,
    Locate,
    ManyNews,
    NodeNews,
    OwnerGone,
    Place,
    Recall,
    RefreshView,
    Request,
    Return,
    Shrink,
    Spill,
    Tick,
    Unblocked,
    Unschedulable,
    ViewRefreshed,
    WakeAt,
    Withdraw,
)
from aioray_node.scheduling.explaining import explain
from aioray_node.scheduling.leases_in_groups import commit, drop, group_placed
from aioray_node.scheduling.placing import plan
from aioray_node.scheduling.recalls import recall
from aioray_node.scheduling.resources import in_words
from aioray_node.scheduling.spilling import hear, look_elsewhere
from aioray_node.scheduling.state import State, as_booked, forget

if TYPE_CHECKING:
    from aioray_node.scheduling.resources import Resources
    from aioray_node.scheduling.state import Lease

__all__ = [
    "Blocked",
    "Command",
    "CommitBundle",
    "DropGroup",
    "Ended",
    "Event",
    "Evicted",
    "GroupPlaced",
    "Infeasible",
    "Locate",
    "ManyNews",
    "NodeNews",
    "OwnerGone",
    "Place",
    "Recall",
    "RefreshView",
    "Request",
    "Return",
    "Shrink",
    "Spill",
    "State",
    "Tick",
    "Unblocked",
    "Unschedulable",
    "ViewRefreshed",
    "WakeAt",
    "Withdraw",
    "check",
    "explain",
    "handle",
]


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order.

    Events about leases that are over are late, not wrong: they do nothing. Raises ValueError, with nothing changed, for
    a negative demand and for a Shrink that asks for more.
    """
    commands: list[Command] = []
    match event:
        case Request():
            commands += arrive(state, event, now)
        case Withdraw(lease_id) | Return(lease_id):
            forget(state, lease_id)
        case Blocked(lease_id):
            _block(state, lease_id)
        case Unblocked(lease_id):
            _unblock(state, lease_id)
        case Shrink(lease_id, demand):
            _shrink(state, lease_id, demand)
        case OwnerGone(owner):
            for lease_id in list(state.owners.get(owner, ())):
                if lease_id in state.granted:
                    commands.append(Ended(lease_id))
                forget(state, lease_id)
        case NodeNews():
            commands += hear(state, (event,), now)
        case ManyNews(news):
            commands += hear(state, news, now)
        case CommitBundle():
            commands += commit(state, event, now)
        case GroupPlaced():
            commands += group_placed(state, event, now)
        case DropGroup(group_id):
            commands += drop(state, group_id)
        case ViewRefreshed():
            commands += decide_unknown(state, [*state.unknown], now)
        case Tick():
            state.wake_at = None  # timers may fire a hair early: `plan` asks again if it is not time yet
            late = [lease_id for lease_id, until in state.unknown.items() if now >= until]
            commands += decide_unknown(state, late, now)
            commands += look_elsewhere(state, now)
            commands += recall(state, now)
    return commands + plan(state, now)


def _block(state: State, lease_id: int) -> None:
    lease = state.granted.get(lease_id)
    if lease and not lease.blocked:
        state.resources.release(_cpu_part(lease))
        lease.blocked = True


def _unblock(state: State, lease_id: int) -> None:
    lease = state.granted.get(lease_id)
    if lease and lease.blocked:
        state.resources.acquire_forced(_cpu_part(lease))
        lease.blocked, lease.resumed = False, True


def _cpu_part(lease: Lease) -> Resources:
    return {name: amount for name, amount in lease.demand.items() if is_cpu(name)}


def _shrink(state: State, lease_id: int, demand: Resources) -> None:
    lease = state.granted.get(lease_id)
    if not lease:
        return
    gpus = demand.get("GPU", 0)
    demand = as_booked(lease.request, demand)
    if any(amount > lease.demand.get(name, 0) for name, amount in demand.items()):
        raise ValueError(f"lease {lease_id} holds {in_words(lease.demand)} and cannot shrink to {in_words(demand)}")
    before = lease.held()
    lease.demand = demand  # a new dict: the old one may be its group's
    after = lease.held()
    state.resources.release({name: amount - after.get(name, 0) for name, amount in before.items()})
    lease.gpus = lease.pool.shrink(lease.gpus, gpus)
