"""The node's object store: the directory's decisions carried out, and shared memory handed out and taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.exceptions import OwnerDiedError
from aioray.runtime.arena import Arena
from aioray.runtime.errors import error_value
from aioray.wire.control import Fetched, Reserved
from aioray.wire.values import PROCESS_ID_NBYTES, home_of
from aioray_node.objects import directory
from aioray_node.objects.extents import Extents

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.wire.values import Value


def _ignore(oid: bytes) -> None:
    """Nobody wants to know."""


def _ignore_nothing() -> None:
    """Nobody wants to know."""


class ObjectStore:
    """What a node knows of objects. `send(process, message)` reaches a process; `on_unheld(oid)` is for actors."""

    def __init__(
        self,
        capacity_nbytes: int,
        send: Callable[[bytes, msgspec.Struct], None],
        on_unheld: Callable[[bytes], None],
        *,
        node_id: str = "",
    ) -> None:
        # Where objects come from other nodes; set by those who do that.
        self.on_forgotten: Callable[[bytes], None] = _ignore  # an object that was at home here is no more
        self.on_copy_freed: Callable[[bytes], None] = _ignore
        self.on_freed: Callable[[], None] = _ignore_nothing  # there is more room
        self._arena = Arena(capacity_nbytes)
        self._directory = directory.State()
        self._extents: dict[bytes, Extents] = {}
        self._node_id = node_id
        self._on_unheld = on_unheld
        # Set by the router: a value for who wants it; whose holders may have changed; what lies elsewhere and may go.
        self.on_deliver: Callable[[bytes, bytes, Value], None] = lambda process, oid, value: send(
            process, Fetched(oid, value)
        )
        self.on_touched: Callable[[list[bytes]], None] = lambda oids: None
        self.on_far_unwanted: Callable[[bytes, Value], None] = lambda oid, value: None
        self._send = send

    @property
    def used_nbytes(self) -> int:
        return self._arena.used

    @property
    def capacity_nbytes(self) -> int:
        return self._arena.capacity

    def known(self) -> int:
        """How many objects the directory has."""
        return len(self._directory.entries)

    def feed(self, event: directory.Event) -> None:
        """Let the directory decide, and carry it out."""
        touched: list[bytes] = []
        match event:
            case directory.Shared(_, value) if value is not None and value.nbytes:
                self._take_over(value)
            case directory.Sealed(value):
                self._take_over(value)
            case directory.Held(_, oids):
                touched = oids
            case directory.Released(holder, oids):
                touched = oids or list(self._directory.held_by.get(holder, ()))
            case directory.ProcessGone():
                touched = list(self._directory.entries)
        idle = len(self._directory.idle)
        for command in directory.handle(self._directory, event):
            match command:
                case directory.Deliver(process, oid, value):
                    self.on_deliver(process, oid, value)
                case directory.OwnerLost(process, oid):
                    reason = "the process that was to make it, or owned it, is gone"
                    self._send(process, Fetched(oid, error_value(OwnerDiedError(oid.hex(), reason))))
                case directory.Unwanted(value):
                    self._let_go(value.oid, value)
                case directory.CopyFreed(value):
                    self.free(value.offset, value.nbytes)
                    self.on_copy_freed(value.oid)
                case directory.Forgotten(oid, value):
                    if value is None:
                        self._on_unheld(oid)
                    elif value.nbytes:
                        self._let_go(oid, value)
                        self.on_forgotten(oid)
                    touched.append(oid)
        if touched:
            self.on_touched(touched)
        if len(self._directory.idle) > idle:
            self.on_freed()  # as good as free

    def _let_go(self, oid: bytes, value: Value) -> None:
        if value.node_id in ("", self._node_id):
            self.free(value.offset, value.nbytes)
        else:
            self.on_far_unwanted(oid, value)

    def value_of(self, oid: bytes) -> Value | None:
        """What the directory has."""
        entry = self._directory.entries.get(oid)
        return None if entry is None else entry.value

    def is_held(self, oid: bytes, *, beside: bytes) -> bool:
        """Whether somebody else holds it; not who only keeps its bytes in their place for a transfer."""
        entry = self._directory.entries.get(oid)
        return entry is not None and any(each != beside and not directory.is_pin(each) for each in entry.holders)

    def holders_of(self, prefix: bytes) -> list[bytes]:
        """The processes of a node that hold something here."""
        return [each for each in self._directory.held_by if len(each) == PROCESS_ID_NBYTES and home_of(each) == prefix]

    def lying_here_of(self, prefix: bytes) -> list[bytes]:
        """What has its bytes here, and its home on that node."""
        return [
            oid
            for oid, entry in self._directory.entries.items()
            if home_of(oid) == prefix
            and entry.value is not None
            and entry.value.nbytes
            and entry.value.node_id in ("", self._node_id)
        ]

    def has(self, oid: bytes) -> bool:
        """Whether there is a value of it."""
        entry = self._directory.entries.get(oid)
        return entry is not None and entry.value is not None

    def place_of(self, oid: bytes) -> Value | None:
        """Where its bytes lie here, whether it is at home or a copy; None of what is inline, or not here."""
        copy = self._directory.copies.get(oid)
        if copy is not None:
            return copy.value
        value = self.value_of(oid)
        return value if value is not None and value.nbytes and value.node_id in ("", self._node_id) else None

    def copy_of(self, oid: bytes) -> Value | None:
        """The copy that is here of an object of another node."""
        copy = self._directory.copies.get(oid)
        return None if copy is None else copy.value

    def allocate(self, nbytes: int) -> int | None:
        """Room for an object that the node itself writes, and registers then; None when there is none.

        Copies that nobody holds make way.
        """
        offset = self._arena.alloc(nbytes)
        while offset is None and nbytes <= self._arena.capacity and self._directory.idle:
            self.feed(directory.Crowded())
            offset = self._arena.alloc(nbytes)
        return offset

    def free(self, offset: int, nbytes: int) -> None:
        """The opposite of `allocate`."""
        self._arena.free(offset, nbytes)
        self.on_freed()

    def _take_over(self, value: Value) -> None:
        """The bytes of a registered object are the node's to free, whoever wrote them."""
        if value.node_id not in ("", self._node_id):
            return  # it is another node's
        for extents in self._extents.values():
            if extents.carve(value.offset, value.nbytes):
                return

    def reserve(self, process: bytes, nbytes: int) -> Reserved:
        """Hand out an extent."""
        offset = self.allocate(nbytes)
        if offset is None:
            return Reserved(-1, 0, self._arena.used)
        nbytes = -(-nbytes // 64) * 64
        self._extents.setdefault(process, Extents()).add(offset, nbytes)
        return Reserved(offset, nbytes, self._arena.used)

    def is_extent_of(self, process: bytes, offset: int, nbytes: int) -> bool:
        """Whether all of that is a process's to fill."""
        return any(
            start <= offset and offset + nbytes <= start + length for start, length in self._extents.get(process, ())
        )

    def give_back(self, process: bytes, offset: int, nbytes: int) -> None:
        """Take back what a process does not need."""
        for start, length in self._extents.get(process, Extents()).carve(offset, nbytes):
            self.free(start, length)

    def process_gone(self, process: bytes) -> None:
        """Everything that only this process held or filled is free again."""
        self.feed(directory.ProcessGone(process))
        for start, length in self._extents.pop(process, Extents()):
            self.free(start, length)
