from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aioray_node.environments.fetching import (
    Ask,
    AskPiece,
    Command,
    Complete,
    Ended,
    Event,
    Found,
    GiveUp,
    Missing,
    PieceCame,
    PieceLost,
    State,
    TimeUp,
    Unpack,
    check,
    handle,
    is_under_way,
)
from aioray_node.environments.window import Window, pieces_of


def run(state: State, event: Event) -> list[Command]:
    commands = handle(state, event)
    check(state)
    return commands


def test_a_package_is_fetched_once_however_many_environments_need_it() -> None:
    """
    1. two environments need one package: the head is asked once
    2. its pieces come, a few at a time; when all are there it is unpacked
    3. one environment is complete, the other one waits for its second package
    """
    state = State()
    assert run(state, Missing("e1", ("a",))) == [Ask("a")]
    assert run(state, Missing("e2", ("a", "b"))) == [Ask("b")]
    asked = run(state, Found("a", "7", 5))
    assert asked == [AskPiece("a", "7", 1, index) for index in range(4)]
    assert run(state, PieceCame("a", 1)) == [AskPiece("a", "7", 1, 4)]
    assert [run(state, PieceCame("a", 1)) for _ in range(4)] == [[], [], [], [Unpack("a", 1)]]
    assert run(state, Ended("a", 1)) == [Complete("e1")]
    assert run(state, Found("b", "8", 1)) == [AskPiece("b", "8", 2, 0)]
    assert run(state, PieceCame("b", 2)) == [Unpack("b", 2)]
    assert run(state, Ended("b", 2)) == [Complete("e2")]
    assert state == State(attempts=2)


def test_what_cannot_be_had_is_told_to_those_who_need_it_and_tried_again_for_the_next() -> None:
    state = State()
    run(state, Missing("e1", ("a", "b")))
    run(state, Missing("e2", ("b",)))
    assert run(state, Found("a", error="no node has it")) == [GiveUp("e1", ("a",), "no node has it")]
    assert run(state, Missing("e3", ("a",))) == [Ask("a")]
    run(state, Found("b", "1", 1))
    assert run(state, Ended("b", 1, "the disk is full")) == [GiveUp("e2", ("b",), "the disk is full")]


def test_what_was_removed_from_the_store_meanwhile_is_asked_for_again_but_not_for_ever() -> None:
    """
    1. the second piece is gone: the head is asked again, and words of the first attempt mean nothing
    2. after the third time it is given up
    """
    state = State()
    run(state, Missing("e", ("a",)))
    run(state, Found("a", "1", 3))
    run(state, PieceCame("a", 1))
    assert run(state, PieceLost("a", 1, "it is gone")) == [Ask("a")]
    assert run(state, PieceLost("a", 1, "it is gone")) == []
    assert run(state, PieceCame("a", 1)) == []
    assert not is_under_way(state, "a", 1)
    assert run(state, Found("a", "2", 1)) == [AskPiece("a", "2", 2, 0)]
    assert run(state, Found("a", "2", 1)) == []
    run(state, PieceLost("a", 2, "it is gone"))
    run(state, Found("a", "3", 1))
    assert run(state, PieceLost("a", 3, "it is gone")) == [GiveUp("e", ("a",), "it is gone")]


def test_who_waits_too_long_is_told_and_the_package_is_there_for_the_next() -> None:
    state = State()
    run(state, Missing("e", ("a", "b")))
    run(state, Found("a", "1", 1))
    late = "it did not come in time (setup_timeout_seconds)"
    assert run(state, TimeUp("e")) == [GiveUp("e", ("a", "b"), late)]
    assert run(state, TimeUp("e")) == []
    assert run(state, Missing("e", ("a",))) == []
    run(state, PieceCame("a", 1))
    assert run(state, Ended("a", 1)) == [Complete("e")]


def test_bytes_go_in_as_few_pieces_as_can_be() -> None:
    assert [pieces_of(nbytes) for nbytes in (1, 1 << 20, (1 << 20) + 1)] == [1, 1, 2]
    window = Window(2)
    assert (list(window.next()), list(window.next()), window.is_over) == ([0, 1], [], False)


class Fetching(RuleBasedStateMachine):
    """Any order of events: nothing is asked for twice at a time, and each environment hears once."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.waiting: set[str] = set()
        self.asked: set[str] = set()  # at the head
        self.pieces: list[AskPiece] = []  # not answered yet
        self.unpacking: dict[str, int] = {}

    def feed(self, event: Event) -> None:
        for command in handle(self.state, event):
            match command:
                case Ask(name):
                    assert name not in self.asked
                    assert name not in self.unpacking
                    self.asked.add(name)
                case AskPiece():
                    assert command not in self.pieces
                    self.pieces.append(command)
                case Unpack(name, attempt):
                    assert name not in self.unpacking
                    self.unpacking[name] = attempt
                case Complete(environment) | GiveUp(environment):
                    self.waiting.remove(environment)
        check(self.state)

    @rule(environment=st.sampled_from("ef"), names=st.sets(st.sampled_from("abc"), min_size=1))
    def need(self, environment: str, names: set[str]) -> None:
        if environment not in self.waiting:
            self.waiting.add(environment)
            self.feed(Missing(environment, tuple(names)))

    @rule(environment=st.sampled_from("ef"))
    def time_is_up(self, environment: str) -> None:
        self.feed(TimeUp(environment))
        assert environment not in self.waiting

    @rule(pieces=st.integers(0, 9), data=st.data())
    def head_answers(self, pieces: int, data: st.DataObject) -> None:
        if self.asked:
            name = data.draw(st.sampled_from(sorted(self.asked)))
            self.asked.remove(name)
            self.feed(Found(name, "1", pieces) if pieces else Found(name, error="none"))

    @rule(outcome=st.sampled_from(["came", "lost", "broken"]), data=st.data())
    def piece_is_answered(self, outcome: str, data: st.DataObject) -> None:
        if self.pieces:
            piece = self.pieces.pop(data.draw(st.integers(0, len(self.pieces) - 1)))
            ends: dict[str, Event] = {
                "came": PieceCame(piece.name, piece.attempt),
                "lost": PieceLost(piece.name, piece.attempt, "gone"),
                "broken": Ended(piece.name, piece.attempt, "broken"),
            }
            self.feed(ends[outcome])

    @rule(works=st.booleans(), data=st.data())
    def unpacked(self, works: bool, data: st.DataObject) -> None:
        if self.unpacking:
            name = data.draw(st.sampled_from(sorted(self.unpacking)))
            self.feed(Ended(name, self.unpacking.pop(name), "" if works else "rubbish"))

    @invariant()
    def whoever_waits_is_waited_for(self) -> None:
        assert self.state.waiting.keys() == self.waiting
        current = {piece.name for piece in self.pieces if is_under_way(self.state, piece.name, piece.attempt)}
        assert self.state.fetches.keys() == self.asked | current | self.unpacking.keys()


TestFetching = Fetching.TestCase
