"""What a driver without a node on its machine keeps of values that it has had brought."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

from aioray.runtime.far_memory import FarBringing, FarMemory
from aioray.runtime.link import Reply
from aioray.runtime.objects import ObjectTable
from aioray.wire.control import Answer, Fetched, Release
from aioray.wire.values import Value

THERE = "bb" * 8
DRIVER, OID = b"driver--", b"maker---" + bytes(8)


class Link:
    """Notes what is said to the node."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.replies: list[Reply] = []

    def send(self, message: Any) -> None:
        self.said.append(message)

    def expect(self) -> tuple[int, Reply]:
        self.replies.append(Reply())
        return len(self.replies), self.replies[-1]


def far_driver(link: Link) -> Any:
    memory = FarMemory(1 << 20, lambda _: None, lambda offset, nbytes: None)
    reactor = SimpleNamespace(lock=contextlib.nullcontext())
    driver: Any = SimpleNamespace(link=link, memory=memory, reactor=reactor, process_id=DRIVER, node_id="aa" * 8)
    driver.objects = ObjectTable(driver)
    driver.objects.bringing = FarBringing(driver, memory)
    return driver


def test_what_comes_when_nobody_waits_any_more_is_not_kept() -> None:
    link = Link()
    driver = far_driver(link)
    driver.objects.fetched(Fetched(OID, Value(nbytes=64, oid=OID, node_id=THERE)))
    link.replies[0].settle(Answer(1, bytes(64)))  # the ref is gone by now
    assert link.said[-1] == Release(DRIVER, [OID])
    assert not driver.memory.has(OID)


def test_what_lies_elsewhere_by_now_is_brought_from_there() -> None:
    """
    1. it was asked for, let go of, and asked for again while it was on its way: its node has brought it once more
    2. where it lay at first there are other bytes by now: only the second ones count
    """
    link = Link()
    driver = far_driver(link)
    told: list[Fetched] = []
    driver.objects = SimpleNamespace(fetched=told.append)
    first, second = (Fetched(OID, Value(nbytes=64, offset=at, oid=OID, node_id=THERE)) for at in (0, 4096))
    bringing = driver.objects.bringing = FarBringing(driver, driver.memory)
    assert bringing.is_downloading(first)
    assert bringing.is_downloading(second)
    assert bringing.is_downloading(second)  # told twice, it is brought once
    assert [read.offset for read in link.said] == [0, 4096]
    link.replies[0].settle(Answer(1, b"of somebody else" * 4))
    assert told == []
    link.replies[1].settle(Answer(2, b"what was asked f" * 4))
    assert told == [second]
    assert bytes(driver.memory._block(second.value)) == b"what was asked f" * 4
