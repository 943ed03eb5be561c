"""Of very many nodes the few among which a request is decided, so that it costs no more than among some. Pure.

`narrow` gives `policy.choose` a part of the view in which the decision is as good as in all of it: where any node could
have the request, one is in it that could; where any is free, one is in it that is free, of those that are liked and of
those without GPUs. Of each kind it takes a sample: the best of a few drawn by chance is nearly as good as the best of
all, and two nodes with the same late view do not draw the same.

For that it remembers, of the kinds of requests that were asked for last, which nodes are large enough and which are
free. `changed` keeps that true: it must be told of every change of a node, one's own excepted. A kind that is new takes
a look at all nodes, once.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from typing import TYPE_CHECKING

from msgspec import field

from aioray.record import Record
from aioray_node.scheduling.labels import matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from aioray.wire.strategies import Affinity, Selector, Strategy
    from aioray_node.scheduling.policy import Here, NodeView, Wish
    from aioray_node.scheduling.resources import Resources

MANY = 64  # up to so many nodes, all of them are looked at
SAMPLE = 4  # of the free nodes of each sort
_MOST_KINDS = 32
_MULTIPLIER, _INCREMENT, _MASK = 6364136223846793005, 1442695040888963407, (1 << 64) - 1

Sort = tuple[bool, bool]  # whether a node is liked, and whether it has GPUs
Kind = tuple[frozenset[tuple[str, int]], "Selector", "Selector"]  # demand, required and preferred labels


class Bag(Record):
    """Ids, of which any can be drawn."""

    ids: list[str] = field(default_factory=list)
    at: dict[str, int] = field(default_factory=dict)

    def add(self, node_id: str) -> None:
        if node_id not in self.at:
            self.at[node_id] = len(self.ids)
            self.ids.append(node_id)

    def discard(self, node_id: str) -> None:
        at = self.at.pop(node_id, None)
        if at is None:
            return
        last = self.ids.pop()
        if last != node_id:
            self.ids[at] = last
            self.at[last] = at


class Shelf(Record):
    """Which nodes could have one kind of request, and which of them are free."""

    demand: Resources
    required: Selector
    preferred: Selector
    sort_of: dict[str, Sort] = field(default_factory=dict)  # of the nodes that are large enough
    able: dict[Sort, Bag] = field(default_factory=dict)
    free: dict[Sort, Bag] = field(default_factory=dict)
    in_order: list[str] = field(default_factory=list)  # those that are large enough, by id
    judged: dict[str, Resources] = field(default_factory=dict)  # what all nodes have, as it was when they were sorted

    def put(self, node_id: str, node: NodeView | None) -> None:
        """It is like that now; None: it is gone."""
        sort = before = self.sort_of.get(node_id)
        if node is None or not node.alive:
            self.judged.pop(node_id, None)
            sort = None
        elif self.judged.get(node_id) is not node.resources.total:  # another node's is replaced as a whole, if at all
            self.judged[node_id] = node.resources.total
            sort = self._sort(node)
        if sort != before:
            self._move(node_id, before, sort)
        if node is None or sort is None:
            return
        free = self.free.setdefault(sort, Bag())
        if node.fits(self.demand):
            free.add(node_id)
        else:
            free.discard(node_id)

    def _sort(self, node: NodeView) -> Sort | None:
        """None where it can never have it."""
        if not node.resources.could_ever_fit(self.demand) or not matches(self.required, node.labels):
            return None
        liked = bool(self.preferred) and matches(self.preferred, node.labels)
        return liked, bool(node.resources.total.get("GPU"))

    def _move(self, node_id: str, before: Sort | None, after: Sort | None) -> None:
        if before is not None:
            self.able[before].discard(node_id)
            self.free.setdefault(before, Bag()).discard(node_id)
            if after is None:
                del self.sort_of[node_id]
                del self.in_order[bisect.bisect_left(self.in_order, node_id)]
        if after is not None:
            self.able.setdefault(after, Bag()).add(node_id)
            self.sort_of[node_id] = after
            if before is None:
                bisect.insort(self.in_order, node_id)

    def is_free(self, node_id: str) -> bool:
        """As far as is known."""
        sort = self.sort_of.get(node_id)
        return sort is not None and node_id in self.free[sort].at

    def next_free(self, last: str) -> Iterator[str]:
        """The first free one after `last` by id, round robin, and if it is not liked, the first one that is."""
        if not any(bag.ids for bag in self.free.values()):
            return
        likes = any(bag.ids for (liked, _), bag in self.free.items() if liked)
        begin = bisect.bisect_right(self.in_order, last)
        for at in range(len(self.in_order)):
            node_id = self.in_order[(begin + at) % len(self.in_order)]
            if self.is_free(node_id) and (self.sort_of[node_id][0] or not likes):
                yield node_id
                return


class Candidates(Record):
    """`own_id`: the node that decides, which is always among them; its state is no news."""

    own_id: str
    kinds: OrderedDict[Kind, Shelf] = field(default_factory=OrderedDict)
    chance: int = 0

    def __post_init__(self) -> None:
        self.chance = int.from_bytes(self.own_id.encode()[:16], "big")

    def changed(self, node_id: str, node: NodeView | None) -> None:
        """A node is like that from here on; None: it is gone."""
        if node_id != self.own_id:
            for shelf in self.kinds.values():
                shelf.put(node_id, node)

    def narrow(self, wish: Wish, nodes: Mapping[str, NodeView], here: Here) -> dict[str, NodeView]:
        """Those among which to choose."""
        strategy = wish.strategy
        found = [here.node_id, *wish.argument_nbytes]
        affinity = None if strategy is None else strategy.affinity
        if affinity is not None:
            found.append(affinity.node_id)
        if affinity is None or _may_go_elsewhere(wish, affinity, nodes):
            for terms in _alternatives(strategy):
                shelf = self._shelf(wish.demand, terms, () if strategy is None else strategy.preferred, nodes)
                found += self._some(shelf, here, spread=strategy is not None and strategy.spread)
                if any(bag.ids for bag in shelf.free.values()):
                    break  # the first that a free node matches counts
        return {node_id: nodes[node_id] for node_id in found if node_id in nodes}

    def _shelf(
        self, demand: Resources, required: Selector, preferred: Selector, nodes: Mapping[str, NodeView]
    ) -> Shelf:
        kind = (frozenset(demand.items()), required, preferred)
        shelf = self.kinds.get(kind)
        if shelf is None:
            shelf = self.kinds[kind] = Shelf(dict(demand), required, preferred)
            for node_id, node in nodes.items():
                if node_id != self.own_id:
                    shelf.put(node_id, node)
            if len(self.kinds) > _MOST_KINDS:
                self.kinds.popitem(last=False)
        else:
            self.kinds.move_to_end(kind)
        return shelf

    def _some(self, shelf: Shelf, here: Here, *, spread: bool) -> list[str]:
        found = list(shelf.next_free(here.spread_after)) if spread else []
        for bag in shelf.free.values():
            found += self._draw(bag.ids)
        if not found:  # at which to wait
            for bag in shelf.able.values():
                found += self._draw(bag.ids)
        return found

    def _draw(self, ids: list[str]) -> Iterable[str]:
        if len(ids) <= SAMPLE:
            return ids
        drawn = []
        for _ in range(SAMPLE):
            self.chance = (self.chance * _MULTIPLIER + _INCREMENT) & _MASK
            drawn.append(ids[(self.chance >> 32) % len(ids)])
        return drawn


def _alternatives(strategy: Strategy | None) -> list[Selector]:
    if strategy is None:
        return [()]
    return [strategy.required + selector for selector in strategy.selectors or ((),)]


def _may_go_elsewhere(wish: Wish, affinity: Affinity, nodes: Mapping[str, NodeView]) -> bool:
    """Whether other nodes than that are of interest."""
    if not affinity.soft:
        return False
    node = nodes.get(affinity.node_id)
    if node is None or affinity.spill_on_unavailable or not node.resources.could_ever_fit(wish.demand):
        return True
    return not any(matches(terms, node.labels) for terms in _alternatives(wish.strategy))


def check(candidates: Candidates, nodes: Mapping[str, NodeView]) -> None:
    """Assert what holds between any two events, when `changed` was told all."""
    assert len(candidates.kinds) <= _MOST_KINDS, candidates
    others = {node_id: node for node_id, node in nodes.items() if node_id != candidates.own_id}
    for (demand, required, preferred), shelf in candidates.kinds.items():
        fresh = Shelf(dict(demand), required, preferred)
        for node_id, node in others.items():
            fresh.put(node_id, node)
        assert shelf.sort_of == fresh.sort_of, f"a node is taken for another: {shelf}"
        assert shelf.in_order == sorted(shelf.sort_of), f"nodes are out of order: {shelf}"
        for mine, true in ((shelf.able, fresh.able), (shelf.free, fresh.free)):
            assert {sort: set(bag.ids) for sort, bag in mine.items() if bag.ids} == {
                sort: set(bag.ids) for sort, bag in true.items() if bag.ids
            }, f"who is free is not known: {shelf}"
        for bag in (*shelf.able.values(), *shelf.free.values()):
            assert bag.at == {node_id: at for at, node_id in enumerate(bag.ids)}, f"a bag is torn: {bag}"
