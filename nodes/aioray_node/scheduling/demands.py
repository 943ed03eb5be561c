"""What waits on a node, and why, for people: the same demand is told once, with how often it is asked for. Pure."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from aioray.wire.gcs import Demand
from aioray_node.scheduling.explaining import explain

if TYPE_CHECKING:
    from collections.abc import Collection

    from aioray_node.scheduling.state import State

MOST = 20  # demands of different kinds of each sort that are told of


def waiting_counts(state: State) -> list[tuple[dict[str, int], int]]:
    """Amounts, and how often they are asked for: first what waits for room, then what no node is large enough for."""
    return [(amounts, len(lease_ids)) for amounts, lease_ids in _waiting(state)]


def waiting_demands(state: State) -> tuple[Demand, ...]:
    """The same, with why the first of them waits."""
    return tuple(Demand(amounts, len(ids), explain(state, next(iter(ids)))) for amounts, ids in _waiting(state))


def _waiting(state: State) -> list[tuple[dict[str, int], Collection[int]]]:
    found: list[tuple[dict[str, int], Collection[int]]] = [
        (dict(group.demand), group.queue) for group in islice(state.groups.values(), MOST)
    ]
    impossible: dict[frozenset[tuple[str, int]], list[int]] = {}
    for lease_id, request in state.infeasible.items():
        impossible.setdefault(frozenset(request.demand.items()), []).append(lease_id)
    return [*found, *((dict(key), ids) for key, ids in islice(impossible.items(), MOST))]
