"""What the directory remembers of processes that are gone: nothing that nobody else holds."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aioray.wire.values import Value, object_id
from aioray_node.objects.directory import (
    Command,
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
    Wanted,
    check,
    handle,
)

DRIVER, WORKER = b"driver..", b"worker.."
A, B = object_id(DRIVER, 1), object_id(DRIVER, 2)
SMALL = Value(data=b"small")


def large(oid: bytes) -> Value:
    return Value(nbytes=4096, offset=64, oid=oid)


def run(state: State, *events: Event) -> list[Command]:
    """Feed events, check after each; the commands of the last one."""
    commands: list[Command] = []
    for event in events:
        commands = handle(state, event)
        check(state)
    return commands


def nothing_is_left(state: State) -> bool:
    return not state.entries and not state.held_by


def test_a_waiter_that_dies_is_not_waited_upon() -> None:
    state = State()
    run(state, Wanted(WORKER, A), ProcessGone(WORKER))
    assert nothing_is_left(state)


def test_who_waits_for_an_owner_that_never_spoke_and_died_is_told_and_forgotten() -> None:
    state = State()
    assert run(state, Wanted(WORKER, A), ProcessGone(DRIVER)) == [OwnerLost(WORKER, A)]
    assert nothing_is_left(state)
    assert run(state, Wanted(WORKER, A)) == [OwnerLost(WORKER, A)]
    assert nothing_is_left(state)


def test_a_dead_owners_object_goes_on_holding_what_is_inside_while_others_hold_it() -> None:
    state = State()
    run(state, Shared(A, SMALL), Shared(B, SMALL), Held(A, [B]), Held(WORKER, [A]))
    assert run(state, ProcessGone(DRIVER)) == []
    assert run(state, Released(WORKER, [A])) == [Forgotten(A, SMALL), Forgotten(B, SMALL)]
    assert nothing_is_left(state)


def test_a_result_for_a_dead_caller_is_forgotten_at_once() -> None:
    """A worker finishes what a driver asked for that is gone by now."""
    state = State()
    inner = object_id(WORKER, 1)
    run(state, ProcessGone(DRIVER), Shared(inner, SMALL))
    value = large(A)
    assert run(state, Sealed(value)) == [Forgotten(A, value)]
    assert run(state, Held(A, [inner])) == []
    assert run(state, Released(WORKER, [inner])) == [Forgotten(inner, SMALL)]
    assert nothing_is_left(state)


PROCESSES = [b"proc-%03d" % n for n in range(3)]
OBJECTS = [object_id(owner, seq) for owner in PROCESSES for seq in (1, 2)]


class AnyCourseOfEvents(RuleBasedStateMachine):
    """Processes say what they may say, in any order, and die; when the last is dead, nothing is remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.alive = set(PROCESSES)
        self.waiting: set[tuple[bytes, bytes]] = set()

    def feed(self, event: Event) -> None:
        for command in handle(self.state, event):
            if isinstance(command, Deliver | OwnerLost):
                assert (command.process, command.oid) in self.waiting, f"{command} was not asked for"
                self.waiting.discard((command.process, command.oid))
        check(self.state)

    def one_alive(self) -> st.SearchStrategy[bytes]:
        return st.sampled_from(sorted(self.alive))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), at=st.integers(1, 2), with_value=st.booleans())
    def share(self, data: st.DataObject, at: int, with_value: bool) -> None:
        oid = object_id(data.draw(self.one_alive()), at)
        self.feed(Shared(oid, Value(data=oid) if with_value else None))

    @rule(oid=st.sampled_from(OBJECTS))
    def seal(self, oid: bytes) -> None:
        if oid not in self.state.entries or self.state.entries[oid].value is None:
            self.feed(Sealed(large(oid)))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), oids=st.lists(st.sampled_from(OBJECTS), max_size=3))
    def hold(self, data: st.DataObject, oids: list[bytes]) -> None:
        self.feed(Held(data.draw(self.one_alive()), oids))

    @rule(holder=st.sampled_from(OBJECTS[1:]), data=st.data())
    def contain(self, holder: bytes, data: st.DataObject) -> None:
        # What is inside is older: a value is finished before anybody hears of it, so there are no circles.
        older = st.sampled_from(OBJECTS[: OBJECTS.index(holder)])
        self.feed(Held(holder, data.draw(st.lists(older, min_size=1, max_size=2))))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), oids=st.lists(st.sampled_from(OBJECTS), max_size=3))
    def release(self, data: st.DataObject, oids: list[bytes]) -> None:
        self.feed(Released(data.draw(self.one_alive()), oids))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), oid=st.sampled_from(OBJECTS))
    def want(self, data: st.DataObject, oid: bytes) -> None:
        process = data.draw(self.one_alive())
        self.waiting.add((process, oid))
        self.feed(Wanted(process, oid))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.end(data.draw(self.one_alive()))

    def end(self, process: bytes) -> None:
        self.alive.discard(process)
        self.waiting = {(who, oid) for who, oid in self.waiting if who != process}
        self.feed(ProcessGone(process))

    @invariant()
    def whoever_waits_can_still_be_answered(self) -> None:
        for process, oid in self.waiting:
            assert process in self.state.entries[oid].waiters
            assert oid[:8] in self.alive, "nobody is left who could answer"

    def teardown(self) -> None:
        for process in sorted(self.alive):
            self.end(process)
        assert nothing_is_left(self.state), self.state


TestAnyCourseOfEvents = AnyCourseOfEvents.TestCase
TestAnyCourseOfEvents.settings = settings(max_examples=60, deadline=None)
