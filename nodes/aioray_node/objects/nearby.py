"""Pulling an object from another node of the same machine: its shared memory is ours to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec
import posix_ipc

from aioray_node.objects.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.reactor import Reactor
    from aioray.wire.values import Value
    from aioray_node.gcs.view import ClusterView
    from aioray_node.objects.store import ObjectStore

_STEP_NBYTES = 4 << 20  # copied at once: about a millisecond in which the node does nothing else


class Puller(Protocol):
    """Brings the bytes of a value here."""

    def pull(self, value: Value, then: Callable[[Value | None, str], None]) -> None:
        """Copy what lies on `value.node_id`; `then(copy, "")` or `then(None, why_not)`, once, but later."""

    def close(self) -> None:
        """Let go of everything."""


class NearbyPuller:
    """Copies from segment to segment, a piece a turn. The bytes stay as long as their home counts a holder."""

    def __init__(
        self,
        reactor: Reactor,
        view: ClusterView,
        store: ObjectStore,
        segment: Segment,
        segment_of: Callable[[str], str],
    ) -> None:
        self._reactor = reactor
        self._view = view
        self._store = store
        self._segment = segment
        self._segment_of = segment_of
        self._sources: dict[str, Segment] = {}
        self._closed = False

    def pull(self, value: Value, then: Callable[[Value | None, str], None]) -> None:
        self._reactor.call_soon(lambda: self._begin(value, then))

    def _begin(self, value: Value, then: Callable[[Value | None, str], None]) -> None:
        known = self._view.known.get(value.node_id)
        if self._closed or known is None or not known.alive:
            then(None, f"node {value.node_id}, which had it, is gone")
            return
        if known.facts.boot_id != self._view.boot_id:
            then(None, f"node {value.node_id}, which has it, is on another machine")
            return
        source = self._sources.get(value.node_id)
        if source is None:
            name, nbytes = self._segment_of(value.node_id), known.facts.store_nbytes
            source = self._sources[value.node_id] = Segment(name, nbytes)
        offset = self._store.allocate(value.nbytes)
        if offset is None:
            then(None, f"the object store of this node has no room for its {value.nbytes} bytes")
            return
        self._copy(source, value, msgspec.structs.replace(value, offset=offset, node_id=self._view.own_id), 0, then)

    def _copy(
        self, source: Segment, value: Value, copy: Value, at: int, then: Callable[[Value | None, str], None]
    ) -> None:
        if self._closed:
            return
        nbytes = min(_STEP_NBYTES, value.nbytes - at)
        try:
            with (
                source.view(value.offset + at, nbytes) as old,
                self._segment.view(copy.offset + at, nbytes) as new,
            ):
                new[:] = old
        except (OSError, posix_ipc.Error) as exc:
            self._store.free(copy.offset, copy.nbytes)
            then(None, f"the memory of node {value.node_id}, which had it, cannot be read: {exc}")
            return
        at += nbytes
        if at < value.nbytes:
            self._reactor.call_soon(lambda: self._copy(source, value, copy, at, then))
        else:
            then(copy, "")

    def close(self) -> None:
        self._closed = True
        for source in self._sources.values():
            source.close()
        self._sources.clear()
