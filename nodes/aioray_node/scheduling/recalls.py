"""Whose leases are asked back, and for whom: for who has waited long, from who has more. Pure.

A lease is asked back for another owner's request only where its owner has more leases on this node than that one, and
for a request of the same owner where it asks for something else. So those who share a node come to have equally many,
nobody gives for more of the same, and two do not take turns in taking each other's last one.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from aioray_node.scheduling.events import Recall
from aioray_node.scheduling.state import Front

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioray_node.scheduling.events import Command
    from aioray_node.scheduling.resources import Resources
    from aioray_node.scheduling.state import Lease, State, Waiting

_MOST_LOOKED_AT = 1000  # of those that ask for the same


def recall(state: State, now: float) -> list[Command]:
    """Have leases asked back for one who has waited long; that one goes first then."""
    state.recalls_at = now
    found = due(state, now)
    if found is None:
        return []
    entry, lease_ids = found
    group = state.groups[entry.key]
    state.first_seq -= 1
    entry.seq = state.first_seq
    group.queue.move_to_end(entry.request.lease_id, last=False)
    state.front = Front(
        entry.request.lease_id, group.demand, state.max_overtakes, state.max_overtakes, now + state.bar_s
    )
    state.recalled_for = entry.request.lease_id
    state.recalled.update(dict.fromkeys(lease_ids))
    return [Recall(lease_id) for lease_id in lease_ids]


def could_be(state: State) -> bool:
    """Whether any lease could be asked back."""
    return state.lent > len(state.recalled)


def oldest(state: State) -> Waiting:
    """Who has waited longest, of those that wait."""
    return min((group.first() for group in state.groups.values()), key=lambda entry: entry.since)


def due(state: State, now: float) -> tuple[Waiting, list[int]] | None:
    """One that has waited long enough, and the leases that are to be asked back for it: just enough for it to fit."""
    if state.recalled_for in state.waiting and state.front is not None and state.front.barred_until is not None:
        return None  # that one is being seen to
    counts = Counter(lease.request.owner for lease in state.granted.values() if lease.request.is_lent)
    for entry in _waiting_long(state, now):
        lease_ids = _enough(state, entry, counts)
        if lease_ids:
            return entry, lease_ids
    return None


def _waiting_long(state: State, now: float) -> list[Waiting]:
    """The first of each owner and each kind, in order."""
    found = []
    for group in state.groups.values():
        owners = set()
        for entry in islice(group.queue.values(), _MOST_LOOKED_AT):
            if now >= entry.since + state.patience_s and entry.request.owner not in owners:
                owners.add(entry.request.owner)
                found.append(entry)
    return sorted(found, key=lambda entry: entry.seq)


def _enough(state: State, entry: Waiting, counts: Counter[str]) -> list[int]:
    """Which leases would make room for it; none where that is not enough, or enough is on its way."""
    group = state.groups[entry.key]
    missing = dict(group.demand)
    _take_off(missing, state.resources.available)
    for lease_id in state.recalled:
        _take_off(missing, state.granted[lease_id].held())
    lease_ids: list[int] = []
    left = counts.copy()
    for lease_id, lease in _lent(state):
        if not missing:
            break
        owner = lease.request.owner
        is_other = owner != entry.request.owner and left[owner] > counts[entry.request.owner]
        is_same = owner == entry.request.owner and lease.demand != group.demand
        if (is_other or is_same) and not missing.keys().isdisjoint(lease.held()):
            _take_off(missing, lease.held())
            left[owner] -= 1
            lease_ids.append(lease_id)
    return [] if missing else lease_ids


def _lent(state: State) -> Iterable[tuple[int, Lease]]:
    """Oldest first."""
    for lease_id, lease in state.granted.items():
        if lease.request.is_lent and not lease.blocked and lease_id not in state.recalled:
            yield lease_id, lease


def _take_off(missing: Resources, amounts: Resources) -> None:
    for name in [*missing]:
        missing[name] -= max(0, amounts.get(name, 0))
        if missing[name] <= 0:
            del missing[name]
