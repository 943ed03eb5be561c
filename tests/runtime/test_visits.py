"""A process's lines to other nodes, where it is sent with requests for leases."""

from __future__ import annotations

from typing import Any

from aioray.runtime.visits import Visits
from aioray.wire.control import LeaseReturn

HERE = "aa" * 8


class Line:
    """To our own node."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def send(self, message: Any) -> None:
        self.said.append(message)


def test_who_is_sent_back_to_its_own_node_says_so_on_the_line_that_it_has() -> None:
    """A second one under the same name would be taken for the process come again: the first would be hung up."""
    nobody: Any = None  # who dials, or is called back: that is not to happen
    home: Any = Line()
    visits = Visits(nobody, nobody, home, lambda node_id: node_id == HERE, nobody, nobody, nobody)
    visits.move(7, HERE, "/here/node.sock")
    assert visits.node_of(7) == ""
    visits.send(7, LeaseReturn(7))
    assert home.said == [LeaseReturn(7)]
