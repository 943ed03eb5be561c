"""Which requests are sent on to other nodes, and what those are believed to have after that. Pure.

Where there are other nodes, `policy.choose` says whether a request is for one of them: then its owner is to ask there
(`Spill`), and it is forgotten here. That is asked when it comes, and, while it waits, when another node has news. Views
are late, so two nodes may each believe that the other has room. Therefore:

- a request that was sent here stays if it fits, whatever the policy would like better;
- it counts its `hops`, and after `max_hops` of them waits where it is, if it can run there at all; when it has waited
  `rest_s` it may go on, and counts from nothing. So it moves a few times quickly, then rarely, and is never stuck;
- what was sent to a node is taken off what that node is believed to have, until it reports anew, or `echo_s` have gone
  by: nodes report changes only, and a request that was withdrawn on the way changes nothing there.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from aioray_node.scheduling import policy
from aioray_node.scheduling.bundles import group_of
from aioray_node.scheduling.events import Spill
from aioray_node.scheduling.resources import NodeResources
from aioray_node.scheduling.state import forget, key_of

if TYPE_CHECKING:
    from aioray_node.scheduling.events import Command, NodeNews, Request
    from aioray_node.scheduling.resources import Resources
    from aioray_node.scheduling.state import GroupKey, State

_MAX_TURNS = 1000  # of kinds of requests that are spread: of so many it is known whose turn is next


def send_on(state: State, request: Request, key: GroupKey, to: policy.Chosen | policy.Wait, now: float) -> Spill:
    """Have another node asked. What it is believed to have to spare is less by that."""
    node_id = to.node_id
    group = group_of(request.strategy)
    if group is not None:  # those that are to wait count, too, so that they wait in several places
        there = state.places[group.group_id][node_id]
        there.acquire_forced(dict(key[0]))
        state.sent_to.setdefault(group.group_id, deque()).append((now, there, dict(key[0])))
    elif isinstance(to, policy.Chosen):
        demand = dict(key[0])
        state.nodes[node_id].resources.acquire_forced(demand)
        state.sent.setdefault(node_id, deque()).append((now, demand))
        state.echoes.append((now, node_id))
        state.candidates.changed(node_id, state.nodes[node_id])
    took_turn(state, request, key, node_id)
    state.draws += 1
    is_hop = group is None or group.group_id in state.bundles
    return Spill(request.lease_id, node_id, request.hops + is_hop)


def took_turn(state: State, request: Request, key: GroupKey, node_id: str = "") -> None:
    if (is_first_spread(request) or (node_id and group_of(request.strategy) is not None)) and not state.is_alone:
        state.turns[key] = node_id or state.node_id
        state.turns.move_to_end(key)
        if len(state.turns) > _MAX_TURNS:
            state.turns.popitem(last=False)


def is_first_spread(request: Request) -> bool:
    """Whether it is to be spread, and that is decided here."""
    return request.strategy is not None and request.strategy.spread and not request.hops


def hear(state: State, news: tuple[NodeNews, ...], now: float) -> list[Command]:
    commands: list[Command] = []
    for each in news:
        state.sent.pop(each.node_id, None)
        state.candidates.changed(each.node_id, state.nodes.get(each.node_id))
    if state.infeasible:
        for each in news:
            if each.joined and each.node_id in state.nodes:
                commands += _ask_again(state, each.node_id, now)
    return commands + look_elsewhere(state, now, tuple(each.node_id for each in news))


def _ask_again(state: State, node_id: str, now: float) -> list[Command]:
    """A node has joined: perhaps it can have what no other could."""
    commands: list[Command] = []
    for lease_id, request in list(state.infeasible.items()):
        if group_of(request.strategy) is None and isinstance(state.choose(request, only=node_id), policy.Infeasible):
            continue
        decision = state.choose(request)
        if not isinstance(decision, policy.Infeasible):
            forget(state, lease_id)
            commands.append(send_on(state, request, key_of(request), decision, now))
    return commands


def look_elsewhere(
    state: State, now: float, node_ids: tuple[str, ...] | None = None, group_id: bytes | None = None
) -> list[Command]:
    """Send on what waits and could go to another node by now.

    `node_ids`: it is news of these only. `group_id`: only what is to be in this placement group.
    """
    commands: list[Command] = []
    if state.is_alone:
        return commands
    forget_sent(state, now)
    state.looked_at = now if node_ids is None and group_id is None else state.looked_at
    for key, group in sorted(state.groups.items(), key=lambda item: item[1].first().seq):
        if group_id is not None and (group.of is None or group.of.group_id != group_id):
            continue
        while group.queue and (node_ids is None or _have_room(state, node_ids, group.demand)):
            entry = group.first()
            decision = state.choose(entry.request, own=_as_if_full(state))
            if not isinstance(decision, policy.Chosen) or decision.node_id == state.node_id:
                break
            rested = now >= entry.since + state.rest_s
            if entry.request.hops >= state.hops_allowed(entry.request) and not rested:
                break
            request = entry.request if not rested else msgspec.structs.replace(entry.request, hops=0)
            forget(state, request.lease_id)
            commands.append(send_on(state, request, key, decision, now))
    return commands


def _as_if_full(state: State) -> policy.NodeView:
    """This node, if nothing were free: what could be had here, `plan` gives."""
    full = NodeResources(state.resources.total)
    full.available = dict.fromkeys(full.total, 0)
    return policy.NodeView(full, state.labels)


def _have_room(state: State, node_ids: tuple[str, ...], demand: Resources) -> bool:
    return any(node_id in state.nodes and state.nodes[node_id].fits(demand) for node_id in node_ids)


def forget_sent(state: State, now: float) -> None:
    """What was sent long ago and never reported was not taken there, or is over."""
    while state.echoes and now >= state.echoes[0][0] + state.echo_s:  # as in `_next_time`, to the last bit
        when, node_id = state.echoes.popleft()
        sent = state.sent.get(node_id)
        if not sent or sent[0][0] > when:
            continue  # it has reported since
        _, demand = sent.popleft()
        if not sent:
            del state.sent[node_id]
        if node_id in state.nodes:
            resources = state.nodes[node_id].resources
            for name, amount in demand.items():
                resources.available[name] = min(resources.available[name] + amount, resources.total[name])
            state.candidates.changed(node_id, state.nodes[node_id])
    for group_id, sent_to in list(state.sent_to.items()):
        while sent_to and now >= sent_to[0][0] + state.echo_s:
            _, there, demand = sent_to.popleft()
            there.release(demand)
        if not sent_to:
            del state.sent_to[group_id]
