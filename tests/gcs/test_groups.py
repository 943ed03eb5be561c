"""The head's directory of placement groups, as other nodes and its own lease desk have to do with it."""

from __future__ import annotations

import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from aioray.wire.control import Ack, GroupSpec, GroupUpdate, LeaseLost, LeaseRequest, RemoveGroup, WatchGroup
from aioray.wire.strategies import InGroup, Strategy
from aioray.wire.values import object_id
from aioray_node.gcs.groups import GroupDesk
from tests.node.stage import DRIVER, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE = {"CPU": 10_000}
FAR = b"\x01\x02\x03\x04"  # what the ids of another node's processes begin with
FAR_DRIVER = FAR + b"driv"


@pytest.fixture
def stage(nothing_left: None) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(pathlib.Path(directory), num_cpus=2)
        yield stage
        stage.close()


def desk_of(stage: Stage) -> GroupDesk:
    assert isinstance(stage.node._desks.groups, GroupDesk)
    return stage.node._desks.groups


def states(stage: Stage) -> dict[str, str]:
    """By the names of the groups."""
    table: dict[str, dict[str, Any]] = stage.ask("group_table")
    return {entry["name"]: entry["state"] for entry in table.values()}


def test_words_of_another_node_are_acknowledged_however_often_they_come(stage: Stage) -> None:
    """They are said again when a line broke: nothing is made twice, and what is removed stays removed."""
    replies: list[Any] = []
    desk = desk_of(stage)
    spec = GroupSpec(object_id(FAR_DRIVER, 1), [ONE], "PACK", FAR_DRIVER, "far", req=7)
    removal = RemoveGroup(spec.group_id, req=8)
    with stage.reactor.lock:
        for message in (spec, spec, removal, spec, removal):
            assert desk.heard(FAR + bytes(4), message, replies.append)
        assert not desk.heard(FAR + bytes(4), GroupUpdate(spec.group_id, "created"), replies.append)
    assert [type(each) for each in replies] == [Ack] * 5
    assert [each.req for each in replies] == [7, 7, 8, 7, 8]
    assert states(stage) == {"far": "REMOVED"}


def test_with_a_node_go_the_groups_of_its_drivers_but_detached_ones(stage: Stage) -> None:
    desk = desk_of(stage)
    with stage.reactor.lock:
        desk.create(GroupSpec(object_id(FAR_DRIVER, 1), [ONE], "PACK", FAR_DRIVER, "theirs"))
        desk.create(GroupSpec(object_id(FAR_DRIVER, 2), [ONE], "PACK", FAR_DRIVER, "kept", detached=True))
        desk.create(GroupSpec(object_id(DRIVER, 1), [ONE], "PACK", DRIVER, "mine"))
        desk.node_gone("01020304", FAR)
    assert states(stage) == {"theirs": "REMOVED", "kept": "CREATED", "mine": "CREATED"}


def test_a_lease_that_waits_for_a_group_is_looked_after_until_that_is_there_or_removed(stage: Stage) -> None:
    """One of two is made, and there; the other one was removed before word of it came."""
    driver = stage.join(DRIVER)
    group_ids = [object_id(FAR_DRIVER, number) for number in (1, 2)]
    for number, group_id in enumerate(group_ids):
        driver.say(LeaseRequest(number, ONE, "f", strategy=Strategy(group=InGroup(group_id))))
    stage.settle()
    desk = desk_of(stage)
    with stage.reactor.lock:
        desk.create(GroupSpec(group_ids[0], [ONE], "PACK", FAR_DRIVER))
        desk.remove(group_ids[1])
        desk.create(GroupSpec(group_ids[1], [ONE], "PACK", FAR_DRIVER))
    stage.settle()
    assert [(lost.lease_id, lost.group_removed) for lost in driver.take(LeaseLost)] == [(1, True)]
    assert len(stage.zygote.ordered) == 1
    driver.say(WatchGroup(group_ids[0]))
    stage.settle()
    assert driver.take(GroupUpdate) == [GroupUpdate(group_ids[0], "created")]
