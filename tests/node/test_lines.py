"""Lines between nodes over connections that break: stories, and any order of events."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aioray_node.lines import (
    CONFIRM_EVERY,
    CONFIRM_WITHIN_S,
    Came,
    Command,
    Confirm,
    Confirmed,
    Cut,
    Deliver,
    Event,
    Opened,
    Say,
    Send,
    State,
    Tick,
    WakeAt,
    check,
    fits,
    handle,
)


def run(state: State, event: Event, now: float = 0.0) -> list[Command]:
    commands = handle(state, event, now)
    check(state)
    return commands


def test_what_is_said_before_there_is_a_connection_is_said_when_there_is() -> None:
    state = State()
    assert run(state, Say("a")) == []
    assert run(state, Opened(0, 0)) == [Confirm(0), Send("a")]
    assert run(state, Say("b")) == [Send("b")]


def test_after_a_cut_only_what_was_not_heard_is_said_again() -> None:
    state = State()
    run(state, Opened(0, 0))
    for word in "abc":
        run(state, Say(word))
    run(state, Cut())
    assert run(state, Say("d")) == []
    assert state.first == 0
    assert run(state, Opened(0, heard=2)) == [Confirm(0), Send("c"), Send("d")]


def test_what_has_come_before_is_skipped() -> None:
    state = State()
    run(state, Opened(0, 0))
    run(state, Came("a"))
    run(state, Came("b"))
    run(state, Cut())
    assert run(state, Opened(first=1, heard=0)) == [Confirm(2)]
    assert run(state, Came("b")) == []
    assert run(state, Came("c")) == [Deliver("c"), WakeAt(CONFIRM_WITHIN_S)]


def test_many_words_are_confirmed_at_once_and_few_in_a_while() -> None:
    state = State()
    run(state, Opened(0, 0))
    for _ in range(CONFIRM_EVERY - 1):
        run(state, Came("a"))
    assert run(state, Came("a")) == [Confirm(CONFIRM_EVERY), Deliver("a")]
    assert run(state, Tick(), 2 * CONFIRM_WITHIN_S) == []
    assert run(state, Came("a"), 3.0) == [Deliver("a"), WakeAt(3.0 + CONFIRM_WITHIN_S)]
    assert run(state, Tick(), 3.0) == []
    assert run(state, Tick(), 3.0 + CONFIRM_WITHIN_S) == [Confirm(CONFIRM_EVERY + 1)]


def test_what_is_confirmed_is_forgotten() -> None:
    state = State()
    run(state, Opened(0, 0))
    for word in "abc":
        run(state, Say(word))
    run(state, Confirmed(2))
    assert (state.first, list(state.kept)) == (2, ["c"])


def test_a_side_that_has_lost_words_or_speaks_of_another_line_does_not_fit() -> None:
    state = State()
    run(state, Opened(0, 0))
    for word in "abc":
        run(state, Say(word))
    run(state, Confirmed(2))
    run(state, Came("x"))
    assert fits(state, first=1, heard=3)
    assert fits(state, first=0, heard=2)
    assert not fits(state, first=0, heard=1)  # that word is forgotten here
    assert not fits(state, first=0, heard=4)  # that was never said
    assert not fits(state, first=2, heard=2)  # one is missing in between
    assert not fits(state, first=-1, heard=2)


@dataclass
class Connection:
    """What is on its way to each side, and which side has hung up."""

    to: tuple[deque[Any], deque[Any]] = field(default_factory=lambda: (deque(), deque()))
    closed: list[bool] = field(default_factory=lambda: [False, False])


class TwoSides(RuleBasedStateMachine):
    """Side 0 dials, side 1 answers. Connections are cut with anything on its way: what is said comes once, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sides = [State(), State()]
        self.current: list[Connection | None] = [None, None]
        self.coming: list[Connection] = []  # dialled, and not answered
        self.said: list[list[int]] = [[], []]
        self.came: list[list[int]] = [[], []]

    def feed(self, side: int, event: Event) -> None:
        for command in handle(self.sides[side], event, self.now):
            match command:
                case Send() | Confirm():
                    connection = self.current[side]
                    assert connection is not None
                    if not connection.closed[1 - side]:
                        connection.to[1 - side].append(command)
                case Deliver(message):
                    self.came[side].append(message)

    def hang_up(self, side: int) -> None:
        connection, self.current[side] = self.current[side], None
        if connection is not None:
            connection.closed[side] = True
            connection.to[side].clear()
            self.feed(side, Cut())

    @rule(side=st.sampled_from([0, 1]), count=st.integers(1, 3))
    def say(self, side: int, count: int) -> None:
        for _ in range(count):
            word = len(self.said[side])
            self.said[side].append(word)
            self.feed(side, Say(word))

    @rule()
    def dial(self) -> None:
        if self.current[0] is None:
            connection = self.current[0] = Connection()
            self.coming.append(connection)
            dialler = self.sides[0]
            connection.to[1].append((dialler.first, dialler.heard))
            self.feed(0, Opened(dialler.heard, dialler.first))

    @precondition(lambda self: self.coming)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """Connections may be answered in another order than they were made in."""
        self.answer_one(data.draw(st.integers(0, len(self.coming) - 1)))

    def answer_one(self, index: int) -> None:
        connection = self.coming.pop(index)
        first, heard = connection.to[1].popleft()
        if not fits(self.sides[1], first, heard):
            assert connection is not self.current[0], "only what was given up may be refused"
            connection.closed[1] = True
            return
        self.hang_up(1)
        self.current[1] = connection
        self.feed(1, Opened(first, heard))

    @rule(side=st.sampled_from([0, 1]), count=st.integers(1, 5))
    def carry(self, side: int, count: int) -> None:
        """Some of what is on its way comes; at the end of it the end of the connection, if the other side hung up."""
        for _ in range(count):
            connection = self.current[side]
            if connection is None:
                return
            if not connection.to[side]:
                if connection.closed[1 - side]:
                    self.hang_up(side)
                return
            match connection.to[side].popleft():
                case Send(message):
                    self.feed(side, Came(message))
                case Confirm(heard):
                    self.feed(side, Confirmed(heard))

    @rule(side=st.sampled_from([0, 1]), kept=st.integers(0, 5))
    def cut(self, side: int, kept: int) -> None:
        """One side finds the connection broken. Of what it has sent the first few may still come."""
        connection = self.current[side]
        self.hang_up(side)
        if connection is not None and connection not in self.coming:
            while len(connection.to[1 - side]) > kept:
                connection.to[1 - side].pop()

    @rule(after_s=st.floats(0, 2))
    def wait(self, after_s: float) -> None:
        self.now += after_s
        for side in (0, 1):
            self.feed(side, Tick())

    @invariant()
    def each_hears_once_and_in_order(self) -> None:
        for side in (0, 1):
            check(self.sides[side])
            assert self.came[side] == self.said[1 - side][: len(self.came[side])]

    def teardown(self) -> None:
        for _ in range(3):  # the ends of old connections, a new one, and a while later
            for _ in range(3):
                self.dial()
                while self.coming:
                    self.answer_one(0)
                self.carry(1, 1000)
                self.carry(0, 1000)
            self.wait(CONFIRM_WITHIN_S)
        assert self.came == self.said[::-1]
        assert not any(state.kept for state in self.sides)


TestTwoSides = TwoSides.TestCase
