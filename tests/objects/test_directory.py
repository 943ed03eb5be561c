"""Who holds what: stories, and a machine that compares the directory with the simplest bookkeeping there is."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aioray.wire.values import Value, object_id
from aioray_node.objects.directory import (
    Command,
    Copied,
    CopyFreed,
    CopyGone,
    Crowded,
    Deliver,
    Event,
    Forgotten,
    Held,
    OwnerLost,
    ProcessGone,
    Released,
    Sealed,
    Shared,
    State,
    Unwanted,
    Wanted,
    check,
    handle,
)

OWNER, OTHER, THIRD = b"owner---", b"other---", b"third---"
THING = object_id(OWNER, 1)
INNER = object_id(OTHER, 7)
SMALL = Value(b"small")


def run(state: State, event: Event) -> list[Command]:
    commands = handle(state, event)
    check(state)
    return commands


def test_a_shared_object_lives_until_its_last_holder_lets_go() -> None:
    state = State()
    assert run(state, Shared(THING, SMALL)) == []
    assert run(state, Held(OTHER, [THING])) == []
    assert run(state, Released(OWNER, [THING])) == []
    assert run(state, Released(OTHER, [THING])) == [Forgotten(THING, SMALL)]
    assert state.entries == {}
    assert state.held_by == {}


def test_a_reader_that_asks_before_the_owner_has_spoken_gets_the_value_when_it_is_there() -> None:
    """
    1. the reader's question overtakes the owner's word
    2. the owner shares the object, which is still being computed
    3. the value comes: the reader has it at once
    """
    state = State()
    assert run(state, Wanted(OTHER, THING)) == []
    assert run(state, Shared(THING)) == []
    assert run(state, Shared(THING, SMALL)) == [Deliver(OTHER, THING, SMALL)]
    assert run(state, Wanted(THIRD, THING)) == [Deliver(THIRD, THING, SMALL)]


def test_a_holder_that_comes_and_goes_before_the_owner_has_spoken_leaves_nothing() -> None:
    state = State()
    run(state, Held(OTHER, [THING]))
    assert run(state, Released(OTHER, [THING])) == []
    assert state.entries == {}


def test_an_object_keeps_what_it_contains_and_takes_it_along() -> None:
    state = State()
    run(state, Shared(INNER, SMALL))
    run(state, Held(THING, [INNER]))
    run(state, Released(OTHER, [INNER]))
    run(state, Shared(THING, SMALL))
    assert run(state, Released(OWNER, [THING])) == [Forgotten(THING, SMALL), Forgotten(INNER, SMALL)]


def test_an_object_that_was_never_shared_lets_go_of_what_it_contains_by_its_owners_word() -> None:
    state = State()
    run(state, Shared(INNER, SMALL))
    run(state, Held(THING, [INNER]))
    run(state, Released(OTHER, [INNER]))
    assert run(state, Released(THING, [])) == [Forgotten(INNER, SMALL)]


def test_a_result_that_a_worker_has_written_belongs_to_the_caller() -> None:
    value = Value(nbytes=640, offset=64, oid=THING)
    state = State()
    run(state, Sealed(value))
    assert run(state, Released(OWNER, [THING])) == [Forgotten(THING, value)]


def test_a_result_that_comes_after_the_owner_gave_it_up_is_freed_at_once() -> None:
    value = Value(nbytes=640, offset=64, oid=THING)
    state = State()
    run(state, Shared(THING, Value(b"cancelled", is_error=True)))
    assert run(state, Sealed(value)) == [Unwanted(value)]


def test_a_result_that_is_made_again_replaces_what_the_dead_worker_made() -> None:
    first, second = (Value(nbytes=640, offset=offset, oid=THING) for offset in (64, 6400))
    state = State()
    run(state, Sealed(first))
    assert run(state, Sealed(second)) == [Unwanted(first)]
    assert run(state, Released(OWNER, [THING])) == [Forgotten(THING, second)]


def test_a_result_that_is_made_again_while_others_look_at_the_first_is_freed_with_it() -> None:
    first, second = (Value(nbytes=640, offset=offset, oid=THING) for offset in (64, 6400))
    state = State()
    run(state, Shared(THING))
    run(state, Held(OTHER, [THING]))
    run(state, Sealed(first))
    assert run(state, Sealed(second)) == []
    assert run(state, Wanted(OTHER, THING)) == [Deliver(OTHER, THING, first)]
    run(state, Released(OWNER, [THING]))
    assert run(state, Released(OTHER, [THING])) == [Unwanted(second), Forgotten(THING, first)]


@pytest.mark.parametrize("asked", ["before", "after"])
def test_a_result_that_is_made_again_leaves_alone_what_a_borrower_was_given(asked: str) -> None:
    """Who has a ref as an argument is no holder: its caller, here the owner, keeps the object for it."""
    first, second = (Value(nbytes=640, offset=offset, oid=THING) for offset in (64, 6400))
    state = State()
    run(state, Shared(THING))
    events: list[Event] = [Wanted(OTHER, THING), Sealed(first)]
    given = [command for event in (events if asked == "before" else events[::-1]) for command in run(state, event)]
    assert given == [Deliver(OTHER, THING, first)]
    assert run(state, Sealed(second)) == []
    assert run(state, Released(OWNER, [THING])) == [Unwanted(second), Forgotten(THING, first)]


def test_a_result_that_its_caller_never_heard_of_is_freed_by_the_callers_word() -> None:
    state = State()
    first = Value(nbytes=100, offset=0, oid=THING)
    assert run(state, Released(OWNER, [THING])) == []  # never written
    run(state, Sealed(first))
    assert run(state, Released(OWNER, [THING])) == [Forgotten(THING, first)]
    assert state.entries == {}


def test_readers_hear_when_the_owner_dies_before_the_value_is_there() -> None:
    state = State()
    run(state, Shared(THING))
    run(state, Held(OTHER, [THING]))
    run(state, Wanted(OTHER, THING))
    assert OwnerLost(OTHER, THING) in run(state, ProcessGone(OWNER))
    assert run(state, Wanted(OTHER, THING)) == [OwnerLost(OTHER, THING)]


def test_a_value_that_is_there_outlives_its_owner_as_long_as_somebody_holds_it() -> None:
    state = State()
    run(state, Shared(THING, SMALL))
    run(state, Held(OTHER, [THING]))
    assert run(state, ProcessGone(OWNER)) == []
    assert run(state, Wanted(OTHER, THING)) == [Deliver(OTHER, THING, SMALL)]
    assert run(state, ProcessGone(OTHER)) == [Forgotten(THING, SMALL)]


def test_a_dead_process_lets_go_of_what_its_unshared_objects_contained() -> None:
    state = State()
    run(state, Shared(INNER, SMALL))
    run(state, Held(THING, [INNER]))
    run(state, Released(OTHER, [INNER]))
    assert run(state, ProcessGone(OWNER)) == [Forgotten(INNER, SMALL)]


PROCESSES = [b"p%07d" % n for n in range(3)]
OIDS = [object_id(process, seq) for process in PROCESSES for seq in (1, 2)]
FOREIGN = [object_id(b"faraway-", seq) for seq in (1, 2)]  # at home on another node


class Directory(RuleBasedStateMachine):
    """Any order of words from three processes about six objects, and deaths in between."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.known: set[bytes] = set()
        self.forgotten: list[bytes] = []

    def feed(self, event: Event) -> None:
        for command in handle(self.state, event):
            if isinstance(command, Forgotten):
                assert command.oid in self.known, "what nobody registered was freed"
                self.known.discard(command.oid)

    def alive(self, process: bytes) -> bool:
        return process not in self.state.gone

    @rule(oid=st.sampled_from(OIDS), has_value=st.booleans())
    def share(self, oid: bytes, has_value: bool) -> None:
        if self.alive(oid[:8]):
            self.known.add(oid)
            self.feed(Shared(oid, SMALL if has_value else None))

    @rule(process=st.sampled_from(PROCESSES), oid=st.sampled_from(OIDS))
    def hold(self, process: bytes, oid: bytes) -> None:
        if self.alive(process):
            self.feed(Held(process, [oid]))

    @rule(outer=st.sampled_from(OIDS), inner=st.sampled_from(OIDS))
    def contain(self, outer: bytes, inner: bytes) -> None:
        if self.alive(outer[:8]) and outer < inner:  # values cannot contain each other in a circle
            self.feed(Held(outer, [inner]))

    @rule(process=st.sampled_from(PROCESSES), oid=st.sampled_from(OIDS))
    def release(self, process: bytes, oid: bytes) -> None:
        if self.alive(process):
            self.feed(Released(process, [oid]))

    @rule(process=st.sampled_from(PROCESSES), oid=st.sampled_from(OIDS))
    def want(self, process: bytes, oid: bytes) -> None:
        if self.alive(process):
            self.feed(Wanted(process, oid))

    @rule(oid=st.sampled_from(FOREIGN))
    def copy(self, oid: bytes) -> None:
        if oid not in self.state.copies:
            self.feed(Copied(Value(nbytes=64, oid=oid)))

    @rule(oid=st.sampled_from(FOREIGN))
    def gone_at_home(self, oid: bytes) -> None:
        self.feed(CopyGone(oid))

    @rule(process=st.sampled_from(PROCESSES), oid=st.sampled_from(FOREIGN))
    def hold_copy(self, process: bytes, oid: bytes) -> None:
        self.hold(process, oid)

    @rule(process=st.sampled_from(PROCESSES), oid=st.sampled_from(FOREIGN))
    def release_copy(self, process: bytes, oid: bytes) -> None:
        self.release(process, oid)

    @rule(process=st.sampled_from(PROCESSES))
    def die(self, process: bytes) -> None:
        if self.alive(process):
            self.feed(ProcessGone(process))

    @invariant()
    def the_books_agree(self) -> None:
        check(self.state)
        assert {oid for oid, entry in self.state.entries.items() if entry.known} == self.known

    def teardown(self) -> None:
        """When all processes are dead, nothing is left."""
        for process in PROCESSES:
            self.die(process)
        for oid in FOREIGN:
            self.feed(CopyGone(oid))
        assert self.state.entries == {}
        assert self.state.held_by == {}
        assert self.state.copies == {}


