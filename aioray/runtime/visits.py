"""A process's lines to nodes other than its own, on which it has leases: opened on demand, dropped when idle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray.runtime.link import NodeLink

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.runtime.dialing import Dialer
    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import Hello

_IDLE_S = 5.0  # without a lease, or a request for one: longer than the pauses of a program that goes on


class Visit:
    """The line to one node, and what was asked for there."""

    __slots__ = ("address", "leases", "link", "node_id")

    def __init__(self, node_id: str, address: str, link: NodeLink) -> None:
        self.node_id = node_id
        self.address = address
        self.link = link
        self.leases: set[int] = set()  # granted or asked for


class Visits:
    """Which lease is whose to give. Called with the reactor's lock held.

    is_home: whether a node is our own, to which `home` leads. on_message: with what a node says; on_lost: with a node
    that is gone, and the leases that went with it.
    """

    def __init__(
        self,
        reactor: Reactor,
        dialer: Dialer,
        home: NodeLink,
        is_home: Callable[[str], bool],
        hello: Callable[[], Hello],
        on_message: Callable[[Any], None],
        on_lost: Callable[[Visit, set[int]], None],
    ) -> None:
        self._reactor = reactor
        self._dialer = dialer
        self._home = home
        self._is_home = is_home
        self._hello = hello
        self._on_message = on_message
        self._on_lost = on_lost
        self._visits: dict[str, Visit] = {}  # by address
        self._by_lease: dict[int, Visit] = {}  # of those that are not our own node's
        self._look_due = False

    def send(self, lease_id: int, message: msgspec.Struct) -> None:
        """To the node that has given a lease, or is to."""
        visit = self._by_lease.get(lease_id)
        (self._home if visit is None else visit.link).send(message)

    def node_of(self, lease_id: int) -> str:
        """The other node that has a lease, or was asked for it; "" when it is our own."""
        visit = self._by_lease.get(lease_id)
        return "" if visit is None else visit.node_id

    def over(self, lease_id: int) -> None:
        """A lease has ended, or is not wanted any more."""
        visit = self._by_lease.pop(lease_id, None)
        if visit is not None:
            visit.leases.discard(lease_id)
            if not visit.leases:
                self._look_later()

    def move(self, lease_id: int, node_id: str, address: str) -> None:
        """From here on a request is with that node. Raises OSError when it cannot be reached."""
        self.over(lease_id)
        if self._is_home(node_id):  # sent back: a second line to there would be taken for this process come again
            return
        visit = self._visits.get(address)
        if visit is None:
            visit = self._open(node_id, address)
        visit.leases.add(lease_id)
        self._by_lease[lease_id] = visit

    def _open(self, node_id: str, address: str) -> Visit:
        visit: Visit

        def refused(reply: Any) -> None:
            if reply.error and self._visits.get(address) is visit:
                visit.link.close()
                self._gone(visit)

        link = NodeLink(self._reactor, self._dialer, address, self._on_message, lambda _: self._gone(visit))
        visit = Visit(node_id, address, link)
        link.welcomed.then = refused
        link.open(self._hello())
        self._visits[address] = visit
        return visit

    def _gone(self, visit: Visit) -> None:
        if self._visits.get(visit.address) is not visit:
            return
        del self._visits[visit.address]
        leases, visit.leases = visit.leases, set()
        for lease_id in leases:
            del self._by_lease[lease_id]
        self._on_lost(visit, leases)

    def _look_later(self) -> None:
        if not self._look_due:
            self._look_due = True
            self._reactor.call_later(_IDLE_S, self._drop_idle)

    def _drop_idle(self) -> None:
        self._look_due = False
        for visit in [visit for visit in self._visits.values() if not visit.leases]:
            del self._visits[visit.address]
            visit.link.close()

    def close(self) -> None:
        """Hang up everywhere."""
        visits, self._visits = list(self._visits.values()), {}
        self._by_lease.clear()
        for visit in visits:
            visit.link.close()
