"""Refs that are other names of an object: what a call gives is what one of its attempts has made.

Small values are taken over. Bytes in shared memory, and what the node counts for refs inside of a value, go by the id
of the object that was made: the process keeps a ref to that for as long as it knows the other name, and whoever else
asks for the value of the name gets a pointer (`Value.is_pointer`), which is counted as a value with a ref inside is.

Called with the reactor's lock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray.refs import PENDING, ObjectRef
from aioray.runtime.unseen import looked_at
from aioray.wire.values import Value

if TYPE_CHECKING:
    from aioray.runtime.objects import ObjectTable, Tracked


def take_from(objects: ObjectTable, ref: ObjectRef[Any], made: ObjectRef[Any]) -> None:
    """Let `ref` become what `made` has: done, failed, or there on another node."""
    if ref._is_made():
        looked_at(made)
        return
    value = made._value
    if isinstance(value, Value) and (value.nbytes or value.refs):
        objects.track(ref).behind = made
    if made._status == PENDING:
        ref._is_placed(value, made._task)
    else:
        ref._complete(made._status, value, made._task)


def bring(ref: ObjectRef[Any], made: ObjectRef[Any]) -> None:
    """It lies on another node, and somebody wants it here."""
    made._when_done(lambda _: ref._complete(made._status, made._value, made._task))


def pointer(objects: ObjectTable, ref: ObjectRef[Any], tracked: Tracked, made: ObjectRef[Any]) -> Value:
    """What others get instead of the value: the object that has it, held by the node for them."""
    looked_at(ref)
    objects.share(made)
    if not tracked.contains:
        tracked.contains = True
        objects.hold_for(ref.binary(), [made])
    return Value(oid=made.binary(), refs=[made.binary()])


def follow(objects: ObjectTable, ref: ObjectRef[Any], oid: bytes) -> None:
    """The owner has said that `ref` is another name of the object `oid`."""
    made = objects.borrow(oid)
    objects.track(ref).behind = made
    objects.hold_alive()
    made._when_made(lambda _: take_from(objects, ref, made))
