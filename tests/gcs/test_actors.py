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
    Died,
    DismissActor,
    DropArguments,
    Ended,
    Event,
    IllegalMove,
    InitRaised,
    Killed,
    Name,
    ProcessGone,
    RestartDue,
    Saved,
    StartActor,
    StartLater,
    State,
    StopActor,
    SwapCheckpoint,
    Tell,
    Unheld,
    VacateActor,
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


def run(state: State, event: Event, now: float = 0.0) -> list[Command]:
    commands = handle(state, event, now)
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
    assert run(state, Constructed(A, "w1.sock")) == [DropArguments(A), Tell(DRIVER, ActorUpdate(A, "alive", "w1.sock"))]
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
    assert run(state, Constructed(which, "w2.sock")) == [DropArguments(which)]
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
        handle(state, Constructed(A, "w1.sock"), 0.0)


def test_who_let_go_of_its_handles_is_told_no_more() -> None:
    state = State()
    run(state, Watched(DRIVER, A))
    run(state, Watched(OTHER, A))
    run(state, Created(spec()))
    unwatch(state, OTHER, A)
    unwatch(state, OTHER, A)
    assert run(state, Constructed(A, "w1.sock")) == [DropArguments(A), Tell(DRIVER, ActorUpdate(A, "alive", "w1.sock"))]


def up(state: State, **changes: Any) -> State:
    """A is alive, and the driver watches it."""
    run(state, Watched(DRIVER, A))
    run(state, Created(spec(**changes)))
    run(state, Constructed(A, "w1.sock"))
    return state


def restarting(reason: str) -> ActorUpdate:
    return ActorUpdate(A, "restarting", "", reason)


def test_an_actor_that_died_is_constructed_again_as_often_as_it_may_be() -> None:
    """
    1. its arguments are kept while it may be restarted
    2. it dies after a while: it is started again at once, and who watches hears so
    3. it is up again, for the last time: its arguments may go
    4. it dies: that was it
    """
    state = up(State(), max_restarts=1)
    assert run(state, Died(A, "crash"), now=60.0) == [
        VacateActor(A),
        StartActor(A),
        Tell(DRIVER, restarting("crash")),
    ]
    assert run(state, Watched(OTHER, A)) == [Tell(OTHER, restarting("crash"))]
    alive = ActorUpdate(A, "alive", "w2.sock", "crash")
    assert run(state, Constructed(A, "w2.sock", restarts=1), now=61.0) == [
        DropArguments(A),
        Tell(DRIVER, alive),
        Tell(OTHER, alive),
    ]
    told = dead(A, "again", address="w2.sock")
    assert run(state, Died(A, "again"), now=90.0) == [StopActor(A), Tell(DRIVER, told), Tell(OTHER, told)]


def test_words_of_an_earlier_life_mean_nothing() -> None:
    state = up(State(), max_restarts=-1)
    run(state, Died(A, "crash"), now=60.0)
    assert run(state, Constructed(A, "w1.sock", restarts=0)) == []
    assert run(state, InitRaised(A, ERROR, restarts=0)) == []
    assert run(state, Saved(A, b"oid", Value(b"x"), restarts=0)) == []
    assert state.actors[A].state == "restarting"


def test_an_actor_that_dies_at_once_again_and_again_waits_longer_each_time() -> None:
    """
    1. the first time it is started at once, the second after 0.1 s, then twice as long each time, 10 s at most
    2. a due time of an earlier life does nothing, nor does one that comes twice
    3. when it was up for long enough, all begins anew
    """
    state = up(State(), max_restarts=-1)
    assert StartActor(A) in run(state, Died(A, "crash"), now=0.1)
    waits = []
    for life in range(1, 12):
        commands = run(state, Died(A, "crash"), now=0.2)
        later = next(command for command in commands if isinstance(command, StartLater))
        waits.append(later.after_s)
        assert run(state, RestartDue(A, life)) == []
        assert run(state, RestartDue(A, life + 1)) == [StartActor(A)]
        assert run(state, RestartDue(A, life + 1)) == []
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, 10.0]
    run(state, Constructed(A, "w9.sock", restarts=12), now=1.0)
    assert StartActor(A) in run(state, Died(A, "crash"), now=2.0)


