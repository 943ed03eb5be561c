"""Shared memory for drivers on machines without a node: they cannot map it, and have us read and write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import posix_ipc

from aioray.wire.control import Ack, Answer, Read, Write
from aioray_node.objects.segment import Segment

if TYPE_CHECKING:
    from aioray_node.gcs.view import ClusterView
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
        try:
            return Answer(asked.req, self._bytes_in(asked.node_id, asked.offset, asked.nbytes))
        except (OSError, ValueError, posix_ipc.Error) as exc:
            return Answer(asked.req, error=f"it lay in the memory of node {asked.node_id}: {exc}")

    def _bytes_in(self, node_id: str, offset: int, nbytes: int) -> bytes:
        """Raises OSError, ValueError and posix_ipc.Error when they are not to be had."""
        if node_id == self._view.own_id:
            return _bytes_of(self._segment, self._store.capacity_nbytes, offset, nbytes)
        known = self._view.known.get(node_id)
        if known is None or not known.facts.segment:
            raise ValueError("that cannot be read from here")
        segment = Segment(known.facts.segment, known.facts.store_nbytes)
        try:
            return _bytes_of(segment, known.facts.store_nbytes, offset, nbytes)
        finally:
            segment.close()

    def write(self, process: bytes, told: Write) -> Ack | Answer:
        """Into an extent that the process has reserved."""
        if not self._store.is_extent_of(process, told.offset, len(told.data)):
            return Answer(0, error=f"[{told.offset}, +{len(told.data)}) was not reserved by who writes there")
        with self._segment.view(told.offset, len(told.data)) as view:
            view[:] = told.data
        return Ack(0)


def _bytes_of(segment: Segment, capacity_nbytes: int, offset: int, nbytes: int) -> bytes:
    if offset + nbytes > capacity_nbytes:
        raise ValueError("it does not lie within that")
    with segment.view(offset, nbytes) as view:
        return bytes(view)
