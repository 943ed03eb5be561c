"""What arguments a callable takes: checked where it is called, and written as text for handles that go elsewhere."""

from __future__ import annotations

import inspect
from inspect import Parameter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_MARKS = {
    Parameter.POSITIONAL_ONLY: "/",
    Parameter.POSITIONAL_OR_KEYWORD: "",
    Parameter.VAR_POSITIONAL: "*",
    Parameter.KEYWORD_ONLY: "!",
    Parameter.VAR_KEYWORD: "**",
}
_KINDS = {mark: kind for kind, mark in _MARKS.items()}
_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_ANYTHING = "..."


class Signature:
    """Checks arguments: quickly when they are right, in words, with the name of what was called, when they are not."""

    __slots__ = (
        "_any_name",
        "_least",
        "_most",
        "_name",
        "_names",
        "_parameters",
        "_positional",
        "_required",
        "_simple",
    )

    def __init__(self, name: str, parameters: Sequence[Parameter] | None) -> None:
        """`parameters`: those that the caller gives; None when they are not known, and anything goes."""
        self._name = name
        self._parameters = parameters
        given = parameters or ()
        kinds = {parameter.kind for parameter in given}
        positional = [parameter for parameter in given if parameter.kind in _BY_POSITION]
        # By position; "" where a name is no way to give it.
        self._positional = tuple("" if p.kind is Parameter.POSITIONAL_ONLY else p.name for p in positional)
        self._least = sum(parameter.default is Parameter.empty for parameter in positional)
        self._most = 1 << 30 if Parameter.VAR_POSITIONAL in kinds else len(positional)
        by_name = [parameter for parameter in given if parameter.kind is Parameter.KEYWORD_ONLY]
        self._required = frozenset(p.name for p in by_name if p.default is Parameter.empty)
        self._names = frozenset(name for name in self._positional if name) | {parameter.name for parameter in by_name}
        self._any_name = Parameter.VAR_KEYWORD in kinds
        self._simple = not self._required  # positions alone may be enough

    @classmethod
    def of(cls, fn: Any, name: str, *, bound: bool = False) -> Signature:
        """That of a callable; `bound`: its first parameter is not the caller's to give.

        A decorator may give arguments of its own to what it wraps: what counts is what is called, not what that wraps.
        """
        try:
            parameters = list(inspect.signature(fn, follow_wrapped=False).parameters.values())
        except (TypeError, ValueError):  # a builtin without one
            return cls(name, None)
        if bound:
            if not parameters:
                return cls(name, None)  # whatever is wrong with it, calling it will tell
            if parameters[0].kind in _BY_POSITION:
                del parameters[0]
        return cls(name, parameters)

    @classmethod
    def from_text(cls, name: str, text: str) -> Signature:
        """The reverse of `text`."""
        if text == _ANYTHING:
            return cls(name, None)
        parameters = []
        for word in text.split():
            bare = word.lstrip("/*!")
            default = None if bare.endswith("=") else Parameter.empty
            kind = _KINDS[word[: len(word) - len(bare)]]
            parameters.append(Parameter(bare.removesuffix("="), kind, default=default))
        return cls(name, parameters)

    def text(self) -> str:
        """Names, kinds, and whether there is a default: "a /b= *c !d **e" without the order that Python asks for."""
        if self._parameters is None:
            return _ANYTHING
        return " ".join(
            f"{_MARKS[each.kind]}{each.name}{'' if each.default is Parameter.empty else '='}"
            for each in self._parameters
        )

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises TypeError, as calling it would."""
        if kwargs:
            if self._fits(len(args), kwargs):
                return
        elif self._simple and self._least <= len(args) <= self._most:
            return
        if self._parameters is None:
            return
        try:
            inspect.Signature(self._parameters).bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{self._name}(): {exc}") from None

    def _fits(self, count: int, kwargs: dict[str, Any]) -> bool:
        names = kwargs.keys()
        if count > self._most or not (self._any_name or names <= self._names):
            return False
        positional = self._positional
        if not all(name in names for name in positional[count : self._least]):
            return False
        return names.isdisjoint(positional[:count]) and self._required <= names
