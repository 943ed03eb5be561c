"""What processes say about objects, brought to the directory that counts: this node's, or that of another home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aioray.exceptions import ObjectLostError, OwnerDiedError
from aioray.runtime.errors import error_value
from aioray.wire.control import Ack, CancelCall, Fetch, Fetched, Hold, Orphaned, Release, Seal, Share
from aioray.wire.values import PROCESS_ID_NBYTES, Value, home_of, node_prefix, owner_of, process_id_of_node
from aioray_node.objects import abroad, directory
from aioray_node.objects.segment import can_open

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.runtime.reactor import Reactor
    from aioray_node.gcs.view import ClusterView
    from aioray_node.neighbours import Neighbours
    from aioray_node.objects.store import ObjectStore
    from aioray_node.objects.transfer import TransferDesk

_DETACHED_HOLDER = b"detached"  # eight bytes, as a process id has: holds actors that outlive their makers
_NOW, _LATER = 0, 1  # priorities of pulls: somebody waits, or will
ProcessMessage = Hold | Release | Fetch | Seal | CancelCall
NodeMessage = ProcessMessage | Orphaned
ObjectMessage = Share | ProcessMessage  # only owners share, and they are at home where they are


class Speaker(Protocol):
    """Who is to be answered."""

    def send(self, message: msgspec.Struct) -> None: ...


class ObjectRouter:
    """Between processes of this node, its store, and other nodes. `send(process, message)` reaches those here."""

    def __init__(
        self,
        reactor: Reactor,
        view: ClusterView,
        store: ObjectStore,
        send: Callable[[bytes, msgspec.Struct], None],
        *,
        reads_neighbours: bool,
    ) -> None:
        self._reads_neighbours = reads_neighbours
        self._reactor = reactor
        self._view = view
        self._store = store
        self._send = send
        self._prefix = node_prefix(view.own_id)
        self._own_id = process_id_of_node(view.own_id)
        self._state = abroad.State(view.own_id, self._prefix)
        self._together = False  # whether there has ever been another node
        self.neighbours: Neighbours
        self.transfers: TransferDesk
        self._tickets: dict[bytes, int] = {}  # of what is being pulled
        self._looked_at: dict[str, str] = {}  # nodes: the memory of those that can be read from here, "" of others
        self._sources: dict[str, str] = {}  # where objects of which node were pulled from
        self._unconfirmed: dict[bytes, int] = {}  # homes: how often they were told of holders since they last said so
        self._orphans: dict[bytes, set[bytes]] = {}  # held here, home dead: where their bytes are, that is held, too
        store.on_deliver = self._deliver
        store.on_touched = self._touched
        store.on_far_unwanted = self._far_unwanted

    def joined(self) -> None:
        """There is another node: from here on ids of objects say where their home is."""
        self._together = True

    def _is_home(self, some_id: bytes) -> bool:
        return not self._together or home_of(some_id) == self._prefix

    # what processes say

    def handle(self, process: bytes, connection: Speaker, message: ObjectMessage) -> None:
        """A process of this node has said something."""
        match message:
            case Share(oid, value):
                self._store.feed(directory.Shared(oid, value))
            case Hold(holder, oids, req):
                if self._is_home(holder):
                    self._hold(connection, holder, oids, req)
                else:
                    self._pass_on(connection, home_of(holder), lambda number: Hold(holder, oids, number), req)
            case Release(holder, oids):
                if self._is_home(holder):
                    self._store.feed(directory.Released(holder, oids))
                else:
                    self.neighbours.send(home_of(holder), message)
            case Fetch(oid, value, where_will_do, is_urgent):
                known = self._store.copy_of(oid) or self._store.value_of(oid)
                if where_will_do and known is not None:
                    self._send(process, Fetched(oid, known))
                elif value is None and self._is_home(oid):
                    self._store.feed(directory.Wanted(process, oid))
                else:
                    self._want(process, oid, known or value, is_urgent=is_urgent)
            case Seal(value, req):
                self._store.feed(directory.Sealed(value))
                home = home_of(value.oid)
                if self._is_home(value.oid):
                    connection.send(Ack(req))
                else:
                    self._pass_on(connection, home, lambda number: Seal(value, number), req)
            case CancelCall(oid):
                if self._is_home(oid):
                    self._send(owner_of(oid), message)
                else:
                    self.neighbours.send(home_of(oid), message)

    def handle_node(self, process: bytes, line: Speaker, message: NodeMessage) -> None:
        """Another node has: about what is at home here, or what it lets go of that lies here."""
        match message:
            case Hold(holder, oids, req):
                self._hold(line, holder, oids, req)
            case Release(holder, oids):
                self._store.feed(directory.Released(holder, oids))
            case Fetch(oid):
                self._store.feed(directory.Wanted(process, oid))
            case Seal(value, req):
                self._store.feed(directory.Sealed(value))
                line.send(Ack(req))
            case CancelCall(oid):
                self._send(owner_of(oid), message)
            case Orphaned(oids, req):
                self._hold_orphans(home_of(process), line, oids, req)

    def heard(self, message: Any) -> None:
        """The answer of another node."""
        if isinstance(message, Fetched):
            self._look_at(message.value)
            self._feed(abroad.Told(message.oid, message.value))

    def _hold(self, connection: Speaker, holder: bytes, oids: list[bytes], req: int) -> None:
        """Acknowledged when all who count know, so that whoever keeps these meanwhile may let go.

        That is of what was said before without asking for it, too.
        """
        self._store.feed(directory.Held(holder, oids))
        is_of_node = holder == home_of(holder) + bytes(4)  # which says it to all who count: nobody asks on
        orphans = [] if is_of_node else self._orphans_among(oids)
        beside = self._beside() if orphans else []  # the bytes lie with one of these
        for oid in orphans:
            self._orphans.setdefault(oid, set()).update(beside)
        if not req:
            for prefix in beside:
                self.neighbours.send(prefix, Hold(self._own_id, orphans))
            return
        homes: dict[bytes, list[bytes]] = {} if is_of_node else {prefix: [] for prefix in self._unconfirmed}
        homes.update({prefix: list(orphans) for prefix in beside})
        for oid in oids:
            # Not what a process was to hold that has died meanwhile: nobody would let go of it in this node's name.
            is_held_there = oid in self._state.held and home_of(oid) not in self._state.dead
            if is_held_there and not self._is_home(oid):
                homes.setdefault(home_of(oid), []).append(oid)
        left = len(homes)

        def acknowledged() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                connection.send(Ack(req))

        if not homes:
            acknowledged()
        for home, theirs in homes.items():
            self._hold_at(home, theirs, acknowledged)

    def _hold_at(self, home: bytes, oids: list[bytes], then: Callable[[], None]) -> None:
        """Have `then` called when a node has heard this, and whatever it was told before."""
        told = self._unconfirmed.get(home, 0)

        def answered(_: Any) -> None:
            if self._unconfirmed.get(home) == told:
                del self._unconfirmed[home]
            then()

        self.neighbours.ask(home, lambda number: Hold(self._own_id, oids, number), answered)

    def _orphans_among(self, oids: list[bytes]) -> list[bytes]:
        """Those whose home is dead, and which lie elsewhere."""
        if not self._reads_neighbours:
            return []
        return [oid for oid in oids if home_of(oid) in self._state.dead and not self._store.has(oid)]

    def _pass_on(self, connection: Speaker, home: bytes, message: Callable[[int], msgspec.Struct], req: int) -> None:
        if req:
            self.neighbours.ask(home, message, lambda _: connection.send(Ack(req)))
        else:
            self.neighbours.send(home, message(0))

    # what the directory of actors says

    def hold_for(self, holder: bytes, oids: list[bytes]) -> None:
        """In the name of an actor, or of a process anywhere that was given a handle."""
        if self._is_home(holder):
            self._store.feed(directory.Held(holder, oids))
            return
        for oid in oids:
            if len(holder) > PROCESS_ID_NBYTES:
                self.neighbours.send(home_of(holder), Hold(holder, [oid]))
            elif self._is_home(oid):
                self._store.feed(directory.Held(holder, [oid]))
            elif home_of(oid) != home_of(holder):
                self.neighbours.send(home_of(oid), Hold(holder, [oid]))

    def release_for(self, holder: bytes, oids: list[bytes]) -> None:
        """Undo that; no oids: all."""
        if self._is_home(holder):
            self._store.feed(directory.Released(holder, oids))
        else:
            self.neighbours.send(home_of(holder), Release(holder, oids))

    def create_actor(self, actor_id: bytes, *, detached: bool) -> None:
        """Handles of an actor that a process of this node makes are counted here."""
        self._store.feed(directory.Shared(actor_id))
        if detached:
            self._store.feed(directory.Held(_DETACHED_HOLDER, [actor_id]))

    def release_detached(self, actor_id: bytes) -> None:
        """It is dead: it needs no holder of its own any more."""
        if self._is_home(actor_id):
            self._store.feed(directory.Released(_DETACHED_HOLDER, [actor_id]))
        else:
            self.neighbours.send(home_of(actor_id), Release(_DETACHED_HOLDER, [actor_id]))

    def can_bring(self, value: Value) -> bool:
        """Whether the bytes of a value that lies in shared memory are still there, as far as is known here."""
        if self._state.is_own(value):
            return self._store.has(value.oid)
        return value.node_id in self._view.nodes

    def borrow(self, value: Value, then: Callable[[Value | None, str, Callable[[], None]], None]) -> None:
        """Have `then(value, why_not, over)` called with a value that this node can read until it calls `over`."""
        if self._state.is_own(value):
            then(value, "", lambda: None)
            return

        ticket = 0

        def pulled(copy: Value | None, why_not: str) -> None:
            then(copy, why_not, lambda: self.transfers.let_go(ticket))

        try:
            ticket = self.transfers.pull(value, self._source_of(value), _NOW, pulled)
        except LookupError as exc:
            why_not = str(exc.args[0])
            self._reactor.call_soon(lambda: then(None, why_not, lambda: None))

    # what the store says

    def _deliver(self, process: bytes, oid: bytes, value: Value) -> None:
        """The directory has a value for who wants it. Other nodes are told where it lies, processes can read it."""
        if self._state.is_own(value) or (self._together and process == home_of(process) + bytes(4)):
            self._send(process, Fetched(oid, value))
        else:
            self._want(process, oid, self._store.copy_of(oid) or value)

    def _touched(self, oids: list[bytes]) -> None:
        """Who holds these has changed."""
        if not self._together:
            return
        for oid in oids:
            is_home = self._is_home(oid)
            is_held = self._store.is_held(oid, beside=b"" if is_home else owner_of(oid))
            if not is_held and oid in self._orphans:
                for prefix in self._orphans.pop(oid):
                    self.neighbours.send(prefix, Release(self._own_id, [oid]))
            if is_held and not is_home:
                self._feed(abroad.Held(oid))
            elif not is_held and oid in self._state.held:
                self._feed(abroad.Unheld(oid))

    def _far_unwanted(self, oid: bytes, value: Value) -> None:
        """Nobody holds it any more, or it was made anew, and its bytes are on another node, which may free them now."""
        self.neighbours.send(node_prefix(value.node_id), Release(owner_of(oid), [oid]))

    def process_gone(self, process: bytes) -> None:
        self._feed(abroad.ProcessGone(process))

    # other nodes

    def node_gone(self, node_id: str, prefix: bytes) -> None:
        """What it held, and its processes, is let go; what only it could tell, or send, will not come."""
        self._keep_orphans(prefix)
        for holder in self._store.holders_of(prefix):
            self._store.feed(directory.ProcessGone(holder))
        self._store.feed(directory.ProcessGone(prefix + bytes(4)))
        self._feed(abroad.NodeGone(prefix))
        self._unconfirmed.pop(prefix, None)
        self._looked_at.pop(node_id, None)
        source = self._sources.pop(node_id, "")
        if source:
            self.transfers.node_dead(source)

    def _keep_orphans(self, dead: bytes) -> None:
        """Who may look at what lies here is counted by its home: as that is dead, those who read here are asked."""
        oids = self._store.lying_here_of(dead) if self._reads_neighbours else []
        readers = self._beside() if oids else []
        if not readers:
            return
        keeper = directory.ORPHANS + dead + bytes(4)
        self._store.feed(directory.Held(keeper, oids))
        left = len(readers)

        def answered(_: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                self._store.feed(directory.Released(keeper, []))

        for prefix in readers:
            self.neighbours.ask(prefix, lambda number: Orphaned(oids, number), answered)

    def _beside(self) -> list[bytes]:
        """The other nodes of this machine."""
        return [
            node_prefix(node_id)
            for node_id, known in self._view.known.items()
            if known.alive and node_id != self._view.own_id and known.facts.boot_id == self._view.boot_id
        ]

    def _hold_orphans(self, prefix: bytes, line: Speaker, oids: list[bytes], req: int) -> None:
        """The word that it is done goes another way than Hold and Release do: so it waits until they know.

        From here on the home of these is dead to us as well: what is held later has to be held where it lies.
        """
        for home in {home_of(oid) for oid in oids}:
            self._feed(abroad.NodeGone(home))
        held = [oid for oid in oids if self._store.is_held(oid, beside=owner_of(oid))]
        for oid in held:
            self._orphans.setdefault(oid, set()).add(prefix)
        if held:
            self.neighbours.ask(prefix, lambda number: Hold(self._own_id, held, number), lambda _: line.send(Ack(req)))
        else:
            line.send(Ack(req))

    def _feed(self, event: abroad.Event) -> None:
        for command in abroad.handle(self._state, event):
            match command:
                case abroad.FetchAtHome(oid):
                    self.neighbours.send(home_of(oid), Fetch(oid))
                case abroad.HoldAtHome(oid):
                    self._unconfirmed[home_of(oid)] = self._unconfirmed.get(home_of(oid), 0) + 1
                    self.neighbours.send(home_of(oid), Hold(self._own_id, [oid]))
                case abroad.ReleaseAtHome(oid):
                    self.neighbours.send(home_of(oid), Release(self._own_id, [oid]))
                case abroad.Pull(value, is_urgent):
                    self._pull(value, is_urgent=is_urgent)
                case abroad.StopPull(oid):
                    self.transfers.let_go(self._tickets.pop(oid))
                case abroad.Give(process, oid, value):
                    if value.nbytes:
                        self._store.feed(directory.Held(process, [oid]))
                    self._send(process, Fetched(oid, value, self._looked_at.get(value.node_id, "")))
                case abroad.GiveUp(process, oid, reason, owner_died):
                    kind = OwnerDiedError if owner_died else ObjectLostError
                    self._send(process, Fetched(oid, error_value(kind(oid.hex(), reason))))

    def _want(self, process: bytes, oid: bytes, value: Value | None, *, is_urgent: bool = True) -> None:
        if value is not None:
            self._look_at(value)
        self._feed(abroad.Wanted(process, oid, value, is_urgent))

    def _look_at(self, value: Value) -> None:
        """Find out whether what lies in the memory of a node can be read from here, when that matters first."""
        node_id, known = value.node_id, self._view.known.get(value.node_id)
        if known is None or not known.alive or node_id == self._view.own_id or node_id in self._looked_at:
            return
        facts = known.facts
        may = self._reads_neighbours and facts.boot_id == self._view.boot_id and bool(facts.segment)
        self._looked_at[node_id] = facts.segment if may and can_open(facts.segment) else ""
        if self._looked_at[node_id]:
            self._feed(abroad.Beside(node_id))

    def _source_of(self, value: Value) -> str:
        """Raises LookupError that says why it cannot be had."""
        source = self._sources[value.node_id] = self._view.transfer_address_of(value.node_id)
        return source

    def _pull(self, value: Value, *, is_urgent: bool) -> None:
        oid, before = value.oid, self._tickets.get(value.oid)

        def then(copy: Value | None, why_not: str) -> None:
            ticket = self._tickets.pop(oid)
            if copy is None:
                self._feed(abroad.PullFailed(oid, why_not))
                return
            self._feed(abroad.Pulled(oid, copy))
            self.transfers.let_go(ticket)  # who was given it holds it now

        try:
            source = self._source_of(value)
        except LookupError as exc:
            self._tickets.pop(oid, None)
            self._feed(abroad.PullFailed(oid, str(exc.args[0])))
        else:
            self._tickets[oid] = self.transfers.pull(value, source, _NOW if is_urgent else _LATER, then)
        if before is not None:
            self.transfers.let_go(before)
