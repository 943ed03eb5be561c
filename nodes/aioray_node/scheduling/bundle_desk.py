"""Bundles of placement groups on one node: what the GCS asks for, carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray_node.scheduling.shell import LeaseDesk


class _Held(NamedTuple):
    attempt: int
    lease_id: int


class BundleDesk:
    """Has bundles held by leases of their own. Whatever it is told twice, or too late, does nothing."""

    def __init__(self, leases: LeaseDesk) -> None:
        self._leases = leases
        self._held: dict[tuple[bytes, int], _Held] = {}  # not committed yet, or still waiting

    def prepare(
        self,
        group_id: bytes,
        attempt: int,
        index: int,
        demand: dict[str, int],
        *,
        patient: bool,
        answer: Callable[[bool], None],
    ) -> None:
        """Hold a bundle, or say that there is no room; one that is patient waits in the queue for it."""
        key = group_id, index
        before = self._held.get(key)
        if before is not None:
            if before.attempt >= attempt:
                return
            self.give_back(group_id, index)
        lease_id = self._leases.new_reservation(group_id, lambda: answer(True))
        self._held[key] = _Held(attempt, lease_id)
        if not self._leases.reserve(lease_id, demand) and not patient:
            del self._held[key]
            self._leases.release(lease_id)
            answer(False)

    def commit(self, group_id: bytes, index: int) -> None:
        """The group is there: leases may be in the bundle."""
        held = self._held.pop((group_id, index), None)
        if held is not None:
            self._leases.commit(held.lease_id, group_id, index)

    def give_back(self, group_id: bytes, index: int) -> None:
        """The bundle is not to be here."""
        held = self._held.pop((group_id, index), None)
        if held is not None:
            self._leases.release(held.lease_id)

    def drop(self, group_id: bytes) -> None:
        """The group is removed: all that is in it ends."""
        self._leases.drop_group(group_id)
