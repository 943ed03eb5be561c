"""Placement groups: resources that are booked together, on one node or on several, and stay booked until removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aioray import current
from aioray.exceptions import InvalidOptionError
from aioray.ids import NodeID, PlacementGroupID
from aioray.labels import SELECTOR_ALLOWED, selector_of
from aioray.options import AMOUNT, bundle_amount
from aioray.runtime import blocking
from aioray.waiting import check_timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioray.refs import ObjectRef
    from aioray.runtime.runtime import Runtime
    from aioray.wire.strategies import Selector

__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_BUNDLES_ALLOWED = (
    "a list of dicts, at least one, each of names of resources ('CPU', 'GPU', 'memory' or your own) to amounts: "
    f"{AMOUNT}, one of them above 0"
)


class PlacementGroup:
    """Bundles of resources that were asked for together. Made by `placement_group`; may be sent anywhere.

    Options of tasks and actors take it, see `aioray.util.scheduling_strategies.PlacementGroupSchedulingStrategy`.
    """

    def __init__(self, id: PlacementGroupID, bundle_cache: Sequence[Mapping[str, float]] | None = None) -> None:
        self.id = id
        self.bundle_cache = None if bundle_cache is None else [dict(bundle) for bundle in bundle_cache]
        self._runtime: Runtime | None = None
        self._ready: ObjectRef[PlacementGroup] | None = None  # for `wait`

    @staticmethod
    def empty() -> PlacementGroup:
        """The group that is none."""
        return PlacementGroup(PlacementGroupID.nil(), [])

    @property
    def is_empty(self) -> bool:
        """Whether it is none."""
        return self.id.is_nil()

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What was asked for, a dict for each bundle. Raises ValueError when nobody knows of the group any more."""
        if self.bundle_cache is None:
            self.bundle_cache = self._its_runtime().groups.bundles_of(self.id.binary())
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self.bundle_specs)

    def ready(self, timeout: float | None = None) -> ObjectRef[PlacementGroup]:
        """A ref to this group, which is there when all bundles are booked: `await pg.ready()`, `get(pg.ready())`.

        Raises TaskPlacementGroupRemoved when the group is removed. timeout (ours): seconds after which it raises
        GetTimeoutError (a TimeoutError), which says what is missing.
        """
        check_timeout(timeout)
        return self._its_runtime().groups.ready(self.id.binary(), self, timeout)

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Block until all bundles are booked: True; False after `timeout_seconds`, and when the group is removed.

        In an event loop it raises BlockingCallError: there, write `await pg.ready(timeout=...)`.
        """
        check_timeout(timeout_seconds)
        runtime = self._its_runtime()
        blocking.check_may_block(runtime, "pg.wait(timeout_seconds)", "await pg.ready(timeout=...)")
        ref = self.ready() if self._ready is None or self._ready.done() else self._ready
        done, _ = blocking.wait(runtime, [ref], 1, timeout_seconds, here=True)
        self._ready = None if done else ref  # not another one each time, should this be called in a loop
        return bool(done) and ref.exception() is None

    def _its_runtime(self) -> Runtime:
        runtime = self._runtime
        if runtime is None or runtime.closed:
            runtime = self._runtime = current.get()
        return runtime

    def __aioray_group__(self) -> bytes | None:
        return None if self.is_empty else self.id.binary()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"

    def __reduce__(self) -> tuple[Callable[..., PlacementGroup], tuple[Any, ...]]:
        return PlacementGroup, (self.id, self.bundle_cache)


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: str = "PACK",
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
) -> PlacementGroup:
    """Ask for a group of bundles; returns at once. All of them are booked when there is room for all, or none is.

    bundles: what each is to have, such as [{"CPU": 2}, {"GPU": 1}]. A bundle is on one node.
    strategy: "PACK" on as few nodes as it goes, "SPREAD" on as many; "STRICT_PACK" on one, "STRICT_SPREAD" each on a
    node of its own.
    name: for `get_placement_group`, one of a kind in the namespace.
    lifetime: None, until the driver ends (of a group that a detached actor makes: until that ends); "detached": until
    it is removed.
    bundle_label_selector: for each bundle, which labels its node must have, as the option `label_selector`.
    _soft_target_node_id: with "STRICT_PACK", the node to take if there is room.

    What does not fit now waits; what fits on no nodes that there are waits as well, and says so. Works in an event
    loop, too. Raises InvalidOptionError, and ValueError when the name is taken.
    """
    checked = _checked_bundles(bundles)
    if strategy not in STRATEGIES:
        raise InvalidOptionError("strategy", strategy, ", ".join(map(repr, STRATEGIES)))
    if name is not None and not isinstance(name, str):
        raise InvalidOptionError("name", name, "a str; '' is none")
    if lifetime not in (None, "detached"):
        raise InvalidOptionError("lifetime", lifetime, "None, 'detached'")
    runtime = current.get()
    group_id = runtime.groups.create(
        [{resource: bundle_units(amount) for resource, amount in bundle.items() if amount} for bundle in checked],
        strategy,
        name=name or "",
        detached=lifetime == "detached",
        selectors=_checked_selectors(bundle_label_selector, len(checked)),
        target_node=_checked_target(_soft_target_node_id, strategy),
    )
    group = PlacementGroup(PlacementGroupID(group_id), checked)
    group._runtime = runtime
    return group


def bundle_units(amount: float) -> int:
    """In ten-thousandths; integers apart, for a count of bytes has more digits than a float keeps."""
    return amount * 10_000 if isinstance(amount, int) else round(amount * 10_000)


def _checked_bundles(bundles: Any) -> list[dict[str, float]]:
    if isinstance(bundles, (str, Mapping)) or not isinstance(bundles, (list, tuple)) or not bundles:
        raise InvalidOptionError("bundles", bundles, _BUNDLES_ALLOWED)
    checked = []
    for at, bundle in enumerate(bundles):
        if not isinstance(bundle, Mapping):
            raise InvalidOptionError("bundles", bundles, _BUNDLES_ALLOWED, f"[{at}] is no dict")
        amounts = {}
        for name, amount in bundle.items():
            try:
                amounts[name] = bundle_amount(name, amount)
            except ValueError as exc:
                reason = f"[{at}], {name!r}: {exc}"
                raise InvalidOptionError("bundles", bundles, _BUNDLES_ALLOWED, reason) from None
        if not any(amounts.values()):
            raise InvalidOptionError("bundles", bundles, _BUNDLES_ALLOWED, f"[{at}] asks for nothing")
        checked.append(amounts)
    return checked


def _checked_selectors(given: Any, count: int) -> list[Selector]:
    if given is None or given == []:
        return []
    allowed = f"None, or a list with one for each of the {count} bundles: {SELECTOR_ALLOWED}"
    if not isinstance(given, (list, tuple)) or len(given) != count:
        raise InvalidOptionError("bundle_label_selector", given, allowed)
    try:
        return [selector_of(each) for each in given]
    except ValueError as exc:
        raise InvalidOptionError("bundle_label_selector", given, allowed, str(exc)) from None


def _checked_target(node_id: Any, strategy: str) -> str:
    if node_id is None:
        return ""
    if isinstance(node_id, NodeID):
        node_id = node_id.hex()
    if not isinstance(node_id, str) or not node_id or strategy != "STRICT_PACK":
        allowed = "None, or with strategy='STRICT_PACK' the id of a node in hexadecimal digits, as in nodes()"
        raise InvalidOptionError("_soft_target_node_id", node_id, allowed)
    return node_id


def _check_group(group: Any) -> PlacementGroup:
    if not isinstance(group, PlacementGroup):
        raise InvalidOptionError("placement_group", group, "a PlacementGroup")
    return group


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Let go of a group. Tasks and actors in it are killed, and their callers get TaskPlacementGroupRemoved or
    ActorPlacementGroupRemoved; so do those that wait for it. Removing it again does nothing.
    """
    group = _check_group(placement_group)
    if not group.is_empty:
        group._its_runtime().groups.remove(group.id.binary())


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of that name in this namespace. Raises ValueError when there is none."""
    if not isinstance(placement_group_name, str) or not placement_group_name:
        raise InvalidOptionError("placement_group_name", placement_group_name, "a str that is not empty")
    runtime = current.get()
    found = runtime.ask("get_group", namespace=runtime.namespace_here(), name=placement_group_name)
    group = PlacementGroup(PlacementGroupID(found["group_id"]), found["bundles"])
    group._runtime = runtime
    return group


def get_current_placement_group() -> PlacementGroup | None:
    """The group in which the task or actor is that asks; None where there is none, as in a driver."""
    runtime = current.get()
    group = runtime.group_here()
    if group is None:
        return None
    found = PlacementGroup(PlacementGroupID(group.group_id))
    found._runtime = runtime
    return found


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """State, bundles and their nodes, of one group; without one, of all by their ids, the last removed ones included.

    `state` is PENDING, CREATED, RESCHEDULING (a node died, and with it some bundles) or REMOVED.
    """
    runtime = current.get() if placement_group is None else _check_group(placement_group)._its_runtime()
    if placement_group is None:
        table: dict[str, Any] = runtime.ask("group_table")
        return table
    found: dict[str, Any] = runtime.ask("group_table", group_id=placement_group.id.binary())
    entry: dict[str, Any] = found.get(placement_group.id.hex(), {})
    return entry
