"""What holds of a node's scheduler between any two events. For tests and debugging. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray_node.scheduling import policy
from aioray_node.scheduling.bundles import capacity, group_of, is_cpu, is_of_a_group
from aioray_node.scheduling.placing import bars, fits
from aioray_node.scheduling.resources import UNIT

if TYPE_CHECKING:
    from aioray_node.scheduling.resources import Resources
    from aioray_node.scheduling.state import State


def check(state: State) -> None:
    """Assert what holds between any two events. Looks at everything: for tests and debugging."""
    _check_places(state)
    _check_resources(state)
    _check_plan(state)


def _check_places(state: State) -> None:
    places = [*state.waiting, *state.granted, *state.infeasible]
    assert len(places) == len(set(places)), f"a lease is in two places: {state}"
    owned = [lease_id for leases in state.owners.values() for lease_id in leases]
    assert sorted(owned) == sorted(places), f"owners and leases disagree: {state}"
    for request in state.infeasible.values():
        assert isinstance(state.choose(request), policy.Infeasible), f"{request.name} waits in vain: {state}"
    assert all(state.owners.values()), f"an owner without leases is remembered: {state}"
    grouped = {lease_id: entry for group in state.groups.values() for lease_id, entry in group.queue.items()}
    assert grouped == state.waiting, f"groups and waiting disagree: {state}"
    for key, group in state.groups.items():
        seqs = [entry.seq for entry in group.queue.values()]
        assert seqs, f"an empty group is kept: {state}"
        assert seqs == sorted(seqs), f"a group is out of order: {state}"
        assert key == (frozenset(group.demand.items()), group.strategy), f"a group has another's demand: {state}"
        assert all(entry.key == key for entry in group.queue.values()), f"a request is in a wrong group: {state}"


def _check_resources(state: State) -> None:
    taken = dict.fromkeys(state.resources.total, 0)
    never_forced = dict.fromkeys(filter(is_cpu, state.resources.total), 0)
    for lease in state.granted.values():
        for name, amount in lease.held().items():
            taken[name] += amount
            if name in never_forced and not lease.resumed:
                never_forced[name] += amount
    for name, total in state.resources.total.items():
        available = state.resources.available[name]
        assert taken[name] + available == total, f"{name} leaked or was booked twice: {state}"
        assert available >= 0 or is_cpu(name), f"{name} is overbooked: {state}"
    for name, amount in never_forced.items():
        assert amount <= state.resources.total[name], f"{name} is overbooked, but not by resuming: {state}"
    assert state.resources.available.keys() == state.resources.total.keys(), state
    _check_devices(state)
    _check_bundles(state)


def _check_devices(state: State) -> None:
    for lease in state.granted.values():
        wanted = sum(n for name, n in lease.demand.items() if name == "GPU")
        if group := group_of(lease.request.strategy):
            wanted = lease.demand.get(f"GPU_group_{group.group_id.hex()}", 0)
        assert sum(lease.gpus.values()) == wanted, f"a lease has not the GPUs it holds: {state}"
        assert sum(part < UNIT for part in lease.gpus.values()) <= 1, f"a lease has parts of several GPUs: {state}"
    for pool in [state.devices, *(pool for pools in state.pools.values() for pool in pools.values())]:
        for device, free in enumerate(pool.free):
            parts = sum(lease.gpus.get(device, 0) for lease in state.granted.values() if lease.pool is pool)
            assert 0 <= free == pool.capacity[device] - parts, f"GPU {device} leaked or was booked twice: {state}"


def _check_bundles(state: State) -> None:
    more: Resources = {}
    for group_id, bundles in state.bundles.items():
        assert bundles, f"a group without bundles is remembered: {state}"
        assert state.pools[group_id].keys() == bundles.keys(), state
        for index, lease_id in bundles.items():
            lease = state.granted[lease_id]
            assert state.pools[group_id][index].capacity == [
                lease.gpus.get(device, 0) for device in range(state.devices.count)
            ], f"a bundle has not the GPUs that it holds: {state}"
            for name, amount in capacity(lease.demand, group_id, index).items():
                more[name] = more.get(name, 0) + amount
    assert state.pools.keys() == state.bundles.keys(), state
    of_groups = {name: n for name, n in state.resources.total.items() if is_of_a_group(name)}
    assert of_groups == more, f"resources of groups do not match their bundles: {state}"
    assert state.unknown.keys() <= state.infeasible.keys(), f"who waits for a node is not there: {state}"
    assert state.lent == sum(lease.request.is_lent for lease in state.granted.values()), state
    assert state.recalled.keys() <= state.granted.keys(), f"what was asked back is not there: {state}"
    requests = [*(lease.request for lease in state.granted.values()), *state.infeasible.values()]
    requests += [entry.request for entry in state.waiting.values()]
    in_groups = {(group.group_id, each.lease_id) for each in requests if (group := group_of(each.strategy))}
    indexed = {(group_id, lease_id) for group_id, leases in state.in_group.items() for lease_id in leases}
    assert in_groups == indexed, f"leases and their groups disagree: {state}"


def _check_plan(state: State) -> None:
    if not state.front:
        assert not state.waiting, f"somebody waits, but nobody is the front: {state}"
        return
    front = state.front
    oldest = min(state.waiting.values(), key=lambda entry: entry.seq)
    assert front.lease_id == oldest.request.lease_id, f"the front is not the oldest: {state}"
    assert not fits(state, state.groups[oldest.key]), f"the front fits and still waits: {state}"
    assert (front.overtaken >= front.allowance) == (front.barred_until is not None), f"a bar out of turn: {state}"
    free_to_go = [group for group in state.groups.values() if not bars(front, group.demand)]
    assert not any(fits(state, group) for group in free_to_go), f"a request waits that fits: {state}"
    if front.barred_until is not None:
        assert state.wake_at is not None, f"nobody will lift the bar: {state}"
        assert state.wake_at <= front.barred_until, f"the bar will be lifted late: {state}"
