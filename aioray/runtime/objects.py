"""Which objects this process knows, who else may, and when their memory is free again.

An object is *private* until a ref to it leaves the process; then it is *shared*: the node counts who holds it, and this
process is one of the holders as long as a ref, or a view of the bytes, is alive here. The rules that make counts exact:

- what is sent as an argument is kept alive by the caller until the call is answered; a worker that still has a ref or a
  view when the call ends tells the node, and waits until the node knows, before it answers;
- a result that contains refs is registered with the node as their holder before it is sent;
- one connection carries all that a process tells its node, so its own messages never overtake each other.
"""

from __future__ import annotations

import collections
import time
import weakref
from typing import TYPE_CHECKING, Any

from aioray.exceptions import ObjectLostError, ObjectStoreFullError, RaySystemError
from aioray.record import Record
from aioray.refs import NOBODYS, PENDING, RAISED, READY, ObjectRef
from aioray.runtime import other_names
from aioray.runtime.bringing import Bringing
from aioray.runtime.errors import error_value
from aioray.runtime.serialization import Counted, Serialized, deserialize, load_plain, serialize
from aioray.wire.control import Fetch, Fetched, Hold, Release, Share
from aioray.wire.values import Value, owner_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aioray.runtime.link import Reply
    from aioray.runtime.runtime import Runtime


_SHORT_NBYTES = 1024  # of what is looked through before it is unpickled
_TRIM_AFTER_S = 0.5
_FULL_STORE_PERIOD_S = 0.02  # how often who waits for room asks for it


class Tracked(Record, eq=False):
    """What is known of one object that is more than a small private value."""

    refs: int = 0  # ObjectRefs here: one as a rule, two while one is dying as the next arrives
    views: int = 0
    held_at_node: bool = False  # the node counts this process as a holder
    place: Value | None = None  # private memory to free when nobody looks any more
    contains: bool = False  # the node counts the object itself as a holder of refs in its value
    behind: ObjectRef[Any] | None = None  # the object of which it is another name, alive as long as this is known
    unconfirmed: bool = False  # of a copy: our node counts us, and whether the object's home knows is not certain


