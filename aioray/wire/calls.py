"""Caller <-> worker: calls one way, results the other, straight over their own socket.

Field order is the format: append fields with defaults, never reorder.
"""

from __future__ import annotations

import msgspec

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


CallMessage = Greeting | Export | Call | Cancel | Done | Finished | GiveBack
