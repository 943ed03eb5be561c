"""How the desks of a node that deal with packages ask the head, wherever that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.wire.control import Answer


class HeadLine(Protocol):
    """Called with the reactor's lock held; `then` is called in a later turn, once, with an error if the head is gone.

    What is asked comes there once, and in order, however often connections break.
    """

    def __call__(self, what: str, then: Callable[[Answer], None], /, **args: Any) -> None: ...
