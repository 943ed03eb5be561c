"""Bundles as resources of their own, by name. Pure.

A bundle of 2 CPU, the third of its group, gives its node 2 of "CPU_group_2_ab12" and 2 of "CPU_group_ab12" while it
is booked. Who is to be in that bundle takes both, who may be in any takes the second: so nothing is given twice, and a
view of all nodes says by itself where the bundles are. A bit of "bundle_group_..." goes with each lease, so that those
that ask for nothing else are bound to the place, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aioray_node.scheduling.resources import UNIT, Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioray.wire.strategies import InGroup, Strategy

_PLACES = 1000 * UNIT  # in each bundle
_PLACE = UNIT // 1000  # so that a million leases fit
_OF_BUNDLE = re.compile(r"_group_(\d+_)?[0-9a-f]{32}$")


def without_bundles(resources: Mapping[str, int]) -> Resources:
    """What a node has of its own, for people: what bundles take is among it."""
    return {name: amount for name, amount in resources.items() if not _OF_BUNDLE.search(name)}


def group_of(strategy: Strategy | None) -> InGroup | None:
    """The group that is asked for."""
    return None if strategy is None else strategy.group


def booked(demand: Mapping[str, int], group: InGroup | None) -> Resources:
    """What a lease takes of its node, by the names there: of the group's resources where it is in one."""
    if group is None:
        return dict(demand)
    text = group.group_id.hex()
    taken = {}
    for name, amount in [*demand.items(), ("bundle", _PLACE)]:
        if group.index >= 0:
            taken[f"{name}_group_{group.index}_{text}"] = amount
        taken[f"{name}_group_{text}"] = amount
    return taken


def capacity(demand: Mapping[str, int], group_id: bytes, index: int) -> Resources:
    """What a node has more when it has booked a bundle."""
    text = group_id.hex()
    more = {}
    for name, amount in [*demand.items(), ("bundle", _PLACES)]:
        more[f"{name}_group_{index}_{text}"] = amount
        more[f"{name}_group_{text}"] = amount
    return more


def is_cpu(name: str) -> bool:
    """Whether that is a processor, on its own or of a bundle: what a worker that waits lends to others."""
    return name == "CPU" or name.startswith("CPU_group_")


def is_of_a_group(name: str) -> bool:
    """Whether that is a resource of bundles."""
    return "_group_" in name
