"""Where a lease stands, in a sentence for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray_node.scheduling import policy
from aioray_node.scheduling.bundles import booked, group_of
from aioray_node.scheduling.placing import bars, fits
from aioray_node.scheduling.resources import in_words, without_zeros

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioray.wire.strategies import InGroup
    from aioray_node.scheduling.events import Request
    from aioray_node.scheduling.state import Group, State, Waiting


def explain(state: State, lease_id: int) -> str:
    """Where the lease stands, in a sentence: what was asked, what is free, how many are ahead."""
    if lease := state.granted.get(lease_id):
        return f"{lease.request.name} is placed and holds {in_words(lease.held())}" + (
            " (its CPU is lent out while it is blocked)" if lease.blocked else ""
        )
    if request := state.infeasible.get(lease_id):
        decision = state.choose(request)
        assert isinstance(decision, policy.Infeasible), state
        if group := group_of(request.strategy):
            return _awaits_group(state, request, group, decision.reason)
        return f"{request.name} can never run here: {decision.reason}"
    if not (entry := state.waiting.get(lease_id)):
        return f"lease {lease_id} is not here: it is over or was never asked for"
    ahead = sum(1 for group in state.groups.values() for _ in _before(group, entry.seq))
    waits_in = state.groups[entry.key]
    demand = waits_in.demand
    free = in_words({name: state.resources.available[name] for name in demand})
    asked = in_words(without_zeros(entry.request.demand))
    if group := group_of(entry.request.strategy):
        asked += f" in {'its' if group.index < 0 else f'bundle {group.index} of its'} placement group"
        there = {name: next(iter(booked({name: 0}, group))) for name in entry.request.demand}
        free = in_words({name: state.resources.available[its] for name, its in there.items()}) + " there"
    where = policy.strategy_in_words(entry.request.strategy)
    if state.resources.fits(demand) and not fits(state, waits_in):
        free += " in parts of several devices"
    text = f"{entry.request.name} waits for {asked}{where}; free: {free}; {ahead} ahead of it"
    if state.front and state.front.lease_id != lease_id and bars(state.front, demand):
        text += f"; {state.waiting[state.front.lease_id].request.name} was overtaken too often and goes first"
    return text


def _awaits_group(state: State, request: Request, group: InGroup, reason: str) -> str:
    if group.group_id not in state.bundles:
        return f"{request.name} waits for its placement group"
    return f"{request.name} waits for a bundle of its placement group: it {reason}"


def _before(group: Group, seq: int) -> Iterator[Waiting]:
    for entry in group.queue.values():
        if entry.seq >= seq:
            return
        yield entry
