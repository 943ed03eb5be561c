"""Which calls a peer knows by a number, because others like them went before: `Pattern` and `Repeat` on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec

from aioray.wire.calls import MAX_PATTERNS, Pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from aioray.runtime.connection import Connection
    from aioray.wire.calls import Call

P = ParamSpec("P")


class Patterns:
    """The patterns of one connection. A call gets one when the like of it is sent for the second time."""

    __slots__ = ("_connection", "_seen", "numbers")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._seen: Hashable = None  # the last that had none: most calls that are made again are made in a row
        self.numbers: dict[Hashable, int] = {}  # oldest first

    def agree(self, kind: Hashable, make: Callable[P, Call], *args: P.args, **kwargs: P.kwargs) -> int | None:
        """The number for calls of a `kind` that has none yet: the peer is told it, with a call that `make` makes.

        None: not worth it yet. Old numbers are used again.
        """
        if self._seen is not kind:
            self._seen = kind
            return None
        number = len(self.numbers)
        if number == MAX_PATTERNS:
            number = self.numbers.pop(next(iter(self.numbers)))
        self.numbers[kind] = number
        self._connection.send(Pattern(number, make(*args, **kwargs)))
        return number
