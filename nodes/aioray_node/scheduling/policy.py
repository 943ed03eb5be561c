"""Which node a task or an actor goes to: `choose`, from what is known of all nodes. Pure. A node alone is one of one.

- What says nothing goes to the node that has most of its arguments' bytes, if that is free.
- Else to the node that asks, while less than half of that is in use; then to the first such node; when there is none,
  to one of those of which the least is in use. What needs no GPU goes to nodes without, if one of these is free.
- SPREAD goes round all nodes that are free; where none is, round all that could have it, and waits there in its turn.
- An affinity, conditions on labels and selectors say among which nodes that is done (see `aioray.wire.strategies`).

A node that is free has what is asked for to spare at this moment; where there is none, the answer is at which node to
wait. Who waits is placed in an order that is not decided here (`placing.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from aioray.wire.strategies import Selector, Strategy
from aioray_node.scheduling.devices import Devices
from aioray_node.scheduling.labels import holds, labels_in_words, matches, terms_in_words
from aioray_node.scheduling.resources import NodeResources, Resources

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioray.wire.strategies import Affinity

PACK_UNTIL = 0.5  # of a node in use
TOP_FRACTION = 0.2  # of the nodes that are free: among so many of the best, chance decides
_ALWAYS_WEIGHED = ("CPU", "memory", "object_store_memory")


class NodeView(msgspec.Struct):
    """What is known of one node."""

    resources: NodeResources
    labels: Mapping[str, str] = {}
    devices: Devices | None = None  # None: not known device by device
    alive: bool = True

    def fits(self, demand: Resources) -> bool:
        """Whether it could start now."""
        return self.resources.fits(demand) and (self.devices is None or self.devices.fits(demand.get("GPU", 0)))


class Wish(msgspec.Struct, frozen=True):
    """What is asked for. `argument_nbytes`: how much of the arguments lies on which node."""

    demand: Resources
    strategy: Strategy | None = None
    argument_nbytes: Mapping[str, int] = {}


class Here(msgspec.Struct, frozen=True):
    """Who asks. `spread_after`: where the last one of its kind went that was to be spread; `draw`: any number;
    `was_sent`: another node has decided already, and whoever is to wait may as well do so here."""

    node_id: str
    spread_after: str = ""
    draw: int = 0
    was_sent: bool = False


class Chosen(msgspec.Struct, frozen=True):
    """It fits there now."""

    node_id: str


class Wait(msgspec.Struct, frozen=True):
    """It fits nowhere just now; there it could one day."""

    node_id: str


class Infeasible(msgspec.Struct, frozen=True):
    """No node can ever have it. `for_good`: nor wants it to wait for one that can. `reason` goes after its name."""

    reason: str
    for_good: bool = False


Decision = Chosen | Wait | Infeasible
Nodes = dict[str, NodeView]
_ANY = Strategy()


def choose(wish: Wish, nodes: Mapping[str, NodeView], here: Here) -> Decision:
    """Where to. Of several selectors the first counts that some free node matches, else the first that could be."""
    if stays_here(wish, nodes, here):
        return Chosen(here.node_id)  # as below, but most requests end here: no need to look at all nodes
    strategy = wish.strategy or _ANY
    alive = {node_id: node for node_id, node in nodes.items() if node.alive}
    decisions: list[Wait | Infeasible] = []
    for selector in strategy.selectors or ((),):
        decision = _choose_with(wish, strategy, selector, alive, here)
        if isinstance(decision, Chosen):
            return decision
        decisions.append(decision)
    reasons = []
    for other in decisions:
        if isinstance(other, Wait):
            return other
        reasons.append(other.reason)
    for_good = all(isinstance(each, Infeasible) and each.for_good for each in decisions)
    return Infeasible("; else ".join(dict.fromkeys(reasons)), for_good)


def strategy_in_words(strategy: Strategy | None) -> str:
    """What it limits, such as " on node 12ab, with region=us, else with zone=a"; "" when it is nothing."""
    if strategy is None:
        return ""
    affinity = strategy.affinity
    parts = [] if affinity is None else [f"{'rather ' if affinity.soft else ''}on node {affinity.node_id}"]
    if strategy.required:
        parts.append(f"with {terms_in_words(strategy.required)}")
    chosen_by = [f"with {terms_in_words(selector)}" if selector else "anywhere" for selector in strategy.selectors]
    if chosen_by:
        parts.append(", else ".join(chosen_by))
    return f" {', '.join(parts)}" if parts else ""


def stays_here(wish: Wish, nodes: Mapping[str, NodeView], here: Here) -> bool:
    """Whether nothing speaks for another node, and this one is free, not crowded, and not for who needs its GPUs."""
    node = nodes.get(here.node_id)
    return (
        wish.strategy is None
        and not wish.argument_nbytes
        and node is not None
        and node.alive
        and node.fits(wish.demand)
        and bool(wish.demand.get("GPU") or not node.resources.total.get("GPU"))
        and _fraction_used(node, wish.demand) < PACK_UNTIL
    )


def _choose_with(wish: Wish, strategy: Strategy, selector: Selector, alive: Nodes, here: Here) -> Decision:
    terms = strategy.required + selector
    able = {
        node_id: node
        for node_id, node in alive.items()
        if node.resources.could_ever_fit(wish.demand) and matches(terms, node.labels)
    }
    affinity = strategy.affinity
    if affinity is not None:
        if affinity.node_id in able:
            return _at_home(wish, affinity, able, here)
        if not affinity.soft:
            return Infeasible(_why_not_there(wish, terms, affinity.node_id, alive, here), for_good=True)
    if not able:
        return Infeasible(_why_nowhere(wish, terms, alive, here))
    return _among(wish, strategy, able, here)


def _at_home(wish: Wish, affinity: Affinity, able: Nodes, here: Here) -> Decision:
    """It has a node that could have it."""
    node_id = affinity.node_id
    if able[node_id].fits(wish.demand):
        return Chosen(node_id)
    if affinity.fail_on_unavailable:
        return Infeasible(f"was not to wait for node {node_id}, of which not enough is free", for_good=True)
    if affinity.spill_on_unavailable:
        elsewhere = _among(wish, _ANY, able, here)
        if isinstance(elsewhere, Chosen):
            return elsewhere
    return Wait(node_id)


def _among(wish: Wish, strategy: Strategy, able: Nodes, here: Here) -> Chosen | Wait:
    """One of these, of which there is at least one."""
    free = {node_id: node for node_id, node in able.items() if node.fits(wish.demand)}
    candidates = free or able
    if strategy.preferred:
        liked = {node_id: node for node_id, node in candidates.items() if matches(strategy.preferred, node.labels)}
        candidates = liked or candidates
    if not free:
        return Wait(_where_to_wait(wish, strategy, candidates, here))
    if strategy.spread:
        return Chosen(_next_after(here.spread_after, candidates))
    return Chosen(_hybrid(wish, candidates, here))


def _where_to_wait(wish: Wish, strategy: Strategy, candidates: Nodes, here: Here) -> str:
    """Here, where that is as good as any other: who asks sees all nodes, and sends on what one of them has room for.

    What is spread is not only where room is: that is heard of late, and of short tasks when they are long over.
    """
    if strategy.spread and not here.was_sent:
        return _next_after(here.spread_after, candidates)
    likely = candidates if strategy.spread else _without_gpus(wish, candidates)
    return here.node_id if here.node_id in likely else _hybrid(wish, likely, here)


def _next_after(last: str, candidates: Iterable[str]) -> str:
    """Round robin by id: nodes may come and go between two turns."""
    ordered = sorted(candidates)
    return next((node_id for node_id in ordered if node_id > last), ordered[0])


def _hybrid(wish: Wish, candidates: Nodes, here: Here) -> str:
    if holder := _holder(wish, candidates, here):
        return holder
    candidates = _without_gpus(wish, candidates)

    def rank(node_id: str) -> tuple[float, bool, str]:
        used = _fraction_used(candidates[node_id], wish.demand)
        return (used if used >= PACK_UNTIL else 0.0, node_id != here.node_id, node_id)

    ranked = sorted(candidates, key=rank)
    best_used, is_elsewhere, _ = rank(ranked[0])
    if best_used < PACK_UNTIL or not is_elsewhere:
        return ranked[0]
    top = max(1, int(len(ranked) * TOP_FRACTION))
    return ranked[here.draw % top]


def _without_gpus(wish: Wish, candidates: Nodes) -> Nodes:
    """Those that nobody needs for their GPUs, unless the wish does, or there are no others."""
    if wish.demand.get("GPU"):
        return candidates
    plain = {node_id: node for node_id, node in candidates.items() if not node.resources.total.get("GPU")}
    return plain or candidates


def _holder(wish: Wish, candidates: Nodes, here: Here) -> str:
    """Which of these has most of its arguments' bytes; "" when none has any, or a strategy decides, as in Ray."""
    nbytes = {node_id: n for node_id, n in wish.argument_nbytes.items() if n > 0 and node_id in candidates}
    if wish.strategy is not None or not nbytes:
        return ""
    most = max(nbytes.values())
    holders = sorted(node_id for node_id, n in nbytes.items() if n == most)
    return here.node_id if here.node_id in holders else holders[0]


