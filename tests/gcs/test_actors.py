"""The actor directory, without a process: stories, and random ones that `check` looks at after every event."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aioray.wire.control import ActorSpec, ActorUpdate
from aioray.wire.values import Value
from aioray_node.gcs.actors import (
    Command,
    Constructed,
    Created,
    DismissActor,
    Ended,
    Event,
    IllegalMove,
    InitRaised,
    Killed,
    Name,
    ProcessGone,
    StartActor,
    State,
    StopActor,
    Tell,
    Unheld,
    Watched,
    check,
    find,
    handle,
    release_name,
    reserve_name,
    unwatch,
)

DRIVER, WORKER, OTHER = b"driver..", b"worker..", b"other..."
ERROR = Value(b"boom", is_error=True)


def actor_id(creator: bytes, number: int = 1) -> bytes:
    return creator + number.to_bytes(8, "big")


A, B = actor_id(DRIVER), actor_id(DRIVER, 2)


def spec(which: bytes = A, **changes: Any) -> ActorSpec:
    return ActorSpec(which, "Counter", b"class", b"call", {}, {}, creator=which[:8], **changes)


def run(state: State, event: Event) -> list[Command]:
    commands = handle(state, event)
    check(state)
    return commands


def dead(which: bytes, reason: str, error: Value | None = None, address: str = "") -> ActorUpdate:
    return ActorUpdate(which, "dead", address, reason, error)


def test_an_actor_is_started_and_who_watches_hears_when_it_is_up_and_when_it_has_died() -> None:
    """
    1. the driver watches before it asks for the actor; the node looks for a worker
    2. the constructor is through: the driver hears the address
    3. another process watches later: it hears the address at once
    4. the worker dies: both hear why
    """
    state = State()
    assert run(state, Watched(DRIVER, A)) == []
    assert run(state, Created(spec())) == [StartActor(A)]
    assert run(state, Created(spec())) == []  # sent twice
    assert run(state, Constructed(A, "w1.sock")) == [Tell(DRIVER, ActorUpdate(A, "alive", "w1.sock"))]
    assert run(state, Watched(OTHER, A)) == [Tell(OTHER, ActorUpdate(A, "alive", "w1.sock"))]
    told = dead(A, "its process died", address="w1.sock")
    assert run(state, Ended(A, "its process died")) == [StopActor(A), Tell(DRIVER, told), Tell(OTHER, told)]
    assert run(state, Ended(A, "its process died")) == []  # late news


def test_the_exception_of_a_constructor_reaches_who_watches() -> None:
    state = State()
    run(state, Watched(DRIVER, A))
    run(state, Created(spec()))
    told = dead(A, "its constructor raised", ERROR)
    assert run(state, InitRaised(A, ERROR)) == [StopActor(A), Tell(DRIVER, told)]


def test_an_actor_whose_arguments_failed_is_dead_before_it_is_alive() -> None:
    state = State()
    reserve_name(state, "", "n", Name(A, "Counter", {}))
    run(state, Watched(OTHER, A))
    told = dead(A, "an argument of its constructor failed", ERROR)
    assert run(state, Created(spec(error=ERROR))) == [StopActor(A), Tell(OTHER, told)]
    assert find(state, "", "n") is None


def test_a_dead_actor_is_remembered_until_its_last_handle_is_gone() -> None:
    """A handle may lie in a stored object while nobody watches; whoever takes it out must hear of the death."""
    state = State()
    run(state, Created(spec()))
    run(state, Killed(A, "killed"))
    assert run(state, Watched(OTHER, A)) == [Tell(OTHER, dead(A, "killed"))]
    assert run(state, Unheld(A)) == []
    assert not state.actors
    assert not state.watchers


def test_an_actor_that_nobody_holds_is_dismissed_not_stopped_and_forgotten() -> None:
    state = State()
    run(state, Created(spec()))
    run(state, Constructed(A, "w1.sock"))
    assert run(state, Unheld(A)) == [DismissActor(A)]
    assert run(state, Ended(A, "its process exited with status 0")) == []
    assert state == State()


def test_an_actor_that_says_it_leaves_is_not_killed_for_it() -> None:
    state = State()
    run(state, Created(spec()))
    run(state, Constructed(A, "w1.sock"))
    assert run(state, Ended(A, "it called sys.exit(3)", leaving=True)) == [DismissActor(A)]


def test_a_kill_that_overtakes_the_creation_is_not_lost() -> None:
    state = State()
    run(state, Watched(DRIVER, A))
    reserve_name(state, "", "n", Name(A, "Counter", {}))
    assert run(state, Killed(A, "killed")) == []
    assert find(state, "", "n") is None
    assert run(state, Created(spec())) == [StopActor(A), Tell(DRIVER, dead(A, "killed"))]
    assert not state.doomed


def test_a_name_is_taken_once_in_a_namespace_and_free_as_soon_as_its_actor_is_dead() -> None:
    state = State()
    first, second = Name(A, "Counter", {"add": "1 n="}), Name(B, "Counter", {"add": "1 n="})
    assert reserve_name(state, "", "n", first) == first
    assert reserve_name(state, "", "n", second) == first
    assert reserve_name(state, "elsewhere", "n", second) == second
    assert find(state, "", "n") == first  # a handle can be had before the actor is created
    run(state, Created(spec(name="n")))
    run(state, Ended(A, "its process died"))
    assert find(state, "", "n") is None
    assert reserve_name(state, "", "n", second) == second


def test_who_waits_for_an_actor_hears_when_its_creator_dies_before_it_has_created_it() -> None:
    state = State()
    reserve_name(state, "", "n", Name(A, "Counter", {}))
    run(state, Watched(OTHER, A))
    told = dead(A, "the process that was to create it is gone")
    assert run(state, ProcessGone(DRIVER, driver=True)) == [Tell(OTHER, told)]
    assert find(state, "", "n") is None
    assert run(state, Watched(OTHER, A)) == [Tell(OTHER, told)]
    assert run(state, Killed(A, "killed")) == []
    assert not state.doomed


def test_with_a_driver_go_its_actors_but_the_detached_ones() -> None:
    state = State()
    run(state, Created(spec(A)))
    run(state, Created(spec(B, detached=True)))
    assert run(state, ProcessGone(DRIVER, driver=True)) == [StopActor(A)]
    assert state.actors[B].state == "pending"


def test_the_actors_that_a_worker_created_outlive_it_as_long_as_somebody_holds_them() -> None:
    state = State()
    which = actor_id(WORKER)
    run(state, Created(spec(which)))
    assert run(state, ProcessGone(WORKER)) == []
    assert run(state, Constructed(which, "w2.sock")) == []
    assert run(state, Unheld(which)) == [DismissActor(which)]


def test_a_constructor_that_ends_after_the_kill_changes_nothing() -> None:
    state = State()
    run(state, Created(spec()))
    run(state, Killed(A, "killed"))
    assert run(state, Constructed(A, "w1.sock")) == []
    assert run(state, InitRaised(A, ERROR)) == []


def test_a_second_constructor_is_a_bug_of_ours() -> None:
    state = State()
    run(state, Created(spec()))
    run(state, Constructed(A, "w1.sock"))
    with pytest.raises(IllegalMove, match="alive: constructed"):
        handle(state, Constructed(A, "w1.sock"))


def test_who_let_go_of_its_handles_is_told_no_more() -> None:
    state = State()
    run(state, Watched(DRIVER, A))
    run(state, Watched(OTHER, A))
    run(state, Created(spec()))
    unwatch(state, OTHER, A)
    unwatch(state, OTHER, A)
    assert run(state, Constructed(A, "w1.sock")) == [Tell(DRIVER, ActorUpdate(A, "alive", "w1.sock"))]


processes = st.sampled_from([DRIVER, WORKER, OTHER])
ids = st.builds(actor_id, processes, st.integers(1, 2))


class Directory(RuleBasedStateMachine):
    """Any events in any order. Beyond `check`: who watches hears the last word, once, and nobody speaks after it."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.heard: dict[tuple[bytes, bytes], str] = {}  # (process, actor_id) -> last state told since it watches
        self.constructing: set[bytes] = set()
        self.gone: set[bytes] = set()

    def feed(self, event: Event) -> list[Command]:
        commands = handle(self.state, event)
        for command in commands:
            match command:
                case Tell(process, update):
                    assert process not in self.gone
                    assert self.heard.get((process, update.actor_id)) != "dead", "it died twice"
                    self.heard[process, update.actor_id] = update.state
                case StartActor(which):
                    self.constructing.add(which)
                case StopActor(which) | DismissActor(which):
                    self.constructing.discard(which)
        return commands

    @rule(which=ids, detached=st.booleans(), failed=st.booleans())
    def created(self, which: bytes, detached: bool, failed: bool) -> None:
        if which[:8] not in self.gone and which not in self.forgotten:
            self.feed(Created(spec(which, detached=detached, error=ERROR if failed else None)))
            self.created_once = self.created_once | {which}

    created_once: frozenset[bytes] = frozenset()
    forgotten: frozenset[bytes] = frozenset()

    @precondition(lambda self: self.constructing)
    @rule(data=st.data(), raises=st.booleans())
    def constructor_ends(self, data: st.DataObject, raises: bool) -> None:
        which = data.draw(st.sampled_from(sorted(self.constructing)))
        self.constructing.discard(which)
        self.feed(InitRaised(which, ERROR) if raises else Constructed(which, "sock"))

    @rule(which=ids, reason=st.sampled_from(["a", "b"]))
    def killed(self, which: bytes, reason: str) -> None:
        if which not in self.forgotten:
            self.feed(Killed(which, reason))
            actor = self.state.actors.get(which)
            assert actor is None or actor.state == "dead"

    @rule(which=ids, leaving=st.booleans())
    def ended(self, which: bytes, leaving: bool) -> None:
        self.feed(Ended(which, "it died", leaving))

    @rule(which=ids)
    def unheld(self, which: bytes) -> None:
        if which in self.created_once:
            self.feed(Unheld(which))
            assert which not in self.state.actors
            self.forgotten = self.forgotten | {which}

    @rule(process=processes, which=ids)
    def watched(self, process: bytes, which: bytes) -> None:
        if process in self.gone or which in self.forgotten:
            return
        self.heard.pop((process, which), None)
        self.feed(Watched(process, which))
        actor = self.state.actors.get(which)
        if actor is not None and actor.state != "pending":
            assert self.heard[process, which] == actor.state

    @rule(process=processes, which=ids)
    def unwatched(self, process: bytes, which: bytes) -> None:
        unwatch(self.state, process, which)
        self.heard.pop((process, which), None)

    @rule(process=processes)
    def process_gone(self, process: bytes) -> None:
        self.gone.add(process)
        self.feed(ProcessGone(process, driver=process == DRIVER))

    @rule(which=ids, name=st.sampled_from(["x", "y"]))
    def name_reserved(self, which: bytes, name: str) -> None:
        if which[:8] in self.gone or which in self.created_once or which in self.state.doomed:
            return
        owner = reserve_name(self.state, "", name, Name(which, "Counter", {}))
        assert find(self.state, "", name) == owner

    @rule(which=ids)
    def name_released(self, which: bytes) -> None:
        release_name(self.state, which)
        assert all(name.actor_id != which for name in self.state.names.values())

    @invariant()
    def holds(self) -> None:
        check(self.state)


TestDirectory = Directory.TestCase
