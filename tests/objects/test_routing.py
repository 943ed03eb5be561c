"""What processes say about objects of another node, and what becomes of the bytes: router, store and transfers.

There is the home of all objects here, and its memory has their bytes. What is said to it is noted.
"""

from __future__ import annotations

import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from aioray.exceptions import ObjectLostError
from aioray.runtime.serialization import deserialize
from aioray.wire.control import Ack, Fetch, Fetched, Hold, Orphaned, Release
from aioray.wire.gcs import Delta, MemberChange, NodeFacts
from aioray.wire.values import Value, node_prefix, object_id, process_id_of_node, worker_process_id
from aioray_node.gcs.view import ClusterView
from aioray_node.objects.directory import Sealed
from aioray_node.objects.routing import ObjectRouter
from aioray_node.scheduling.policy import NodeView
from aioray_node.scheduling.resources import NodeResources
from tests.objects.nodes import Net

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE, THERE, THIRD = "aa" * 8, "bb" * 8, "cc" * 8
ANN, BOB = worker_process_id(HERE, 1), worker_process_id(HERE, 2)
ME = process_id_of_node(HERE)
DATA = bytes(range(256)) * 400


class Told:
    """Stands for the lines to other nodes."""

    def __init__(self) -> None:
        self.said: list[Any] = []

        self.to_third: list[Any] = []  # beside what was said to the other one
        self.asked: list[Callable[[Any], None]] = []  # what to call with the answers

    def send(self, prefix: bytes, message: Any) -> None:
        (self.said if prefix == node_prefix(THERE) else self.to_third).append(message)

    def ask(self, prefix: bytes, message: Callable[[int], Any], then: Callable[[Any], None]) -> None:
        self.asked.append(then)
        self.send(prefix, message(len(self.asked)))


