"""One run: so many nodes join, so many tasks are called, and all is counted."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioray.wire.gcs import NODES_AT_BASE
from bench.simulation.callers import TASK_S, Caller
from bench.simulation.nodes import Node, World
from bench.simulation.timeline import Meter, Timeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioray_node.scheduling import core

NUM_CPUS = 4  # of each node
_JOIN_S = 2.0  # in which all nodes join
_BURST = 40  # calls at once
_USED = 0.5  # of all CPUs, on average, while there are calls
_INTERVALS = 4  # of reports, at least, for which the GCS is watched
_LEAST_S = 10.0  # for the same
_MOST_WATCHED = 100
_NODES_A_CALLER = 10


@dataclass(frozen=True)
class Outcome:
    """What a run took; CPU seconds are of this machine, `virtual_s` is not."""

    nodes: int
    callers: int
    tasks: int
    calls_s: float  # virtual: from the first call to the last result
    virtual_s: float  # in which the GCS was watched
    joining_gcs_s: float  # CPU of the GCS until all nodes knew each other
    cpu_s: Mapping[str, float]
    messages: Mapping[str, int]
    nbytes: Mapping[str, int]
    watched: int
    lease_requests: int
    hops: int
    latencies_s: list[float] = field(repr=False)  # from the call to its result, in order

    def per_task_us(self, who: str) -> float:
        return self.cpu_s.get(who, 0.0) / self.tasks * 1e6

    def per_s(self, what: str) -> float:
        return self.messages.get(what, 0) / self.virtual_s

    def latency_s(self, part: float) -> float:
        """Which so many of the calls do not take longer than."""
        return self.latencies_s[min(len(self.latencies_s) - 1, int(part * len(self.latencies_s)))]


class NotClean(AssertionError):
    """Something was lost, done twice, or left."""


def simulate(nodes: int, tasks: int, *, seed: int = 1) -> Outcome:
    """Raises NotClean when a task is lost, or something stays booked."""
    timeline, meter = Timeline(seed), Meter.calibrated()
    world = World(timeline, meter)
    watched = min(nodes, _MOST_WATCHED)
    members: list[Node] = []
    for index in range(nodes):
        like = members[watched - 1] if index >= watched else None
        members.append(Node(world, index, NUM_CPUS, like=like))
    for index, node in enumerate(members):
        timeline.after(_JOIN_S * index / nodes, node.join)
    interval_s = world.config.resource_report_interval_ms / 1000 * max(1.0, nodes / NODES_AT_BASE)
    timeline.run(_JOIN_S + 2 * interval_s)
    if any(node.knows != nodes for node in members):
        raise NotClean(f"not all of {nodes} nodes know each other")
    joining_gcs_s = meter.seconds["gcs"]
    meter.clear()
    world.messages.clear()
    world.nbytes.clear()

    callers = [Caller(world, node) for node in members[: min(watched, max(1, nodes // _NODES_A_CALLER))]]
    _call(world, callers, tasks, tasks * TASK_S / (nodes * NUM_CPUS * _USED), random.Random(seed))
    began = timeline.now
    for node in members:
        node.keep_changing(interval_s / 2)
    calls_s = _until_done(timeline, callers, tasks)
    timeline.run(max(timeline.now, began + _LEAST_S, began + _INTERVALS * interval_s))
    outcome = Outcome(
        nodes=nodes,
        callers=len(callers),
        tasks=tasks,
        calls_s=calls_s,
        virtual_s=timeline.now - began,
        joining_gcs_s=joining_gcs_s,
        cpu_s=dict(meter.seconds),
        messages=dict(world.messages),
        nbytes=dict(world.nbytes),
        watched=watched,
        lease_requests=sum(caller.requests for caller in callers),
        hops=sum(caller.hops for caller in callers),
        latencies_s=sorted(latency_s for caller in callers for latency_s in caller.latencies_s),
    )
    timeline.run(timeline.now + 1.0)
    _look_for_what_is_left(members, callers)
    return outcome


def _call(world: World, callers: list[Caller], tasks: int, calls_s: float, chance: random.Random) -> None:
    """Bursts, at any time, of any caller."""
    for at in range(0, tasks, _BURST):
        world.timeline.after(calls_s * chance.random(), chance.choice(callers).submit, min(_BURST, tasks - at))


def _until_done(timeline: Timeline, callers: list[Caller], tasks: int) -> float:
    """When the last one was (s, from now on)."""
    began = timeline.now
    limit = began + 60.0 + tasks * TASK_S  # as if there were one CPU
    while (done := sum(caller.done for caller in callers)) < tasks:
        if timeline.now > limit:
            raise NotClean(f"{tasks - done} tasks have not ended")
        timeline.run(timeline.now + 0.01)
    return timeline.now - began


def _look_for_what_is_left(members: list[Node], callers: list[Caller]) -> None:
    for caller in callers:
        if caller.done != caller.submitted or not caller.queue.empty:
            raise NotClean(f"a caller has not ended: {caller.queue}")
    for node in members:
        state = node.state
        if state.granted or state.waiting or state.resources.available != state.resources.total or node.owners:
            raise NotClean(f"something is left of node {node.node_id}: {_in_words(state)}")


def _in_words(state: core.State) -> str:
    return f"{len(state.granted)} leases, {len(state.waiting)} wait, {state.resources.available} is free"
