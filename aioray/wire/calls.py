"""Caller <-> worker: calls one way, results the other, straight over their own socket.

Field order is the format: append fields with defaults, never reorder.
"""

from __future__ import annotations

import msgspec

from aioray.wire.plans import PlanMessage
from aioray.wire.strategies import InGroup
from aioray.wire.values import Value


class Greeting(msgspec.Struct, array_like=True, tag=1):
    """Caller -> worker, first: who calls. Ids of results start with `process_id`."""

    process_id: bytes
    sys_path: list[str] = []  # where the driver's modules are found
    job_id: bytes = b""  # the process id of the driver at the root
    namespace: str = ""  # of the caller


class Export(msgspec.Struct, array_like=True, tag=2):
    """Caller -> worker: a pickled function, before the first call that names it."""

    fn: str
    data: bytes


# What Call.num_returns says where it is no number.
STREAMING = -1  # one value after the other, as they are made; then an answer without a value
DYNAMIC = -2  # the same on the wire: it is the caller who makes one value of them


class Streaming(msgspec.Struct, array_like=True):
    """How a call whose values come one after the other is to begin."""

    ahead: int = -1  # how many values may be made before the first of them is taken; -1: as many as there are
    skip: int = 0  # it is run again: so many values have reached the caller
    taken: int = 0  # and so many were taken there
    id_seqs: list[int] = []  # from earlier `Proceed`s


class Call(msgspec.Struct, array_like=True, tag=3, gc=False):
    """Caller -> worker: run this. `fn` is an exported function or, for an actor, a method."""

    seq: int
    fn: str
    args: bytes  # pickled tuple: positional arguments, then those named by kwnames
    kwnames: tuple[str, ...] = ()
    deps: list[tuple[int, Value]] = []  # position in the tuple -> the value of the ref given there
    num_returns: int = 1
    name: str = ""
    num_cpus: float = 1.0
    once: bool = False  # may not run twice: earlier results are flushed before it starts
    slot: int = 0  # which of the actors of a process that many share; 0 where it is the only one
    group: str = ""  # the concurrency group to run in; empty: the method's own
    time_left_us: int = 0  # until its deadline, when it was sent; 0: it has none. Becomes a time where it arrives
    retry: str = ""  # the errors to retry: "*" for all, or the `fn` of an exported tuple of exception types
    max_calls: int = 0  # the worker goes after so many runs of `fn`; 0: it stays
    streaming: Streaming | None = None  # where num_returns is STREAMING or DYNAMIC
    placement: InGroup | None = None  # the placement group that a task is in
    quiet: bool = False  # it is left out of task events
    labels: dict[str, str] = {}  # under which these tell of it


class Cancel(msgspec.Struct, array_like=True, tag=4):
    """Caller -> worker: stop it, in whatever state it is; a result (or a give-back) still comes."""

    seq: int
    slot: int = 0  # as in the Call
    recursive: bool = True  # and all that it began
    force: bool = False  # by ending the process


class Done(msgspec.Struct, array_like=True, tag=5, gc=False):
    """Worker -> caller: the usual result, one small inline value."""

    seq: int
    data: bytes
    exec_us: int


class Finished(msgspec.Struct, array_like=True, tag=6, gc=False):
    """Worker -> caller: any other result: several values, large ones, refs inside, or one error."""

    seq: int
    values: list[Value]
    exec_us: int
    retry: bool = False  # the error is one that the Call's `retry` names


class GiveBack(msgspec.Struct, array_like=True, tag=7):
    """Worker -> caller: these have not begun and will not soon; run them elsewhere."""

    seqs: list[int]
    leaving: bool = False  # and so with all others: this worker is through, and is to be let go


class Yielded(msgspec.Struct, array_like=True, tag=8, gc=False):
    """Worker -> caller: the next values of a stream. Small ones first, then at most one of another kind."""

    seq: int
    items: list[bytes]
    value: Value | None = None


class Proceed(msgspec.Struct, array_like=True, tag=9):
    """Caller -> worker: so many values of a stream were taken; and a number for the ids of 65,536 more, or 0."""

    seq: int
    taken: int
    id_seq: int = 0


class CloseStream(msgspec.Struct, array_like=True, tag=10):
    """Caller -> worker: nobody wants more values: stop, as a generator stops; an answer still comes."""

    seq: int
    slot: int = 0  # as in the Call


MAX_PATTERNS = 256  # that a connection has at a time


class Pattern(msgspec.Struct, array_like=True, tag=11):
    """Caller -> worker: calls to come are as this one, but for `seq` and `args`. Ends what had the number before."""

    number: int  # below MAX_PATTERNS
    call: Call


class Repeat(msgspec.Struct, array_like=True, tag=12, gc=False):
    """Caller -> worker: run what the pattern says."""

    seq: int
    pattern: int
    args: bytes


class Batch(msgspec.Struct, array_like=True, tag=15, gc=False):
    """Either way: many of the smallest messages, in order, in one frame. A frame for each costs more than they do."""

    messages: list[Done | Repeat]


CallMessage = (
    Greeting
    | Export
    | Call
    | Cancel
    | Done
    | Finished
    | GiveBack
    | Yielded
    | Proceed
    | CloseStream
    | Pattern
    | Repeat
    | Batch
    | PlanMessage
)
