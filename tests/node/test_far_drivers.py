"""Drivers on machines without a node, which have the node read and write its shared memory for them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from aioray.wire.control import Answer, Read, Reserve, Reserved, Write
from tests.node.stage import DRIVER, Stage

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator


@pytest.fixture
def stage(tmp_path: pathlib.Path) -> Iterator[Stage]:
    with contextlib.closing(Stage(tmp_path)) as stage:
        yield stage


@pytest.mark.parametrize(
    ("offset", "nbytes", "words"),
    [(-64, 64, "no piece"), (0, 0, "no piece"), (0, 1 << 30, "no piece"), (1 << 20, 1, "does not lie within")],
)
def test_what_is_not_in_the_store_is_not_read(stage: Stage, offset: int, nbytes: int, words: str) -> None:
    driver = stage.join(DRIVER)
    driver.say(Read(7, stage.node.node_id, offset, nbytes))
    stage.settle()
    (answer,) = driver.take(Answer)
    assert (answer.req, answer.data) == (7, None)
    assert words in answer.error


def test_the_memory_of_a_node_that_is_not_beside_this_one_is_not_read(stage: Stage) -> None:
    driver = stage.join(DRIVER)
    driver.say(Read(1, "0123456789abcdef", 0, 64))
    stage.settle()
    assert "cannot be read from here" in driver.take(Answer)[0].error


def test_a_driver_writes_only_where_it_has_reserved(stage: Stage) -> None:
    stage.join(DRIVER)
    with stage.reactor.lock:
        place = stage.node.exchange(DRIVER, Reserve(128))
        assert isinstance(place, Reserved)
        for offset in (place.offset - 64, place.offset + 64, place.offset + 128):
            refused = stage.node.exchange(DRIVER, Write(offset, bytes(128)))
            assert isinstance(refused, Answer)
            assert "was not reserved" in refused.error


def test_only_drivers_read(stage: Stage) -> None:
    visitor = stage.join(b"visitor-", "visitor")
    visitor.say(Read(1, stage.node.node_id, 0, 64))
    stage.settle()
    assert visitor.connection.closed
