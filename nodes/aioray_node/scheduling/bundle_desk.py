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
    """Has bundles held by leases of their own. Whatever it is told twice, or too late, does nothing but be answered."""

    def __init__(self, leases: LeaseDesk) -> None:
        self._leases = leases
        self._held: dict[tuple[bytes, int], _Held] = {}  # not committed yet, or still waiting
        self._answers: dict[int, Callable[[bool], None]] = {}  # lease -> whom to tell when it holds a bundle

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
        if self._leases.has_bundle(group_id, index) or (before is not None and before.attempt > attempt):
            answer(False)  # to a question of the past
            return
        if before is not None and before.attempt == attempt:
            if before.lease_id in self._answers:
                self._answers[before.lease_id] = answer
            else:
                answer(True)
            return
        if before is not None:
            self.give_back(group_id, before.attempt, index)
        lease_id = self._leases.new_reservation(group_id, lambda held: self._settled(key, lease_id, held=held))
        self._held[key] = _Held(attempt, lease_id)
        self._answers[lease_id] = answer
        self._leases.reserve(lease_id, demand)
        if lease_id in self._answers and not patient:
            self.give_back(group_id, attempt, index)
            answer(False)

    def _settled(self, key: tuple[bytes, int], lease_id: int, *, held: bool) -> None:
        answer = self._answers.pop(lease_id)
        if not held:
            del self._held[key]
        answer(held)

    def commit(self, group_id: bytes, index: int) -> None:
        """The group is there: leases may be in the bundle."""
        held = self._held.pop((group_id, index), None)
        if held is not None:
            self._leases.commit(held.lease_id, group_id, index)

    def give_back(self, group_id: bytes, attempt: int, index: int) -> None:
        """The bundle is not to be here, as of that attempt."""
        held = self._held.get((group_id, index))
        if held is not None and held.attempt == attempt:
            del self._held[group_id, index]
            self._answers.pop(held.lease_id, None)
            self._leases.release(held.lease_id)

    def drop(self, group_id: bytes) -> None:
        """The group is removed: all that is in it ends."""
        self._leases.drop_group(group_id)
