"""Checkpoints of actors in the journal: written as they come, read when the object store has them no more."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import msgspec

from aioray_node.gcs.records import CheckpointRecord
from aioray_node.objects.directory import Held, Released, Shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.wire.values import Value
    from aioray_node.gcs.journal import Journal
    from aioray_node.gcs.records import Record
    from aioray_node.objects.segment import Segment
    from aioray_node.objects.store import ObjectStore

_JOURNAL = b"journal\0"  # as a process: it holds what it is writing, and owns what it has brought back


class CheckpointKeeper:
    """Only the newest of each actor is kept, beside one that is being written."""

    def __init__(self, journal: Journal, store: ObjectStore, segment: Segment) -> None:
        self._journal = journal
        self._store = store
        self._segment = segment
        self._kept: set[bytes] = set()  # actors that have one in the journal, or on the way there
        self._views: dict[bytes, memoryview] = {}  # of what is to be written, by who holds it meanwhile
        self._numbers = itertools.count(1)

    def keep(self, actor_id: bytes, restarts: int, oid: bytes, value: Value, then: Callable[[str], None]) -> None:
        """Write one down; `then("")` when that is done, else with why not."""
        self._kept.add(actor_id)
        if not value.nbytes:
            self._journal.put(CheckpointRecord(actor_id, restarts, value), then)
            return
        holder = _JOURNAL + next(self._numbers).to_bytes(8, "big")  # each for itself: the same may be written twice
        self._store.feed(Held(holder, [oid]))
        view = self._views[holder] = self._segment.view(value.offset, value.nbytes)

        def release() -> None:
            self._views.pop(holder).release()
            self._store.feed(Released(holder, []))

        self._journal.put(CheckpointRecord(actor_id, restarts, value), then, view, release)

    def forget(self, actor_id: bytes) -> None:
        """Nobody will go on from it."""
        if actor_id in self._kept:
            self._kept.discard(actor_id)
            self._journal.delete((CheckpointRecord.kind, actor_id))

    def recover(self, actor_id: bytes, then: Callable[[bytes, Value | None, str], None]) -> None:
        """Bring one back: `then(oid, value, "")`, with the actor's id as its holder; or no value, and why."""
        self._journal.read((CheckpointRecord.kind, actor_id), functools.partial(self._found, actor_id, then))

    def _found(
        self,
        actor_id: bytes,
        then: Callable[[bytes, Value | None, str], None],
        record: Record | None,
        blob: bytes,
        error: str,
    ) -> None:
        if not isinstance(record, CheckpointRecord):
            then(b"", None, error or "the journal has none")
            return
        oid = _JOURNAL + next(self._numbers).to_bytes(8, "big")
        value = record.value
        if value.nbytes:
            if len(blob) != value.nbytes:
                then(b"", None, f"the journal has {len(blob)} of its {value.nbytes} bytes")
                return
            offset = self._store.allocate(value.nbytes)
            if offset is None:
                then(b"", None, "the object store is full")
                return
            with self._segment.view(offset, value.nbytes) as view:
                view[:] = blob
            value = msgspec.structs.replace(value, offset=offset, oid=oid)
        self._store.feed(Held(actor_id, [oid]))
        self._store.feed(Shared(oid, value))
        self._store.feed(Released(_JOURNAL, [oid]))
        if value.refs:
            self._store.feed(Held(oid, value.refs))
        then(oid, value, "")

    def close(self) -> None:
        """End the journal; what it did not get done is let go."""
        self._journal.close()
        for view in self._views.values():
            view.release()
        self._views.clear()
        self._segment.close()
