"""The plan of a compiled graph, on paper: nobody waits for ever, and everybody gets what it takes."""

from __future__ import annotations

import collections
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.dag import flight
from aioray.dag.flight import Flight
from aioray.dag.schedule import DRIVER, TICK, ActorPart, PlannedCall, Schedule, Turn, schedule, sole_taker


def test_a_chain_hands_its_value_from_actor_to_actor() -> None:
    plan = schedule([PlannedCall(1, 0, (0,)), PlannedCall(2, 1, (1,))], inputs=[0], outputs=[2])
    assert plan.gives == {0: (0,)}
    assert plan.takes == {2: 1}
    assert plan.parts == (
        ActorPart((Turn(1, (0,), (0,), False, (1,)),), (DRIVER,), (1,)),
        ActorPart((Turn(2, (1,), (1,), False, (DRIVER,)),), (0,), (DRIVER,)),
    )


def test_a_value_stays_with_the_actor_that_made_it_until_its_last_call_that_takes_it() -> None:
    calls = [PlannedCall(1, 0, (0,)), PlannedCall(2, 0, (1,)), PlannedCall(3, 0, (1, 2))]
    (part,) = schedule(calls, inputs=[0], outputs=[3]).parts
    assert [(turn.reads, turn.drops, turn.keeps) for turn in part.turns] == [
        ((0,), (0,), True),
        ((), (), True),
        ((), (1, 2), False),
    ]


def test_an_actor_that_takes_nothing_waits_for_the_pass_to_begin() -> None:
    plan = schedule([PlannedCall(0, 0, ()), PlannedCall(1, 1, (0,))], inputs=[], outputs=[1])
    assert plan.gives == {TICK: (0,)}
    assert plan.parts[0].turns[0].reads == (TICK,)


def test_a_value_of_the_input_goes_once_to_each_actor() -> None:
    calls = [PlannedCall(1, 0, (0,)), PlannedCall(2, 0, (0,)), PlannedCall(3, 1, (0, 0))]
    plan = schedule(calls, inputs=[0], outputs=[1, 2, 3])
    assert plan.gives == {0: (0, 1)}
    assert [turn.reads for part in plan.parts for turn in part.turns] == [(0,), (), (0,)]


def test_the_actor_that_is_given_all_that_the_driver_gives_is_known_where_it_is_one() -> None:
    chain = [PlannedCall(2, 0, (0, 1)), PlannedCall(3, 1, (2,))]
    assert sole_taker(schedule(chain, inputs=[0, 1], outputs=[3])) == 0
    fan = [PlannedCall(1, 0, (0,)), PlannedCall(2, 1, (0,))]
    assert sole_taker(schedule(fan, inputs=[0], outputs=[1, 2])) is None


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ValueError, match="needs value 2, which is not made before it"):
        schedule([PlannedCall(1, 0, (2,))], inputs=[0], outputs=[1])
    with pytest.raises(ValueError, match="output 0 is made by no call"):
        schedule([PlannedCall(1, 0, (0,))], inputs=[0], outputs=[0])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[PlannedCall], list[int], list[int]]:
    inputs = list(range(draw(st.integers(0, 3))))
    calls: list[PlannedCall] = []
    for number in range(len(inputs), len(inputs) + draw(st.integers(1, 8))):
        needs = draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else []
        calls.append(PlannedCall(number, draw(st.integers(0, 3)), tuple(needs)))
    renumbered = {actor: at for at, actor in enumerate(dict.fromkeys(call.actor for call in calls))}
    calls = [PlannedCall(call.number, renumbered[call.actor], call.needs) for call in calls]
    numbers = [call.number for call in calls]
    return calls, inputs, draw(st.lists(st.sampled_from(numbers), min_size=1, unique=True))


@dataclass
class Actor:
    """One that follows its part, a turn at a time."""

    part: ActorPart
    at: int = 0
    run: int = 0


