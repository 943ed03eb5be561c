"""What a node tells the GCS: what has changed, not too often; and that it lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioray.runtime.reactor import Reactor
from aioray.wire.gcs import Admitted, Delta, Demand, Join, Leave, Refused, Report, Resync
from aioray_node.scheduling.resources import UNIT
from tests.gcs.stage import CPU, StagedNode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioray.wire.gcs import AnyNodeFrame


class Member:
    """A node that was admitted, what it has said, and a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.reactor = Reactor("stage", clock=lambda: self.now)
        self.node = StagedNode("a", self.reactor)
        self.said: list[AnyNodeFrame] = []
        self.node.membership.connected(self.said.append)
        self.node.membership.hear(Admitted("gcs", report_interval_s=0.1, heartbeat_interval_s=2.0))

    def has(self, cpus: float) -> None:
        self.node.load.free = {"CPU": round(cpus * UNIT)}
        self.node.membership.load_changed()
        self.reactor.poll_once(0)

    def take(self) -> list[AnyNodeFrame]:
        said, self.said[:] = list(self.said), []
        return said

    def advance(self, seconds: float, step_s: float = 0.01) -> None:
        for _ in range(round(seconds / step_s)):
            self.now += step_s
            self.reactor.poll_once(0)


@pytest.fixture
async def member() -> AsyncIterator[Member]:
    made = Member()
    yield made
    made.reactor.close()


async def test_it_joins_with_all_it_has(member: Member) -> None:
    (join,) = member.take()
    assert isinstance(join, Join)
    assert (join.facts.node_id, join.available, join.seq) == ("a", CPU, 1)


async def test_a_change_after_a_pause_is_told_at_once_and_later_ones_together(member: Member) -> None:
    member.advance(1)
    member.take()
    member.has(1)
    assert member.take() == [Report(2, {"CPU": UNIT})]
    for tenths in range(9, 0, -1):
        member.has(tenths / 10)
    assert member.take() == []
    member.advance(0.15)
    assert member.take() == [Report(3, {"CPU": UNIT // 10})]


async def test_what_is_back_as_it_was_is_not_told(member: Member) -> None:
    """Thousands of short tasks: taken and given back between two looks. Nor are there more looks than intervals."""
    member.advance(1)
    member.take()
    looks = 0
    available = member.node.load.available

    def counted() -> dict[str, int]:
        nonlocal looks
        looks += 1
        return available()

    member.node.load.available = counted  # type: ignore[method-assign]
    for _ in range(100):
        member.node.membership.load_changed()
        member.advance(0.01)
    assert member.take() == []
    assert looks <= 11


async def test_who_has_nothing_to_say_says_that_it_lives(member: Member) -> None:
    member.take()
    member.advance(6.5, step_s=0.05)
    assert member.take() == [Report(2), Report(3), Report(4)]


async def test_what_waits_is_told_with_why_and_again_when_it_is_other(member: Member) -> None:
    member.take()
    member.advance(1)
    waits = Demand({"GPU": UNIT}, 2, "no GPU here")
    member.node.load.demands = (waits,)
    member.has(2)
    member.advance(0.6)
    assert member.take() == [Report(2, waiting=(waits,))]
    member.node.load.demands = (Demand({"GPU": UNIT}, 2, "the same, in other words"),)
    member.has(2)
    member.advance(0.6)
    assert member.take() == []
    member.node.load.demands = ()
    member.has(2)
    member.advance(0.6)
    assert member.take() == [Report(3, waiting=())]


async def test_reports_are_rarer_in_a_large_cluster(member: Member) -> None:
    member.take()
    for number in range(319):
        member.node.view.nodes[f"n{number}"] = member.node.view.nodes["a"]
    member.advance(0.2)
    for tenths in range(10, 0, -1):
        member.has(tenths / 10)
        member.advance(0.2)
    assert len(member.take()) == 2, "one a second, at 320 nodes"


async def test_a_gap_is_answered_by_asking_for_everything(member: Member) -> None:
    member.take()
    member.node.membership.hear(Delta("gcs", 5, 6))
    assert member.take() == [Resync()]


async def test_without_a_line_it_keeps_still_and_it_introduces_itself_again_with_what_it_knows(member: Member) -> None:
    member.node.membership.hear(Delta("gcs", 0, 7))
    member.take()
    member.node.membership.disconnected()
    member.has(1)
    member.advance(5)
    assert member.take() == []
    member.node.membership.connected(member.said.append)
    (join,) = member.take()
    assert isinstance(join, Join)
    assert (join.epoch, join.version, join.available, join.seq) == ("gcs", 7, {"CPU": UNIT}, 2)


async def test_it_says_goodbye_once(member: Member) -> None:
    member.take()
    member.node.membership.leave("it was stopped")
    member.node.membership.leave("it was stopped")
    member.advance(5)
    assert member.take() == [Leave("it was stopped")]


async def test_a_refusal_is_passed_on(member: Member) -> None:
    reasons: list[str] = []
    member.node.membership.on_refused = reasons.append
    member.node.membership.hear(Refused("declared dead"))
    assert reasons == ["declared dead"]
    assert not member.node.membership.is_admitted
