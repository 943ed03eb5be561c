"""What somebody may have meant who wrote a name that there is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def hint(name: str, names: Iterable[str]) -> str:
    """The end of an error's sentence: `; did you mean NEAREST?`, or nothing if none of `names` is near."""
    import difflib  # late: programs without mistakes need none of it

    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""
