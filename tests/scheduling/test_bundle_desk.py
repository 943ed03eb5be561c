"""Bundles on one node, as the head asks for them: `bundle_desk.py` with a node's real lease desk."""

from __future__ import annotations

import pathlib
import tempfile
from typing import TYPE_CHECKING

import pytest

from aioray_node.scheduling.bundle_desk import BundleDesk
from tests.node.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B = b"a" * 16, b"b" * 16
ONE, TWO = {"CPU": 10_000}, {"CPU": 20_000}


class Bundles:
    """A node of two CPUs; `answers` has what it said: which attempt, and whether it holds the bundle."""

    def __init__(self, stage: Stage) -> None:
        self.leases = stage.node._desks.leases
        self.desk = BundleDesk(self.leases)
        self.answers: list[tuple[int, bool]] = []

    def prepare(self, attempt: int, demand: dict[str, int], *, group: bytes = A, patient: bool = False) -> None:
        def answer(held: bool) -> None:  # of a callback
            self.answers.append((attempt, held))

        self.desk.prepare(group, attempt, 0, demand, patient=patient, answer=answer)

    @property
    def free(self) -> int:
        return self.leases.resources.available["CPU"] // 10_000


@pytest.fixture
def bundles(nothing_left: None) -> Iterator[Bundles]:
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(pathlib.Path(directory), num_cpus=2)
        with stage.reactor.lock:
            yield Bundles(stage)
        stage.close()


def test_a_bundle_is_held_or_refused_at_once(bundles: Bundles) -> None:
    bundles.prepare(1, ONE)
    bundles.prepare(1, TWO, group=B)
    assert bundles.answers == [(1, True), (1, False)]
    assert bundles.free == 1
    bundles.desk.give_back(A, 1, 0)
    assert bundles.free == 2


def test_what_is_said_again_after_a_line_broke_is_answered_again_and_books_nothing_more(bundles: Bundles) -> None:
    """
    1. held, and asked again: the same answer
    2. booked, and asked again: nothing is held beside it, and nothing of it is given back
    """
    bundles.prepare(1, ONE)
    bundles.prepare(1, ONE)
    assert bundles.answers == [(1, True), (1, True)]
    assert bundles.free == 1
    for _ in range(2):
        bundles.desk.commit(A, 0)
        bundles.prepare(1, ONE)
        bundles.desk.give_back(A, 1, 0)
    assert bundles.free == 1
    assert bundles.leases.has_bundle(A, 0)
    for _ in range(2):
        bundles.desk.drop(A)
    assert bundles.free == 2


def test_of_two_attempts_the_later_one_counts(bundles: Bundles) -> None:
    bundles.prepare(1, ONE)
    bundles.prepare(2, TWO)
    assert bundles.free == 0
    bundles.prepare(1, ONE)
    bundles.desk.give_back(A, 1, 0)
    assert bundles.answers == [(1, True), (2, True), (1, False)]
    assert bundles.free == 0
    bundles.desk.give_back(A, 2, 0)
    assert bundles.free == 2


def test_who_is_patient_is_answered_when_there_is_room_over_the_line_on_which_it_asked_last(bundles: Bundles) -> None:
    bundles.prepare(1, TWO, group=B)
    bundles.prepare(1, ONE, patient=True)
    first = list(bundles.answers)
    bundles.prepare(1, ONE, patient=True)
    assert bundles.answers == first == [(1, True)]
    bundles.desk.give_back(B, 1, 0)
    assert bundles.answers == [(1, True), (1, True)]
    assert bundles.free == 1


def test_what_the_node_can_never_have_is_refused_even_to_who_is_patient(bundles: Bundles) -> None:
    bundles.prepare(1, {"CPU": 30_000})
    bundles.prepare(2, {"CPU": 30_000}, patient=True)
    assert bundles.answers == [(1, False), (2, False)]
    bundles.desk.give_back(A, 1, 0)
    assert bundles.free == 2