def test_a_crash_of_the_constructor_counts_as_a_restart() -> None:
    state = State()
    run(state, Watched(DRIVER, A))
    run(state, Created(spec(max_restarts=1)))
    assert run(state, Died(A, "crash")) == [VacateActor(A), StartActor(A), Tell(DRIVER, restarting("crash"))]
    assert run(state, Died(A, "crash")) == [StopActor(A), Tell(DRIVER, dead(A, "crash"))]


def test_a_constructor_that_raises_is_not_tried_again_not_even_in_a_later_life() -> None:
    state = up(State(), max_restarts=-1)
    run(state, Died(A, "crash"))
    told = dead(A, "its constructor raised", ERROR)
    assert run(state, InitRaised(A, ERROR, restarts=1)) == [StopActor(A), Tell(DRIVER, told)]


def test_kill_is_for_good_unless_it_says_otherwise() -> None:
    state = up(State(), max_restarts=2)
    again = [VacateActor(A), StartActor(A), Tell(DRIVER, restarting("killed"))]
    for _ in range(2):  # each time at once: that is no crash loop
        assert run(state, Killed(A, "killed", no_restart=False)) == again
    assert run(state, Killed(A, "killed")) == [StopActor(A), Tell(DRIVER, dead(A, "killed"))]
    assert run(state, Died(A, "late news")) == []
    state = up(State())
    told = dead(A, "killed", address="w1.sock")
    assert run(state, Killed(A, "killed", no_restart=False)) == [StopActor(A), Tell(DRIVER, told)]


def test_a_kill_with_restart_that_overtakes_the_creation_uses_up_a_restart() -> None:
    state = State()
    run(state, Killed(A, "killed", no_restart=False))
    assert run(state, Created(spec(max_restarts=1))) == [StartActor(A)]
    assert state.actors[A].spec.restarts == 1
    state = State()
    run(state, Killed(A, "killed", no_restart=False))
    assert run(state, Created(spec())) == [StopActor(A)]


def test_an_actor_that_goes_on_purpose_is_not_restarted() -> None:
    state = up(State(), max_restarts=-1)
    told = dead(A, "exit_actor()", address="w1.sock")
    assert run(state, Ended(A, "exit_actor()", leaving=True)) == [DismissActor(A), Tell(DRIVER, told)]


def test_an_actor_that_nobody_holds_is_not_restarted() -> None:
    state = up(State(), max_restarts=-1)
    run(state, Died(A, "crash"))
    told = dead(A, "all handles to it are gone")
    assert run(state, Unheld(A)) == [DismissActor(A), Tell(DRIVER, told)]
    assert run(state, RestartDue(A, 1)) == []


def test_the_newest_checkpoint_goes_with_the_actor_into_its_next_life() -> None:
    state = up(State(), max_restarts=1)
    first, second = Value(b"1"), Value(b"2")
    assert run(state, Saved(A, b"one", first, restarts=0)) == [SwapCheckpoint(A, b"one", b"")]
    assert run(state, Saved(A, b"two", second, restarts=0)) == [SwapCheckpoint(A, b"two", b"one")]
    run(state, Died(A, "crash"))
    assert state.actors[A].spec.checkpoint == second
    run(state, Constructed(A, "w2.sock", restarts=1))
    assert run(state, Saved(A, b"three", first, restarts=1)) == []  # nobody will go on from it


def test_the_name_of_an_actor_stays_while_it_is_restarted() -> None:
    state = State()
    reserve_name(state, "", "n", Name(A, "Counter", {}))
    up(state, max_restarts=1)
    run(state, Died(A, "crash"))
    assert find(state, "", "n") is not None
    run(state, Died(A, "crash"))
    assert find(state, "", "n") is None


processes = st.sampled_from([DRIVER, WORKER, OTHER])
ids = st.builds(actor_id, processes, st.integers(1, 2))


