"""The most usual part of a graph, without detours: one call a pass, which takes one value of one neighbour.

A plain value is unpickled into the arguments, and a plain result pickled into a frame that is sent, with nothing in
between: a pass spends more time on the way through our code than in system calls. All else goes the way of `passes.py`.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from aioray.dag.schedule import TICK
from aioray.runtime.serialization import serialize_plain
from aioray.wire.framing import fill_frame
from aioray.wire.plans import Passed
from aioray_node.worker.plans.passes import Failure

if TYPE_CHECKING:
    import collections
    from collections.abc import Sequence

    from aioray_node.worker.plans.links import Inlet, Outlet
    from aioray_node.worker.plans.passes import Brought, Passes, PreparedCall

_loads = pickle.loads


class Stage:
    """What comes, and what goes, in the passes of such a part."""

    __slots__ = ("_channel", "_frame", "_number", "_passes", "_places", "_small_nbytes", "call", "inlet", "queue")

    def __init__(self, passes: Passes, call: PreparedCall, channel: int, inlet: Inlet) -> None:
        self.call = call
        self.inlet = inlet
        self.queue: collections.deque[Passed] = passes.arrived[channel]  # what came together with others
        self._passes = passes
        self._channel = channel
        self._places = [at for at, _ in call.positions]
        self._number = call.number
        self._small_nbytes = passes.runtime.config.inline_max_nbytes
        self._frame = bytearray(4)

    @classmethod
    def of(cls, passes: Passes, inlets: Sequence[Inlet]) -> Stage | None:
        """None where the part is not so simple."""
        if len(passes.calls) != 1 or len(inlets) != 1:
            return None
        call = passes.calls[0]
        if len(call.reads) != 1 or call.names:
            return None
        return cls(passes, call, call.reads[0], inlets[0])

    def take(self, message: Passed, brought: Brought | None = None) -> list[Any] | Failure:
        """A pass begins: the arguments of its call, or why there are none. `brought`: see `Passes.load`."""
        passes, channel = self._passes, self._channel
        if message.value is None and channel != TICK:
            passes.seq = message.seq
            try:
                value = _loads(message.data, buffers=message.buffers)
            except Exception as exc:  # of user code, as a rule
                return passes.not_loaded(exc)
        else:
            passes.load(channel, message, brought)
            value = passes.values.pop(channel, None)
            if type(value) is Failure:
                return value
        args = self.call.template[:]
        for at in self._places:
            args[at] = value
        return args

    def send(self, result: Any) -> Sequence[Outlet] | None:
        """Send a result, if it is a plain one, to its takers: those whose sockets are full; else None.

        Raises LinkClosed.
        """
        data = serialize_plain(result)
        if data is None or len(data) > self._small_nbytes:
            return None
        frame = self._frame
        fill_frame(frame, Passed(self._passes.seq, self._number, data))
        stuck: Sequence[Outlet] = ()
        for outlet in self.call.takers:
            if outlet.send_frame(frame):
                stuck = [*stuck, outlet]
        return stuck