class Line:
    """Of another node, to answer it over."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def send(self, message: Any) -> None:
        self.said.append(message)


class Here:
    """This node, and the other one."""

    def __init__(self, net: Net, *, reads_neighbours: bool) -> None:
        self.net = net
        self.sent: list[tuple[bytes, Any]] = []
        self.there = net.node(node_id=THERE, capacity_nbytes=1 << 18)
        self.node = net.node(
            node_id=HERE, capacity_nbytes=1 << 18, send=lambda process, message: self.sent.append((process, message))
        )
        self.view = ClusterView(NodeFacts(HERE, (), "machine", {}), NodeView(NodeResources({}), {}))
        self.router = ObjectRouter(
            net.reactor,
            self.view,
            self.node.store,
            lambda process, message: self.sent.append((process, message)),
            reads_neighbours=reads_neighbours,
        )
        self.told = self.router.neighbours = Told()  # type: ignore[assignment]
        self.router.transfers = self.node.desk
        self.router.joined()
        self.tell()

    def tell(self, *, end: str | None = None) -> None:
        version = self.view.version + 1
        facts = NodeFacts(THERE, (), "machine", {}, segment=self.there.name, transfer_addresses=(self.there.address,))
        self.view.apply(Delta("epoch", self.view.version, version, (MemberChange(THERE, version, facts, {}, end),)))

    def third_joins(self) -> None:
        version = self.view.version + 1
        change = MemberChange(THIRD, version, NodeFacts(THIRD, (), "machine", {}), {})
        self.view.apply(Delta("epoch", self.view.version, version, (change,)))

    def third_dies(self) -> None:
        version = self.view.version + 1
        change = MemberChange(THIRD, version, NodeFacts(THIRD, (), "machine", {}), {}, "it was killed")
        self.view.apply(Delta("epoch", self.view.version, version, (change,)))

    def say(self, process: bytes, *messages: Any) -> None:
        for message in messages:
            self.router.handle(process, None, message)  # type: ignore[arg-type] # nothing here is acknowledged

    def given(self, count: int) -> list[tuple[bytes, Fetched]]:
        """When so many were."""
        self.net.run_until(lambda: len(self.sent) >= count)
        self.net.settle()
        assert len(self.sent) == count
        return self.sent

    def is_idle(self) -> bool:
        figures = self.node.desk.figures()
        return not (figures["pulls"] or figures["tickets"] or figures["rooms"] or self.router._tickets)


@pytest.fixture
def net(nothing_left: None) -> Iterator[Net]:
    with tempfile.TemporaryDirectory() as directory:
        net = Net(pathlib.Path(directory))
        yield net
        net.close()


def test_two_who_want_the_same_share_one_pull_and_hold_it_at_home_until_both_let_go(net: Net) -> None:
    here = Here(net, reads_neighbours=False)
    value = here.there.put(DATA)
    here.say(ANN, Fetch(value.oid, value))
    here.say(BOB, Fetch(value.oid, value))
    (ann, a), (bob, b) = here.given(2)
    assert (ann, bob) == (ANN, BOB)
    assert a.value == b.value
    assert a.value.node_id == HERE
    assert here.node.read(a.value) == DATA
    assert here.there.desk.serving.sent_nbytes == len(DATA)
    assert here.told.said == [Hold(ME, [value.oid])]
    here.say(ANN, Release(ANN, [value.oid]))
    assert here.told.said == [Hold(ME, [value.oid])]
    here.say(BOB, Release(BOB, [value.oid]))
    assert here.told.said == [Hold(ME, [value.oid]), Release(ME, [value.oid])]
    assert here.is_idle()


def test_what_a_process_was_to_hold_that_has_died_is_held_at_no_home(net: Net) -> None:
    """
    1. another node says so, late: it is answered at once, as there is nobody left who would let go
    2. the same for a process that lives: it is answered when the home knows
    """
    here, line, value = Here(net, reads_neighbours=False), Line(), Value(oid=object_id(worker_process_id(THERE, 1), 1))
    here.node.store.process_gone(ANN)
    here.router.handle_node(process_id_of_node(THERE), line, Hold(ANN + b"token", [value.oid], 7))
    assert (line.said, here.told.said) == ([Ack(7)], [])
    here.router.handle_node(process_id_of_node(THERE), line, Hold(BOB + b"token", [value.oid], 8))
    assert here.told.said == [Hold(ME, [value.oid]), Hold(ME, [value.oid], 1)]
    assert line.said == [Ack(7)]
    here.told.asked[0](None)
    assert line.said == [Ack(7), Ack(8)]


def test_a_copy_that_nobody_holds_is_given_to_the_next_reader_and_makes_way_when_memory_is_short(net: Net) -> None:
    here = Here(net, reads_neighbours=False)
    value = here.there.put(DATA)
    here.say(ANN, Fetch(value.oid, value))
    here.given(1)
    here.say(ANN, Release(ANN, [value.oid]))
    here.say(BOB, Fetch(value.oid, value))
    here.given(2)
    assert here.there.desk.serving.sent_nbytes == len(DATA)
    here.say(BOB, Release(BOB, [value.oid]))
    assert here.node.store.used_nbytes > 0
    assert here.node.store.allocate(here.node.store.capacity_nbytes) == 0


def test_a_process_that_dies_while_its_object_is_pulled_leaves_nothing(net: Net) -> None:
    here = Here(net, reads_neighbours=False)
    value = here.there.put(DATA)
    here.say(ANN, Fetch(value.oid, value))
    net.run_until(lambda: bool(here.node.desk._rooms))
    here.node.store.process_gone(ANN)
    here.router.process_gone(ANN)
    assert here.is_idle()
    net.settle()
    assert here.sent == []
    assert here.node.store.used_nbytes == 0


def test_an_object_that_is_freed_while_it_is_pulled_is_told_to_be_lost(net: Net) -> None:
    here = Here(net, reads_neighbours=False)
    value = here.there.put(DATA)
    here.there.free(value)
    here.say(ANN, Fetch(value.oid, value))
    ((_, fetched),) = here.given(1)
    assert why_lost(fetched.value).endswith("it is not here, or not any more)")
    assert here.is_idle()


def test_a_node_that_dies_while_it_sends_fails_those_who_wait(net: Net) -> None:
    here = Here(net, reads_neighbours=False)
    value = here.there.put(DATA)
    here.say(ANN, Fetch(value.oid, value))
    net.run_until(lambda: bool(here.node.desk._rooms))
    here.there.close()
    here.tell(end="it was killed")
    here.router.node_gone(THERE, node_prefix(THERE))
    ((_, fetched),) = here.given(1)
    assert "no node sends it" in why_lost(fetched.value)
    here.say(BOB, Fetch(value.oid, value))
    _, (_, fetched) = here.given(2)
    assert why_lost(fetched.value) == f"node {THERE} is dead: it was killed"
    assert here.is_idle()


def test_a_full_store_waits_for_room_and_then_says_how_long_it_has(net: Net) -> None:
    here = Here(net, reads_neighbours=False)
    value = here.there.put(DATA)
    assert here.node.store.allocate(here.node.store.capacity_nbytes) == 0
    here.say(ANN, Fetch(value.oid, value))
    net.settle()
    assert here.sent == []
    net.now += 61
    ((_, fetched),) = here.given(1)
    assert why_lost(fetched.value) == f"the object store had no room for its {len(DATA)} bytes for 60 s"


def test_what_is_needed_later_goes_after_what_somebody_waits_for_and_is_hastened_when_somebody_does(net: Net) -> None:
    here = Here(net, reads_neighbours=False)
    value = here.there.put(DATA)
    here.say(ANN, Fetch(value.oid, value, is_urgent=False))
    (pull,) = here.node.desk._pulls.pulls.values()
    assert pull.priority == 1
    here.say(BOB, Fetch(value.oid, value))
    (pull,) = here.node.desk._pulls.pulls.values()
    assert pull.priority == 0
    assert [process for process, _ in here.given(2)] == [ANN, BOB]
    assert here.is_idle()


def test_what_can_be_read_in_the_memory_of_a_neighbour_is_not_copied(net: Net) -> None:
    here = Here(net, reads_neighbours=True)
    value = here.there.put(DATA)
    here.say(ANN, Fetch(value.oid, value))
    assert here.sent == [(ANN, Fetched(value.oid, value, here.there.name))]
    assert here.told.said == [Hold(ME, [value.oid])]
    here.say(ANN, Release(ANN, [value.oid]))
    assert here.told.said == [Hold(ME, [value.oid]), Release(ME, [value.oid])]
    assert here.node.store.used_nbytes == 0


def test_what_lies_here_stays_when_the_node_that_counted_it_dies_while_others_look_at_it(net: Net) -> None:
    """A process there owned two objects that were made here; the third node still has a reader of the first."""
    here = Here(net, reads_neighbours=True)
    here.third_joins()
    store, owner = here.node.store, worker_process_id(THERE, 1)
    read, unread = object_id(owner, 1), object_id(owner, 2)
    for oid in (read, unread):
        offset = store.allocate(4096)
        assert offset is not None
        store.feed(Sealed(Value(nbytes=4096, offset=offset, oid=oid, node_id=HERE)))
    here.tell(end="it was killed")
    here.router.node_gone(THERE, node_prefix(THERE))
    assert here.told.to_third == [Orphaned([read, unread], 1)]
    assert store.used_nbytes == 8192
    third, line = process_id_of_node(THIRD), Line()
    here.router.handle_node(third, line, Hold(third, [read], 0))
    here.told.asked[0](None)
    assert store.used_nbytes == 4096
    here.router.handle_node(third, line, Release(third, [read]))
    assert store.used_nbytes == 0


def test_who_looks_at_what_has_lost_its_home_holds_it_where_it_lies(net: Net) -> None:
    here = Here(net, reads_neighbours=True)
    here.third_joins()
    value = here.there.put(DATA)
    value.oid = object_id(worker_process_id(THIRD, 1), 1)
    here.say(ANN, Fetch(value.oid, value))
    assert here.told.to_third == [Hold(ME, [value.oid])]
    here.router.node_gone(THIRD, node_prefix(THIRD))
    there, line = process_id_of_node(THERE), Line()
    here.router.handle_node(there, line, Orphaned([value.oid, object_id(ANN, 1)], 7))
    assert here.told.said == [Hold(ME, [value.oid], 1)]
    assert line.said == []
    here.told.asked[0](None)
    assert line.said == [Ack(7)]
    here.say(ANN, Release(ANN, [value.oid]))
    assert here.told.said[1:] == [Release(ME, [value.oid])]


def test_what_was_held_before_without_a_word_back_is_known_at_home_when_later_words_are_acknowledged(net: Net) -> None:
    """A call has read what a ref inside its arguments names, and keeps the ref: then it ends."""
    here = Here(net, reads_neighbours=True)
    oid = object_id(worker_process_id(THERE, 1), 1)
    line = Line()
    here.router.handle(ANN, line, Hold(ANN, [oid]))
    here.router.handle(ANN, line, Hold(ANN, [], 6))
    assert here.told.said == [Hold(ME, [oid]), Hold(ME, [], 1)]
    assert line.said == []
    here.told.asked[0](None)
    assert line.said == [Ack(6)]
    here.router.handle(ANN, line, Hold(ANN, [], 7))
    assert line.said[1:] == [Ack(7)]


def test_who_is_passed_what_has_lost_its_home_holds_it_where_it_lies_before_who_passed_it_lets_go(net: Net) -> None:
    """
    1. a call here was given a ref whose owner's node, the third, is dead, and keeps it: its bytes lie with the other
    2. the call is over when that one knows, and it hears when the ref is gone
    """
    here = Here(net, reads_neighbours=True)
    here.third_joins()
    oid = object_id(worker_process_id(THIRD, 1), 1)
    here.third_dies()
    here.router.node_gone(THIRD, node_prefix(THIRD))
    line = Line()
    here.router.handle(ANN, line, Hold(ANN, [oid], 5))
    assert here.told.said == [Hold(ME, [oid], 1)]
    assert line.said == []
    here.told.asked[0](None)
    assert line.said == [Ack(5)]
    here.say(ANN, Release(ANN, [oid]))
    assert here.told.said[1:] == [Release(ME, [oid])]
    assert here.told.to_third == []


def test_a_node_that_asks_about_what_is_orphaned_has_told_of_the_death_of_its_home(net: Net) -> None:
    """Else a hold that comes after the answer would be told to the dead, and the bytes would be freed."""
    here = Here(net, reads_neighbours=True)
    here.third_joins()
    oid = object_id(worker_process_id(THIRD, 1), 1)
    there, line = process_id_of_node(THERE), Line()
    here.router.handle_node(there, line, Orphaned([oid], 7))
    assert line.said == [Ack(7)]
    here.router.handle(ANN, line, Hold(ANN, [oid], 5))
    assert here.told.said == [Hold(ME, [oid], 1)]


def test_what_nodes_hold_of_the_dead_is_not_passed_on_to_further_nodes(net: Net) -> None:
    here = Here(net, reads_neighbours=True)
    here.third_joins()
    oid = object_id(worker_process_id(THIRD, 1), 1)
    here.third_dies()
    here.router.node_gone(THIRD, node_prefix(THIRD))
    there, line = process_id_of_node(THERE), Line()
    here.router.handle_node(there, line, Hold(there, [oid], 3))
    assert here.told.said == []
    assert line.said == [Ack(3)]


def test_nodes_that_hold_things_of_one_another_do_not_ask_each_other_without_end(net: Net) -> None:
    here = Here(net, reads_neighbours=True)
    here.say(ANN, Hold(ANN, [object_id(worker_process_id(THERE, 1), 1)]))
    there, line = process_id_of_node(THERE), Line()
    here.router.handle_node(there, line, Hold(there, [object_id(ANN, 1)], 3))
    assert line.said == [Ack(3)]
    assert here.told.asked == []


def test_memory_that_cannot_be_opened_is_not_read(net: Net) -> None:
    here = Here(net, reads_neighbours=True)
    name, here.there.name = here.there.name, "/no-such-memory"
    here.tell()
    here.there.name = name
    value = here.there.put(DATA)
    here.say(ANN, Fetch(value.oid, value))
    ((_, fetched),) = here.given(1)
    assert (fetched.value.node_id, fetched.segment) == (HERE, "")


def why_lost(value: Value) -> str:
    assert value.is_error
    error = deserialize(value.data, value.buffers, None)
    assert isinstance(error, ObjectLostError)
    return str(error.args[1])