class ObjectTable:
    """The objects of one runtime. Called with the reactor's lock held, but for `ref_gone`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tracked: dict[bytes, Tracked] = {}
        self._refs: weakref.WeakValueDictionary[bytes, ObjectRef[Any]] = weakref.WeakValueDictionary()
        self._nobodys: weakref.WeakValueDictionary[bytes, ObjectRef[Any]] = weakref.WeakValueDictionary()
        self._gone: collections.deque[tuple[bytes, str]] = collections.deque()
        self._going = False
        self._pinned: list[Counted] = []
        self._borrowed: list[bytes] = []  # not yet told to the node; see `settle_borrows`
        self._trim_due = False
        self.bringing = Bringing(runtime)
        self._holds_told = 0  # how often the node was told what this process holds,
        self._holds_known = 0  # and up to which of these it has said that it knows

    # refs

    def borrow(self, oid: bytes) -> ObjectRef[Any]:
        """The one ref of this process to an object that somebody else may own."""
        with self._runtime.reactor.lock:
            ref = self._refs.get(oid)
            if ref is None or not ref._tracked:  # the second: its finalizer is running in another thread
                seq = int.from_bytes(oid[8:], "big")
                ref = ObjectRef(self._runtime, seq >> 16, seq & 0xFFFF, oid)
                tracked = self.track(ref)
                if not tracked.held_at_node:
                    self._borrowed.append(oid)
            return ref

    def nobodys(self, oid: bytes) -> ObjectRef[Any]:
        """The one ref of this process to an object that no call makes. Nobody counts those."""
        with self._runtime.reactor.lock:
            ref = self._nobodys.get(oid)
            if ref is None:
                ref = self._nobodys[oid] = ObjectRef(self._runtime, NOBODYS, 0, oid)
                ref._complete(RAISED, ObjectLostError(oid.hex(), "nothing makes it"))
            return ref

    def track(self, ref: ObjectRef[Any]) -> Tracked:
        """What is known of a ref's object, from now on."""
        oid = ref.binary()
        tracked = self._tracked.setdefault(oid, Tracked())
        if not ref._tracked:
            ref._tracked = True
            tracked.refs += 1
            self._refs[oid] = ref
        return tracked

    def share(self, ref: ObjectRef[Any]) -> None:
        """A ref is about to leave this process: from now on the node answers for the object."""
        with self._runtime.reactor.lock:
            if owner_of(ref.binary()) != self._runtime.process_id:
                return
            tracked = self._tracked.get(ref.binary())
            if tracked is not None and tracked.held_at_node:
                return
            tracked = self.track(ref)
            tracked.held_at_node = True
            tracked.place = None  # the node frees it now
            self._runtime.link.send(Share(ref.binary(), self._shareable(ref)))

    def _shareable(self, ref: ObjectRef[Any]) -> Value | None:
        tracked = self._tracked[ref.binary()]
        if tracked.behind is not None:
            return other_names.pointer(self, ref, tracked, tracked.behind)
        if ref._status == PENDING:
            place: Value | None = ref._value  # None, as a rule
            return place
        return self._runtime.wire_value(ref)

    def known_ref(self, oid: bytes) -> ObjectRef[Any] | None:
        """The ref of this process to an object that others know of, too."""
        return self._refs.get(oid)

    def tracked(self, oid: bytes) -> Tracked | None:
        """What is known here of an object; None of a small private one."""
        return self._tracked.get(oid)

    def completed(self, ref: ObjectRef[Any]) -> None:
        """A tracked ref got its value; the node is told if it waits for it."""
        tracked = self._tracked.get(ref._oid)
        if tracked is not None and tracked.held_at_node and owner_of(ref._oid) == self._runtime.process_id:
            self._runtime.link.send(Share(ref._oid, self._shareable(ref)))

    def pin_for_ever(self, ref: Counted) -> None:
        """Keep a ref, or a handle, until shutdown."""
        self._pinned.append(ref)

    def want(self, ref: ObjectRef[Any], *, here: bool = True) -> None:
        """Somebody waits for `ref`: have the node send it, if nobody else will; unless `here`, or say where it is."""
        if ref._status != PENDING or (ref._task is not None and ref._value is None):
            return  # one of our own that came back inside a value, after its first ref had gone, must be asked for, too
        with self._runtime.reactor.lock:
            if ref._value is not None:
                behind = self._tracked[ref.binary()].behind if ref._tracked else None
                if here and behind is not None:
                    other_names.bring(ref, behind)
                elif here:
                    self.bringing.ask(ref._value)
                return
            if self._runtime.closed:
                ref._complete(RAISED, RaySystemError(self._runtime.closed_because))
                return
            ref._task = self  # asked once is enough
            self._runtime.link.send(Fetch(ref.binary(), None, not here))

    def fetched(self, message: Fetched) -> None:
        """The node's answer to `want`."""
        if self.bringing.is_downloading(message):
            return
        oid, value = message.oid, message.value
        if message.segment:
            self._runtime.memory.neighbours.learn(value.node_id, message.segment)
        ref = self._refs.get(oid)
        bringing = self.bringing.take(oid)
        if value.nbytes and self.bringing.is_here(value):
            if ref is None and bringing is None and oid not in self._tracked:  # nobody waits any more
                self._runtime.memory.forget(oid)
                self._runtime.link.send(Release(self._runtime.process_id, [oid]))
                return
            tracked = self._tracked.setdefault(oid, Tracked())
            if bringing is not None or not tracked.held_at_node:
                tracked.held_at_node = tracked.unconfirmed = True  # our node has seen to that, if it had to bring it
                self._borrowed.append(oid)
        if bringing is not None:
            self.keep(value)  # until all who asked have looked
        if ref is not None and value.is_error:
            ref._complete(RAISED, value)
        elif ref is not None and value.is_pointer:
            other_names.follow(self, ref, value.oid)
        elif ref is not None:
            self.arrived(ref, value)
        for then in bringing or ():
            then(value)
        if bringing is not None:
            self.let_go(value)

    def arrived(self, ref: ObjectRef[Any], value: Value, maker: str | None = None) -> None:
        """A call has made the value of a ref: done, if it is where this process can read it."""
        if self.bringing.is_here(value):
            ref._complete(READY, value, maker)
        elif ref._status == PENDING:
            ref._is_placed(value, maker)

    def keep(self, value: Value) -> None:
        """What was brought stays, until `let_go`. The lock is held."""
        if value.nbytes:
            self._tracked.setdefault(value.oid, Tracked()).views += 1

    def let_go(self, value: Value) -> None:
        """Undo `keep`."""
        if value.nbytes:
            self._view_gone(value.oid)

    def close(self) -> None:
        """No answer to `want` will come any more."""
        lost = RaySystemError(self._runtime.closed_because)
        for ref in list(self._refs.values()):
            ref._complete(RAISED, lost)
        self.bringing.close(error_value(lost))

    # values

    def put(self, ref: ObjectRef[Any], serialized: Serialized) -> None:
        """Make `serialized` the value of a new ref of ours. Raises ObjectStoreFullError."""
        value = self.store(serialized, ref)
        with self._runtime.reactor.lock:
            self.contain(ref, serialized.refs)
            if value.nbytes:
                self.track(ref).place = value
            self.arrived(ref, value)
            if ref._status == PENDING:  # it was sent to our node, on another machine: that has to know it
                self.share(ref)

    def store(self, serialized: Serialized, ref: ObjectRef[Any] | None = None, oid: bytes = b"") -> Value:
        """A Value of what was pickled: inline when small, else in shared memory."""
        refs = [item.binary() for item in serialized.refs]
        if serialized.nbytes <= self._runtime.config.inline_max_nbytes:
            return Value(serialized.data, [bytes(buffer) for buffer in serialized.buffers], refs=refs)
        value = self._write(serialized)
        value.oid = ref.binary() if ref is not None else oid
        value.node_id = self._runtime.node_id
        value.refs = refs
        return value

    def _write(self, serialized: Serialized) -> Value:
        """Into shared memory. Waits for room, but not in an event loop. Raises ObjectStoreFullError."""
        runtime = self._runtime
        memory = runtime.memory
        if not runtime.closed:
            self._plan_trim()
        deadline = None
        while True:
            try:
                return memory.write(serialized)
            except ObjectStoreFullError as exc:
                now = time.monotonic()
                if exc.nbytes_asked > exc.nbytes_capacity or runtime.closed:
                    raise
                if deadline is None:
                    deadline = now + runtime.config.store_full_wait_s
                elif now > deadline or runtime.reactor.in_loop():
                    raise
            self._make_room(deadline)

    def unstore(self, value: Value) -> None:
        """Undo `store`: nobody has heard of it yet."""
        if value.nbytes:
            self._free(value)

    def _make_room(self, deadline: float) -> None:
        """What was let go here must reach the node first; then others may let go of something."""
        runtime = self._runtime
        with runtime.reactor.lock:
            self.sweep()
            runtime.memory.trim(0)
            req, told = runtime.link.expect()
            runtime.link.send(Hold(runtime.process_id, [], req))
        if runtime.reactor.in_loop():
            runtime.reactor.flush()
            return
        runtime.reactor.run_until(lambda: told.done, max(0.1, deadline - time.monotonic()))
        runtime.reactor.run_until(lambda: bool(self._gone), _FULL_STORE_PERIOD_S)

    def adopt(self, ref: ObjectRef[Any], value: Value) -> None:
        """A result came for a ref of ours: remember what the node counts for us because of it."""
        if value.nbytes:
            self.track(ref).held_at_node = True  # the worker sealed it in our name
        if value.refs:
            self.track(ref).contains = True

    def contain(self, ref: ObjectRef[Any], refs: list[Any]) -> None:
        """A ref of ours is about to have a value with `refs` in it."""
        if refs:
            self.track(ref).contains = True
            self.hold_for(ref.binary(), refs)

    def void_results(self, refs: tuple[ObjectRef[Any], ...]) -> None:
        """A call of ours that was tried again is over: let go of what the node was told in vain in our name."""
        self.void([ref.binary() for ref in refs])

    def void(self, oids: Iterable[bytes]) -> None:
        """No value is to come of these objects of ours, but for what is here: let go of what may have been made."""
        void = []
        for oid in oids:
            tracked = self._tracked.get(oid)
            if tracked is None or not tracked.contains:
                self._runtime.link.send(Release(oid, []))
            if tracked is None or not tracked.held_at_node:
                void.append(oid)
        if void:
            self._runtime.link.send(Release(self._runtime.process_id, void))

    def hold_for(self, holder: bytes, refs: list[Any], req: int = 0) -> None:
        """Tell the node that the object `holder` contains `refs`."""
        self._runtime.link.send(Hold(holder, [ref.binary() for ref in refs], req))

    def load_arguments(self, data: bytes) -> Any:
        """Unpickle the arguments of a call; refs inside are borrowed from the caller until it ends."""
        if len(data) < _SHORT_NBYTES and b"aioray" not in data:  # no ref or handle of ours is inside, which is faster
            return load_plain(data)
        return deserialize(data, (), self._runtime)

    def load(self, value: Value, *, argument: bool = False) -> Any:
        """Unpickle a value. Arrays are read-only views of shared memory, kept from reuse while they live.

        What comes as an `argument` is kept alive by the caller until the call ends: only then is the node told.
        """
        runtime = self._runtime if value.refs else None
        if not value.nbytes:
            result = deserialize(value.data, value.buffers, runtime)
        elif not self.bringing.is_here(value):  # at that place in our own memory lies something else
            raise RaySystemError(f"object {value.oid.hex()} lies on node {value.node_id}, and was not brought here")
        else:
            oid = value.oid
            with self._runtime.reactor.lock:
                tracked = self._tracked.setdefault(oid, Tracked())
                tracked.views += 1
                if tracked.views == 1 and not tracked.held_at_node and not tracked.refs:
                    self._borrowed.append(oid)
            try:
                stream, buffers = self._runtime.memory.open(value, lambda: self._view_gone(oid))
            except OSError as exc:
                self._view_gone(oid)
                raise ObjectLostError(oid.hex(), f"it lay in the memory of node {value.node_id}: {exc}") from exc
            result = deserialize(stream, buffers, runtime)
        if self._borrowed and not argument:
            with self._runtime.reactor.lock:
                self.hold_alive()
        return result

    # borrows

    def settle_borrows(self) -> list[bytes]:
        """At the end of a call: what arrived with it, is still alive here, and is not known to the node."""
        self.sweep()
        borrowed, self._borrowed = self._borrowed, []
        alive = []
        for oid in borrowed:
            tracked = self._tracked.get(oid)
            if tracked is None or (tracked.held_at_node and not tracked.unconfirmed):
                continue
            if tracked.refs or tracked.views:
                tracked.unconfirmed = False
                alive.append(oid)
        return alive

    def hold_alive(self) -> None:
        """Tell the node about `settle_borrows`, without waiting for its word."""
        alive = self.settle_borrows()
        if alive:
            self._tell_held(alive, 0)

    def settle(self, then: Callable[[], None]) -> bool:
        """At the end of a call: have `then` called when the node knows all that this process holds.

        False, and `then` is not called, when it knows that already. What other calls were told to hold counts, too:
        that this call told nothing does not mean that its caller may let go.
        """
        alive = self.settle_borrows()
        if not alive and self._holds_known == self._holds_told:
            return False
        req, ack = self._runtime.link.expect()
        self._tell_held(alive, req)
        told = self._holds_told

        def acknowledged(_: Reply) -> None:
            self._holds_known = max(self._holds_known, told)
            then()

        ack.then = acknowledged
        return True

    def _tell_held(self, oids: list[bytes], req: int) -> None:
        for oid in oids:
            if oid in self._tracked:
                self._tracked[oid].held_at_node = True
        self._holds_told += 1
        self._runtime.link.send(Hold(self._runtime.process_id, oids, req))

    def holds_actor(self, actor_id: bytes) -> None:
        """A handle came to this process."""
        self._tell_held([actor_id], 0)

    @property
    def must_settle(self) -> bool:
        """Whether the end of a call may have to wait for the node."""
        return bool(self._borrowed) or self._holds_known != self._holds_told

    # the end of objects

    def ref_gone(self, oid: bytes) -> None:
        """From ObjectRef.__del__, in any thread, at any time: only note it."""
        self._note_gone(oid, "ref")

    def _view_gone(self, oid: bytes) -> None:
        self._note_gone(oid, "view")

    def _note_gone(self, oid: bytes, what: str) -> None:
        self._gone.append((oid, what))
        if not self._going and not self._runtime.reactor.closed:
            self._going = True
            self._runtime.reactor.call_soon(self.sweep)

    def sweep(self) -> None:
        """Free what nobody here looks at any more."""
        self._going = False
        released = []
        while self._gone:
            oid, what = self._gone.popleft()
            tracked = self._tracked.get(oid)
            if tracked is None:
                continue
            if what == "view":
                tracked.views -= 1
                if not tracked.views and self._runtime.memory.neighbours.is_mapped:
                    self._plan_trim()
            else:
                tracked.refs -= 1
            if tracked.refs or tracked.views:
                continue
            del self._tracked[oid]
            tracked.behind = None  # which may be the next to go
            self._runtime.memory.forget(oid)
            if tracked.held_at_node:
                released.append(oid)
            elif tracked.place is not None:
                self._free(tracked.place)
            if tracked.contains and not tracked.held_at_node:
                self._runtime.link.send(Release(oid, []))
        if released:
            self._runtime.link.send(Release(self._runtime.process_id, released))

    def _free(self, place: Value) -> None:
        memory = self._runtime.memory
        memory.free(place.offset, place.nbytes)
        memory.trim()
        self._plan_trim()

    def _plan_trim(self) -> None:
        """Give what is free here back to the node in a while, when no put has filled it; and what is not looked at."""
        if not self._trim_due:
            self._trim_due = True
            self._runtime.reactor.call_later(_TRIM_AFTER_S, self._trim_idle)

    def _trim_idle(self) -> None:
        self._trim_due = False
        self._runtime.memory.trim(0)
        self._runtime.memory.neighbours.unmap_idle()

    def sweep_now(self) -> None:
        """Before memory is asked for: what was let go may be what is needed."""
        if self._gone:
            with self._runtime.reactor.lock:
                self.sweep()

    def owes(self) -> bool:
        """Whether other processes may wait for a value that is to come from here."""
        own = self._runtime.process_id
        return any(
            ref._status == PENDING and owner_of(oid) == own and self._tracked[oid].held_at_node
            for oid, ref in list(self._refs.items())
            if oid in self._tracked
        )

    def known(self) -> int:
        """How many objects are tracked; for tests and explain."""
        return len(self._tracked)


def serialize_value(value: Any) -> Serialized:
    """Pickle what is put or returned."""
    return serialize(value, "value")
