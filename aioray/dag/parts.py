"""What the actors of a compiled graph are given: their parts of the plan, and where their neighbours are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.record import Record

if TYPE_CHECKING:
    from aioray.dag.schedule import Turn

PREPARE = "__aioray_prepare__"  # (part, *constants) -> the id of the actor's process
START = "__aioray_start__"  # (plan, targets): links can be dialled


class BoundCall(Record, frozen=True):
    """A call with its arguments: places of constants, and of values of the pass."""

    turn: Turn
    method: str
    name: str  # with the class, for messages
    count: int  # of positional arguments
    constants: tuple[tuple[int | str, int], ...]  # position or name -> which of the part's constants
    values: tuple[tuple[int | str, int], ...]  # position or name -> the number of a value
    result: int  # which output of the graph it makes, for its id; -1 where it is none


class Part(Record, frozen=True):
    plan: bytes
    actor: int  # its number
    calls: tuple[BoundCall, ...]
    sources: tuple[int, ...]
    driver: bytes  # the id of its process
    buffer_nbytes: int
    look_times: int  # how many times longer than usual its thread looks for the driver's next value; 0: it does not


class Target(Record, frozen=True):
    """Somebody to whom values are handed."""

    actor: int
    address: str
    slot: int
    process_id: bytes
