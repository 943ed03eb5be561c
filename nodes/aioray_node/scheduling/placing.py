"""Who of those that wait is placed, and who has to let others pass. Pure.

Leases are placed in the order in which they were asked for, but a later one that fits passes a front that does not.
The front of the queue puts up with `max_overtakes` of that; then it bars the way to all who want of what it wants, so
that what comes free gathers for it. A bar lasts `bar_s` at most, and the next one comes after twice as many overtakes:
what the front waits for may be held by an actor for ever, or by a task that waits for one of those behind the bar, and
neither may hang the node.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from aioray_node.scheduling import recalls
from aioray_node.scheduling.events import Place, WakeAt
from aioray_node.scheduling.state import Front, Group, Lease, State, leave_queue

if TYPE_CHECKING:
    from aioray_node.scheduling.devices import Devices
    from aioray_node.scheduling.events import Command
    from aioray_node.scheduling.resources import Resources


def plan(state: State, now: float) -> list[Command]:
    """Place what fits, oldest first, as far as the front lets others pass."""
    commands: list[Command] = []
    heads = [(group.first().seq, key) for key, group in state.groups.items()]
    heapq.heapify(heads)
    front: Front | None = None
    while heads:
        _, key = heapq.heappop(heads)
        group = state.groups[key]
        if front and bars(front, group.demand):
            continue
        if not fits(state, group):  # nor will the rest of its group, in this pass
            front = front or _front(state, group, now)
            continue
        commands.append(_place(state, group))
        if group.queue:
            heapq.heappush(heads, (group.first().seq, key))
        if front and _rivals(front, group.demand):
            front.overtaken += 1
            if front.overtaken >= front.allowance:
                front.barred_until = now + state.bar_s
    state.front = front
    when = _next_time(state, now)
    if when is not None and when != state.wake_at:
        state.wake_at = when
        commands.append(WakeAt(when))
    return commands


def _place(state: State, group: Group) -> Place:
    lease_id, entry = next(iter(group.queue.items()))
    leave_queue(state, lease_id)
    state.resources.acquire(group.demand)
    pool = _pool(state, group)
    assert pool is not None, group
    gpus = pool.acquire(group.gpus)
    state.granted[lease_id] = Lease(entry.request, group.demand, pool, gpus)
    state.lent += entry.request.is_lent
    return Place(lease_id, tuple(gpus))


def fits(state: State, group: Group) -> bool:
    return state.resources.fits(group.demand) and _pool(state, group) is not None


def _pool(state: State, group: Group) -> Devices | None:
    """Where its GPUs can be taken from now; None when nowhere."""
    if group.of is None or not group.gpus:
        return state.devices if state.devices.fits(group.gpus) else None
    pools = state.pools.get(group.of.group_id, {})
    some = pools.values() if group.of.index < 0 else [pools[group.of.index]] if group.of.index in pools else []
    return next((pool for pool in some if pool.fits(group.gpus)), None)


def _front(state: State, group: Group, now: float) -> Front:
    front, lease_id = state.front, group.first().request.lease_id
    if not front or front.lease_id != lease_id:
        return Front(lease_id, group.demand, allowance=state.max_overtakes)
    if front.barred_until is not None and now >= front.barred_until:
        front.barred_until = None
        front.allowance *= 2
    return front


def _rivals(front: Front, demand: Resources) -> bool:
    """Whether it would delay the front to let `demand` pass: it would not where they share no resource."""
    return not front.demand.keys().isdisjoint(demand)


def bars(front: Front, demand: Resources) -> bool:
    return front.barred_until is not None and _rivals(front, demand)


def _next_time(state: State, now: float) -> float | None:
    """When something has to be looked at again though nothing happens (s)."""
    times = []
    if state.front and state.front.barred_until is not None:
        times.append(state.front.barred_until)
    times += state.unknown.values()
    if state.waiting and recalls.could_be(state):
        times.append(max(recalls.oldest(state).since, state.recalls_at) + state.patience_s)
    while state.echoes and state.echoes[0][1] not in state.sent:
        state.echoes.popleft()
    # Where nothing waits, too, for others read what nodes have to spare; but then any look that is due anyway will do.
    if state.echoes and (state.waiting or state.wake_at is None):
        # Gathered for a while: there may be as many as there are nodes.
        times.append(max(state.echoes[0][0] + state.echo_s, state.looked_at + state.echo_s / 10))
    if not state.is_alone and state.waiting:
        times += [sent_to[0][0] + state.echo_s for sent_to in state.sent_to.values()]
        firsts = [group.first() for group in state.groups.values()]
        tired = [entry for entry in firsts if entry.request.hops >= state.hops_allowed(entry.request)]
        times += [entry.since + state.rest_s for entry in tired if entry.since + state.rest_s > state.looked_at]
    return max(now, min(times)) if times else None
