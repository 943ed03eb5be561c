"""Shared memory for drivers on machines without a node: they cannot map it, and have us read and write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.wire.control import Ack, Answer, Read, Write
from aioray_node.objects.segment import ForeignSegment

if TYPE_CHECKING:
    from aioray_node.gcs.view import ClusterView
    from aioray_node.objects.segment import Segment
    from aioray_node.objects.store import ObjectStore

_MAX_PIECE_NBYTES = 16 << 20


class FarDrivers:
    """What processes of this machine do by themselves. Called with the reactor's lock held."""

    def __init__(self, view: ClusterView, store: ObjectStore, segment: Segment) -> None:
        self._view = view
        self._store = store
        self._segment = segment

    def read(self, asked: Read) -> Answer:
        """The bytes, or why they are not to be had."""
        if not 0 < asked.nbytes <= _MAX_PIECE_NBYTES or asked.offset < 0:
            return Answer(asked.req, error=f"{asked.nbytes} bytes at {asked.offset} are no piece of a value")
        if asked.node_id == self._view.own_id:
            if asked.offset + asked.nbytes > self._store.capacity_nbytes:
                return Answer(asked.req, error="they are not in the object store")
            with self._segment.view(asked.offset, asked.nbytes) as view:
                return Answer(asked.req, bytes(view))
        known = self._view.known.get(asked.node_id)
        content = bytearray(asked.nbytes)
        try:
            if known is None or not known.facts.segment:
                raise OSError("its memory cannot be read from here")
            source = ForeignSegment(known.facts.segment)
            try:
                is_whole = source.copy_into(memoryview(content), asked.offset)
            finally:
                source.close()
            if not is_whole:
                raise OSError("they are not there")
        except OSError as exc:
            return Answer(asked.req, error=f"it lay in the memory of node {asked.node_id}: {exc}")
        return Answer(asked.req, bytes(content))

    def write(self, process: bytes, told: Write) -> Ack | Answer:
        """Into an extent that the process has reserved."""
        if not self._store.is_extent_of(process, told.offset, len(told.data)):
            return Answer(0, error=f"[{told.offset}, +{len(told.data)}) was not reserved by who writes there")
        with self._segment.view(told.offset, len(told.data)) as view:
            view[:] = told.data
        return Ack(0)
