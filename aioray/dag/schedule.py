"""What a compiled graph does in each pass: who runs which calls, in what order, and who hands what to whom. Pure.

Values have numbers: those of the order in which the graph can run. An actor runs its calls in that order, pass after
pass, and takes in whatever arrives meanwhile; nobody waits for somebody later in the order, so nobody waits for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import field

from aioray.record import Record

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

DRIVER = -1  # among actors: who executes the graph
TICK = -1  # among values: a pass begins, for calls that take no value of it


class PlannedCall(Record, frozen=True):
    """One call of the graph, as the schedule sees it."""

    number: int  # of the value it makes
    actor: int
    needs: tuple[int, ...]  # numbers of the values that it takes


class Turn(Record, frozen=True):
    """A call in the life of its actor."""

    number: int
    reads: tuple[int, ...]  # values of others that are needed here for the first time in a pass
    drops: tuple[int, ...]  # values that nothing later in the pass needs here
    keeps: bool  # a later call of the same actor takes what it makes
    sends: tuple[int, ...]  # who else does: actors, and DRIVER


class ActorPart(Record, frozen=True):
    """What one actor does in each pass."""

    turns: tuple[Turn, ...]
    sources: tuple[int, ...]  # who hands values to it: actors, and DRIVER
    targets: tuple[int, ...]  # to whom it hands values


class Schedule(Record, frozen=True):
    parts: tuple[ActorPart, ...]
    gives: dict[int, tuple[int, ...]]  # the driver's values, TICK among them -> the actors that take them
    takes: dict[int, int]  # outputs -> the actors that make them


class _Draft(Record):
    calls: list[PlannedCall] = field(default_factory=list)
    reads: list[tuple[int, ...]] = field(default_factory=list)  # by call
    last_use: dict[int, int] = field(default_factory=dict)  # value -> index of the last call here that takes it


def schedule(calls: Sequence[PlannedCall], inputs: Collection[int], outputs: Collection[int]) -> Schedule:
    """Plan a graph. `calls` are in an order in which they can run; `inputs` are the driver's values.

    Raises ValueError when a call needs what is made after it, or by nobody.
    """
    maker: dict[int, int] = dict.fromkeys(inputs, DRIVER)
    takers: dict[int, dict[int, None]] = {}  # value -> who takes it, but for its maker; in order
    drafts = [_Draft() for _ in range(1 + max((call.actor for call in calls), default=-1))]
    for call in calls:
        draft = drafts[call.actor]
        needs = call.needs or (TICK,)
        reads = []
        for need in dict.fromkeys(needs):
            if need != TICK and need not in maker:
                raise ValueError(f"call {call.number} needs value {need}, which is not made before it")
            if maker.get(need, DRIVER) != call.actor and need not in draft.last_use:
                reads.append(need)
                takers.setdefault(need, {})[call.actor] = None
            draft.last_use[need] = len(draft.calls)
        draft.calls.append(call)
        draft.reads.append(tuple(reads))
        maker[call.number] = call.actor
    for output in outputs:
        if maker.get(output, DRIVER) == DRIVER:
            raise ValueError(f"output {output} is made by no call")
        takers.setdefault(output, {})[DRIVER] = None
    parts = tuple(_part(draft, maker, takers) for draft in drafts)
    gives = {value: tuple(some) for value, some in takers.items() if maker.get(value, DRIVER) == DRIVER}
    return Schedule(parts, gives, {output: maker[output] for output in outputs})


def _part(draft: _Draft, maker: dict[int, int], takers: dict[int, dict[int, None]]) -> ActorPart:
    turns = []
    for at, (call, reads) in enumerate(zip(draft.calls, draft.reads, strict=True)):
        drops = tuple(value for value, last in draft.last_use.items() if last == at)
        sends = tuple(takers.get(call.number, ()))
        turns.append(Turn(call.number, reads, drops, call.number in draft.last_use, sends))
    sources = dict.fromkeys(maker.get(value, DRIVER) for turn in turns for value in turn.reads)
    targets = dict.fromkeys(taker for turn in turns for taker in turn.sends)
    return ActorPart(tuple(turns), tuple(sources), tuple(targets))


def sole_taker(plan: Schedule) -> int | None:
    """The actor that is given all that the driver gives, where that is only one."""
    fed = {taker for takers in plan.gives.values() for taker in takers}
    return fed.pop() if len(fed) == 1 else None