TestDirectory = Directory.TestCase
TestDirectory.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


COPY = Value(nbytes=640, offset=64, oid=THING)


def test_a_copy_stays_for_the_next_reader_until_memory_is_short() -> None:
    state = State()
    assert run(state, Copied(COPY)) == []
    assert run(state, Held(OTHER, [THING])) == []
    assert run(state, Crowded()) == []  # it is looked at
    assert run(state, Released(OTHER, [THING])) == []
    assert run(state, Crowded()) == [CopyFreed(COPY)]
    assert run(state, Crowded()) == []


def test_a_copy_of_what_is_gone_at_home_goes_with_its_last_holder() -> None:
    state = State()
    run(state, Held(OTHER, [THING]))
    run(state, Copied(COPY))
    assert run(state, CopyGone(THING)) == []
    assert run(state, ProcessGone(OTHER)) == [CopyFreed(COPY)]
    assert (state.copies, state.idle, state.entries) == ({}, {}, {})


def test_a_copy_that_an_object_contains_is_held_by_it() -> None:
    outer = object_id(OTHER, 9)
    state = State()
    run(state, Shared(outer, SMALL))
    run(state, Held(outer, [THING]))
    run(state, Copied(COPY))
    run(state, CopyGone(THING))
    assert run(state, Released(OTHER, [outer])) == [Forgotten(outer, SMALL), CopyFreed(COPY)]


def test_a_second_copy_of_the_same_is_unwanted() -> None:
    second = Value(nbytes=640, offset=6400, oid=THING)
    state = State()
    run(state, Copied(COPY))
    assert run(state, Copied(second)) == [Unwanted(second)]
