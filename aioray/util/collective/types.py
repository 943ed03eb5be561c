"""The words of collective calls: reductions, backends, and their error."""

from __future__ import annotations

import enum

from aioray.exceptions import RayError


class ReduceOp(enum.Enum):
    """How the arrays of all members become one, element by element."""

    SUM = 0
    PRODUCT = 1
    MIN = 2
    MAX = 3


class Backend(enum.StrEnum):
    """What carries the arrays: the object store. Programs on CPUs ask Ray for "gloo", so that name is taken, too."""

    CPU = "cpu"
    GLOO = "gloo"


class CollectiveError(RayError):
    """A collective call failed, and with it the group: a member died, came too late, or made another call.

    Every later call of the group fails as well, until it is destroyed and made anew. `group_name` is its name.
    """

    def __init__(self, group_name: str, reason: str) -> None:
        super().__init__(reason)
        self.args = (group_name, reason)
        self.group_name = group_name

    def __str__(self) -> str:
        return f"group {self.group_name!r}: {self.reason}"


class GroupDissolved(CollectiveError):
    """Who created the group for its members has destroyed it."""
