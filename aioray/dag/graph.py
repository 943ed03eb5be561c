"""Nodes among arguments: finding them, putting values in their place, and the order in which they can run. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aioray.dag.nodes import DAGNode


def find(value: Any, kind: type[Any]) -> Iterator[DAGNode]:
    """The nodes in an argument: itself, or in lists, tuples and dicts, however deep."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, kind):
            yield part
        elif type(part) in (list, tuple):
            stack += reversed(part)
        elif type(part) is dict:
            stack += reversed(part.values())


def replaced(value: Any, kind: type[Any], by: Callable[[DAGNode], Any]) -> Any:
    """The argument with a value in the place of each node; the same object where there is none."""
    if isinstance(value, kind):
        return by(value)
    if type(value) is list:
        return [replaced(part, kind, by) for part in value]
    if type(value) is tuple:
        return tuple(replaced(part, kind, by) for part in value)
    if type(value) is dict:
        return {name: replaced(part, kind, by) for name, part in value.items()}
    return value


def in_order(root: DAGNode) -> list[DAGNode]:
    """All that `root` needs, each once, and after all that it needs itself; last `root`."""
    order: list[DAGNode] = []
    seen: set[int] = set()
    stack = [(root, False)]
    while stack:
        node, is_last = stack.pop()
        if is_last:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(each, False) for each in reversed(node._needs) if id(each) not in seen]
    return order
