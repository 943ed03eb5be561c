"""What is given to a graph when it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from aioray.dag.nodes import DAGNode, Given

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class InputNode(DAGNode):
    """The argument of `execute`: `with InputNode() as x: graph = f.bind(x)`.

    Where `execute` gets several: `x[0]` is the first, `x.key` the one of that name. Where it gets one, `x[0]` and
    `x.key` are that one's item and attribute.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """The graph may be used afterwards, too: the block only shows where it is written down."""

    @property
    def _is_input(self) -> bool:
        return True

    def _value(self, given: Given, value_of: Callable[[DAGNode], Any]) -> Any:
        if len(given.args) == 1 and not given.kwargs:
            return given.args[0]
        raise TypeError(
            f"the input is used as one value, but execute() was given {len(given.args)} positional and"
            f" {len(given.kwargs)} named arguments: use inp[0], inp.name"
        )

    def __getitem__(self, key: Any) -> InputAttributeNode:
        return InputAttributeNode(self, key, is_item=True)

    def __getattr__(self, name: str) -> InputAttributeNode:
        if name.startswith("_"):
            raise AttributeError(name)  # ours, or asked for by copy, pickle and the like
        return InputAttributeNode(self, name, is_item=False)

    def __repr__(self) -> str:
        return "<input>"


class InputAttributeNode(DAGNode):
    """One of several arguments of `execute`, or a part of the only one."""

    def __init__(self, input_node: InputNode, key: Any, *, is_item: bool) -> None:
        super().__init__((input_node,))
        self._key = key
        self._is_item = is_item

    @property
    def _takes(self) -> Sequence[DAGNode]:
        return ()

    def _value(self, given: Given, value_of: Callable[[DAGNode], Any]) -> Any:
        if len(given.args) == 1 and not given.kwargs:
            return given.args[0][self._key] if self._is_item else getattr(given.args[0], self._key)
        try:
            return given.args[self._key] if isinstance(self._key, int) else given.kwargs[self._key]
        except LookupError:
            had = [*map(str, range(len(given.args))), *given.kwargs]
            raise TypeError(f"execute() was not given {self._key!r}; it was given: {', '.join(had)}") from None

    def __repr__(self) -> str:
        return f"<input[{self._key!r}]>" if self._is_item else f"<input.{self._key}>"
