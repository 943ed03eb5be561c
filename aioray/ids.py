"""The ids of what a cluster has: bytes with a type."""

from __future__ import annotations

import os
from typing import ClassVar, Self


class _Id:
    """Some bytes, NBYTES of them. Equal, and equally hashed, to another of the same type with the same bytes."""

    NBYTES: ClassVar[int] = 16
    __slots__ = ("_binary",)

    def __init__(self, binary: bytes) -> None:
        if not isinstance(binary, bytes) or len(binary) != self.NBYTES:
            raise ValueError(f"{type(self).__name__} takes {self.NBYTES} bytes, not {binary!r:.100}")
        self._binary = binary

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """The id that `hex` gave as text. Raises ValueError for what is none."""
        return cls(bytes.fromhex(text))

    @classmethod
    def from_random(cls) -> Self:
        """An id that nothing has."""
        return cls(os.urandom(cls.NBYTES))

    @classmethod
    def nil(cls) -> Self:
        """The id of nothing: all zeros."""
        return cls(bytes(cls.NBYTES))

    @classmethod
    def size(cls) -> int:
        """How many bytes an id of this type has."""
        return cls.NBYTES

    def is_nil(self) -> bool:
        """Whether it is the id of nothing."""
        return not any(self._binary)

    def binary(self) -> bytes:
        """The bytes."""
        return self._binary

    def hex(self) -> str:
        """The bytes, two hexadecimal digits each."""
        return self._binary.hex()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._binary == self._binary

    def __hash__(self) -> int:
        return hash(self._binary)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    def __reduce__(self) -> tuple[type[Self], tuple[bytes]]:
        return type(self), (self._binary,)


class JobID(_Id):
    """A driver, with all that it began."""

    NBYTES = 8
    __slots__ = ()


class NodeID(_Id):
    """A node."""

    NBYTES = 8
    __slots__ = ()


class WorkerID(_Id):
    """A process: a worker, or a driver."""

    NBYTES = 8
    __slots__ = ()


class TaskID(_Id):
    """A call of a function or of a method."""

    NBYTES = 14
    __slots__ = ()


class ActorID(_Id):
    """An actor."""

    __slots__ = ()


class ObjectID(_Id):
    """An object: what `ref.binary()` gives."""

    __slots__ = ()


class PlacementGroupID(_Id):
    """A placement group."""

    __slots__ = ()