class Simulation:
    """Actors that follow a schedule over channels; whoever can go on may be the next to do so."""

    def __init__(self, calls: list[PlannedCall], plan: Schedule) -> None:
        self.needs = {call.number: call.needs for call in calls}
        self.actors = [Actor(part) for part in plan.parts]
        self.channels: dict[tuple[int, int], collections.deque[tuple[int, str]]] = collections.defaultdict(
            collections.deque
        )
        self.values: list[dict[int, str]] = [{} for _ in plan.parts]
        self.done: dict[int, dict[int, str]] = collections.defaultdict(dict)

    def can_go_on(self) -> list[int]:
        return [
            index
            for index, actor in enumerate(self.actors)
            if all(self.channels[index, read] for read in actor.part.turns[actor.at].reads)
        ]

    def go_on(self, index: int) -> None:
        actor, values = self.actors[index], self.values[index]
        turn = actor.part.turns[actor.at]
        for read in turn.reads:
            run, values[read] = self.channels[index, read].popleft()
            assert run == actor.run
        result = f"{turn.number}({','.join(values[need] for need in self.needs[turn.number])})"
        for taker in turn.sends:
            if taker == DRIVER:
                assert turn.number not in self.done[actor.run]
                self.done[actor.run][turn.number] = result
            else:
                self.channels[taker, turn.number].append((actor.run, result))
        if turn.keeps:
            values[turn.number] = result
        for drop in turn.drops:
            values.pop(drop, None)
        actor.at += 1
        if actor.at == len(actor.part.turns):
            assert not values, f"kept after the pass: {values}"
            actor.at, actor.run = 0, actor.run + 1


def computed(calls: list[PlannedCall], inputs: list[int], run: int) -> dict[int, str]:
    """What a graph gives when it is simply computed."""
    values = {number: f"in{number}.{run}" for number in inputs}
    for call in calls:
        values[call.number] = f"{call.number}({','.join(values[need] for need in call.needs)})"
    return values


@given(graphs(), st.integers(1, 4), st.data())
def test_all_passes_of_any_graph_end_whoever_goes_first(
    graph: tuple[list[PlannedCall], list[int], list[int]], runs: int, data: st.DataObject
) -> None:
    calls, inputs, outputs = graph
    plan = schedule(calls, inputs, outputs)
    simulation = Simulation(calls, plan)
    begun = 0
    while True:
        choices: list[int] = simulation.can_go_on() + ([DRIVER] if begun < runs else [])
        if not choices:
            break
        choice = data.draw(st.sampled_from(choices))
        if choice == DRIVER:
            for value, takers in plan.gives.items():
                for taker in takers:
                    simulation.channels[taker, value].append((begun, f"in{value}.{begun}" if value != TICK else ""))
            begun += 1
        else:
            simulation.go_on(choice)
    assert [actor.run for actor in simulation.actors] == [runs] * len(simulation.actors)
    assert not any(simulation.channels.values())
    for run in range(runs):
        expected = computed(calls, inputs, run)
        assert simulation.done[run] == {output: expected[output] for output in outputs}


@given(graphs())
def test_neighbours_agree_on_who_hands_to_whom(graph: tuple[list[PlannedCall], list[int], list[int]]) -> None:
    plan = schedule(*graph)
    links = {(at, target) for at, part in enumerate(plan.parts) for target in part.targets}
    links |= {(DRIVER, taker) for takers in plan.gives.values() for taker in takers}
    assert links == {(source, at) for at, part in enumerate(plan.parts) for source in part.sources} | {
        (maker, DRIVER) for maker in plan.takes.values()
    }
    assert all(part.sources for part in plan.parts), "nobody would tell it that the plan is over"


@given(st.integers(1, 3), st.lists(st.integers(0, 20), max_size=60))
def test_no_more_passes_are_under_way_than_may_be(limit: int, steps: list[int]) -> None:
    state, seq = Flight(limit), 0
    for step in steps:
        if step < 8:
            if state.has_room():
                seq += 1
                state.begin(seq, frozenset({0, 1}))
        elif state.missing:
            chosen = list(state.missing)[step % len(state.missing)]
            if step == 20:
                state.withdraw(chosen)
            else:
                output = min(state.missing[chosen])
                assert state.arrived(chosen, output) is (chosen not in state.missing)
        flight.check(state)
        assert state.has_room() is (len(state.missing) < limit)


def test_an_output_that_was_not_expected_is_an_error() -> None:
    state = Flight(2)
    state.begin(5, frozenset({1}))
    with pytest.raises(ValueError, match="output 2 of pass 5 was not expected"):
        state.arrived(5, 2)
    assert state.arrived(5, 1)
    with pytest.raises(ValueError, match="output 1 of pass 5"):
        state.arrived(5, 1)
