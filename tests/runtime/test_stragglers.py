"""Which calls get a copy, and when: the decisions, with a clock that tests move."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.runtime.stragglers import FLOOR_S, LEAST_FINISHED, MULTIPLIER, Durations, Look, Seen, Stragglers

LEAST_STEP_S, MOST_STEP_S, STEP = 0.05, 1.0, 0.1


def durations_of(*seconds: float) -> Durations:
    durations = Durations()
    for each in seconds:
        durations.add(each)
    return durations


def test_too_few_that_have_finished_say_nothing() -> None:
    durations = durations_of(*[1.0] * (LEAST_FINISHED - 1))
    assert durations.too_long_s() is None
    durations.add(1.0)
    assert durations.too_long_s() == MULTIPLIER


def test_one_exception_moves_nothing() -> None:
    assert durations_of(1.0, 1.0, 1000.0).too_long_s() == MULTIPLIER
    assert durations_of(0.0, 1.0, 1.0).too_long_s() == MULTIPLIER


def test_what_is_short_gets_the_floor() -> None:
    assert durations_of(0.001, 0.001, 0.001).too_long_s() == FLOOR_S


@given(st.lists(st.floats(0.0, 1e6), min_size=LEAST_FINISHED, max_size=300))
def test_the_newest_count(seconds: list[float]) -> None:
    median = statistics.median(seconds[-101:])
    assert durations_of(*seconds).too_long_s() == max(FLOOR_S, MULTIPLIER * median)


def test_a_call_gets_its_copy_when_it_has_run_for_too_long_since_it_was_seen() -> None:
    """
    1. call 7 is seen at 10.0; 2 s are too long, so the look that matters is at 12.0 at the latest
    2. shortly before nothing is due
    3. then it is
    """
    stragglers, seen = Stragglers(), Seen(7, 1, durations_of(1, 1, 1))
    assert stragglers.look([seen], 10.0) == Look([], 10.0 + LEAST_STEP_S)
    assert stragglers.look([seen], 11.95) == Look([], 12.0)
    assert stragglers.look([seen], 12.0).copy == [7]


def test_those_that_have_run_for_longest_come_first() -> None:
    stragglers, durations = Stragglers(), durations_of(1, 1, 1)
    stragglers.look([Seen(9, 1, durations)], 0.0)
    stragglers.look([Seen(9, 1, durations), Seen(8, 2, durations)], 0.5)
    assert stragglers.look([Seen(8, 2, durations), Seen(9, 1, durations)], 5.0).copy == [9, 8]


def test_on_another_worker_it_begins_anew() -> None:
    stragglers, durations = Stragglers(), durations_of(1, 1, 1)
    stragglers.look([Seen(7, 1, durations)], 0.0)
    assert stragglers.look([Seen(7, 2, durations)], 1.9).copy == []
    assert stragglers.look([Seen(7, 2, durations)], 2.5).copy == []
    assert stragglers.look([Seen(7, 2, durations)], 3.9).copy == [7]


def test_what_was_given_back_and_runs_again_begins_anew() -> None:
    stragglers, seen = Stragglers(), Seen(7, 1, durations_of(1, 1, 1))
    stragglers.look([seen], 0.0)
    stragglers.look([], 1.0)
    assert stragglers.look([seen], 2.0).copy == []


def test_looks_become_rare_while_nothing_new_runs() -> None:
    stragglers, seen = Stragglers(), Seen(7, 1, Durations())
    stragglers.begin(0.0)
    assert stragglers.look([], 0.0).again_at == LEAST_STEP_S
    assert stragglers.look([], 3.0).again_at == pytest.approx(3.3)
    assert stragglers.look([], 1000.0).again_at == 1000.0 + MOST_STEP_S
    assert stragglers.look([seen], 1001.0).again_at == 1001.0 + LEAST_STEP_S
    assert stragglers.look([seen], 1005.0).again_at == pytest.approx(1005.4)


@dataclass
class Call:
    begins_s: float
    needs_s: float
    copied_at: float | None = None


@dataclass
class World:
    """Calls that all run at once, on workers of their own; the clock goes from look to look."""

    calls: list[Call]
    durations: Durations = field(default_factory=Durations)
    now: float = 0.0

    def run(self) -> None:
        stragglers = Stragglers()
        stragglers.begin(self.now)
        finished: set[int] = set()
        for _ in range(100_000):
            for number, call in sorted(enumerate(self.calls), key=lambda each: each[1].begins_s + each[1].needs_s):
                if number not in finished and call.begins_s + call.needs_s <= self.now:
                    finished.add(number)
                    self.durations.add(call.needs_s)
            running = [
                Seen(number, number, self.durations)
                for number, call in enumerate(self.calls)
                if number not in finished and call.begins_s <= self.now and call.copied_at is None
            ]
            look = stragglers.look(running, self.now)
            for number in look.copy:
                assert self.calls[number].copied_at is None, "a second copy"
                assert number in {seen.seq for seen in running}
                self.calls[number].copied_at = self.now
            if len(finished) == len(self.calls):
                return
            assert look.again_at > self.now, "it would look for ever"
            self.now = look.again_at
        raise AssertionError("the clock stands still")


_calls = st.lists(st.builds(Call, st.floats(0, 20), st.floats(0.001, 30)), min_size=1, max_size=15)


@given(_calls, st.lists(st.floats(0.001, 5), min_size=LEAST_FINISHED, max_size=10))
def test_copies_are_made_of_stragglers_and_of_nothing_else_and_soon(calls: list[Call], before: list[float]) -> None:
    world = World(calls, durations_of(*before))
    world.run()
    least = FLOOR_S
    most = max(FLOOR_S, MULTIPLIER * max([*before, *(call.needs_s for call in calls)]))
    for call in calls:
        if call.copied_at is not None:
            ran_s = call.copied_at - call.begins_s
            assert ran_s >= least, "too soon"
            assert call.copied_at < call.begins_s + call.needs_s + MOST_STEP_S
        else:
            assert call.needs_s <= most + 2 * MOST_STEP_S, f"forgotten: {call}"


@given(st.floats(0, 1e6), st.floats(0.001, 100))
def test_a_lone_straggler_gets_its_copy_a_tenth_late_at_most(start: float, usual_s: float) -> None:
    straggler = Call(start + 0.01, 1e9)
    world = World([straggler], durations_of(usual_s, usual_s, usual_s), start)
    stragglers = Stragglers()
    stragglers.begin(start)
    while straggler.copied_at is None:
        running = [Seen(0, 0, world.durations)] if world.now >= straggler.begins_s else []
        look = stragglers.look(running, world.now)
        if look.copy:
            straggler.copied_at = world.now
        assert look.again_at > world.now
        world.now = look.again_at
    too_long_s = max(FLOOR_S, MULTIPLIER * usual_s)
    late_s = straggler.copied_at - straggler.begins_s - too_long_s
    assert -1e-6 < late_s <= LEAST_STEP_S + 1e-6
