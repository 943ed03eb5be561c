"""What the head has heard of other nodes' bundles, and they have not reported yet, counted in its view of them. Pure.

A node reports changes only. So what it was told to hold or to let go of counts at once, and no longer than until it
reports, or for `echo_s`: then it has nothing to report, and what it reported before is so.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import field

from aioray.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioray_node.scheduling.policy import NodeView
    from aioray_node.scheduling.resources import Resources


class Echoes(Record):
    """Changes the view that it is given."""

    echo_s: float = 1.0
    _by_node: dict[str, deque[tuple[float, Resources, int]]] = field(default_factory=dict)  # when, how much, the sign

    def took(self, nodes: Mapping[str, NodeView], node_id: str, demand: Resources, now: float) -> None:
        """It has so much less to spare than it has said."""
        self._believe(nodes, node_id, demand, -1, now)

    def gave(self, nodes: Mapping[str, NodeView], node_id: str, demand: Resources, now: float) -> None:
        """It has so much more."""
        self._believe(nodes, node_id, demand, 1, now)

    def _believe(self, nodes: Mapping[str, NodeView], node_id: str, demand: Resources, sign: int, now: float) -> None:
        if node_id in nodes:
            _add(nodes[node_id], demand, sign)
            self._by_node.setdefault(node_id, deque()).append((now, demand, sign))

    def reported(self, node_id: str) -> None:
        """Its view has been replaced, or is gone."""
        self._by_node.pop(node_id, None)

    def forget(self, nodes: Mapping[str, NodeView], now: float) -> None:
        """What it has said long ago, and has not changed since, is so."""
        for node_id, echoes in list(self._by_node.items()):
            while echoes and now - echoes[0][0] >= self.echo_s:
                _, demand, sign = echoes.popleft()
                if node_id in nodes:
                    _add(nodes[node_id], demand, -sign)
            if not echoes:
                del self._by_node[node_id]

    def times(self) -> list[float]:
        """When some are to be forgotten (s)."""
        return [echoes[0][0] + self.echo_s for echoes in self._by_node.values()]


def _add(node: NodeView, demand: Resources, sign: int) -> None:
    available = node.resources.available
    for name, amount in demand.items():
        available[name] = available.get(name, 0) + sign * amount
