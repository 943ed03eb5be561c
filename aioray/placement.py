"""From options to a place in a placement group: which one a call asks for, and whether it can ever fit there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray.exceptions import InvalidOptionError
from aioray.wire.strategies import InGroup, Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioray.options import ActorOptions, TaskOptions

AS_GROUP = "__aioray_group__"  # what placement groups have: they are imported by who uses them
UNIT = 10_000


def placement_group(value: Any) -> Any:
    """A check for the table of options: "default", None (in none), or a placement group."""
    if value is None or value == "default":
        return value
    if isinstance(value, type) or not hasattr(value, AS_GROUP):
        raise ValueError("no placement group")
    return value


def in_group(group: Any, index: int, captures: bool | None) -> InGroup | None:
    """What a group and two of its options say. Raises InvalidOptionError for a bundle that the group has not."""
    group_id: bytes | None = None if group is None else getattr(group, AS_GROUP)()
    if group_id is None:
        if index != -1:
            allowed = "-1 where no placement group is given"
            raise InvalidOptionError("placement_group_bundle_index", index, allowed)
        return None
    last = group.bundle_count - 1
    if not -1 <= index <= last:
        allowed = f"-1 (any bundle), or a whole number from 0 to {last}: the bundles of this placement group"
        raise InvalidOptionError("placement_group_bundle_index", index, allowed)
    return InGroup(group_id, index, bool(captures))


def explicit_group(options: TaskOptions | ActorOptions) -> InGroup | None:
    """The group that the options name, whichever way. Raises InvalidOptionError."""
    strategy = options.scheduling_strategy
    given = options.placement_group
    if given == "default":
        # What a strategy says is in it already. An index alone is for the group of whoever makes the call.
        return None
    if strategy is not None:
        reason = "the strategy says where, too"
        raise InvalidOptionError("placement_group", given, "'default' where scheduling_strategy is given", reason)
    return in_group(given, options.placement_group_bundle_index, options.placement_group_capture_child_tasks)


def may_follow(options: TaskOptions | ActorOptions) -> bool:
    """Whether the call goes into the group of its caller, where that captures: nothing says otherwise."""
    return options.placement_group == "default" and options.scheduling_strategy is None


def captured(here: InGroup | None, options: TaskOptions | ActorOptions) -> InGroup | None:
    """The group that a call goes into because whoever makes it is in there."""
    if not may_follow(options):
        return None
    wanted = options.placement_group_capture_child_tasks
    follows = here is not None and (here.captures if wanted is None else wanted)
    if here is not None and follows:
        return InGroup(here.group_id, options.placement_group_bundle_index, captures=True)
    if options.placement_group_bundle_index != -1:
        allowed = "-1 where no placement group is given"
        raise InvalidOptionError("placement_group_bundle_index", options.placement_group_bundle_index, allowed)
    return None


def with_group(strategy: Strategy | None, group: InGroup | None) -> Strategy | None:
    """The strategy of a call that goes into a group."""
    if group is None:
        return strategy
    old = strategy or Strategy()
    return Strategy(old.spread, old.affinity, old.required, old.preferred, old.selectors, group)


def check_fits(
    group: InGroup, bundles: Sequence[Mapping[str, float]], demand: Mapping[str, int], *, to_be_placed: bool = False
) -> None:
    """Raises InvalidOptionError when no bundle that it may be in is large enough for it."""
    some = bundles if group.index < 0 else [bundles[group.index]]
    for bundle in some:
        if all(amount <= round(bundle.get(name, 0) * UNIT) for name, amount in demand.items()):
            return
    asked = {name: amount / UNIT for name, amount in demand.items()}
    where = "any of its bundles" if group.index < 0 else f"bundle {group.index}"
    why = "an actor needs that to be placed, unless num_cpus is given" if to_be_placed else ""
    allowed = f"what fits in {where}: {[dict(bundle) for bundle in some]}; the call asks for {asked}"
    raise InvalidOptionError("placement_group", group.group_id.hex(), allowed, why)
