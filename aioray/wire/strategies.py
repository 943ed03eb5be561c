"""Where a task or an actor may run, and where it would rather: checked, and in the form that crosses processes.

Frozen, so that a strategy is part of a scheduling key. As in `control`: append fields with defaults, never reorder.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Operator = Literal["in", "!in", "exists", "!exists"]


class LabelTerm(msgspec.Struct, frozen=True, array_like=True):
    """A condition on one label of a node. A node without the label meets "!in" and "!exists"."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()  # of "in" and "!in"


Selector = tuple[LabelTerm, ...]  # all of them must hold


class Affinity(msgspec.Struct, frozen=True, array_like=True):
    """That node. Where it does not exist, or is too small: another one if `soft`, else nowhere."""

    node_id: str
    soft: bool = False
    spill_on_unavailable: bool = False  # soft: another one, too, when nothing of it is free
    fail_on_unavailable: bool = False  # not soft: nowhere, when nothing of it is free


class InGroup(msgspec.Struct, frozen=True, array_like=True):
    """In a placement group: in that bundle, or in any."""

    group_id: bytes
    index: int = -1  # -1: any
    captures: bool = False  # calls made in there go into the group, too, unless they say otherwise


class Strategy(msgspec.Struct, frozen=True, array_like=True):
    """All parts apply together. None stands for one without any."""

    spread: bool = False
    affinity: Affinity | None = None
    required: Selector = ()
    preferred: Selector = ()  # nodes that are free and match go before those that are free
    selectors: tuple[Selector, ...] = ()  # one of them must match; the earlier, the better
    group: InGroup | None = None
