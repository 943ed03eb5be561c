"""What a stream tells the node of values that a worker stored and did not live to send."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

from aioray.refs import READY
from aioray.runtime.objects import Tracked
from aioray.runtime.streams import Stream
from aioray.wire.calls import Yielded
from aioray.wire.control import Release
from aioray.wire.values import Value, object_id

OWNER = b"the-call"
CALL = 7


class FakeRuntime:
    """As much of a Runtime as a Stream sees; `told` is what the node was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.process_id = OWNER
        self.closed = False
        self.reactor = SimpleNamespace(lock=threading.RLock())
        self.link = SimpleNamespace(send=self.told.append)
        self.known: dict[bytes, Tracked] = {}
        self.objects = SimpleNamespace(
            adopt=lambda ref, value: None,
            arrived=lambda ref, value, maker: ref._complete(READY, value, maker),
            tracked=self.known.get,
            want=lambda ref: None,
            completed=lambda ref: None,
        )
        self.streams = SimpleNamespace(ended=lambda stream: None)


def started() -> tuple[FakeRuntime, Stream]:
    """A stream whose first worker has sent one value, and then died; the next has the call."""
    runtime = FakeRuntime()
    stream = Stream(cast("Any", runtime), -1)
    stream.numbered(CALL)
    stream.begin("f")
    connection: Any = SimpleNamespace(send=lambda message: None)
    stream.start(connection, 0)
    stream.receive(Yielded(CALL, [b"one"]))
    again = stream.start(connection, 0)
    assert again.skip == 1
    return runtime, stream


def of(at: int) -> bytes:
    return object_id(OWNER, CALL, at)


def in_shared_memory(at: int, refs: tuple[bytes, ...] = ()) -> Value:
    return Value(nbytes=1 << 20, oid=of(at), refs=list(refs))


def test_nothing_is_let_go_of_while_the_next_worker_may_store_the_same_value() -> None:
    runtime, stream = started()
    assert runtime.told == []
    stream.receive(Yielded(CALL, [], in_shared_memory(2)))
    stream.receive(Yielded(CALL, [b"three"], in_shared_memory(4)))
    stream.completion._complete(READY, Value(b""))
    assert runtime.told == []


def test_what_comes_inline_this_time_is_let_go_of_where_it_was_stored() -> None:
    runtime, stream = started()
    stream.receive(Yielded(CALL, [b"two", b"three"]))
    assert runtime.told == [Release(OWNER, [of(2)]), Release(of(2), [])]


def test_refs_inside_a_value_that_comes_inline_stay_held() -> None:
    runtime, stream = started()
    stream.receive(Yielded(CALL, [], Value(b"two", refs=[bytes(16)])))
    assert runtime.told == [Release(OWNER, [of(2)])]


def test_a_generator_that_ends_sooner_than_the_first_time_leaves_nothing() -> None:
    runtime, stream = started()
    stream.completion._complete(READY, Value(b""))
    assert Release(OWNER, [of(2)]) in runtime.told
    assert Release(of(2), []) in runtime.told


def test_a_ref_that_somebody_has_already_is_not_let_go_of_in_its_owners_name() -> None:
    runtime, stream = started()
    stream.take()
    ref = stream.peek()
    runtime.known[ref.binary()] = Tracked(refs=1, held_at_node=True)
    stream.receive(Yielded(CALL, [b"two"]))
    assert runtime.told == [Release(of(2), [])]
    assert ref.done()
