"""Objects for the option `scheduling_strategy`, beside the texts "DEFAULT" and "SPREAD"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from aioray.exceptions import InvalidOptionError
from aioray.ids import NodeID
from aioray.labels import check_key, check_value
from aioray.placement import in_group
from aioray.placement import placement_group as check_group
from aioray.wire.strategies import Affinity, LabelTerm, Operator, Selector, Strategy

if TYPE_CHECKING:
    from aioray.util.placement_group import PlacementGroup

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]


class PlacementGroupSchedulingStrategy:
    """In a placement group: in one of its bundles, or in that one. While there is no room in it, it waits.

    placement_group: None is no group at all, even where the call would be captured. placement_group_bundle_index: -1
    for any bundle. placement_group_capture_child_tasks: calls that the task or actor makes go into the group, too
    (any bundle), unless they say otherwise by a strategy or a group of their own.
    """

    def __init__(
        self,
        placement_group: PlacementGroup | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        try:
            checked = check_group(placement_group)
        except ValueError:
            checked = "default"
        if checked == "default":
            raise InvalidOptionError("placement_group", placement_group, "None, a PlacementGroup")
        index = placement_group_bundle_index
        if isinstance(index, bool) or not isinstance(index, int):
            raise InvalidOptionError("placement_group_bundle_index", index, "a whole number >= -1 (-1: any bundle)")
        flag = placement_group_capture_child_tasks
        if flag is not None and not isinstance(flag, bool):
            raise InvalidOptionError("placement_group_capture_child_tasks", flag, "None, True, False")
        self._in_group = in_group(placement_group, index, flag)
        self.placement_group = placement_group
        self.placement_group_bundle_index = index
        self.placement_group_capture_child_tasks = flag

    def __aioray_strategy__(self) -> Strategy:
        return Strategy(group=self._in_group)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._in_group == self._in_group

    def __hash__(self) -> int:
        return hash(self._in_group)

    def __repr__(self) -> str:
        return f"PlacementGroupSchedulingStrategy({self.placement_group!r}, {self.placement_group_bundle_index})"


class NodeAffinitySchedulingStrategy:
    """That node. While all of it is in use, the task or actor waits for it.

    Where it does not exist, is not alive any more, or could never hold the task or actor: another one if `soft`, else
    TaskUnschedulableError or ActorUnschedulableError. `node_id`: hex, as in `nodes()`. `_spill_on_unavailable`: go
    elsewhere, too, rather than wait. `_fail_on_unavailable`: raise rather than wait.
    """

    def __init__(
        self, node_id: str | NodeID, soft: bool, _spill_on_unavailable: bool = False, _fail_on_unavailable: bool = False
    ) -> None:
        if isinstance(node_id, NodeID):
            node_id = node_id.hex()
        if not isinstance(node_id, str) or not _is_hex(node_id):
            raise InvalidOptionError("node_id", node_id, "the id of a node in hexadecimal digits, as in nodes()")
        flags = {
            "soft": soft,
            "_spill_on_unavailable": _spill_on_unavailable,
            "_fail_on_unavailable": _fail_on_unavailable,
        }
        for name, flag in flags.items():
            if not isinstance(flag, bool):
                raise InvalidOptionError(name, flag, "True, False")
        if _spill_on_unavailable and not soft:
            raise InvalidOptionError("_spill_on_unavailable", True, "False, where soft is not True")
        if _fail_on_unavailable and soft:
            raise InvalidOptionError("_fail_on_unavailable", True, "False, where soft is True")
        self.node_id = node_id
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable

    def __aioray_strategy__(self) -> Strategy:
        return Strategy(
            affinity=Affinity(self.node_id, self.soft, self._spill_on_unavailable, self._fail_on_unavailable)
        )

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((self.node_id, self.soft))

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"


def _is_hex(text: str) -> bool:
    return bool(text) and set(text) <= set("0123456789abcdef")


class _Condition:
    """What a label must be."""

    operator: ClassVar[Operator]

    def __init__(self) -> None:
        self.values: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Condition) and other.values == self.values

    def __hash__(self) -> int:
        return hash((type(self), self.values))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class _OneOf(_Condition):
    def __init__(self, *values: str) -> None:
        allowed = "one or more values of a label, each a str"
        if not values:
            raise InvalidOptionError(type(self).__name__, values, allowed)
        for value in values:
            try:
                check_value(value)
            except ValueError as exc:
                raise InvalidOptionError(type(self).__name__, value, allowed, str(exc)) from None
        self.values = values


class In(_OneOf):
    """The label has one of these values."""

    operator = "in"


class NotIn(_OneOf):
    """The label has none of these values; nodes without it match, too."""

    operator = "!in"


class Exists(_Condition):
    """The node has the label."""

    operator = "exists"


class DoesNotExist(_Condition):
    """The node has not the label."""

    operator = "!exists"


if TYPE_CHECKING:
    LabelConditions = Mapping[str, In | NotIn | Exists | DoesNotExist]


class NodeLabelSchedulingStrategy:
    """Nodes whose labels match all of `hard`; among those that are free, rather one that matches all of `soft`.

    Both map keys of labels to In(...), NotIn(...), Exists() or DoesNotExist().
    """

    def __init__(self, hard: LabelConditions, *, soft: LabelConditions | None = None) -> None:
        self.hard = _conditions("hard", hard)
        self.soft = _conditions("soft", soft or {})
        if not self.hard and not self.soft:
            raise InvalidOptionError("hard", hard, "at least one condition in hard or soft")

    def __aioray_strategy__(self) -> Strategy:
        return Strategy(required=_terms(self.hard), preferred=_terms(self.soft))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(self.__aioray_strategy__())

    def __repr__(self) -> str:
        return f"NodeLabelSchedulingStrategy(hard={self.hard!r}, soft={self.soft!r})"


def _conditions(name: str, given: Any) -> dict[str, _Condition]:
    allowed = "a dict of keys of labels to In(...), NotIn(...), Exists() or DoesNotExist()"
    if not isinstance(given, Mapping):
        raise InvalidOptionError(name, given, allowed)
    for key, condition in given.items():
        try:
            check_key(key)
        except ValueError as exc:
            raise InvalidOptionError(name, given, allowed, str(exc)) from None
        if not isinstance(condition, (In, NotIn, Exists, DoesNotExist)):
            raise InvalidOptionError(name, given, allowed, f"{key}: {condition!r} is none of these")
    return dict(given)


def _terms(conditions: Mapping[str, _Condition]) -> Selector:
    return tuple(
        LabelTerm(key, conditions[key].operator, tuple(sorted(set(conditions[key].values))))
        for key in sorted(conditions)
    )
