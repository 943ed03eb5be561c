"""Links of a compiled graph: what goes from process to process in each pass, over sockets that stay.

Whoever makes a value dials whoever takes it, at the worker's usual address; the driver dials all that it gives to or
takes from. The first message is a `Link`, and the socket is the plan's from then on.
"""

from __future__ import annotations

import msgspec

from aioray.wire.values import Value


class Link(msgspec.Struct, array_like=True, tag=13):
    """Maker -> taker, first: this socket belongs to a compiled graph."""

    plan: bytes
    source: int  # the number of the actor in the plan, or DRIVER
    slot: int = 0  # of the taker: which of the actors of its process


class Passed(msgspec.Struct, array_like=True, tag=14, gc=False):
    """Maker -> taker: one value of one pass. Those of one channel come in the order of the passes."""

    seq: int  # of the pass, in the driver's numbers
    channel: int  # which value of the graph it is
    data: bytes = b""  # the pickle stream; empty where `value` has it
    buffers: list[bytes] = []  # out-of-band buffers of a small value
    value: Value | None = None  # an error; or what lies in shared memory, or has refs inside
    token: bytes = b""  # what holds that for the taker, in the node's books, until the taker has it


PlanMessage = Link | Passed
