"""What becomes of a request when it comes: it is queued, sent on, refused, or kept until it can be had. Pure.

One that asks for a node that is not known here may have heard of it before this node has: all that the GCS knows is
asked for first (`RefreshView`), and then it is decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray_node.scheduling import policy
from aioray_node.scheduling.bundles import group_of
from aioray_node.scheduling.events import Infeasible, Locate, RefreshView, Unschedulable
from aioray_node.scheduling.spilling import forget_sent, is_first_spread, send_on, took_turn
from aioray_node.scheduling.state import enter_queue, forget, key_of

if TYPE_CHECKING:
    from aioray.wire.strategies import InGroup
    from aioray_node.scheduling.events import Command, Request
    from aioray_node.scheduling.state import State


def arrive(state: State, request: Request, now: float) -> list[Command]:
    lease_id = request.lease_id
    if lease_id in state.waiting or lease_id in state.granted or lease_id in state.infeasible:
        return []
    key = key_of(request)  # refuses what is negative
    if not state.is_alone and key in state.groups and not request.argument_nbytes and not is_first_spread(request):
        decision: policy.Decision = policy.Wait(state.node_id)  # as for the others: no node had room for them
    else:
        forget_sent(state, now)
        decision = _decide(state, request)
    if isinstance(decision, policy.Infeasible) and decision.for_good:
        if state.can_refresh and _asks_for_unknown(state, request):
            return _await_view(state, request, now)
        return [Unschedulable(lease_id, decision.reason)]
    if not isinstance(decision, policy.Infeasible) and decision.node_id != state.node_id:
        return [send_on(state, request, key, decision, now)]
    took_turn(state, request, key)
    state.owners.setdefault(request.owner, {})[lease_id] = None
    group = group_of(request.strategy)
    if group is not None:
        state.in_group.setdefault(group.group_id, {})[lease_id] = None
    if isinstance(decision, policy.Infeasible):
        state.infeasible[lease_id] = request
        # A group that is not there comes by itself, as a rule: who asks for it knows that it has to wait.
        text = f"{request.name} {decision.reason}"
        return [Infeasible(lease_id, request.owner, text)] if group is None else _locate(state, group)
    enter_queue(state, request, now)
    could_be_elsewhere = group is not None and group.index < 0 and isinstance(decision, policy.Wait)
    return _locate(state, group) if group is not None and could_be_elsewhere else []


def _locate(state: State, group: InGroup) -> list[Command]:
    return [] if group.group_id in state.places else [Locate(group.group_id)]


def _decide(state: State, request: Request) -> policy.Decision:
    """Where a request that has come is to be."""
    if request.hops and not state.is_alone:
        decision = state.choose(request, only=state.node_id)
        can_run = not isinstance(decision, policy.Infeasible)
        if isinstance(decision, policy.Chosen) or (can_run and request.hops >= state.hops_allowed(request)):
            return decision
    return state.choose(request)


def _asks_for_unknown(state: State, request: Request) -> bool:
    affinity = None if request.strategy is None else request.strategy.affinity
    return affinity is not None and affinity.node_id not in state.nodes


def _await_view(state: State, request: Request, now: float) -> list[Command]:
    """Its node may have joined just now: who asks for it may have heard of it before this node has."""
    is_asked = bool(state.unknown)
    state.unknown[request.lease_id] = now + state.refresh_s
    state.infeasible[request.lease_id] = request
    state.owners.setdefault(request.owner, {})[request.lease_id] = None
    if group := group_of(request.strategy):
        state.in_group.setdefault(group.group_id, {})[request.lease_id] = None
    return [] if is_asked else [RefreshView()]


def decide_unknown(state: State, lease_ids: list[int], now: float) -> list[Command]:
    commands: list[Command] = []
    for lease_id in lease_ids:
        request = state.infeasible[lease_id]
        decision = state.choose(request)
        forget(state, lease_id)
        if isinstance(decision, policy.Infeasible) and decision.for_good:
            commands.append(Unschedulable(lease_id, decision.reason))
        else:
            commands += arrive(state, request, now)
    return commands