class Directory(RuleBasedStateMachine):
    """Any events in any order. Beyond `check`: who watches hears the last word, once, and nobody speaks after it."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.heard: dict[tuple[bytes, bytes], str] = {}  # (process, actor_id) -> last state told since it watches
        self.now = 0.0
        self.constructing: dict[bytes, int] = {}  # -> in which of its lives
        self.due: dict[bytes, int] = {}  # waits before its next life
        self.gone: set[bytes] = set()

    def feed(self, event: Event) -> list[Command]:
        commands = handle(self.state, event, self.now)
        for command in commands:
            match command:
                case Tell(process, update):
                    assert process not in self.gone
                    assert self.heard.get((process, update.actor_id)) != "dead", "it died twice"
                    self.heard[process, update.actor_id] = update.state
                case StartActor(which):
                    assert which not in self.constructing, "it has two lives at once"
                    self.constructing[which] = self.state.actors[which].spec.restarts
                case StartLater(which, restarts):
                    self.due[which] = restarts
                case VacateActor(which) | StopActor(which) | DismissActor(which):
                    self.constructing.pop(which, None)
        return commands

    @rule(seconds=st.sampled_from([0.1, 0.6, 30.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule(which=ids, detached=st.booleans(), failed=st.booleans(), max_restarts=st.integers(-1, 2))
    def created(self, which: bytes, detached: bool, failed: bool, max_restarts: int) -> None:
        if which[:8] not in self.gone and which not in self.forgotten:
            error = ERROR if failed else None
            self.feed(Created(spec(which, detached=detached, error=error, max_restarts=max_restarts)))
            self.created_once = self.created_once | {which}

    created_once: frozenset[bytes] = frozenset()
    forgotten: frozenset[bytes] = frozenset()

    @precondition(lambda self: self.constructing)
    @rule(data=st.data(), raises=st.booleans())
    def constructor_ends(self, data: st.DataObject, raises: bool) -> None:
        which = data.draw(st.sampled_from(sorted(self.constructing)))
        restarts = self.constructing.pop(which)
        self.feed(InitRaised(which, ERROR, restarts) if raises else Constructed(which, "sock", restarts))
        assert self.state.actors[which].state == ("dead" if raises else "alive")

    @rule(which=ids, restarts=st.integers(0, 2))
    def a_word_of_an_earlier_life(self, which: bytes, restarts: int) -> None:
        actor = self.state.actors.get(which)
        if actor is not None and restarts < actor.spec.restarts:
            before = actor.state
            assert self.feed(Constructed(which, "old", restarts)) == []
            assert self.feed(InitRaised(which, ERROR, restarts)) == []
            assert self.feed(Saved(which, b"old", ERROR, restarts)) == []
            assert actor.state == before

    @rule(which=ids, reason=st.sampled_from(["a", "b"]), no_restart=st.booleans())
    def killed(self, which: bytes, reason: str, no_restart: bool) -> None:
        if which not in self.forgotten:
            self.feed(Killed(which, reason, no_restart))
            actor = self.state.actors.get(which)
            assert actor is None or actor.state in (("dead",) if no_restart else ("dead", "restarting"))

    @rule(which=ids)
    def died(self, which: bytes) -> None:
        self.feed(Died(which, "it crashed"))
        actor = self.state.actors.get(which)
        assert actor is None or actor.state in ("dead", "restarting")

    @precondition(lambda self: self.due)
    @rule(data=st.data())
    def restart_is_due(self, data: st.DataObject) -> None:
        which = data.draw(st.sampled_from(sorted(self.due)))
        self.feed(RestartDue(which, self.due.pop(which)))

    @rule(which=ids, oid=st.sampled_from([b"one", b"two"]), restarts=st.integers(0, 2))
    def saved(self, which: bytes, oid: bytes, restarts: int) -> None:
        self.feed(Saved(which, oid, Value(oid), restarts))

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
        for which, actor in self.state.actors.items():
            if actor.state in ("pending", "restarting"):
                assert which in self.constructing or which in self.due, f"nobody will ever start it: {actor}"


TestDirectory = Directory.TestCase