def _fraction_used(node: NodeView, demand: Resources) -> float:
    """Of that resource of which the most is in use; only those count that every node has, or that are asked for."""
    available, totals = node.resources.available, node.resources.total
    most = 0.0
    for name in (*_ALWAYS_WEIGHED, *demand):  # not all that the node has: bundles may have made that thousands
        if total := totals.get(name):
            most = max(most, 1.0 - available[name] / total)
    return most


def _why_not_there(wish: Wish, terms: Selector, node_id: str, alive: Nodes, here: Here) -> str:
    """Why a node that was asked for by its id will not do."""
    if node_id not in alive:
        return f"was to run on node {node_id}, which does not exist, or not any more"
    node = alive[node_id]
    return f"was to run on node {node_id}, but {'; '.join(_lacks(wish, terms, node, _name_of(node_id, here)))}"


def _why_nowhere(wish: Wish, terms: Selector, alive: Nodes, here: Here) -> str:
    """What the best node lacks: which misses the fewest conditions, then the fewest resources, then least of them."""
    if not alive:
        return "needs a node, and there is none"

    def rank(node_id: str) -> tuple[int, int, float, bool, str]:
        node = alive[node_id]
        missed = sum(not holds(term, node.labels) for term in terms)
        missing = [1 - node.resources.total.get(name, 0) / amount for name, amount in wish.demand.items() if amount]
        short = [part for part in missing if part > 0]
        return (missed, len(short), sum(short), node_id != here.node_id, node_id)

    best = min(alive, key=rank)
    whose = f"the best node, {best}," if len(alive) > 1 else _name_of(best, here)
    return "; ".join(_lacks(wish, terms, alive[best], whose))


def _name_of(node_id: str, here: Here) -> str:
    return "this node" if node_id == here.node_id else f"node {node_id}"


def _lacks(wish: Wish, terms: Selector, node: NodeView, whose: str) -> list[str]:
    lacks = []
    if not matches(terms, node.labels):
        has = labels_in_words(node.labels, (term.key for term in terms))
        lacks.append(f"needs a node with {terms_in_words(terms)}, {whose} has {has}")
    if missing := node.resources.missing(wish.demand, whose):
        lacks.append(missing)
    return lacks
