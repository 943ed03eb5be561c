"""On which nodes the bundles of a placement group go: `place`, from what is known of all nodes. Pure.

- PACK: on as few nodes as it goes. STRICT_PACK: on one.
- SPREAD: on as many as it goes, evenly. STRICT_SPREAD: each on a node of its own.

All of them have a place, or none has. Bundles are taken largest first, and tried node by node with a limit on how often
a choice is taken back: to fit bundles into nodes exactly can take for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from aioray.wire.strategies import Selector  # msgspec looks it up
from aioray_node.scheduling.labels import matches, terms_in_words
from aioray_node.scheduling.resources import Resources, in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from aioray_node.scheduling.devices import Devices
    from aioray_node.scheduling.policy import NodeView

_TRIES = 500  # beside one for each bundle


class Ask(msgspec.Struct, frozen=True):
    """What needs a place: bundles by their index. `near`: nodes that have others of the group, and how many."""

    bundles: dict[int, Resources]
    strategy: str
    selectors: dict[int, Selector] = {}
    near: dict[str, int] = {}
    target: str = ""  # STRICT_PACK: rather this node


class OnWay(msgspec.Struct):
    """What a node was asked for, and has not answered yet."""

    amounts: Resources = {}
    gpus: list[int] = []  # those of each bundle by themselves

    def add(self, demand: Resources) -> None:
        for name, amount in demand.items():
            self.amounts[name] = self.amounts.get(name, 0) + amount
        if "GPU" in demand:
            self.gpus.append(demand["GPU"])

    def remove(self, demand: Resources) -> None:
        for name, amount in demand.items():
            self.amounts[name] -= amount
            if not self.amounts[name]:
                del self.amounts[name]
        if "GPU" in demand:
            self.gpus.remove(demand["GPU"])


class Rooms:
    """What live nodes have to spare, to plan with: what is taken here is taken in the plan, not in the view.

    `whole`: as if nothing were in use. `on_way`: by node, what is taken beside what the view says.
    """

    def __init__(
        self, nodes: Mapping[str, NodeView], *, whole: bool = False, on_way: Mapping[str, OnWay] | None = None
    ) -> None:
        self._nodes = {node_id: node for node_id, node in nodes.items() if node.alive}
        self._whole = whole
        self._on_way = on_way or {}
        self._taken: dict[str, Resources] = {node_id: dict(each.amounts) for node_id, each in self._on_way.items()}
        self._devices: dict[str, Devices] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def matching(self, selector: Selector) -> list[str]:
        return [node_id for node_id, node in self._nodes.items() if matches(selector, node.labels)]

    def matches(self, node_id: str, selector: Selector) -> bool:
        return node_id in self._nodes and matches(selector, self._nodes[node_id].labels)

    def free(self, node_id: str, name: str) -> int:
        resources = self._nodes[node_id].resources
        total = resources.total.get(name, 0)
        amount = total if self._whole else min(total, resources.available.get(name, 0))  # more, if views cross answers
        return amount - self._taken.get(node_id, {}).get(name, 0)

    def fits(self, node_id: str, demand: Resources) -> bool:
        if any(amount > self.free(node_id, name) for name, amount in demand.items()):
            return False
        devices = self._devices_of(node_id) if "GPU" in demand else None
        return devices is None or devices.fits(demand["GPU"])

    def take(self, node_id: str, demand: Resources) -> dict[int, int]:
        """What fits; returns the GPUs that it gets."""
        taken = self._taken.setdefault(node_id, {})
        for name, amount in demand.items():
            taken[name] = taken.get(name, 0) + amount
        devices = self._devices_of(node_id) if "GPU" in demand else None
        return {} if devices is None or not devices.fits(demand["GPU"]) else devices.acquire(demand["GPU"])

    def put_back(self, node_id: str, demand: Resources, gpus: dict[int, int]) -> None:
        for name, amount in demand.items():
            self._taken[node_id][name] -= amount
        if gpus:
            self._devices[node_id].release(gpus)

    def fraction_left(self, node_id: str, demand: Iterable[str]) -> float:
        """Of that resource of which the least is left."""
        total = self._nodes[node_id].resources.total
        return min((self.free(node_id, name) / total[name] for name in demand if total.get(name)), default=1.0)

    def _devices_of(self, node_id: str) -> Devices | None:
        devices = self._devices.get(node_id)
        if devices is None and (known := self._nodes[node_id].devices) is not None:
            devices = self._devices[node_id] = known.copy()
            if self._whole:
                devices.free = list(devices.capacity)
            on_way = self._on_way.get(node_id)
            for gpus in () if on_way is None else on_way.gpus:
                if devices.fits(gpus):
                    devices.acquire(gpus)
        return devices


def place(ask: Ask, rooms: Rooms) -> dict[int, str] | None:
    """Bundle -> node, taken in `rooms` from then on; None, and nothing taken, when not all have a place."""
    order = sorted(ask.bundles, key=lambda index: (_weight(ask.bundles[index]), index))
    if ask.strategy == "STRICT_PACK":
        return _on_one(ask, order, rooms)
    if len(order) > 1 and _why_hopeless(ask, rooms):
        return None
    counts = dict(ask.near)
    chosen: list[tuple[str, dict[int, int]]] = []
    tries = _TRIES + len(order)
    stack = [_candidates(ask, order, 0, rooms, counts)]
    while stack:
        node_id = next(stack[-1], None) if tries else None
        if node_id is not None:
            tries -= 1
            chosen.append((node_id, rooms.take(node_id, ask.bundles[order[len(chosen)]])))
            counts[node_id] = counts.get(node_id, 0) + 1
            if len(chosen) == len(order):
                return {index: node_id for index, (node_id, _) in zip(order, chosen, strict=True)}
            stack.append(_candidates(ask, order, len(chosen), rooms, counts))
            continue
        stack.pop()
        if chosen:
            node_id, gpus = chosen.pop()
            rooms.put_back(node_id, ask.bundles[order[len(chosen)]], gpus)
            counts[node_id] -= 1
            if not counts[node_id]:
                del counts[node_id]
    return None


def missing(ask: Ask, nodes: Mapping[str, NodeView], *, whole: bool) -> str:
    """What there is not enough of, such as "2 CPU on one node asked, best node has 1"; `whole`: even were all free."""
    rooms = Rooms(nodes, whole=whole)
    if not list(rooms):
        return "a node is asked for, and there is none"
    return _why_hopeless(ask, rooms, "" if whole else " free") or "its bundles do not fit on these nodes together"


def _weight(demand: Resources) -> tuple[int, int, int, int]:
    """Larger ones first: of what is rare, of what is not."""
    return (
        -demand.get("GPU", 0),
        -sum(amount for name, amount in demand.items() if name not in ("CPU", "GPU", "memory")),
        -demand.get("CPU", 0),
        -demand.get("memory", 0),
    )


def _on_one(ask: Ask, order: list[int], rooms: Rooms) -> dict[int, str] | None:
    best: tuple[bool, float, str] | None = None
    names = {name for demand in ask.bundles.values() for name in demand}
    for node_id in list(ask.near or rooms):
        if all(rooms.matches(node_id, ask.selectors.get(index, ())) for index in order):
            if (taken := _take_all(ask, order, rooms, node_id)) is None:
                continue
            rank = (node_id != ask.target, rooms.fraction_left(node_id, names), node_id)  # large rooms stay free
            best = rank if best is None else min(best, rank)
            for index, gpus in taken:
                rooms.put_back(node_id, ask.bundles[index], gpus)
    if best is None:
        return None
    _take_all(ask, order, rooms, best[2])
    return dict.fromkeys(order, best[2])


def _take_all(ask: Ask, order: list[int], rooms: Rooms, node_id: str) -> list[tuple[int, dict[int, int]]] | None:
    taken: list[tuple[int, dict[int, int]]] = []
    for index in order:
        if not rooms.fits(node_id, ask.bundles[index]):
            for each, gpus in taken:
                rooms.put_back(node_id, ask.bundles[each], gpus)
            return None
        taken.append((index, rooms.take(node_id, ask.bundles[index])))
    return taken


def _candidates(ask: Ask, order: list[int], at: int, rooms: Rooms, counts: dict[str, int]) -> Iterator[str]:
    """Nodes for one bundle, the best first."""
    demand, selector = ask.bundles[order[at]], ask.selectors.get(order[at], ())

    def suits(node_id: str) -> bool:
        return rooms.fits(node_id, demand) and rooms.matches(node_id, selector)

    if ask.strategy == "PACK":
        in_use = sorted(counts, key=lambda node_id: (-counts[node_id], node_id))
        yield from [node_id for node_id in in_use if rooms.matches(node_id, selector) and suits(node_id)]
        rest = [ask.bundles[index] for index in order[at:]]
        fresh = [node_id for node_id in rooms if node_id not in counts and suits(node_id)]
        yield from sorted(
            fresh,
            key=lambda node_id: (-_how_many(rest, rooms, node_id), rooms.fraction_left(node_id, demand), node_id),
        )
        return
    nodes = [node_id for node_id in rooms if suits(node_id)]
    if ask.strategy == "STRICT_SPREAD":
        nodes = [node_id for node_id in nodes if node_id not in counts]
    yield from sorted(
        nodes, key=lambda node_id: (counts.get(node_id, 0), -rooms.fraction_left(node_id, demand), node_id)
    )


def _how_many(bundles: list[Resources], rooms: Rooms, node_id: str) -> int:
    """How many of them, in this order, a node could have; by amounts alone."""
    left: Resources = {}
    for at, demand in enumerate(bundles):
        for name, amount in demand.items():
            left[name] = left.get(name, rooms.free(node_id, name)) - amount
            if left[name] < 0:
                return at
    return len(bundles)


def _why_hopeless(ask: Ask, rooms: Rooms, free: str = "") -> str:
    """What no choice of nodes can make good; "" when it may be a matter of the right one."""
    bundles = list(ask.bundles.items())
    if ask.strategy == "STRICT_PACK":
        selector = tuple(dict.fromkeys(term for each in ask.selectors.values() for term in each))
        return _why_on_none(_sum(ask.bundles.values()), selector, rooms, free) if bundles else ""
    seen = set()
    for index, demand in bundles:
        selector = ask.selectors.get(index, ())
        key = (frozenset(demand.items()), selector)
        if key not in seen and (why := _why_on_none(demand, selector, rooms, free)):
            return why
        seen.add(key)
    if ask.strategy == "STRICT_SPREAD":
        useful = [
            node_id
            for node_id in rooms
            if node_id not in ask.near and any(rooms.fits(node_id, demand) for _, demand in bundles)
        ]
        if len(useful) < len(bundles):
            return f"{len(bundles)} nodes asked, one for each bundle, there are {len(useful)} that have room{free}"
    for name, amount in _sum(ask.bundles.values()).items():
        there = sum(max(0, rooms.free(node_id, name)) for node_id in rooms)
        if amount > there:
            return f"{in_words({name: amount})} asked in all, all nodes together have {_bare(name, there)}{free}"
    return ""


def _why_on_none(demand: Resources, selector: Selector, rooms: Rooms, free: str) -> str:
    """Why no node by itself has room."""
    where = f" with {terms_in_words(selector)}" if selector else ""
    nodes = rooms.matching(selector)
    if not nodes:
        return f"a node{where} asked, there is none"
    if any(rooms.fits(node_id, demand) for node_id in nodes):
        return ""

    def lacks(node_id: str) -> list[str]:
        return [name for name, amount in demand.items() if amount > rooms.free(node_id, name)]

    def short(node_id: str) -> float:
        return sum(1 - max(0, rooms.free(node_id, name)) / demand[name] for name in lacks(node_id))

    best = min(nodes, key=lambda node_id: (len(lacks(node_id)), short(node_id), node_id))
    names = lacks(best)
    if not names:  # of GPUs, by the amount
        return (
            f"{in_words({'GPU': demand['GPU']})} on one node{where} asked, best node has it{free} in parts of several"
        )
    asked = in_words({name: demand[name] for name in names})
    has = {name: max(0, rooms.free(best, name)) for name in names}
    there = _bare(names[0], has[names[0]]) if len(names) == 1 else in_words(has)
    return f"{asked} on one node{where} asked, best node has {there}{free}"


def _bare(name: str, amount: int) -> str:
    """Without the name, where that was just said."""
    return in_words({name: amount}).removesuffix(f" {name}")


def _sum(demands: Iterable[Resources]) -> Resources:
    total: Resources = {}
    for demand in demands:
        for name, amount in demand.items():
            total[name] = total.get(name, 0) + amount
    return total
